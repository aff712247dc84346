//! Deletes the objects of a definition that is being deleted, and then lets it go.
//!
//! Objects are deleted as a DELETE would, without admission, as upstream: those with finalizers are marked, and go when whoever set them has
//! removed them. The task waits for that on the store's watch of the collection.

use std::sync::Arc;

use jiff::Timestamp;
use knarr_api::{Kind, Object, custom};
use knarr_store::{Collection, CommitError, Entry, Expect, HistoryError, Key, Store, Write};
use serde_json::Value;

use crate::{
    request::options::DeleteOptions,
    verbs::delete::{self, Plan},
};

/// Times that the definition is read anew because another writer was faster. Each time someone else's write has succeeded.
const ATTEMPTS_MAX: usize = 100;

/// Deletes the objects of the definition under `key`, waits until all are gone, and removes its finalizer.
pub(super) async fn run(store: Arc<dyn Store>, key: Key, definition: &Object) {
    let Some(kind) = custom::any_row(definition) else { return finish(&*store, &key).await };
    let collection = Collection::new(kind.storage_collection());
    loop {
        let snapshot = store.snapshot();
        let entries: Vec<Arc<Entry>> = snapshot.range(&collection, "", None).cloned().collect();
        if entries.is_empty() {
            return finish(&*store, &key).await;
        }
        let Ok(mut watch) = store.watch(&collection, snapshot.revision) else { continue };
        drop(snapshot);
        let mut wrote = false;
        for entry in entries {
            match remove(&*store, &kind, &entry).await {
                Ok(done) => wrote |= done,
                Err(CommitError::Closed) => return,
                Err(error) => tracing::warn!(object = %entry.key, error = &error as &dyn std::error::Error, "delete a custom resource"),
            }
        }
        if !wrote && matches!(watch.next().await, Err(HistoryError::Closed)) {
            return;
        }
    }
}

/// Whether anything was written.
async fn remove(store: &dyn Store, kind: &Kind, entry: &Entry) -> Result<bool, CommitError> {
    let (key, expect) = (entry.key.clone(), Expect::Revision(entry.revision));
    let live: Object = serde_json::from_slice(&entry.value).unwrap_or_default();
    let write = match delete::plan(kind, &live, &DeleteOptions::default(), Timestamp::now()) {
        Plan::Wait => return Ok(false),
        Plan::Now => Write::Delete { key, expect },
        Plan::Mark(object) => put(key, &object, expect),
    };
    match store.commit(vec![write]).await {
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

fn put(key: Key, object: &Object, expect: Expect) -> Write {
    let encoded = object.encode();
    Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false }
}

/// Removes the finalizer; with the last one the definition goes.
async fn finish(store: &dyn Store, key: &Key) {
    for _ in 0..ATTEMPTS_MAX {
        let Some(entry) = store.snapshot().get(key).cloned() else { return };
        let mut object: Object = serde_json::from_slice(&entry.value).unwrap_or_default();
        let left: Vec<Value> = object.finalizers().filter(|finalizer| *finalizer != custom::CLEANUP).map(Value::from).collect();
        let expect = Expect::Revision(entry.revision);
        let write = if left.is_empty() {
            Write::Delete { key: key.clone(), expect }
        } else {
            object.set(&["metadata", "finalizers"], left.into());
            custom::status::set_condition(
                &mut object,
                "Terminating",
                false,
                "InstanceDeletionCompleted",
                "removed all instances",
                Timestamp::now(),
            );
            put(key.clone(), &object, expect)
        };
        match store.commit(vec![write]).await {
            Err(CommitError::Conflict { .. }) => {}
            Ok(_) | Err(CommitError::Closed) => return,
            Err(error) => return tracing::error!(definition = %key, error = &error as &dyn std::error::Error, "let a definition go"),
        }
    }
}
