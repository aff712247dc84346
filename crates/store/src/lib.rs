//! The store: revisioned keys, compare-and-swap, snapshots and watch.
//!
//! A key is a collection (`apps/deployments`) and a name in it (`default/web`, or `node-1` for cluster-scoped kinds). A value is the JSON
//! of one object, kept as bytes; the store understands nothing of it except where to splice the revision that it assigns.
//! One counter numbers every change of every collection. [`Store::snapshot`] is free, [`Store::watch`] delivers every change after a
//! revision exactly once and in order, and [`Store::commit`] answers after the change is on disk.
//!
//! `key` and `entry` are the vocabulary, `snapshot` the readers' view, `history` the recent past that watches and exact-revision lists
//! read, `seal` encryption at rest, `embedded` the engine on one machine's disk.

mod embedded;
mod entry;
mod error;
mod history;
mod key;
mod seal;
mod snapshot;

use std::{pin::Pin, sync::Arc};

pub use embedded::{Embedded, Options};
pub use entry::{ENCODINGS_MAX, Entry, Event, EventKind, Expect, Meta, Write};
pub use error::{CommitError, HistoryError, OpenError, Shut};
pub use history::{Batch, Watch};
pub use key::{Collection, Key, Revision};
pub use seal::{
    Cipher, Envelope, KeyLength, KeyService, KeyServiceError, Pattern, Provider, Resealed, Seal, SealCount, SealError, Sealing,
    SealingError, SealingKey, Wrapped,
};
pub use snapshot::{Snapshot, Walk};

/// The answer to a commit: for a put the entry as stored, for a delete the entry as it was last, each with its new revision.
pub type Committed = Vec<Arc<Entry>>;

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the API server needs of an engine. Only the API server may hold one.
pub trait Store: Send + Sync + 'static {
    /// The newest committed state of every collection. Costs a few reference counts.
    fn snapshot(&self) -> Snapshot;

    /// One collection exactly as it was at `revision`; the other collections of the result are empty.
    ///
    /// Costs one step for each change of the collection since then.
    fn snapshot_at(&self, collection: &Collection, revision: Revision) -> Result<Snapshot, HistoryError>;

    /// Why `collection` is shut, if it is: what of it is in snapshots is not the whole, and commits to it are refused.
    fn shut(&self, collection: &Collection) -> Option<Shut>;

    /// Opens the collections that are shut, or tells of the first that cannot be opened yet. Blocks commits while a key service is asked.
    fn open_shut(&self) -> BoxFuture<'_, Result<(), CommitError>>;

    /// Applies all of `writes` or none, and answers when they are durable (except those marked lazy).
    ///
    /// Writes that wait at the same time share one flush.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>>;

    /// Every change of `collection` after `after`, in order.
    fn watch(&self, collection: &Collection, after: Revision) -> Result<Watch, HistoryError>;

    /// Seals with `sealing` from now on. What is stored stays as it is; refused where `sealing` could not read that.
    fn seal_with(&self, sealing: Arc<Sealing>) -> BoxFuture<'_, Result<(), SealingError>>;

    /// Rewrites some of the records that are sealed otherwise than new ones would be. To be repeated until none is left; commits go on
    /// in between. Objects, revisions and watchers notice nothing.
    fn reseal(&self) -> BoxFuture<'_, Result<Resealed, CommitError>>;

    /// What records are sealed with, of the collections that are to be sealed or are.
    fn seals(&self) -> BoxFuture<'_, Vec<SealCount>>;

    /// Deletes from disk what later writes replaced. Until then the old form of a rewritten record may lie in the engine's files. The
    /// engine writes all that it has once more, in which time commits wait.
    fn forget_overwritten(&self) -> BoxFuture<'_, Result<(), CommitError>>;
}
