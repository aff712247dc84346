//! Which groups, versions and resources there are: one document for each group and version, as it was first, or one for all, as clients of today
//! ask for it (KEP-3352).

use std::{cmp::Reverse, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Response, header, request::Parts};
use knarr_api::{Kind, Kinds, Status, Verb, status};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{json_answer, tagged};
use crate::{
    aggregation::{Availability, Priorities, Remote, priorities},
    body::Body,
    custom::Published,
    request::{media, options::Query},
    server::Core,
};

/// A group, and its versions, the best first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<Version<'a>>,
}

struct Version<'a> {
    name: &'a str,
    /// The server that serves it, if it is not this one.
    remote: Option<&'a Remote>,
    priorities: Priorities,
}

/// All groups, the most important first, as APIServices order them (kube-aggregator, SortedByGroupAndVersion).
fn all(published: &Published) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let elsewhere = published
        .remotes
        .iter()
        .map(|remote| (&*remote.group, Version { name: &remote.version, remote: Some(remote), priorities: remote.priorities }));
    let here = published
        .kinds
        .iter()
        .map(|kind| (&*kind.group, Version { name: &kind.version, remote: None, priorities: priorities(&kind.group, &kind.version) }));
    for (name, version) in elsewhere.chain(here) {
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) if group.versions.iter().any(|known| known.name == version.name) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name, versions: vec![version] }),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|version| Reverse((version.priorities.version, priority(version.name))));
    }
    let importance = |group: &Group<'_>| group.versions.iter().map(|version| version.priorities.group).max();
    groups.sort_by(|a, b| importance(b).cmp(&importance(a)).then_with(|| a.name.cmp(b.name)));
    groups
}

