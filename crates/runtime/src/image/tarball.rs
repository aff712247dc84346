//! A tar reader for archives that may be hostile: ustar, GNU long names and PAX records, each bounded.
//!
//! The `tar` crate decodes the header fields; framing and extension records are done here, because that crate reads an extension
//! of any length into memory and splits PAX records at line ends, which breaks binary attributes (`security.capability`).
//! The format is in POSIX.1-2017, pax, "pax Interchange Format".

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

const BLOCK: u64 = 512;

/// Bytes of all extension headers of one member: they are held in memory until it comes. Go's archive/tar has the same for one
/// (maxSpecialFileSize), so real archives stay below.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;

const XATTR_PREFIX: &str = "SCHILY.xattr.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    Directory,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    /// Target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

/// Gives the members of an archive one after the other; read a member's content from the reader itself before the next.
pub(crate) struct Tarball<R> {
    inner: R,
    /// Content of the current member that was not read yet, and the padding after it.
    content: u64,
    padding: u64,
}

impl<R: Read> Tarball<R> {
    pub(crate) fn new(inner: R) -> Tarball<R> {
        Tarball { inner, content: 0, padding: 0 }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member; `None` at the end of the archive. What is left of the current one is skipped.
    pub(crate) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extensions = Extensions::default();
        let mut room = EXTENSION_BYTES_MAX;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if extensions.any { Err(invalid("the archive ends after an extension header")) } else { Ok(None) };
            };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.set("path", trim_nul(self.extension(size, &mut room)?)),
                EntryType::GNULongLink => extensions.set("linkpath", trim_nul(self.extension(size, &mut room)?)),
                EntryType::XHeader => {
                    for (key, value) in pax_records(&self.extension(size, &mut room)?)? {
                        extensions.set(&key, value);
                    }
                }
                // Defaults for all that follows: builders write comments only. A field of a member in there would be
                // understood differently by different tools, so it is refused.
                EntryType::XGlobalHeader => {
                    if pax_records(&self.extension(size, &mut room)?)?
                        .iter()
                        .any(|(key, _)| matches!(key.as_str(), "path" | "linkpath" | "size" | "uid" | "gid"))
                    {
                        return Err(invalid("a global header sets a name, size or owner"));
                    }
                }
                kind => return self.member(&header, kind, extensions).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, kind: EntryType, extensions: Extensions) -> io::Result<Member> {
        let fields = &extensions.fields;
        let old = header.as_old();
        if kind.is_gnu_sparse() || fields.keys().any(|key| key.starts_with("GNU.sparse.")) {
            return Err(invalid("sparse members are not supported"));
        }
        let number = |key: &str| match fields.get(key) {
            None => Ok(None),
            Some(value) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
                number.map(Some).ok_or_else(|| invalid("a PAX record is not a number"))
            }
        };
        let size = number("size")?.map_or_else(|| header.entry_size(), Ok)?;
        let id = |pax: Option<u64>, plain: io::Result<u64>| {
            // The last number means "unchanged" to chown(2).
            u32::try_from(pax.map_or(plain, Ok)?)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| invalid("an owner is larger than 32 bits"))
        };
        let device = || -> io::Result<(u32, u32)> { Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0))) };
        let path = fields.get("path").cloned().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = fields.get("linkpath").cloned().unwrap_or_else(|| header.link_name_bytes().map_or_else(Vec::new, |l| l.into_owned()));
        let kind = match kind {
            // Before ustar, a directory was a file whose name ends in a slash.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::Hardlink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Directory,
            EntryType::Char => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            EntryType::Block => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            EntryType::Fifo => Kind::Fifo,
            _ => return Err(invalid("a member has an unknown type")),
        };
        if path.contains(&0) || link.contains(&0) {
            return Err(invalid("a name contains a zero byte"));
        }
        // Only files have content: what a header of another kind says of its size is ignored, as Go's archive/tar does.
        let size = if kind == Kind::File { size } else { 0 };
        if i64::try_from(size).is_err() {
            return Err(invalid("a member is larger than any file"));
        }
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        Ok(Member {
            kind,
            path,
            link,
            size,
            mode: u32::try_from(filled(&old.mode, header.mode().map(u64::from))? & 0o7777).unwrap_or(0),
            uid: id(number("uid")?, filled(&old.uid, header.uid()))?,
            gid: id(number("gid")?, filled(&old.gid, header.gid()))?,
            mtime: match fields.get("mtime") {
                Some(text) => pax_time(text).ok_or_else(|| invalid("a PAX time is not a number"))?,
                None => (i64::try_from(filled(&old.mtime, header.mtime())?).unwrap_or(0), 0),
            },
            xattrs: extensions.xattrs,
        })
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.fill(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        // The checksum counts its own eight bytes as blanks.
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ');
        if header.cksum()? != sum {
            return Err(invalid("a header has the wrong checksum"));
        }
        Ok(Some(header))
    }

    /// False at the end of the input.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// `room`: what extension headers of this member may still take. One without content takes a block as well.
    fn extension(&mut self, size: u64, room: &mut u64) -> io::Result<Vec<u8>> {
        let Some(left) = room.checked_sub(size.max(BLOCK)) else {
            return Err(invalid("the extension headers of a member are larger than 1 MiB"));
        };
        *room = left;
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let mut bytes = Vec::with_capacity(size as usize);
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self) -> io::Result<()> {
        let amount = self.content + std::mem::take(&mut self.padding);
        self.content = 0;
        let skipped = io::copy(&mut (&mut self.inner).take(amount), &mut io::sink())?;
        if skipped == amount { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The content of the current member. An archive that ends in it is an error.
impl<R: Read> Read for Tarball<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = self.content.min(buffer.len() as u64) as usize;
        if limit == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..limit])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        Ok(count)
    }
}

