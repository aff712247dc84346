//! networking.k8s.io/v1.

use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::rules::{Rules, is_missing, selector};
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

static POLICY: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.podSelector selector
        spec.policyTypes[] enum Ingress Egress
        spec.ingress[].ports[].protocol enum TCP UDP SCTP
        spec.ingress[].ports[].port port
        spec.egress[].ports[].protocol enum TCP UDP SCTP
        spec.egress[].ports[].port port
        "#,
    )
});

pub(in crate::kinds) fn network_policy(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POLICY, object);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in object.list(&["spec", direction]).iter().enumerate() {
            for (peer_index, value) in list(rule, peers).iter().enumerate() {
                peer(value, &format!("spec.{direction}[{index}].{peers}[{peer_index}]"), &mut errors);
            }
        }
    }
    errors
}

fn peer(peer: &Value, at: &str, errors: &mut FieldErrors) {
    let mut given = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(value) = peer.get(key) {
            given += 1;
            selector(value, &format!("{at}.{key}"), errors);
        }
    }
    if let Some(block) = peer.get("ipBlock") {
        if given > 0 {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(at, detail));
        }
        given += 1;
        ip_block(block, &format!("{at}.ipBlock"), errors);
    }
    if given == 0 {
        errors.push(FieldError::required(at, "must specify a peer"));
    }
}

fn ip_block(block: &Value, at: &str, errors: &mut FieldErrors) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        errors.push(FieldError::required(format!("{at}.cidr"), ""));
        return;
    }
    let Some(outer) = check_cidr(cidr, &format!("{at}.cidr"), errors) else { return };
    for (index, except) in list(block, "except").iter().enumerate() {
        let path = format!("{at}.except[{index}]");
        let Some(inner) = check_cidr(except.as_str().unwrap_or(""), &path, errors) else { continue };
        let inside = inner.1 > outer.1 && mask(inner.0, outer.1) == mask(outer.0, outer.1);
        if !inside {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(path, except, detail));
        }
    }
}

fn check_cidr(text: &str, path: &str, errors: &mut FieldErrors) -> Option<(IpAddr, u8)> {
    let parsed = parse_cidr(text);
    if parsed.is_none() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, &text.into(), detail));
    }
    parsed
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// The first bits of an address, left-aligned in 128; families never meet.
fn mask(address: IpAddr, bits: u8) -> (bool, u128) {
    let value = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    (address.is_ipv4(), value & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0))
}

static INGRESS: LazyLock<Rules> = LazyLock::new(|| Rules::parse("spec.ingressClassName subdomain\n spec.tls[].secretName subdomain"));

pub(in crate::kinds) fn ingress(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let rules = object.list(&["spec", "rules"]);
    match object.get(&["spec", "defaultBackend"]) {
        Some(value) => backend(value, "spec.defaultBackend", &mut errors),
        None if rules.is_empty() => {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid("spec", &json!(rules), detail));
        }
        None => {}
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        host(text(rule, "host"), &format!("{at}.host"), &mut errors);
        let Some(http) = rule.get("http") else { continue };
        let paths = list(http, "paths");
        if paths.is_empty() {
            errors.push(FieldError::required(format!("{at}.http.paths"), ""));
        }
        for (index, path) in paths.iter().enumerate() {
            ingress_path(path, &format!("{at}.http.paths[{index}]"), &mut errors);
        }
    }
    errors.extend(by_table(&INGRESS, object));
    for (index, tls) in object.list(&["spec", "tls"]).iter().enumerate() {
        for (host_index, name) in list(tls, "hosts").iter().enumerate() {
            host(name.as_str().unwrap_or(""), &format!("spec.tls[{index}].hosts[{host_index}]"), &mut errors);
        }
    }
    errors
}

fn host(name: &str, at: &str, errors: &mut FieldErrors) {
    let reasons = match name {
        "" => return,
        name if name.parse::<IpAddr>().is_ok() => vec!["must be a DNS name, not an IP address".to_owned()],
        name if name.contains('*') => names::wildcard_dns1123_subdomain(name),
        name => names::dns1123_subdomain(name),
    };
    errors.extend(reasons.iter().map(|reason| FieldError::invalid(at, &name.into(), reason)));
}

