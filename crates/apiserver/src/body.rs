//! Bodies: what requests bring and what answers carry.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use knarr_store::{Entry, Walk};

/// What a body can fail with on its way.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whoever sent it.
pub(crate) type Incoming = UnsyncBoxBody<Bytes, BodyError>;

/// The body of a request that brings none.
pub(crate) fn empty() -> Incoming {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Bytes of a request body. Upstream has the same limit (server/config.go, MaxRequestBodyBytes).
pub(crate) const REQUEST_BYTES_MAX: usize = 3 << 20;

/// Bytes of a list that are put together at a time, so that a list of any length needs this much memory beside the objects themselves. A chunk is
/// copied twice more on its way, to be encrypted and to be sent: it should still be in the processor's cache then.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) enum ReadError {
    TooLarge,
    Broken(BodyError),
}

/// The whole of a request body.
pub(crate) async fn read(mut body: Incoming) -> Result<Bytes, ReadError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        if whole.len() + data.len() > REQUEST_BYTES_MAX {
            return Err(ReadError::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// An answer's body.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Items(Items),
    Stream {
        stream: Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>,
        /// How many bytes will come at once, about, as far as that is known.
        expected: u64,
    },
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// `head`, the items with `separator` between them, and `tail`; put together as it is sent.
    pub(crate) fn items(head: Bytes, items: impl Into<Source>, separator: &'static [u8], tail: Bytes) -> Self {
        Self(Inner::Items(Items::new(head, items.into(), separator, tail)))
    }

    pub(crate) fn stream<E: Into<BodyError>>(stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Self {
        Self(Inner::Stream { stream: Box::pin(stream.map(|item| item.map_err(Into::into))), expected: 0 })
    }

    /// Tells that about this many bytes will come at once from a stream, whatever comes after them.
    pub(crate) fn expecting(mut self, bytes: u64) -> Self {
        if let Inner::Stream { expected, .. } = &mut self.0 {
            *expected = bytes;
        }
        self
    }

    /// Keeps `guard` until the body is sent, or given up.
    pub(crate) fn guarded(self, guard: impl Send + 'static) -> Self {
        let (expected, mut body) = (self.expected(), self);
        let frames = futures::stream::poll_fn(move |cx| {
            let _ = &guard;
            http_body::Body::poll_frame(Pin::new(&mut body), cx).map(|frame| {
                // None of our bodies has trailers.
                frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
            })
        });
        Self::stream(frames).expecting(expected)
    }

    /// All of it, where it is in memory.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Whole(bytes) => bytes.as_ref(),
            Inner::Items(_) | Inner::Stream { .. } => None,
        }
    }

    /// All of it as bytes and once more as a body; only the body where it is a stream.
    pub(crate) fn gather(self) -> (Option<Bytes>, Self) {
        match self.0 {
            Inner::Whole(bytes) => (bytes.clone(), Self(Inner::Whole(bytes))),
            Inner::Items(mut items) => {
                let mut whole = BytesMut::new();
                while let Some(chunk) = items.next() {
                    whole.extend_from_slice(&chunk);
                }
                let whole = whole.freeze();
                (Some(whole.clone()), Self::from(whole))
            }
            stream @ Inner::Stream { .. } => (None, Self(stream)),
        }
    }

    /// Its length, if it is known beforehand.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }

    /// How much there is to send at once, about, as far as that is known.
    pub(crate) fn expected(&self) -> u64 {
        match &self.0 {
            Inner::Stream { expected, .. } => *expected,
            Inner::Whole(_) | Inner::Items(_) => http_body::Body::size_hint(self).lower(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match &self.0 {
            Inner::Whole(_) => "whole",
            Inner::Items(_) => "items",
            Inner::Stream { .. } => "stream",
        };
        f.debug_tuple("Body").field(&form).field(&self.exact_len()).finish()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Items(items) => items.poll_next(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk)))),
            Inner::Stream { stream, .. } => stream.as_mut().poll_next(cx).map(|item| item.map(|item| item.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Items(items) => items.left == 0,
            Inner::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Inner::Items(items) => SizeHint::with_exact(items.left as u64),
            Inner::Stream { .. } => SizeHint::default(),
        }
    }
}

/// A list of which something is still to be sent.
struct Items {
    /// None once it is in a chunk; the same goes for the tail.
    head: Option<Bytes>,
    source: Source,
    tail: Option<Bytes>,
    separator: &'static [u8],
    /// Whether the next item is the first: it has no separator before it.
    first: bool,
    left: usize,
    /// Chunks are made here, each in the memory of the one before if that is sent.
    buffer: BytesMut,
    /// Whether the last chunk had its chance to leave.
    offered: bool,
}

/// Where the items of a list come from.
pub(crate) enum Source {
    Made(VecDeque<Bytes>),
    /// Objects are counted once by the list that holds them, and not again as bytes: at hundreds of long lists a second the counts alone are a
    /// good part of the work.
    Stored(VecDeque<Arc<Entry>>),
    Walk(Walk),
}

