//! ResourceSlices: what a driver says of its devices.

use std::collections::HashSet;

use serde_json::Value;

use super::affinity::node_selector;
use super::device::{self, named_counters};
use super::persistent::driver_name;
use super::resource::{each_once, form, full_attribute_name, pool_name};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

/// Limits of upstream's types (resource/types.go).
const DEVICES_MAX: usize = 128;
/// Of devices of which some have taints, share counters, or have attributes of many values.
const ELABORATE_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;

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
    let elaborate =
        |device: &Value| ["taints", "consumesCounters"].into_iter().any(|key| !list(device, key).is_empty()) || device::has_lists(device);
    let most = if devices.iter().any(elaborate) { ELABORATE_DEVICES_MAX } else { DEVICES_MAX };
    let chosen_each = object.get(&["spec", "perDeviceNodeSelection"]) == Some(&Value::Bool(true));
    each_once(devices, most, Some("name"), "spec.devices", &mut errors, |one, at, errors| device::device(one, chosen_each, at, errors));
    let shared = object.list(&["spec", "sharedCounters"]);
    each_once(shared, COUNTER_SETS_MAX, Some("name"), "spec.sharedCounters", &mut errors, counter_set);
    if let Some(spec) = object.get(&["spec"]) {
        partition_type(spec, &mut errors);
        skipped(spec, "spec", &mut errors);
    }
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

/// Counters that devices of the pool share.
fn counter_set(set: &Value, at: &str, errors: &mut FieldErrors) {
    named_counters(set, "name", at, errors);
}

/// That a slice names the attribute that tells its kinds of partitions apart, and that each device that takes counters has it.
fn partition_type(spec: &Value, errors: &mut FieldErrors) {
    let Some(name) = spec["partitionTypeAttribute"].as_str() else { return };
    let (at, devices) = ("spec.partitionTypeAttribute", list(spec, "devices"));
    if !devices.iter().any(|device| !list(device, "consumesCounters").is_empty()) {
        let why = "may only be set on a slice which declares devices that consume counters";
        errors.push(FieldError::invalid(at, &name.into(), why));
        return;
    }
    let before = errors.len();
    full_attribute_name(name, at, errors);
    if errors.len() > before {
        return;
    }
    let bare = name.strip_prefix(text(spec, "driver")).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    for (index, device) in devices.iter().enumerate().filter(|(_, device)| !list(device, "consumesCounters").is_empty()) {
        let at = format!("spec.devices[{index}].attributes[{name}]");
        let attributes = &device["attributes"];
        match attributes.get(name).or(attributes.get(bare)) {
            None => {
                let why = "device consumes counters and `partitionTypeAttribute` names this attribute, so it must be set";
                errors.push(FieldError::required(at, why));
            }
            Some(attribute) if attribute["string"].is_null() => {
                let why = "must be a string value because `partitionTypeAttribute` names this attribute";
                errors.push(FieldError::invalid(at, attribute, why));
            }
            Some(_) => {}
        }
    }
}

const SKIPPED: [&str; 3] = ["*", "NodePrepareResources", "NodeUnprepareResources"];

/// What is prepared must be cleaned up.
pub(super) fn skipped(value: &Value, at: &str, errors: &mut FieldErrors) {
    let (at, skipped) = (format!("{at}.skipNodeOperations"), list(value, "skipNodeOperations"));
    let mut seen = HashSet::new();
    for (index, one) in skipped.iter().enumerate() {
        if !SKIPPED.iter().any(|known| one == known) {
            errors.push(FieldError::not_supported(format!("{at}[{index}]"), one, &SKIPPED));
        }
        if !seen.insert(one.as_str()) {
            errors.push(FieldError::duplicate(format!("{at}[{index}]"), one));
        }
    }
    let has = |name: &str| skipped.iter().any(|one| one == name);
    if has("NodePrepareResources") && !has("NodeUnprepareResources") && !has("*") {
        let why = "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped";
        errors.push(FieldError::invalid(at, &value["skipNodeOperations"], why));
    }
}

pub(in crate::kinds) fn slice_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "pool", "name"], &["spec", "driver"], &["spec", "nodeName"]])
}
