//! One device of a ResourceSlice: its attributes, what it can give and to whom, the counters that it takes, where it can be reached.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::affinity::node_selector;
use super::resource::{attribute_name, each, each_once, form, taint};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::quantity::Quantity;

/// Limits of upstream's types (resource/types.go).
const ATTRIBUTES_MAX: usize = 32;
/// Each value of a list for itself.
const ATTRIBUTE_VALUES_MAX: usize = 48;
const ATTRIBUTE_BYTES_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const CONSUMED_SETS_MAX: usize = 2;
const COUNTERS_MAX: usize = 32;
const BINDING_CONDITIONS_MAX: usize = 4;
/// Amounts that a request may choose from.
const CHOICES_MAX: usize = 10;

/// Attributes of many values.
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// semver.org, 2.0.0.
static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    let (number, word) = (r"(0|[1-9][0-9]*)", r"[0-9a-zA-Z-]+");
    let before = format!(r"({number}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)");
    let whole = format!(r"^{number}\.{number}\.{number}(-{before}(\.{before})*)?(\+{word}(\.{word})*)?$");
    Regex::new(&whole).expect("the pattern is a constant")
});

pub(super) fn has_lists(device: &Value) -> bool {
    entries(device, "attributes").any(|(_, attribute)| LISTS.iter().any(|key| attribute.get(key).is_some()))
}

fn entries<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value[key].as_object().into_iter().flatten()
}

/// `chosen_each`: the slice leaves it to its devices where they can be reached.
pub(super) fn device(device: &Value, chosen_each: bool, at: &str, errors: &mut FieldErrors) {
    form(text(device, "name"), names::dns1123_label, &format!("{at}.name"), errors);
    let count = |key: &str| device[key].as_object().map_or(0, Map::len);
    let mut bounded = |count: usize, most: usize, what: &str| {
        if count > most {
            errors.push(FieldError::invalid(at, &count.into(), &format!("the total number of {what} must not exceed {most}")));
        }
    };
    bounded(count("attributes") + count("capacity"), ATTRIBUTES_MAX, "attributes and capacities");
    let values = |attribute: &Value| LISTS.iter().map(|key| list(attribute, key).len()).sum::<usize>().max(1);
    bounded(entries(device, "attributes").map(|(_, attribute)| values(attribute)).sum(), ATTRIBUTE_VALUES_MAX, "attribute values");
    for (name, value) in entries(device, "attributes") {
        attribute_name(name, &format!("{at}.attributes"), errors);
        attribute(value, &format!("{at}.attributes[{name}]"), errors);
    }
    for (name, capacity) in entries(device, "capacity") {
        attribute_name(name, &format!("{at}.capacity"), errors);
        let (policy, at) = (&capacity["requestPolicy"], format!("{at}.capacity[{name}].requestPolicy"));
        if policy.is_null() {
            continue;
        }
        match device["allowMultipleAllocations"] == true {
            true => request_policy(amount(&capacity["value"]).unwrap_or(Quantity::ZERO), policy, &at, errors),
            false => errors.push(FieldError::forbidden(at, "allowMultipleAllocations must be true")),
        }
    }
    each(list(device, "taints"), TAINTS_MAX, &format!("{at}.taints"), errors, taint);
    let consumed = format!("{at}.consumesCounters");
    each_once(list(device, "consumesCounters"), CONSUMED_SETS_MAX, Some("counterSet"), &consumed, errors, |one, at, errors| {
        named_counters(one, "counterSet", at, errors);
    });
    place(device, chosen_each, at, errors);
    binding(device, at, errors);
    for (name, resource) in entries(device, "nodeAllocatableResources") {
        node_resource(name, resource, &device["capacity"], &format!("{at}.nodeAllocatableResources[{name}]"), errors);
    }
}

