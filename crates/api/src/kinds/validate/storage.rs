//! storage.k8s.io/v1 and node.k8s.io/v1.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::persistent::driver_name;
use super::resources::{Place, requirements};
use super::rules::{Rules, is_missing};
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
        allowedTopologies[].matchLabelExpressions[].key qualified!
        allowedTopologies[].matchLabelExpressions[].values required
        "#,
    )
});

/// Parameters of a class: how many, and their bytes together (upstream's maxProvisionerParameterLen and Size).
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;

pub(in crate::kinds) fn storage_class(object: &Object) -> FieldErrors {
    let mut errors = by_table(&STORAGE_CLASS, object);
    provisioner_name(object.str(&["provisioner"]), "provisioner", &mut errors);
    parameters(object, &mut errors);
    let terms = object.list(&["allowedTopologies"]);
    let mut seen = BTreeSet::new();
    for (index, term) in terms.iter().enumerate() {
        let at = format!("allowedTopologies[{index}].matchLabelExpressions");
        topology(term, &at, &mut errors);
        if !seen.insert(wanted(term)) {
            errors.push(FieldError::duplicate(at, &"".into()));
        }
    }
    errors
}

/// The values of each key, whatever their order.
fn wanted(term: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let values = |expression| list(expression, "values").iter().filter_map(Value::as_str).collect();
    list(term, "matchLabelExpressions").iter().map(|expression| (text(expression, "key"), values(expression))).collect()
}

fn topology(term: &Value, at: &str, errors: &mut FieldErrors) {
    let expressions = list(term, "matchLabelExpressions");
    duplicates(expressions, at, "key", errors);
    for (index, expression) in expressions.iter().enumerate() {
        let values = list(expression, "values");
        let mut seen = HashSet::new();
        for (value_index, value) in values.iter().enumerate().filter(|(_, value)| !seen.insert(value.as_str())) {
            errors.push(FieldError::duplicate(format!("{at}[{index}].values[{value_index}]"), value));
        }
    }
}

/// Provisioners are qualified names, whatever their case.
fn provisioner_name(name: &str, path: &str, errors: &mut FieldErrors) {
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
    let mut errors = forbidden(new, old, &["parameters", "provisioner", "reclaimPolicy"]);
    errors.extend(immutable(new, old, &[&["volumeBindingMode"]]));
    errors
}

fn forbidden(new: &Object, old: &Object, keys: &[&str]) -> FieldErrors {
    let changed = keys.iter().filter(|key| new.get(&[key]) != old.get(&[key]));
    changed.map(|key| FieldError::forbidden(*key, &format!("updates to {key} are forbidden."))).collect()
}

static CSI_DRIVER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.podInfoOnMount required
        spec.storageCapacity required
        spec.fsGroupPolicy enum None File ReadWriteOnceWithFSType
        "#,
    )
});

/// A token lives between ten minutes and 2^32 seconds.
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

/// Seconds between two looks at how many volumes a node may have.
const UPDATE_SECONDS_MIN: i64 = 10;

pub(in crate::kinds) fn csi_driver(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CSI_DRIVER, object);
    let modes = object.list(&["spec", "volumeLifecycleModes"]);
    for mode in modes.iter().filter(|mode| *mode != "Persistent" && *mode != "Ephemeral") {
        errors.push(FieldError::not_supported_as_listed("spec.volumeLifecycleModes", mode, &["Persistent", "Ephemeral"]));
    }
    let period = ["spec", "nodeAllocatableUpdatePeriodSeconds"];
    if let Some(seconds) = object.int(&period).filter(|seconds| *seconds < UPDATE_SECONDS_MIN) {
        let detail = format!("must be greater than or equal to {UPDATE_SECONDS_MIN} seconds");
        errors.push(FieldError::invalid(period.join("."), &seconds.into(), &detail));
    }
    let requests = object.list(&["spec", "tokenRequests"]);
    let mut seen = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let at = format!("spec.tokenRequests[{index}]");
        if !seen.insert(text(request, "audience")) {
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
    let mut errors = immutable(new, old, &[&["spec", "attachRequired"], &["spec", "volumeLifecycleModes"]]);
    // Upstream calls it so.
    errors.iter_mut().filter(|error| error.path == "spec.attachRequired").for_each(|error| error.path = "spec.attachedRequired".to_owned());
    errors
}

static CSI_NODE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.drivers[].nodeID required
        spec.drivers[].allocatable.count min 0
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
        let mut seen = HashSet::new();
        for key in list(driver, "topologyKeys") {
            if key == "" {
                errors.push(FieldError::required(&at, ""));
            }
            if !seen.insert(key.as_str()) {
                errors.push(FieldError::duplicate(&at, key));
            }
            let reasons = names::qualified_name(key.as_str().unwrap_or(""));
            errors.extend(reasons.iter().map(|reason| FieldError::invalid(&at, key, reason)));
        }
    }
    errors
}

