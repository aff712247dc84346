//! What every kind does alike before a write is admitted: spec and status are kept apart, system metadata is kept,
//! generations are counted.

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;

/// Metadata that only the server writes.
const SYSTEM_METADATA: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// Metadata that a status update of most kinds leaves alone (upstream's ResetObjectMetaForStatus).
const STATUS_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// Kinds whose status writers may also label and annotate: the kubelet does so.
const STATUS_MAY_LABEL: [&str; 2] = ["core/pods", "core/nodes"];

pub(crate) fn update(kind: &Kind, new: &mut Object, old: &Object, subresource: &str) {
    match subresource {
        "" => object(kind, new, old),
        "status" => status(kind, new, old),
        // Upstream's namespace controller owns spec.finalizers; a finalize call changes nothing else.
        "finalize" => only(new, old, &["spec", "finalizers"]),
        "approval" => only(new, old, &["status", "conditions"]),
        "ephemeralcontainers" => only(new, old, &["spec", "ephemeralContainers"]),
        "resize" => resize(new, old),
        _ => {}
    }
    count_generation(kind, new, old);
}

fn object(kind: &Kind, new: &mut Object, old: &Object) {
    keep_metadata(new, old, &SYSTEM_METADATA);
    if kind.has_status {
        keep(new, old, &["status"]);
    }
    for field in kind.strategy.resets {
        keep(new, old, &[field]);
    }
    (kind.strategy.prepare_update)(new, old);
}

/// Everything of the old object but the status.
fn status(kind: &Kind, new: &mut Object, old: &Object) {
    keep_metadata(new, old, &SYSTEM_METADATA);
    if STATUS_MAY_LABEL.contains(&kind.storage_collection()) {
        keep_metadata(new, old, &["ownerReferences"]);
    } else {
        keep_metadata(new, old, &STATUS_METADATA);
    }
    // The class of a pod is decided when it is made, and no writer of its status needs to repeat it.
    if new.get(&["status", "qosClass"]).is_none() {
        keep(new, old, &["status", "qosClass"]);
    }
    let keys: Vec<String> = new.0.keys().chain(old.0.keys()).cloned().collect();
    for key in keys {
        if !["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()) {
            keep(new, old, &[&key]);
        }
    }
}

/// Everything of the old object but one value.
fn only(new: &mut Object, old: &Object, path: &[&str]) {
    let value = new.remove(path);
    restore(new, old);
    match value {
        Some(value) => new.set(path, value),
        None => {
            new.remove(path);
        }
    }
}

/// The old object, with the preconditions and field ownership of the new.
fn restore(new: &mut Object, old: &Object) {
    let kept = ["resourceVersion", "managedFields"].map(|key| (key, new.remove(&["metadata", key])));
    let uid = new.uid().to_owned();
    *new = old.clone();
    for (key, value) in kept {
        match value {
            Some(value) => new.set(&["metadata", key], value),
            None => {
                new.remove(&["metadata", key]);
            }
        }
    }
    if !uid.is_empty() {
        new.set(&["metadata", "uid"], uid.into());
    }
}

/// The old pod, with the new resources of its containers.
fn resize(new: &mut Object, old: &Object) {
    let wanted = new.clone();
    restore(new, old);
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = new.get_mut(&["spec", list]) else { continue };
        for container in containers {
            let found = wanted.list(&["spec", list]).iter().find(|other| other["name"] == container["name"]);
            let Some(other) = found else { continue };
            for key in ["resources", "resizePolicy"] {
                match (other.get(key), container.as_object_mut()) {
                    (Some(value), Some(map)) => map.insert(key.to_owned(), value.clone()),
                    (None, Some(map)) => map.remove(key),
                    (_, None) => None,
                };
            }
        }
    }
}

fn keep(new: &mut Object, old: &Object, path: &[&str]) {
    match old.get(path) {
        Some(value) => new.set(path, value.clone()),
        None => drop(new.remove(path)),
    }
}

/// A uid that the client sent stays: it is a precondition that the caller checks.
fn keep_metadata(new: &mut Object, old: &Object, keys: &[&str]) {
    for key in keys {
        if *key != "uid" || new.uid().is_empty() {
            keep(new, old, &["metadata", key]);
        }
    }
}

/// A new generation for every change outside metadata and status.
fn count_generation(kind: &Kind, new: &mut Object, old: &Object) {
    if !kind.generation {
        return;
    }
    // Without a status subresource, a status is a field like any other.
    let apart: &[&str] = if kind.has_status { &["apiVersion", "kind", "metadata", "status"] } else { &["apiVersion", "kind", "metadata"] };
    let is_desired = |(key, _): &(&String, &Value)| !apart.contains(&key.as_str());
    let changed = !new.0.iter().filter(is_desired).eq(old.0.iter().filter(is_desired));
    let generation = old.generation() + i64::from(changed);
    if generation > 0 {
        new.set(&["metadata", "generation"], generation.into());
    }
}
