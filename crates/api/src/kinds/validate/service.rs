//! Services and Endpoints.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::rules::{NOT_A_CIDR, NOT_AN_IP, Rules, is_cidr, is_missing};
use super::{by_table, duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

static SERVICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.ports[].name label
        spec.ports[].port port!
        spec.ports[].protocol enum TCP UDP SCTP
        spec.ports[].targetPort port
        spec.ports[].appProtocol qualified
        spec.selector labels
        spec.sessionAffinity enum ClientIP None
        spec.externalIPs[] endpointip
        spec.type enum ClusterIP NodePort LoadBalancer ExternalName
        spec.ipFamilyPolicy enum SingleStack PreferDualStack RequireDualStack
        spec.ipFamilies[] enum IPv4 IPv6
        spec.externalTrafficPolicy enum Cluster Local
        spec.internalTrafficPolicy enum Cluster Local
        spec.trafficDistribution enum PreferClose PreferSameZone PreferSameNode
        "#,
    )
});

static ENDPOINTS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        subsets[].addresses[].ip required
        subsets[].addresses[].ip endpointip
        subsets[].addresses[].hostname label
        subsets[].addresses[].nodeName subdomain
        subsets[].notReadyAddresses[].ip required
        subsets[].notReadyAddresses[].ip endpointip
        subsets[].notReadyAddresses[].hostname label
        subsets[].notReadyAddresses[].nodeName subdomain
        subsets[].ports[].name label
        subsets[].ports[].port port!
        subsets[].ports[].appProtocol qualified
        subsets[].ports[].protocol enum TCP UDP SCTP
        "#,
    )
});

fn is_headless(object: &Object) -> bool {
    let ips = object.list(&["spec", "clusterIPs"]);
    object.str(&["spec", "clusterIP"]) == "None" && ips.len() <= 1
}

/// Whether traffic from outside can reach it.
fn is_external(object: &Object) -> bool {
    match object.str(&["spec", "type"]) {
        "LoadBalancer" | "NodePort" => true,
        ty => ty == "ClusterIP" && !object.list(&["spec", "externalIPs"]).is_empty(),
    }
}

fn needs_health_check(object: &Object) -> bool {
    object.str(&["spec", "type"]) == "LoadBalancer" && object.str(&["spec", "externalTrafficPolicy"]) == "Local"
}

pub(in crate::kinds) fn service(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let ports = object.list(&["spec", "ports"]);
    let ty = object.str(&["spec", "type"]);
    if ports.is_empty() && !is_headless(object) && ty != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if is_headless(object) && ["LoadBalancer", "NodePort"].contains(&ty) {
        let detail = format!("may not be set to 'None' for {ty} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), &detail));
    }
    errors.extend(by_table(&SERVICE, object));
    affinity(object, &mut errors);
    check_ports(ports, ty, &mut errors);
    if ty == "ExternalName" {
        external_name(object, &mut errors);
    } else {
        addresses(object, &mut errors);
    }
    load_balancer(object, ty, &mut errors);
    policies(object, &mut errors);
    errors
}

/// Longest that a client stays with its endpoint, in seconds (upstream's MaxClientIPServiceAffinitySeconds).
const AFFINITY_SECONDS_MAX: i64 = 86_400;

fn affinity(object: &Object, errors: &mut FieldErrors) {
    let path = ["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
    let at = path.join(".");
    match (object.str(&["spec", "sessionAffinity"]), object.int(&path)) {
        ("ClientIP", None) => errors.push(FieldError::required(at, "when session affinity type is ClientIP")),
        ("ClientIP", Some(seconds)) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            errors.push(FieldError::invalid(at, &seconds.into(), &detail));
        }
        ("None", _) if object.get(&["spec", "sessionAffinityConfig"]).is_some() => {
            errors.push(FieldError::forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn check_ports(ports: &[Value], ty: &str, errors: &mut FieldErrors) {
    duplicates(ports, "spec.ports", "name", errors);
    let (mut served, mut node_ports) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let protocol = text(port, "protocol");
        if ports.len() > 1 && text(port, "name").is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if !served.insert((port["port"].as_i64(), protocol)) {
            errors.push(FieldError::duplicate(&at, &json!({"protocol": protocol, "port": port["port"]})));
        }
        let Some(node_port) = port["nodePort"].as_i64().filter(|number| *number != 0) else { continue };
        if ty == "ClusterIP" {
            errors.push(FieldError::forbidden(format!("{at}.nodePort"), "may not be used when `type` is 'ClusterIP'"));
        }
        if !node_ports.insert((node_port, protocol)) {
            errors.push(FieldError::duplicate(format!("{at}.nodePort"), &port["nodePort"]));
        }
    }
}

/// A name outside has no address here.
fn external_name(object: &Object, errors: &mut FieldErrors) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let other = if key == "clusterIPs" { object.str(&["spec", "clusterIP"]) } else { "" };
        if !is_missing(object.get(&["spec", key])) || !other.is_empty() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), "may not be set for ExternalName services"));
        }
    }
    let name = object.str(&["spec", "externalName"]);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
        return;
    }
    for reason in crate::names::dns1123_subdomain(name) {
        errors.push(FieldError::invalid("spec.externalName", &name.into(), &reason));
    }
}

