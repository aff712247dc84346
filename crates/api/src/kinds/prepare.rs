//! What every kind does alike before a write is admitted: spec and status are kept apart, system metadata is kept,
//! generations are counted.

use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::object::Object;

/// Metadata that only the server writes.
const SYSTEM_METADATA: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// All other metadata that a write could change (upstream's ResetObjectMetaForStatus).
pub(crate) const OBJECT_METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

pub(crate) fn update(kind: &Kind, new: &mut Object, old: &Object, subresource: &str) {
    match subresource {
        "" => object(kind, new, old),
        "status" => status(kind, new, old),
        // Upstream's namespace controller owns spec.finalizers; a finalize call changes nothing else outside of the metadata.
        "finalize" => only(new, old, &["spec", "finalizers"]),
        "approval" => only(new, old, &["status", "conditions"]),
        "ephemeralcontainers" => {
            keep_metadata(new, old, &OBJECT_METADATA);
            only(new, old, &["spec", "ephemeralContainers"]);
        }
        "resize" => {
            keep_metadata(new, old, &OBJECT_METADATA);
            resize(new, old);
        }
        _ => {}
    }
    let handed_on: &[&str] = if subresource.is_empty() { kind.strategy.generation_of } else { &[] };
    count_generation(kind, new, old, handed_on);
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

/// Everything of the old object but the status, and the metadata as far as the kind lets its writers of statuses change it.
fn status(kind: &Kind, new: &mut Object, old: &Object) {
    keep_metadata(new, old, kind.strategy.status_leaves);
    restore(new, old, &["status"]);
    (kind.strategy.prepare_status)(new, old);
}

/// Everything of the old object but the metadata and one value.
fn only(new: &mut Object, old: &Object, path: &[&str]) {
    let value = new.remove(path);
    restore(new, old, &[]);
    match value {
        Some(value) => new.set(path, value),
        None => {
            new.remove(path);
        }
    }
}

/// The old object, but for its metadata and the fields named.
fn restore(new: &mut Object, old: &Object, but: &[&str]) {
    keep_metadata(new, old, &SYSTEM_METADATA);
    let keys: Vec<String> = new.0.keys().chain(old.0.keys()).cloned().collect();
    for key in keys {
        if !["apiVersion", "kind", "metadata"].contains(&key.as_str()) && !but.contains(&key.as_str()) {
            keep(new, old, &[&key]);
        }
    }
}

/// The old pod, with the new resources of its containers and of itself.
fn resize(new: &mut Object, old: &Object) {
    let wanted = new.clone();
    restore(new, old, &[]);
    keep(new, &wanted, &["spec", "resources"]);
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

/// A new generation for every change outside metadata and status, and of the metadata named.
fn count_generation(kind: &Kind, new: &mut Object, old: &Object, handed_on: &[&str]) {
    if !kind.generation {
        return;
    }
    // Without a status subresource, a status is a field like any other.
    let apart: &[&str] = if kind.has_status { &["apiVersion", "kind", "metadata", "status"] } else { &["apiVersion", "kind", "metadata"] };
    let is_desired = |(key, _): &(&String, &Value)| !apart.contains(&key.as_str());
    let metadata =
        |object: &Object, key: &str| object.get(&["metadata", key]).filter(|value| **value != Value::Object(Map::new())).cloned();
    let changed = handed_on.iter().any(|key| metadata(new, key) != metadata(old, key))
        || !new.0.iter().filter(is_desired).eq(old.0.iter().filter(is_desired));
    let generation = old.generation() + i64::from(changed);
    if generation > 0 {
        new.set(&["metadata", "generation"], generation.into());
    }
}
