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
        spec.strategy.type enum Recreate RollingUpdate
        spec.podManagementPolicy enum OrderedReady Parallel
        spec.updateStrategy.type enum OnDelete RollingUpdate
        spec.updateStrategy.rollingUpdate.partition min 0
        spec.persistentVolumeClaimRetentionPolicy.whenDeleted enum Retain Delete
        spec.persistentVolumeClaimRetentionPolicy.whenScaled enum Retain Delete
        spec.ordinals.start min 0
        "#,
    )
});

/// Selector and template of anything that makes pods which shall always run.
fn workload(object: &Object) -> FieldErrors {
    let mut errors = by_table(&COMMON, object);
    let selector = object.get(&["spec", "selector"]);
    check_selector(selector, "spec.selector", &mut errors);
    let Some(template) = object.get(&["spec", "template"]) else {
        errors.push(FieldError::required("spec.template", ""));
        return errors;
    };
    if let Some(Ok(selector)) = selector.map(LabelSelector::from_value) {
        matches_template(&selector, template, &mut errors);
    }
    errors.extend(check_template(template, "spec.template"));
    always_restarts(template, &mut errors);
    errors
}

fn matches_template(selector: &LabelSelector, template: &Value, errors: &mut FieldErrors) {
    let labels = &template["metadata"]["labels"];
    if !selector.is_empty() && !selector.matches(|key| labels[key].as_str()) {
        let shown = if labels.is_null() { json!({}) } else { labels.clone() };
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &shown, detail));
    }
}

fn always_restarts(template: &Value, errors: &mut FieldErrors) {
    let policy = text(&template["spec"], "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        let at = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(at, &policy.into(), &["Always"]));
    }
    if template["spec"].get("activeDeadlineSeconds").is_some() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", detail));
    }
}

pub(in crate::kinds) fn deployment(object: &Object) -> FieldErrors {
    let mut errors = workload(object);
    let rolling = object.get(&["spec", "strategy", "rollingUpdate"]);
    let at = "spec.strategy.rollingUpdate";
    match (object.str(&["spec", "strategy", "type"]), rolling) {
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
            if percent(&rolling["maxUnavailable"]).is_some_and(|percent| percent > 100) {
                let detail = "must not be greater than 100%";
                errors.push(FieldError::invalid(format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], detail));
            }
        }
        _ => {}
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
    workload(object)
}

pub(in crate::kinds) fn daemon_set(object: &Object) -> FieldErrors {
    let mut errors = workload(object);
    let at = "spec.updateStrategy.rollingUpdate";
    if let Some(rolling) = object.get(&["spec", "updateStrategy", "rollingUpdate"]) {
        for key in ["maxUnavailable", "maxSurge"] {
            int_or_percent(rolling.get(key), &format!("{at}.{key}"), &mut errors);
        }
        match (is_zero(&rolling["maxUnavailable"]), is_zero(&rolling["maxSurge"])) {
            (true, true) => {
                let detail = "cannot be 0 when maxSurge is 0";
                errors.push(FieldError::invalid(format!("{at}.maxUnavailable"), &rolling["maxUnavailable"], detail));
            }
            (false, false) if !is_missing(rolling.get("maxSurge")) => {
                let detail = "may not be set when maxUnavailable is non-zero";
                errors.push(FieldError::invalid(format!("{at}.maxSurge"), &rolling["maxSurge"], detail));
            }
            _ => {}
        }
    }
    errors
}

pub(in crate::kinds) fn stateful_set(object: &Object) -> FieldErrors {
    workload(object)
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
    let Some(template) = object.get(&["spec", "template"]) else {
        errors.push(FieldError::required("spec.template", ""));
        return errors;
    };
    let pairs = object.get(&["spec", "selector"]).and_then(Value::as_object).into_iter().flatten();
    let selector = LabelSelector::from_map(pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or(""))));
    matches_template(&selector, template, &mut errors);
    errors.extend(check_template(template, "spec.template"));
    always_restarts(template, &mut errors);
    errors
}
