//! Logs, exec, attach and port-forward: where in the kubelet's API a pod's streams are.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use knarr_api::{Object, Status, status};
use knarr_store::{Collection, Key, Snapshot};
use serde_json::Value;

use super::{
    dial::chain,
    forward::{Backend, forward},
};
use crate::{
    body::{self, Body},
    call::Call,
    request::options::Query,
    server::Core,
};

/// `pods/<name>/log`.
pub(crate) async fn log(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let pod = call.live_object()?;
    let container = container(&pod, call.query.text("container"))?;
    check_log_options(&call.query)?;
    let Some(node) = node_of(&pod) else {
        // Not scheduled yet: nothing was logged. Upstream answers the same.
        let mut empty = Response::new(Body::from(Bytes::new()));
        empty.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return Ok(empty);
    };
    let params = ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];
    let query = params.iter().map(|name| (*name, call.query.text(name))).filter(|(_, value)| !value.is_empty());
    let path = kubelet_path("containerLogs", &pod, Some(&container), query);
    let backend = kubelet(&call.core.store.snapshot(), node)?;
    let answer = forward(call, body, &backend, &path).await?;
    if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
}

/// Bytes that a kubelet may tell of itself: some 200 for each of two figures of a container, with room for thousands of containers.
const TOLD_BYTES_MAX: usize = 4 << 20;
/// Bytes of a kubelet's error text that are shown.
const REFUSAL_BYTES_MAX: usize = 4096;

/// The kubelet says in plain text why there is no log; clients show only the message of a Status.
async fn refusal(answer: Response<Body>) -> Status {
    let code = answer.status().as_u16();
    let text = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match code {
        400 => status::bad_request(text),
        404 => Status::new(404, "NotFound", text),
        _ => status::internal(format!("the kubelet answered {code}: {text}")),
    }
}

fn check_log_options(query: &Query) -> Result<(), Status> {
    let invalid = |message: &str| Err(Status::new(422, "Invalid", format!("PodLogOptions \"\" is invalid: {message}")));
    if query.number("tailLines")?.is_some_and(|lines| lines < 0) {
        return invalid("tailLines: Invalid value: must be greater than or equal to 0");
    }
    if query.number("limitBytes")?.is_some_and(|bytes| bytes < 1) {
        return invalid("limitBytes: Invalid value: must be greater than 0");
    }
    match (query.number("sinceSeconds")?, query.text("sinceTime")) {
        (Some(_), since) if !since.is_empty() => invalid("at most one of `sinceTime` or `sinceSeconds` may be specified"),
        (Some(seconds), _) if seconds < 1 => invalid("sinceSeconds: Invalid value: must be greater than 0"),
        _ => Ok(()),
    }
}

/// `pods/<name>/exec` and `pods/<name>/attach`.
pub(crate) async fn run(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let pod = call.live_object()?;
    let container = container(&pod, call.query.text("container"))?;
    let on = |name: &str, default: bool| call.query.flag(name).unwrap_or(default);
    let (stdin, stdout, stderr, tty) = (on("stdin", false), on("stdout", true), on("stderr", true), on("tty", false));
    // The kubelet's names for them (kubelet/pkg/apis/core/v1, ExecStdinParam and following).
    let streams = [(stdin, "input"), (stdout, "output"), (stderr && !tty, "error"), (tty, "tty")];
    if !(stdin || stdout || stderr) {
        return Err(status::bad_request("you must specify at least one of stdin, stdout, stderr".to_owned()));
    }
    let mut query: Vec<_> = streams.into_iter().filter(|(on, _)| *on).map(|(_, name)| (name, "1")).collect();
    if call.path.subresource == "exec" {
        query.extend(call.query.all("command").map(|word| ("command", word)));
        if call.query.all("command").next().is_none() {
            return Err(status::bad_request("you must specify at least 1 command for the container".to_owned()));
        }
    }
    let backend = kubelet_of(call, &pod)?;
    let path = kubelet_path(&call.path.subresource, &pod, Some(&container), query.into_iter());
    forward(call, body, &backend, &path).await
}

/// `pods/<name>/portforward`.
pub(crate) async fn port_forward(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let pod = call.live_object()?;
    let backend = kubelet_of(call, &pod)?;
    let ports = call.query.all("ports").flat_map(|ports| ports.split(',')).map(|port| ("port", port));
    let path = kubelet_path("portForward", &pod, None, ports);
    forward(call, body, &backend, &path).await
}

