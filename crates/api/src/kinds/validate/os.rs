//! What a pod may not ask for on the operating system that it names.

use serde_json::Value;

use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::kinds::podspec::CONTAINER_LISTS;

/// Of the spec of a pod for Windows.
const LINUX_SPEC: [&str; 4] = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];

/// Of the security contexts of such a pod and of its containers.
const LINUX_POD: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const LINUX_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

pub(super) fn check(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(os) = spec.get("os") else { return };
    match text(os, "name") {
        "" => errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty")),
        "linux" => {
            let why = "windows options cannot be set for a linux pod";
            forbid(&spec["securityContext"], &["windowsOptions"], &format!("{path}.securityContext"), why, errors);
            each_container(spec, path, &["windowsOptions"], why, errors);
        }
        "windows" => {
            let why = "cannot be set for a windows pod";
            forbid(spec, &LINUX_SPEC, path, why, errors);
            forbid(&spec["securityContext"], &LINUX_POD, &format!("{path}.securityContext"), why, errors);
            each_container(spec, path, &LINUX_CONTAINER, why, errors);
        }
        other => errors.push(FieldError::not_supported(format!("{path}.os"), &other.into(), &["linux", "windows"])),
    }
}

fn each_container(spec: &Value, path: &str, keys: &[&str], why: &str, errors: &mut FieldErrors) {
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            forbid(&container["securityContext"], keys, &format!("{path}.{key}[{index}].securityContext"), why, errors);
        }
    }
}

fn forbid(value: &Value, keys: &[&str], path: &str, why: &str, errors: &mut FieldErrors) {
    for key in keys.iter().filter(|key| !matches!(value.get(**key), None | Some(Value::Null | Value::Bool(false)))) {
        errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
    }
}
