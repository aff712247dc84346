//! A watch over a WebSocket, for browsers: each event is one message, in text where it is JSON, else binary (endpoints/handlers/watch.go, HandleWS).
//! What the client sends means nothing, but that it is there.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use knarr_api::{Status, status};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use crate::{audit::Lasts, authn, body::Body, call::Call, request::media::Format};

/// Bytes of a message of the client, which has nothing to say.
const RECEIVED_BYTES_MAX: usize = 4 << 10;
/// How long a client may take nothing of what is there for it, as on any other connection (`stall`).
const SEND_TIME_MAX: Duration = Duration::from_secs(60);

/// The answer that makes the client's connection a WebSocket, on which the events of `watch` go.
pub(crate) fn upgrade(call: &Call, watch: Response<Body>) -> Result<Response<Body>, Status> {
    let wrong = |what: &str| status::bad_request(format!("the WebSocket cannot be opened: {what}"));
    if call.header(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(wrong("Sec-WebSocket-Version is not 13"));
    }
    let key = call.header(header::SEC_WEBSOCKET_KEY).ok_or_else(|| wrong("there is no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_| wrong("its key is none"))?;
    let client = call.take_upgrade().ok_or_else(|| wrong("this connection cannot be upgraded"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    // None of them changes what is sent; a client that offered some wants one of them named.
    let protocol = authn::websocket_protocols(&call.headers).next().and_then(|protocol| HeaderValue::try_from(protocol).ok());
    headers.extend(protocol.map(|protocol| (header::SEC_WEBSOCKET_PROTOCOL, protocol)));
    let over = CancellationToken::new();
    response.extensions_mut().insert(Lasts(over.clone()));
    let binary = call.answer.format == Format::Protobuf;
    tokio::spawn(async move {
        let _ends = over.drop_guard();
        if let Err(error) = serve(client, watch.into_body(), binary).await {
            tracing::debug!(%error, "watch over a WebSocket");
        }
    });
    Ok(response)
}

async fn serve(client: OnUpgrade, mut events: Body, binary: bool) -> Result<(), Error> {
    let client = client.await.map_err(|error| Error::Io(std::io::Error::other(error)))?;
    let mut config = WebSocketConfig::default();
    (config.max_message_size, config.max_frame_size) = (Some(RECEIVED_BYTES_MAX), Some(RECEIVED_BYTES_MAX));
    let (mut out, mut received) = WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, Some(config)).await.split();
    let sending = async {
        let mut rest = BytesMut::new();
        while let Some(Ok(frame)) = events.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(event) = if binary { framed(&mut rest) } else { line(&mut rest) } {
                let message = match binary {
                    true => Message::Binary(event),
                    // Objects are JSON, and JSON is UTF-8.
                    false => Message::Text(event.try_into().map_err(|_| Error::Utf8(String::new()))?),
                };
                in_time(out.feed(message)).await?;
            }
            in_time(out.flush()).await?;
        }
        in_time(out.close()).await
    };
    let gone = async {
        // Pings are answered by reading; the end of what can be read is the client's leaving.
        while let Some(Ok(_)) = received.next().await {}
    };
    tokio::select! {
        sent = sending => sent,
        () = gone => Ok(()),
    }
}

async fn in_time(sent: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let late = || Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("the client took nothing for {SEND_TIME_MAX:?}")));
    tokio::time::timeout(SEND_TIME_MAX, sent).await.unwrap_or_else(|_| Err(late()))
}

/// The next event of a JSON watch: a line, as line ends within strings are escaped.
fn line(rest: &mut BytesMut) -> Option<Bytes> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some(rest.split_to(end + 1).freeze())
}

/// The next of a protobuf watch, without the length before it: a message has one of its own.
fn framed(rest: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
    if rest.len() - 4 < length {
        return None;
    }
    rest.advance(4);
    Some(rest.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_apart_wherever_the_stream_was_cut() {
        let mut lines = BytesMut::from("{\"a\":1}\n{\"b\"");
        assert_eq!(line(&mut lines).as_deref(), Some(&b"{\"a\":1}\n"[..]));
        assert_eq!(line(&mut lines), None);
        lines.extend_from_slice(b":2}\n");
        assert_eq!(line(&mut lines).as_deref(), Some(&b"{\"b\":2}\n"[..]));
        let mut frames = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x03c"[..]);
        assert_eq!(framed(&mut frames).as_deref(), Some(&b"ab"[..]));
        assert_eq!(framed(&mut frames), None);
        frames.extend_from_slice(b"de");
        assert_eq!(framed(&mut frames).as_deref(), Some(&b"cde"[..]));
        assert_eq!(framed(&mut frames), None);
    }
}