fn kubelet_of(call: &Call, pod: &Object) -> Result<Backend, Status> {
    let node = node_of(pod).ok_or_else(|| status::bad_request(format!("pod {} does not have a host assigned", pod.name())))?;
    kubelet(&call.core.store.snapshot(), node)
}

fn node_of(pod: &Object) -> Option<&str> {
    pod.get(&["spec", "nodeName"]).and_then(Value::as_str).filter(|node| !node.is_empty())
}

/// The named container, or the only one.
fn container(pod: &Object, wanted: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod.get(&["spec", field]).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container.get("name")?.as_str()).collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if wanted.is_empty() {
        return match containers[..] {
            [only] => Ok(only.to_owned()),
            _ => {
                let mut message =
                    format!("a container name must be specified for pod {}, choose one of: [{}]", pod.name(), containers.join(" "));
                if !init.is_empty() {
                    message += &format!(" or one of the init containers: [{}]", init.join(" "));
                }
                Err(status::bad_request(message))
            }
        };
    }
    match [containers, init, ephemeral].iter().any(|names| names.contains(&wanted)) {
        true => Ok(wanted.to_owned()),
        false => Err(status::bad_request(format!("container {wanted} is not valid for pod {}", pod.name()))),
    }
}

fn kubelet_path<'a>(verb: &str, pod: &Object, container: Option<&str>, query: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut path = format!("/{verb}/{}/{}", pod.namespace(), pod.name());
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query);
    }
    path
}

/// What the kubelet of `node` tells under `path`, asked in the server's own name.
pub(crate) async fn ask_kubelet(core: &Core, node: &str, path: &str) -> Result<Bytes, String> {
    let backend = kubelet(&core.store.snapshot(), node).map_err(|status| status.message)?;
    let Backend::Kubelet { address, .. } = backend else { return Err(format!("node {node} has no kubelet")) };
    let request = Request::get(path).header(header::HOST, address.to_string()).body(body::empty()).map_err(|error| error.to_string())?;
    let answer = core.dialer.kubelet(node, address, request).await.map_err(|error| chain(&error))?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{path}: {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), TOLD_BYTES_MAX).collect().await;
    Ok(body.map_err(|error| format!("{path}: {error}"))?.to_bytes())
}

/// The kubelet of a node, by the address and port in the node's status.
pub(crate) fn kubelet(snapshot: &Snapshot, node: &str) -> Result<Backend, Status> {
    let entry = snapshot.get(&Key::new(&Collection::new("core/nodes"), "", node)).ok_or_else(|| status::not_found("", "nodes", node))?;
    let object: Value = serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored node {node}: {error}")))?;
    let address = kubelet_address(&object)
        .ok_or_else(|| status::internal(format!("node {node} has no InternalIP or no kubelet port in its status")))?;
    Ok(Backend::Kubelet { node: node.to_owned(), address })
}

fn kubelet_address(node: &Value) -> Option<SocketAddr> {
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let internal = addresses.iter().filter(|address| address.get("type").and_then(Value::as_str) == Some("InternalIP"));
    let ip = internal.filter_map(|address| address.get("address")?.as_str()?.parse::<IpAddr>().ok()).next()?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port")?.as_u64()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str]) -> Object {
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        let value =
            json!({"metadata": {"namespace": "a", "name": "p"}, "spec": {"containers": containers, "initContainers": [{"name": "first"}]}});
        Object::from_value(value).expect("an object")
    }

    #[test]
    fn the_only_container_needs_no_name() {
        assert_eq!(container(&pod(&["c"]), "").unwrap(), "c");
        assert_eq!(container(&pod(&["c", "d"]), "d").unwrap(), "d");
        assert_eq!(container(&pod(&["c", "d"]), "first").unwrap(), "first");
        let refused = container(&pod(&["c", "d"]), "").unwrap_err();
        assert_eq!(
            refused.message,
            "a container name must be specified for pod p, choose one of: [c d] or one of the init containers: [first]"
        );
        assert_eq!(container(&pod(&["c"]), "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn arguments_are_encoded_once() {
        let path = kubelet_path("exec", &pod(&["c"]), Some("c"), [("command", "sh"), ("command", "a b&c=d"), ("input", "1")].into_iter());
        assert_eq!(path, "/exec/a/p/c?command=sh&command=a+b%26c%3Dd&input=1");
    }

    #[test]
    fn kubelets_are_found_by_literal_address_only() {
        let node = |address: &str| {
            json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}})
        };
        assert_eq!(kubelet_address(&node("10.0.0.7")), "10.0.0.7:10250".parse().ok());
        assert_eq!(kubelet_address(&node("example.com")), None);
    }
}
