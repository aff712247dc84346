//! ResourceSlices: what a driver says of its devices.

use std::sync::LazyLock;

use serde_json::Value;

use super::affinity::node_selector;
use super::persistent::driver_name;
use super::resource::{attribute_name, each, each_once, form, pool_name, taint};
use super::rules::Rules;
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

/// Limits of upstream's types (resource/types.go).
const DEVICES_MAX: usize = 128;
/// Of devices of which some have taints or share counters.
const ELABORATE_DEVICES_MAX: usize = 64;
const ATTRIBUTES_MAX: usize = 32;
const ATTRIBUTE_BYTES_MAX: usize = 64;

static SLICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.sharedCounters[].name required
        spec.sharedCounters[].name label
        spec.sharedCounters[].counters required
        "#,
    )
});

pub(in crate::kinds) fn slice(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    driver_name(object.str(&["spec", "driver"]), "spec.driver", &mut errors);
    pool_name(object.str(&["spec", "pool", "name"]), "spec.pool.name", &mut errors);
    let number = |key: &str| object.int(&["spec", "pool", key]).unwrap_or(0);
    let mut wrong = |key: &str, why: &str| errors.push(FieldError::invalid(format!("spec.pool.{key}"), &number(key).into(), why));
    if number("resourceSliceCount") <= 0 {
        wrong("resourceSliceCount", "must be greater than zero");
    }
    if number("generation") < 0 {
        wrong("generation", "must be greater than or equal to zero");
    }
    place(object.get(&["spec"]).unwrap_or(&Value::Null), &mut errors);
    let devices = object.list(&["spec", "devices"]);
    if object.get(&["spec", "devices"]).is_some() && object.get(&["spec", "sharedCounters"]).is_some() {
        errors.push(FieldError::invalid("spec", &"".into(), "only one of `sharedCounters` or `devices` is allowed"));
    }
    let elaborate = |device: &Value| ["taints", "consumesCounters"].into_iter().any(|key| !list(device, key).is_empty());
    let most = if devices.iter().any(elaborate) { ELABORATE_DEVICES_MAX } else { DEVICES_MAX };
    each_once(devices, most, Some("name"), "spec.devices", &mut errors, device);
    errors.extend(by_table(&SLICE, object));
    errors
}

/// Where the devices can be reached.
fn place(spec: &Value, errors: &mut FieldErrors) {
    let mut given = Vec::new();
    match spec["nodeName"].as_str() {
        Some("") => errors.push(FieldError::invalid("spec.nodeName", &"".into(), "must be either unset or set to a non-empty string")),
        Some(name) => {
            given.push("`nodeName`");
            form(name, names::dns1123_subdomain, "spec.nodeName", errors);
        }
        None => {}
    }
    if !spec["nodeSelector"].is_null() {
        given.push("`nodeSelector`");
        node_selector(&spec["nodeSelector"], "spec.nodeSelector", errors);
        if list(&spec["nodeSelector"], "nodeSelectorTerms").len() != 1 {
            let terms = &spec["nodeSelector"]["nodeSelectorTerms"];
            errors.push(FieldError::invalid("spec.nodeSelector.nodeSelectorTerms", terms, "must have exactly one node selector term"));
        }
    }
    for (key, word) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        match &spec[key] {
            Value::Bool(true) => given.push(word),
            Value::Bool(false) => {
                errors.push(FieldError::invalid(format!("spec.{key}"), &false.into(), "must be either unset or set to true"));
            }
            _ => {}
        }
    }
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => errors.push(FieldError::required("spec", one)),
        1 => {}
        _ => {
            let value = format!("{{{}}}", given.join(", "));
            errors.push(FieldError::invalid("spec", &value.into(), &format!("{one}, but multiple fields are set")));
        }
    }
}

/// Taints of one device.
const TAINTS_MAX: usize = 16;

fn device(device: &Value, at: &str, errors: &mut FieldErrors) {
    form(text(device, "name"), names::dns1123_label, &format!("{at}.name"), errors);
    let count = |key: &str| device[key].as_object().map_or(0, serde_json::Map::len);
    let attributes = count("attributes") + count("capacity");
    if attributes > ATTRIBUTES_MAX {
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_MAX}");
        errors.push(FieldError::invalid(at, &attributes.into(), &detail));
    }
    for (name, value) in device["attributes"].as_object().into_iter().flatten() {
        let at = format!("{at}.attributes[{name}]");
        attribute_name(name, &at, errors);
        attribute(value, &at, errors);
    }
    for (name, capacity) in device["capacity"].as_object().into_iter().flatten() {
        let at = format!("{at}.capacity[{name}]");
        attribute_name(name, &at, errors);
        if !capacity["requestPolicy"].is_null() && device["allowMultipleAllocations"] != true {
            errors.push(FieldError::forbidden(format!("{at}.requestPolicy"), "allowMultipleAllocations must be true"));
        }
    }
    each(list(device, "taints"), TAINTS_MAX, &format!("{at}.taints"), errors, taint);
}

fn attribute(attribute: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["string", "version"] {
        if text(attribute, key).len() > ATTRIBUTE_BYTES_MAX {
            errors.push(FieldError::too_long(format!("{at}.{key}"), ATTRIBUTE_BYTES_MAX));
        }
    }
    match attribute.as_object().map_or(0, serde_json::Map::len) {
        0 => errors.push(FieldError::invalid(at, &"".into(), "exactly one value must be specified")),
        1 => {}
        _ => errors.push(FieldError::invalid(at, attribute, "exactly one value must be specified")),
    }
}

pub(in crate::kinds) fn slice_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "pool", "name"], &["spec", "driver"], &["spec", "nodeName"]])
}
