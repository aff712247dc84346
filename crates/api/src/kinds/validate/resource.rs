//! resource.k8s.io/v1. Whether the selectors' expressions compile is seen where CEL is.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing};
use super::{by_table, duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

/// Limits of upstream's types (resource/types.go).
const SELECTORS_MAX: usize = 32;
const REQUESTS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const DEVICES_MAX: usize = 128;
const ATTRIBUTES_MAX: usize = 32;
const CONSUMERS_MAX: usize = 256;
const DRIVER_NAME_BYTES_MAX: usize = 63;

pub(in crate::kinds) fn device_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(spec) = object.get(&["spec"]) {
        selectors(spec, "spec", &mut errors);
        configs(spec, "spec", &mut errors);
    }
    errors
}

fn selectors(value: &Value, at: &str, errors: &mut FieldErrors) {
    let selectors = list(value, "selectors");
    if selectors.len() > SELECTORS_MAX {
        errors.push(FieldError::too_many(format!("{at}.selectors"), selectors.len(), SELECTORS_MAX));
    }
    for (index, selector) in selectors.iter().enumerate() {
        let at = format!("{at}.selectors[{index}].cel");
        if selector.get("cel").is_none() {
            errors.push(FieldError::required(&at, ""));
        } else if text(&selector["cel"], "expression").is_empty() {
            errors.push(FieldError::required(format!("{at}.expression"), ""));
        }
    }
}

fn configs(value: &Value, at: &str, errors: &mut FieldErrors) {
    for (index, config) in list(value, "config").iter().enumerate() {
        let at = format!("{at}.config[{index}].opaque");
        let Some(opaque) = config.get("opaque") else {
            errors.push(FieldError::required(&at, "exactly one configuration must be specified"));
            continue;
        };
        driver(text(opaque, "driver"), &format!("{at}.driver"), errors);
        if is_missing(opaque.get("parameters")) {
            errors.push(FieldError::required(format!("{at}.parameters"), ""));
        }
    }
}

fn driver(name: &str, at: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    if name.len() > DRIVER_NAME_BYTES_MAX {
        errors.push(FieldError::too_long(at, DRIVER_NAME_BYTES_MAX));
    }
    errors.extend(names::dns1123_subdomain(name).iter().map(|reason| FieldError::invalid(at, &name.into(), reason)));
}

static TAINT_RULE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.taint.key required
        spec.taint.key qualified
        spec.taint.effect required
        spec.taint.effect enum NoSchedule NoExecute None
        spec.deviceSelector.driver subdomain
        spec.deviceSelector.device label
        "#,
    )
});

pub(in crate::kinds) fn taint_rule(object: &Object) -> FieldErrors {
    let mut errors = by_table(&TAINT_RULE, object);
    if object.get(&["spec", "taint"]).is_none() {
        errors.push(FieldError::required("spec.taint", ""));
    }
    errors
}

pub(in crate::kinds) fn claim(object: &Object) -> FieldErrors {
    object.get(&["spec"]).map_or_else(Vec::new, |spec| claim_spec(spec, "spec"))
}

pub(in crate::kinds) fn claim_template(object: &Object) -> FieldErrors {
    object.get(&["spec", "spec"]).map_or_else(Vec::new, |spec| claim_spec(spec, "spec.spec"))
}

static WANTED: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        deviceClassName required
        deviceClassName subdomain
        allocationMode enum ExactCount All
        count min 1
        tolerations[].operator enum Equal Exists
        tolerations[].key qualified
        tolerations[].effect enum NoSchedule NoExecute None
        capacity.requests amounts
        "#,
    )
});

fn claim_spec(spec: &Value, at: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let (devices, at) = (&spec["devices"], format!("{at}.devices"));
    let requests = list(devices, "requests");
    if requests.len() > REQUESTS_MAX {
        errors.push(FieldError::too_many(format!("{at}.requests"), requests.len(), REQUESTS_MAX));
    }
    duplicates(requests, &format!("{at}.requests"), "name", &mut errors);
    for (index, request) in requests.iter().enumerate() {
        check_request(request, &format!("{at}.requests[{index}]"), &mut errors);
    }
    for (index, constraint) in list(devices, "constraints").iter().enumerate() {
        let at = format!("{at}.constraints[{index}]");
        if text(constraint, "matchAttribute").is_empty() && text(constraint, "distinctAttribute").is_empty() {
            errors.push(FieldError::required(format!("{at}.matchAttribute"), "exactly one constraint must be specified"));
        }
        known_requests(constraint, requests, &at, &mut errors);
    }
    configs(devices, &at, &mut errors);
    for (index, config) in list(devices, "config").iter().enumerate() {
        known_requests(config, requests, &format!("{at}.config[{index}]"), &mut errors);
    }
    errors
}

fn check_request(request: &Value, at: &str, errors: &mut FieldErrors) {
    name_of(request, at, errors);
    let alternatives = list(request, "firstAvailable");
    match (request.get("exactly"), alternatives.is_empty()) {
        (None, true) => errors.push(FieldError::required(at, "exactly one of `exactly` or `firstAvailable` is required")),
        (Some(_), false) => {
            errors.push(FieldError::invalid(
                at,
                request,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ));
        }
        (Some(exactly), true) => wanted(exactly, &format!("{at}.exactly"), errors),
        (None, false) => {
            if alternatives.len() > ALTERNATIVES_MAX {
                errors.push(FieldError::too_many(format!("{at}.firstAvailable"), alternatives.len(), ALTERNATIVES_MAX));
            }
            duplicates(alternatives, &format!("{at}.firstAvailable"), "name", errors);
            for (index, alternative) in alternatives.iter().enumerate() {
                let at = format!("{at}.firstAvailable[{index}]");
                name_of(alternative, &at, errors);
                wanted(alternative, &at, errors);
            }
        }
    }
}

