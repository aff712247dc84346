//! What a kubelet may say of a pod, and what it may not take back (kubernetes, apis/core/validation, ValidatePodStatusUpdate).

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::pod_change::annotations;
use super::rules::NOT_AN_IP;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

/// Conditions whose names are no qualified names of somebody else.
const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];

pub(in crate::kinds) fn pod_status_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = annotations(new, old);
    conditions(new, &mut errors);
    let nominated = new.str(&["status", "nominatedNodeName"]);
    if nominated != old.str(&["status", "nominatedNodeName"]) && !nominated.is_empty() {
        let faults = names::dns1123_subdomain(nominated).into_iter();
        errors.extend(faults.map(|why| FieldError::invalid("status.nominatedNodeName", &nominated.into(), &why)));
    }
    let class = new.str(&["status", "qosClass"]);
    if class != old.str(&["status", "qosClass"]) {
        errors.push(FieldError::invalid("status.qosClass", &class.into(), "field is immutable"));
    }
    let empty = json!({});
    let spec = old.get(&["spec"]).unwrap_or(&empty);
    for (key, of) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        still_ended(new, old, key, |name, code| may_run_again(spec, of, name, code), &mut errors);
    }
    // These never run twice.
    still_ended(new, old, "ephemeralContainerStatuses", |_, _| false, &mut errors);
    claims(new, &mut errors);
    for (key, of) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        users(new, key, &mut errors);
        told_resources(new, key, of, &mut errors);
    }
    users(new, "ephemeralContainerStatuses", &mut errors);
    for key in ["podIPs", "hostIPs"] {
        addresses(new, key, &mut errors);
    }
    if let Some(first) = new.list(&["status", "hostIPs"]).first()
        && text(first, "ip") != new.str(&["status", "hostIP"])
    {
        errors.push(FieldError::invalid("status.hostIPs[0].ip", &first["ip"], "must be equal to `hostIP`"));
    }
    errors
}

fn conditions(new: &Object, errors: &mut FieldErrors) {
    for (index, condition) in new.list(&["status", "conditions"]).iter().enumerate() {
        let ty = text(condition, "type");
        if !SYSTEM_CONDITIONS.contains(&ty) {
            let faults = names::qualified_name(ty).into_iter();
            errors.extend(faults.map(|why| FieldError::invalid(format!("status.conditions[{index}].type"), &ty.into(), &why)));
        }
    }
}

/// A container that has ended and shall not run again does not run again, whatever its kubelet says: who waited for its end may have gone on.
fn still_ended(new: &Object, old: &Object, key: &str, may_run_again: impl Fn(&str, i64) -> bool, errors: &mut FieldErrors) {
    let now = new.list(&["status", key]);
    for (index, before) in old.list(&["status", key]).iter().enumerate() {
        let (name, ended) = (text(before, "name"), &before["state"]["terminated"]);
        if ended.is_null() || may_run_again(name, ended["exitCode"].as_i64().unwrap_or(0)) {
            continue;
        }
        for _ in now.iter().filter(|status| text(status, "name") == name && status["state"]["terminated"].is_null()) {
            let why = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(format!("status.{key}[{index}].state"), why));
        }
    }
}

