//! The server side of exec, attach and port-forward: what kubectl and the client libraries speak.
//!
//! Two transports carry the same channels. WebSocket: each message begins with the number of its channel (`channel.k8s.io`,
//! `v4`, `v5`, and their `base64` forms). SPDY/3.1: each channel is a stream with a `streamType` header. Port forwarding is pairs of
//! SPDY streams, either directly or tunnelled through the messages of a WebSocket, or, in an older form, WebSocket channels.
//! Sources: apimachinery's `httpstream` and `remotecommand` packages, KEP-4006, the SPDY Protocol draft 3.1.
//!
//! [`remote_command`] and [`port_forward`] answer the request at once with 101 and work on in a task of their own. Nothing is
//! buffered without limit: a client that does not read stops the process's output, as a pipe would.

mod forward;
mod negotiate;
mod remote;
mod runtime;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod websocket;

pub(crate) use runtime::{Attach, Exec};

use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes read from a process or a connection at a time, and the largest message or frame that carries them.
const CHUNK_BYTES: usize = 32 << 10;

/// Chunks that wait in one direction of one channel.
const CHUNKS_MAX: usize = 8;

pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// How a session ended, as the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Attach: the container has ended, with whatever code.
    Done,
    /// Exec: the exit code; 0 is success.
    Code(i32),
    /// It could not be started or was lost.
    Failed(String),
}

/// The streams of a session, taken once.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<Writer>,
    pub(crate) stdout: Option<Reader>,
    pub(crate) stderr: Option<Reader>,
}

/// Something that runs and can be talked to: an exec'd process or an attached container. Dropping it detaches.
pub(crate) trait Session: Send + 'static {
    fn take_streams(&mut self) -> Streams;
    fn resize(&mut self, columns: u16, rows: u16) -> impl Future<Output = ()> + Send;
    /// Cancel-safe.
    fn wait(&mut self) -> impl Future<Output = Ended> + Send;
}

/// Answers an exec or attach request. `start` is called once the client's streams are there; its error reaches the client in
/// the error channel.
pub(crate) fn remote_command<B, S, F>(
    request: Request<B>,
    wanted: Wanted,
    start: impl FnOnce() -> F + Send + 'static,
) -> Response<Full<Bytes>>
where
    S: Session,
    F: Future<Output = Result<S, String>> + Send + 'static,
{
    remote::serve(request, wanted, start)
}

/// Answers a port-forward request. `dial` connects to a port of the pod, once for each connection that the client makes. `ports`
/// are those of the query, which only the channels of the older WebSocket form need.
pub(crate) fn port_forward<B, D, F, C>(request: Request<B>, ports: Vec<u16>, dial: D) -> Response<Full<Bytes>>
where
    D: Fn(u16) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<C, String>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    forward::serve(request, ports, dial)
}

/// The client is gone: nobody is left to tell.
#[derive(Debug)]
struct Gone;