fn name_of(request: &Value, at: &str, errors: &mut FieldErrors) {
    let (name, at) = (text(request, "name"), format!("{at}.name"));
    match name {
        "" => errors.push(FieldError::required(at, "")),
        _ => errors.extend(names::dns1123_label(name).iter().map(|reason| FieldError::invalid(&at, &name.into(), reason))),
    }
}

fn wanted(wanted: &Value, at: &str, errors: &mut FieldErrors) {
    WANTED.check(wanted, at, errors);
    selectors(wanted, at, errors);
    if text(wanted, "allocationMode") == "All" && wanted["count"].as_i64().is_some_and(|count| count != 0) {
        let detail = "must not be specified when allocationMode is 'All'";
        errors.push(FieldError::invalid(format!("{at}.count"), &wanted["count"], detail));
    }
}

/// `request` or `request/alternative` of this claim.
fn known_requests(value: &Value, requests: &[Value], at: &str, errors: &mut FieldErrors) {
    for (index, name) in list(value, "requests").iter().enumerate() {
        let (main, sub) = name.as_str().unwrap_or("").split_once('/').map_or((name.as_str().unwrap_or(""), None), |(a, b)| (a, Some(b)));
        let found = requests.iter().find(|request| text(request, "name") == main);
        let known = found.is_some_and(|request| {
            sub.is_none_or(|sub| list(request, "firstAvailable").iter().any(|alternative| text(alternative, "name") == sub))
        });
        if !known {
            let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            errors.push(FieldError::invalid(format!("{at}.requests[{index}]"), name, detail));
        }
    }
}

pub(in crate::kinds) fn claim_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec"]])
}

pub(in crate::kinds) fn claim_status(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let reserved = new.list(&["status", "reservedFor"]);
    let allocation = |object: &Object| object.get(&["status", "allocation"]).cloned();
    if reserved.len() > CONSUMERS_MAX {
        errors.push(FieldError::too_many("status.reservedFor", reserved.len(), CONSUMERS_MAX));
    }
    duplicates(reserved, "status.reservedFor", "uid", &mut errors);
    for (index, consumer) in reserved.iter().enumerate() {
        for key in ["resource", "name", "uid"].into_iter().filter(|key| text(consumer, key).is_empty()) {
            errors.push(FieldError::required(format!("status.reservedFor[{index}].{key}"), ""));
        }
    }
    if !reserved.is_empty() && allocation(new).is_none() {
        errors.push(FieldError::forbidden("status.reservedFor", "may not be specified when `allocated` is not set"));
    }
    if !new.deletion_timestamp().is_empty() && reserved.iter().any(|consumer| !old.list(&["status", "reservedFor"]).contains(consumer)) {
        errors.push(FieldError::forbidden(
            "status.reservedFor",
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ));
    }
    if allocation(old).is_some() && allocation(new).is_some() {
        errors.extend(immutable(new, old, &[&["status", "allocation"]]));
    }
    errors
}

static SLICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.pool.name required
        spec.pool.generation min 0
        spec.pool.resourceSliceCount min 1
        spec.nodeName subdomain
        spec.devices[].name required
        spec.devices[].name label
        spec.devices[].taints[].key required
        spec.devices[].taints[].effect enum NoSchedule NoExecute None
        spec.sharedCounters[].name required
        spec.sharedCounters[].counters required
        "#,
    )
});

pub(in crate::kinds) fn slice(object: &Object) -> FieldErrors {
    let mut errors = by_table(&SLICE, object);
    driver(object.str(&["spec", "driver"]), "spec.driver", &mut errors);
    let where_: Vec<&str> = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"]
        .into_iter()
        .filter(|key| object.get(&["spec", key]).is_some_and(|value| *value != Value::Bool(false) && *value != ""))
        .collect();
    let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match where_.len() {
        // Counters shared by devices of other slices need no place of their own.
        0 => errors.push(FieldError::required("spec", detail)),
        1 => {}
        _ => errors.push(FieldError::invalid("spec", &where_.join(", ").into(), detail)),
    }
    let devices = object.list(&["spec", "devices"]);
    if devices.len() > DEVICES_MAX {
        errors.push(FieldError::too_many("spec.devices", devices.len(), DEVICES_MAX));
    }
    duplicates(devices, "spec.devices", "name", &mut errors);
    for (index, device) in devices.iter().enumerate() {
        let at = format!("spec.devices[{index}]");
        let count = |key: &str| device[key].as_object().map_or(0, serde_json::Map::len);
        let attributes = count("attributes") + count("capacity");
        if attributes > ATTRIBUTES_MAX {
            let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
            errors.push(FieldError::invalid(&at, &attributes.into(), &detail));
        }
        for (name, attribute) in device["attributes"].as_object().into_iter().flatten() {
            if attribute.as_object().is_none_or(|values| values.len() != 1) {
                errors.push(FieldError::invalid(format!("{at}.attributes[{name}]"), attribute, "exactly one value must be specified"));
            }
        }
    }
    errors
}

pub(in crate::kinds) fn slice_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "driver"], &["spec", "pool", "name"], &["spec", "nodeName"]])
}