/// What extension headers say of the next member.
#[derive(Default)]
struct Extensions {
    any: bool,
    fields: BTreeMap<String, Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Extensions {
    fn set(&mut self, key: &str, value: Vec<u8>) {
        self.any = true;
        match key.strip_prefix(XATTR_PREFIX) {
            Some(name) => self.xattrs.push((name.to_owned(), value)),
            None => {
                self.fields.insert(key.to_owned(), value);
            }
        }
    }
}

/// `<length> <key>=<value>\n`, the length in decimal and of the whole record.
fn pax_records(mut bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let bad = || invalid("a PAX record is malformed");
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| bad())?;
        records.push((key.to_owned(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Seconds with an optional fraction, possibly negative.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    // -1.25 is 0.75 seconds after -2.
    Some(if whole.starts_with('-') && nanoseconds > 0 { (seconds - 1, 1_000_000_000 - nanoseconds) } else { (seconds, nanoseconds) })
}

/// A number of the header, 0 where its field was left blank.
fn filled(field: &[u8], number: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { number }
}

fn trim_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = 1 + key.len() + 1 + value.len() + 1;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }

    fn raw(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn pax_values_may_hold_line_ends() {
        let value = b"\x01\x00\n\n=\x02";
        let mut archive =
            raw(EntryType::XHeader, "pax", &pax(&[("SCHILY.xattr.security.capability", value), ("mtime", b"-1.25"), ("uid", b"70000")]));
        archive.extend(raw(EntryType::Regular, "bin/ping", b"elf"));
        let mut tarball = Tarball::new(archive.as_slice());
        let member = tarball.next().unwrap().unwrap();
        assert_eq!(member.xattrs, [("security.capability".to_owned(), value.to_vec())]);
        assert_eq!((member.mtime, member.uid, member.gid), ((-2, 750_000_000), 70_000, 8));
        let mut content = String::new();
        tarball.read_to_string(&mut content).unwrap();
        assert_eq!(content, "elf");
        assert!(tarball.next().unwrap().is_none());
    }

    #[test]
    fn a_pax_size_frames_the_member() {
        let mut archive = raw(EntryType::XHeader, "pax", &pax(&[("size", b"3")]));
        let mut member = raw(EntryType::Regular, "a", b"abc");
        let mut header = Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&member[..512]);
        header.set_size(0);
        header.set_cksum();
        member[..512].copy_from_slice(header.as_bytes());
        archive.extend(member);
        archive.extend(raw(EntryType::Regular, "b", b""));
        let mut tarball = Tarball::new(archive.as_slice());
        assert_eq!(tarball.next().unwrap().unwrap().path, b"a");
        assert_eq!(tarball.next().unwrap().unwrap().path, b"b");
    }

    #[test]
    fn hostile_headers_are_refused() {
        let mut huge = Header::new_gnu();
        huge.set_entry_type(EntryType::GNULongName);
        huge.set_size(1 << 40);
        huge.set_cksum();
        let mut broken = raw(EntryType::Regular, "a", b"");
        broken[0] = b'b';
        for (case, archive, reason) in [
            ("long name without end", huge.as_bytes().to_vec(), "the extension headers of a member are larger than 1 MiB"),
            (
                "headers without end",
                raw(EntryType::XHeader, "x", &pax(&[("SCHILY.xattr.user.x", &[0u8; 700_000])])).repeat(2),
                "the extension headers of a member are larger than 1 MiB",
            ),
            (
                "a size that overflows",
                [raw(EntryType::XHeader, "x", &pax(&[("size", b"18446744073709551615")])), raw(EntryType::Regular, ".wh.a", b"")].concat(),
                "a member is larger than any file",
            ),
            ("checksum", broken, "a header has the wrong checksum"),
            ("cut short", raw(EntryType::Regular, "a", b"abc")[..514].to_vec(), "unexpected end of file"),
            ("dangling extension", raw(EntryType::XHeader, "x", &pax(&[("path", b"a")])), "the archive ends after an extension header"),
            ("bad record", raw(EntryType::XHeader, "x", b"99 a=b\n"), "a PAX record is malformed"),
            ("global name", raw(EntryType::XGlobalHeader, "x", &pax(&[("path", b"a")])), "a global header sets a name, size or owner"),
            ("sparse", raw(EntryType::GNUSparse, "x", b""), "sparse members are not supported"),
        ] {
            let mut tarball = Tarball::new(archive.as_slice());
            let error = loop {
                match tarball.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{case} was accepted"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.to_string(), reason, "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048)) {
            let mut tarball = Tarball::new(bytes.as_slice());
            while let Ok(Some(_)) = tarball.next() {}
        }
    }
}
