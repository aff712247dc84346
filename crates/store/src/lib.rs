//! The store: revisioned keys, compare-and-swap, snapshots and watch.
//!
//! A key is a collection (`apps/deployments`) and a name in it (`default/web`, or `node-1` for cluster-scoped kinds). A value is the JSON
//! of one object, kept as bytes; the store understands nothing of it except where to splice the revision that it assigns.
//! One counter numbers every change of every collection. [`Store::snapshot`] is free, [`Store::watch`] delivers every change after a
//! revision exactly once and in order, and [`Store::commit`] answers after the change is on disk.
//!
//! `key` and `entry` are the vocabulary, `snapshot` the readers' view, `history` the recent past that watches and exact-revision lists
//! read, `embedded` the engine on one machine's disk.

mod embedded;
mod entry;
mod error;
mod history;
mod key;
mod snapshot;

use std::{pin::Pin, sync::Arc};

pub use embedded::{Embedded, Options};
pub use entry::{ENCODINGS_MAX, Entry, Event, EventKind, Expect, Meta, Write};
pub use error::{CommitError, HistoryError, OpenError};
pub use history::{Batch, Watch};
pub use key::{Collection, Key, Revision};
pub use snapshot::Snapshot;

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

    /// Applies all of `writes` or none, and answers when they are durable (except those marked lazy).
    ///
    /// Writes that wait at the same time share one flush.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>>;

    /// Every change of `collection` after `after`, in order.
    fn watch(&self, collection: &Collection, after: Revision) -> Result<Watch, HistoryError>;
}
