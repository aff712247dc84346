//! What may change of a pod: by itself, and through its subresources.

use serde_json::{Map, Value, json};

use super::affinity::gated_change;
use super::pod::MIRROR;
use super::rules::is_missing;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::kinds::pod::qos_class;
use crate::object::Object;

const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(in crate::kinds) fn pod_change(new: &Object, old: &Object) -> FieldErrors {
    let (Some(new_spec), Some(old_spec)) = (new.get(&["spec"]), old.get(&["spec"])) else { return Vec::new() };
    let mut errors = annotations(new, old);
    for key in ["containers", "initContainers"] {
        if list(new_spec, key).len() != list(old_spec, key).len() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), "pod updates may not add or remove containers"));
            return errors;
        }
    }
    if !deadline(new_spec, old_spec, &mut errors) {
        return errors;
    }
    tolerations_added(new_spec, old_spec, &mut errors);
    gates_removed(new_spec, old_spec, &mut errors);
    let gated = !is_missing(old_spec.get("schedulingGates"));
    if gated {
        gated_change(new_spec, old_spec, &mut errors);
    }
    if fixed(new_spec, old_spec, gated) != fixed(old_spec, old_spec, gated) {
        errors.push(FieldError::forbidden("spec", UPDATE_RULE));
    }
    errors
}

/// Whether a pod is the image of a static one is not for others to say.
pub(super) fn annotations(new: &Object, old: &Object) -> FieldErrors {
    let why = match (old.annotation(MIRROR), new.annotation(MIRROR)) {
        (before, now) if before == now => return Vec::new(),
        (Some(_), _) => "may not remove or update mirror pod annotation",
        (None, _) => "may not add mirror pod annotation",
    };
    vec![FieldError::forbidden(format!("metadata.annotations[{MIRROR}]"), why)]
}

/// False where upstream looks no further.
fn deadline(new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let at = "spec.activeDeadlineSeconds";
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (None, Some(_)) => errors.push(FieldError::invalid(at, &Value::Null, "must not update from a positive integer to nil value")),
        (Some(now), Some(before)) if now > before => {
            errors.push(FieldError::invalid(at, &now.into(), "must be less than or equal to previous value"));
            return false;
        }
        _ => {}
    }
    true
}

/// What was tolerated stays tolerated; only its seconds may change.
fn tolerations_added(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|map| map.remove("tolerationSeconds"));
        toleration
    };
    let now: Vec<Value> = list(new, "tolerations").iter().map(without_seconds).collect();
    if !list(old, "tolerations").iter().map(without_seconds).all(|toleration| now.contains(&toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

fn gates_removed(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let before = list(old, "schedulingGates");
    for (index, gate) in list(new, "schedulingGates").iter().enumerate().filter(|(_, gate)| !before.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
        errors.push(FieldError::forbidden(format!("spec.schedulingGates[{index}].name"), &detail));
    }
}

/// The spec with what may change taken from the old one, so that a difference is a fault.
fn fixed(spec: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    let Some(map) = spec.as_object_mut() else { return spec };
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        map.remove(key);
    }
    // A pod that still waits for its gates may be made choosier.
    if gated {
        map.remove("nodeSelector");
        without_node_affinity(map);
    }
    let was_negative = old["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if was_negative && map.get("terminationGracePeriodSeconds") == Some(&json!(1)) {
        map.insert("terminationGracePeriodSeconds".to_owned(), old["terminationGracePeriodSeconds"].clone());
    }
    for key in ["containers", "initContainers"] {
        for container in map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            container.as_object_mut().map(|map| map.remove("image"));
        }
    }
    spec
}

fn without_node_affinity(spec: &mut serde_json::Map<String, Value>) {
    let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) else { return };
    affinity.remove("nodeAffinity");
    if affinity.is_empty() {
        spec.remove("affinity");
    }
}

pub(in crate::kinds) fn pod_part_change(new: &Object, old: &Object, subresource: &str) -> FieldErrors {
    match subresource {
        "ephemeralcontainers" => ephemeral_containers(new, old),
        "resize" => resize(new, old),
        _ => Vec::new(),
    }
}

/// They are only added.
fn ephemeral_containers(new: &Object, old: &Object) -> FieldErrors {
    if old.annotation(MIRROR).is_some() {
        return vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    }
    let now = new.list(&["spec", "ephemeralContainers"]);
    let mut errors = annotations(new, old);
    for container in old.list(&["spec", "ephemeralContainers"]) {
        let name = text(container, "name");
        let what = match now.iter().find(|other| other["name"] == container["name"]) {
            Some(same) if same == container => continue,
            Some(_) => "changed",
            None => "removed",
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {what}\n");
        errors.push(FieldError::forbidden("spec.ephemeralContainers", &detail));
    }
    errors
}

/// Only cpu and memory, only of what runs on, and never from some to none.
fn resize(new: &Object, old: &Object) -> FieldErrors {
    if old.annotation(MIRROR).is_some() {
        return vec![FieldError::forbidden("", "static pods cannot be resized")];
    }
    if old.str(&["spec", "os", "name"]) == "windows" {
        return vec![FieldError::forbidden("", "windows pods cannot be resized")];
    }
    let mut errors = Vec::new();
    let none = Value::Null;
    let [now, before] = [new, old].map(|pod| pod.get(&["spec"]).unwrap_or(&none));
    resources_kept(now, before, "spec.resources", &mut errors);
    let rest = |spec: &Value| without_cpu_and_memory(&json!({"resources": spec["resources"]}));
    if rest(now) != rest(before) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory of pod-level resources are mutable"));
    }
    let before = old.str(&["status", "qosClass"]);
    if qos_class(new) != if before.is_empty() { qos_class(old) } else { before } {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", &new.str(&["status", "qosClass"]).into(), detail));
    }
    for (key, why) in [
        ("initContainers", "only cpu and memory resources for sidecar containers are mutable"),
        ("containers", "only cpu and memory resources are mutable"),
    ] {
        for (index, (now, before)) in new.list(&["spec", key]).iter().zip(old.list(&["spec", key])).enumerate() {
            if key == "initContainers" && text(before, "restartPolicy") != "Always" {
                if now != before {
                    errors.push(FieldError::forbidden("spec", "resources for non-sidecar init containers are immutable"));
                }
                continue;
            }
            resources_kept(now, before, &format!("spec.{key}[{index}].resources"), &mut errors);
            if without_cpu_and_memory(now) != without_cpu_and_memory(before) {
                errors.push(FieldError::forbidden("spec", why));
            }
        }
    }
    errors
}

fn resources_kept(new: &Value, old: &Value, path: &str, errors: &mut FieldErrors) {
    for list in ["requests", "limits"] {
        let mut names = old["resources"][list].as_object().into_iter().flatten().map(|(name, _)| name);
        if names.any(|name| new["resources"][list].get(name).is_none()) {
            errors.push(FieldError::forbidden(format!("{path}.{list}"), &format!("resource {list} cannot be removed")));
        }
    }
}

/// The container, with what a resize may change taken out.
fn without_cpu_and_memory(container: &Value) -> Value {
    let mut rest = container.clone();
    for list in ["requests", "limits"] {
        let Some(resources) = rest["resources"].as_object_mut() else { continue };
        if let Some(amounts) = resources.get_mut(list).and_then(Value::as_object_mut) {
            ["cpu", "memory"].iter().for_each(|name| drop(amounts.remove(*name)));
            if amounts.is_empty() {
                resources.remove(list);
            }
        }
    }
    if rest["resources"].as_object().is_none_or(Map::is_empty) {
        rest.as_object_mut().map(|map| map.remove("resources"));
    }
    rest
}