/// Addresses and their families.
fn addresses(object: &Object, errors: &mut FieldErrors) {
    let ip = object.str(&["spec", "clusterIP"]);
    let ips = object.list(&["spec", "clusterIPs"]);
    let families = object.list(&["spec", "ipFamilies"]);
    let at = "spec.clusterIPs";
    let mut push = |path: String, value: Value, why: &str| errors.push(FieldError::invalid(path, &value, why));
    if ip.is_empty() && !ips.is_empty() {
        push(at.to_owned(), ips.to_vec().into(), "must be empty when `clusterIP` is not specified");
    } else if !ips.is_empty() && ips[0] != ip {
        push(at.to_owned(), ips.to_vec().into(), "first value must match `clusterIP`");
    }
    // The strategy of upstream fills the list from the single address; here it may still be empty.
    let given: Vec<&str> = if ips.is_empty() && !ip.is_empty() { vec![ip] } else { ips.iter().filter_map(Value::as_str).collect() };
    let mut parsed = Vec::new();
    for (index, ip) in given.iter().enumerate() {
        match ip.parse::<IpAddr>() {
            Ok(address) => parsed.push(address),
            Err(_) if index == 0 && *ip == "None" && given.len() == 1 => {}
            Err(_) if index == 0 && *ip == "None" => push(at.to_owned(), ips.to_vec().into(), "'None' must be the first and only value"),
            Err(_) => push(format!("{at}[{index}]"), (*ip).into(), NOT_AN_IP),
        }
    }
    if given.len() > FAMILIES_MAX {
        push(at.to_owned(), ips.to_vec().into(), "may only hold up to 2 values");
    }
    if parsed.len() == given.len() {
        let six: Vec<bool> = parsed.iter().map(IpAddr::is_ipv6).collect();
        if six.len() > 1 && six.iter().all(|other| *other == six[0]) {
            push(at.to_owned(), ips.to_vec().into(), "may specify no more than one IP for each IP family");
        }
        for (index, (family, six)) in families.iter().zip(six).enumerate() {
            if (family == "IPv4" && six) || (family == "IPv6" && !six) {
                let detail = format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.as_str().unwrap_or(""));
                push(format!("{at}[{index}]"), given[index].into(), &detail);
            }
        }
    }
    let mut seen = HashSet::new();
    for (index, family) in families.iter().enumerate() {
        if !seen.insert(family.as_str()) {
            errors.push(FieldError::duplicate(format!("spec.ipFamilies[{index}]"), family));
        }
    }
}

/// IPv4 and IPv6.
const FAMILIES_MAX: usize = 2;

/// What only a load balancer has.
fn load_balancer(object: &Object, ty: &str, errors: &mut FieldErrors) {
    let why = "may only be used when `type` is 'LoadBalancer'";
    let ranges = object.list(&["spec", "loadBalancerSourceRanges"]);
    // The odd capital is upstream's.
    let at = "spec.LoadBalancerSourceRanges";
    if !ranges.is_empty() && ty != "LoadBalancer" {
        errors.push(FieldError::forbidden(at, why));
    }
    for (index, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or("").trim();
        if !is_cidr(text) {
            errors.push(FieldError::invalid(format!("{at}[{index}]"), &text.into(), NOT_A_CIDR));
        }
    }
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if ty != "LoadBalancer" && object.get(&["spec", key]).is_some() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), why));
        }
    }
    let class = object.str(&["spec", "loadBalancerClass"]);
    if ty == "LoadBalancer" && !class.is_empty() {
        let reasons = crate::names::qualified_name(class);
        errors.extend(reasons.iter().map(|reason| FieldError::invalid("spec.loadBalancerClass", &class.into(), reason)));
    }
}

