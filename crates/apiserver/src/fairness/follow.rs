//! Follows the stored configuration: puts it in force, says of each schema whether its level exists, and brings mandatory objects back.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use knarr_api::Object;
use knarr_store::{Collection, Entry, Expect, HistoryError, Revision, Write};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Fairness,
    schema::{FlowSchema, PriorityLevel},
};
use crate::bootstrap::mandatory_flow;

pub(super) const SCHEMAS: &str = "flowcontrol.apiserver.k8s.io/flowschemas";
pub(super) const LEVELS: &str = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations";

/// The condition by which a schema says whether its level exists.
const DANGLING: &str = "Dangling";

/// Until the store closes.
pub(super) async fn run(fairness: Arc<Fairness>, mut revision: Revision) {
    loop {
        fairness.settle().await;
        match changed(&fairness, revision).await {
            HistoryError::Closed => return,
            HistoryError::Compacted { .. } | HistoryError::Future { .. } => revision = fairness.rebuild(),
        }
    }
}

/// Waits for a change after `revision`. What changed is read anew as a whole: there are a few dozen of these objects.
async fn changed(fairness: &Fairness, revision: Revision) -> HistoryError {
    let watch = |name: &str| fairness.store.watch(&Collection::new(name), revision);
    let (mut schemas, mut levels) = match (watch(SCHEMAS), watch(LEVELS)) {
        (Ok(schemas), Ok(levels)) => (schemas, levels),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let ended = tokio::select! {
        batch = schemas.next() => batch.err(),
        batch = levels.next() => batch.err(),
    };
    ended.unwrap_or(HistoryError::Compacted { oldest: revision })
}

impl Fairness {
    /// Puts what is stored in force; answers its revision.
    pub(super) fn rebuild(&self) -> Revision {
        let snapshot = self.store.snapshot();
        let mut schemas: Vec<Arc<FlowSchema>> = read_all(snapshot.range(&Collection::new(SCHEMAS), "", None));
        let mut levels: Vec<Arc<PriorityLevel>> = read_all(snapshot.range(&Collection::new(LEVELS), "", None));
        // What is mandatory holds also in the moment in which it is not stored.
        let known: BTreeSet<String> = schemas.iter().map(|schema| schema.metadata.name.clone()).collect();
        let known_levels: BTreeSet<String> = levels.iter().map(|level| level.metadata.name.clone()).collect();
        for (collection, value) in mandatory_flow() {
            if collection == SCHEMAS {
                schemas.extend(parse::<FlowSchema>(value).filter(|schema| !known.contains(&schema.metadata.name)));
            } else {
                levels.extend(parse::<PriorityLevel>(value).filter(|level| !known_levels.contains(&level.metadata.name)));
            }
        }
        self.set(schemas, &levels);
        snapshot.revision
    }
}

impl Fairness {
    /// Writes conditions that are not true any more, and mandatory objects that are gone.
    pub(super) async fn settle(&self) {
        let snapshot = self.store.snapshot();
        let levels: BTreeSet<&str> = snapshot.range(&Collection::new(LEVELS), "", None).map(|entry| &*entry.key.name).collect();
        let schemas = snapshot.range(&Collection::new(SCHEMAS), "", None);
        let mut writes: Vec<Write> = schemas.filter_map(|entry| with_condition(entry, &levels, Timestamp::now())).collect();
        writes.extend(crate::bootstrap::missing_flow(&snapshot));
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.store.commit(writes).await {
            // Someone else wrote meanwhile, which wakes the watch; or the disk is full, which others tell of.
            tracing::debug!(%error, "write the state of flow schemas");
        }
    }
}

fn read_all<'a, T: DeserializeOwned>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<Arc<T>> {
    let read = |entry: &Arc<Entry>| {
        let read = serde_json::from_slice(&entry.value);
        // Nothing but the API server writes there, after validation.
        read.inspect_err(
            |error| tracing::error!(key = %entry.key, %error, "stored flow control object cannot be read; it is taken as absent"),
        )
        .ok()
        .map(Arc::new)
    };
    entries.filter_map(read).collect()
}

fn parse<T: DeserializeOwned>(value: Value) -> Option<Arc<T>> {
    serde_json::from_value(value).ok().map(Arc::new)
}

/// The schema with the condition as it is, or none where it says so already.
fn with_condition(entry: &Entry, levels: &BTreeSet<&str>, now: Timestamp) -> Option<Write> {
    let mut value: Value = serde_json::from_slice(&entry.value).ok()?;
    let level = value.pointer("/spec/priorityLevelConfiguration/name")?.as_str()?.to_owned();
    let exists = levels.contains(&*level);
    let (status, reason, end) = if exists { ("False", "Found", "it exists") } else { ("True", "NotFound", "there is no such object") };
    // Upstream's words (apf_controller.go).
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and {end}");
    let conditions = value.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_it = |condition: &Value| condition["type"] == DANGLING;
    let before = conditions.iter().find(|condition| is_it(condition));
    if before.is_some_and(|before| before["status"] == status && before["message"] == *message) {
        return None;
    }
    let same = before.filter(|before| before["status"] == status).map(|before| before["lastTransitionTime"].clone());
    let since = same.unwrap_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    let mut conditions: Vec<Value> = conditions.into_iter().filter(|condition| !is_it(condition)).collect();
    conditions.push(json!({"type": DANGLING, "status": status, "lastTransitionTime": since, "reason": reason, "message": message}));
    value["status"] = json!({"conditions": conditions});
    let mut object = Object::from_value(value)?;
    object.0.get_mut("metadata").and_then(Value::as_object_mut)?.remove("resourceVersion");
    let encoded = object.encode();
    let (key, expect) = (entry.key.clone(), Expect::Revision(entry.revision));
    Some(Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false })
}
