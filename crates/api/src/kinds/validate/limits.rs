//! LimitRanges and ResourceQuotas.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::resources::{self, Place, amount};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

pub(in crate::kinds) fn limit_range(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut types = HashSet::new();
    for (index, item) in object.list(&["spec", "limits"]).iter().enumerate() {
        let at = format!("spec.limits[{index}]");
        let ty = text(item, "type");
        limit_type(ty, &format!("{at}.type"), &mut errors);
        if !types.insert(ty) {
            errors.push(FieldError::duplicate(format!("{at}.type"), &item["type"]));
        }
        names_of_limits(item, ty, &at, &mut errors);
        if ty == "PersistentVolumeClaim" && ["min", "max"].iter().all(|key| item[*key].get("storage").is_none()) {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(FieldError::required(format!("{at}.limits"), detail));
        }
        let keys = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
        let names: BTreeSet<&String> =
            keys.iter().flat_map(|key| item[*key].as_object().into_iter().flatten().map(|entry| entry.0)).collect();
        for name in names {
            order_of_limits(item, name, &at, &mut errors);
            ratio(item, name, &at, &mut errors);
        }
    }
    errors
}

fn limit_type(ty: &str, path: &str, errors: &mut FieldErrors) {
    let mut reasons = names::qualified_name(ty);
    if reasons.is_empty() && !ty.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&ty) {
        reasons.push("must be a standard limit type or fully qualified".to_owned());
    }
    errors.extend(reasons.iter().map(|why| FieldError::invalid(path, &ty.into(), why)));
}

fn names_of_limits(item: &Value, ty: &str, path: &str, errors: &mut FieldErrors) {
    let place = if ["Pod", "Container"].contains(&ty) { Place::Container } else { Place::Other };
    for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let mut names = item[key].as_object().into_iter().flatten().map(|entry| entry.0).peekable();
        if ty == "Pod" && key.starts_with("default") {
            if names.peek().is_some() {
                errors.push(FieldError::forbidden(format!("{path}.{key}"), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        names.for_each(|name| resources::check_name(name, &format!("{path}.{key}[{name}]"), place, errors));
    }
}

/// (lower, its name, upper, its name, the field at fault, the field whose value is shown)
const ORDER: [(&str, &str, &str, &str, &str, &str); 6] = [
    ("min", "min", "max", "max", "min", "min"),
    ("min", "min", "defaultRequest", "default request", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default request", "max", "max", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default request", "default", "default limit", "defaultRequest", "defaultRequest"),
    ("min", "min", "default", "default", "default", "min"),
    ("default", "default", "max", "max", "default", "max"),
];

fn order_of_limits(item: &Value, name: &str, path: &str, errors: &mut FieldErrors) {
    let of = |key: &str| amount(&item[key][name]);
    for (lower, lower_word, upper, upper_word, field, shown) in ORDER {
        if let (Some(low), Some(high)) = (of(lower), of(upper))
            && low > high
        {
            let detail = format!("{lower_word} value {low} is greater than {upper_word} value {high}");
            errors.push(FieldError::invalid(format!("{path}.{field}[{name}]"), &item[shown][name], &detail));
        }
    }
    if let (Some(limit), Some(request)) = (of("default"), of("defaultRequest"))
        && limit != request
        && !resources::may_be_overcommitted(name)
    {
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.push(FieldError::invalid(format!("{path}.defaultRequest[{name}]"), &item["defaultRequest"][name], &detail));
    }
}

fn ratio(item: &Value, name: &str, path: &str, errors: &mut FieldErrors) {
    let Some(ratio) = amount(&item["maxLimitRequestRatio"][name]) else { return };
    let at = format!("{path}.maxLimitRequestRatio[{name}]");
    let shown = &item["maxLimitRequestRatio"][name];
    if ratio < Quantity::from_units(1) {
        errors.push(FieldError::invalid(&at, shown, &format!("ratio {ratio} is less than 1")));
    }
    let (Some(least), Some(most)) = (amount(&item["min"][name]), amount(&item["max"][name])) else { return };
    if least.is_zero() {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "as upstream; products of the largest amounts would not fit any number")]
    let (most_of_least, asked) = (most.milli() as f64 / least.milli() as f64, ratio.milli() as f64 / 1000.0);
    if asked <= most_of_least {
        return;
    }
    errors.push(FieldError::invalid(at, shown, &format!("ratio {ratio} is greater than max/min = {most_of_least:.6}")));
}

pub(in crate::kinds) fn resource_quota(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    amounts(object, &["spec", "hard"], &mut errors);
    scopes(object, &mut errors);
    scope_selector(object, &mut errors);
    amounts(object, &["status", "hard"], &mut errors);
    amounts(object, &["status", "used"], &mut errors);
    errors
}

pub(in crate::kinds) fn resource_quota_status_change(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    amounts(new, &["status", "hard"], &mut errors);
    amounts(new, &["status", "used"], &mut errors);
    errors
}

fn amounts(object: &Object, path: &[&str], errors: &mut FieldErrors) {
    for (name, value) in object.get(path).and_then(Value::as_object).into_iter().flatten() {
        let at = format!("{}[{name}]", path.join("."));
        resources::check_name(name, &at, Place::Quota, errors);
        resources::check_amount(name, value, &at, errors);
    }
}

/// Those that are asked for by their name alone.
const PLAIN_SCOPES: [&str; 5] = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];

fn is_scope(scope: &str) -> bool {
    PLAIN_SCOPES.contains(&scope) || ["PriorityClass", "VolumeAttributesClass"].contains(&scope)
}

/// Whether a quota within the scope can count the resource.
fn counts(scope: &str, resource: &str) -> bool {
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        _ => is_scope(scope) && (resource == "pods" || compute.contains(&resource)),
    }
}

