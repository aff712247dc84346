//! core/v1, but for pods and services.

use std::collections::HashSet;
use std::sync::LazyLock;

use base64::Engine;
use serde_json::Value;

use super::pod::{self, EFFECTS};
use super::rules::{Rules, is_missing};
use super::{apps, by_table, resources, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

/// All data of a ConfigMap or Secret together, in bytes (upstream's MaxSecretSize).
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(in crate::kinds) fn namespace(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for finalizer in object.list(&["spec", "finalizers"]) {
        for reason in names::finalizer(finalizer.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid("spec.finalizers", finalizer, &reason));
        }
    }
    errors
}

pub(in crate::kinds) fn namespace_status_change(new: &Object, _: &Object) -> FieldErrors {
    let why = match (new.deletion_timestamp().is_empty(), new.str(&["status", "phase"])) {
        (true, "Active") | (false, "Terminating") => return Vec::new(),
        (true, _) => "may only be 'Active' if `deletionTimestamp` is empty",
        (false, _) => "may only be 'Terminating' if `deletionTimestamp` is not empty",
    };
    vec![FieldError::invalid("status.Phase", &new.str(&["status", "phase"]).into(), why)]
}

pub(in crate::kinds) fn config_map(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in object.get(&[part]).and_then(Value::as_object).into_iter().flatten() {
            let text = value.as_str().unwrap_or("");
            bytes += if part == "data" { text.len() } else { decoded_len(text) };
            for reason in names::config_key(key) {
                errors.push(FieldError::invalid(format!("{part}[{key}]"), &key.as_str().into(), &reason));
            }
            if part == "data" && object.get(&["binaryData", key]).is_some() {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(format!("data[{key}]"), &key.as_str().into(), detail));
            }
        }
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("", DATA_BYTES_MAX));
    }
    errors
}

/// Bytes that base64 stands for: four characters are three bytes, less the padding.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|c| *c == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(in crate::kinds) fn config_map_change(new: &Object, old: &Object) -> FieldErrors {
    frozen(new, old, &["data", "binaryData"])
}

/// Once `immutable` is set it stays, and so does the data.
fn frozen(new: &Object, old: &Object, parts: &[&str]) -> FieldErrors {
    if !old.bool(&["immutable"]) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let why = "field is immutable when `immutable` is set";
    if !new.bool(&["immutable"]) {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for part in parts.iter().filter(|part| new.get(&[part]) != old.get(&[part])) {
        errors.push(FieldError::forbidden(*part, why));
    }
    errors
}

/// (type, keys of which each is needed)
const SECRET_KEYS: [(&str, &[&str]); 3] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(in crate::kinds) fn secret(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in object.get(&["data"]).and_then(Value::as_object).into_iter().flatten() {
        bytes += decoded_len(value.as_str().unwrap_or(""));
        for reason in names::config_key(key) {
            errors.push(FieldError::invalid(format!("data[{key}]"), &key.as_str().into(), &reason));
        }
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("data", DATA_BYTES_MAX));
    }
    let ty = object.str(&["type"]);
    for (_, keys) in SECRET_KEYS.iter().filter(|row| row.0 == ty) {
        for key in keys.iter().filter(|key| object.get(&["data", key]).is_none()) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    }
    match ty {
        "kubernetes.io/dockercfg" => docker_config(object, ".dockercfg", &mut errors),
        "kubernetes.io/dockerconfigjson" => docker_config(object, ".dockerconfigjson", &mut errors),
        // The key may not even be empty.
        "kubernetes.io/ssh-auth" if object.str(&["data", "ssh-privatekey"]).is_empty() => {
            errors.push(FieldError::required("data[ssh-privatekey]", ""));
        }
        "kubernetes.io/basic-auth" if ["username", "password"].iter().all(|key| object.get(&["data", key]).is_none()) => {
            errors.push(FieldError::required("data[username]", ""));
            errors.push(FieldError::required("data[password]", ""));
        }
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if object.annotation(annotation).unwrap_or("").is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{annotation}]"), ""));
            }
        }
        _ => {}
    }
    errors
}

