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