/// What an allocation of the device takes of a resource of its node.
fn node_resource(name: &str, resource: &Value, capacity: &Value, at: &str, errors: &mut FieldErrors) {
    if !["cpu", "memory"].contains(&name) && !name.starts_with("hugepages-") {
        errors.push(FieldError::invalid(at, &name.into(), "must be a node allocatable resource name"));
    }
    let (mapping, overhead) = (&resource["mapping"], &resource["overhead"]);
    if mapping.is_null() && overhead.is_null() {
        errors.push(FieldError::required(at, "at least one of mapping or overhead must be set"));
    }
    if !mapping.is_null() {
        self::mapping(mapping, capacity, &format!("{at}.mapping"), errors);
    }
    if overhead.is_null() {
        return;
    }
    let at = format!("{at}.overhead");
    if overhead["perPod"].is_null() && overhead["perContainer"].is_null() {
        errors.push(FieldError::invalid(&at, &"".into(), "at least one of perPod or perContainer must be set"));
    }
    for key in ["perPod", "perContainer"] {
        if let Some(amount) = amount(&overhead[key]).filter(Quantity::is_negative) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &amount.to_string().into(), "must be non-negative"));
        }
    }
}

/// So much for each device, or for each unit of a capacity.
fn mapping(mapping: &Value, capacity: &Value, at: &str, errors: &mut FieldErrors) {
    let positive = |key: &str, errors: &mut FieldErrors| {
        if let Some(amount) = amount(&mapping[key]).filter(|amount| amount.is_negative() || amount.is_zero()) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &amount.to_string().into(), "must be positive"));
        }
    };
    let key_at = format!("{at}.capacityKey");
    match (mapping["capacityKey"].as_str(), mapping["capacityMultiplier"].is_null()) {
        (None, true) => {}
        (None, false) => errors.push(FieldError::required(&key_at, "capacityKey is required when capacityMultiplier is set")),
        (Some(key), is_lacking) => {
            if key.is_empty() {
                errors.push(FieldError::invalid(&key_at, &"".into(), "capacityKey must not be an empty string"));
            } else if capacity.get(key).is_none() {
                errors.push(FieldError::not_found(&key_at, &key.into()));
            }
            match is_lacking {
                true => {
                    let why = "capacityMultiplier is required when capacityKey is set";
                    errors.push(FieldError::required(format!("{at}.capacityMultiplier"), why));
                }
                false => positive("capacityMultiplier", errors),
            }
        }
    }
    positive("deviceMultiplier", errors);
    let both = "`capacityKey`, `deviceMultiplier`";
    match (mapping["capacityKey"].is_null(), mapping["deviceMultiplier"].is_null()) {
        (true, true) => errors.push(FieldError::invalid(at, &"".into(), &format!("must specify one of: {both}"))),
        (false, false) => {
            let value = "{capacityKey, deviceMultiplier}";
            errors.push(FieldError::invalid(at, &value.into(), &format!("must specify exactly one of: {both}")));
        }
        _ => {}
    }
}

/// Counters under the name of their set, which stands at `key`.
pub(super) fn named_counters(set: &Value, key: &str, at: &str, errors: &mut FieldErrors) {
    match text(set, key) {
        "" => errors.push(FieldError::required(format!("{at}.{key}"), "")),
        name => form(name, names::dns1123_label, &format!("{at}.{key}"), errors),
    }
    let at = format!("{at}.counters");
    match set["counters"].as_object() {
        Some(counters) if counters.len() > COUNTERS_MAX => errors.push(FieldError::too_many(at, counters.len(), COUNTERS_MAX)),
        Some(counters) if !counters.is_empty() => counters.keys().for_each(|name| form(name, names::dns1123_label, &at, errors)),
        _ => errors.push(FieldError::required(at, "")),
    }
}

