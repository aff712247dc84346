//! Layers and archives come plain, gzip'd or as zstd; their first bytes tell, for media types lie.

use std::io::{self, BufRead, BufReader, Read};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

const BUFFER_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What the OCI media type of such a layer ends in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        }
    }
}

pub(crate) fn sniff(start: &[u8]) -> Compression {
    if start.starts_with(GZIP_MAGIC) {
        Compression::Gzip
    } else if start.starts_with(ZSTD_MAGIC) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// The plain bytes of `reader`. The zstd window is bounded by the library (128 MiB), so a small file cannot ask for much memory.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    // One read may give less than the four bytes of the longest mark; a pipe's first chunk never does in practice,
    // but a hostile one could choose to.
    let mut start = Vec::with_capacity(ZSTD_MAGIC.len());
    (&mut reader).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut start)?;
    let compression = sniff(&start);
    let whole = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(start).chain(reader));
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    })
}

/// How a stored file is compressed.
pub(crate) fn of_file(file: std::fs::File) -> io::Result<Compression> {
    let mut reader = BufReader::with_capacity(ZSTD_MAGIC.len(), file);
    Ok(sniff(reader.fill_buf()?))
}
