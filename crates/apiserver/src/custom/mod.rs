//! Custom resources: the definitions in the store become kinds that are served, and their objects go when they go.
//!
//! The follower reads the store's own watch of the definitions. `plan` (in the `api` crate) decides names and conditions; rows are published before
//! the condition `Established` is written, so that whoever sees it finds the kind served. A deleted definition is held by a finalizer until
//! [`cleanup`] has deleted its objects.

mod cleanup;
mod convert;
mod registry;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use knarr_api::{Kind, Object, custom};
use knarr_store::{Collection, CommitError, EventKind, Expect, HistoryError, Key, Store, Watch, Write};
use serde_json::Value;
use tokio::task::JoinSet;

pub(crate) use convert::Conversions;
pub(crate) use registry::{Published, Registry};

/// Follows the definitions.
pub(crate) struct Follower {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    watch: Watch,
    known: BTreeMap<Arc<str>, Known>,
    cleaning: HashSet<String>,
    cleanups: JoinSet<String>,
}

/// One definition, and the rows that were made of it.
struct Known {
    key: Key,
    revision: u64,
    object: Object,
    /// What the rows were made of.
    source: Value,
    rows: Vec<Arc<Kind>>,
}

impl Known {
    fn new(key: Key, revision: u64, object: Object) -> Known {
        Known { key, revision, object, source: Value::Null, rows: Vec::new() }
    }

    /// Makes the rows anew if what they are made of has changed. Watches of kinds whose row is another end.
    fn refresh(&mut self) -> bool {
        let source = if custom::status::is_true(&self.object, "Established") {
            let part = |path: &[&str]| self.object.get(path).cloned().unwrap_or_default();
            serde_json::json!([part(&["spec"]), part(&["status", "acceptedNames"]), self.object.deletion_timestamp().is_empty()])
        } else {
            Value::Null
        };
        if source == self.source {
            return false;
        }
        self.rows =
            if source.is_null() { Vec::new() } else { custom::rows(&self.object, self.revision).into_iter().map(Arc::new).collect() };
        self.source = source;
        true
    }
}

impl Follower {
    /// Publishes the kinds of the definitions that are stored already.
    pub(crate) fn open(store: Arc<dyn Store>, registry: Arc<Registry>) -> Result<Follower, HistoryError> {
        let definitions = Collection::new(custom::DEFINITIONS);
        let snapshot = store.snapshot();
        let watch = store.watch(&definitions, snapshot.revision)?;
        let known = snapshot.range(&definitions, "", None).filter_map(|entry| {
            let object = serde_json::from_slice(&entry.value).ok()?;
            Some((entry.key.name.clone(), Known::new(entry.key.clone(), entry.revision.0, object)))
        });
        let known = known.collect();
        let mut follower = Follower { store, registry, watch, known, cleaning: HashSet::new(), cleanups: JoinSet::new() };
        follower.publish();
        Ok(follower)
    }

    /// Runs until the store closes.
    pub(crate) async fn run(mut self) {
        loop {
            self.settle().await;
            tokio::select! {
                batch = self.watch.next() => match batch {
                    Ok(batch) => batch.events.iter().for_each(|event| self.learn(event)),
                    Err(HistoryError::Closed) => return,
                    // Fallen behind, it begins again from the present.
                    Err(_) => match Follower::open(self.store.clone(), self.registry.clone()) {
                        Ok(again) => {
                            self.watch = again.watch;
                            self.known = again.known;
                        }
                        Err(_) => return,
                    },
                },
                Some(done) = self.cleanups.join_next() => match done {
                    Ok(name) => drop(self.cleaning.remove(&name)),
                    Err(error) => tracing::error!(%error, "delete the objects of a definition"),
                },
            }
        }
    }

    fn learn(&mut self, event: &knarr_store::Event) {
        let name = event.entry.key.name.clone();
        if event.kind == EventKind::Delete {
            self.known.remove(&name);
            return;
        }
        let Ok(object) = serde_json::from_slice::<Object>(&event.entry.value) else { return };
        let revision = event.entry.revision.0;
        match self.known.get_mut(&name) {
            Some(known) => (known.object, known.revision) = (object, revision),
            None => drop(self.known.insert(name, Known::new(event.entry.key.clone(), revision, object))),
        }
    }

    /// Decides, publishes, and then writes what was decided.
    async fn settle(&mut self) {
        let planned = custom::status::plan(self.known.values().map(|known| &known.object), Timestamp::now());
        let mut writes = Vec::with_capacity(planned.len());
        let keys: Vec<Arc<str>> = planned.iter().filter_map(|(index, _)| self.known.keys().nth(*index).cloned()).collect();
        for (key, (_, status)) in keys.iter().zip(planned) {
            let Some(known) = self.known.get_mut(key) else { continue };
            known.object.set(&["status"], status);
            let encoded = known.object.encode();
            writes.push(Write::Put {
                key: known.key.clone(),
                value: encoded.bytes.into(),
                stamp: encoded.stamp,
                meta: None,
                expect: Expect::Revision(knarr_store::Revision(known.revision)),
                lazy: false,
            });
        }
        self.publish();
        for write in writes {
            let name = write.key().name.clone();
            match self.store.commit(vec![write]).await {
                // Someone changed it meanwhile: that change is on its way here.
                Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Closed) => {}
                Err(error) => {
                    tracing::error!(definition = &*name, error = &error as &dyn std::error::Error, "write the status of a definition");
                }
            }
        }
        self.clean_up();
    }

    fn publish(&mut self) {
        let mut changed = false;
        for known in self.known.values_mut() {
            changed |= known.refresh();
        }
        let rows: Vec<Arc<Kind>> = self.known.values().flat_map(|known| known.rows.iter().cloned()).collect();
        if changed || !self.registry.has_exactly(&rows) {
            self.registry.publish(&rows);
        }
    }

    /// Begins to delete the objects of definitions that are being deleted.
    fn clean_up(&mut self) {
        for (name, known) in &self.known {
            let due =
                !known.object.deletion_timestamp().is_empty() && known.object.finalizers().any(|finalizer| finalizer == custom::CLEANUP);
            if due && self.cleaning.insert(name.to_string()) {
                let (store, key, object) = (self.store.clone(), known.key.clone(), known.object.clone());
                let name = name.to_string();
                self.cleanups.spawn(async move {
                    cleanup::run(store, key, &object).await;
                    name
                });
            }
        }
    }
}
