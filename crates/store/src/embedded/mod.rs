//! The engine for one server: everything in memory, every change on disk before it is acknowledged.
//!
//! One thread commits ([`committer`]). It takes all writes that wait, checks them in order against the newest state, flushes them as one
//! batch, and only then publishes: events to the logs, the snapshot to readers, the answers to the writers. Readers never wait.
//!
//! The disk ([`disk`]) holds the newest state only. History lives in memory, so a restart compacts it: watchers list again.

mod committer;
mod disk;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::{
    BoxFuture, Collection, CommitError, Committed, HistoryError, OpenError, Resealed, Revision, SealCount, SealError, Sealing,
    SealingError, Shut, Snapshot, Store, Watch, Wrapped, Write, history::History,
};
use committer::Committer;
use disk::Disk;

/// The largest object, in bytes. etcd's default request limit is the same (embed.DefaultMaxRequestBytes), so no object that upstream takes is refused.
const VALUE_BYTES_MAX: usize = 3 << 19;

/// Commits that may wait for the committer. Beyond it writers wait before they enter, which is the back-pressure.
const PENDING_COMMITS_MAX: usize = 1_024;

/// Choices of an embedded store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Free bytes on the disk below which everything but deletions is refused, so that a full disk can be mended through the API.
    pub reserve_bytes: u64,
    /// What is sealed on disk, and with what.
    pub sealing: Arc<Sealing>,
    /// The collections that may be shut at first, when their key service is silent. With any other the store does not open.
    pub may_be_shut: Vec<Collection>,
}

impl Default for Options {
    fn default() -> Self {
        // Twice what the journal grows by at once (fjall preallocates 64 MiB): deletions can still be written.
        Self { reserve_bytes: 128 << 20, sealing: Sealing::none(), may_be_shut: Vec::new() }
    }
}

/// The embedded engine. [`close`](Self::close) it, or what was written lazily may be lost.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    committer: Mutex<Option<JoinHandle<()>>>,
    /// One attempt at a time to open what is shut.
    opening: tokio::sync::Mutex<Opening>,
}

/// What opens the collections that are shut.
struct Opening {
    /// What key services have to unwrap, which may take them seconds: before the committer is asked, so that it has it at hand.
    wrapped: Arc<[(String, Wrapped)]>,
    /// When the last attempt failed, and how.
    failed: Option<(Instant, Arc<SealError>)>,
}

/// What readers see.
pub(crate) struct Shared {
    snapshot: RwLock<Snapshot>,
    history: Arc<History>,
    any_shut: AtomicBool,
    shut: RwLock<HashMap<Collection, Shut>>,
    /// What seals, for those who ask key services beside the committer.
    sealing: RwLock<Arc<Sealing>>,
}

pub(crate) enum Request {
    Commit { writes: Vec<Write>, answer: oneshot::Sender<Result<Committed, CommitError>> },
    SealWith { sealing: Arc<Sealing>, answer: oneshot::Sender<Result<(), SealingError>> },
    Reseal { answer: oneshot::Sender<Result<Resealed, CommitError>> },
    Seals { answer: oneshot::Sender<Vec<SealCount>> },
    OpenShut { answer: oneshot::Sender<Result<(), CommitError>> },
    Rewrite { answer: oneshot::Sender<Result<(), CommitError>> },
    Close,
}