impl From<Vec<Bytes>> for Source {
    fn from(items: Vec<Bytes>) -> Self {
        Self::Made(items.into())
    }
}

impl From<Vec<Arc<Entry>>> for Source {
    fn from(entries: Vec<Arc<Entry>>) -> Self {
        Self::Stored(entries.into())
    }
}

impl From<Walk> for Source {
    fn from(walk: Walk) -> Self {
        Self::Walk(walk)
    }
}

/// Takes items off the front until one is refused.
fn take_while<T>(items: &mut VecDeque<T>, mut take: impl FnMut(&T) -> bool) -> bool {
    while items.front().is_some_and(&mut take) {
        items.pop_front();
    }
    items.is_empty()
}

impl Source {
    /// How many items are left, and their bytes.
    fn total(&self) -> (usize, usize) {
        let add = |(count, bytes): (usize, usize), item: usize| (count + 1, bytes + item);
        match self {
            Self::Made(items) => items.iter().map(Bytes::len).fold((0, 0), add),
            Self::Stored(entries) => entries.iter().map(|entry| entry.value.len()).fold((0, 0), add),
            Self::Walk(walk) => walk.rest().map(|entry| entry.value.len()).fold((0, 0), add),
        }
    }

    /// Gives items to `take` until it refuses one, which comes first the next time. Whether there was none that it refused.
    fn advance(&mut self, mut take: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Self::Made(items) => take_while(items, |item| take(item)),
            Self::Stored(entries) => take_while(entries, |entry| take(&entry.value)),
            Self::Walk(walk) => walk.advance(|entry| take(&entry.value)),
        }
    }
}

impl Items {
    fn new(head: Bytes, source: Source, separator: &'static [u8], tail: Bytes) -> Self {
        let (count, bytes) = source.total();
        let left = head.len() + bytes + count.saturating_sub(1) * separator.len() + tail.len();
        Self { head: Some(head), source, tail: Some(tail), separator, first: true, left, buffer: BytesMut::new(), offered: true }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let Self { head, source, tail, separator, first, buffer, .. } = self;
        buffer.reserve(self.left.min(CHUNK_BYTES));
        buffer.extend_from_slice(&head.take().unwrap_or_default());
        let all = source.advance(|item| {
            let separator = if *first { &[] } else { *separator };
            if !buffer.is_empty() && buffer.len() + separator.len() + item.len() > CHUNK_BYTES {
                return false;
            }
            buffer.extend_from_slice(separator);
            buffer.extend_from_slice(item);
            *first = false;
            true
        });
        if all {
            buffer.extend_from_slice(&tail.take().unwrap_or_default());
        }
        let chunk = buffer.split().freeze();
        self.left -= chunk.len();
        Some(chunk)
    }

    /// The next chunk, once the one before had its chance to leave. hyper sends when it finds nothing more to take, and otherwise takes a
    /// megabyte first, for each list that is under way.
    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        self.offered = !self.offered;
        if self.offered && self.left > 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[&'static str], expected: &str) {
        let items: Vec<_> = items.iter().map(|item| Bytes::from_static(item.as_bytes())).collect();
        let body = Body::items("[".into(), items, b",", "]".into());
        let promised = body.exact_len();
        let sent = futures::executor::block_on(body.collect()).map(|body| body.to_bytes()).unwrap_or_default();
        assert_eq!(sent, expected);
        assert_eq!(promised, Some(sent.len() as u64));
    }

    #[test]
    fn commas_stand_between_items() {
        check(&[], "[]");
        check(&["1"], "[1]");
        check(&["1", "2", "3"], "[1,2,3]");
    }

    #[test]
    fn long_lists_come_in_chunks_of_the_promised_length() {
        let big: &'static str = Box::leak(format!("\"{}\"", "x".repeat(CHUNK_BYTES / 3)).into_boxed_str());
        let items = [big; 20];
        check(&items, &format!("[{}]", items.join(",")));
    }

    #[test]
    fn each_chunk_may_leave_before_the_next_is_made() {
        let item = Bytes::from("x".repeat(CHUNK_BYTES / 3));
        let mut body = Body::items("[".into(), vec![item; 8], b",", "]".into());
        let mut sent = 0;
        let mut poll = |sent: &mut usize| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match http_body::Body::poll_frame(Pin::new(&mut body), &mut cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let chunk = frame.into_data().unwrap();
                    assert!(chunk.len() <= CHUNK_BYTES);
                    *sent += chunk.len();
                    "chunk"
                }
                Poll::Ready(_) => "end",
                Poll::Pending => "pause",
            }
        };
        let steps: Vec<&str> = std::iter::repeat_with(|| poll(&mut sent)).take(8).collect();
        assert_eq!(steps, ["chunk", "pause", "chunk", "pause", "chunk", "pause", "chunk", "end"]);
        assert_eq!(sent, 8 * (CHUNK_BYTES / 3) + 7 + 2);
    }
}
