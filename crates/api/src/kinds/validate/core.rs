//! core/v1, but for pods and services.

use std::collections::HashSet;
use std::sync::LazyLock;

use base64::Engine;
use serde_json::Value;

use super::rules::{Rules, is_missing};
use super::{apps, by_table, pod, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;
use crate::validate::immutable;

/// All data of a ConfigMap or Secret together, in bytes (upstream's MaxSecretSize).
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(in crate::kinds) fn namespace(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, finalizer) in object.list(&["spec", "finalizers"]).iter().enumerate() {
        for reason in names::qualified_name(finalizer.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(format!("spec.finalizers[{index}]"), finalizer, &reason));
        }
    }
    errors
}

pub(in crate::kinds) fn config_map(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in object.get(&[part]).and_then(Value::as_object).into_iter().flatten() {
            bytes += value.as_str().unwrap_or("").len();
            if part == "data" && object.get(&["binaryData", key]).is_some() {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(format!("data[{key}]"), &key.as_str().into(), detail));
            }
            for reason in names::config_key(key) {
                errors.push(FieldError::invalid(format!("{part}[{key}]"), &key.as_str().into(), &reason));
            }
        }
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("", DATA_BYTES_MAX));
    }
    errors
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
const SECRET_KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(in crate::kinds) fn secret(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut bytes = 0;
    for (key, value) in object.get(&["data"]).and_then(Value::as_object).into_iter().flatten() {
        // Four characters of base64 are three bytes.
        bytes += value.as_str().unwrap_or("").len() / 4 * 3;
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
        "kubernetes.io/dockerconfigjson" => docker_config(object, &mut errors),
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
fn docker_config(object: &Object, errors: &mut FieldErrors) {
    let key = ".dockerconfigjson";
    let Some(encoded) = object.get(&["data", key]).and_then(Value::as_str) else { return };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    if serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded).is_err() {
        let hidden = Value::from("<secret contents redacted>");
        errors.push(FieldError::invalid(format!("data[{key}]"), &hidden, "invalid character: not a JSON object"));
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

static LIMIT_RANGE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.limits[].type required
        spec.limits[].type qualified
        spec.limits[].max amounts
        spec.limits[].min amounts
        spec.limits[].default amounts
        spec.limits[].defaultRequest amounts
        "#,
    )
});

pub(in crate::kinds) fn limit_range(object: &Object) -> FieldErrors {
    let mut errors = by_table(&LIMIT_RANGE, object);
    let mut types = HashSet::new();
    for (index, item) in object.list(&["spec", "limits"]).iter().enumerate() {
        let at = format!("spec.limits[{index}]");
        if !types.insert(text(item, "type")) {
            errors.push(FieldError::duplicate(format!("{at}.type"), &item["type"]));
        }
        // Each must not be more than the next.
        let order = ["min", "defaultRequest", "default", "max"];
        for (lower, upper) in order.iter().enumerate().flat_map(|(i, lower)| order[i + 1..].iter().map(move |upper| (lower, upper))) {
            for (name, value) in item[*lower].as_object().into_iter().flatten() {
                let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
                if let (Some(low), Some(high)) = (amount(value), item[*upper].get(name).and_then(amount))
                    && low > high
                {
                    let detail = format!("{lower} value {low} is greater than {upper} value {high}");
                    errors.push(FieldError::invalid(format!("{at}.{lower}[{name}]"), value, &detail));
                }
            }
        }
    }
    errors
}

static RESOURCE_QUOTA: LazyLock<Rules> = LazyLock::new(|| Rules::parse("spec.hard amounts\n status.used amounts"));

pub(in crate::kinds) fn resource_quota(object: &Object) -> FieldErrors {
    by_table(&RESOURCE_QUOTA, object)
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

static NODE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.taints[].key required
        spec.taints[].key qualified
        spec.taints[].effect required
        spec.taints[].effect enum NoSchedule PreferNoSchedule NoExecute
        "#,
    )
});

pub(in crate::kinds) fn node(object: &Object) -> FieldErrors {
    let mut errors = by_table(&NODE, object);
    let mut seen = HashSet::new();
    for (index, taint) in object.list(&["spec", "taints"]).iter().enumerate() {
        for reason in names::label_value(text(taint, "value")) {
            errors.push(FieldError::invalid(format!("spec.taints[{index}].value"), &taint["value"], &reason));
        }
        if !seen.insert((text(taint, "key"), text(taint, "effect"))) {
            errors.push(FieldError::duplicate(format!("spec.taints[{index}]"), taint));
        }
    }
    errors
}