/// Whether a container that ended so may be started again: by its own rules, by its own policy, by that of the pod, or with all others.
fn may_run_again(spec: &Value, of: &str, name: &str, code: i64) -> bool {
    let by = |policy: &str| match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    };
    let restarts_all =
        |container: &Value| list(container, "restartPolicyRules").iter().any(|rule| rule["action"] == "RestartAllContainers");
    if by(text(spec, "restartPolicy")) || ["containers", "initContainers"].iter().any(|of| list(spec, of).iter().any(restarts_all)) {
        return true;
    }
    let Some(container) = list(spec, of).iter().find(|container| text(container, "name") == name) else { return false };
    let takes = |rule: &&Value| {
        let listed = list(&rule["exitCodes"], "values").iter().any(|value| value.as_i64() == Some(code));
        match text(&rule["exitCodes"], "operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    list(container, "restartPolicyRules").iter().any(|rule| takes(&rule)) || by(text(container, "restartPolicy"))
}

/// Numbers of users and groups (apimachinery, util/validation, IsValidUserID).
const IDS: std::ops::RangeInclusive<i64> = 0..=i32::MAX as i64;

/// As whom the first processes of containers run.
fn users(new: &Object, key: &str, errors: &mut FieldErrors) {
    let is_windows = new.str(&["spec", "os", "name"]) == "windows";
    for (index, status) in new.list(&["status", key]).iter().enumerate() {
        let (linux, at) = (&status["user"]["linux"], format!("status.{key}[{index}].user.linux"));
        if linux.is_null() {
            continue;
        }
        if is_windows {
            errors.push(FieldError::forbidden(at, "cannot be set for a windows pod"));
            continue;
        }
        let one = |part: &str| (format!("{at}.{part}"), linux[part].clone());
        let groups = list(linux, "supplementalGroups").iter().enumerate();
        let groups = groups.map(|(index, group)| (format!("{at}.supplementalGroups[{index}]"), group.clone()));
        for (at, id) in [one("uid"), one("gid")].into_iter().chain(groups) {
            if id.as_i64().is_some_and(|id| !IDS.contains(&id)) {
                errors.push(FieldError::invalid(at, &id, &format!("must be between {} and {}, inclusive", IDS.start(), IDS.end())));
            }
        }
    }
}

/// A kubelet tells how those devices are that the container asks for, each once (validateContainerStatusAllocatedResourcesStatus).
fn told_resources(new: &Object, key: &str, of: &str, errors: &mut FieldErrors) {
    for (index, status) in new.list(&["status", key]).iter().enumerate() {
        let container = new.list(&["spec", of]).iter().find(|container| container["name"] == status["name"]);
        for (number, told) in list(status, "allocatedResourcesStatus").iter().enumerate() {
            let at = format!("status.{key}[{index}].allocatedResourcesStatus[{number}]");
            if let Some(why) = container.and_then(|container| why_unasked(text(told, "name"), &container["resources"])) {
                errors.push(FieldError::invalid(format!("{at}.name"), &told["name"], why));
            }
            let mut seen = HashSet::new();
            for (number, device) in list(told, "resources").iter().enumerate() {
                let (health, id, at) = (text(device, "health"), text(device, "resourceID"), format!("{at}.resources[{number}]"));
                if !HEALTH.contains(&health) {
                    errors.push(FieldError::not_supported(format!("{at}.health"), &health.into(), &HEALTH));
                }
                if !seen.insert(id) {
                    errors.push(FieldError::duplicate(format!("{at}.resourceID"), &id.into()));
                }
            }
        }
    }
}

const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];

/// Why a container with these resources has not asked for one of that name; none if it has.
fn why_unasked(name: &str, resources: &Value) -> Option<&'static str> {
    let Some(claimed) = name.strip_prefix("claim:") else {
        let asked = resources["requests"].get(name).is_some();
        return (!asked).then_some("must match one of the container's resource requests");
    };
    let asked = list(resources, "claims").iter().any(|claim| match text(claim, "request") {
        "" => text(claim, "name") == claimed,
        request => claimed.split_once('/') == Some((text(claim, "name"), request)),
    });
    (!asked).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
    )
}

/// The claims that were made for the pod are those that it asks for.
fn claims(new: &Object, errors: &mut FieldErrors) {
    let wanted = new.list(&["spec", "resourceClaims"]);
    let mut seen = HashSet::new();
    for (index, claim) in new.list(&["status", "resourceClaimStatuses"]).iter().enumerate() {
        let (name, at) = (text(claim, "name"), format!("status.resourceClaimStatuses[{index}].name"));
        if !wanted.iter().any(|wanted| text(wanted, "name") == name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&at, &name.into(), why));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, &name.into()));
        }
        if let Some(made) = claim["resourceClaimName"].as_str() {
            errors.extend(names::dns1123_subdomain(made).iter().map(|why| FieldError::invalid(&at, &made.into(), why)));
        }
    }
}

/// One of each family, at most.
fn addresses(new: &Object, key: &str, errors: &mut FieldErrors) {
    let entries = new.list(&["status", key]);
    let mut seen = HashSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("status.{key}[{index}]");
        if text(entry, "ip").parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(&at, &text(entry, "ip").into(), NOT_AN_IP));
        }
        if !seen.insert(text(entry, "ip")) {
            errors.push(FieldError::duplicate(at, entry));
        }
    }
    let families: Vec<bool> = entries.iter().filter_map(|entry| Some(text(entry, "ip").parse::<IpAddr>().ok()?.is_ipv4())).collect();
    if families.iter().filter(|is_v4| **is_v4).count() > 1 || families.iter().filter(|is_v4| !**is_v4).count() > 1 {
        let all = Value::from(entries.to_vec());
        errors.push(FieldError::invalid(format!("status.{key}"), &all, "may specify no more than one IP for each IP family"));
    }
}
