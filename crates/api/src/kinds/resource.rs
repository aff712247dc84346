//! resource.k8s.io/v1: devices, and claims to them (dynamic resource allocation).

use std::sync::LazyLock;

use serde_json::Value;

use super::columns::{age, name, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::{claim, resource as rules, slice};
use crate::kind::Kind;
use crate::object::Object;
use crate::time;

const GROUP: &str = "resource.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "DeviceClass", "deviceclasses")
            .cluster()
            .counts_generations()
            .validate_by(rules::device_class)
            .columns(vec![name(), age()]),
        row(GROUP, "v1", "DeviceTaintRule", "devicetaintrules")
            .cluster()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .counts_generations()
            .default_by(|object| {
                if let Some(taint @ Value::Object(_)) = object.get_mut(&["spec", "taint"]) {
                    date_taint(taint);
                }
            })
            .validate_by(rules::taint_rule)
            .validate_status_by(rules::taint_rule_status)
            .columns(vec![name(), age()]),
        row(GROUP, "v1", "ResourceClaim", "resourceclaims")
            .status()
            .status_leaves(&OBJECT_METADATA)
            .default_by(|object| default_requests(object, &["spec", "devices", "requests"]))
            .validate_by(rules::claim)
            .validate_change_by(rules::claim_change)
            .validate_status_by(claim::status)
            .columns(vec![name(), text("State", state), age()]),
        row(GROUP, "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
            .default_by(|object| default_requests(object, &["spec", "spec", "devices", "requests"]))
            .validate_by(rules::claim_template)
            .validate_change_by(rules::claim_change)
            .columns(vec![name(), age()]),
        row(GROUP, "v1", "ResourceSlice", "resourceslices")
            .cluster()
            .counts_generations()
            .default_by(date_taints)
            .validate_by(slice::slice)
            .validate_change_by(slice::slice_change)
            .columns(vec![
                name(),
                text("Node", |o, _| o.str(&["spec", "nodeName"]).into()),
                text("Driver", |o, _| o.str(&["spec", "driver"]).into()),
                text("Pool", |o, _| o.str(&["spec", "pool", "name"]).into()),
                age(),
            ])
            .select("spec.nodeName", |o| o.str(&["spec", "nodeName"]).to_owned())
            .select("spec.driver", |o| o.str(&["spec", "driver"]).to_owned()),
    ]
}

static REQUEST: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        exactly.allocationMode = "ExactCount"
        exactly.tolerations[].operator = "Equal"
        firstAvailable[].allocationMode = "ExactCount"
        firstAvailable[].tolerations[].operator = "Equal"
        "#,
    )
});

static COUNT: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("count ~ 1"));

fn default_requests(object: &mut Object, path: &[&str]) {
    let Some(Value::Array(requests)) = object.get_mut(path) else { return };
    for request in requests {
        REQUEST.apply(request);
        let exactly = request.get("exactly").is_some().then_some("/exactly".to_owned());
        let alternatives = request["firstAvailable"].as_array().map_or(0, Vec::len);
        let pointers: Vec<String> = exactly.into_iter().chain((0..alternatives).map(|index| format!("/firstAvailable/{index}"))).collect();
        for pointer in pointers {
            if let Some(wanted) = request.pointer_mut(&pointer)
                && wanted["allocationMode"] == "ExactCount"
            {
                COUNT.apply(wanted);
            }
        }
    }
}

/// A taint is from when it is first written (resource/v1/defaults.go, SetDefaults_DeviceTaint).
fn date_taint(taint: &mut Value) {
    if taint["timeAdded"].is_null() {
        taint["timeAdded"] = time::format(jiff::Timestamp::now()).into();
    }
}

fn date_taints(slice: &mut Object) {
    let Some(Value::Array(devices)) = slice.get_mut(&["spec", "devices"]) else { return };
    for taint in
        devices.iter_mut().filter_map(|device| device.get_mut("taints")?.as_array_mut()).flatten().filter(|taint| taint.is_object())
    {
        date_taint(taint);
    }
}

/// `pending`, or `allocated,reserved`; a deletion that waits is told first.
fn state(object: &Object, _: jiff::Timestamp) -> Value {
    let mut words = Vec::new();
    if !object.deletion_timestamp().is_empty() {
        words.push("deleted");
    }
    match object.get(&["status", "allocation"]) {
        None => words.push("pending"),
        Some(_) => words.push("allocated"),
    }
    if !object.list(&["status", "reservedFor"]).is_empty() {
        words.push("reserved");
    }
    words.join(",").into()
}