fn attribute(attribute: &Value, at: &str, errors: &mut FieldErrors) {
    let mut one = |key: &str, value: &str, at: String| {
        if key.starts_with("version") && !VERSION.is_match(value) {
            errors.push(FieldError::invalid(&at, &value.into(), "must be a string compatible with semver.org spec 2.0.0"));
        }
        if value.len() > ATTRIBUTE_BYTES_MAX {
            errors.push(FieldError::too_long(at, ATTRIBUTE_BYTES_MAX));
        }
    };
    for key in ["string", "version"] {
        if let Some(value) = attribute[key].as_str() {
            one(key, value, format!("{at}.{key}"));
        }
    }
    for key in ["strings", "versions"] {
        for (index, value) in list(attribute, key).iter().enumerate() {
            one(key, value.as_str().unwrap_or(""), format!("{at}.{key}[{index}]"));
        }
    }
    for key in LISTS {
        if attribute[key].as_array().is_some_and(Vec::is_empty) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &attribute[key], "must not be empty if specified"));
        }
    }
    match attribute.as_object().map_or(0, Map::len) {
        0 => errors.push(FieldError::invalid(at, &"".into(), "exactly one value must be specified")),
        1 => {}
        _ => errors.push(FieldError::invalid(at, attribute, "exactly one value must be specified")),
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// How much of a capacity a request gets that says nothing, and how much it may ask for.
fn request_policy(capacity: Quantity, policy: &Value, at: &str, errors: &mut FieldErrors) {
    let (choices, range) = (list(policy, "validValues"), &policy["validRange"]);
    let key = match (choices.is_empty(), range.is_null()) {
        (false, false) => {
            let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
            errors.push(FieldError::forbidden(at, why));
            return;
        }
        (true, true) => return,
        (false, true) => "validValues",
        (true, false) => "validRange",
    };
    let Some(default) = amount(&policy["default"]) else {
        errors.push(FieldError::required(format!("{at}.default"), &format!("required when {key} is defined")));
        return;
    };
    let at = format!("{at}.{key}");
    match key {
        "validValues" => choose(default, capacity, choices, &at, errors),
        _ => within(default, capacity, range, &at, errors),
    }
}

fn choose(default: Quantity, capacity: Quantity, choices: &[Value], at: &str, errors: &mut FieldErrors) {
    let amounts: Vec<Quantity> = choices.iter().filter_map(amount).collect();
    for (index, pair) in amounts.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        let why = "values must be sorted in ascending order";
        errors.push(FieldError::invalid(format!("{at}[{}]", index + 1), &pair[1].to_string().into(), why));
    }
    if choices.len() > CHOICES_MAX {
        errors.push(FieldError::too_many(at, choices.len(), CHOICES_MAX));
        return;
    }
    for (index, choice) in amounts.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if *choice > capacity {
            let why = format!("option is larger than capacity value: {capacity}");
            errors.push(FieldError::invalid(&at, &choice.to_string().into(), &why));
        }
        if amounts[..index].contains(choice) {
            errors.push(FieldError::duplicate(at, &choice.value().to_string().into()));
        }
    }
    if !amounts.contains(&default) {
        errors.push(FieldError::invalid(at, &default.to_string().into(), "default value is not valid according to the requestPolicy"));
    }
}

