//! Persistent volumes and the claims to them.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::affinity::node_selector;
use super::paths::no_way_up;
use super::rules::{Rules, is_missing};
use super::{by_table, list, resources, text, volumes};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;

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

static VOLUME: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.accessModes required
        spec.capacity required
        spec.persistentVolumeReclaimPolicy enum Delete Recycle Retain
        spec.nodeAffinity.required required must specify required node constraints
        spec.hostPath.path required
        spec.nfs.server required
        spec.nfs.path required
        spec.local.path required
        spec.iscsi.targetPortal required
        spec.iscsi.iqn required
        spec.iscsi.lun range 0 255
        spec.csi.volumeHandle required
        spec.csi.controllerPublishSecretRef.name required
        spec.csi.controllerPublishSecretRef.name subdomain
        spec.csi.controllerPublishSecretRef.namespace required
        spec.csi.controllerPublishSecretRef.namespace label
        spec.csi.controllerExpandSecretRef.name required
        spec.csi.controllerExpandSecretRef.name subdomain
        spec.csi.controllerExpandSecretRef.namespace required
        spec.csi.controllerExpandSecretRef.namespace label
        spec.csi.nodePublishSecretRef.name required
        spec.csi.nodePublishSecretRef.name subdomain
        spec.csi.nodePublishSecretRef.namespace required
        spec.csi.nodePublishSecretRef.namespace label
        spec.csi.nodeExpandSecretRef.name required
        spec.csi.nodeExpandSecretRef.name subdomain
        spec.csi.nodeExpandSecretRef.namespace required
        spec.csi.nodeExpandSecretRef.namespace label
        spec.storageClassName subdomain
        spec.volumeMode enum Block Filesystem
        spec.volumeAttributesClassName subdomain
        "#,
    )
});

static CLAIM: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        selector selector
        storageClassName subdomain
        volumeMode enum Block Filesystem
        volumeAttributesClassName subdomain
        "#,
    )
});

pub(in crate::kinds) fn persistent_volume(object: &Object) -> FieldErrors {
    let empty = json!({});
    let spec = object.get(&["spec"]).unwrap_or(&empty);
    let mut errors = by_table(&VOLUME, object);
    access_modes(spec, "spec", &mut errors);
    capacity(spec, &mut errors);
    if let Some(required) = spec["nodeAffinity"].get("required") {
        node_selector(required, "spec.nodeAffinity.required", &mut errors);
    }
    volume_source(spec, &mut errors);
    if spec["persistentVolumeReclaimPolicy"] == "Recycle" && is_root(text(&spec["hostPath"], "path")) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", detail));
    }
    if let Some(class) = spec.get("volumeAttributesClassName") {
        if class == "" {
            errors.push(FieldError::required("spec.volumeAttributesClassName", "an empty string is disallowed"));
        }
        if spec.get("csi").is_none() {
            errors.push(FieldError::required("spec.csi", "has to be specified when using volumeAttributesClassName"));
        }
    }
    errors
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| ["", "."].contains(&part))
}

fn capacity(spec: &Value, errors: &mut FieldErrors) {
    let capacity = spec["capacity"].as_object();
    let only_storage = capacity.is_some_and(|map| map.len() == 1 && map.contains_key("storage"));
    if !only_storage {
        let shown = capacity.map_or(json!({}), |map| map.clone().into());
        errors.push(FieldError::not_supported("spec.capacity", &shown, &["storage"]));
    }
    for (name, value) in capacity.into_iter().flatten() {
        positive(value, &format!("spec.capacity[{name}]"), errors);
    }
}

fn positive(value: &Value, path: &str, errors: &mut FieldErrors) {
    if resources::amount(value).is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
        errors.push(FieldError::invalid(path, value, "must be greater than zero"));
    }
}

fn volume_source(spec: &Value, errors: &mut FieldErrors) {
    let keys = spec.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let sources: Vec<&str> = keys.filter(|key| !VOLUME_COMMON.contains(key)).collect();
    if sources.is_empty() {
        errors.push(FieldError::required("spec", "must specify a volume type"));
    }
    for source in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("spec.{source}"), "may not specify more than 1 volume type"));
    }
    volumes::host_path(&spec["hostPath"], "spec.hostPath", errors);
    no_way_up(text(&spec["local"], "path"), "spec.local.path", errors);
    if spec.get("nfs").is_some() && !text(&spec["nfs"], "path").starts_with('/') {
        errors.push(FieldError::invalid("spec.nfs.path", &text(&spec["nfs"], "path").into(), "must be an absolute path"));
    }
    if spec.get("local").is_some() && is_missing(spec.get("nodeAffinity")) {
        errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
    }
    if spec.get("csi").is_some() {
        driver_name(text(&spec["csi"], "driver"), "spec.csi.driver", errors);
    }
}