fn uncounted<'a>(object: &'a Object, scope: &'a str) -> impl Iterator<Item = &'a String> {
    let hard = object.get(&["spec", "hard"]).and_then(Value::as_object).into_iter().flatten().map(|entry| entry.0);
    hard.filter(move |name| resources::is_standard_in_quota(name) && !counts(scope, name))
}

fn conflicts(scopes: &[&str]) -> usize {
    let pairs = [["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]];
    pairs.iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).count()
}

fn scopes(object: &Object, errors: &mut FieldErrors) {
    let all = object.list(&["spec", "scopes"]);
    let shown = Value::from(all.to_vec());
    let mut push = |why: &str| errors.push(FieldError::invalid("spec.scopes", &shown, why));
    let names: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
    for scope in &names {
        if !is_scope(scope) {
            push("unsupported scope");
        }
        uncounted(object, scope).for_each(|_| push("unsupported scope applied to resource"));
    }
    (0..conflicts(&names)).for_each(|_| push("conflicting scopes"));
}

fn scope_selector(object: &Object, errors: &mut FieldErrors) {
    let empty = Value::Null;
    let selector = object.get(&["spec", "scopeSelector"]).unwrap_or(&empty);
    let at = "spec.scopeSelector.matchExpressions";
    let mut names = Vec::new();
    for requirement in list(selector, "matchExpressions") {
        let (scope, operator) = (text(requirement, "scopeName"), text(requirement, "operator"));
        let mut push = |key: &str, value: &Value, why: &str| errors.push(FieldError::invalid(format!("{at}{key}"), value, why));
        if !is_scope(scope) {
            push(".scopeName", &scope.into(), "unsupported scope");
        }
        uncounted(object, scope).for_each(|_| push("", selector, "unsupported scope applied to resource"));
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            push(".operator", &operator.into(), why);
        }
        let has_values = !list(requirement, "values").is_empty();
        match operator {
            "Exists" | "DoesNotExist" if has_values => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                push(".values", &requirement["values"], why);
            }
            "In" | "NotIn" if !has_values => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(format!("{at}.values"), why));
            }
            "Exists" | "DoesNotExist" | "In" | "NotIn" => {}
            _ => push(".operator", &operator.into(), "not a valid selector operator"),
        }
        names.push(scope);
    }
    let shown = Value::from(object.list(&["spec", "scopes"]).to_vec());
    errors.extend((0..conflicts(&names)).map(|_| FieldError::invalid(at, &shown, "conflicting scopes")));
}

/// Scopes say what a quota counts, and stay.
pub(in crate::kinds) fn resource_quota_change(new: &Object, old: &Object) -> FieldErrors {
    let scopes = |object: &Object| -> HashSet<String> {
        object.list(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if scopes(new) == scopes(old) {
        return Vec::new();
    }
    vec![FieldError::invalid("spec.scopes", new.get(&["spec", "scopes"]).unwrap_or(&Value::Null), "field is immutable")]
}
