//! resource.k8s.io/v1: classes, claims and their templates, taint rules.

use serde_json::Value;

use super::conditions::conditions;
use super::persistent::driver_name;
use super::resources::is_extended;
use super::{list, text};
use crate::cel::device;
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::{immutable, template_metadata};

/// Limits of upstream's types (resource/types.go).
const SELECTORS_MAX: usize = 32;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
pub(super) const CONFIGS_MAX: usize = 32;
const PARAMETERS_BYTES_MAX: usize = 10 * 1024;
const ALTERNATIVES_MAX: usize = 8;
const IDENTIFIER_BYTES_MAX: usize = 32;
const POOL_BYTES_MAX: usize = 253;
const TOLERATIONS_MAX: usize = 16;

/// Each of at most so many elements, or that there are too many.
pub(super) fn each(list: &[Value], most: usize, at: &str, errors: &mut FieldErrors, mut check: impl FnMut(&Value, &str, &mut FieldErrors)) {
    if list.len() > most {
        errors.push(FieldError::too_many(at, list.len(), most));
        return;
    }
    for (index, item) in list.iter().enumerate() {
        check(item, &format!("{at}[{index}]"), errors);
    }
}

/// The same of elements that a key tells apart; none where they are their own keys.
pub(super) fn each_once(
    list: &[Value],
    most: usize,
    key: Option<&str>,
    at: &str,
    errors: &mut FieldErrors,
    check: impl FnMut(&Value, &str, &mut FieldErrors),
) {
    each(list, most, at, errors, check);
    let of = |item: &Value| key.map_or(item, |key| &item[key]).as_str().unwrap_or("").to_owned();
    for (index, item) in list.iter().enumerate().filter(|_| list.len() <= most) {
        if list[..index].iter().any(|earlier| of(earlier) == of(item)) {
            errors.push(FieldError::duplicate(format!("{at}[{index}]"), &of(item).into()));
        }
    }
}

pub(in crate::kinds) fn device_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(spec) = object.get(&["spec"]) {
        selectors(spec, "spec", &mut errors);
        each(list(spec, "config"), CONFIGS_MAX, "spec.config", &mut errors, config);
        let name = text(spec, "extendedResourceName");
        if !name.is_empty() && !is_extended(name) {
            errors.push(FieldError::invalid("spec.extendedResourceName", &name.into(), "must be a valid extended resource name"));
        }
    }
    errors
}

fn selectors(value: &Value, at: &str, errors: &mut FieldErrors) {
    each(list(value, "selectors"), SELECTORS_MAX, &format!("{at}.selectors"), errors, |selector, at, errors| {
        let expression = text(&selector["cel"], "expression");
        if selector["cel"].is_null() {
            errors.push(FieldError::required(format!("{at}.cel"), ""));
        } else if expression.is_empty() {
            errors.push(FieldError::required(format!("{at}.cel.expression"), ""));
        } else if expression.len() > EXPRESSION_BYTES_MAX {
            errors.push(FieldError::too_long(format!("{at}.cel.expression"), EXPRESSION_BYTES_MAX));
        } else {
            compiles(expression, &format!("{at}.cel.expression"), errors);
        }
    });
}

fn compiles(expression: &str, at: &str, errors: &mut FieldErrors) {
    match device::selector_cost(expression) {
        Ok(cost) if cost > device::SELECTOR_COST_MAX => errors.push(FieldError::forbidden(at, "too complex, exceeds cost limit")),
        Ok(_) => {}
        Err(error) => errors.push(FieldError::invalid(at, &expression.into(), &error)),
    }
}

pub(super) fn config(config: &Value, at: &str, errors: &mut FieldErrors) {
    let (opaque, at) = (&config["opaque"], format!("{at}.opaque"));
    if opaque.is_null() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    driver_name(text(opaque, "driver"), &format!("{at}.driver"), errors);
    raw(&opaque["parameters"], &format!("{at}.parameters"), errors);
}

