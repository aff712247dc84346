//! One record on disk: the revision (8 bytes, big endian), the place of the revision in the value (4 bytes), the value, which may be sealed.

use bytes::Bytes;

use crate::{
    Entry, Key, Revision,
    seal::{self, Seal, SealError, Sealing, Wrapped},
};

/// Bytes of a record before the value.
const HEADER_BYTES: usize = 12;

/// What a change writes: none to remove the key.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) put: Option<Put>,
}

#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) bytes: Vec<u8>,
    pub(super) seal: Option<Seal>,
}

impl Record {
    pub(super) fn of_entry(entry: &Entry, sealing: &Sealing) -> Result<Self, SealError> {
        let sealed = sealing.seal(&entry.key, &entry.value)?;
        let (value, seal) = match &sealed {
            Some((value, seal)) => (&**value, Some(seal.clone())),
            None => (&*entry.value, None),
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len());
        bytes.extend_from_slice(&entry.revision.0.to_be_bytes());
        // Values are far smaller than 4 GiB (VALUE_BYTES_MAX).
        bytes.extend_from_slice(&(entry.stamp as u32).to_be_bytes());
        bytes.extend_from_slice(value);
        Ok(Self { key: entry.key.clone(), put: Some(Put { bytes, seal }) })
    }

    pub(super) fn removal(key: Key) -> Self {
        Self { key, put: None }
    }
}

/// A record as read: nothing of it is opened yet.
pub(super) struct Stored<'a> {
    pub(super) key: Key,
    revision: Revision,
    stamp: usize,
    value: &'a [u8],
}

impl<'a> Stored<'a> {
    /// None where it is no record.
    pub(super) fn read(key: &[u8], record: &'a [u8]) -> Option<Self> {
        let key = Key::from_bytes(key)?;
        let (revision, rest) = record.split_first_chunk::<8>()?;
        let (stamp, value) = rest.split_first_chunk::<4>()?;
        Some(Self { key, revision: Revision(u64::from_be_bytes(*revision)), stamp: u32::from_be_bytes(*stamp) as usize, value })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The service and the wrapped secret that the value is sealed with.
    pub(super) fn wrapped(&self) -> Option<(String, Wrapped)> {
        seal::wrapped(self.value)
    }

    pub(super) fn seal(&self) -> Option<Seal> {
        Seal::of(self.value)
    }

    pub(super) fn open(self, sealing: &Sealing) -> Result<(Entry, Option<Seal>), (Key, SealError)> {
        match sealing.open(&self.key, self.value) {
            Ok((opened, seal)) => {
                let value = opened.map_or_else(|| Bytes::copy_from_slice(self.value), Bytes::from);
                Ok((Entry::stored(self.key, self.revision, value, self.stamp), seal))
            }
            Err(error) => Err((self.key, error)),
        }
    }
}
