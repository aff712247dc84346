//! The proxy subresources of nodes, pods and services: HTTP to the inside of the cluster.
//!
//! Names may be `name`, `name:port` or `scheme:name:port`, as upstream's SplitSchemeNamePort reads them; only `http` is spoken to pods.

use std::net::{IpAddr, SocketAddr};

use http::Response;
use knarr_api::{Status, status};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{
    endpoints::{self, items, port_number, read},
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
        _ => Backend::Plain { address: endpoints::of_service(&snapshot, &call.path.namespace, target.name, target.port)? },
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

#[cfg(test)]
mod tests {
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
}
