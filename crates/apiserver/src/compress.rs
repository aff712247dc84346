//! Compression of answers.

use std::{io, task::Poll};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;

use crate::{
    body::{Body, BodyError},
    request::media,
};

/// Answers above this are compressed for those who accept it. Upstream has the same (responsewriters, defaultGzipThresholdBytes).
const GZIP_BYTES_MIN: u64 = 128 << 10;

/// Compresses `response` if it is large and the client accepts gzip ([`is_accepted`]).
///
/// Of a watch, the state that it begins with is compressed, if that is large. The events after it are small: they pass as they are.
pub(crate) fn compress(response: Response<Body>, accepted: bool) -> Response<Body> {
    let small = response.body().expected() < GZIP_BYTES_MIN;
    if small || !accepted || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::stream(gzip(body)))
}

/// Whether a client with these headers reads gzip.
pub(crate) fn is_accepted(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| media::ranges(Some(value))).any(|range| range.media == "gzip")
}

fn gzip(body: Body) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let lasts = body.exact_len().is_none();
    let (mut input, mut member) = (body.into_data_stream(), Some(Member::new()));
    stream::poll_fn(move |cx| {
        loop {
            let Some(open) = &mut member else { return Poll::Ready(None) };
            let ready = match input.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => open.add(&chunk),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => member.take().map_or_else(|| Ok(Vec::new()), Member::finish),
                Poll::Pending if lasts && open.is_packing() => open.settle(),
                Poll::Pending => return Poll::Pending,
            };
            match ready {
                Ok(ready) if ready.is_empty() => {}
                ready => return Poll::Ready(Some(ready.map(Bytes::from).map_err(BodyError::from))),
            }
        }
    })
}

/// A gzip member (RFC 1952) that is written as its data comes.
///
/// It is one member to its end, as many clients read no second one; and after [`Member::settle`] it needs no memory but this, as a
/// compressor would for as long as a watch lasts: deflate (RFC 1951) has blocks that are not compressed, and they begin at a byte.
struct Member {
    head: &'static [u8],
    deflate: Option<Compress>,
    crc: Crc,
}

impl Member {
    /// Deflate, no flags, no time, compressed fast, system not known.
    const HEAD: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
    /// An empty block at a byte's boundary, which makes clients give out what came before it; and such a block as the last.
    const FLUSH: &[u8] = &[0, 0, 0, 0xff, 0xff];
    const LAST: &[u8] = &[1, 0, 0, 0xff, 0xff];

    fn new() -> Self {
        // The fast level: upstream has chosen it too (defaultGzipContentEncodingLevel).
        Self { head: Self::HEAD, deflate: Some(Compress::new(Compression::fast(), false)), crc: Crc::new() }
    }

    fn is_packing(&self) -> bool {
        self.deflate.is_some()
    }

    /// What can be sent now that this has come.
    fn add(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = self.begin();
        self.crc.update(data);
        match &mut self.deflate {
            Some(deflate) => pack(deflate, data, &mut out, FlushCompress::None)?,
            None => {
                for block in data.chunks(usize::from(u16::MAX)) {
                    let len = block.len() as u16;
                    out.push(0);
                    out.extend_from_slice(&len.to_le_bytes());
                    out.extend_from_slice(&(!len).to_le_bytes());
                    out.extend_from_slice(block);
                }
                out.extend_from_slice(Self::FLUSH);
            }
        }
        Ok(out)
    }

    /// All that came so far; what comes from now on will not be compressed.
    fn settle(&mut self) -> io::Result<Vec<u8>> {
        let mut out = self.begin();
        if let Some(mut deflate) = self.deflate.take() {
            pack(&mut deflate, &[], &mut out, FlushCompress::Sync)?;
        }
        Ok(out)
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        let mut out = self.begin();
        match &mut self.deflate {
            Some(deflate) => pack(deflate, &[], &mut out, FlushCompress::Finish)?,
            None => out.extend_from_slice(Self::LAST),
        }
        out.extend_from_slice(&self.crc.sum().to_le_bytes());
        out.extend_from_slice(&self.crc.amount().to_le_bytes());
        Ok(out)
    }

    fn begin(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head).to_vec()
    }
}

/// Puts the whole of `data` through the compressor.
fn pack(deflate: &mut Compress, data: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> io::Result<()> {
    /// Room that is made at a time: a chunk of a list becomes about an eighth of its size.
    const ROOM_BYTES: usize = 8 << 10;
    let before = deflate.total_in();
    loop {
        out.reserve(ROOM_BYTES);
        let taken = (deflate.total_in() - before) as usize;
        let status = deflate.compress_vec(&data[taken..], out, flush)?;
        // With room left over, all has been taken and given out.
        if status == Status::StreamEnd || (out.len() < out.capacity() && !matches!(flush, FlushCompress::Finish)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn answer(len: usize, accept: &str) -> Response<Body> {
        let mut request = HeaderMap::new();
        request.insert(header::ACCEPT_ENCODING, accept.parse().unwrap());
        compress(Response::new(Bytes::from("x".repeat(len)).into()), is_accepted(&request))
    }

    #[test]
    fn large_answers_are_compressed_for_those_who_accept_it() {
        let response = answer(200 << 10, "deflate, gzip");
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let sent = futures::executor::block_on(response.into_body().collect()).unwrap().to_bytes();
        let mut read = String::new();
        flate2::read::GzDecoder::new(&sent[..]).read_to_string(&mut read).unwrap();
        assert_eq!(read, "x".repeat(200 << 10));
    }

    /// A client that gives out what it can of what has come so far.
    fn read(client: &mut flate2::write::GzDecoder<Vec<u8>>, sent: &[u8]) -> String {
        client.write_all(sent).unwrap();
        client.flush().unwrap();
        String::from_utf8(std::mem::take(client.get_mut())).unwrap()
    }

    #[tokio::test]
    async fn a_watch_begins_compressed_and_its_events_are_seen_as_they_happen() {
        let (events, source) = futures::channel::mpsc::unbounded::<Result<Bytes, BodyError>>();
        let state = "state ".repeat(100 << 10);
        for chunk in state.as_bytes().chunks(64 << 10) {
            events.unbounded_send(Ok(Bytes::copy_from_slice(chunk))).unwrap();
        }
        let mut sent = Box::pin(gzip(Body::stream(source)));
        let (mut client, mut seen, mut bytes) = (flate2::write::GzDecoder::new(Vec::new()), String::new(), 0);
        while seen.len() < state.len() {
            let chunk = sent.next().await.unwrap().unwrap();
            bytes += chunk.len();
            seen += &read(&mut client, &chunk);
        }
        assert_eq!(seen, state);
        assert!(bytes < state.len() / 20, "{bytes}");
        for event in ["added".to_owned(), "changed".repeat(20_000), "gone".to_owned()] {
            events.unbounded_send(Ok(event.clone().into())).unwrap();
            assert_eq!(read(&mut client, &sent.next().await.unwrap().unwrap()), event);
        }
        drop(events);
        assert_eq!(read(&mut client, &sent.next().await.unwrap().unwrap()), "");
        client.finish().expect("the check sum and the length are right");
        assert!(sent.next().await.is_none());
    }

    #[test]
    fn small_ones_and_others_are_not() {
        for (len, accept) in [(100, "gzip"), (200 << 10, "identity"), (200 << 10, "gzip;q=0")] {
            assert!(!answer(len, accept).headers().contains_key(header::CONTENT_ENCODING), "{len} {accept}");
        }
    }
}