/// What a driver says about itself changes with its name only. How many volumes fit may be measured anew.
pub(in crate::kinds) fn csi_node_change(new: &Object, old: &Object) -> FieldErrors {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        driver.as_object_mut().map(|driver| driver.remove("allocatable"));
        driver
    };
    let mut errors = Vec::new();
    for was in old.list(&["spec", "drivers"]) {
        for is in new.list(&["spec", "drivers"]).iter().filter(|is| is["name"] == was["name"]) {
            if fixed(is) != fixed(was) {
                errors.push(FieldError::invalid("spec.drivers", &fixed(is), "field is immutable"));
            }
        }
    }
    errors
}

static CSI_STORAGE_CAPACITY: LazyLock<Rules> = LazyLock::new(|| Rules::parse("nodeTopology selector\n storageClassName subdomain!"));

pub(in crate::kinds) fn csi_storage_capacity(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CSI_STORAGE_CAPACITY, object);
    let capacity = object.str(&["capacity"]);
    if Quantity::parse(capacity).is_ok_and(|quantity| quantity.is_negative()) {
        errors.push(FieldError::invalid("capacity", &capacity.into(), "must be greater than or equal to 0"));
    }
    errors
}

pub(in crate::kinds) fn csi_storage_capacity_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["nodeTopology"], &["storageClassName"]])
}

static VOLUME_ATTACHMENT: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.nodeName subdomain!
        spec.source.persistentVolumeName subdomain
        "#,
    )
});

pub(in crate::kinds) fn volume_attachment(object: &Object) -> FieldErrors {
    let mut errors = by_table(&VOLUME_ATTACHMENT, object);
    driver_name(object.str(&["spec", "attacher"]), "spec.attacher", &mut errors);
    let name = object.get(&["spec", "source", "persistentVolumeName"]);
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (name, object.get(&["spec", "source", "inlineVolumeSpec"])) {
        (None, None) => errors.push(FieldError::required("spec.source", detail)),
        (Some(_), Some(_)) => errors.push(FieldError::forbidden("spec.source", detail)),
        (Some(name), None) if name == "" => {
            errors.push(FieldError::required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName"));
        }
        _ => {}
    }
    errors.extend(attachment_status(object, object));
    errors
}

/// Bytes of what a driver says of an attached volume, and of the reason why it could not attach one (upstream's limits).
const ATTACHMENT_BYTES_MAX: usize = 256 << 10;
const MESSAGE_BYTES_MAX: usize = 1024;

pub(in crate::kinds) fn attachment_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let metadata = new.get(&["status", "attachmentMetadata"]).and_then(Value::as_object).into_iter().flatten();
    let bytes: usize = metadata.map(|(key, value)| key.len() + value.as_str().unwrap_or("").len()).sum();
    if bytes > ATTACHMENT_BYTES_MAX {
        errors.push(FieldError::too_long("status.attachmentMetadata", ATTACHMENT_BYTES_MAX));
    }
    for key in ["attachError", "detachError"] {
        if new.str(&["status", key, "message"]).len() > MESSAGE_BYTES_MAX {
            errors.push(FieldError::too_long(format!("status.{key}.message"), MESSAGE_BYTES_MAX));
        }
        if let Some(code) = new.int(&["status", key, "errorCode"]).filter(|code| *code < 0) {
            let why = format!("must be between 0 and {}, inclusive", i32::MAX);
            errors.push(FieldError::invalid(format!("status.{key}.errorCode"), &code.into(), &why));
        }
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
    provisioner_name(driver, "driverName", &mut errors);
    if is_missing(object.get(&["parameters"])) {
        errors.push(FieldError::required("parameters", "must contain at least one key/value pair"));
    }
    parameters(object, &mut errors);
    errors
}

pub(in crate::kinds) fn volume_attributes_class_change(new: &Object, old: &Object) -> FieldErrors {
    forbidden(new, old, &["driverName", "parameters"])
}

static RUNTIME_CLASS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        handler label!
        scheduling.nodeSelector labels
        "#,
    )
});

pub(in crate::kinds) fn runtime_class(object: &Object) -> FieldErrors {
    let mut errors = by_table(&RUNTIME_CLASS, object);
    if let Some(fixed) = object.get(&["overhead", "podFixed"]) {
        requirements(&json!({ "limits": fixed }), "overhead", Place::Container, &[], &mut errors);
    }
    if let Some(scheduling) = object.get(&["scheduling"]) {
        super::pod::tolerations(scheduling, "scheduling", &mut errors);
    }
    errors
}

pub(in crate::kinds) fn runtime_class_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["handler"]])
}
