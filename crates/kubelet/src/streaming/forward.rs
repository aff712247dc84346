//! Port forwarding: for each connection that the client makes, a pair of SPDY streams (data and error) with the same request id.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::negotiate::{Transport, negotiate};
use super::remote::Output;
use super::{CHUNK_BYTES, Gone, spdy, websocket};

/// How long the second stream of a pair may take to come (kubelet, portforward.DefaultStreamCreationTimeout).
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);

/// Half pairs at a time.
const WAITING_MAX: usize = 256;

/// Ports of the older WebSocket form: channels are numbered with one byte, two for each port.
const PORTS_MAX: usize = 100;

/// SPDY inside the messages of a WebSocket (KEP-4006).
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const WEBSOCKET_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];

pub(super) fn serve<B, D, F, C>(mut request: Request<B>, ports: Vec<u16>, dial: D) -> Response<Full<Bytes>>
where
    D: Fn(u16) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<C, String>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
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
            Err(error) => return tracing::debug!(%error, "the client of a port-forward left before it began"),
        };
        match transport {
            Transport::Spdy => pairs(spdy::Connection::start(connection), dial).await,
            Transport::WebSocket if protocol == TUNNEL => {
                let tunnel = websocket::tunnel(connection).await;
                pairs(spdy::Connection::start(tunnel), dial).await;
            }
            Transport::WebSocket => channels(connection, protocol, &ports, dial).await,
        }
    });
    response
}

/// A stream that waits for the other one of its pair.
struct Waiting {
    stream: spdy::Stream,
    port: u16,
    until: Instant,
}

async fn pairs<D, F, C>(mut connection: spdy::Connection, dial: D)
where
    D: Fn(u16) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<C, String>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // By request id, and whether it is the error stream.
    let mut waiting: HashMap<(String, bool), Waiting> = HashMap::new();
    let mut forwards = JoinSet::new();
    while let Some(stream) = connection.accept().await {
        while forwards.try_join_next().is_some() {}
        waiting.retain(|_, other| other.until > Instant::now());
        let Some((id, is_error, port)) = describe(&stream) else {
            if stream.refuse().await.is_err() {
                break;
            }
            continue;
        };
        if stream.accept().await.is_err() {
            break;
        }
        let (data, error) = match waiting.remove(&(id.clone(), !is_error)) {
            Some(other) if other.port == port && is_error => (other.stream, stream),
            Some(other) if other.port == port => (stream, other.stream),
            _ if waiting.len() >= WAITING_MAX || waiting.contains_key(&(id.clone(), is_error)) => {
                if stream.refuse().await.is_err() {
                    break;
                }
                continue;
            }
            _ => {
                waiting.insert((id, is_error), Waiting { stream, port, until: Instant::now() + PAIR_TIMEOUT });
                continue;
            }
        };
        let dial = dial.clone();
        forwards.spawn(async move {
            let spdy::Stream { input, writer, reset, .. } = data;
            forward(port, dial, input, Output::Spdy(writer), Output::Spdy(error.writer), reset).await;
        });
    }
    forwards.shutdown().await;
    connection.close().await;
}

/// Request id, whether it is the error stream, and the port. Clients before request ids used the order of the streams, data after
/// error: the port is then the id.
fn describe(stream: &spdy::Stream) -> Option<(String, bool, u16)> {
    let port: u16 = stream.header("port")?.parse().ok().filter(|port| *port > 0)?;
    let is_error = match stream.header("streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let id = stream.header("requestid").map_or_else(|| format!("port {port}"), str::to_owned);
    Some((id, is_error, port))
}

/// The older form: one connection for each port, made when the client begins.
async fn channels<T, D, F, C>(connection: T, protocol: &str, ports: &[u16], dial: D)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    D: Fn(u16) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<C, String>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ports = &ports[..ports.len().min(PORTS_MAX)];
    let (pairs, gone, closer) = websocket::port_channels(connection, protocol, ports).await;
    let mut forwards = JoinSet::new();
    for (pair, port) in pairs.into_iter().zip(ports) {
        let websocket::PortChannels { data_in, data, error } = pair;
        forwards.spawn(forward(*port, dial.clone(), data_in, Output::WebSocket(data), Output::WebSocket(error), gone.clone()));
    }
    while forwards.join_next().await.is_some() {}
    closer.close().await;
}

/// One connection to the pod, until both directions have ended or the client gives up.
async fn forward<D, F, C>(port: u16, dial: D, input: mpsc::Receiver<Bytes>, mut data: Output, mut error: Output, reset: CancellationToken)
where
    D: Fn(u16) -> F,
    F: Future<Output = Result<C, String>>,
    C: AsyncRead + AsyncWrite + Unpin,
{
    let work = async {
        match dial(port).await {
            Ok(connection) => copy(connection, input, &mut data).await,
            Err(reason) => {
                error.send(Bytes::from(format!("error forwarding port {port}: {reason}"))).await?;
                data.finish().await
            }
        }
    };
    tokio::select! {
        result = work => if let Err(Gone) = result {
            tracing::debug!(port, "the client of a port-forward is gone");
        },
        () = reset.cancelled() => {}
    }
    // Clients read the error stream to its end. One that is gone needs none.
    let _ = error.finish().await;
}

async fn copy(connection: impl AsyncRead + AsyncWrite + Unpin, mut input: mpsc::Receiver<Bytes>, data: &mut Output) -> Result<(), Gone> {
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let inward = async {
        while let Some(bytes) = input.recv().await {
            if let Err(error) = to_pod.write_all(&bytes).await {
                return tracing::debug!(%error, "write to a forwarded port");
            }
        }
        if let Err(error) = to_pod.shutdown().await {
            tracing::debug!(%error, "end a forwarded connection");
        }
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        loop {
            buffer.reserve(CHUNK_BYTES);
            match (&mut from_pod).take(CHUNK_BYTES as u64).read_buf(&mut buffer).await {
                Ok(0) => break,
                Ok(_) => data.send(buffer.split().freeze()).await?,
                Err(error) => {
                    tracing::debug!(%error, "read from a forwarded port");
                    break;
                }
            }
        }
        data.finish().await
    };
    // When the pod has ended its direction, what the client still sends has no reader, as upstream has it.
    tokio::pin!(inward);
    tokio::pin!(outward);
    tokio::select! {
        () = &mut inward => outward.await,
        result = &mut outward => result,
    }
}
