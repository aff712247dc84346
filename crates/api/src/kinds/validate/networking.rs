//! networking.k8s.io/v1.

use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::rules::{NOT_A_CIDR, NOT_AN_IP, Rules, is_missing, selector};
use super::service::balancer_address;
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

static POLICY: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.podSelector selector
        spec.ingress[].ports[].protocol oneof TCP UDP SCTP
        spec.ingress[].ports[].port port
        spec.egress[].ports[].protocol oneof TCP UDP SCTP
        spec.egress[].ports[].port port
        "#,
    )
});

pub(in crate::kinds) fn network_policy(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POLICY, object);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in object.list(&["spec", direction]).iter().enumerate() {
            for (port_index, value) in list(rule, "ports").iter().enumerate() {
                end_port(value, &format!("spec.{direction}[{index}].ports[{port_index}].endPort"), &mut errors);
            }
            for (peer_index, value) in list(rule, peers).iter().enumerate() {
                peer(value, &format!("spec.{direction}[{index}].{peers}[{peer_index}]"), &mut errors);
            }
        }
    }
    policy_types(object.list(&["spec", "policyTypes"]), &mut errors);
    errors
}

fn policy_types(types: &[Value], errors: &mut FieldErrors) {
    let valid = ["Ingress", "Egress"];
    if types.len() > valid.len() {
        errors.push(FieldError::invalid("spec.policyTypes", &types.into(), "may not specify more than two policyTypes"));
        return;
    }
    for (index, ty) in types.iter().enumerate().filter(|(_, ty)| !valid.iter().any(|valid| ty == valid)) {
        errors.push(FieldError::not_supported_as_listed(format!("spec.policyTypes[{index}]"), ty, &valid));
    }
}

fn end_port(port: &Value, at: &str, errors: &mut FieldErrors) {
    let Some(end) = port["endPort"].as_i64() else { return };
    match &port["port"] {
        Value::Null => errors.push(FieldError::invalid(at, &end.into(), "may not be specified when `port` is not specified")),
        Value::String(_) => errors.push(FieldError::invalid(at, &end.into(), "may not be specified when `port` is non-numeric")),
        first => {
            if first.as_i64().is_some_and(|first| end < first) {
                errors.push(FieldError::invalid(at, first, "must be greater than or equal to `port`"));
            }
            errors.extend(names::port_number(end).map(|reason| FieldError::invalid(at, &end.into(), reason)));
        }
    }
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
        errors.push(FieldError::invalid(path, &text.into(), NOT_A_CIDR));
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

/// The annotation that named the class before there was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The annotation is not looked at again once the object is there.
pub(in crate::kinds) fn new_ingress(object: &Object) -> FieldErrors {
    let annotation = object.get(&["metadata", "annotations", CLASS_ANNOTATION]);
    let class = object.get(&["spec", "ingressClassName"]);
    match (annotation, class) {
        (Some(annotation), Some(class)) if annotation != class => {
            let detail = "must match `ingressClassName` when both are specified";
            vec![FieldError::invalid(format!("annotations.{CLASS_ANNOTATION}"), annotation, detail)]
        }
        _ => Vec::new(),
    }
}

pub(in crate::kinds) fn ingress_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, entry) in new.list(&["status", "loadBalancer", "ingress"]).iter().enumerate() {
        balancer_address(entry, &format!("status.loadBalancer.ingress[{index}]"), &mut errors);
    }
    errors
}

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
        let name = text(rule, "host");
        if !name.is_empty() {
            if name.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(format!("{at}.host"), &name.into(), "must be a DNS name, not an IP address"));
            }
            host(name, &format!("{at}.host"), &mut errors);
        }
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

