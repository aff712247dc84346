//! Room in the quotas of a namespace, taken in the very commit that needs it: no object is stored without its charge, and none is charged that is
//! not stored.
//!
//! Charges of one namespace take turns, since they change the same quotas. The controller that keeps the status writes it too; when it was faster,
//! the charge is computed anew. What is given back when objects go is the controller's.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use knarr_api::{Kind, Object, Status, quota, status};
use knarr_store::{Collection, CommitError, Committed, Entry, Expect, Snapshot, Store, Write};

const QUOTAS: &str = "core/resourcequotas";
/// How often a charge is computed anew because the quotas changed meanwhile: each time the controller has written, which is seldom.
const ATTEMPTS_MAX: usize = 20;
/// Namespaces that share a turn by chance wait for each other's commit; there are at least this many.
const TURNS: usize = 64;

/// Whose turn it is to charge.
pub(crate) struct Turns {
    turns: [tokio::sync::Mutex<()>; TURNS],
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self { turns: std::array::from_fn(|_| tokio::sync::Mutex::default()), hasher: RandomState::new() }
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.hasher.hash_one(namespace) % TURNS as u64;
        self.turns[usize::try_from(turn).unwrap_or_default()].lock().await
    }
}

/// A write that is to be charged.
pub(crate) struct Charge<'a> {
    kind: &'a Kind,
    /// As it is to be, in the version of the request.
    new: Object,
    old: Option<&'a Object>,
}

impl<'a> Charge<'a> {
    /// None if nothing is counted, which is so in most namespaces.
    pub(crate) fn of(snapshot: &Snapshot, kind: &'a Kind, subresource: &str, new: &Object, old: Option<&'a Object>) -> Option<Self> {
        let counted = quota::Request { group: &kind.group, resource: &kind.resource, new, old }.is_counted(subresource);
        if !counted || new.namespace().is_empty() || quotas(snapshot, new.namespace()).is_empty() {
            return None;
        }
        Some(Self { kind, new: new.clone(), old })
    }

    /// Refuses with a 403 if there is no room.
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<(), Status> {
        self.writes(snapshot).map(drop)
    }

    /// Commits `writes` with the charge. What was committed begins with them.
    pub(crate) async fn commit(
        &self,
        store: &dyn Store,
        turns: &Turns,
        writes: Vec<Write>,
    ) -> Result<Result<Committed, CommitError>, Status> {
        let _turn = turns.take(self.new.namespace()).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut all = writes.clone();
            all.extend(self.writes(&store.snapshot())?);
            match store.commit(all).await {
                Err(CommitError::Conflict { key, .. }) if !writes.iter().any(|write| *write.key() == key) => {}
                other => return Ok(other),
            }
        }
        Err(status::conflict("", "resourcequotas", "", "the quotas of the namespace change too fast; please apply your changes again"))
    }

    /// The quotas as they are to be with the charge.
    fn writes(&self, snapshot: &Snapshot) -> Result<Vec<Write>, Status> {
        let entries = quotas(snapshot, self.new.namespace());
        let objects: Vec<Object> = entries.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap_or_default()).collect();
        let request = quota::Request { group: &self.kind.group, resource: &self.kind.resource, new: &self.new, old: self.old };
        let charged = request.charge(&objects);
        let charged = charged.map_err(|why| status::forbidden(&self.kind.group, &self.kind.resource, self.new.name(), &why))?;
        let write = |(index, used): (usize, quota::Amounts)| {
            let (entry, mut quota) = (&entries[index], objects[index].clone());
            quota.set(&["status", "used"], quota::to_value(&used));
            let encoded = quota.encode();
            let expect = Expect::Revision(entry.revision);
            Write::Put { key: entry.key.clone(), value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false }
        };
        Ok(charged.into_iter().map(write).collect())
    }
}

fn quotas(snapshot: &Snapshot, namespace: &str) -> Vec<Arc<Entry>> {
    snapshot.range(&Collection::new(QUOTAS), &format!("{namespace}/"), None).cloned().collect()
}
