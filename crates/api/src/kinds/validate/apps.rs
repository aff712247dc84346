//! apps/v1, and what makes pods from templates in general.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::pod::{check_selector, check_template};
use super::rules::{Rules, is_missing};
use super::{by_table, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;
use crate::select::LabelSelector;
use crate::validate::immutable;

static COMMON: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.replicas min 0
        spec.minReadySeconds min 0
        spec.revisionHistoryLimit min 0
        spec.progressDeadlineSeconds min 0
        spec.persistentVolumeClaimRetentionPolicy.whenDeleted oneof Retain Delete
        spec.persistentVolumeClaimRetentionPolicy.whenScaled oneof Retain Delete
        spec.ordinals.start min 0
        spec.serviceName label
        "#,
    )
});

/// Selector and template of anything that makes pods which shall always run; `kind` as upstream calls it where it says so.
fn workload(object: &Object, kind: &str, empty_selector: &str) -> FieldErrors {
    let mut errors = by_table(&COMMON, object);
    let selector = object.get(&["spec", "selector"]);
    check_selector(selector, "spec.selector", empty_selector, &mut errors);
    template_of(object, selector.map(LabelSelector::from_value).and_then(Result::ok).as_ref(), kind, &mut errors);
    errors
}

fn template_of(object: &Object, selector: Option<&LabelSelector>, kind: &str, errors: &mut FieldErrors) {
    let Some(template) = object.get(&["spec", "template"]) else {
        errors.push(FieldError::required("spec.template", ""));
        return;
    };
    if let Some(selector) = selector {
        matches_template(selector, template, errors);
    }
    errors.extend(check_template(&with_claims(object, template), "spec.template"));
    always_restarts(template, kind, errors);
}

/// The pods of a StatefulSet have a volume for each of its claims; one of the template with the same name gives way.
fn with_claims(object: &Object, template: &Value) -> Value {
    let mut template = template.clone();
    let claims = object.list(&["spec", "volumeClaimTemplates"]);
    let names: Vec<&str> = claims.iter().map(|claim| text(&claim["metadata"], "name")).collect();
    if !names.is_empty()
        && let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut)
    {
        let mut volumes = spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.retain(|volume| !names.contains(&text(volume, "name")));
        volumes.extend(names.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})));
        spec.insert("volumes".to_owned(), volumes.into());
    }
    template
}

fn matches_template(selector: &LabelSelector, template: &Value, errors: &mut FieldErrors) {
    let labels = &template["metadata"]["labels"];
    if !selector.is_empty() && !selector.matches(|key| labels[key].as_str()) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &shown, detail));
    }
}

fn always_restarts(template: &Value, kind: &str, errors: &mut FieldErrors) {
    let policy = text(&template["spec"], "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        let at = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(at, &policy.into(), &["Always"]));
    }
    if template["spec"].get("activeDeadlineSeconds").is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", &detail));
    }
}

pub(in crate::kinds) fn deployment(object: &Object) -> FieldErrors {
    let mut errors = workload(object, "ReplicaSet", "empty selector is invalid for deployment");
    let strategy = object.get(&["spec", "strategy"]).unwrap_or(&Value::Null);
    let at = "spec.strategy.rollingUpdate";
    match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("Recreate", Some(_)) => {
            errors.push(FieldError::forbidden(at, "may not be specified when strategy `type` is 'Recreate'"));
        }
        ("RollingUpdate", Some(rolling)) => {
            for key in ["maxUnavailable", "maxSurge"] {
                int_or_percent(rolling.get(key), &format!("{at}.{key}"), &mut errors);
            }
            if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], detail));
            }
            at_most_all(rolling, "maxUnavailable", at, &mut errors);
        }
        ("Recreate" | "RollingUpdate", None) => {}
        // Upstream names the strategy, not its type.
        _ => errors.push(FieldError::not_supported_as_listed("spec.strategy", strategy, &["Recreate", "RollingUpdate"])),
    }
    let deadline = object.int(&["spec", "progressDeadlineSeconds"]);
    let least = object.int(&["spec", "minReadySeconds"]).unwrap_or(0);
    if let Some(deadline) = deadline
        && deadline <= least
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid("spec.progressDeadlineSeconds", &deadline.into(), detail));
    }
    errors
}

fn at_most_all(rolling: &Value, key: &str, at: &str, errors: &mut FieldErrors) {
    if percent(&rolling[key]).is_some_and(|percent| percent > 100) {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &rolling[key], "must not be greater than 100%"));
    }
}

fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0)
}

/// A number of at least 0, or a percentage.
pub(super) fn int_or_percent(value: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    match value {
        Some(value @ Value::String(text)) => {
            let digits = text.strip_suffix('%').unwrap_or("");
            if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, value, detail));
            }
        }
        Some(value) if value.as_i64().is_some_and(|number| number < 0) => {
            errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
        }
        _ => {}
    }
}

pub(in crate::kinds) fn selector_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "selector"]])
}

pub(in crate::kinds) fn deployment_change(new: &Object, old: &Object) -> FieldErrors {
    selector_change(new, old)
}

pub(in crate::kinds) fn replica_set(object: &Object) -> FieldErrors {
    workload(object, "ReplicaSet", "empty selector is invalid for deployment")
}