/// What has been given to a node stays.
pub(in crate::kinds) fn node_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["podCIDR", "podCIDRs", "providerID"] {
        let before = old.get(&["spec", key]);
        if !is_missing(before) && before != new.get(&["spec", key]) {
            let detail = "node updates may not change ".to_owned() + key + " except from \"\" to valid";
            errors.push(FieldError::forbidden(format!("spec.{key}"), &detail));
        }
    }
    errors
}

/// Fields of a volume's spec beside its source.
const VOLUME_COMMON: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// Where a volume is, it stays; a driver may be given another secret to expand it with.
pub(in crate::kinds) fn persistent_volume_change(new: &Object, old: &Object) -> FieldErrors {
    let source = |object: &Object| {
        let mut spec = object.get(&["spec"]).and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|key, _| !VOLUME_COMMON.contains(&key.as_str()));
        if let Some(Value::Object(csi)) = spec.get_mut("csi") {
            csi.remove("controllerExpandSecretRef");
        }
        spec
    };
    let mut errors = Vec::new();
    if source(new) != source(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    errors.extend(immutable(new, old, &[&["spec", "volumeMode"]]));
    if old.get(&["spec", "nodeAffinity"]).is_some() {
        errors.extend(immutable(new, old, &[&["spec", "nodeAffinity"]]));
    }
    errors
}

static PERSISTENT_VOLUME: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.volumeMode enum Block Filesystem
        spec.storageClassName subdomain
        spec.hostPath.path required
        spec.hostPath.type enum DirectoryOrCreate Directory FileOrCreate File Socket CharDevice BlockDevice
        spec.local.path required
        spec.nfs.server required
        spec.nfs.path required
        spec.csi.driver required
        spec.csi.volumeHandle required
        spec.nodeAffinity.required required
        "#,
    )
});

static PERSISTENT_VOLUME_CLAIM: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.selector selector
        spec.storageClassName subdomain
        spec.volumeMode enum Block Filesystem
        spec.dataSource.kind required
        spec.dataSource.name required
        "#,
    )
});

fn positive(size: &str, path: &str, errors: &mut FieldErrors) {
    if Quantity::parse(size).is_ok_and(|size| size.is_negative() || size.is_zero()) {
        errors.push(FieldError::invalid(path, &size.into(), "must be greater than zero"));
    }
}

pub(in crate::kinds) fn persistent_volume(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if object.list(&["spec", "accessModes"]).is_empty() {
        errors.push(FieldError::required("spec.accessModes", ""));
    }
    access_modes(object, &mut errors);
    errors.extend(by_table(&PERSISTENT_VOLUME, object));
    let capacity = object.get(&["spec", "capacity"]);
    match capacity.filter(|capacity| !is_missing(Some(capacity))) {
        None => errors.push(FieldError::required("spec.capacity", "")),
        Some(capacity) if capacity.get("storage").is_none() || capacity.as_object().is_some_and(|map| map.len() > 1) => {
            errors.push(FieldError::not_supported("spec.capacity", capacity, &["storage"]));
        }
        Some(capacity) => positive(capacity["storage"].as_str().unwrap_or(""), "spec.capacity[storage]", &mut errors),
    }
    let keys = object.get(&["spec"]).and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key.as_str());
    let sources: Vec<&str> = keys.filter(|key| !VOLUME_COMMON.contains(key)).collect();
    if sources.is_empty() {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    for source in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("spec.{source}"), "may not specify more than 1 volume type"));
    }
    let host_path = object.str(&["spec", "hostPath", "path"]);
    if host_path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid("spec.hostPath.path", &host_path.into(), "must not contain '..'"));
    }
    if object.get(&["spec", "local"]).is_some() && is_missing(object.get(&["spec", "nodeAffinity"])) {
        errors.push(FieldError::required("metadata.annotations", "Local volume requires node affinity"));
    }
    let policy = object.str(&["spec", "persistentVolumeReclaimPolicy"]);
    if host_path.starts_with('/') && host_path.trim_end_matches('/').is_empty() && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath of '/'";
        errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", detail));
    }
    let policies = ["Delete", "Recycle", "Retain"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported("spec.persistentVolumeReclaimPolicy", &policy.into(), &policies));
    }
    errors
}

