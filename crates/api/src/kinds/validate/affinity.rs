//! Where a pod wants to be: affinities and the spread over topologies.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

static TERM: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        labelSelector selector
        namespaceSelector selector
        topologyKey required can not be empty
        topologyKey qualified!
        "#,
    )
});

static SPREAD: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        topologySpreadConstraints[].topologyKey required can not be empty
        topologySpreadConstraints[].whenUnsatisfiable enum DoNotSchedule ScheduleAnyway
        topologySpreadConstraints[].minDomains positive
        topologySpreadConstraints[].nodeAffinityPolicy enum Honor Ignore
        topologySpreadConstraints[].nodeTaintsPolicy enum Honor Ignore
        topologySpreadConstraints[].labelSelector selector
        "#,
    )
});

pub(super) fn check(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.affinity");
    node(&spec["affinity"]["nodeAffinity"], &format!("{at}.nodeAffinity"), errors);
    for kind in ["podAffinity", "podAntiAffinity"] {
        pods(&spec["affinity"][kind], &format!("{at}.{kind}"), errors);
    }
    spread(spec, path, errors);
}

fn node(affinity: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(required) = affinity.get(REQUIRED) {
        node_selector(required, &format!("{path}.{REQUIRED}"), errors);
    }
    for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
        let at = format!("{path}.{PREFERRED}[{index}]");
        weight(term, &at, errors);
        // Upstream lets values pass here that no label can have: such a term matches nothing, and no harm is done.
        node_term(&term["preference"], &format!("{at}.preference"), false, errors);
    }
}

fn weight(term: &Value, path: &str, errors: &mut FieldErrors) {
    let weight = term["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(format!("{path}.weight"), &weight.into(), "must be in the range 1-100"));
    }
}

/// A core/v1 NodeSelector.
pub(super) fn node_selector(selector: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.nodeSelectorTerms");
    if list(selector, "nodeSelectorTerms").is_empty() {
        errors.push(FieldError::required(&at, "must have at least one node selector term"));
    }
    for (index, term) in list(selector, "nodeSelectorTerms").iter().enumerate() {
        node_term(term, &format!("{at}[{index}]"), true, errors);
    }
}

fn node_term(term: &Value, path: &str, check_values: bool, errors: &mut FieldErrors) {
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        let values = list(requirement, "values").len();
        match text(requirement, "operator") {
            "In" | "NotIn" if values == 0 => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{at}.values"), detail));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), detail));
            }
            "Gt" | "Lt" if values != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(format!("{at}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            operator => errors.push(FieldError::invalid(format!("{at}.operator"), &operator.into(), NO_OPERATOR)),
        }
        for reason in names::qualified_name(text(requirement, "key")) {
            errors.push(FieldError::invalid(format!("{at}.key"), &text(requirement, "key").into(), &reason));
        }
        if check_values {
            form_of_values(requirement, &at, names::label_value, errors);
        }
    }
    for (index, requirement) in list(term, "matchFields").iter().enumerate() {
        node_field(requirement, &format!("{path}.matchFields[{index}]"), errors);
    }
}

const NO_OPERATOR: &str = "not a valid selector operator";

fn form_of_values(requirement: &Value, path: &str, form: fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    for (index, value) in list(requirement, "values").iter().enumerate() {
        for reason in form(value.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(format!("{path}.values[{index}]"), value, &reason));
        }
    }
}

/// The only field of a node that can be asked for is its name, and only one name at a time.
fn node_field(requirement: &Value, path: &str, errors: &mut FieldErrors) {
    match text(requirement, "operator") {
        "In" | "NotIn" => {
            if list(requirement, "values").len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(format!("{path}.values"), detail));
            }
        }
        operator => errors.push(FieldError::invalid(format!("{path}.operator"), &operator.into(), NO_OPERATOR)),
    }
    match text(requirement, "key") {
        "metadata.name" => form_of_values(requirement, path, names::dns1123_subdomain, errors),
        key => errors.push(FieldError::invalid(format!("{path}.key"), &key.into(), "not a valid field selector key")),
    }
}

