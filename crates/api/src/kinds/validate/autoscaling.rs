//! autoscaling/v2; v1 is validated in the same form.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::Rules;
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.scaleTargetRef.kind required
        spec.scaleTargetRef.kind segment
        spec.scaleTargetRef.name required
        spec.scaleTargetRef.name segment
        spec.behavior.scaleUp.selectPolicy enum Max Min Disabled
        spec.behavior.scaleUp.policies required must specify at least one Policy
        spec.behavior.scaleDown.selectPolicy enum Max Min Disabled
        spec.behavior.scaleDown.policies required must specify at least one Policy
        "#,
    )
});

static STATUS: LazyLock<Rules> = LazyLock::new(|| Rules::parse("status.currentReplicas min 0\n status.desiredReplicas min 0"));

/// Seconds of a policy's period and of a stabilization window, at most (upstream's MaxPeriodSeconds and MaxStabilizationWindowSeconds).
const PERIOD_SECONDS_MAX: i64 = 1800;
const WINDOW_SECONDS_MAX: i64 = 3600;

/// What a metric's target may say, one of them; and what is said if it says none.
#[derive(Clone, Copy)]
struct Targets {
    keys: &'static [&'static str],
    /// The key that is asked for.
    asked: &'static str,
    missing: &'static str,
    /// The key that may not stand beside the other, and why.
    both: Option<(&'static str, &'static str)>,
}

const VALUES: Targets = Targets {
    keys: &["value", "averageValue"],
    asked: "averageValue",
    missing: "must set either a target value or averageValue",
    both: None,
};
const EXTERNAL: Targets = Targets {
    missing: "must set either a target value for metric or a per-pod target",
    both: Some(("value", "may not set both a target value for metric and a per-pod target")),
    ..VALUES
};
const AVERAGE: Targets =
    Targets { keys: &["averageValue"], asked: "averageValue", missing: "must specify a positive target averageValue", both: None };
const RESOURCE: Targets = Targets {
    keys: &["averageUtilization", "averageValue"],
    asked: "averageUtilization",
    missing: "must set either a target raw value or a target utilization",
    both: Some(("averageValue", "may not set both a target raw value and a target utilization")),
};

/// (type of a metric, its key, what its target may be)
const METRICS: [(&str, &str, Targets); 5] = [
    ("Object", "object", VALUES),
    ("External", "external", EXTERNAL),
    ("Pods", "pods", AVERAGE),
    ("Resource", "resource", RESOURCE),
    ("ContainerResource", "containerResource", RESOURCE),
];

