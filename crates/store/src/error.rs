//! What can go wrong, by step.

use std::{io, path::PathBuf, sync::Arc};

use crate::{Collection, Entry, Key, Revision, SealError};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("create the store's directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("lock the store at {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the data directory is in use: process {pid} holds {path}; stop that Knarr, or choose another --data-dir")]
    InUse { path: PathBuf, pid: String },
    #[error("open the storage engine at {path}")]
    Engine {
        path: PathBuf,
        #[source]
        source: fjall::Error,
    },
    #[error("the store at {path} has format {found}, this Knarr reads format {expected}; use the version of Knarr that wrote it")]
    Format { path: PathBuf, found: String, expected: u32 },
    #[error("read the store at {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: fjall::Error,
    },
    #[error("the store at {path} holds a record that is not one: {key}")]
    Record { path: PathBuf, key: String },
    /// Nothing is lost: the store stays as it is until the key is there.
    #[error("read {key} from the store")]
    Sealed {
        key: Key,
        #[source]
        source: Arc<SealError>,
    },
    #[error("start the thread that commits")]
    Thread(#[source] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold. Nothing was written.
    #[error("{key} is not as the write expects")]
    Conflict { key: Key, current: Option<Arc<Entry>> },
    #[error("{key} has {bytes} bytes; the limit is {limit}")]
    TooLarge { key: Key, bytes: usize, limit: usize },
    #[error("the disk of the store is nearly full ({free} bytes free, {reserve} are kept for deletions); delete objects or make room")]
    Full { free: u64, reserve: u64 },
    /// Nothing was written.
    #[error("seal {key}")]
    Seal {
        key: Key,
        #[source]
        source: SealError,
    },
    /// Nothing was written, for what is there is not known.
    #[error(transparent)]
    Shut(Shut),
    /// The write is not applied, and will not be after a restart.
    #[error("write to the storage engine")]
    Engine(#[source] Arc<fjall::Error>),
    #[error("the store is closed")]
    Closed,
}

/// A collection that is neither read nor written until its key service answers. Nothing of it is lost.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{collection} can be neither read nor written yet: {objects} of its objects could not be opened, such as {key}")]
pub struct Shut {
    pub collection: Collection,
    pub objects: usize,
    /// The first that would not open.
    pub key: Key,
    pub source: Arc<SealError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("the history before revision {oldest} is no longer kept")]
    Compacted { oldest: Revision },
    #[error("the current revision is {current}")]
    Future { current: Revision },
    #[error("the store is closed")]
    Closed,
}
