//! core/v1, but for pods and services, which have files of their own.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::apps::{apply, default_template, replica_columns};
use super::columns::{age, containers, format_labels, len, name, or_none, text, wide};
use super::defaults::Defaults;
use super::row::row;
use super::validate::{self, core as rules, limits};
use super::{events, node, pod, podspec, service, volume};
use crate::kind::{Kind, Verb, VerbSet};
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    let mut rows = vec![
        row("", "v1", "Namespace", "namespaces")
            .cluster()
            .short(&["ns"])
            .without(Verb::DeleteCollection)
            .named(crate::names::dns1123_label)
            .sub("finalize", "v1 Namespace", VerbSet::UPDATE)
            .status()
            .default_by(default_namespace)
            .prepare_by(create_namespace, update_namespace)
            .validate_by(rules::namespace)
            .validate_status_by(rules::namespace_status_change)
            .columns(vec![name(), text("Status", |o, _| o.str(&["status", "phase"]).into()), age()])
            .select("status.phase", |o| o.str(&["status", "phase"]).to_owned()),
        row("", "v1", "ConfigMap", "configmaps")
            .short(&["cm"])
            .validate_by(rules::config_map)
            .validate_change_by(rules::config_map_change)
            .columns(vec![name(), text("Data", |o, _| (len(o, &["data"]) + len(o, &["binaryData"])).to_string().into()), age()]),
        row("", "v1", "Secret", "secrets")
            .default_by(default_secret)
            .validate_by(rules::secret)
            .validate_change_by(rules::secret_change)
            .columns(vec![
                name(),
                text("Type", |o, _| o.str(&["type"]).into()),
                text("Data", |o, _| len(o, &["data"]).to_string().into()),
                age(),
            ])
            .select("type", |o| o.str(&["type"]).to_owned()),
        row("", "v1", "ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .sub("token", "authentication.k8s.io/v1 TokenRequest", VerbSet::CREATE)
            .columns(vec![name(), text("Secrets", |o, _| len(o, &["secrets"]).to_string().into()), age()]),
        row("", "v1", "PodTemplate", "podtemplates")
            .put_creates()
            .counts_generations()
            .default_by(default_pod_template)
            .validate_by(rules::pod_template)
            .columns(vec![
                name(),
                text("Containers", |o, _| containers(o, &["template", "spec"], "name")),
                text("Images", |o, _| containers(o, &["template", "spec"], "image")),
                text("Pod Labels", |o, _| format_labels(o.get(&["template", "metadata", "labels"]))),
            ]),
        row("", "v1", "ReplicationController", "replicationcontrollers")
            .inert()
            .orphans()
            .short(&["rc"])
            .in_all()
            .scale()
            .status()
            .counts_generations()
            .default_by(default_replication_controller)
            .validate_by(rules::replication_controller)
            .warn_by(validate::template_warnings)
            .columns(
                replica_columns()
                    .into_iter()
                    .chain(super::columns::template())
                    .chain([wide("Selector", |o, _| format_labels(o.get(&["spec", "selector"])))])
                    .collect(),
            )
            .select("status.replicas", |o| o.int(&["status", "replicas"]).unwrap_or(0).to_string()),
        row("", "v1", "LimitRange", "limitranges")
            .short(&["limits"])
            .put_creates()
            .default_by(default_limit_range)
            .validate_by(limits::limit_range)
            .columns(vec![name(), created_at()]),
        row("", "v1", "ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .status()
            .default_by(default_resource_quota)
            .validate_by(limits::resource_quota)
            .validate_change_by(limits::resource_quota_change)
            .validate_status_by(limits::resource_quota_status_change)
            .columns(vec![name(), text("Request", |o, _| quota(o, true)), text("Limit", |o, _| quota(o, false)), age()]),
        row("", "v1", "ComponentStatus", "componentstatuses")
            .deprecated("v1 ComponentStatus is deprecated in v1.19+")
            .cluster()
            .short(&["cs"])
            .measured()
            .columns(vec![
                name(),
                text("Status", |o, _| condition(o, "status")),
                text("Message", |o, _| condition(o, "message")),
                text("Error", |o, _| condition(o, "error")),
            ]),
        row("", "v1", "Binding", "bindings").review(),
    ];
    rows.extend(pod::kinds());
    rows.extend(service::kinds());
    rows.extend(node::kinds());
    rows.extend(volume::kinds());
    rows.extend(events::core_kinds());
    rows
}

fn created_at() -> crate::kind::Column {
    text("Created At", |o, _| or_none(o.creation_timestamp()))
}

fn default_namespace(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name.into());
    }
    if object.str(&["status", "phase"]).is_empty() {
        object.set(&["status", "phase"], "Active".into());
    }
}

