//! storage.k8s.io/v1 and node.k8s.io/v1.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing, selector};
use super::{by_table, duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::quantity::Quantity;
use crate::validate::immutable;

static STORAGE_CLASS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        provisioner required
        reclaimPolicy enum Delete Retain
        volumeBindingMode required
        volumeBindingMode enum Immediate WaitForFirstConsumer
        allowedTopologies[].matchLabelExpressions[].key qualified
        allowedTopologies[].matchLabelExpressions[].values required
        "#,
    )
});

/// Parameters of a class: how many, and their bytes together (upstream's maxProvisionerParameterLen and Size).
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;

pub(in crate::kinds) fn storage_class(object: &Object) -> FieldErrors {
    let mut errors = by_table(&STORAGE_CLASS, object);
    driver_name(object.str(&["provisioner"]), "provisioner", &mut errors);
    parameters(object, &mut errors);
    errors
}

/// Provisioners are qualified names, whatever their case.
fn driver_name(name: &str, path: &str, errors: &mut FieldErrors) {
    if !name.is_empty() {
        let reasons = names::qualified_name(&name.to_lowercase());
        errors.extend(reasons.iter().map(|reason| FieldError::invalid(path, &name.into(), reason)));
    }
}

fn parameters(object: &Object, errors: &mut FieldErrors) {
    let Some(parameters) = object.get(&["parameters"]).and_then(Value::as_object) else { return };
    if parameters.len() > PARAMETERS_MAX {
        errors.push(FieldError::too_long("parameters", PARAMETERS_MAX));
        return;
    }
    if parameters.contains_key("") {
        errors.push(FieldError::invalid("parameters", &"".into(), "field can not be empty."));
    }
    let bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.as_str().unwrap_or("").len()).sum();
    if bytes > PARAMETERS_BYTES_MAX {
        errors.push(FieldError::too_long("parameters", PARAMETERS_BYTES_MAX));
    }
}

pub(in crate::kinds) fn storage_class_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if new.get(&[key]) != old.get(&[key]) {
            errors.push(FieldError::forbidden(key, &format!("updates to {key} are forbidden.")));
        }
    }
    errors.extend(immutable(new, old, &[&["volumeBindingMode"]]));
    errors
}

static CSI_DRIVER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.attachRequired required
        spec.podInfoOnMount required
        spec.storageCapacity required
        spec.fsGroupPolicy enum None File ReadWriteOnceWithFSType
        spec.volumeLifecycleModes[] enum Persistent Ephemeral
        spec.nodeAllocatableUpdatePeriodSeconds min 10
        "#,
    )
});

/// A token lives between ten minutes and 2^32 seconds.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

pub(in crate::kinds) fn csi_driver(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CSI_DRIVER, object);
    let requests = object.list(&["spec", "tokenRequests"]);
    for (index, request) in requests.iter().enumerate() {
        let at = format!("spec.tokenRequests[{index}]");
        if requests[..index].iter().any(|other| text(other, "audience") == text(request, "audience")) {
            errors.push(FieldError::duplicate(format!("{at}.audience"), &request["audience"]));
        }
        let Some(seconds) = request["expirationSeconds"].as_i64() else { continue };
        let why = match seconds {
            ..TOKEN_SECONDS_MIN => "may not specify a duration less than 10 minutes",
            TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX => continue,
            _ => "may not specify a duration larger than 2^32 seconds",
        };
        errors.push(FieldError::invalid(format!("{at}.expirationSeconds"), &seconds.into(), why));
    }
    errors
}

pub(in crate::kinds) fn csi_driver_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "attachRequired"], &["spec", "volumeLifecycleModes"]])
}

static CSI_NODE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.drivers[].name required
        spec.drivers[].nodeID required
        spec.drivers[].allocatable.count min 0
        spec.drivers[].topologyKeys[] qualified
        "#,
    )
});

/// Bytes of a node's id in a driver (upstream's csiNodeIDMaxLength).
const NODE_ID_BYTES_MAX: usize = 256;

