//! A socket whose peer takes nothing is given up, however alive its kernel is: what is on its way to it holds memory, and a seat.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long nothing at all may be taken from a socket that has something for its peer. Upstream gives a whole answer 60 s, and
/// ends a watch whose client falls behind.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);

/// Lets the peer take its time from now on: on a terminal, a person may have stopped the output.
#[derive(Clone, Default)]
pub(crate) struct Patience(Arc<AtomicBool>);

impl Patience {
    pub(crate) fn without_end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct Stalling<S> {
    inner: S,
    patience: Patience,
    /// Runs while the peer takes nothing.
    since: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(crate) fn new(inner: S, patience: Patience) -> Self {
        Self { inner, patience, since: None }
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

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
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