fn ingress_path(path: &Value, at: &str, errors: &mut FieldErrors) {
    let value = text(path, "path");
    match text(path, "pathType") {
        "" => errors.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(FieldError::invalid(format!("{at}.path"), &value.into(), "must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| value.contains(bad)) {
                let detail = format!("must not contain '{bad}'");
                errors.push(FieldError::invalid(format!("{at}.path"), &value.into(), &detail));
            }
            for bad in ["/..", "/."].into_iter().filter(|bad| value.ends_with(bad)) {
                errors.push(FieldError::invalid(format!("{at}.path"), &value.into(), &format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(FieldError::invalid(format!("{at}.path"), &value.into(), "must be an absolute path"));
            }
        }
        other => {
            let valid = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(format!("{at}.pathType"), &other.into(), &valid));
        }
    }
    backend(&path["backend"], &format!("{at}.backend"), errors);
}

fn backend(backend: &Value, at: &str, errors: &mut FieldErrors) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service, resource) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(at, &"".into(), detail));
        }
        (None, None) => errors.push(FieldError::invalid(at, &"".into(), "resource or service backend is required")),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let name = text(service, "name");
            if name.is_empty() {
                errors.push(FieldError::required(format!("{at}.service.name"), ""));
            }
            for reason in Some(name).filter(|name| !name.is_empty()).map(names::dns1035_label).unwrap_or_default() {
                errors.push(FieldError::invalid(format!("{at}.service.name"), &name.into(), &reason));
            }
            let port = &service["port"];
            let number = format!("{at}.service.port.number");
            match (text(port, "name"), port["number"].as_i64().unwrap_or(0)) {
                ("", 0) => errors.push(FieldError::required(at, "port name or number is required")),
                ("", _) => super::rules::port(&port["number"], &number, errors),
                (_, 0) => super::rules::port(&port["name"], &format!("{at}.service.port.name"), errors),
                _ => errors.push(FieldError::invalid(at, &"".into(), "cannot set both port name & port number")),
            }
        }
    }
}

pub(in crate::kinds) fn ingress_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let controller = object.str(&["spec", "controller"]);
    if controller.is_empty() || !controller.contains('/') {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(if controller.is_empty() {
            FieldError::required("spec.controller", "")
        } else {
            FieldError::invalid("spec.controller", &controller.into(), detail)
        });
    }
    if let Some(parameters) = object.get(&["spec", "parameters"]) {
        for key in ["kind", "name"] {
            if text(parameters, key).is_empty() {
                errors.push(FieldError::required(format!("spec.parameters.{key}"), &format!("{key} is required")));
            }
        }
    }
    errors
}

pub(in crate::kinds) fn ingress_class_change(new: &Object, old: &Object) -> FieldErrors {
    crate::validate::immutable(new, old, &[&["spec", "controller"]])
}

/// The name of an IPAddress is the address in its canonical form.
pub(in crate::kinds) fn ip_name(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

pub(in crate::kinds) fn ip_address(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if is_missing(object.get(&["spec", "parentRef"])) {
        errors.push(FieldError::required("spec.parentRef", ""));
        return errors;
    }
    for key in ["resource", "name"] {
        if object.str(&["spec", "parentRef", key]).is_empty() {
            errors.push(FieldError::required(format!("spec.parentRef.{key}"), ""));
        }
    }
    errors
}

pub(in crate::kinds) fn ip_address_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "parentRef"]])
}

/// A second family may come and go; the first stays.
pub(in crate::kinds) fn service_cidr_change(new: &Object, old: &Object) -> FieldErrors {
    let cidrs = |object: &Object| object.list(&["spec", "cidrs"]).to_vec();
    let (now, was) = (cidrs(new), cidrs(old));
    let same_family_set = now == was || (now.first() == was.first() && now.len() != was.len());
    if same_family_set { Vec::new() } else { immutable(new, old, &[&["spec", "cidrs"]]) }
}

pub(in crate::kinds) fn service_cidr(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let cidrs = object.list(&["spec", "cidrs"]);
    if cidrs.is_empty() {
        errors.push(FieldError::required("spec.cidrs", "at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid("spec.cidrs", &json!(cidrs), detail));
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        check_cidr(cidr.as_str().unwrap_or(""), &format!("spec.cidrs[{index}]"), &mut errors);
    }
    errors
}