/// The finalizer that lets the namespace controller empty the namespace first.
fn create_namespace(object: &mut Object) {
    object.set(&["status", "phase"], "Active".into());
    let finalizer = Value::from("kubernetes");
    let mut finalizers = object.list(&["spec", "finalizers"]).to_vec();
    if !finalizers.contains(&finalizer) {
        finalizers.push(finalizer);
        object.set(&["spec", "finalizers"], finalizers.into());
    }
}

/// spec.finalizers change through the finalize subresource only.
fn update_namespace(new: &mut Object, old: &Object) {
    match old.get(&["spec", "finalizers"]) {
        Some(finalizers) => new.set(&["spec", "finalizers"], finalizers.clone()),
        None => {
            new.remove(&["spec", "finalizers"]);
        }
    }
}

/// stringData is write-only: it is merged into data.
fn default_secret(object: &mut Object) {
    use base64::Engine;
    if let Some(Value::Object(strings)) = object.remove(&["stringData"]) {
        for (key, value) in strings {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or(""));
            object.set(&["data", &key], encoded.into());
        }
    }
    if object.str(&["type"]).is_empty() {
        object.set(&["type"], "Opaque".into());
    }
}

fn default_pod_template(object: &mut Object) {
    if let Some(spec) = object.get_mut(&["template", "spec"]) {
        podspec::default_spec(spec);
    }
}

static REPLICATION_CONTROLLER: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("spec = {}\n spec.replicas = 1"));

fn default_replication_controller(object: &mut Object) {
    apply(object, &REPLICATION_CONTROLLER);
    let labels = object.get(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        for path in [["spec", "selector"], ["metadata", "labels"]] {
            if object.get(&path).and_then(Value::as_object).is_none_or(Map::is_empty) {
                object.set(&path, labels.clone());
            }
        }
    }
    default_template(object);
}

/// Maximum → default limit → default request ← minimum, for containers.
fn default_limit_range(object: &mut Object) {
    let Some(Value::Array(items)) = object.get_mut(&["spec", "limits"]) else { return };
    for item in items.iter_mut().filter(|item| item["type"] == "Container") {
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let values = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            let Some(map) = item.as_object_mut() else { continue };
            if let Some(target) = map.entry(to).or_insert(json!({})).as_object_mut() {
                for (name, value) in values {
                    target.entry(name).or_insert(value);
                }
            }
        }
    }
}

fn default_resource_quota(object: &mut Object) {
    if let Some(Value::Object(hard)) = object.get_mut(&["spec", "hard"]) {
        podspec::round_up_resources(hard);
    }
}

/// `cpu: 1/2, pods: 3/10`: used of hard; limits apart from the rest.
fn quota(object: &Object, requests: bool) -> Value {
    let hard = object.get(&["status", "hard"]).or(object.get(&["spec", "hard"])).and_then(Value::as_object);
    let mut lines = Vec::new();
    for (name, hard) in hard.into_iter().flatten() {
        if name.starts_with("limits.") == requests {
            continue;
        }
        let used = object.get(&["status", "used", name]).and_then(Value::as_str).unwrap_or("0");
        lines.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("")));
    }
    lines.join(", ").into()
}

fn condition(object: &Object, key: &str) -> Value {
    let healthy = object.list(&["conditions"]).iter().find(|condition| condition["type"] == "Healthy");
    let value = healthy.and_then(|condition| condition[key].as_str()).unwrap_or("");
    match (key, value) {
        ("status", "True") => "Healthy".into(),
        ("status", "False") => "Unhealthy".into(),
        ("status", _) => "Unknown".into(),
        (_, value) => value.into(),
    }
}
