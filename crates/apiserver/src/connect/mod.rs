//! Subresources that are streams to the inside of the cluster: exec, attach, logs, port-forward and the proxies.
//!
//! `dial` says whom the API server connects to and how it knows them, `endpoints` where Services lead, `forward` passes one request on,
//! `pods` and `proxy` find the backend, `links` makes a proxied page's links lead back.

mod dial;
pub(crate) mod endpoints;
mod forward;
mod links;
mod pods;
mod proxy;

use http::Response;
use knarr_api::{Object, Status, status};
use serde_json::{Map, Value};

pub(crate) use dial::{DIAL_TIME_MAX, DialError, Dialer, chain, tcp};
pub(crate) use forward::{Backend, Passage, pass};
pub(crate) use pods::ask_kubelet;

use crate::{
    admission::Operation,
    body::{self, Body},
    call::{Act, Call, Phase},
};

/// Whether a subresource is one of these. They last, take no seat, and answer what the backend answers.
pub(crate) fn is_stream(resource: &str, subresource: &str) -> bool {
    matches!((resource, subresource), ("pods", "log" | "exec" | "attach" | "portforward")) || is_proxy(resource, subresource)
}

pub(crate) fn is_proxy(resource: &str, subresource: &str) -> bool {
    matches!((resource, subresource), ("pods" | "nodes" | "services", "proxy"))
}

pub(crate) async fn serve(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    admit(call).await?;
    match call.path.subresource.as_str() {
        "log" => pods::log(call, body).await,
        "exec" | "attach" => pods::run(call, body).await,
        "portforward" => pods::port_forward(call, body).await,
        "proxy" => proxy::proxy(call, body).await,
        other => Err(status::not_found(&call.path.group, &call.path.resource, other)),
    }
}

/// Admission of a stream: of its options, which are an object of their own kind. Reading logs is no CONNECT.
async fn admit(call: &Call) -> Result<(), Status> {
    let part = call.kind.subresource(&call.path.subresource).filter(|part| part.kind.ends_with("Options"));
    let Some(part) = part else { return Ok(()) };
    let mut options = Object::default();
    options.set_type(&part.version, &part.kind);
    options.0.extend(stream_options(call));
    let act = Act {
        operation: Operation::Connect,
        subresource: &call.path.subresource,
        name: &call.path.name,
        dry_run: false,
        options: &|| Value::Null,
    };
    if call.admit(&act, Phase::Mutate, &mut options, None).await? {
        // The stream is made of the request itself: what was changed would be judged, and something else done.
        let why = "an admission webhook attempted to modify the options of a stream, which is not supported";
        return Err(status::internal(why));
    }
    call.admit(&act, Phase::Validate, &mut options, None).await.map(drop)
}

/// The fields of PodExecOptions, PodAttachOptions, PodPortForwardOptions and the options of proxies.
fn stream_options(call: &Call) -> Map<String, Value> {
    let mut fields = Map::new();
    match call.path.subresource.as_str() {
        "portforward" => {
            let ports: Vec<u16> = call.query.all("ports").flat_map(|ports| ports.split(',')).filter_map(|port| port.parse().ok()).collect();
            fields.extend((!ports.is_empty()).then(|| ("ports".to_owned(), ports.into())));
        }
        "proxy" => fields.extend((!call.path.rest.is_empty()).then(|| ("path".to_owned(), call.path.rest.as_str().into()))),
        _ => {
            let on = |name: &str, default: bool| call.query.flag(name).unwrap_or(default);
            let streams =
                [("stdin", on("stdin", false)), ("stdout", on("stdout", true)), ("stderr", on("stderr", true)), ("tty", on("tty", false))];
            fields.extend(streams.into_iter().filter(|(_, on)| *on).map(|(name, on)| (name.to_owned(), on.into())));
            let container = call.query.text("container");
            fields.extend((!container.is_empty()).then(|| ("container".to_owned(), container.into())));
            let command: Vec<&str> = call.query.all("command").collect();
            fields.extend((!command.is_empty()).then(|| ("command".to_owned(), command.into())));
        }
    }
    fields
}