/// The value is not shown: it holds passwords.
fn docker_config(object: &Object, key: &str, errors: &mut FieldErrors) {
    let Some(encoded) = object.get(&["data", key]).and_then(Value::as_str) else { return };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    let is_map_or_null = |value: Value| value.is_object() || value.is_null();
    if !serde_json::from_slice(&decoded).is_ok_and(is_map_or_null) {
        let hidden = Value::from("<secret contents redacted>");
        errors.push(FieldError::invalid(format!("data[{key}]"), &hidden, &why_not_json(&decoded)));
    }
}

/// In the words of Go's decoder, where it is easy to say.
fn why_not_json(bytes: &[u8]) -> String {
    let Some(first) = bytes.iter().find(|c| !c.is_ascii_whitespace()) else { return "unexpected end of JSON input".to_owned() };
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => {
            let kind = match value {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "array",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(error) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(_) => format!("invalid character '{}' looking for beginning of value", first.escape_ascii()),
    }
}

pub(in crate::kinds) fn secret_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = immutable(new, old, &[&["type"]]);
    errors.extend(frozen(new, old, &["data"]));
    errors
}

pub(in crate::kinds) fn pod_template(object: &Object) -> FieldErrors {
    match object.get(&["template"]) {
        Some(template) => pod::check_template(template, "template"),
        None => vec![FieldError::required("template.spec.containers", "")],
    }
}

pub(in crate::kinds) fn replication_controller(object: &Object) -> FieldErrors {
    apps::replication_controller(object)
}

static NODE: LazyLock<Rules> = LazyLock::new(|| Rules::parse("spec.podCIDRs[] cidr"));

pub(in crate::kinds) fn node(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    taints(object, &mut errors);
    for part in ["capacity", "allocatable"] {
        for (name, value) in object.get(&["status", part]).and_then(Value::as_object).into_iter().flatten() {
            resources::check_amount(name, value, &format!("status.{part}.{name}"), &mut errors);
        }
    }
    errors.extend(by_table(&NODE, object));
    pod_ranges(object.list(&["spec", "podCIDRs"]), &mut errors);
    errors
}

/// Upstream looks for them in the metadata.
fn taints(object: &Object, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, taint) in object.list(&["spec", "taints"]).iter().enumerate() {
        let at = format!("metadata.taints[{index}]");
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        errors.extend(names::qualified_name(key).iter().map(|why| FieldError::invalid(format!("{at}.key"), &key.into(), why)));
        let reasons = names::label_value(text(taint, "value"));
        if !reasons.is_empty() {
            errors.push(FieldError::invalid(format!("{at}.value"), &taint["value"], &reasons.join(";")));
        }
        match effect {
            "" => errors.push(FieldError::required(format!("{at}.effect"), "")),
            effect if EFFECTS.contains(&effect) => {}
            _ => errors.push(FieldError::not_supported_as_listed(format!("{at}.effect"), &taint["effect"], &EFFECTS)),
        }
        if !seen.insert((key, effect)) {
            errors.push(FieldError::duplicate(at, taint).with_detail("taints must be unique by key and effect pair"));
        }
    }
}

/// One range of a family.
fn pod_ranges(ranges: &[Value], errors: &mut FieldErrors) {
    let six = |range: &Value| range.as_str().is_some_and(|range| range.contains(':'));
    if ranges.len() > 1 && (ranges.len() > 2 || six(&ranges[0]) == six(&ranges[1])) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid("spec.podCIDRs", &ranges.to_vec().into(), detail));
    }
    let mut seen = HashSet::new();
    for (index, range) in ranges.iter().enumerate().filter(|(_, range)| !seen.insert(range.as_str())) {
        errors.push(FieldError::duplicate(format!("spec.podCIDRs[{index}]"), range));
    }
}

/// What has been given to a node stays.
pub(in crate::kinds) fn node_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let addresses = new.list(&["status", "addresses"]);
    let mut seen = HashSet::new();
    for (index, address) in addresses.iter().enumerate().filter(|(_, one)| !seen.insert((text(one, "type"), text(one, "address")))) {
        errors.push(FieldError::duplicate(format!("status.addresses[{index}]"), address));
    }
    for (key, shown) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let before = old.get(&["spec", key]);
        if !is_missing(before) && before != new.get(&["spec", key]) {
            let detail = format!("node updates may not change {shown} except from \"\" to valid");
            errors.push(FieldError::forbidden(format!("spec.{key}"), &detail));
        }
    }
    errors
}
