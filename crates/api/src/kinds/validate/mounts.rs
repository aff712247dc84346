//! Where a container mounts the volumes of its pod.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::paths::{climbs, local_path};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};

/// The sound volumes of a pod by their names.
pub(super) type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// Upstream names the list, not the entry, in some of these.
pub(super) fn check(container: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    let all = format!("{path}.volumeMounts");
    let (names, paths) = (texts(container, "volumeDevices", "name"), texts(container, "volumeDevices", "devicePath"));
    let mut seen = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{all}[{index}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        let mut invalid = |key: &str, why: &str| errors.push(FieldError::invalid(format!("{at}.{key}"), &text(mount, key).into(), why));
        if !seen.insert(target) {
            invalid("mountPath", "must be unique");
        }
        if names.contains(name) {
            invalid("name", "must not already exist in volumeDevices");
        }
        if paths.contains(target) {
            invalid("mountPath", "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() && !expression.is_empty() {
            invalid("subPathExpr", "subPathExpr and subPath are mutually exclusive");
        }
        local_path(sub, &format!("{all}.subPath"), errors);
        local_path(expression, &format!("{all}.subPathExpr"), errors);
        known(name, &at, volumes, errors);
        if target.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        }
        propagation(container, mount, &all, errors);
    }
    block_devices(container, path, volumes, errors);
}

/// What the entries of a list say under `key`; sets, because whoever writes the container says how long its lists are.
fn texts<'a>(container: &'a Value, entries: &str, key: &str) -> HashSet<&'a str> {
    list(container, entries).iter().map(|entry| text(entry, key)).collect()
}

fn known(name: &str, at: &str, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    if !volumes.contains_key(name) {
        errors.push(FieldError::not_found(format!("{at}.name"), &name.into()));
    }
}

fn propagation(container: &Value, mount: &Value, all: &str, errors: &mut FieldErrors) {
    let mode = text(mount, "mountPropagation");
    let at = format!("{all}.mountPropagation");
    let modes = ["Bidirectional", "HostToContainer", "None"];
    if mount.get("mountPropagation").is_some() && !modes.contains(&mode) {
        errors.push(FieldError::not_supported(&at, &mode.into(), &modes));
    }
    if mode == "Bidirectional" && container["securityContext"]["privileged"] != true {
        errors.push(FieldError::forbidden(at, "Bidirectional mount propagation is available only to privileged containers"));
    }
    let at = format!("{all}.recursiveReadOnly");
    match mount["recursiveReadOnly"].as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                errors.push(FieldError::forbidden(&at, "may only be specified when readOnly is true"));
            }
            if !["", "None"].contains(&mode) {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(at, detail));
            }
        }
        Some(other) => errors.push(FieldError::not_supported(at, &other.into(), &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn block_devices(container: &Value, path: &str, volumes: &Volumes<'_>, errors: &mut FieldErrors) {
    let (names, paths) = (texts(container, "volumeMounts", "name"), texts(container, "volumeMounts", "mountPath"));
    let (mut seen_names, mut seen_paths) = (HashSet::new(), HashSet::new());
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let at = format!("{path}.volumeDevices[{index}]");
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        known(name, &at, volumes, errors);
        if target.is_empty() {
            errors.push(FieldError::required(format!("{at}.devicePath"), ""));
        }
        let mut invalid = |key: &str, why: &str| errors.push(FieldError::invalid(format!("{at}.{key}"), &text(device, key).into(), why));
        if volumes.get(name).is_some_and(|volume| ["persistentVolumeClaim", "ephemeral"].iter().all(|key| volume.get(*key).is_none())) {
            invalid("name", "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
        }
        if !name.is_empty() && !seen_names.insert(name) {
            invalid("name", "must be unique");
        }
        if !target.is_empty() && !seen_paths.insert(target) {
            invalid("devicePath", "must be unique");
        }
        if climbs(target) {
            invalid("devicePath", "can not contain backsteps ('..')");
        }
        if names.contains(name) {
            invalid("name", "must not already exist in volumeMounts");
        }
        if paths.contains(target) {
            invalid("devicePath", "must not already exist as a path in volumeMounts");
        }
    }
}
