//! Keeps ServiceCIDRs and IPAddresses as they should be: all of them when the server starts, and each as it changes.

use std::sync::Arc;

use jiff::Timestamp;
use knarr_api::Object;
use knarr_store::{Collection, CommitError, Entry, EventKind, Expect, HistoryError, Key, Snapshot, Store, Write};

use super::{
    Allocator, addresses,
    ranges::{self, Next, Range},
};

/// IPAddresses written in one commit. Data of a build that knew none lacks all of them.
const WRITES_MAX: usize = 1_000;
/// Times that a start looks again because another writer was faster. With one server there is none.
const ATTEMPTS_MAX: usize = 5;

/// Gives every address of a Service its IPAddress, and takes away those that are of no Service any more.
pub(crate) async fn mend(store: &dyn Store) -> Result<(), CommitError> {
    let collection = Collection::new(addresses::COLLECTION);
    let mut attempt = 1;
    loop {
        let mut writes = addresses::plan(&collection, &store.snapshot(), Timestamp::now());
        if writes.is_empty() {
            return Ok(());
        }
        let mut result = Ok(Vec::new());
        while !writes.is_empty() && result.is_ok() {
            // One that is replaced is two writes, which may be parted: its address is its Service's meanwhile, as nothing is served yet.
            let rest = writes.split_off(writes.len().min(WRITES_MAX));
            result = store.commit(std::mem::replace(&mut writes, rest)).await;
        }
        match result {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Allocator {
    /// Says what is odd about the cluster's own range.
    pub(crate) fn check_own_range(&self) {
        let key = Key::new(&self.ranges, "", ranges::DEFAULT);
        let Some(stored) = self.store.snapshot().get(&key).and_then(|entry| ranges::read(entry)) else { return };
        let cidrs = stored.list(&["spec", "cidrs"]);
        if cidrs.first().is_none_or(|cidr| *cidr != self.own.trunc().to_string()) {
            tracing::warn!(
                configured = %self.own,
                stored = ?cidrs,
                "the ServiceCIDR kubernetes has another range than is configured, and Services get addresses of that; configure the same, or \
                 make a ServiceCIDR with the configured range and delete the ServiceCIDR kubernetes, which is then made anew"
            );
        }
    }

    /// Keeps ServiceCIDRs and IPAddresses until the store closes.
    pub(crate) async fn keep(&self) {
        loop {
            match self.follow().await {
                HistoryError::Closed => return,
                // Fallen behind: all are looked at again.
                HistoryError::Compacted { .. } | HistoryError::Future { .. } => {
                    if let Err(error) = mend(&*self.store).await {
                        tracing::error!(error = &error as &dyn std::error::Error, "put IPAddresses right");
                    }
                }
            }
        }
    }

    /// Ends with the reason why it cannot go on.
    async fn follow(&self) -> HistoryError {
        let revision = self.store.snapshot().revision;
        let watch = |collection: &Collection| self.store.watch(collection, revision);
        let (mut ranges, mut addresses) = match (watch(&self.ranges), watch(&self.addresses)) {
            (Ok(ranges), Ok(addresses)) => (ranges, addresses),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        let mut settled = false;
        loop {
            // What was refused because somebody else wrote meanwhile comes again with his change.
            if !settled {
                settled = self.settle().await;
            }
            tokio::select! {
                batch = ranges.next() => match batch {
                    Ok(_) => settled = false,
                    Err(error) => return error,
                },
                batch = addresses.next() => match batch {
                    Ok(batch) => {
                        // A ServiceCIDR that is deleted may have waited for it.
                        settled &= batch.events.iter().all(|event| event.kind == EventKind::Put);
                        for event in batch.events.iter().filter(|event| event.kind == EventKind::Put) {
                            let name = &event.entry.key.name;
                            let writes = addresses::mend(&self.addresses, &self.store.snapshot(), name, Timestamp::now());
                            self.commit(writes).await;
                        }
                    }
                    Err(error) => return error,
                },
                () = self.released.notified() => settled = false,
            }
        }
    }

    /// Brings every ServiceCIDR to its next state; whether all of them will stay there.
    async fn settle(&self) -> bool {
        let writes = self.plan();
        writes.is_empty() || self.commit(writes).await
    }

    pub(super) fn plan(&self) -> Vec<Write> {
        // Nothing is held any more from a range that this snapshot shows as deleted, unless it is among what is held now.
        let mut state = self.state.lock();
        let snapshot = self.store.snapshot();
        let all: Vec<(Arc<Entry>, Object)> = self.stored(&snapshot).collect();
        let now = Timestamp::now();
        let mut writes = Vec::new();
        for (entry, object) in &all {
            let stays = |(_, other): &&(Arc<Entry>, Object)| other.name() != object.name() && other.deletion_timestamp().is_empty();
            let others: Vec<Range> = all.iter().filter(stays).flat_map(|(_, other)| ranges::ranges(other)).collect();
            let mut held = false;
            let depends = |only_here: &dyn Fn(std::net::IpAddr) -> bool| {
                held = state.held.iter().any(|address| only_here(*address));
                let depends = |entry: &Arc<Entry>| {
                    entry.key.name.parse().is_ok_and(|address| only_here(address) && addresses::is_of_service(&snapshot, entry, address))
                };
                held || snapshot.range(&self.addresses, "", None).any(depends)
            };
            let (key, expect) = (entry.key.clone(), Expect::Revision(entry.revision));
            match ranges::next(object, &others, depends, now) {
                Next::Keep => {}
                Next::Delete => writes.push(Write::Delete { key, expect }),
                Next::Put(next) => writes.push(addresses::write(key, &next, expect)),
            }
            state.awaited |= held;
        }
        if !all.iter().any(|(_, object)| object.name() == ranges::DEFAULT) {
            writes.extend(self.own_range(now));
        }
        writes
    }

    fn stored<'a>(&self, snapshot: &'a Snapshot) -> impl Iterator<Item = (Arc<Entry>, Object)> + 'a {
        snapshot.range(&self.ranges, "", None).filter_map(|entry| Some((entry.clone(), ranges::read(entry)?)))
    }

    fn own_range(&self, now: Timestamp) -> Option<Write> {
        let mut object = Object::from_value(ranges::default_object(self.own, now))?;
        object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string().into());
        object.set(&["metadata", "creationTimestamp"], knarr_api::time::format(now).into());
        Some(addresses::write(Key::new(&self.ranges, "", ranges::DEFAULT), &object, Expect::Absent))
    }

    async fn commit(&self, writes: Vec<Write>) -> bool {
        if writes.is_empty() {
            return true;
        }
        match self.store.commit(writes).await {
            Ok(_) => true,
            // Somebody else wrote meanwhile, which wakes the watch; or the store closes.
            Err(CommitError::Conflict { .. } | CommitError::Closed) => false,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "keep ServiceCIDRs and IPAddresses; again with the next change");
                false
            }
        }
    }
}