/// Longest name of a CSI driver, in bytes.
const DRIVER_MAX: usize = 63;

pub(super) fn driver_name(name: &str, path: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if name.len() > DRIVER_MAX {
        errors.push(FieldError::too_long(path, DRIVER_MAX));
    }
    for reason in names::dns1123_subdomain(&name.to_ascii_lowercase()) {
        errors.push(FieldError::invalid(path, &name.into(), &reason));
    }
}

fn access_modes(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let valid = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let at = format!("{path}.accessModes");
    let modes = list(spec, "accessModes");
    let known = |mode: &&Value| mode.as_str().is_some_and(|mode| valid.contains(&mode));
    for mode in modes.iter().filter(|mode| !known(mode)) {
        errors.push(FieldError::not_supported(&at, mode, &valid));
    }
    if modes.iter().any(|mode| mode == "ReadWriteOncePod") && modes.iter().filter(known).any(|mode| mode != "ReadWriteOncePod") {
        errors.push(FieldError::forbidden(at, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// Where a volume is, it stays; a driver that had no secret to expand it with may be given one.
pub(in crate::kinds) fn persistent_volume_change(new: &Object, old: &Object) -> FieldErrors {
    let expand = ["spec", "csi", "controllerExpandSecretRef"];
    let source = |object: &Object| {
        let mut object = object.clone();
        if old.get(&expand).is_none() {
            object.remove(&expand);
        }
        let mut spec = object.get(&["spec"]).and_then(Value::as_object).cloned().unwrap_or_default();
        spec.retain(|key, _| !VOLUME_COMMON.contains(&key.as_str()));
        spec
    };
    let mut errors = Vec::new();
    if source(new) != source(old) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    let value = |object: &Object, key: &str| object.get(&["spec", key]).cloned().unwrap_or(Value::Null);
    // Upstream leaves `spec` out of these two paths.
    if value(new, "volumeMode") != value(old, "volumeMode") {
        errors.push(FieldError::invalid("volumeMode", &value(new, "volumeMode"), "field is immutable"));
    }
    let (now, before) = (value(new, "nodeAffinity"), value(old, "nodeAffinity"));
    if !before.is_null() && stable_labels(now.clone()) != stable_labels(before) {
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(FieldError::invalid("nodeAffinity", &now, detail));
    }
    if !value(old, "volumeAttributesClassName").is_null() && value(new, "volumeAttributesClassName").is_null() {
        errors.push(FieldError::forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden"));
    }
    errors
}

/// Labels of nodes that were renamed.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

fn stable_labels(mut affinity: Value) -> Value {
    let terms = affinity.pointer_mut("/required/nodeSelectorTerms").and_then(Value::as_array_mut);
    for term in terms.into_iter().flatten() {
        for requirement in term.get_mut("matchExpressions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some((_, stable)) = RENAMED.iter().find(|(beta, _)| requirement["key"] == *beta) {
                requirement["key"] = (*stable).into();
            }
        }
    }
    affinity
}

pub(in crate::kinds) fn persistent_volume_claim(object: &Object) -> FieldErrors {
    claim_spec(object.get(&["spec"]).unwrap_or(&Value::Null), "spec")
}

/// The spec of a claim, as in templates too.
pub(super) fn claim_spec(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(format!("{path}.accessModes"), "at least 1 access mode is required"));
    }
    access_modes(spec, path, &mut errors);
    let at = format!("{path}.resources[storage]");
    match spec["resources"]["requests"].get("storage") {
        None => errors.push(FieldError::required(at, "")),
        Some(size) => positive(size, &at, &mut errors),
    }
    CLAIM.check(spec, path, &mut errors);
    data_sources(spec, path, &mut errors);
    errors
}

fn data_sources(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for key in ["dataSource", "dataSourceRef"] {
        let Some(source) = spec.get(key) else { continue };
        let at = format!("{path}.{key}");
        for part in ["name", "kind"].iter().filter(|part| text(source, part).is_empty()) {
            errors.push(FieldError::required(format!("{at}.{part}"), ""));
        }
        match text(source, "apiGroup") {
            "" if text(source, "kind") != "PersistentVolumeClaim" => {
                let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                errors.push(FieldError::invalid(&at, &text(source, "kind").into(), detail));
            }
            "" => {}
            group => {
                let reasons = names::dns1123_subdomain(group);
                errors.extend(reasons.iter().map(|why| FieldError::invalid(format!("{at}.apiGroup"), &group.into(), why)));
            }
        }
        let namespace = text(source, "namespace");
        let reasons = Some(namespace).filter(|name| !name.is_empty()).map(names::dns1123_label).unwrap_or_default();
        errors.extend(reasons.iter().map(|why| FieldError::invalid(format!("{at}.namespace"), &namespace.into(), why)));
    }
    let (Some(plain), Some(reference)) = (spec.get("dataSource"), spec.get("dataSourceRef")) else { return };
    let shown = Value::from(format!("{path}.dataSource"));
    if !text(reference, "namespace").is_empty() {
        errors.push(FieldError::invalid(path, &shown, "may not be specified when dataSourceRef.namespace is specified"));
    } else if ["apiGroup", "kind", "name"].iter().any(|key| plain.get(*key) != reference.get(*key)) {
        errors.push(FieldError::invalid(path, &shown, "must match dataSourceRef"));
    }
}

pub(in crate::kinds) fn persistent_volume_claim_change(new: &Object, old: &Object) -> FieldErrors {
    let bound = new.str(&["status", "phase"]) == "Bound";
    let fixed = |object: &Object| {
        let mut object = object.clone();
        if bound {
            object.remove(&["spec", "resources", "requests", "storage"]);
            object.remove(&["spec", "volumeAttributesClassName"]);
        }
        // The binder fills these in once.
        if old.str(&["spec", "volumeName"]).is_empty() {
            object.remove(&["spec", "volumeName"]);
        }
        if old.get(&["spec", "storageClassName"]).is_none() {
            object.remove(&["spec", "storageClassName"]);
        }
        object.get(&["spec"]).cloned()
    };
    let mut errors = Vec::new();
    if fixed(new) != fixed(old) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.push(FieldError::forbidden("spec", detail));
    }
    let size = |object: &Object, path: &[&str]| object.get(path).and_then(resources::amount);
    let request = ["spec", "resources", "requests", "storage"];
    // A claim may shrink to what it had before an expansion that failed, and no further.
    if let (Some(now), Some(before)) = (size(new, &request), size(old, &request))
        && now < before
        && size(old, &["status", "capacity", "storage"]).is_some_and(|actual| now <= actual)
    {
        errors.push(FieldError::forbidden(request.join("."), "field can not be less than status.capacity"));
    }
    if new.get(&["spec", "volumeMode"]) != old.get(&["spec", "volumeMode"]) {
        let mode = new.get(&["spec", "volumeMode"]).unwrap_or(&Value::Null);
        // Upstream leaves `spec` out of this path.
        errors.push(FieldError::invalid("volumeMode", mode, "field is immutable"));
    }
    let class = |object: &Object| object.get(&["spec", "volumeAttributesClassName"]).cloned();
    let why = match (class(old), class(new)) {
        (Some(_), None) => "update from non-nil value to nil is forbidden",
        (Some(before), Some(now)) if before != now && now == "" => "update from non-nil value to an empty string is forbidden",
        _ => return errors,
    };
    errors.push(FieldError::forbidden("spec.volumeAttributesClassName", why));
    errors
}

/// The status of a claim.
pub(in crate::kinds) fn persistent_volume_claim_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for part in ["capacity", "allocatedResources"] {
        for (name, value) in new.get(&["status", part]).and_then(Value::as_object).into_iter().flatten() {
            if let Some(amount) = resources::amount(value).filter(Quantity::is_negative) {
                let at = format!("status.{part}[{name}]");
                errors.push(FieldError::invalid(
                    at,
                    &i64::try_from(amount.value()).unwrap_or(i64::MIN).into(),
                    "must be a valid resource quantity",
                ));
            }
        }
    }
    errors
}
