//! The proxy subresources of nodes, pods and services: HTTP to the inside of the cluster.
//!
//! Names may be `name`, `name:port` or `scheme:name:port`, as upstream's SplitSchemeNamePort reads them; nodes are spoken
//! to as kubelets.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use knarr_api::{Status, status};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{
    endpoints::{self, items, port_number, read},
    forward::{Backend, Passage, pass, requested_upgrade},
    links::Links,
    pods,
};
use crate::{
    body::{self, Body},
    call::Call,
};

/// The path as the client named it. Upstream tells no more of the client's way: the host and the scheme of its own request are empty.
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

pub(crate) async fn proxy(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let target = Target::parse(&call.path.name)?;
    let snapshot = call.core.store.snapshot();
    let namespace = &call.path.namespace;
    let backend = match call.path.resource.as_str() {
        "nodes" => node(&snapshot, &target)?,
        "pods" => target.backend(pod(&snapshot, namespace, &target)?),
        _ => target.backend(endpoints::of_service(&snapshot, namespace, target.name, target.port)?),
    };
    // What was found has a name that a path can hold.
    let prefix = match namespace.as_str() {
        "" => format!("/api/v1/{}/{}/proxy", call.path.resource, call.path.name),
        namespace => format!("/api/v1/namespaces/{namespace}/{}/{}/proxy", call.path.resource, call.path.name),
    };
    let query = call.raw_query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let upgrades = requested_upgrade(&call.headers).is_some();
    if call.path.rest.is_empty() && !upgrades && matches!(call.method, Method::GET | Method::HEAD) {
        // Otherwise the relative links of the page that follows would miss the proxy (upgradeaware.go, proxyRedirectsforRootPath).
        return redirect(&format!("{prefix}/{query}"));
    }
    let rest = if call.path.rest.is_empty() { "/" } else { &call.path.rest };
    let mut headers = call.headers.clone();
    if let Ok(uri) = HeaderValue::try_from(format!("{prefix}{rest}")) {
        headers.insert(FORWARDED_URI, uri);
    }
    let passage =
        Passage { core: &call.core, method: &call.method, headers: &headers, address: call.address, upgrade: call.take_upgrade() };
    let answer = pass(passage, body, &backend, &format!("{rest}{query}")).await?;
    if upgrades {
        return Ok(answer);
    }
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let host = call.headers.get(header::HOST).map(text).unwrap_or_default();
    Ok(Links { prefix, backend: text(&backend.host()), host }.lead_back(answer))
}

fn redirect(location: &str) -> Result<Response<Body>, Status> {
    let built = Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(header::LOCATION, location).body(Body::empty());
    built.map_err(|error| status::bad_request(format!("{location} cannot be redirected to: {error}")))
}

#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    tls: bool,
    name: &'a str,
    /// A number or a name; empty for the default.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Result<Self, Status> {
        let parts: Vec<_> = text.split(':').collect();
        match parts[..] {
            [name] => Ok(Self { tls: false, name, port: "" }),
            [name, port] | ["http" | "", name, port] if !name.is_empty() => Ok(Self { tls: false, name, port }),
            ["https", name, port] if !name.is_empty() => Ok(Self { tls: true, name, port }),
            _ => Err(status::bad_request(format!("invalid proxy request \"{text}\""))),
        }
    }

    /// The address spoken to as the target says.
    fn backend(&self, address: SocketAddr) -> Backend {
        if self.tls { Backend::Unverified { address } } else { Backend::Plain { address } }
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

fn pod(snapshot: &Snapshot, namespace: &str, target: &Target<'_>) -> Result<SocketAddr, Status> {
    let pod = read(snapshot, "core/pods", namespace, target.name)?;
    let address: IpAddr = pod
        .pointer("/status/podIP")
        .and_then(Value::as_str)
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(|| status::bad_request(format!("address not allowed: pod {} has none", target.name)))?;
    let containers = items(&pod, "/spec/containers");
    let mut ports = containers.flat_map(|container| items(container, "/ports"));
    let port = match target.port {
        "" => ports.next().map_or(Some(if target.tls { 443 } else { 80 }), |port| port_number(port, "containerPort")),
        text => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => ports
                .find(|port| port.get("name").and_then(Value::as_str) == Some(text))
                .and_then(|port| port_number(port, "containerPort")),
        },
    };
    let port =
        port.filter(|port| *port != 0).ok_or_else(|| status::bad_request(format!("pod {} has no port {}", target.name, target.port)))?;
    Ok(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(bool, &str, &str)>) {
        assert_eq!(Target::parse(text).ok().map(|target| (target.tls, target.name, target.port)), expected, "{text}");
    }

    #[test]
    fn names_with_schemes_and_ports() {
        check("web", Some((false, "web", "")));
        check("web:80", Some((false, "web", "80")));
        check("http:web:80", Some((false, "web", "80")));
        check(":web:80", Some((false, "web", "80")));
        check("https:web:443", Some((true, "web", "443")));
        check("ftp:web:21", None);
        check("https::443", None);
        check("a:b:c:d", None);
        check(":80", None);
    }
}
