//! Names of things in the store.

use std::{fmt, sync::Arc};

/// A point in the history of the whole cluster. The first change has revision 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All objects of one resource, whatever version they are read at: `core/pods`, `apps/deployments`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection(Arc<str>);

impl Collection {
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One object: its collection, and `namespace/name` or `name` within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub collection: Collection,
    pub name: Arc<str>,
}

impl Key {
    /// `namespace` is empty for cluster-scoped objects.
    pub fn new(collection: &Collection, namespace: &str, name: &str) -> Self {
        let name = if namespace.is_empty() { name.into() } else { format!("{namespace}/{name}").into() };
        Self { collection: collection.clone(), name }
    }

    /// The form on disk. No collection or name has a zero byte, so that the order and the split are unambiguous.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.collection.0.len() + 1 + self.name.len());
        bytes.extend_from_slice(self.collection.0.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (collection, name) = std::str::from_utf8(bytes).ok()?.split_once('\0')?;
        Some(Self { collection: Collection::new(collection), name: name.into() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.name)
    }
}
