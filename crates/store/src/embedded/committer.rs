//! The one thread that changes the store.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::{Options, Request, Shared, disk::Disk, record::Record};
use crate::{
    CommitError, Committed, Entry, Event, EventKind, Expect, Key, Revision, Snapshot, Write,
    seal::{Resealed, Sealing, SealingError},
};

/// Commits that share one flush. A batch of 64 already costs one tenth of a flush for each commit; more only adds to the wait of the first.
const BATCH_COMMITS_MAX: usize = 256;

/// Records that are sealed anew in one flush: a few milliseconds, in which commits wait.
const RESEAL_RECORDS: usize = 256;

pub(crate) struct Committer {
    disk: Disk,
    state: Snapshot,
    shared: Arc<Shared>,
    options: Options,
    /// Lazy entries that are published and not on disk, as they will be there.
    lazy: HashMap<Key, (Arc<Entry>, Record)>,
}

type Answer = oneshot::Sender<Result<Committed, CommitError>>;

/// The changes of one flush, in the order of their revisions.
#[derive(Default)]
struct Staged {
    events: Vec<Arc<Event>>,
    /// What each event writes.
    records: Vec<Record>,
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
            let mut others = Vec::new();
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Commit { writes, answer } => batch.push((writes, answer)),
                    Request::Close => open = false,
                    other => others.push(other),
                }
                next = if batch.len() < BATCH_COMMITS_MAX { requests.try_recv().ok() } else { None };
            }
            self.commit(batch);
            others.into_iter().for_each(|request| self.look_after(request));
        }
        let lazy: Vec<_> = self.lazy.drain().map(|(_, (_, record))| record).collect();
        if let Err(source) = self.disk.close(&lazy, self.state.revision) {
            tracing::error!(error = %source, "close the store; the last heartbeats are lost");
        }
    }

    /// What is not a commit. A caller that went away needs no answer.
    fn look_after(&mut self, request: Request) {
        match request {
            Request::SealWith { sealing, answer } => drop(answer.send(self.seal_with(sealing))),
            Request::Reseal { answer } => drop(answer.send(self.reseal())),
            Request::Seals { answer } => drop(answer.send(self.disk.seals())),
            Request::OpenShut { answer } => drop(answer.send(self.open_shut())),
            Request::Rewrite { answer } => {
                // What is shut is not in the state, and would be forgotten too.
                let done = self.all_open().and_then(|()| self.disk.rewrite(&self.state));
                if done.is_ok() {
                    self.lazy.clear();
                }
                drop(answer.send(done));
            }
            Request::Commit { .. } | Request::Close => unreachable!("taken by the loop"),
        }
    }

    /// Opens what was shut at the start. The objects do not change, and nobody could watch them yet: there is no event.
    fn open_shut(&mut self) -> Result<(), CommitError> {
        let result = self.disk.open_shut(&mut self.state);
        self.shared.publish(&self.state, Vec::new());
        self.shared.tell_shut(self.disk.shut());
        result
    }

    fn all_open(&self) -> Result<(), CommitError> {
        self.disk.shut().into_values().next().map_or(Ok(()), |shut| Err(CommitError::Shut(shut)))
    }

    fn seal_with(&mut self, sealing: Arc<Sealing>) -> Result<(), SealingError> {
        let unread = self.disk.seals().into_iter().find(|count| !sealing.knows(&count.collection, count.seal.as_ref()));
        if let Some(count) = unread {
            return Err(SealingError::StillNeeded { collection: count.collection, seal: count.seal, objects: count.objects });
        }
        if let Some((key, source)) = self.disk.unopened(&sealing) {
            return Err(SealingError::Unopened { key, source });
        }
        self.disk.seal_with(sealing, &self.state);
        for (entry, record) in self.lazy.values_mut() {
            // Where its key service is silent a heartbeat stays as it was sealed before: that can still be read.
            if let Ok(anew) = Record::of_entry(entry, self.disk.sealing()) {
                *record = anew;
            }
        }
        Ok(())
    }

    /// Seals some of the records that are sealed otherwise than they would be now. The objects do not change, and nobody is told.
    fn reseal(&mut self) -> Result<Resealed, CommitError> {
        self.all_open()?;
        // While a key service is silent nothing tells what is left to do, and done would be said of what is not.
        if let Some((key, source)) = self.disk.unmet() {
            return Err(CommitError::Seal { key, source });
        }
        let keys: Vec<Key> = self.disk.sealed_otherwise().take(RESEAL_RECORDS).cloned().collect();
        let mut records = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.state.get(&key) else { continue };
            let sealed = Record::of_entry(entry, self.disk.sealing());
            records.push(sealed.map_err(|source| CommitError::Seal { key, source })?);
        }
        self.disk.write(&records, &[], self.state.revision).map_err(|error| CommitError::Engine(Arc::new(error)))?;
        Ok(Resealed { rewritten: records.len(), left: self.disk.sealed_otherwise().count() })
    }

    fn commit(&mut self, batch: Vec<(Vec<Write>, Answer)>) {
        let full = self.full();
        let mut state = self.state.clone();
        let mut staged = Staged::default();
        for (writes, answer) in batch {
            let deletes_only = writes.iter().all(|write| matches!(write, Write::Delete { .. }));
            let result = match &full {
                Some((free, reserve)) if !deletes_only => Err(CommitError::Full { free: *free, reserve: *reserve }),
                _ => self.disk.refuse_shut(&writes).and_then(|()| stage(&mut state, &mut staged, writes, self.disk.sealing())),
            };
            match result {
                Ok(committed) => staged.answers.push((answer, committed)),
                // A caller that went away does not wait for the refusal.
                Err(refusal) => drop(answer.send(Err(refusal))),
            }
        }
        if let Err(error) = self.flush(&mut staged, state.revision) {
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
    fn flush(&mut self, staged: &mut Staged, revision: Revision) -> Result<(), fjall::Error> {
        let mut records = std::mem::take(&mut staged.records);
        if !staged.durable {
            if revision > self.disk.reserved() {
                self.disk.write(&[], &[], revision)?;
            }
            for (event, record) in staged.events.iter().zip(records) {
                self.lazy.insert(event.entry.key.clone(), (event.entry.clone(), record));
            }
            return Ok(());
        }
        if !self.lazy.is_empty() {
            let waiting = self.lazy.values().map(|(_, record)| record.clone());
            records.splice(..0, waiting.collect::<Vec<_>>());
        }
        self.disk.write(&records, &staged.events, revision)?;
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
fn stage(state: &mut Snapshot, staged: &mut Staged, writes: Vec<Write>, sealing: &Sealing) -> Result<Committed, CommitError> {
    // A single write fails before it changes anything; only several need a copy to fall back to.
    if let [only] = &writes[..] {
        check(only, state.get(only.key()))?;
    }
    let single = writes.len() == 1;
    let mut next = if single { std::mem::take(state) } else { state.clone() };
    let (mut events, mut records) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
    let mut durable = false;
    for write in writes {
        let current = next.get(write.key()).cloned();
        check(&write, current.as_ref())?;
        next.revision = Revision(next.revision.0 + 1);
        let event = match write {
            Write::Put { key, value, stamp, meta, lazy, .. } => {
                durable |= !lazy;
                let entry = Arc::new(Entry::stamped(key, next.revision, &value, stamp, meta));
                match Record::of_entry(&entry, sealing) {
                    Ok(record) => records.push(record),
                    Err(source) => {
                        if single {
                            next.revision = Revision(next.revision.0 - 1);
                            *state = next;
                        }
                        return Err(CommitError::Seal { key: entry.key.clone(), source });
                    }
                }
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
                records.push(Record::removal(key));
                Event::new(EventKind::Delete, Arc::new(current.restamped(next.revision)), Some(current))
            }
        };
        events.push(Arc::new(event));
    }
    *state = next;
    staged.durable |= durable;
    let committed = events.iter().map(|event| event.entry.clone()).collect();
    staged.events.extend(events);
    staged.records.extend(records);
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