pub(in crate::kinds) fn v2(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let most = object.int(&["spec", "maxReplicas"]).unwrap_or(0);
    if let Some(least) = object.int(&["spec", "minReplicas"]) {
        if least < 1 {
            errors.push(FieldError::invalid("spec.minReplicas", &least.into(), "must be greater than or equal to 1"));
        }
        if most < least {
            errors.push(FieldError::invalid("spec.maxReplicas", &most.into(), "must be greater than or equal to `minReplicas`"));
        }
    }
    if most < 1 {
        errors.push(FieldError::invalid("spec.maxReplicas", &most.into(), "must be greater than 0"));
    }
    errors.extend(by_table(&RULES, object));
    if object.get(&["spec", "scaleTargetRef"]).is_none() {
        errors.extend(["kind", "name"].map(|key| FieldError::required(format!("spec.scaleTargetRef.{key}"), "")));
    }
    for (index, metric) in object.list(&["spec", "metrics"]).iter().enumerate() {
        check_metric(metric, &format!("spec.metrics[{index}]"), &mut errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = object.get(&["spec", "behavior", direction]) {
            scaling(rules, &format!("spec.behavior.{direction}"), &mut errors);
        }
    }
    errors
}

pub(in crate::kinds) fn status(new: &Object, _: &Object) -> FieldErrors {
    by_table(&STATUS, new)
}

fn scaling(rules: &Value, at: &str, errors: &mut FieldErrors) {
    let window = rules["stabilizationWindowSeconds"].as_i64().unwrap_or(0);
    let number = |path: String, value: i64, least: i64, below: &str, most: i64, errors: &mut FieldErrors| {
        if value < least {
            errors.push(FieldError::invalid(&path, &value.into(), below));
        }
        if value > most {
            errors.push(FieldError::invalid(path, &value.into(), &format!("must be less than or equal to {most}")));
        }
    };
    let path = format!("{at}.stabilizationWindowSeconds");
    number(path, window, 0, "must be greater than or equal to zero", WINDOW_SECONDS_MAX, errors);
    let tolerance = text(rules, "tolerance");
    if Quantity::parse(tolerance).is_ok_and(|tolerance| tolerance.is_negative()) {
        errors.push(FieldError::invalid(format!("{at}.tolerance"), &tolerance.into(), "must be greater than or equal to 0"));
    }
    for (index, policy) in list(rules, "policies").iter().enumerate() {
        let number_of = |key: &str| policy[key].as_i64().unwrap_or(0);
        let at = format!("{at}.policies[{index}]");
        number(format!("{at}.value"), number_of("value"), 1, "must be greater than zero", i64::MAX, errors);
        number(format!("{at}.periodSeconds"), number_of("periodSeconds"), 1, "must be greater than zero", PERIOD_SECONDS_MAX, errors);
    }
    for (index, policy) in list(rules, "policies").iter().enumerate() {
        let ty = text(policy, "type");
        if !["Pods", "Percent"].contains(&ty) {
            errors.push(FieldError::not_supported(format!("{at}.policies[{index}].type"), &ty.into(), &["Pods", "Percent"]));
        }
    }
}

fn check_metric(metric: &Value, at: &str, errors: &mut FieldErrors) {
    let ty = text(metric, "type");
    let known = METRICS.iter().find(|row| row.0 == ty);
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must specify a metric source type"));
    }
    if known.is_none() {
        errors.push(FieldError::not_supported(format!("{at}.type"), &ty.into(), &METRICS.map(|row| row.0)));
    }
    let given: Vec<_> = METRICS.iter().filter(|row| metric.get(row.1).is_some()).collect();
    if let Some((_, key, targets)) = given.first() {
        source(&metric[*key], key, targets, &format!("{at}.{key}"), errors);
    }
    let expected = known.map(|row| row.1);
    if let Some(key) = expected.filter(|key| metric.get(key).is_none()) {
        errors.push(FieldError::required(format!("{at}.{key}"), "must populate information for the given metric source"));
    }
    for (_, key, _) in given.iter().filter(|row| given.len() > 1 && Some(row.1) != expected) {
        errors.push(FieldError::forbidden(format!("{at}.{key}"), "must populate the given metric source only"));
    }
}

fn source(source: &Value, key: &str, targets: &Targets, at: &str, errors: &mut FieldErrors) {
    let mut named = |value: &Value, at: String, missing: &str, form: fn(&str) -> Vec<String>| match value.as_str().unwrap_or("") {
        "" => errors.push(FieldError::required(at, missing)),
        name => errors.extend(form(name).iter().map(|reason| FieldError::invalid(&at, &name.into(), reason))),
    };
    if key == "object" {
        named(&source["describedObject"]["kind"], format!("{at}.describedObject.kind"), "", names::path_segment);
        named(&source["describedObject"]["name"], format!("{at}.describedObject.name"), "", names::path_segment);
    }
    match key {
        "resource" => named(&source["name"], format!("{at}.name"), "must specify a resource name", |_| Vec::new()),
        "containerResource" => {
            named(&source["name"], format!("{at}.name"), "must specify a resource name", names::qualified_name);
            named(&source["container"], format!("{at}.container"), "must specify a container", names::dns1123_label);
        }
        _ => named(&source["metric"]["name"], format!("{at}.metric.name"), "must specify a metric name", names::path_segment),
    }
    target(&source["target"], &format!("{at}.target"), targets, errors);
}

fn target(target: &Value, at: &str, targets: &Targets, errors: &mut FieldErrors) {
    let ty = text(target, "type");
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(format!("{at}.type"), &ty.into(), detail));
    }
    for key in ["value", "averageValue"] {
        let amount = text(target, key);
        if Quantity::parse(amount).is_ok_and(|amount| amount.is_negative() || amount.is_zero()) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &amount.into(), "must be positive"));
        }
    }
    if let Some(percent) = target["averageUtilization"].as_i64().filter(|percent| *percent < 1) {
        errors.push(FieldError::invalid(format!("{at}.averageUtilization"), &percent.into(), "must be greater than 0"));
    }
    let given = targets.keys.iter().filter(|key| target.get(**key).is_some()).count();
    if given == 0 {
        errors.push(FieldError::required(format!("{at}.{}", targets.asked), targets.missing));
    }
    if let Some((key, why)) = targets.both.filter(|_| given > 1) {
        errors.push(FieldError::forbidden(format!("{at}.{key}"), why));
    }
}
