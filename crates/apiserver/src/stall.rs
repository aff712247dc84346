//! A peer that takes nothing is given up, however alive its kernel is: what is on its way to it holds memory, and a seat.
//!
//! A socket shows it for all of a connection ([`Stalling`]), and each answer of HTTP/2 for itself ([`Answers`]): there, every answer has a window
//! of its own, and who opens none may still read and answer pings for ever.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep},
};

use crate::body::{Body, BodyError};

/// How long nothing at all may be taken from a socket that has something for its peer. Upstream gives a whole answer 60 s, and
/// ends a watch whose client falls behind.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a piece of an answer may be on its way over HTTP/2, where those of up to a hundred others may go before it. After that the whole
/// connection is given up: nothing less frees what hyper and h2 hold for one answer.
const PIECE_TIME_MAX: Duration = Duration::from_secs(180);
/// Bytes of such a piece: those of a frame, by default.
const PIECE_BYTES: usize = 16 << 10;

/// How long a socket is waited for: for ever on a terminal, where a person may have stopped the output.
#[derive(Clone, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    pub(crate) fn without_end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct Stalling<S, P> {
    inner: S,
    /// What the connection holds as long as there is a socket, also when it is no longer HTTP.
    _place: P,
    patience: Patience,
    /// Runs while the peer takes nothing.
    since: Option<Pin<Box<Sleep>>>,
}

impl<S, P> Stalling<S, P> {
    pub(crate) fn new(inner: S, place: P, patience: Patience) -> Self {
        Self { inner, _place: place, patience, since: None }
    }

    /// What a write came to, or that it has waited for too long.
    fn timed<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.patience.0.load(Ordering::Relaxed) {
            self.since = None;
            return written;
        }
        let since = self.since.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIME_MAX)));
        ready!(since.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took nothing for {STALL_TIME_MAX:?}"))))
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Stalling<S, P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Stalling<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.timed(written, cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, parts);
        self.timed(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.timed(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.timed(closed, cx)
    }
}

/// What of an HTTP/2 connection's answers is on its way to the peer.
///
/// hyper and h2 take pieces of answers whether or not there is a window for them, and drop each when it has gone into the socket.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Since when each piece has waited for its peer; the number tells pieces of one moment apart.
    since: Mutex<BTreeSet<(Instant, u64)>>,
    /// The first has begun to wait.
    begun: Notify,
}

impl Answers {
    /// The same bytes; until they are dropped, they wait.
    fn waiting(&self, bytes: Bytes) -> Bytes {
        let place = (Instant::now(), fastrand::u64(..));
        let mut since = self.0.since.lock();
        since.insert(place);
        if since.len() == 1 {
            self.0.begun.notify_one();
        }
        drop(since);
        Bytes::from_owner(Piece { bytes, place, answers: self.clone() })
    }

    /// Ends when something has waited for too long.
    pub(crate) async fn stalled(&self) {
        loop {
            let first = self.0.since.lock().first().copied();
            match first {
                None => self.0.begun.notified().await,
                Some((since, _)) if since.elapsed() >= PIECE_TIME_MAX => return,
                Some((since, _)) => tokio::time::sleep_until(since + PIECE_TIME_MAX).await,
            }
        }
    }
}

/// A piece of an answer, which has its place among those that wait.
struct Piece {
    bytes: Bytes,
    place: (Instant, u64),
    answers: Answers,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.answers.0.since.lock().remove(&self.place);
    }
}

/// The body of an answer, on whatever protocol.
pub(crate) struct Answering {
    body: Body,
    /// What of a frame is still to be given out, piece by piece.
    rest: Bytes,
    /// None over HTTP/1, where the socket shows all there is to see.
    answers: Option<Answers>,
}

impl Answering {
    pub(crate) fn new(body: Body, answers: Option<Answers>) -> Self {
        Self { body, rest: Bytes::new(), answers }
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, rest, answers } = &mut *self;
        let Some(answers) = answers else { return Pin::new(body).poll_frame(cx) };
        if rest.is_empty() {
            // None of our bodies has trailers.
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => *rest = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(answers.waiting(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
