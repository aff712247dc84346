//! The status of a ResourceClaim: the devices that it was given, who uses them, and what drivers tell of them.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::affinity::node_selector;
use super::device::binding;
use super::persistent::driver_name;
use super::resource::{
    CONFIGS_MAX, config, each, each_once, few_conditions, form, known_request, known_requests, pool_name, raw, tolerations,
};
use super::slice::skipped;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

/// Limits of upstream's types (resource/types.go).
const CONSUMERS_MAX: usize = 256;
const INTERFACE_BYTES_MAX: usize = 256;
const HARDWARE_ADDRESS_BYTES_MAX: usize = 128;
const ADDRESSES_MAX: usize = 16;

pub(in crate::kinds) fn status(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let reserved = new.list(&["status", "reservedFor"]);
    let allocation = |object: &Object| object.get(&["status", "allocation"]).cloned();
    each_once(reserved, CONSUMERS_MAX, Some("uid"), "status.reservedFor", &mut errors, |consumer, at, errors| {
        for key in ["resource", "name", "uid"].into_iter().filter(|key| text(consumer, key).is_empty()) {
            errors.push(FieldError::required(format!("{at}.{key}"), ""));
        }
    });
    let granted = new.list(&["status", "allocation", "devices", "results"]);
    let told = new.list(&["status", "devices"]);
    // There are no more than are granted.
    each(told, RESULTS_MAX, "status.devices", &mut errors, |device, at, errors| device_status(device, granted, at, errors));
    let few = told.iter().enumerate().filter(|_| told.len() <= RESULTS_MAX);
    for (index, device) in few.filter(|(index, device)| told[..*index].iter().any(|one| is_same(one, device))) {
        errors.push(FieldError::duplicate(format!("status.devices[{index}]"), &id(device).into()));
    }
    if !reserved.is_empty() && allocation(new).is_none() {
        errors.push(FieldError::forbidden("status.reservedFor", "may not be specified when `allocated` is not set"));
    }
    if !new.deletion_timestamp().is_empty() && reserved.iter().any(|consumer| !old.list(&["status", "reservedFor"]).contains(consumer)) {
        errors.push(FieldError::forbidden(
            "status.reservedFor",
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ));
    }
    if allocation(old).is_some() && allocation(new).is_some() {
        errors.extend(immutable(new, old, &[&["status", "allocation"]]));
    } else if let Some(allocation) = new.get(&["status", "allocation"]) {
        check_allocation(allocation, new.list(&["spec", "devices", "requests"]), &mut errors);
    }
    errors
}

/// Devices of one allocation, and configurations that come with them from classes and the claim.
const RESULTS_MAX: usize = 32;

fn check_allocation(allocation: &Value, requests: &[Value], errors: &mut FieldErrors) {
    let (devices, at) = (&allocation["devices"], "status.allocation");
    each(list(devices, "results"), RESULTS_MAX, &format!("{at}.devices.results"), errors, |result, at, errors| {
        known_request(text(result, "request"), requests, &format!("{at}.request"), errors);
        device_names(result, at, errors);
        binding(result, at, errors);
        tolerations(result, at, errors);
        skipped(result, at, errors);
    });
    each(list(devices, "config"), CONFIGS_MAX * 2, &format!("{at}.devices.config"), errors, |one, at, errors| {
        let sources = ["FromClaim", "FromClass"];
        match text(one, "source") {
            "" => errors.push(FieldError::required(format!("{at}.source"), "")),
            other if !sources.contains(&other) => {
                errors.push(FieldError::not_supported(format!("{at}.source"), &other.into(), &sources));
            }
            _ => {}
        }
        known_requests(one, requests, at, errors);
        config(one, at, errors);
    });
    if !allocation["nodeSelector"].is_null() {
        node_selector(&allocation["nodeSelector"], &format!("{at}.nodeSelector"), errors);
    }
}

fn device_names(device: &Value, at: &str, errors: &mut FieldErrors) {
    driver_name(text(device, "driver"), &format!("{at}.driver"), errors);
    pool_name(text(device, "pool"), &format!("{at}.pool"), errors);
    form(text(device, "device"), names::dns1123_label, &format!("{at}.device"), errors);
    if let Some(share) = device["shareID"].as_str().filter(|share| !UUID.is_match(share)) {
        let why = "must be a lowercase UUID in 8-4-4-4-12 format";
        errors.push(FieldError::invalid(format!("{at}.shareID"), &share.into(), why));
    }
}

static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$").expect("the pattern is a constant"));

/// Whether two are about one share of one device.
fn is_same(one: &Value, two: &Value) -> bool {
    ["driver", "pool", "device", "shareID"].into_iter().all(|key| one[key] == two[key])
}

fn id(device: &Value) -> String {
    let parts = ["driver", "pool", "device", "shareID"].into_iter().map(|key| text(device, key));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// What a driver tells of a device that the claim was given.
fn device_status(device: &Value, granted: &[Value], at: &str, errors: &mut FieldErrors) {
    device_names(device, at, errors);
    if !granted.iter().any(|one| is_same(one, device)) {
        errors.push(FieldError::invalid(at, &id(device).into(), "must be an allocated device in the claim"));
    }
    few_conditions(list(device, "conditions"), &format!("{at}.conditions"), errors);
    if !device["data"].is_null() {
        raw(&device["data"], &format!("{at}.data"), errors);
    }
    network(&device["networkData"], &format!("{at}.networkData"), errors);
}

/// What a driver tells of a network interface.
fn network(data: &Value, at: &str, errors: &mut FieldErrors) {
    for (key, most) in [("interfaceName", INTERFACE_BYTES_MAX), ("hardwareAddress", HARDWARE_ADDRESS_BYTES_MAX)] {
        if text(data, key).len() > most {
            errors.push(FieldError::too_long(format!("{at}.{key}"), most));
        }
    }
    each_once(list(data, "ips"), ADDRESSES_MAX, None, &format!("{at}.ips"), errors, |address, at, errors| {
        if let Err(why) = interface_address(address.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(at, address, &why));
        }
    });
}

/// An address with the length of its subnet, written in the one way (apimachinery, util/validation/ip.go, IsValidInterfaceAddress).
fn interface_address(text: &str) -> Result<(), String> {
    let no_address = || "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned();
    let (address, bits) = text.split_once('/').ok_or_else(no_address)?;
    let address: IpAddr = address.parse().map_err(|_| no_address())?;
    let bits: u8 = bits.parse().map_err(|_| no_address())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let canonical = match address.to_canonical() {
        _ if bits > most => return Err(no_address()),
        inner @ IpAddr::V4(_) if address.is_ipv6() => format!("{inner}/{}", bits.saturating_sub(96)),
        address => format!("{address}/{bits}"),
    };
    if text == canonical { Ok(()) } else { Err(format!("must be in canonical form ({canonical:?})")) }
}