/// A name that a request may be for, or that a certificate may be of.
fn host(name: &str, at: &str, errors: &mut FieldErrors) {
    let reasons = if name.contains('*') { names::wildcard_dns1123_subdomain(name) } else { names::dns1123_subdomain(name) };
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
        (None, Some(resource)) => typed_reference(resource, &format!("{at}.resource"), errors),
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

/// An object of any kind, in the same namespace or in none.
fn typed_reference(reference: &Value, at: &str, errors: &mut FieldErrors) {
    if let Some(group) = reference["apiGroup"].as_str() {
        let reasons = names::dns1123_subdomain(group);
        errors.extend(reasons.iter().map(|reason| FieldError::invalid(format!("{at}.apiGroup"), &group.into(), reason)));
    }
    for key in ["kind", "name"] {
        let at = format!("{at}.{key}");
        match text(reference, key) {
            "" => errors.push(FieldError::required(at, &format!("{key} is required"))),
            value => segment(value, &at, errors),
        }
    }
}

fn segment(value: &str, at: &str, errors: &mut FieldErrors) {
    errors.extend(names::path_segment(value).iter().map(|reason| FieldError::invalid(at, &value.into(), reason)));
}

/// Bytes of a controller's name (upstream's maxLenIngressClassController).
const CONTROLLER_MAX: usize = 250;

pub(in crate::kinds) fn ingress_class(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let controller = object.str(&["spec", "controller"]);
    if controller.len() > CONTROLLER_MAX {
        errors.push(FieldError::too_long("spec.controller", CONTROLLER_MAX));
    }
    if controller.is_empty() {
        errors.push(FieldError::required("spec.controller", ""));
    } else {
        let reasons = names::domain_prefixed_path(controller);
        errors.extend(reasons.iter().map(|reason| FieldError::invalid("spec.controller", &controller.into(), reason)));
    }
    if let Some(parameters) = object.get(&["spec", "parameters"]) {
        class_parameters(parameters, "spec.parameters", &mut errors);
    }
    errors
}

fn class_parameters(parameters: &Value, at: &str, errors: &mut FieldErrors) {
    typed_reference(parameters, at, errors);
    let namespace = parameters["namespace"].as_str();
    let (scope_at, namespace_at) = (format!("{at}.scope"), format!("{at}.namespace"));
    match (parameters["scope"].as_str(), namespace) {
        (None, _) => errors.push(FieldError::required(scope_at, "")),
        (Some("Namespace"), None) => errors.push(FieldError::required(namespace_at, "`parameters.scope` is set to 'Namespace'")),
        (Some("Namespace"), Some(namespace)) => {
            let reasons = names::dns1123_label(namespace);
            errors.extend(reasons.iter().map(|reason| FieldError::invalid(&namespace_at, &namespace.into(), reason)));
        }
        (Some("Cluster"), None) => {}
        (Some("Cluster"), Some(_)) => errors.push(FieldError::forbidden(namespace_at, "`parameters.scope` is set to 'Cluster'")),
        (Some(other), _) => errors.push(FieldError::not_supported(scope_at, &other.into(), &["Cluster", "Namespace"])),
    }
}

pub(in crate::kinds) fn ingress_class_change(new: &Object, old: &Object) -> FieldErrors {
    crate::validate::immutable(new, old, &[&["spec", "controller"]])
}

/// The name of an IPAddress is the address in its canonical form.
pub(in crate::kinds) fn ip_name(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
        Err(_) => vec![NOT_AN_IP.to_owned()],
    }
}

pub(in crate::kinds) fn ip_address(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(parent) = object.get(&["spec", "parentRef"]).filter(|parent| !is_missing(Some(parent))) else {
        return vec![FieldError::required("spec.parentRef", "")];
    };
    // The group of Services is empty.
    let group = text(parent, "group");
    if !group.is_empty() {
        let reasons = names::dns1123_subdomain(group);
        errors.extend(reasons.iter().map(|reason| FieldError::invalid("spec.parentRef.group", &group.into(), reason)));
    }
    for key in ["resource", "name", "namespace"] {
        let at = format!("spec.parentRef.{key}");
        match text(parent, key) {
            "" if key == "namespace" => {}
            "" => errors.push(FieldError::required(at, "")),
            value => segment(value, &at, &mut errors),
        }
    }
    errors
}

pub(in crate::kinds) fn ip_address_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "parentRef"]])
}

/// A second family may be added; what is there stays.
pub(in crate::kinds) fn service_cidr_change(new: &Object, old: &Object) -> FieldErrors {
    let (now, was) = (object_cidrs(new), object_cidrs(old));
    if now.len() != was.len() && (was.len(), now.len()) != (1, 2) {
        return vec![FieldError::invalid("spec.cidrs", &now.into(), "field is immutable")];
    }
    let changed = was.iter().zip(now).enumerate().filter(|(_, (was, now))| was != now);
    changed.map(|(index, (_, now))| FieldError::invalid(format!("spec.cidrs[{index}]"), now, "field is immutable")).collect()
}

fn object_cidrs(object: &Object) -> &[Value] {
    object.list(&["spec", "cidrs"])
}

pub(in crate::kinds) fn service_cidr(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let cidrs = object_cidrs(object);
    match cidrs.len() {
        0 => return vec![FieldError::required("spec.cidrs", "at least one CIDR required")],
        1 | 2 => {}
        _ => return vec![FieldError::invalid("spec.cidrs", &json!({"cidrs": cidrs}), "may only hold up to 2 values")],
    }
    let mut families = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        let (at, cidr) = (format!("spec.cidrs[{index}]"), cidr.as_str().unwrap_or(""));
        let Some((address, bits)) = check_cidr(cidr, &at, &mut errors) else { continue };
        let canonical = format!("{}/{bits}", first_of(address, bits));
        if canonical != cidr {
            errors.push(FieldError::invalid(at, &cidr.into(), &format!("must be in canonical form ({canonical:?})")));
        }
        families.push(address.is_ipv4());
    }
    if families == [true, true] || families == [false, false] {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid("spec.cidrs", &cidrs.into(), detail));
    }
    errors
}

/// The first address of a range.
fn first_of(address: IpAddr, bits: u8) -> IpAddr {
    let (_, first) = mask(address, bits);
    match address {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::from_bits((first >> 96) as u32)),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::from_bits(first)),
    }
}
