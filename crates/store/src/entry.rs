//! Objects at rest, changes to them, and requests for changes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{Key, Revision};

/// How many encodings of one event are kept: whole and metadata only, in JSON and protobuf, each also for objects that entered or left a
/// selector.
pub const ENCODINGS_MAX: usize = 12;

/// One object as it stands in the store.
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    /// The revision of its last change, which `value` also carries as `metadata.resourceVersion`.
    pub revision: Revision,
    /// Canonical JSON.
    pub value: Bytes,
    /// Where in `value` the text of the revision begins.
    pub(crate) stamp: usize,
    meta: OnceLock<Meta>,
}

impl Entry {
    /// An entry from `value`, which has no resourceVersion yet: the revision is spliced in at `stamp`.
    pub(crate) fn stamped(key: Key, revision: Revision, value: &[u8], stamp: usize, meta: Option<Meta>) -> Self {
        let text = resource_version(revision);
        let mut bytes = Vec::with_capacity(value.len() + text.len());
        bytes.extend_from_slice(&value[..stamp]);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&value[stamp..]);
        Self { key, revision, value: bytes.into(), stamp, meta: meta.map_or_else(OnceLock::new, OnceLock::from) }
    }

    /// An entry whose `value` already has its revision at `stamp`, as read from disk.
    pub(crate) fn stored(key: Key, revision: Revision, value: Bytes, stamp: usize) -> Self {
        Self { key, revision, value, stamp, meta: OnceLock::new() }
    }

    /// The same object under another revision: what a deletion shows.
    pub fn restamped(&self, revision: Revision) -> Self {
        let old = resource_version(self.revision).len();
        let bare = [&self.value[..self.stamp], &self.value[self.stamp + old..]].concat();
        Self::stamped(self.key.clone(), revision, &bare, self.stamp, self.meta.get().cloned())
    }

    /// The same state of the object in another form, which has no resourceVersion; that is spliced in at `stamp`.
    pub fn reformed(&self, value: &[u8], stamp: usize) -> Self {
        Self::stamped(self.key.clone(), self.revision, value, stamp, None)
    }

    /// The parts that lists select by, parsed by `parse` when they are first asked for and kept.
    pub fn meta(&self, parse: impl FnOnce(&[u8]) -> Meta) -> &Meta {
        self.meta.get_or_init(|| parse(&self.value))
    }
}

fn resource_version(revision: Revision) -> String {
    format!(r#""resourceVersion":"{revision}","#)
}

/// The parts of an object that lists and watches select by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub labels: Box<[(Box<str>, Box<str>)]>,
    pub fields: Box<[(Box<str>, Box<str>)]>,
    /// UIDs of its owners.
    pub owners: Box<[Box<str>]>,
}

/// What must hold of a key for a write to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// It exists, and was last changed at this revision.
    Revision(Revision),
}

/// One change of a commit.
#[derive(Clone, Debug)]
pub enum Write {
    Put {
        key: Key,
        /// Canonical JSON without a resourceVersion.
        value: Bytes,
        /// Where to splice the resourceVersion and a comma: right after the brace that opens a non-empty `metadata`.
        stamp: usize,
        meta: Option<Meta>,
        expect: Expect,
        /// Acknowledged before it is on disk and written with the next durable commit: for heartbeats, which a restart makes stale anyway.
        lazy: bool,
    },
    Delete {
        key: Key,
        expect: Expect,
    },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    pub(crate) fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } => *expect,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change, shared by everyone who watches.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    /// The object after a put; for a delete as it was last, under the revision of the deletion.
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
    /// Made with the first: most events are of collections that no one watches.
    encoded: OnceLock<Box<[OnceLock<Bytes>; ENCODINGS_MAX]>>,
}

impl Event {
    pub(crate) fn new(kind: EventKind, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { kind, entry, previous, encoded: OnceLock::new() }
    }

    /// The same event with its objects in another form. It shares no encodings with this one.
    pub fn reformed(&self, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self::new(self.kind, entry, previous)
    }

    /// The event in encoding `slot`, made by `encode` for the first watcher who asks and shared with the rest.
    ///
    /// # Panics
    /// When `slot` is not below [`ENCODINGS_MAX`].
    pub fn encoded(&self, slot: usize, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.encoded.get_or_init(Box::default)[slot].get_or_init(encode).clone()
    }

    /// Memory that this event keeps alive, in bytes, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.entry.value.len() + self.previous.as_ref().map_or(0, |p| p.value.len())
    }
}
