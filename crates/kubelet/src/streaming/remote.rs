//! One exec or attach: the client's channels on one side, the session on the other, and the bytes between them.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::negotiate::{Transport, negotiate};
use super::{CHUNK_BYTES, Ended, Gone, Reader, Session, Streams, Wanted, Writer, spdy, status, websocket};

/// After the process has ended, how long its output may stay open without a byte coming: something that it left in the background
/// holds it. What the process itself wrote is in the pipe already, so none of that is lost.
const LINGER: Duration = Duration::from_millis(500);

const WEBSOCKET_PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What the client's side offers.
pub(super) struct Client {
    /// Ends with the client's standard input.
    pub(super) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) error: Output,
    pub(super) resize: Option<mpsc::Receiver<Bytes>>,
    /// Cancelled when the connection is lost.
    pub(super) gone: CancellationToken,
    /// The error channel takes a JSON status (v4 and later), not text.
    pub(super) status_is_json: bool,
}

/// A channel to the client.
pub(super) enum Output {
    WebSocket(websocket::Channel),
    Spdy(spdy::StreamWriter),
}

impl Output {
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Output::WebSocket(channel) => channel.send(bytes).await,
            Output::Spdy(stream) => stream.send(bytes).await,
        }
    }

    /// No more will come on this channel.
    pub(super) async fn finish(&mut self) -> Result<(), Gone> {
        match self {
            // A WebSocket channel has no end of its own; the close of the connection ends all.
            Output::WebSocket(_) => Ok(()),
            Output::Spdy(stream) => stream.finish().await,
        }
    }
}

pub(super) fn serve<B, S, F>(mut request: Request<B>, wanted: Wanted, start: impl FnOnce() -> F + Send + 'static) -> Response<Full<Bytes>>
where
    S: Session,
    F: Future<Output = Result<S, String>> + Send + 'static,
{
    let agreed = match negotiate(request.headers(), WEBSOCKET_PROTOCOLS, SPDY_PROTOCOLS) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let response = match agreed.response(request.headers()) {
        Ok(response) => response,
        Err(refusal) => return *refusal,
    };
    let (transport, protocol) = (agreed.transport, agreed.protocol);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let connection = match upgrade.await {
            Ok(connection) => TokioIo::new(connection),
            Err(error) => return tracing::debug!(%error, "the client of an exec left before it began"),
        };
        match transport {
            Transport::WebSocket => {
                let (client, closer) = websocket::channels(connection, protocol, wanted).await;
                run(client, start).await;
                closer.close().await;
            }
            Transport::Spdy => {
                let mut connection = spdy::Connection::start(connection);
                match spdy::remote_streams(&mut connection, protocol, wanted).await {
                    Ok(client) => run(client, start).await,
                    Err(reason) => tracing::debug!(reason, "the client of an exec did not open its streams"),
                }
                connection.close().await;
            }
        }
    });
    response
}

/// Starts the session and stays with it to its end, or the client's.
async fn run<S, F>(mut client: Client, start: impl FnOnce() -> F)
where
    S: Session,
    F: Future<Output = Result<S, String>>,
{
    let gone = client.gone.clone();
    let session = tokio::select! {
        session = start() => session,
        () = gone.cancelled() => return,
    };
    let ended = match session {
        Ok(session) => talk(session, &mut client).await,
        Err(reason) => Some(Ended::Failed(reason)),
    };
    let Some(ended) = ended else { return };
    let text = if client.status_is_json { status::json(&ended) } else { status::text(&ended) };
    let Client { mut error, .. } = client;
    if !text.is_empty() && error.send(Bytes::from(text)).await.is_err() {
        return tracing::debug!("the client left before it was told how the process ended");
    }
    // A client that is gone needs no end of stream.
    let _ = error.finish().await;
}

/// `None`: the client is gone; the session is dropped with its process.
async fn talk(mut session: impl Session, client: &mut Client) -> Option<Ended> {
    let Streams { stdin, stdout, stderr } = session.take_streams();
    let exited = CancellationToken::new();
    let outputs = async {
        tokio::join!(pump_out(stdout, client.stdout.take(), &exited), pump_out(stderr, client.stderr.take(), &exited));
    };
    let input = pump_in(client.stdin.take(), stdin);
    let mut resize = client.resize.take();
    let life = async {
        loop {
            tokio::select! {
                ended = session.wait() => {
                    exited.cancel();
                    return ended;
                }
                size = next(&mut resize) => {
                    if let Some((columns, rows)) = parse_size(&size) {
                        session.resize(columns, rows).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        (ended, ()) = async { tokio::join!(life, outputs) } => Some(ended),
        never = input => match never {},
        () = client.gone.cancelled() => None,
    }
}

/// The next message, forever waiting once there are no more.
async fn next(messages: &mut Option<mpsc::Receiver<Bytes>>) -> Bytes {
    if let Some(receiver) = messages {
        if let Some(message) = receiver.recv().await {
            return message;
        }
        *messages = None;
    }
    std::future::pending().await
}

/// The client's input to the process. When it ends, the process sees the end; the session goes on.
async fn pump_in(from: Option<mpsc::Receiver<Bytes>>, to: Option<Writer>) -> std::convert::Infallible {
    if let (Some(mut from), Some(mut to)) = (from, to) {
        while let Some(bytes) = from.recv().await {
            if let Err(error) = to.write_all(&bytes).await {
                // It closed its input or ended; what the client still sends has no reader.
                tracing::debug!(%error, "write to the standard input of a container");
                from.close();
                while from.recv().await.is_some() {}
                break;
            }
        }
        if let Err(error) = to.shutdown().await {
            tracing::debug!(%error, "close the standard input of a container");
        }
    }
    std::future::pending().await
}

async fn pump_out(from: Option<Reader>, to: Option<Output>, exited: &CancellationToken) {
    let Some(mut from) = from else { return };
    let Some(mut to) = to else { return };
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        buffer.reserve(CHUNK_BYTES);
        let mut limited = (&mut from).take(CHUNK_BYTES as u64);
        let read = tokio::select! {
            // First what is there, then the news that nothing more will be written.
            biased;
            read = limited.read_buf(&mut buffer) => read,
            () = exited.cancelled() => match tokio::time::timeout(LINGER, limited.read_buf(&mut buffer)).await {
                Ok(read) => read,
                Err(_held_open) => break,
            },
        };
        match read {
            Ok(0) => break,
            Ok(_) => {
                if to.send(buffer.split().freeze()).await.is_err() {
                    // The connection is lost, which `gone` tells the session.
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "read the output of a container");
                break;
            }
        }
    }
    // A client that is gone needs no end of stream.
    let _ = to.finish().await;
}

/// `{"Width":80,"Height":24}`; anything else is ignored, as upstream does, and so is a size of nothing, which
/// programs cannot use: clients send it whose own terminal has none.
fn parse_size(message: &[u8]) -> Option<(u16, u16)> {
    #[derive(Deserialize)]
    struct Size {
        #[serde(rename = "Width")]
        width: u16,
        #[serde(rename = "Height")]
        height: u16,
    }
    // SPDY clients send a stream of documents, of which several may have arrived: the last counts.
    let sizes = serde_json::Deserializer::from_slice(message).into_iter::<Size>();
    let last = sizes.map_while(Result::ok).last()?;
    (last.width > 0 && last.height > 0).then_some((last.width, last.height))
}
