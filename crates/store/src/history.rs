//! The recent past: one log of events for each collection, shared by all who watch it.
//!
//! A watcher is a cursor into its collection's log, not a queue of its own: a thousand watchers cost no more memory than one, and a slow one
//! holds nothing back. It falls out of the log and is told so. Logs are bounded in events and in bytes; what falls out is compaction.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{Collection, Event, HistoryError, Revision, Snapshot};

/// Events kept for each collection. A watcher that reconnects within this many changes goes on where it was; upstream's watch cache keeps
/// between 100 and 102,400 (storage/cacher, defaultLowerBoundCapacity and defaultUpperBoundCapacity).
const EVENTS_MAX: usize = 8_192;

/// Object bytes that one collection's log may keep alive.
const BYTES_MAX: usize = 16 << 20;

/// Events handed to a watcher at once, so that a long backlog does not hold the log's lock or one task for long.
const BATCH_EVENTS_MAX: usize = 256;

/// The logs of all collections.
#[derive(Debug)]
pub(crate) struct History {
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// Every event up to here is in the logs, or was and is compacted.
    revision: Revision,
    /// Nothing before the opening of the store is in any log.
    opened_at: Revision,
    closed: bool,
    logs: HashMap<Collection, Log>,
}

#[derive(Debug)]
struct Log {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every event after this revision is in `events`.
    compacted: Revision,
    wake: watch::Sender<()>,
}

impl Log {
    fn new(compacted: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, compacted, wake: watch::Sender::new(()) }
    }

    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.events.len() > 1) {
            let Some(old) = self.events.pop_front() else { break };
            self.bytes -= old.weight();
            self.compacted = old.entry.revision;
        }
    }

    fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|event| event.entry.revision <= revision);
        self.events.range(start..)
    }
}

impl History {
    pub(crate) fn new(revision: Revision) -> Arc<Self> {
        let state = State { revision, opened_at: revision, closed: false, logs: HashMap::new() };
        Arc::new(Self { state: RwLock::new(state) })
    }

    /// Appends events, oldest first, and wakes those who wait for them.
    pub(crate) fn publish(&self, events: Vec<Arc<Event>>, revision: Revision) {
        let mut touched = Vec::new();
        let mut state = self.state.write();
        let opened_at = state.opened_at;
        for event in events {
            let collection = event.entry.key.collection.clone();
            let log = state.logs.entry(collection.clone()).or_insert_with(|| Log::new(opened_at));
            log.push(event);
            if touched.last() != Some(&collection) {
                touched.push(collection);
            }
        }
        state.revision = revision;
        for collection in &touched {
            if let Some(log) = state.logs.get(collection) {
                log.wake.send_replace(());
            }
        }
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        for log in state.logs.values() {
            log.wake.send_replace(());
        }
    }

    pub(crate) fn watch(self: &Arc<Self>, collection: &Collection, after: Revision) -> Result<Watch, HistoryError> {
        let mut state = self.state.write();
        state.check(collection, after)?;
        let opened_at = state.opened_at;
        let log = state.logs.entry(collection.clone()).or_insert_with(|| Log::new(opened_at));
        Ok(Watch { history: self.clone(), collection: collection.clone(), cursor: after, wake: log.wake.subscribe() })
    }

    /// `now` with the collection's changes after `revision` taken back. `now` must not be older than the history's own revision at call time.
    pub(crate) fn rewind(&self, now: &Snapshot, collection: &Collection, revision: Revision) -> Result<Snapshot, HistoryError> {
        let state = self.state.read();
        state.check(collection, revision)?;
        let mut past = now.only(collection, revision);
        if let Some(log) = state.logs.get(collection) {
            for event in log.after(revision).rev().filter(|event| event.entry.revision <= now.revision) {
                past.undo(event);
            }
        }
        Ok(past)
    }
}

impl State {
    fn check(&self, collection: &Collection, revision: Revision) -> Result<(), HistoryError> {
        let compacted = self.logs.get(collection).map_or(self.opened_at, |log| log.compacted);
        if revision < compacted {
            return Err(HistoryError::Compacted { oldest: compacted });
        }
        if revision > self.revision {
            return Err(HistoryError::Future { current: self.revision });
        }
        Ok(())
    }
}

/// Events in order, and how far they reach.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    /// Every event of the collection up to here has been delivered.
    pub revision: Revision,
}

/// The changes of one collection after a revision.
#[derive(Debug)]
pub struct Watch {
    history: Arc<History>,
    collection: Collection,
    cursor: Revision,
    wake: watch::Receiver<()>,
}

impl Watch {
    /// Waits for the next changes. Cancel-safe: what a dropped future would have returned is returned by the next call.
    ///
    /// [`HistoryError::Compacted`] means that this watcher was too slow; it must list again.
    pub async fn next(&mut self) -> Result<Batch, HistoryError> {
        loop {
            // Marked before looking: a change between the look and the wait is then a wake-up.
            self.wake.borrow_and_update();
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            if self.wake.changed().await.is_err() {
                return Err(HistoryError::Closed);
            }
        }
    }

    /// How far the watch has got: the store's own revision when nothing is waiting, else that of the last event returned. For bookmarks.
    pub fn progress(&mut self) -> Revision {
        let state = self.history.state.read();
        let behind =
            state.logs.get(&self.collection).and_then(|log| log.events.back()).is_some_and(|last| last.entry.revision > self.cursor);
        if !behind {
            self.cursor = self.cursor.max(state.revision);
        }
        self.cursor
    }

    fn take(&mut self) -> Result<Option<Batch>, HistoryError> {
        let state = self.history.state.read();
        if state.closed {
            return Err(HistoryError::Closed);
        }
        let Some(log) = state.logs.get(&self.collection) else {
            return Ok(None);
        };
        if self.cursor < log.compacted {
            return Err(HistoryError::Compacted { oldest: log.compacted });
        }
        let events: Vec<_> = log.after(self.cursor).take(BATCH_EVENTS_MAX).cloned().collect();
        let Some(last) = events.last() else { return Ok(None) };
        self.cursor = if events.len() < BATCH_EVENTS_MAX { state.revision } else { last.entry.revision };
        Ok(Some(Batch { events, revision: self.cursor }))
    }
}
