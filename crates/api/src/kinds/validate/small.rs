//! Leases, endpoint slices, disruption budgets, priority classes, access reviews.

use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::Value;

use super::apps::int_or_percent;
use super::rules::{Rules, of_no_endpoint};
use super::{by_table, duplicates, list};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;
use crate::validate::immutable;

static LEASE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.leaseDurationSeconds min 1
        spec.leaseTransitions min 0
        "#,
    )
});

pub(in crate::kinds) fn lease(object: &Object) -> FieldErrors {
    by_table(&LEASE, object)
}

static ENDPOINT_SLICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        addressType required
        addressType enum IPv4 IPv6 FQDN
        endpoints[].addresses required
        endpoints[].hostname label
        ports[].protocol enum TCP UDP SCTP
        ports[].port port
        ports[].name label
        "#,
    )
});

/// Limits of a slice (upstream's discovery validation).
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;

pub(in crate::kinds) fn endpoint_slice(object: &Object) -> FieldErrors {
    let mut errors = by_table(&ENDPOINT_SLICE, object);
    let (endpoints, ports) = (object.list(&["endpoints"]), object.list(&["ports"]));
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), ENDPOINTS_MAX));
        return errors;
    }
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many("ports", ports.len(), PORTS_MAX));
        return errors;
    }
    let ty = object.str(&["addressType"]);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let addresses = list(endpoint, "addresses");
        let at = format!("endpoints[{index}].addresses");
        if addresses.len() > ADDRESSES_MAX {
            errors.push(FieldError::too_many(&at, addresses.len(), ADDRESSES_MAX));
        }
        for (index, address) in addresses.iter().enumerate() {
            let (text, at) = (address.as_str().unwrap_or(""), format!("{at}[{index}]"));
            if !is_address(text, ty) {
                errors.push(FieldError::invalid(at, address, &format!("must be a valid {ty} address")));
            } else if let Some(detail) = of_no_endpoint(text) {
                errors.push(FieldError::invalid(at, address, &detail));
            }
        }
    }
    duplicates(ports, "ports", "name", &mut errors);
    errors
}

fn is_address(text: &str, ty: &str) -> bool {
    match ty {
        "IPv4" => text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
        "IPv6" => text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()),
        "FQDN" => crate::names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

pub(in crate::kinds) fn endpoint_slice_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["addressType"]])
}

pub(in crate::kinds) fn disruption_budget(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (least, most) = (object.get(&["spec", "minAvailable"]), object.get(&["spec", "maxUnavailable"]));
    if least.is_some() && most.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid("spec", object.get(&["spec"]).unwrap_or(&Value::Null), detail));
    }
    int_or_percent(least, "spec.minAvailable", &mut errors);
    int_or_percent(most, "spec.maxUnavailable", &mut errors);
    if let Some(selector) = object.get(&["spec", "selector"]) {
        super::rules::selector(selector, "spec.selector", &mut errors);
    }
    errors
}

/// Priorities above this are the system's (upstream's HighestUserDefinablePriority).
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// The two classes that exist from the start.
const SYSTEM_CLASSES: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(in crate::kinds) fn priority_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let value = object.int(&["value"]).unwrap_or(0);
    let name = object.name();
    if name.starts_with("system-") {
        if !SYSTEM_CLASSES.contains(&(name, value)) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only";
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden("value", &detail));
    }
    let policy = object.str(&["preemptionPolicy"]);
    let policies = ["PreemptLowerPriority", "Never"];
    if !policies.contains(&policy) {
        errors.push(FieldError::not_supported("preemptionPolicy", &policy.into(), &policies));
    }
    errors
}

pub(in crate::kinds) fn priority_class_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["value"], &["preemptionPolicy"]])
}

pub(in crate::kinds) fn access_review(object: &Object) -> FieldErrors {
    let mut errors = self_access_review(object);
    if object.str(&["spec", "user"]).is_empty() && object.list(&["spec", "groups"]).is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &"".into(), detail));
    }
    errors
}

pub(in crate::kinds) fn self_access_review(object: &Object) -> FieldErrors {
    let resource = object.get(&["spec", "resourceAttributes"]);
    let other = object.get(&["spec", "nonResourceAttributes"]);
    match (resource, other) {
        (Some(_), Some(other)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            vec![FieldError::invalid("spec.nonResourceAttributes", other, detail)]
        }
        (None, None) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            vec![FieldError::invalid("spec.resourceAttributes", &Value::Null, detail)]
        }
        _ => Vec::new(),
    }
}
