//! Which groups, versions and resources there are: one document for each group and version, as it was first, or one for all, as clients of today
//! ask for it (KEP-3352).

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderValue, Response, header, request::Parts};
use knarr_api::{Kind, Kinds, Status, status};
use serde_json::{Map, Value, json};

use super::{json_answer, tagged};
use crate::{
    body::Body,
    request::{media, options::Query},
    server::Core,
};

/// Groups that upstream lists first, in its order (controlplane/instance.go); the others follow by name.
const FIRST: [&str; 11] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

/// `/api`
pub(super) fn core_versions(core: &Core, kinds: &Kinds, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if let Some(version) = aggregated_version(parts) {
        return Ok(aggregated(kinds, parts, version, true));
    }
    let address = core.address();
    let value = json!({
        "kind": "APIVersions",
        "versions": versions(kinds, ""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    });
    json_answer(parts, query, &value)
}

/// `/apis`
pub(super) fn groups(kinds: &Kinds, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if let Some(version) = aggregated_version(parts) {
        return Ok(aggregated(kinds, parts, version, false));
    }
    let groups: Vec<_> = group_names(kinds).iter().map(|name| group_value(kinds, name)).collect();
    json_answer(parts, query, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/<group>`
pub(super) fn group(kinds: &Kinds, name: &str) -> Result<Value, Status> {
    if name.is_empty() || versions(kinds, name).is_empty() {
        return Err(status::no_such_resource());
    }
    let mut value = group_value(kinds, name);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(value)
}

fn group_value(kinds: &Kinds, name: &str) -> Value {
    let versions: Vec<_> =
        versions(kinds, name).iter().map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version})).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// All groups but the core one.
fn group_names(kinds: &Kinds) -> Vec<String> {
    let mut names: Vec<String> = kinds.iter().filter(|kind| !kind.group.is_empty()).map(|kind| kind.group.to_string()).collect();
    names.sort_by_key(|name| (FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()), name.clone()));
    names.dedup();
    names
}

/// The versions of a group, the best first.
fn versions(kinds: &Kinds, group: &str) -> Vec<String> {
    let mut versions: Vec<String> = kinds.iter().filter(|kind| kind.group == group).map(|kind| kind.version.to_string()).collect();
    versions.sort_by_key(|version| Reverse(priority(version)));
    versions.dedup();
    versions
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
        list.push(resource(kind));
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

fn resource(kind: &Kind) -> Value {
    let mut value = json!({
        "name": kind.resource,
        "singularName": kind.singular,
        "namespaced": kind.namespaced(),
        "kind": kind.kind,
        "verbs": kind.verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
    });
    put_names(value.as_object_mut(), kind);
    if !kind.virtual_ {
        // Tells clients that two versions are the same objects.
        value["storageVersionHash"] = super::hash(kind.storage_collection().as_bytes())[..11].into();
    }
    value
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

fn aggregated(kinds: &Kinds, parts: &Parts, version: &str, core_group: bool) -> Response<Body> {
    let groups = if core_group { vec![String::new()] } else { group_names(kinds) };
    let items: Vec<_> = groups.iter().map(|group| aggregated_group(kinds, group)).collect();
    let value =
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    // Without the echo clients take it for the old document.
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let media = HeaderValue::try_from(media).unwrap_or(HeaderValue::from_static(media::JSON));
    tagged(&parts.headers, value.to_string().into(), media)
}

fn aggregated_group(kinds: &Kinds, group: &str) -> Value {
    let versions: Vec<_> = versions(kinds, group)
        .iter()
        .map(|version| {
            let resources: Vec<_> = rows(kinds, group, version).map(|kind| aggregated_resource(kind)).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut value = json!({
        "resource": kind.resource,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>(),
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