fn access_modes(object: &Object, errors: &mut FieldErrors) {
    let valid = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];
    for mode in object.list(&["spec", "accessModes"]) {
        if mode.as_str().is_none_or(|mode| !valid.contains(&mode)) {
            errors.push(FieldError::not_supported("spec.accessModes", mode, &valid));
        }
    }
    let modes = object.list(&["spec", "accessModes"]);
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.push(FieldError::forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(in crate::kinds) fn persistent_volume_claim(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if object.list(&["spec", "accessModes"]).is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    access_modes(object, &mut errors);
    match object.str(&["spec", "resources", "requests", "storage"]) {
        "" => errors.push(FieldError::required("spec.resources[storage]", "")),
        size => positive(size, "spec.resources[storage]", &mut errors),
    }
    errors.extend(by_table(&PERSISTENT_VOLUME_CLAIM, object));
    errors
}

pub(in crate::kinds) fn persistent_volume_claim_change(new: &Object, old: &Object) -> FieldErrors {
    let bound = old.str(&["status", "phase"]) == "Bound";
    let fixed = |object: &Object| {
        let mut spec = object.get(&["spec"]).cloned().unwrap_or_default();
        spec.as_object_mut().map(|map| map.remove("volumeAttributesClassName"));
        if let (true, Some(Value::Object(resources))) = (bound, spec.get_mut("resources")) {
            resources.remove("requests");
        }
        // The binder fills these in once.
        for key in ["volumeName", "storageClassName"] {
            if is_missing(old.get(&["spec", key])) {
                spec.as_object_mut().map(|map| map.remove(key));
            }
        }
        spec
    };
    if fixed(new) == fixed(old) {
        return shrinks(new, old);
    }
    let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    vec![FieldError::forbidden("spec", detail)]
}

/// A claim grows, and a growth that failed may be taken back to what there is.
fn shrinks(new: &Object, old: &Object) -> FieldErrors {
    let size = |object: &Object, path: &[&str]| Quantity::parse(object.str(path)).ok();
    let request = ["spec", "resources", "requests", "storage"];
    let (Some(now), Some(before)) = (size(new, &request), size(old, &request)) else { return Vec::new() };
    if now >= before || size(old, &["status", "capacity", "storage"]).is_some_and(|has| now > has) {
        return Vec::new();
    }
    vec![FieldError::forbidden("spec.resources.requests.storage", "field can not be less than status.capacity")]
}

pub(in crate::kinds) fn event(object: &Object) -> FieldErrors {
    let (involved, own) = (object.str(&["involvedObject", "namespace"]), object.namespace());
    // Events about objects without a namespace are kept in one of these two.
    let fits = if involved.is_empty() { ["default", "kube-system"].contains(&own) } else { involved == own };
    if fits {
        return Vec::new();
    }
    vec![FieldError::invalid("involvedObject.namespace", &involved.into(), "does not match event.namespace")]
}

/// Only its series may go on; what an event tells has happened.
pub(in crate::kinds) fn new_event_change(new: &Object, old: &Object) -> FieldErrors {
    let fixed = ["regarding", "related", "reason", "action", "note", "type", "reportingController", "reportingInstance", "eventTime"];
    fixed.iter().flat_map(|key| immutable(new, old, &[&[key]])).collect()
}

/// Longest note of an event, in bytes.
const NOTE_MAX: usize = 1024;

pub(in crate::kinds) fn new_event(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        if object.str(&[key]).is_empty() {
            errors.push(FieldError::required(key, ""));
        }
    }
    for reason in Some(object.str(&["reportingController"])).filter(|name| !name.is_empty()).map(names::qualified_name).unwrap_or_default()
    {
        errors.push(FieldError::invalid("reportingController", &object.str(&["reportingController"]).into(), &reason));
    }
    let ty = object.str(&["type"]);
    if !["Normal", "Warning"].contains(&ty) {
        errors.push(FieldError::invalid("type", &ty.into(), "must be one of Normal or Warning"));
    }
    if object.str(&["note"]).len() > NOTE_MAX {
        errors.push(FieldError::too_long("note", NOTE_MAX));
    }
    errors
}
