//! Leases, disruption budgets, priority classes, access reviews.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::int_or_percent;
use super::by_table;
use super::conditions::conditions;
use super::rules::Rules;
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

static LEASE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.leaseDurationSeconds min 1
        spec.leaseTransitions min 0
        "#,
    )
});

pub(in crate::kinds) fn lease(object: &Object) -> FieldErrors {
    let mut errors = by_table(&LEASE, object);
    let (strategy, at) = (object.str(&["spec", "strategy"]), "spec.strategy.strategy");
    if strategy.contains('/') {
        errors.extend(names::qualified_name(strategy).iter().map(|reason| FieldError::invalid(at, &strategy.into(), reason)));
    } else if !strategy.is_empty() && strategy != "OldestEmulationVersion" {
        errors.push(FieldError::not_supported(at, &strategy.into(), &["OldestEmulationVersion"]));
    }
    if strategy.is_empty() && !object.str(&["spec", "preferredHolder"]).is_empty() {
        errors.push(FieldError::forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined"));
    }
    errors
}

pub(in crate::kinds) fn disruption_budget(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (least, most) = (object.get(&["spec", "minAvailable"]), object.get(&["spec", "maxUnavailable"]));
    if least.is_some() && most.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", object.get(&["spec"]).unwrap_or(&Value::Null), detail));
    }
    for (value, path) in [(least, "spec.minAvailable"), (most, "spec.maxUnavailable")] {
        int_or_percent(value, path, &mut errors);
        // A percentage is a share of all.
        let percent = value.and_then(Value::as_str).and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
        if let (Some(value), Some(101..)) = (value, percent) {
            errors.push(FieldError::invalid(path, value, "must not be greater than 100%"));
        }
    }
    errors.extend(by_table(&BUDGET, object));
    errors
}

static BUDGET: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.selector selector
        spec.unhealthyPodEvictionPolicy enum IfHealthyBudget AlwaysAllow
        "#,
    )
});

static BUDGET_STATUS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        status.disruptionsAllowed min 0
        status.currentHealthy min 0
        status.desiredHealthy min 0
        status.expectedPods min 0
        "#,
    )
});

pub(in crate::kinds) fn disruption_budget_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    conditions(new.list(&["status", "conditions"]), "status.conditions", &mut errors);
    errors.extend(by_table(&BUDGET_STATUS, new));
    errors
}

/// Priorities above this are the system's (upstream's HighestUserDefinablePriority).
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// The two classes that exist from the start.
const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(in crate::kinds) fn priority_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let value = object.int(&["value"]).unwrap_or(0);
    let name = object.name();
    if name.starts_with("system-") {
        if let Some(why) = no_system_class(name, value, object.bool(&["globalDefault"])) {
            let detail = format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}");
            errors.push(FieldError::forbidden("metadata.name", &detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden("value", &detail));
    }
    let policy = object.str(&["preemptionPolicy"]);
    let policies = ["PreemptLowerPriority", "Never"];
    if policy.is_empty() {
        errors.push(FieldError::required("preemptionPolicy", ""));
    } else if !policies.contains(&policy) {
        errors.push(FieldError::not_supported_as_listed("preemptionPolicy", &policy.into(), &policies));
    }
    errors
}

fn no_system_class(name: &str, value: i64, default: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, must)) if *must != value => Some(format!("value of {name} PriorityClass must be {must}")),
        Some(_) => default.then(|| format!("globalDefault of {name} PriorityClass must be false")),
    }
}

pub(in crate::kinds) fn priority_class_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if new.int(&["value"]) != old.int(&["value"]) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    errors.extend(immutable(new, old, &[&["preemptionPolicy"]]));
    errors
}

pub(in crate::kinds) fn access_review(object: &Object) -> FieldErrors {
    let mut errors = self_access_review(object);
    if object.str(&["spec", "user"]).is_empty() && object.list(&["spec", "groups"]).is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &"".into(), detail));
    }
    errors
}

pub(in crate::kinds) fn self_access_review(object: &Object) -> FieldErrors {
    let resource = object.get(&["spec", "resourceAttributes"]);
    let other = object.get(&["spec", "nonResourceAttributes"]);
    match (resource, other) {
        (Some(_), Some(other)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            vec![FieldError::invalid("spec.nonResourceAttributes", other, detail)]
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![FieldError::invalid("spec.resourceAttributes", &Value::Null, detail)]
        }
        _ => Vec::new(),
    }
}