/// A JSON object of the driver's own.
pub(super) fn raw(value: &Value, at: &str, errors: &mut FieldErrors) {
    if value.is_null() {
        errors.push(FieldError::required(at, ""));
    } else if value.to_string().len() > PARAMETERS_BYTES_MAX {
        errors.push(FieldError::too_long(at, PARAMETERS_BYTES_MAX));
    } else if !value.is_object() {
        errors.push(FieldError::invalid(at, &"<value omitted>".into(), "must be a valid JSON object"));
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

pub(in crate::kinds) fn taint_rule(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let selector = object.get(&["spec", "deviceSelector"]).unwrap_or(&Value::Null);
    let given = |key: &str| selector[key].as_str();
    if let Some(name) = given("driver") {
        driver_name(name, "spec.deviceSelector.driver", &mut errors);
    }
    if let Some(name) = given("pool") {
        pool_name(name, "spec.deviceSelector.pool", &mut errors);
    }
    if let Some(name) = given("device") {
        form(name, names::dns1123_label, "spec.deviceSelector.device", &mut errors);
    }
    taint(object.get(&["spec", "taint"]).unwrap_or(&Value::Null), "spec.taint", &mut errors);
    errors
}

/// Conditions of a status (DeviceTaintRuleStatusMaxConditions and AllocatedDeviceStatusMaxConditions).
const CONDITIONS_MAX: usize = 8;

pub(super) fn few_conditions(all: &[Value], at: &str, errors: &mut FieldErrors) {
    conditions(all, at, errors);
    if all.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(at, all.len(), CONDITIONS_MAX));
    }
}

pub(in crate::kinds) fn taint_rule_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    few_conditions(new.list(&["status", "conditions"]), "status.conditions", &mut errors);
    errors
}

pub(super) fn form(value: &str, form: fn(&str) -> Vec<String>, at: &str, errors: &mut FieldErrors) {
    errors.extend(form(value).iter().map(|reason| FieldError::invalid(at, &value.into(), reason)));
}

pub(super) fn taint(taint: &Value, at: &str, errors: &mut FieldErrors) {
    form(text(taint, "key"), names::qualified_name, &format!("{at}.key"), errors);
    form(text(taint, "value"), names::label_value, &format!("{at}.value"), errors);
    let (effect, at) = (text(taint, "effect"), format!("{at}.effect"));
    if effect.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(at, &effect.into(), &EFFECTS));
    }
}

pub(super) fn tolerations(value: &Value, at: &str, errors: &mut FieldErrors) {
    each(list(value, "tolerations"), TOLERATIONS_MAX, &format!("{at}.tolerations"), errors, toleration);
}

fn toleration(toleration: &Value, at: &str, errors: &mut FieldErrors) {
    let (key, value, effect) = (text(toleration, "key"), text(toleration, "value"), text(toleration, "effect"));
    if !key.is_empty() {
        form(key, names::qualified_name, &format!("{at}.key"), errors);
    }
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            errors.push(FieldError::invalid(format!("{at}.value"), &value.into(), "must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => form(value, names::label_value, &format!("{at}.value"), errors),
        "" => errors.push(FieldError::required(format!("{at}.operator"), "")),
        other => errors.push(FieldError::not_supported(format!("{at}.operator"), &other.into(), &["Equal", "Exists"])),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(format!("{at}.effect"), &effect.into(), &EFFECTS));
    }
}

/// Subdomains with slashes between.
pub(super) fn pool_name(name: &str, at: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    if name.len() > POOL_BYTES_MAX {
        errors.push(FieldError::too_long(at, POOL_BYTES_MAX));
        return;
    }
    name.split('/').for_each(|part| form(part, names::dns1123_subdomain, at, errors));
}

/// `model` or `driver.example.com/model`
pub(super) fn attribute_name(name: &str, at: &str, errors: &mut FieldErrors) {
    let (domain, id) = name.split_once('/').map_or((None, name), |(domain, id)| (Some(domain), id));
    if id.contains('/') {
        errors.push(FieldError::invalid(at, &name.into(), "must not contain more than one slash"));
        return;
    }
    match domain {
        Some("") => errors.push(FieldError::invalid(at, &"".into(), "the domain must not be empty")),
        Some(domain) => driver_name(domain, at, errors),
        None => {}
    }
    if domain.is_some() && id.is_empty() {
        errors.push(FieldError::invalid(at, &"".into(), "the name must not be empty"));
        return;
    }
    if id.len() > IDENTIFIER_BYTES_MAX {
        errors.push(FieldError::too_long(at, IDENTIFIER_BYTES_MAX));
    }
    let word = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if !word {
        let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.push(FieldError::invalid(at, &id.into(), why));
    }
}

pub(super) fn full_attribute_name(name: &str, at: &str, errors: &mut FieldErrors) {
    attribute_name(name, at, errors);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(at, &name.into(), why));
    }
}

pub(in crate::kinds) fn claim(object: &Object) -> FieldErrors {
    object.get(&["spec"]).map_or_else(Vec::new, |spec| claim_spec(spec, "spec"))
}

