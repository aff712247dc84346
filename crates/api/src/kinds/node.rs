//! Nodes.

use serde_json::Value;

use super::columns::{age, name, or_none, text, wide};
use super::row::row;
use super::validate::core as rules;
use crate::kind::{Kind, VerbSet};
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("", "v1", "Node", "nodes")
            .cluster()
            .short(&["no"])
            .sub("proxy", "v1 NodeProxyOptions", VerbSet::PROXY)
            .status()
            .status_on_create()
            .default_by(default_node)
            .validate_by(rules::node)
            .validate_change_by(rules::node_change)
            .columns(vec![
                name(),
                text("Status", status),
                text("Roles", roles),
                age(),
                text("Version", |o, _| o.str(&["status", "nodeInfo", "kubeletVersion"]).into()),
                wide("Internal-IP", |o, _| address(o, "InternalIP")),
                wide("External-IP", |o, _| address(o, "ExternalIP")),
                wide("OS-Image", |o, _| or_unknown(o.str(&["status", "nodeInfo", "osImage"]))),
                wide("Kernel-Version", |o, _| or_unknown(o.str(&["status", "nodeInfo", "kernelVersion"]))),
                wide("Container-Runtime", |o, _| or_unknown(o.str(&["status", "nodeInfo", "containerRuntimeVersion"]))),
            ])
            .select("spec.unschedulable", |o| o.bool(&["spec", "unschedulable"]).to_string()),
    ]
}

/// What a node that says nothing has to give is what it has.
fn default_node(object: &mut Object) {
    if object.get(&["status", "allocatable"]).is_none()
        && let Some(capacity) = object.get(&["status", "capacity"]).cloned()
    {
        object.set(&["status", "allocatable"], capacity);
    }
}

fn status(object: &Object, _: jiff::Timestamp) -> Value {
    let ready = object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let mut text = match ready.and_then(|condition| condition["status"].as_str()) {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if object.bool(&["spec", "unschedulable"]) {
        text.push_str(",SchedulingDisabled");
    }
    text.into()
}

fn roles(object: &Object, _: jiff::Timestamp) -> Value {
    let mut roles: Vec<&str> = object
        .labels()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(&roles.join(","))
}

fn address(object: &Object, ty: &str) -> Value {
    let found = object.list(&["status", "addresses"]).iter().find(|address| address["type"] == ty);
    or_none(found.and_then(|address| address["address"].as_str()).unwrap_or(""))
}

fn or_unknown(text: &str) -> Value {
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}
