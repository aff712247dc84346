//! Services and Endpoints.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::apps::apply;
use super::columns::{age, format_labels, name, or_none, text, wide};
use super::defaults::Defaults;
use super::row::row;
use super::validate::service as rules;
use crate::kind::{Kind, VerbSet};
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("", "v1", "Service", "services")
            .short(&["svc"])
            .in_all()
            .put_creates()
            .named(crate::names::dns1035_label)
            .sub("proxy", "v1 ServiceProxyOptions", VerbSet::PROXY)
            .status()
            .default_by(default_service)
            .prepare_by(|object| object.set(&["status", "loadBalancer"], json!({})), update_service)
            .validate_by(rules::service)
            .validate_change_by(rules::service_change)
            .validate_status_by(rules::service_status_change)
            .columns(vec![
                name(),
                text("Type", |o, _| o.str(&["spec", "type"]).into()),
                text("Cluster-IP", |o, _| or_none(o.str(&["spec", "clusterIP"]))),
                text("External-IP", external_ip),
                text("Port(s)", ports),
                age(),
                wide("Selector", |o, _| format_labels(o.get(&["spec", "selector"]))),
            ])
            .select("spec.clusterIP", |o| o.str(&["spec", "clusterIP"]).to_owned())
            .select("spec.type", |o| o.str(&["spec", "type"]).to_owned()),
        row("", "v1", "Endpoints", "endpoints")
            .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
            .short(&["ep"])
            .put_creates()
            .default_by(|object| apply(object, &ENDPOINTS))
            .validate_by(rules::endpoints)
            .columns(vec![name(), text("Endpoints", endpoints), age()]),
    ]
}

static SERVICE: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.sessionAffinity = "None"
        spec.type = "ClusterIP"
        spec.ports[].protocol = "TCP"
        "#,
    )
});

static ENDPOINTS: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"subsets[].ports[].protocol = "TCP""#));

/// Seconds for which a client stays with its endpoint (upstream's DefaultClientIPServiceAffinitySeconds).
const AFFINITY_SECONDS: i64 = 10_800;

fn default_service(object: &mut Object) {
    apply(object, &SERVICE);
    match object.str(&["spec", "sessionAffinity"]) {
        "None" => {
            object.remove(&["spec", "sessionAffinityConfig"]);
        }
        "ClientIP" if object.get(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
            object.set(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"], AFFINITY_SECONDS.into());
        }
        _ => {}
    }
    if let Some(Value::Array(ports)) = object.get_mut(&["spec", "ports"]) {
        for port in ports {
            target_port(port);
        }
    }
    let ty = object.str(&["spec", "type"]).to_owned();
    let external =
        ["NodePort", "LoadBalancer"].contains(&ty.as_str()) || (ty == "ClusterIP" && !object.list(&["spec", "externalIPs"]).is_empty());
    if external && object.str(&["spec", "externalTrafficPolicy"]).is_empty() {
        object.set(&["spec", "externalTrafficPolicy"], "Cluster".into());
    }
    if ty != "ExternalName" && object.get(&["spec", "internalTrafficPolicy"]).is_none() {
        object.set(&["spec", "internalTrafficPolicy"], "Cluster".into());
    }
    if ty == "LoadBalancer" && object.get(&["spec", "allocateLoadBalancerNodePorts"]).is_none() {
        object.set(&["spec", "allocateLoadBalancerNodePorts"], true.into());
    }
}

/// The port of the pods is the port of the service unless it is said otherwise.
fn target_port(port: &mut Value) {
    let number = port["port"].clone();
    if let Some(map) = port.as_object_mut()
        && matches!(map.get("targetPort"), None | Some(Value::Null))
            | (map.get("targetPort") == Some(&json!(0)))
            | (map.get("targetPort") == Some(&json!("")))
        && !number.is_null()
    {
        map.insert("targetPort".to_owned(), number);
    }
}

/// A client that did not read the allocated addresses and ports does not lose them (upstream's patchAllocatedValues).
fn update_service(new: &mut Object, old: &Object) {
    let has_cluster_ip = |object: &Object| object.str(&["spec", "type"]) != "ExternalName";
    if has_cluster_ip(new) && has_cluster_ip(old) {
        if new.str(&["spec", "clusterIP"]).is_empty() && !old.str(&["spec", "clusterIP"]).is_empty() {
            new.set(&["spec", "clusterIP"], old.str(&["spec", "clusterIP"]).into());
        }
        for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new.get(&["spec", key]).is_none()
                && let Some(value) = old.get(&["spec", key])
            {
                new.set(&["spec", key], value.clone());
            }
        }
    }
    let has_node_ports = |object: &Object| ["NodePort", "LoadBalancer"].contains(&object.str(&["spec", "type"]));
    if has_node_ports(new) && has_node_ports(old) {
        keep_node_ports(new, old);
    }
    let port = ["spec", "healthCheckNodePort"];
    if needs("healthCheckNodePort", new)
        && needs("healthCheckNodePort", old)
        && new.int(&port).unwrap_or(0) == 0
        && let Some(number) = old.get(&port)
    {
        new.set(&port, number.clone());
    }
    drop_unneeded(new, old);
    // Whoever made the load balancer may take long to take it away; it is not this service's any more (upstream's service storage likewise).
    if new.str(&["spec", "type"]) != "LoadBalancer" && new.get(&["status", "loadBalancer"]).is_some() {
        new.set(&["status", "loadBalancer"], json!({}));
    }
}

