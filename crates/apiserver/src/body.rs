//! Bodies: what requests bring and what answers carry.

use std::{
    collections::VecDeque,
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use knarr_store::Entry;

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
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self(Inner::Whole(None))
    }

    /// `head`, the items with `separator` between them, and `tail`; put together as it is sent.
    pub(crate) fn items(head: Bytes, items: impl IntoIterator<Item: Into<Part>>, separator: &'static [u8], tail: Bytes) -> Self {
        Self(Inner::Items(Items::new(head, items.into_iter().map(Into::into).collect(), separator, tail)))
    }

    pub(crate) fn stream<E: Into<BodyError>>(stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Self {
        Self(Inner::Stream(Box::pin(stream.map(|item| item.map_err(Into::into)))))
    }

    /// Keeps `guard` until the body is sent, or given up.
    pub(crate) fn guarded(self, guard: impl Send + 'static) -> Self {
        let mut body = self;
        Self::stream(futures::stream::poll_fn(move |cx| {
            let _ = &guard;
            http_body::Body::poll_frame(Pin::new(&mut body), cx).map(|frame| {
                // None of our bodies has trailers.
                frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
            })
        }))
    }

    /// All of it, where it is in memory.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Whole(bytes) => bytes.as_ref(),
            Inner::Items(_) | Inner::Stream(_) => None,
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
            Inner::Stream(stream) => (None, Self(Inner::Stream(stream))),
        }
    }

    /// Its length, if it is known beforehand.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
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
            Inner::Stream(_) => "stream",
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
            Inner::Items(items) => Poll::Ready(items.next().map(|chunk| Ok(Frame::data(chunk)))),
            Inner::Stream(stream) => stream.as_mut().poll_next(cx).map(|item| item.map(|item| item.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(bytes) => bytes.is_none(),
            Inner::Items(items) => items.parts.is_empty(),
            Inner::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Inner::Items(items) => SizeHint::with_exact(items.left as u64),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

/// A part of a list. Stored objects are counted once by the list that holds them, and not again here: at hundreds of long lists a second the
/// counts alone are a good part of the work.
pub(crate) enum Part {
    Made(Bytes),
    Stored(Arc<Entry>),
}

impl From<Bytes> for Part {
    fn from(bytes: Bytes) -> Self {
        Self::Made(bytes)
    }
}

impl From<Arc<Entry>> for Part {
    fn from(entry: Arc<Entry>) -> Self {
        Self::Stored(entry)
    }
}

impl Deref for Part {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Made(bytes) => bytes,
            Self::Stored(entry) => &entry.value,
        }
    }
}

/// Parts of a list that are still to be sent.
struct Items {
    parts: VecDeque<Part>,
    left: usize,
    separator: &'static [u8],
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The head is next: neither it nor the first item has a separator before it.
    Head,
    First,
    /// The next part is an item with another before it, or the tail.
    Between,
}

impl Items {
    fn new(head: Bytes, items: VecDeque<Part>, separator: &'static [u8], tail: Bytes) -> Self {
        let separators = items.len().saturating_sub(1) * separator.len();
        let left = head.len() + items.iter().map(|item| item.len()).sum::<usize>() + separators + tail.len();
        let mut parts = items;
        parts.push_front(head.into());
        parts.push_back(tail.into());
        Self { parts, left, separator, place: Place::Head }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.parts.is_empty() {
            return None;
        }
        let mut chunk = BytesMut::with_capacity(self.left.min(CHUNK_BYTES));
        while let Some(part) = self.parts.front() {
            if !chunk.is_empty() && chunk.len() + self.separator.len() + part.len() > CHUNK_BYTES {
                break;
            }
            let last = self.parts.len() == 1;
            match self.place {
                Place::Head => self.place = Place::First,
                Place::First => self.place = Place::Between,
                Place::Between if !last => chunk.extend_from_slice(self.separator),
                Place::Between => {}
            }
            chunk.extend_from_slice(part);
            self.parts.pop_front();
        }
        self.left -= chunk.len();
        Some(chunk.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(items: &[&'static str], expected: &str) {
        let items = items.iter().map(|item| Bytes::from_static(item.as_bytes()).into()).collect();
        let body = Body(Inner::Items(Items::new("[".into(), items, b",", "]".into())));
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
}