fn policies(object: &Object, errors: &mut FieldErrors) {
    let policy = object.str(&["spec", "externalTrafficPolicy"]);
    if !policy.is_empty() && !is_external(object) {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", &policy.into(), detail));
    }
    let port = object.int(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    let why = if !needs_health_check(object) && port != 0 {
        "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
    } else if port != 0 {
        crate::names::port_number(port).unwrap_or("")
    } else {
        ""
    };
    if !why.is_empty() {
        errors.push(FieldError::invalid("spec.healthCheckNodePort", &port.into(), why));
    }
}

/// An address and a family, once given, stay as long as the type needs one; a second of each may come and go.
pub(in crate::kinds) fn service_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let has_ip = |object: &Object| object.str(&["spec", "type"]) != "ExternalName";
    if has_ip(new) && has_ip(old) {
        if !(is_headless(new) && is_headless(old)) {
            kept(new, old, "clusterIPs", "clusterIP", &mut errors);
        }
        if !is_headless(new) && !is_headless(old) {
            kept(new, old, "ipFamilies", "ipFamily", &mut errors);
        }
    }
    let balanced = |object: &Object| object.str(&["spec", "type"]) == "LoadBalancer";
    let class = ["spec", "loadBalancerClass"];
    if balanced(new) && balanced(old) && new.get(&class) != old.get(&class) {
        let value = new.get(&class).unwrap_or(&Value::Null);
        errors.push(FieldError::invalid(class.join("."), value, "may not change once set"));
    }
    let port = ["spec", "healthCheckNodePort"];
    if needs_health_check(new) && needs_health_check(old) && new.get(&port) != old.get(&port) {
        errors.push(FieldError::forbidden(port.join("."), "field is immutable"));
    }
    errors
}

fn kept(new: &Object, old: &Object, key: &str, word: &str, errors: &mut FieldErrors) {
    let list = |object: &Object| {
        let list = object.list(&["spec", key]).to_vec();
        let single = object.get(&["spec", "clusterIP"]).filter(|ip| key == "clusterIPs" && *ip != "");
        if list.is_empty() { single.into_iter().cloned().collect() } else { list }
    };
    let (now, before) = (list(new), list(old));
    let shown = Value::from(now.clone());
    let Some(first) = before.first() else { return };
    if now.is_empty() {
        errors.push(FieldError::invalid(format!("spec.{key}[0]"), &shown, &format!("primary {word} can not be unset")));
    }
    if now.len() == before.len() {
        for (index, _) in now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now != before) {
            // Of families, upstream names the first whichever has changed.
            let index = if key == "clusterIPs" { index } else { 0 };
            errors.push(FieldError::invalid(format!("spec.{key}[{index}]"), &shown, "may not change once set"));
        }
        return;
    }
    if now.first().is_some_and(|now| now != first) {
        errors.push(FieldError::invalid(format!("spec.{key}[0]"), &shown, "may not change once set"));
    }
    let policy = new.get(&["spec", "ipFamilyPolicy"]).unwrap_or(&Value::Null);
    if now.len() == 1 && before.len() > 1 && policy != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {word}");
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, &detail));
    }
}

/// The addresses that a load balancer has.
pub(in crate::kinds) fn service_status_change(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let entries = new.list(&["status", "loadBalancer", "ingress"]);
    let at = "status.loadBalancer.ingress";
    if new.str(&["spec", "type"]) != "LoadBalancer" {
        if !entries.is_empty() {
            errors.push(FieldError::forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"));
        }
        return errors;
    }
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let (ip, mode) = (text(entry, "ip"), text(entry, "ipMode"));
        if !mode.is_empty() && ip.is_empty() {
            errors.push(FieldError::forbidden(format!("{at}.ipMode"), "may not be specified when `ip` is not set"));
        } else if !["", "Proxy", "VIP"].contains(&mode) {
            errors.push(FieldError::not_supported(format!("{at}.ipMode"), &mode.into(), &["Proxy", "VIP"]));
        }
        balancer_address(entry, &at, &mut errors);
    }
    errors
}

/// Where a load balancer listens, for a Service or an Ingress.
pub(super) fn balancer_address(entry: &Value, at: &str, errors: &mut FieldErrors) {
    let (ip, host) = (text(entry, "ip"), text(entry, "hostname"));
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(format!("{at}.ip"), &ip.into(), NOT_AN_IP));
    }
    let at = format!("{at}.hostname");
    let reasons = Some(host).filter(|host| !host.is_empty()).map(crate::names::dns1123_subdomain).unwrap_or_default();
    errors.extend(reasons.iter().map(|why| FieldError::invalid(&at, &host.into(), why)));
    if host.parse::<IpAddr>().is_ok() {
        errors.push(FieldError::invalid(at, &host.into(), "must be a DNS name, not an IP address"));
    }
}

pub(in crate::kinds) fn endpoints(object: &Object) -> FieldErrors {
    let mut errors = by_table(&ENDPOINTS, object);
    for (index, subset) in object.list(&["subsets"]).iter().enumerate() {
        let at = format!("subsets[{index}]");
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        let ports = list(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            if ports.len() > 1 && text(port, "name").is_empty() {
                errors.push(FieldError::required(format!("{at}.ports[{index}].name"), ""));
            }
        }
    }
    errors
}
