//! Frames and header blocks. Everything from the network is bounded before it is stored.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Words that are frequent in headers, known to both sides (draft 3.1, section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");

const VERSION: u16 = 3;

/// Bytes of a control frame's body. The largest from Kubernetes clients opens a stream: some 150 bytes.
const CONTROL_BYTES_MAX: usize = 16 << 10;

/// Bytes of a header block once it is unpacked.
const HEADERS_BYTES_MAX: usize = 32 << 10;

/// Name and value pairs in a header block.
const HEADERS_MAX: u32 = 64;

pub(super) const FLAG_FIN: u8 = 1;

/// The client cancelled, or the server has no use for a stream (draft 3.1, section 2.6.3).
pub(super) const STATUS_PROTOCOL_ERROR: u32 = 1;
pub(super) const STATUS_REFUSED: u32 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

pub(super) type Headers = Vec<(String, String)>;

/// What arrives. The content of a data frame is read by the caller: it may be 16 MiB.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Open {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    Data {
        stream: u32,
        length: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    /// A server gets none; the client of the tests does.
    Reply {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Settings, window updates, additional headers: of no consequence here.
    Other,
}

/// Reads frames; the unpacking of headers has a memory that lasts as long as the connection.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder { inflate: Decompress::new(true) }
    }

    /// `None` at the end of the connection.
    pub(super) async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Incoming>> {
        let mut head = [0; 8];
        match reader.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
        let fin = flags & FLAG_FIN != 0;
        if word >> 31 == 0 {
            return Ok(Some(Incoming::Data { stream: word, length, fin }));
        }
        // The kind is the low half; the version the 15 bits above it.
        let (version, kind) = (((word >> 16) & 0x7fff) as u16, (word & 0xffff) as u16);
        if version != VERSION {
            return Err(invalid("a control frame is not of SPDY version 3"));
        }
        if length as usize > CONTROL_BYTES_MAX {
            return Err(invalid("a control frame is larger than 16 KiB"));
        }
        let mut body = vec![0; length as usize];
        reader.read_exact(&mut body).await?;
        self.control(kind, fin, &body).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> io::Result<Incoming> {
        let number = |at: usize| -> io::Result<u32> {
            let bytes = body.get(at..at + 4).ok_or_else(|| invalid("a control frame is too short"))?;
            Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let headers =
            |decoder: &mut Decoder, at: usize| decoder.headers(body.get(at..).ok_or_else(|| invalid("a control frame is too short"))?);
        Ok(match kind {
            SYN_STREAM => Incoming::Open { stream: number(0)? & 0x7fff_ffff, headers: headers(self, 10)?, fin },
            // Unpacked even though nobody asks: the next block builds on it.
            SYN_REPLY => {
                headers(self, 4)?;
                Incoming::Reply { stream: number(0)? & 0x7fff_ffff }
            }
            HEADERS => {
                headers(self, 4)?;
                Incoming::Other
            }
            RST_STREAM => Incoming::Reset { stream: number(0)? & 0x7fff_ffff },
            PING => Incoming::Ping { id: number(0)? },
            GOAWAY => Incoming::GoAway,
            _ => Incoming::Other,
        })
    }

    fn headers(&mut self, packed: &[u8]) -> io::Result<Headers> {
        let block = self.inflate(packed)?;
        let mut rest = block.as_slice();
        let number = |rest: &mut &[u8]| -> io::Result<u32> {
            let (bytes, after) = rest.split_first_chunk::<4>().ok_or_else(|| invalid("a header block is too short"))?;
            *rest = after;
            Ok(u32::from_be_bytes(*bytes))
        };
        let count = number(&mut rest)?;
        if count > HEADERS_MAX {
            return Err(invalid("a header block has more than 64 headers"));
        }
        let text = |rest: &mut &[u8]| -> io::Result<String> {
            let length = number(rest)? as usize;
            let bytes = rest.get(..length).ok_or_else(|| invalid("a header block is too short"))?;
            *rest = &rest[length..];
            String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a header is not UTF-8"))
        };
        (0..count).map(|_| Ok((text(&mut rest)?.to_ascii_lowercase(), text(&mut rest)?))).collect()
    }

    fn inflate(&mut self, mut packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            if block.len() == block.capacity() {
                block.reserve(1024);
            }
            match self.inflate.decompress_vec(packed, &mut block, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    packed = &packed[(self.inflate.total_in() - before_in) as usize..];
                    self.inflate.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
                    continue;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
            let consumed = (self.inflate.total_in() - before_in) as usize;
            packed = &packed[consumed..];
            if block.len() > HEADERS_BYTES_MAX {
                return Err(invalid("a header block is larger than 32 KiB"));
            }
            let stuck = consumed == 0 && self.inflate.total_out() == before_out;
            if stuck || (packed.is_empty() && block.len() < block.capacity()) {
                return Ok(block);
            }
        }
    }
}

/// Writes frames; the packing of headers has a memory that lasts as long as the connection.
pub(super) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(super) fn new() -> io::Result<Encoder> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
        Ok(Encoder { deflate })
    }

    #[cfg(test)]
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)], fin: bool) -> io::Result<Bytes> {
        let block = self.headers(headers)?;
        let mut body = BytesMut::with_capacity(10 + block.len());
        body.put_u32(stream);
        body.put_u32(0);
        body.put_u16(0);
        body.extend_from_slice(&block);
        Ok(control(SYN_STREAM, if fin { FLAG_FIN } else { 0 }, &body))
    }

    pub(super) fn reply(&mut self, stream: u32) -> io::Result<Bytes> {
        let block = self.headers(&[])?;
        let mut body = BytesMut::with_capacity(4 + block.len());
        body.put_u32(stream);
        body.extend_from_slice(&block);
        Ok(control(SYN_REPLY, 0, &body))
    }

    fn headers(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut block = BytesMut::new();
        block.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.put_u32(text.len() as u32);
            block.extend_from_slice(text.as_bytes());
        }
        // A header block hardly grows when it is packed; the rest is room for marks.
        let mut packed = Vec::with_capacity(block.len() + 64);
        self.deflate.compress_vec(&block, &mut packed, FlushCompress::Sync).map_err(io::Error::other)?;
        Ok(packed)
    }
}