/// `/api`
pub(super) fn core_versions(core: &Core, published: &Published, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if let Some(version) = aggregated_version(parts) {
        return Ok(aggregated(published, parts, version, true));
    }
    let address = core.address();
    let groups = all(published);
    let versions = groups.iter().filter(|group| group.name.is_empty()).flat_map(|group| &group.versions);
    let value = json!({
        "kind": "APIVersions",
        "versions": versions.map(|version| version.name).collect::<Vec<_>>(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    });
    json_answer(parts, query, &value)
}

/// `/apis`
pub(super) fn groups(published: &Published, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if let Some(version) = aggregated_version(parts) {
        return Ok(aggregated(published, parts, version, false));
    }
    let groups: Vec<_> = all(published).iter().filter(|group| !group.name.is_empty()).map(group_value).collect();
    json_answer(parts, query, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/<group>`
pub(super) fn group(published: &Published, name: &str) -> Result<Value, Status> {
    let groups = all(published);
    let found = groups.iter().find(|group| group.name == name && !name.is_empty()).ok_or_else(status::no_such_resource)?;
    let mut value = group_value(found);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(value)
}

fn group_value(group: &Group<'_>) -> Value {
    let version = |version: &Version<'_>| json!({"groupVersion": format!("{}/{}", group.name, version.name), "version": version.name});
    let versions: Vec<_> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// Stable before beta before alpha, and newer before older (apimachinery, pkg/version, CompareKubeAwareVersionStrings).
fn priority(version: &str) -> (u8, u32, u32) {
    let split = |text: &str, word: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once(word)?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let Some(text) = version.strip_prefix('v') else { return (0, 0, 0) };
    if let Ok(major) = text.parse() {
        return (3, major, 0);
    }
    if let Some((major, minor)) = split(text, "beta") {
        return (2, major, minor);
    }
    split(text, "alpha").map_or((0, 0, 0), |(major, minor)| (1, major, minor))
}

fn rows<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Kind>> {
    kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// `/api/v1`, `/apis/<group>/<version>`
pub(super) fn resources(kinds: &Kinds, group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    for kind in rows(kinds, group, version) {
        list.push(resource(kinds, kind));
        list.extend(kind.subresources.iter().map(|sub| {
            let mut value = json!({
                "name": format!("{}/{}", kind.resource, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced(),
                "kind": sub.kind,
                "verbs": sub.verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
            });
            if (&sub.group, &sub.version) != (&kind.group, &kind.version) {
                value["group"] = sub.group.as_ref().into();
                value["version"] = sub.version.as_ref().into();
            }
            value
        }));
    }
    if list.is_empty() {
        return Err(status::no_such_resource());
    }
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list}))
}

fn resource(kinds: &Kinds, kind: &Kind) -> Value {
    let mut value = json!({
        "name": kind.resource,
        "singularName": kind.singular,
        "namespaced": kind.namespaced(),
        "kind": kind.kind,
        "verbs": verbs(kind),
    });
    put_names(value.as_object_mut(), kind);
    if !kind.virtual_ {
        value["storageVersionHash"] = storage_version_hash(kinds, kind).into();
    }
    value
}

/// Tells clients that two versions are the same objects, and when they are stored in another version than before (endpoints/discovery,
/// StorageVersionHash).
fn storage_version_hash(kinds: &Kinds, kind: &Kind) -> String {
    let stored_as = match &kind.custom {
        Some(custom) => format!("{}/{}/{}", kind.group, custom.storage_version, kind.kind),
        None => {
            let stored = kinds.iter().find(|row| row.storage_collection() == kind.storage_collection() && !row.converts());
            let stored = stored.map_or(kind, |row| row);
            format!("{}/{}/{}", stored.group, stored.version, stored.kind)
        }
    };
    STANDARD.encode(&Sha256::digest(stored_as)[..8])
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    // Its objects may still be written, to let them go; nobody is to find them and begin (customresource_discovery_controller.go).
    let ends = kind.custom.as_ref().is_some_and(|custom| custom.terminating);
    let shown = kind.verbs.iter().filter(|verb| !(ends && matches!(verb, Verb::Create | Verb::Patch | Verb::Update)));
    shown.map(|verb| verb.as_str()).collect()
}

fn put_names(value: Option<&mut Map<String, Value>>, kind: &Kind) {
    let Some(map) = value else { return };
    for (field, names) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !names.is_empty() {
            map.insert(field.to_owned(), names.iter().map(|name| name.as_ref()).collect());
        }
    }
}

/// The version of apidiscovery.k8s.io that the client likes best, if it knows one.
fn aggregated_version(parts: &Parts) -> Option<&'static str> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    // In the client's order: whoever prefers the plain documents gets them.
    let best = media::ranges(accept).into_iter().find(|range| {
        let plain = range.param("as").is_none() && range.accepts(media::JSON);
        plain || wanted(range).is_some()
    })?;
    wanted(&best)
}

fn wanted(range: &media::Range<'_>) -> Option<&'static str> {
    let fits =
        range.accepts(media::JSON) && range.param("g") == Some("apidiscovery.k8s.io") && range.param("as") == Some("APIGroupDiscoveryList");
    match range.param("v") {
        Some("v2") if fits => Some("v2"),
        Some("v2beta1") if fits => Some("v2beta1"),
        _ => None,
    }
}

fn aggregated(published: &Published, parts: &Parts, version: &str, core_group: bool) -> Response<Body> {
    let groups = all(published);
    let groups = groups.iter().filter(|group| group.name.is_empty() == core_group);
    let items: Vec<_> = groups.map(|group| aggregated_group(&published.kinds, group)).collect();
    let value =
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    // Without the echo clients take it for the old document.
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let media = HeaderValue::try_from(media).unwrap_or(HeaderValue::from_static(media::JSON));
    tagged(&parts.headers, value.to_string().into(), media)
}

fn aggregated_group(kinds: &Kinds, group: &Group<'_>) -> Value {
    let name = group.name;
    let versions: Vec<_> = group
        .versions
        .iter()
        .map(|version| match version.remote {
            None => {
                let resources: Vec<_> = rows(kinds, name, version.name).map(|kind| aggregated_resource(kind)).collect();
                json!({"version": version.name, "freshness": "Current", "resources": resources})
            }
            // Of a server that does not answer what it last told, so that clients know what they miss.
            Some(remote) => {
                let freshness = if remote.availability == Availability::Available { "Current" } else { "Stale" };
                let resources = remote.told.resources.clone().unwrap_or_else(|| json!([]));
                json!({"version": version.name, "freshness": freshness, "resources": resources})
            }
        })
        .collect();
    let metadata = if name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": name, "creationTimestamp": null}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut value = json!({
        "resource": kind.resource,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": verbs(kind),
    });
    put_names(value.as_object_mut(), kind);
    if !kind.subresources.is_empty() {
        let subresources = kind.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                "verbs": sub.verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
            })
        });
        value["subresources"] = subresources.collect();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_order_of_preference() {
        let mut versions = ["v1alpha1", "v2", "v1", "v2beta1", "v1beta2", "x"];
        versions.sort_by_key(|version| Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "x"]);
    }
}