fn pods(affinity: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, term) in list(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{index}]"), errors);
    }
    for (index, term) in list(affinity, PREFERRED).iter().enumerate() {
        let at = format!("{path}.{PREFERRED}[{index}]");
        weight(term, &at, errors);
        pod_term(&term["podAffinityTerm"], &format!("{at}.podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    TERM.check(term, path, errors);
    for namespace in list(term, "namespaces") {
        for reason in names::dns1123_label(namespace.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(format!("{path}.namespace"), namespace, &reason));
        }
    }
    let (matched, mismatched) = (list(term, "matchLabelKeys"), list(term, "mismatchLabelKeys"));
    for (key, keys) in [("matchLabelKeys", matched), ("mismatchLabelKeys", mismatched)] {
        let at = format!("{path}.{key}");
        if !keys.is_empty() && term.get("labelSelector").is_none() {
            errors.push(FieldError::forbidden(at, "must not be specified when labelSelector is not set"));
        } else {
            label_names(keys, &at, errors);
        }
    }
    for (index, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let at = format!("{path}.matchLabelKeys[{index}]");
        errors.push(FieldError::invalid(at, key, "exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

fn label_names(keys: &[Value], path: &str, errors: &mut FieldErrors) {
    for (index, key) in keys.iter().enumerate() {
        for reason in names::qualified_name(key.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(format!("{path}[{index}]"), key, &reason));
        }
    }
}

fn spread(spec: &Value, path: &str, errors: &mut FieldErrors) {
    SPREAD.check(spec, path, errors);
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let at = format!("{path}.topologySpreadConstraints[{index}]");
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(format!("{at}.maxSkew"), &skew.into(), "must be greater than zero"));
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if action.is_empty() {
            let valid = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(FieldError::not_supported(format!("{at}.whenUnsatisfiable"), &action.into(), &valid));
        }
        let same = |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if constraints[index + 1..].iter().any(same) {
            let pair = Value::from(format!("{{{key}, {action}}}"));
            errors.push(FieldError::duplicate(format!("{at}.{{topologyKey, whenUnsatisfiable}}"), &pair));
        }
        if !is_missing(constraint.get("minDomains")) && action != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(format!("{at}.minDomains"), &constraint["minDomains"], &detail));
        }
        spread_keys(constraint, &format!("{at}.matchLabelKeys"), errors);
    }
}

fn spread_keys(constraint: &Value, path: &str, errors: &mut FieldErrors) {
    let keys = list(constraint, "matchLabelKeys");
    let labels = &constraint["labelSelector"];
    if !keys.is_empty() && constraint.get("labelSelector").is_none() {
        errors.push(FieldError::forbidden(path, "must not be specified when labelSelector is not set"));
    }
    label_names(keys, path, errors);
    let selected = |key: &Value| {
        key.as_str().is_some_and(|key| labels["matchLabels"].get(key).is_some())
            || list(labels, "matchExpressions").iter().any(|expression| expression["key"] == *key)
    };
    for (index, key) in keys.iter().enumerate().filter(|(_, key)| selected(key)) {
        errors.push(FieldError::invalid(format!("{path}[{index}]"), key, "exists in both matchLabelKeys and labelSelector"));
    }
}

/// What may be added to where a pod that still waits for its gates wants to be.
pub(super) fn gated_change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let pairs = |spec: &Value| spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    if pairs(old).iter().any(|(key, value)| pairs(new).get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", &pairs(new).into(), detail));
    }
    let terms = |spec: &Value| list(&spec["affinity"]["nodeAffinity"][REQUIRED], "nodeSelectorTerms").to_vec();
    let (now, before) = (terms(new), terms(old));
    let at = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if !before.is_empty() && before.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(at, &now.into(), detail));
        return;
    }
    for (index, (now, _)) in now.iter().zip(&before).enumerate().filter(|(_, (now, before))| !only_added(now, before)) {
        errors.push(FieldError::invalid(format!("{at}[{index}]"), now, "only additions are allowed (no mutations or deletions)"));
    }
}

fn only_added(new: &Value, old: &Value) -> bool {
    let keys = ["matchExpressions", "matchFields"];
    let was_empty = keys.iter().all(|key| list(old, key).is_empty());
    let is_empty = keys.iter().all(|key| list(new, key).is_empty());
    // A term without requirements matches nothing; with some it would match something.
    (!was_empty || is_empty) && keys.iter().all(|key| list(new, key).starts_with(list(old, key)))
}
