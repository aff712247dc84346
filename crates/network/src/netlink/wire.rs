//! The netlink wire format: messages, attributes, nested attributes (linux/netlink.h). Everything is aligned to four bytes.

use std::net::IpAddr;

/// `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;
/// `struct nlattr`.
const ATTR_HEADER_BYTES: usize = 4;
/// NLA_F_NESTED: the attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// The two top bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// Builds one buffer of messages.
#[derive(Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer::default()
    }

    /// Appends a message whose payload is written by `body`. The socket fills in nothing: `sequence` identifies the answer.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Writer)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&flags.to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&0u32.to_ne_bytes());
        body(self);
        let length = u32::try_from(self.buffer.len() - start).expect("a netlink message stays below 4 GiB");
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// Sets flags of the message that starts at `offset`, as [`Writer::len`] gave it before the message was written.
    pub(crate) fn add_flags(&mut self, offset: usize, flags: u16) {
        let at = offset + 6;
        let old = u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]);
        self.buffer[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTR_HEADER_BYTES + value.len()).expect("an attribute stays below 64 KiB");
        self.buffer.extend_from_slice(&length.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        self.pad();
    }

    /// A string with its final zero.
    pub(crate) fn attr_text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    pub(crate) fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// In the machine's byte order, as routes use.
    pub(crate) fn attr_ne32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// In network byte order, as netfilter uses.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn attr_be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn attr_ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&0u16.to_ne_bytes());
        self.buffer.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = u16::try_from(self.buffer.len() - start).expect("a nested attribute stays below 64 KiB");
        self.buffer[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn pad(&mut self) {
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }
}

/// One attribute as received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    /// Without the flags.
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

/// The attributes in `bytes`; stops at the first that is cut short.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = Attr<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; ATTR_HEADER_BYTES] = bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(ATTR_HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attr { kind, value })
    })
}

/// A number in network byte order; `None` if the attribute has another size.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

pub(crate) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// A number in the machine's byte order.
pub(crate) fn ne32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A string up to its zero.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        writer.message(7, 1, 42, |message| {
            message.attr_text(1, "eth0");
            message.nest(2, |nest| {
                nest.attr_be32(3, 10);
                nest.attr_u8(4, 5);
            });
        });
        let bytes = writer.as_bytes();
        assert_eq!(ne32(&bytes[..4]).map(|length| length as usize), Some(bytes.len()));
        let read: Vec<_> = attrs(&bytes[HEADER_BYTES..]).collect();
        assert_eq!((read[0].kind, text(read[0].value)), (1, Some("eth0")));
        let inner: Vec<_> = attrs(read[1].value).collect();
        assert_eq!((inner[0].kind, be32(inner[0].value)), (3, Some(10)));
        assert_eq!((inner[1].kind, inner[1].value), (4, &[5][..]));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let total: usize = attrs(&bytes).map(|attr| attr.value.len()).sum();
            proptest::prop_assert!(total <= bytes.len());
        }
    }
}
