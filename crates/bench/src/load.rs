//! Many connections, each with one request under way at a time.
//!
//! HTTP is read by hand here: on a machine with few cores the client takes from the server what it spends itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{Outcome, client::Client};

pub(crate) const CONNECTIONS: usize = 32;

/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Requests(usize),
    Time(Duration),
}

/// What every answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Success,
    /// The client's fault, said with a 4xx.
    Refusal,
}

/// What was done.
pub(crate) struct Done {
    pub(crate) requests: usize,
    pub(crate) per_second: f64,
    /// Bytes of the last body.
    pub(crate) body_bytes: usize,
}

/// Sends what `request` makes of a number that counts up from 0, over all connections; an answer that is not `wanted` is a failure of the whole.
pub(crate) async fn run(
    client: &Client,
    until: Until,
    wanted: Wanted,
    request: impl Fn(usize) -> String + Send + Sync + 'static,
) -> Outcome<Done> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(client.connect().await?);
    }
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let connections =
        streams.into_iter().map(|stream| tokio::spawn(connection(stream, until, wanted, began, request.clone(), next.clone())));
    let (mut requests, mut body_bytes) = (0, 0);
    for connection in connections.collect::<Vec<_>>() {
        let (own, bytes) = connection.await.map_err(|error| error.to_string())??;
        requests += own;
        body_bytes = body_bytes.max(bytes);
    }
    Ok(Done { requests, per_second: requests as f64 / began.elapsed().as_secs_f64(), body_bytes })
}

/// One connection's share: how many requests it made, and the bytes of the last body.
async fn connection(
    mut stream: TlsStream<TcpStream>,
    until: Until,
    wanted: Wanted,
    began: Instant,
    request: Arc<impl Fn(usize) -> String>,
    next: Arc<AtomicUsize>,
) -> Outcome<(usize, usize)> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut requests, mut body_bytes) = (0, 0);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let over = match until {
            Until::Requests(wanted) => number >= wanted,
            Until::Time(wanted) => began.elapsed() >= wanted,
        };
        if over {
            return Ok((requests, body_bytes));
        }
        stream.write_all(request(number).as_bytes()).await.map_err(|error| format!("send: {error}"))?;
        body_bytes = answer(&mut stream, &mut buffer, wanted).await?;
        requests += 1;
    }
}

/// Reads one answer to its end; the length of its body.
async fn answer(stream: &mut TlsStream<TcpStream>, buffer: &mut [u8], wanted: Wanted) -> Outcome<usize> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.map_err(|error| format!("receive: {error}"))?;
        if read == 0 {
            return Err("the server closed the connection".to_owned());
        }
        filled += read;
        let Some((head_bytes, body_bytes)) = head(&buffer[..filled], wanted)? else { continue };
        let mut left = (head_bytes + body_bytes).checked_sub(filled).ok_or("more came than was announced")?;
        while left > 0 {
            let read = stream.read(buffer).await.map_err(|error| format!("receive: {error}"))?;
            left = left.checked_sub(read).filter(|_| read > 0).ok_or("another length came than was announced")?;
        }
        return Ok(body_bytes);
    }
}

/// Lengths of head and body, once the head is whole.
fn head(bytes: &[u8], wanted: Wanted) -> Outcome<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let answered = match status.as_bytes().first() {
        Some(b'2') => Some(Wanted::Success),
        // Who is told to come again was not read.
        Some(b'4') if status != "429" => Some(Wanted::Refusal),
        _ => None,
    };
    if answered != Some(wanted) {
        return Err(format!("{text}\n{}", String::from_utf8_lossy(&bytes[end..])));
    }
    let fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).find_map(|(_, value)| value.trim().parse().ok());
    Ok(Some((end + 4, length.ok_or("an answer without a length")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_it_says() {
        let head = |text: &str| head(text.as_bytes(), Wanted::Success);
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        assert_eq!(head("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap(), Some((38, 5)));
        assert!(head("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").unwrap_err().contains("429"));
        assert!(head("HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn where_a_refusal_is_wanted_nothing_else_will_do() {
        let head = |status: &str| head(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes(), Wanted::Refusal);
        assert!(head("404 Not Found").is_ok());
        assert!(head("200 OK").is_err() && head("500 Internal Server Error").is_err() && head("429 Too Many Requests").is_err());
    }
}
