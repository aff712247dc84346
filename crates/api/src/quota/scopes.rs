//! Which pods a quota with scopes is about. Other objects fall under no scope.

use serde_json::{Value, json};

use crate::kinds::qos_class;
use crate::object::Object;

/// Whether the object is in all scopes of the quota.
pub fn in_scope(quota: &Object, group: &str, resource: &str, object: &Object) -> bool {
    let plain = quota.list(&["spec", "scopes"]).iter().map(|scope| json!({"scopeName": scope, "operator": "Exists"}));
    let mut scopes = plain.chain(quota.list(&["spec", "scopeSelector", "matchExpressions"]).iter().cloned());
    scopes.all(|scope| (group, resource) == ("", "pods") && pod_in(&scope, object))
}

fn pod_in(scope: &Value, pod: &Object) -> bool {
    let terminating = pod.int(&["spec", "activeDeadlineSeconds"]).is_some_and(|seconds| seconds >= 0);
    let best_effort = qos_class(pod) == "BestEffort";
    match scope["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = pod.str(&["spec", "priorityClassName"]);
            let named = scope["values"].as_array().into_iter().flatten().any(|value| value == class);
            match scope["operator"].as_str().unwrap_or_default() {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => !class.is_empty() && named,
                "NotIn" => !named,
                _ => false,
            }
        }
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