/// The head of a data frame of up to 2^24-1 bytes.
pub(super) fn data_head(stream: u32, length: usize, fin: bool) -> [u8; 8] {
    debug_assert!(length < 1 << 24);
    let [a, b, c, d] = stream.to_be_bytes();
    let [_, x, y, z] = (length as u32).to_be_bytes();
    [a & 0x7f, b, c, d, if fin { FLAG_FIN } else { 0 }, x, y, z]
}

pub(super) fn reset(stream: u32, status: u32) -> Bytes {
    control(RST_STREAM, 0, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
}

pub(super) fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

pub(super) fn go_away(last_stream: u32) -> Bytes {
    control(GOAWAY, 0, &[last_stream.to_be_bytes(), [0; 4]].concat())
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | body.len() as u32);
    frame.extend_from_slice(body);
    frame.freeze()
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod unit {
    use super::*;

    async fn decode(decoder: &mut Decoder, mut bytes: &[u8]) -> io::Result<Option<Incoming>> {
        decoder.next(&mut bytes).await
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        // Adler-32 of the dictionary, which deflate streams name it by (DICTID).
        let mut inflate = Decompress::new(true);
        let mut deflate = Compress::new(Compression::fast(), true);
        assert_eq!(deflate.set_dictionary(DICTIONARY).unwrap(), 0xe3c6_a7c2);
        let mut packed = Vec::with_capacity(64);
        deflate.compress_vec(b"accept-charset", &mut packed, FlushCompress::Sync).unwrap();
        let error = inflate.decompress_vec(&packed, &mut Vec::with_capacity(64), FlushDecompress::Sync).unwrap_err();
        assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
    }

    #[tokio::test]
    async fn header_blocks_build_on_each_other() {
        let mut encoder = Encoder::new().unwrap();
        let mut decoder = Decoder::new();
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let frame = encoder.open(stream, &[("Streamtype", kind), ("requestid", "0")], false).unwrap();
            let headers = vec![("streamtype".to_owned(), kind.to_owned()), ("requestid".to_owned(), "0".to_owned())];
            assert_eq!(decode(&mut decoder, &frame).await.unwrap(), Some(Incoming::Open { stream, headers, fin: false }));
        }
        let reply = encoder.reply(1).unwrap();
        assert_eq!(decode(&mut decoder, &reply).await.unwrap(), Some(Incoming::Reply { stream: 1 }));
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let bomb = {
            let mut encoder = Encoder::new().unwrap();
            encoder.open(1, &[("a", &"x".repeat(1 << 20))], false)
        };
        // A block that does not fit its buffer is cut, which is as malformed.
        let bomb = bomb.unwrap();
        let mut many = Encoder::new().unwrap();
        let many = many.open(1, &vec![("a", "b"); 100], false).unwrap();
        for (case, bytes) in [
            ("bomb", bomb.to_vec()),
            ("many headers", many.to_vec()),
            ("long control frame", control(PING, 0, &[0; CONTROL_BYTES_MAX + 1]).to_vec()),
            ("short ping", control(PING, 0, &[0; 2]).to_vec()),
            ("other version", [&[0x80, 2][..], &ping(1)[2..]].concat()),
            ("cut short", ping(1)[..10].to_vec()),
        ] {
            assert!(decode(&mut Decoder::new(), &bytes).await.is_err(), "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut decoder = Decoder::new();
                let mut reader = bytes.as_slice();
                while let Ok(Some(_)) = decoder.next(&mut reader).await {}
            });
        }
    }
}