impl Embedded {
    /// Opens the store at `dir`, making it when it is not there. Only one process at a time can have it open.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let (disk, snapshot) = Disk::open(dir, &options)?;
        let shared = Arc::new(Shared {
            history: History::new(snapshot.revision),
            snapshot: RwLock::new(snapshot.clone()),
            any_shut: AtomicBool::default(),
            shut: RwLock::default(),
            sealing: RwLock::new(options.sealing.clone()),
        });
        shared.tell_shut(disk.shut());
        let opening = tokio::sync::Mutex::new(Opening { wrapped: disk.wrapped().into(), failed: None });
        let (requests, receiver) = mpsc::channel(PENDING_COMMITS_MAX);
        let committer = Committer::new(disk, snapshot, shared.clone(), options);
        let committer =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || committer.run(receiver)).map_err(OpenError::Thread)?;
        Ok(Self { shared, requests, committer: Mutex::new(Some(committer)), opening })
    }

    /// What the records of the store at `dir` are sealed with, also where their keys are missing. No process may have it open.
    pub fn survey(dir: &Path) -> Result<Vec<SealCount>, OpenError> {
        Disk::survey(dir)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Answers the commits that wait, writes everything lazy, ends all watches and unlocks the directory. Later commits are refused. May be repeated.
    pub fn close(&self) {
        let Some(committer) = self.committer.lock().take() else { return };
        // A queue that is full of commits is emptied by the committer; one that is closed needs no word.
        let mut request = Request::Close;
        while let Err(mpsc::error::TrySendError::Full(back)) = self.requests.try_send(request) {
            request = back;
            std::thread::yield_now();
        }
        if committer.join().is_err() {
            tracing::error!("the store's committer panicked");
        }
        self.shared.history.close();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Embedded {
    fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.read().clone()
    }

    fn snapshot_at(&self, collection: &Collection, revision: Revision) -> Result<Snapshot, HistoryError> {
        let now = self.snapshot();
        self.shared.history.rewind(&now, collection, revision)
    }

    fn shut(&self, collection: &Collection) -> Option<Shut> {
        // Every request asks.
        if !self.shared.any_shut.load(Ordering::Acquire) {
            return None;
        }
        self.shared.shut.read().get(collection).cloned()
    }

    fn open_shut(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            let asked = Instant::now();
            let mut opening = self.opening.lock().await;
            let Some(shut) = self.shared.first_shut() else { return Ok(()) };
            // Everybody who waited for one attempt is told the same.
            if let Some((at, source)) = &opening.failed
                && *at > asked
            {
                return Err(CommitError::Shut(Shut { source: source.clone(), ..shut }));
            }
            // Whoever asks may leave meanwhile.
            let (sealing, wrapped) = (self.shared.sealing.read().clone(), opening.wrapped.clone());
            let unwrap = move || wrapped.iter().try_for_each(|(service, wrapped)| sealing.unwrap(service, wrapped));
            let unwrapped = tokio::task::spawn_blocking(unwrap).await.map_err(|_| CommitError::Closed)?;
            let result = match unwrapped {
                Ok(()) => self.ask(|answer| Request::OpenShut { answer }).await.unwrap_or(Err(CommitError::Closed)),
                Err(source) => {
                    let source = Arc::new(source);
                    self.shared.tell_silent(&source);
                    Err(CommitError::Shut(Shut { source, ..shut }))
                }
            };
            opening.failed = match &result {
                Err(CommitError::Shut(shut)) => Some((Instant::now(), shut.source.clone())),
                _ => None,
            };
            result
        })
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            check_sizes(&writes)?;
            let (answer, answered) = oneshot::channel();
            self.requests.send(Request::Commit { writes, answer }).await.map_err(|_| CommitError::Closed)?;
            answered.await.map_err(|_| CommitError::Closed)?
        })
    }

    fn watch(&self, collection: &Collection, after: Revision) -> Result<Watch, HistoryError> {
        self.shared.history.watch(collection, after)
    }

    fn seal_with(&self, sealing: Arc<Sealing>) -> BoxFuture<'_, Result<(), SealingError>> {
        Box::pin(async move {
            let sealed =
                self.ask(|answer| Request::SealWith { sealing: sealing.clone(), answer }).await.unwrap_or(Err(SealingError::Closed));
            if sealed.is_ok() {
                *self.shared.sealing.write() = sealing;
            }
            sealed
        })
    }

    fn reseal(&self) -> BoxFuture<'_, Result<Resealed, CommitError>> {
        Box::pin(async move {
            self.open_shut().await?;
            self.ask(|answer| Request::Reseal { answer }).await.unwrap_or(Err(CommitError::Closed))
        })
    }

    fn seals(&self) -> BoxFuture<'_, Vec<SealCount>> {
        Box::pin(async move { self.ask(|answer| Request::Seals { answer }).await.unwrap_or_default() })
    }

    fn forget_overwritten(&self) -> BoxFuture<'_, Result<(), CommitError>> {
        Box::pin(async move {
            self.open_shut().await?;
            self.ask(|answer| Request::Rewrite { answer }).await.unwrap_or(Err(CommitError::Closed))
        })
    }
}

fn check_sizes(writes: &[Write]) -> Result<(), CommitError> {
    for write in writes {
        if let Write::Put { key, value, .. } = write
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(CommitError::TooLarge { key: key.clone(), bytes: value.len(), limit: VALUE_BYTES_MAX });
        }
    }
    Ok(())
}

impl Shared {
    /// One of the collections that are shut.
    fn first_shut(&self) -> Option<Shut> {
        self.shut.read().values().next().cloned()
    }

    /// It may be another service that is waited for by now.
    fn tell_silent(&self, source: &Arc<SealError>) {
        self.shut.write().values_mut().for_each(|shut| shut.source = source.clone());
    }

    /// Once what was opened is published: whoever finds a collection open finds all of it.
    pub(crate) fn tell_shut(&self, shut: HashMap<Collection, Shut>) {
        let any = !shut.is_empty();
        *self.shut.write() = shut;
        self.any_shut.store(any, Ordering::Release);
    }

    pub(crate) fn publish(&self, snapshot: &Snapshot, events: Vec<Arc<crate::Event>>) {
        // The history first: whoever sees the new snapshot can watch from its revision.
        self.history.publish(events, snapshot.revision);
        *self.snapshot.write() = snapshot.clone();
    }
}
