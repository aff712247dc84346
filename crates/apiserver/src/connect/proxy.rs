//! The proxy subresources of nodes, pods and services: HTTP to the inside of the cluster.
//!
//! Names may be `name`, `name:port` or `scheme:name:port`, as upstream's SplitSchemeNamePort reads them; only `http` is spoken to pods.

use std::net::{IpAddr, SocketAddr};

use http::Response;
use knarr_api::{Status, status};
use knarr_store::{Collection, Key, Snapshot};
use serde_json::Value;

use super::{
    forward::{Backend, forward},
    pods,
};
use crate::{
    body::{self, Body},
    call::Call,
};

pub(crate) async fn proxy(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let target = Target::parse(&call.path.name)?;
    let snapshot = call.core.store.snapshot();
    let backend = match call.path.resource.as_str() {
        "nodes" => node(&snapshot, &target)?,
        "pods" => pod(&snapshot, &call.path.namespace, &target)?,
        _ => service(&snapshot, &call.path.namespace, &target)?,
    };
    let rest = if call.path.rest.is_empty() { "/" } else { &call.path.rest };
    let path = match &call.raw_query {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    forward(call, body, &backend, &path).await
}

#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    name: &'a str,
    /// A number or a name; empty for the default.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Result<Self, Status> {
        let parts: Vec<_> = text.split(':').collect();
        match parts[..] {
            [name] => Ok(Self { name, port: "" }),
            [name, port] | ["http" | "", name, port] if !name.is_empty() => Ok(Self { name, port }),
            _ => Err(status::bad_request(format!("invalid proxy request \"{text}\""))),
        }
    }
}

fn node(snapshot: &Snapshot, target: &Target<'_>) -> Result<Backend, Status> {
    let backend = pods::kubelet(snapshot, target.name)?;
    match &backend {
        Backend::Kubelet { address, .. } if target.port.is_empty() || target.port == address.port().to_string() => Ok(backend),
        _ => {
            Err(status::bad_request(format!("port {} of node {} is not its kubelet's; only that is proxied to", target.port, target.name)))
        }
    }
}

fn read(snapshot: &Snapshot, collection: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let (group, resource) = collection.split_once('/').unwrap_or(("", collection));
    let group = if group == "core" { "" } else { group };
    let key = Key::new(&Collection::new(collection), namespace, name);
    let entry = snapshot.get(&key).ok_or_else(|| status::not_found(group, resource, name))?;
    serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {key}: {error}")))
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn pod(snapshot: &Snapshot, namespace: &str, target: &Target<'_>) -> Result<Backend, Status> {
    let pod = read(snapshot, "core/pods", namespace, target.name)?;
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Err(status::bad_request(format!("pod {} is on its node's network and is not proxied to", target.name)));
    }
    let address: IpAddr = pod
        .pointer("/status/podIP")
        .and_then(Value::as_str)
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| status::bad_request(format!("address not allowed: pod {} has none", target.name)))?;
    let containers = items(&pod, "/spec/containers");
    let mut ports = containers.flat_map(|container| items(container, "/ports"));
    let port = match target.port {
        "" => ports.next().map_or(Some(80), |port| port_number(port, "containerPort")),
        text => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => ports
                .find(|port| port.get("name").and_then(Value::as_str) == Some(text))
                .and_then(|port| port_number(port, "containerPort")),
        },
    };
    let port =
        port.filter(|port| *port != 0).ok_or_else(|| status::bad_request(format!("pod {} has no port {}", target.name, target.port)))?;
    Ok(Backend::Plain { address: SocketAddr::new(address, port) })
}

fn port_number(port: &Value, field: &str) -> Option<u16> {
    u16::try_from(port.get(field)?.as_u64()?).ok()
}

/// A ready endpoint of the service, any of them.
fn service(snapshot: &Snapshot, namespace: &str, target: &Target<'_>) -> Result<Backend, Status> {
    let service = read(snapshot, "core/services", namespace, target.name)?;
    let ports: Vec<_> = items(&service, "/spec/ports").collect();
    let wanted = |port: &&&Value| {
        let named = port.get("name").and_then(Value::as_str) == Some(target.port);
        named || port_number(port, "port").is_some_and(|number| number.to_string() == target.port)
    };
    let port = match (target.port, &ports[..]) {
        ("", [only]) => Some(only),
        _ => ports.iter().find(wanted),
    };
    let port = port.ok_or_else(|| unavailable(&format!("no service port \"{}\" found for service \"{}\"", target.port, target.name)))?;
    let port_name = port.get("name").and_then(Value::as_str).unwrap_or_default();
    let prefix = format!("{namespace}/");
    let slices = snapshot.range(&Collection::new("discovery.k8s.io/endpointslices"), &prefix, None);
    let mut endpoints: Vec<SocketAddr> = Vec::new();
    for entry in slices {
        let slice: Value =
            serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {}: {error}", entry.key)))?;
        let of = slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
        if of == Some(target.name) {
            endpoints.extend(ready_endpoints(&slice, port_name));
        }
    }
    match endpoints.get(fastrand::usize(..endpoints.len().max(1))) {
        Some(address) => Ok(Backend::Plain { address: *address }),
        None => Err(unavailable(&format!("no endpoints available for service \"{}\"", target.name))),
    }
}

fn ready_endpoints(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let mut ports = items(slice, "/ports");
    let Some(port) = ports
        .find(|port| port.get("name").and_then(Value::as_str).unwrap_or_default() == port_name)
        .and_then(|port| port_number(port, "port"))
    else {
        return Vec::new();
    };
    let ready = items(slice, "/endpoints").filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false));
    let addresses = ready.flat_map(|endpoint| items(endpoint, "/addresses")).filter_map(Value::as_str);
    addresses.filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port))).collect()
}

fn unavailable(message: &str) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(text: &str, expected: Option<(&str, &str)>) {
        assert_eq!(Target::parse(text).ok().map(|target| (target.name, target.port)), expected, "{text}");
    }

    #[test]
    fn names_with_schemes_and_ports() {
        check("web", Some(("web", "")));
        check("web:80", Some(("web", "80")));
        check("http:web:80", Some(("web", "80")));
        check(":web:80", Some(("web", "80")));
        check("https:web:443", None);
        check("a:b:c:d", None);
        check(":80", None);
    }

    #[test]
    fn only_ready_endpoints_of_the_port() {
        let slice = json!({
        "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.42.0.5"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.6"], "conditions": {"ready": false}},
            {"addresses": ["10.42.0.7"]},
        ]});
        assert_eq!(ready_endpoints(&slice, "http"), ["10.42.0.5:8080".parse().unwrap(), "10.42.0.7:8080".parse().unwrap()]);
        assert!(ready_endpoints(&slice, "other").is_empty());
    }
}
