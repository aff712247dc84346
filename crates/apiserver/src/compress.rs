//! Compression of answers.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
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
/// Streams (of unknown length) are left alone: their events are small, and must not wait for a block to fill.
pub(crate) fn compress(response: Response<Body>, accepted: bool) -> Response<Body> {
    let small = response.body().exact_len().is_none_or(|len| len < GZIP_BYTES_MIN);
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
    // The fast level: upstream has chosen it too (defaultGzipContentEncodingLevel).
    let encoder = GzEncoder::new(BytesMut::new().writer(), Compression::fast());
    stream::try_unfold((body.into_data_stream(), Some(encoder)), |(mut input, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok(None) };
        while let Some(chunk) = input.next().await {
            encoder.write_all(&chunk?)?;
            let ready = encoder.get_mut().get_mut().split().freeze();
            if !ready.is_empty() {
                return Ok(Some((ready, (input, Some(encoder)))));
            }
        }
        let rest = encoder.finish()?.into_inner().freeze();
        Ok(Some((rest, (input, None))))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

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

    #[test]
    fn small_ones_and_others_are_not() {
        for (len, accept) in [(100, "gzip"), (200 << 10, "identity"), (200 << 10, "gzip;q=0")] {
            assert!(!answer(len, accept).headers().contains_key(header::CONTENT_ENCODING), "{len} {accept}");
        }
    }
}