pub(in crate::kinds) fn claim_template(object: &Object) -> FieldErrors {
    let meta = object.get(&["spec", "metadata"]).and_then(Value::as_object);
    let mut errors = meta.map_or_else(Vec::new, |meta| template_metadata(meta, "spec.metadata"));
    errors.extend(object.get(&["spec", "spec"]).into_iter().flat_map(|spec| claim_spec(spec, "spec.spec")));
    errors
}

fn claim_spec(spec: &Value, at: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let (devices, at) = (&spec["devices"], format!("{at}.devices"));
    let requests = list(devices, "requests");
    each_once(requests, REQUESTS_MAX, Some("name"), &format!("{at}.requests"), &mut errors, check_request);
    each(list(devices, "constraints"), CONSTRAINTS_MAX, &format!("{at}.constraints"), &mut errors, |constraint, at, errors| {
        known_requests(constraint, requests, at, errors);
        let given = |key: &str| constraint[key].as_str().map(|name| (name, format!("{at}.{key}")));
        match given("matchAttribute").or(given("distinctAttribute")) {
            Some((name, at)) => full_attribute_name(name, &at, errors),
            None => {
                let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(FieldError::required(at, why));
            }
        }
    });
    each(list(devices, "config"), CONFIGS_MAX, &format!("{at}.config"), &mut errors, |one, at, errors| {
        known_requests(one, requests, at, errors);
        config(one, at, errors);
    });
    errors
}

fn check_request(request: &Value, at: &str, errors: &mut FieldErrors) {
    form(text(request, "name"), names::dns1123_label, &format!("{at}.name"), errors);
    let alternatives = list(request, "firstAvailable");
    match (&request["exactly"], alternatives.is_empty()) {
        (Value::Null, true) => errors.push(FieldError::required(at, "exactly one of `exactly` or `firstAvailable` is required")),
        (Value::Null, false) => {
            each_once(alternatives, ALTERNATIVES_MAX, Some("name"), &format!("{at}.firstAvailable"), errors, |one, at, errors| {
                form(text(one, "name"), names::dns1123_label, &format!("{at}.name"), errors);
                wanted(one, at, errors);
            });
        }
        (exactly, true) => wanted(exactly, &format!("{at}.exactly"), errors),
        (_, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(at, &Value::Null, why));
        }
    }
}

fn wanted(wanted: &Value, at: &str, errors: &mut FieldErrors) {
    let (class, class_at) = (text(wanted, "deviceClassName"), format!("{at}.deviceClassName"));
    match class {
        "" => errors.push(FieldError::required(class_at, "")),
        _ => form(class, names::dns1123_subdomain, &class_at, errors),
    }
    selectors(wanted, at, errors);
    let count = wanted["count"].as_i64().unwrap_or(0);
    let mut wrong = |why: &str| errors.push(FieldError::invalid(format!("{at}.count"), &count.into(), why));
    match text(wanted, "allocationMode") {
        "All" if count != 0 => wrong("must not be specified when allocationMode is 'All'"),
        "ExactCount" if count <= 0 => wrong("must be greater than zero"),
        "All" | "ExactCount" => {}
        other => {
            let modes = ["All", "ExactCount"];
            errors.push(FieldError::not_supported(format!("{at}.allocationMode"), &other.into(), &modes));
        }
    }
    tolerations(wanted, at, errors);
}

pub(super) fn known_requests(value: &Value, requests: &[Value], at: &str, errors: &mut FieldErrors) {
    each_once(list(value, "requests"), REQUESTS_MAX, None, &format!("{at}.requests"), errors, |name, at, errors| {
        known_request(name.as_str().unwrap_or(""), requests, at, errors);
    });
}

/// `request` or `request/alternative` of this claim.
pub(super) fn known_request(name: &str, requests: &[Value], at: &str, errors: &mut FieldErrors) {
    let (main, sub) = name.split_once('/').map_or((name, None), |(main, sub)| (main, Some(sub)));
    if sub.is_none_or(|sub| !sub.contains('/')) {
        [Some(main), sub].into_iter().flatten().for_each(|part| form(part, names::dns1123_label, at, errors));
    }
    let found = requests.iter().find(|request| text(request, "name") == main);
    let known = found.is_some_and(|request| {
        sub.is_none_or(|sub| list(request, "firstAvailable").iter().any(|alternative| text(alternative, "name") == sub))
    });
    if !known {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.push(FieldError::invalid(at, &name.into(), detail));
    }
}

pub(in crate::kinds) fn claim_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec"]])
}
