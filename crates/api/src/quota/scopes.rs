//! Which pods and volume claims a quota with scopes is about. Other objects fall under no scope.

use serde_json::{Value, json};

use crate::kinds::qos_class;
use crate::object::Object;

/// Whether the object is in all scopes of the quota.
pub fn in_scope(quota: &Object, group: &str, resource: &str, object: &Object) -> bool {
    let plain = quota.list(&["spec", "scopes"]).iter().map(|scope| json!({"scopeName": scope, "operator": "Exists"}));
    let mut scopes = plain.chain(quota.list(&["spec", "scopeSelector", "matchExpressions"]).iter().cloned());
    scopes.all(|scope| match (group, resource) {
        ("", "pods") => pod_in(&scope, object),
        ("", "persistentvolumeclaims") => claim_in(&scope, object),
        _ => false,
    })
}

/// A claim whose volume is on its way from one class to another counts in both (evaluator/core/persistent_volume_claims.go).
fn claim_in(scope: &Value, claim: &Object) -> bool {
    if scope["scopeName"] != "VolumeAttributesClass" {
        return false;
    }
    let classes = [
        claim.str(&["spec", "volumeAttributesClassName"]),
        claim.str(&["status", "currentVolumeAttributesClassName"]),
        claim.str(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
    ];
    let mut classes = classes.into_iter().filter(|class| !class.is_empty()).peekable();
    match classes.peek() {
        None => is_selected(scope, ""),
        Some(_) => classes.any(|class| is_selected(scope, class)),
    }
}

/// Whether the scope's selector takes a class; an empty name is none.
fn is_selected(scope: &Value, class: &str) -> bool {
    let named = scope["values"].as_array().into_iter().flatten().any(|value| value == class);
    match scope["operator"].as_str().unwrap_or_default() {
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        "In" => !class.is_empty() && named,
        "NotIn" => !named,
        _ => false,
    }
}

fn pod_in(scope: &Value, pod: &Object) -> bool {
    let terminating = pod.int(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0);
    let best_effort = qos_class(pod) == "BestEffort";
    match scope["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => is_selected(scope, pod.str(&["spec", "priorityClassName"])),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether an affinity term looks into other namespaces.
fn crosses_namespaces(pod: &Object) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|affinity| {
        let list = |when: &str| pod.list(&["spec", "affinity", affinity, when]).to_vec();
        let required = list("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution").into_iter().map(|term| term["podAffinityTerm"].clone());
        required
            .into_iter()
            .chain(preferred)
            .any(|term| term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || !term["namespaceSelector"].is_null())
    })
}
