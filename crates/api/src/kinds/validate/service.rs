//! Services and Endpoints.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing};
use super::{by_table, duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

static SERVICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.ports[].name label
        spec.ports[].port required
        spec.ports[].port port
        spec.ports[].protocol enum TCP UDP SCTP
        spec.ports[].targetPort port
        spec.ports[].appProtocol qualified
        spec.selector labels
        spec.sessionAffinity enum ClientIP None
        spec.type enum ClusterIP NodePort LoadBalancer ExternalName
        spec.externalIPs[] endpointip
        spec.loadBalancerClass qualified
        spec.healthCheckNodePort range 0 65535
        spec.ipFamilyPolicy enum SingleStack PreferDualStack RequireDualStack
        spec.ipFamilies[] enum IPv4 IPv6
        spec.externalTrafficPolicy enum Cluster Local
        spec.internalTrafficPolicy enum Cluster Local
        spec.sessionAffinityConfig.clientIP.timeoutSeconds range 1 86400
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
        subsets[].notReadyAddresses[].ip required
        subsets[].notReadyAddresses[].ip endpointip
        subsets[].notReadyAddresses[].hostname label
        subsets[].ports[].port required
        subsets[].ports[].port port
        subsets[].ports[].protocol enum TCP UDP SCTP
        "#,
    )
});

pub(in crate::kinds) fn service(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let ports = object.list(&["spec", "ports"]);
    let ty = object.str(&["spec", "type"]);
    let headless = object.str(&["spec", "clusterIP"]) == "None";
    if ports.is_empty() && !headless && ty != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    errors.extend(by_table(&SERVICE, object));
    check_ports(ports, ty, &mut errors);
    addresses(object, ty, &mut errors);
    let external = ["NodePort", "LoadBalancer"].contains(&ty) || !object.list(&["spec", "externalIPs"]).is_empty();
    let policy = object.str(&["spec", "externalTrafficPolicy"]);
    if !policy.is_empty() && !external {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", &policy.into(), detail));
    }
    only_of_balancers(object, ty, &mut errors);
    if ty == "LoadBalancer" && headless {
        let detail = "may not be set to 'None' for LoadBalancer services";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), detail));
    }
    if ty == "NodePort" && headless {
        let detail = "may not be set to 'None' for NodePort services";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), detail));
    }
    errors
}

/// Fields that mean something to load balancers alone.
fn only_of_balancers(object: &Object, ty: &str, errors: &mut FieldErrors) {
    let balanced = ty == "LoadBalancer";
    for key in ["loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && !is_missing(object.get(&["spec", key])) {
            errors.push(FieldError::forbidden(format!("spec.{key}"), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    for (index, range) in object.list(&["spec", "loadBalancerSourceRanges"]).iter().enumerate() {
        if !range.as_str().is_some_and(is_range) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.loadBalancerSourceRanges[{index}]"), range, detail));
        }
    }
    let port = object.int(&["spec", "healthCheckNodePort"]).unwrap_or(0);
    if port != 0 && !(balanced && object.str(&["spec", "externalTrafficPolicy"]) == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", &port.into(), detail));
    }
}

/// `10.0.0.0/8`; spaces around it have always been passed over.
fn is_range(text: &str) -> bool {
    let Some((address, bits)) = text.trim().split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

/// Addresses of a Service: one of each family.
const ADDRESSES_MAX: usize = 2;

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
            errors.push(FieldError::duplicate(&at, port));
        }
        let Some(node_port) = port["nodePort"].as_i64().filter(|number| *number != 0) else { continue };
        if ["ClusterIP", "ExternalName"].contains(&ty) {
            let detail = format!("may not be used when `type` is '{ty}'");
            errors.push(FieldError::forbidden(format!("{at}.nodePort"), &detail));
        } else if !node_ports.insert((node_port, protocol)) {
            errors.push(FieldError::duplicate(format!("{at}.nodePort"), &port["nodePort"]));
        }
    }
}

fn addresses(object: &Object, ty: &str, errors: &mut FieldErrors) {
    let ip = object.str(&["spec", "clusterIP"]);
    let ips = object.list(&["spec", "clusterIPs"]);
    if ty == "ExternalName" {
        if !ip.is_empty() || !ips.is_empty() {
            errors.push(FieldError::forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"));
        }
        let name = object.str(&["spec", "externalName"]).trim_end_matches('.');
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        }
        for reason in Some(name).filter(|name| !name.is_empty()).map(crate::names::dns1123_subdomain).unwrap_or_default() {
            errors.push(FieldError::invalid("spec.externalName", &name.into(), &reason));
        }
        return;
    }
    if !ips.is_empty() && ips[0].as_str() != Some(ip) {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid("spec.clusterIPs", &Value::from(ips.to_vec()), detail));
    }
    if ips.len() > ADDRESSES_MAX {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid("spec.clusterIPs", &Value::from(ips.to_vec()), detail));
    }
    let given: Vec<&str> = if ips.is_empty() { vec![ip] } else { ips.iter().filter_map(Value::as_str).collect() };
    for (index, ip) in given.into_iter().enumerate() {
        if !["", "None"].contains(&ip) && ip.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), &ip.into(), detail));
        }
    }
}

/// An address, once given, stays as long as the type needs one.
pub(in crate::kinds) fn service_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let ip = |object: &Object| object.str(&["spec", "clusterIP"]).to_owned();
    let needs_ip = |object: &Object| object.str(&["spec", "type"]) != "ExternalName";
    if needs_ip(new) && needs_ip(old) && !ip(old).is_empty() && ip(new) != ip(old) {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &ip(new).into(), "may not change once set"));
    }
    let balanced = |object: &Object| object.str(&["spec", "type"]) == "LoadBalancer";
    let class = |object: &Object| object.get(&["spec", "loadBalancerClass"]).cloned();
    if balanced(new) && balanced(old) && class(new) != class(old) {
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.loadBalancerClass", &class(new).unwrap_or_default(), detail));
    }
    errors
}

pub(in crate::kinds) fn endpoints(object: &Object) -> FieldErrors {
    let mut errors = by_table(&ENDPOINTS, object);
    for (index, subset) in object.list(&["subsets"]).iter().enumerate() {
        let at = format!("subsets[{index}]");
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        let ports = list(subset, "ports");
        duplicates(ports, &format!("{at}.ports"), "name", &mut errors);
        for (index, port) in ports.iter().enumerate() {
            if ports.len() > 1 && text(port, "name").is_empty() {
                errors.push(FieldError::required(format!("{at}.ports[{index}].name"), ""));
            }
        }
    }
    errors
}
