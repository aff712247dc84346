//! The one thread that changes the store.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::{Options, Request, Shared, disk::Disk};
use crate::{CommitError, Committed, Entry, Event, EventKind, Expect, Key, Revision, Snapshot, Write};

/// Commits that share one flush. A batch of 64 already costs one tenth of a flush for each commit; more only adds to the wait of the first.
const BATCH_COMMITS_MAX: usize = 256;

pub(crate) struct Committer {
    disk: Disk,
    state: Snapshot,
    shared: Arc<Shared>,
    options: Options,
    /// Lazy entries that are published and not on disk.
    lazy: HashMap<Key, Arc<Entry>>,
}

type Answer = oneshot::Sender<Result<Committed, CommitError>>;

/// The changes of one flush, in the order of their revisions.
#[derive(Default)]
struct Staged {
    events: Vec<Arc<Event>>,
    /// Whether anything here has to be on disk before it is acknowledged.
    durable: bool,
    answers: Vec<(Answer, Committed)>,
}

impl Committer {
    pub(crate) fn new(disk: Disk, state: Snapshot, shared: Arc<Shared>, options: Options) -> Self {
        Self { disk, state, shared, options, lazy: HashMap::new() }
    }

    /// Serves until it is told to close.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut open = true;
        while open && let Some(first) = requests.blocking_recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Commit { writes, answer } => batch.push((writes, answer)),
                    Request::Close => open = false,
                }
                next = if batch.len() < BATCH_COMMITS_MAX { requests.try_recv().ok() } else { None };
            }
            self.commit(batch);
        }
        let lazy: Vec<_> = self.lazy.drain().map(|(_, entry)| entry).collect();
        if let Err(source) = self.disk.close(&lazy, self.state.revision) {
            tracing::error!(error = %source, "close the store; the last heartbeats are lost");
        }
    }

    fn commit(&mut self, batch: Vec<(Vec<Write>, Answer)>) {
        let full = self.full();
        let mut state = self.state.clone();
        let mut staged = Staged::default();
        for (writes, answer) in batch {
            let deletes_only = writes.iter().all(|write| matches!(write, Write::Delete { .. }));
            let result = match &full {
                Some((free, reserve)) if !deletes_only => Err(CommitError::Full { free: *free, reserve: *reserve }),
                _ => stage(&mut state, &mut staged, writes),
            };
            match result {
                Ok(committed) => staged.answers.push((answer, committed)),
                // A caller that went away does not wait for the refusal.
                Err(refusal) => drop(answer.send(Err(refusal))),
            }
        }
        if let Err(error) = self.flush(&staged, state.revision) {
            let error = Arc::new(error);
            tracing::error!(%error, "a commit could not be written; its writers are told");
            for (answer, _) in staged.answers {
                drop(answer.send(Err(CommitError::Engine(error.clone()))));
            }
            return;
        }
        self.state = state;
        self.shared.publish(&self.state, staged.events);
        for (answer, committed) in staged.answers {
            drop(answer.send(Ok(committed)));
        }
    }

    /// Writes what must be durable, with what was waiting for such an occasion.
    fn flush(&mut self, staged: &Staged, revision: Revision) -> Result<(), fjall::Error> {
        if !staged.durable {
            if revision > self.disk.reserved() {
                self.disk.write(&[], &[], revision)?;
            }
            for event in &staged.events {
                self.lazy.insert(event.entry.key.clone(), event.entry.clone());
            }
            return Ok(());
        }
        let waiting: Vec<_> = self.lazy.values().cloned().collect();
        self.disk.write(&waiting, &staged.events, revision)?;
        self.lazy.clear();
        Ok(())
    }

    /// Free and reserved bytes, when the disk is too full for anything but deletions.
    fn full(&self) -> Option<(u64, u64)> {
        let free = self.disk.free_bytes()?;
        (free < self.options.reserve_bytes).then_some((free, self.options.reserve_bytes))
    }
}

/// Applies all of `writes` to `state` and `staged`, or none.
fn stage(state: &mut Snapshot, staged: &mut Staged, writes: Vec<Write>) -> Result<Committed, CommitError> {
    // A single write fails before it changes anything; only several need a copy to fall back to.
    if let [only] = &writes[..] {
        check(only, state.get(only.key()))?;
    }
    let mut next = if writes.len() == 1 { std::mem::take(state) } else { state.clone() };
    let mut events = Vec::with_capacity(writes.len());
    let mut durable = false;
    for write in writes {
        let current = next.get(write.key()).cloned();
        check(&write, current.as_ref())?;
        next.revision = Revision(next.revision.0 + 1);
        let event = match write {
            Write::Put { key, value, stamp, meta, lazy, .. } => {
                durable |= !lazy;
                let entry = Arc::new(Entry::stamped(key, next.revision, &value, stamp, meta));
                next.insert(entry.clone());
                Event::new(EventKind::Put, entry, current)
            }
            Write::Delete { key, .. } => {
                let Some(current) = current else {
                    next.revision = Revision(next.revision.0 - 1);
                    continue;
                };
                durable = true;
                next.remove(&key);
                Event::new(EventKind::Delete, Arc::new(current.restamped(next.revision)), Some(current))
            }
        };
        events.push(Arc::new(event));
    }
    *state = next;
    staged.durable |= durable;
    let committed = events.iter().map(|event| event.entry.clone()).collect();
    staged.events.extend(events);
    Ok(committed)
}

fn check(write: &Write, current: Option<&Arc<Entry>>) -> Result<(), CommitError> {
    let holds = match (write.expect(), current) {
        (Expect::Any, _) | (Expect::Absent, None) => true,
        (Expect::Revision(expected), Some(current)) => current.revision == expected,
        (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
    };
    if holds { Ok(()) } else { Err(CommitError::Conflict { key: write.key().clone(), current: current.cloned() }) }
}