fn within(default: Quantity, capacity: Quantity, range: &Value, at: &str, errors: &mut FieldErrors) {
    let Some(min) = amount(&range["min"]) else {
        errors.push(FieldError::required(format!("{at}.min"), "required when validRange is defined"));
        return;
    };
    let (max, step) = (amount(&range["max"]), amount(&range["step"]));
    let mut wrong = |key: &str, value: Quantity, why: String| {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &value.to_string().into(), &why));
    };
    if min > capacity {
        wrong("min", min, format!("min is larger than capacity value: {capacity}"));
    }
    if default < min {
        wrong("default", default, format!("default is less than min: {min}"));
    }
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > capacity {
            wrong("max", max, format!("max is larger than capacity value: {capacity}"));
        }
        if default > max {
            wrong("default", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step else { return };
    if step.is_negative() || step.is_zero() {
        wrong("step", step, "must be greater than zero".to_owned());
        return;
    }
    if min + step > capacity {
        wrong("step", step, format!("one step {} is larger than capacity value: {capacity}", min + step));
    }
    // Upstream reckons in numbers of 64 bits, and takes what does not fit for something else.
    let bounds = [("default", Some(default)), ("min", Some(min)), ("max", max), ("step", Some(step))];
    let is_whole = bounds.iter().filter_map(|(_, bound)| bound.as_ref()).all(Quantity::is_whole);
    let mut is_unfit = false;
    for (key, bound) in bounds.into_iter().filter_map(|(key, bound)| Some((key, bound?))) {
        let why = match is_whole {
            true if bound.is_negative() => "must be greater than or equal to 0",
            false if bound.round_up_to_milli() != bound || i64::try_from(bound.milli()).is_err() => {
                "value cannot be represented as a milli value"
            }
            _ => continue,
        };
        wrong(key, bound, why.to_owned());
        is_unfit = true;
    }
    if is_unfit {
        return;
    }
    let steps = |value: Quantity| match is_whole {
        true => (value.value() - min.value()) % step.value(),
        false => (value.milli() - min.milli()) % step.milli(),
    };
    for value in [Some(default), max].into_iter().flatten().filter(|value| steps(*value) != 0) {
        wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
    }
}

/// Where the device can be reached, if that is not the same for all of the slice.
fn place(device: &Value, chosen_each: bool, at: &str, errors: &mut FieldErrors) {
    let whole = "`perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !chosen_each {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|key| !device[key].is_null()) {
            let why = format!("`nodeName`, `nodeSelector` and `allNodes` can only be set if {whole}");
            errors.push(FieldError::invalid(at, &Value::Null, &why));
        }
        return;
    }
    let mut given = Vec::new();
    match device["nodeName"].as_str() {
        Some("") => errors.push(FieldError::invalid(format!("{at}.nodeName"), &"".into(), "must not be empty")),
        Some(name) => {
            given.push("`nodeName`");
            form(name, names::dns1123_subdomain, &format!("{at}.nodeName"), errors);
        }
        None => {}
    }
    if !device["nodeSelector"].is_null() {
        given.push("`nodeSelector`");
        node_selector(&device["nodeSelector"], &format!("{at}.nodeSelector"), errors);
    }
    match &device["allNodes"] {
        Value::Bool(true) => given.push("`allNodes`"),
        Value::Bool(false) => {
            errors.push(FieldError::invalid(format!("{at}.allNodes"), &false.into(), "must be either unset or set to true"));
        }
        _ => {}
    }
    let one = format!("exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when {whole}");
    match given.len() {
        0 => errors.push(FieldError::required(at, &one)),
        1 => {}
        _ => errors.push(FieldError::invalid(at, &format!("{{{}}}", given.join(", ")).into(), &one)),
    }
}

/// Conditions that a claim waits for before its pod is bound, and those that end the wait: the one kind is nothing without the other.
pub(super) fn binding(device: &Value, at: &str, errors: &mut FieldErrors) {
    let keys = ["bindingConditions", "bindingFailureConditions"];
    for key in keys {
        each_once(list(device, key), BINDING_CONDITIONS_MAX, None, &format!("{at}.{key}"), errors, |name, at, errors| {
            form(name.as_str().unwrap_or(""), names::qualified_name, at, errors);
        });
    }
    let [good, bad] = keys.map(|key| list(device, key));
    let names: HashSet<_> = good.iter().filter_map(Value::as_str).collect();
    for (index, name) in bad.iter().enumerate().filter(|(_, name)| name.as_str().is_some_and(|name| names.contains(name))) {
        let why = "bindingFailureConditions must not overlap with bindingConditions";
        errors.push(FieldError::invalid(format!("{at}.bindingFailureConditions[{index}]"), name, why));
    }
    for (key, other, is_lacking) in
        [(keys[0], keys[1], good.is_empty() && !bad.is_empty()), (keys[1], keys[0], bad.is_empty() && !good.is_empty())]
    {
        if is_lacking {
            let given = device[key].as_array().cloned().unwrap_or_default();
            errors.push(FieldError::invalid(format!("{at}.{key}"), &given.into(), &format!("{key} are required to use {other}")));
        }
    }
}
