//! autoscaling/v2; v1 is validated in the same form.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::Rules;
use super::{by_table, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;
use crate::quantity::Quantity;

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.scaleTargetRef.kind required
        spec.scaleTargetRef.name required
        spec.minReplicas min 1
        spec.maxReplicas min 1
        spec.behavior.scaleUp.selectPolicy enum Max Min Disabled
        spec.behavior.scaleUp.stabilizationWindowSeconds range 0 3600
        spec.behavior.scaleUp.policies required
        spec.behavior.scaleUp.policies[].type enum Pods Percent
        spec.behavior.scaleUp.policies[].value min 1
        spec.behavior.scaleUp.policies[].periodSeconds range 1 1800
        spec.behavior.scaleDown.selectPolicy enum Max Min Disabled
        spec.behavior.scaleDown.stabilizationWindowSeconds range 0 3600
        spec.behavior.scaleDown.policies required
        spec.behavior.scaleDown.policies[].type enum Pods Percent
        spec.behavior.scaleDown.policies[].value min 1
        spec.behavior.scaleDown.policies[].periodSeconds range 1 1800
        "#,
    )
});

/// (type of a metric, its key, the targets that it may have)
const METRICS: [(&str, &str, &[&str]); 5] = [
    ("Object", "object", &["Value", "AverageValue"]),
    ("Pods", "pods", &["AverageValue"]),
    ("Resource", "resource", &["Utilization", "AverageValue"]),
    ("ContainerResource", "containerResource", &["Utilization", "AverageValue"]),
    ("External", "external", &["Value", "AverageValue"]),
];

pub(in crate::kinds) fn v2(object: &Object) -> FieldErrors {
    let mut errors = by_table(&RULES, object);
    let most = object.int(&["spec", "maxReplicas"]).unwrap_or(0);
    if object.get(&["spec", "maxReplicas"]).is_none() {
        errors.push(FieldError::invalid("spec.maxReplicas", &0.into(), "must be greater than 0"));
    }
    if object.int(&["spec", "minReplicas"]).is_some_and(|least| most < least) {
        errors.push(FieldError::invalid("spec.maxReplicas", &most.into(), "must be greater than or equal to `minReplicas`"));
    }
    for part in ["kind", "name"] {
        let value = object.str(&["spec", "scaleTargetRef", part]);
        if value.contains(['/', '%']) {
            errors.push(FieldError::invalid(format!("spec.scaleTargetRef.{part}"), &value.into(), "may not contain '/' or '%'"));
        }
    }
    for (index, metric) in object.list(&["spec", "metrics"]).iter().enumerate() {
        check_metric(metric, &format!("spec.metrics[{index}]"), &mut errors);
    }
    errors
}

fn check_metric(metric: &Value, at: &str, errors: &mut FieldErrors) {
    let ty = text(metric, "type");
    let Some((_, key, targets)) = METRICS.iter().find(|row| row.0 == ty) else {
        match ty {
            "" => errors.push(FieldError::required(format!("{at}.type"), "must specify a metric source type")),
            _ => errors.push(FieldError::not_supported(format!("{at}.type"), &metric["type"], &METRICS.map(|row| row.0))),
        }
        return;
    };
    for (_, other, _) in METRICS.iter().filter(|row| row.1 != *key && metric.get(row.1).is_some()) {
        errors.push(FieldError::forbidden(format!("{at}.{other}"), "must populate the given metric source only"));
    }
    let Some(source) = metric.get(*key) else {
        errors.push(FieldError::required(format!("{at}.{key}"), "must populate information for the given metric source"));
        return;
    };
    let at = format!("{at}.{key}");
    let named = if key.ends_with("esource") { (source, format!("{at}.name")) } else { (&source["metric"], format!("{at}.metric.name")) };
    if text(named.0, "name").is_empty() {
        errors.push(FieldError::required(named.1, "must specify a metric name"));
    }
    if *key == "containerResource" && text(source, "container").is_empty() {
        errors.push(FieldError::required(format!("{at}.container"), "must specify a container"));
    }
    if *key == "object" {
        for part in ["kind", "name"].into_iter().filter(|part| text(&source["describedObject"], part).is_empty()) {
            errors.push(FieldError::required(format!("{at}.describedObject.{part}"), ""));
        }
    }
    target(&source["target"], &format!("{at}.target"), targets, errors);
}

fn target(target: &Value, at: &str, types: &[&str], errors: &mut FieldErrors) {
    let ty = text(target, "type");
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must specify a metric target type"));
    } else if !["Utilization", "Value", "AverageValue"].contains(&ty) {
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
    let given = |ty: &str| match ty {
        "Utilization" => target.get("averageUtilization").is_some(),
        "Value" => target.get("value").is_some(),
        _ => target.get("averageValue").is_some(),
    };
    if !types.iter().any(|ty| given(ty)) {
        let field = if types.contains(&"Utilization") { "averageUtilization" } else { "averageValue" };
        errors.push(FieldError::required(format!("{at}.{field}"), &format!("must set one of {}", list_of(types))));
    }
    if types.contains(&"Utilization") && given("Utilization") && given("AverageValue") {
        errors.push(FieldError::forbidden(format!("{at}.averageValue"), "may not set both a target raw value and a target utilization"));
    }
}

fn list_of(types: &[&str]) -> String {
    types.join(", ")
}