/// Whether a service of this sort has the field.
fn needs(key: &str, service: &Object) -> bool {
    let ty = service.str(&["spec", "type"]);
    match key {
        "healthCheckNodePort" => ty == "LoadBalancer" && service.str(&["spec", "externalTrafficPolicy"]) == "Local",
        "allocateLoadBalancerNodePorts" | "loadBalancerClass" => ty == "LoadBalancer",
        "externalTrafficPolicy" => {
            ["NodePort", "LoadBalancer"].contains(&ty) || (ty == "ClusterIP" && !service.list(&["spec", "externalIPs"]).is_empty())
        }
        _ => ty != "ExternalName",
    }
}

/// A service that became of another sort loses what it no longer needs and was not asked for anew (upstream's dropTypeDependentFields).
fn drop_unneeded(new: &mut Object, old: &Object) {
    drop_node_ports(new, old);
    let keys = [
        "healthCheckNodePort",
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
        "externalTrafficPolicy",
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
    ];
    // Whether it is needed may hang on another of them.
    let unneeded: Vec<&str> = keys.into_iter().filter(|key| needs(key, old) && !needs(key, new)).collect();
    for key in unneeded {
        if new.get(&["spec", key]) == old.get(&["spec", key]) {
            new.remove(&["spec", key]);
        }
    }
}

fn keep_node_ports(new: &mut Object, old: &Object) {
    let previous = old.list(&["spec", "ports"]).to_vec();
    let Some(Value::Array(ports)) = new.get_mut(&["spec", "ports"]) else { return };
    let taken: Vec<Value> = ports.iter().map(|port| port["nodePort"].clone()).collect();
    for port in ports.iter_mut() {
        let same = |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        let Some(number) = previous.iter().find(same).and_then(|other| other["nodePort"].as_i64()) else { continue };
        let map = port.as_object_mut().expect("a port of a decoded service is a map");
        if map.get("nodePort").and_then(Value::as_i64).unwrap_or(0) == 0 && !taken.contains(&json!(number)) {
            map.insert("nodePort".to_owned(), number.into());
        }
    }
}

/// A service that no longer has node ports gives back those that it did not ask for anew.
fn drop_node_ports(new: &mut Object, old: &Object) {
    let had = ["NodePort", "LoadBalancer"].contains(&old.str(&["spec", "type"]));
    if !had || new.str(&["spec", "type"]) != "ClusterIP" {
        return;
    }
    let previous: Vec<Value> = old.list(&["spec", "ports"]).iter().map(|port| port["nodePort"].clone()).collect();
    if let Some(Value::Array(ports)) = new.get_mut(&["spec", "ports"]) {
        for port in ports.iter_mut().filter(|port| previous.contains(&port["nodePort"])) {
            port.as_object_mut().map(|map| map.remove("nodePort"));
        }
    }
}

fn external_ip(object: &Object, _: jiff::Timestamp) -> Value {
    let mut ips: Vec<&str> = Vec::new();
    let ty = object.str(&["spec", "type"]);
    if ty == "ExternalName" {
        return object.str(&["spec", "externalName"]).into();
    }
    if ty == "LoadBalancer" {
        for ingress in object.list(&["status", "loadBalancer", "ingress"]) {
            ips.extend(ingress["ip"].as_str().or(ingress["hostname"].as_str()));
        }
        ips.sort_unstable();
    }
    ips.extend(object.list(&["spec", "externalIPs"]).iter().filter_map(Value::as_str));
    match (ips.as_slice(), ty) {
        ([], "LoadBalancer") => "<pending>".into(),
        (ips, _) => or_none(&ips.join(",")),
    }
}

fn ports(object: &Object, _: jiff::Timestamp) -> Value {
    let port = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{}:{node}/{protocol}", port["port"]),
            _ => format!("{}/{protocol}", port["port"]),
        }
    };
    or_none(&object.list(&["spec", "ports"]).iter().map(port).collect::<Vec<_>>().join(","))
}

/// Addresses shown before the rest is only counted.
const ENDPOINTS_SHOWN: usize = 3;

fn endpoints(object: &Object, _: jiff::Timestamp) -> Value {
    let mut list = Vec::new();
    for subset in object.list(&["subsets"]) {
        let addresses = subset["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        let ports = subset["ports"].as_array().map_or(&[][..], Vec::as_slice);
        for address in addresses {
            let ip = address["ip"].as_str().unwrap_or("");
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            list.extend(ports.iter().map(|port| format!("{bracketed}:{}", port["port"])));
        }
    }
    let more = list.len().saturating_sub(ENDPOINTS_SHOWN);
    list.truncate(ENDPOINTS_SHOWN);
    match more {
        0 => or_none(&list.join(",")),
        more => format!("{} + {more} more...", list.join(",")).into(),
    }
}
