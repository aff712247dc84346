//! APIServices of what this server serves itself, and in what order groups and versions are listed.
//!
//! Every built-in version gets its APIService at the start, every version of a definition while the definition is served; clients list them to see
//! what there is and what of it works. Labels say who keeps an APIService, as upstream's autoregistration sets them.

use jiff::Timestamp;
use knarr_api::{Kinds, Object};
use knarr_store::{Collection, Entry, Expect, Key, Snapshot, Write};
use serde_json::{Value, json};

pub(super) const COLLECTION: &str = "apiregistration.k8s.io/apiservices";
/// The group of APIServices itself has none.
pub(crate) const OWN_GROUP: &str = "apiregistration.k8s.io";

/// Served here only until another server takes it over (metrics-server, by naming its Service in the APIService).
const METRICS_GROUP: &str = "metrics.k8s.io";

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Made when the server starts. Whoever removes it later, or takes the label off, has his way until the next start.
const ON_START: &str = "onstart";
/// Comes and goes with what it stands for.
const ALWAYS: &str = "true";

/// Priorities of groups (upstream's controlplane/apiserver/aggregator.go and kube-apiserver/app/aggregator.go).
const GROUPS: [(&str, i64); 23] = [
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("storagemigration.k8s.io", 15_800),
    // As metrics-server registers it.
    (METRICS_GROUP, 100),
];
/// Versions that do not have the priority of their stability.
const VERSIONS: [(&str, &str, i64); 4] =
    [("", "v1", 1), ("autoscaling", "v2", 30), ("flowcontrol.apiserver.k8s.io", "v1", 21), (METRICS_GROUP, "v1beta1", 100)];
/// Of definitions (upstream's crdregistration controller): behind all that is built in.
const CUSTOM: Priorities = Priorities { group: 1000, version: 100 };

/// Which groups, and which versions of a group, come first: the larger number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Priorities {
    pub(crate) group: i64,
    pub(crate) version: i64,
}

/// Those of a version that this server serves.
pub(crate) fn priorities(group: &str, version: &str) -> Priorities {
    if group == OWN_GROUP {
        return Priorities { group: i64::MAX, version: 1 };
    }
    let Some((_, of_group)) = GROUPS.iter().find(|(name, _)| *name == group) else { return CUSTOM };
    let special = VERSIONS.iter().find(|(name, other, _)| (*name, *other) == (group, version)).map(|(_, _, priority)| *priority);
    let by_stability = || match version {
        version if version.contains("alpha") => 1,
        version if version.contains("beta") => 9,
        _ => 15,
    };
    Priorities { group: *of_group, version: special.unwrap_or_else(by_stability) }
}

/// What must be written so that the APIServices of `kinds` are as they should be. `starting` is true once, when the server starts.
pub(super) fn plan(snapshot: &Snapshot, kinds: &Kinds, starting: bool, now: Timestamp) -> Vec<Write> {
    let collection = Collection::new(COLLECTION);
    let mut wanted: Vec<(String, &str, &str, &str)> = Vec::new();
    for kind in kinds.iter().filter(|kind| kind.group != OWN_GROUP) {
        let name = format!("{}.{}", kind.version, kind.group);
        let label = if kind.custom.is_some() { ALWAYS } else { ON_START };
        if !wanted.iter().any(|(other, ..)| *other == name) {
            wanted.push((name, &kind.group, &kind.version, label));
        }
    }
    let mut writes = Vec::new();
    for (name, group, version, label) in &wanted {
        let key = Key::new(&collection, "", name);
        match snapshot.get(&key) {
            None if starting || *label == ALWAYS => writes.push(put(key, Expect::Absent, made(name, group, version, label, now))),
            Some(entry) => {
                let kept = read(entry);
                let taken_over = *group == METRICS_GROUP && kept.get(&["spec", "service"]).is_some();
                let ours = !taken_over && kept.label(MANAGED).is_some_and(|label| label == ALWAYS || starting);
                let spec = spec(group, version);
                if ours && kept.get(&["spec"]) != Some(&spec) {
                    let mut mended = kept;
                    mended.set(&["spec"], spec);
                    writes.push(put(key, Expect::Revision(entry.revision), mended));
                }
            }
            None => {}
        }
    }
    for entry in snapshot.range(&collection, "", None).filter(|entry| !wanted.iter().any(|(name, ..)| **name == *entry.key.name)) {
        if read(entry).label(MANAGED).is_some_and(|label| label == ALWAYS || starting) {
            writes.push(Write::Delete { key: entry.key.clone(), expect: Expect::Revision(entry.revision) });
        }
    }
    writes
}

pub(super) fn read(entry: &Entry) -> Object {
    serde_json::from_slice(&entry.value).unwrap_or_default()
}

pub(super) fn put(key: Key, expect: Expect, mut object: Object) -> Write {
    object.metadata_mut().remove("resourceVersion");
    let encoded = object.encode();
    Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false }
}

fn spec(group: &str, version: &str) -> Value {
    let Priorities { group: of_group, version: of_version } = priorities(group, version);
    let mut spec = json!({"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    spec
}

fn made(name: &str, group: &str, version: &str, label: &str, now: Timestamp) -> Object {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let value = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": time, "labels": {MANAGED: label}},
        "spec": spec(group, version),
        "status": {"conditions": [{
            "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
            "lastTransitionTime": time}]},
    });
    Object::from_value(value).unwrap_or_default()
}