pub(in crate::kinds) fn daemon_set(object: &Object) -> FieldErrors {
    let mut errors = workload(object, "DaemonSet", "empty selector is invalid for daemonset");
    let strategy = object.get(&["spec", "updateStrategy"]).unwrap_or(&Value::Null);
    let at = "spec.updateStrategy.rollingUpdate";
    let rolling = match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("RollingUpdate", Some(rolling)) => rolling,
        ("RollingUpdate", None) => {
            errors.push(FieldError::required(at, ""));
            return errors;
        }
        ("OnDelete", _) => return errors,
        // Upstream names the strategy, not its type.
        _ => {
            errors.push(FieldError::not_supported_as_listed("spec.updateStrategy", strategy, &["RollingUpdate", "OnDelete"]));
            return errors;
        }
    };
    for key in ["maxUnavailable", "maxSurge"] {
        int_or_percent(rolling.get(key), &format!("{at}.{key}"), &mut errors);
        at_most_all(rolling, key, at, &mut errors);
    }
    match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
        (true, true) => errors.push(FieldError::required(format!("{at}.maxUnavailable"), "cannot be 0 when maxSurge is 0")),
        (false, false) if !is_missing(rolling.get("maxSurge")) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(format!("{at}.maxSurge"), &rolling["maxSurge"], detail));
        }
        _ => {}
    }
    errors
}

pub(in crate::kinds) fn stateful_set(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let policy = object.str(&["spec", "podManagementPolicy"]);
    if !["", "OrderedReady", "Parallel"].contains(&policy) {
        errors.push(FieldError::invalid("spec.podManagementPolicy", &policy.into(), "must be 'OrderedReady' or 'Parallel'"));
    }
    let strategy = object.get(&["spec", "updateStrategy"]).unwrap_or(&Value::Null);
    let at = "spec.updateStrategy.rollingUpdate";
    match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("OnDelete", Some(rolling)) => {
            errors.push(FieldError::invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'"));
        }
        ("RollingUpdate", Some(rolling)) => rolling_stateful_set(rolling, at, &mut errors),
        ("OnDelete" | "RollingUpdate", None) => {}
        ("", _) => errors.push(FieldError::required("spec.updateStrategy", "")),
        _ => errors.push(FieldError::invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'")),
    }
    errors.extend(workload(object, "StatefulSet", "empty selector is invalid for statefulset"));
    errors
}

fn rolling_stateful_set(rolling: &Value, at: &str, errors: &mut FieldErrors) {
    if rolling["partition"].as_i64().is_some_and(|partition| partition < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(format!("{at}.partition"), &rolling["partition"], detail));
    }
    int_or_percent(rolling.get("maxUnavailable"), &format!("{at}.maxUnavailable"), errors);
    if is_zero(&rolling["maxUnavailable"]) {
        errors.push(FieldError::invalid(format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], "cannot be 0"));
    }
    at_most_all(rolling, "maxUnavailable", at, errors);
}

/// What is counted is not negative, no part is more than all, and what has collided has.
pub(in crate::kinds) fn status_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let of = |object: &Object, key: &str| object.int(&["status", key]).unwrap_or(0);
    let mut push = |key: &str, why: &str| errors.push(FieldError::invalid(format!("status.{key}"), &of(new, key).into(), why));
    let parts = ["fullyLabeledReplicas", "currentReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    for (key, value) in new.get(&["status"]).and_then(Value::as_object).into_iter().flatten() {
        if value.as_i64().is_some_and(|number| number < 0) {
            push(key, "must be greater than or equal to 0");
        }
    }
    for key in parts.iter().filter(|key| of(new, key) > of(new, "replicas")) {
        push(key, "cannot be greater than status.replicas");
    }
    if of(new, "availableReplicas") > of(new, "readyReplicas") {
        push("availableReplicas", "cannot be greater than readyReplicas");
    }
    if of(new, "collisionCount") < of(old, "collisionCount") {
        push("collisionCount", "cannot be decremented");
    }
    errors
}

/// The parts of a StatefulSet's spec that may change.
const STATEFUL_SET_MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(in crate::kinds) fn stateful_set_change(new: &Object, old: &Object) -> FieldErrors {
    let rest = |object: &Object| {
        let mut spec = object.get(&["spec"]).cloned().unwrap_or_default();
        for key in STATEFUL_SET_MUTABLE {
            spec.as_object_mut().map(|map| map.remove(key));
        }
        spec
    };
    if rest(new) == rest(old) {
        return Vec::new();
    }
    let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    vec![FieldError::forbidden("spec", detail)]
}

pub(in crate::kinds) fn controller_revision(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if object.get(&["data"]).is_none() {
        errors.push(FieldError::required("data", "data is mandatory"));
    }
    if let Some(revision) = object.int(&["revision"]).filter(|revision| *revision < 0) {
        errors.push(FieldError::invalid("revision", &revision.into(), "must be greater than or equal to 0"));
    }
    errors
}

pub(in crate::kinds) fn controller_revision_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["data"]])
}

/// A ReplicationController: its selector is a plain map.
pub(super) fn replication_controller(object: &Object) -> FieldErrors {
    let mut errors = by_table(&COMMON, object);
    if is_missing(object.get(&["spec", "selector"])) {
        errors.push(FieldError::required("spec.selector", ""));
    }
    let pairs = object.get(&["spec", "selector"]).and_then(Value::as_object).into_iter().flatten();
    let selector = LabelSelector::from_map(pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or(""))));
    template_of(object, Some(&selector), "ReplicationController", &mut errors);
    errors
}