pub(in crate::kinds) fn csi_node(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CSI_NODE, object);
    let drivers = object.list(&["spec", "drivers"]);
    duplicates(drivers, "spec.drivers", "name", &mut errors);
    for (index, driver) in drivers.iter().enumerate() {
        let at = format!("spec.drivers[{index}]");
        driver_name(text(driver, "name"), &format!("{at}.name"), &mut errors);
        if text(driver, "nodeID").len() > NODE_ID_BYTES_MAX {
            let detail = format!("must be {NODE_ID_BYTES_MAX} characters or less");
            errors.push(FieldError::invalid(format!("{at}.nodeID"), &driver["nodeID"], &detail));
        }
        let keys = list(driver, "topologyKeys");
        for (index, key) in keys.iter().enumerate().filter(|(index, key)| keys[..*index].contains(key)) {
            errors.push(FieldError::duplicate(format!("{at}.topologyKeys[{index}]"), key));
        }
    }
    errors
}

/// What a driver says about itself changes with its name only.
pub(in crate::kinds) fn csi_node_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, driver) in new.list(&["spec", "drivers"]).iter().enumerate() {
        let was = old.list(&["spec", "drivers"]).iter().find(|was| was["name"] == driver["name"]);
        // How many volumes fit may be measured anew.
        let fixed = |driver: &Value| [driver["nodeID"].clone(), driver["topologyKeys"].clone()];
        if was.is_some_and(|was| fixed(was) != fixed(driver)) {
            errors.push(FieldError::invalid(format!("spec.drivers[{index}]"), driver, "field is immutable"));
        }
    }
    errors
}

static CSI_STORAGE_CAPACITY: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        storageClassName required
        storageClassName subdomain
        "#,
    )
});

pub(in crate::kinds) fn csi_storage_capacity(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CSI_STORAGE_CAPACITY, object);
    if let Some(topology) = object.get(&["nodeTopology"]) {
        selector(topology, "nodeTopology", &mut errors);
    }
    for key in ["capacity", "maximumVolumeSize"] {
        let value = object.str(&[key]);
        if Quantity::parse(value).is_ok_and(|quantity| quantity.is_negative()) {
            errors.push(FieldError::invalid(key, &value.into(), "must be greater than or equal to 0"));
        }
    }
    errors
}

pub(in crate::kinds) fn csi_storage_capacity_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["nodeTopology"], &["storageClassName"]])
}

static VOLUME_ATTACHMENT: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.attacher required
        spec.nodeName required
        spec.nodeName subdomain
        "#,
    )
});

pub(in crate::kinds) fn volume_attachment(object: &Object) -> FieldErrors {
    let mut errors = by_table(&VOLUME_ATTACHMENT, object);
    driver_name(object.str(&["spec", "attacher"]), "spec.attacher", &mut errors);
    let named = !object.str(&["spec", "source", "persistentVolumeName"]).is_empty();
    match (named, object.get(&["spec", "source", "inlineVolumeSpec"])) {
        (false, None) => {
            errors.push(FieldError::required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"));
        }
        (true, Some(_)) => {
            errors.push(FieldError::forbidden("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"));
        }
        _ => {}
    }
    errors
}

pub(in crate::kinds) fn volume_attachment_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec"]])
}

pub(in crate::kinds) fn volume_attributes_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let driver = object.str(&["driverName"]);
    if driver.is_empty() {
        errors.push(FieldError::required("driverName", ""));
    }
    driver_name(driver, "driverName", &mut errors);
    if is_missing(object.get(&["parameters"])) {
        errors.push(FieldError::required("parameters", "must contain at least one key/value pair"));
    }
    parameters(object, &mut errors);
    errors
}

pub(in crate::kinds) fn volume_attributes_class_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["driverName"], &["parameters"]])
}

static RUNTIME_CLASS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        handler required
        handler label
        overhead.podFixed amounts
        scheduling.nodeSelector labels
        scheduling.tolerations[].key qualified
        scheduling.tolerations[].operator enum Equal Exists Lt Gt
        scheduling.tolerations[].effect enum NoSchedule PreferNoSchedule NoExecute
        "#,
    )
});

pub(in crate::kinds) fn runtime_class(object: &Object) -> FieldErrors {
    by_table(&RUNTIME_CLASS, object)
}

pub(in crate::kinds) fn runtime_class_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["handler"]])
}
