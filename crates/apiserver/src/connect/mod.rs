//! Subresources that are streams to the inside of the cluster: exec, attach, logs, port-forward and the proxies.
//!
//! `dial` says whom the API server connects to and how it knows them, `endpoints` where Services lead, `forward` passes one request on,
//! `pods` and `proxy` find the backend.

mod dial;
pub(crate) mod endpoints;
mod forward;
mod pods;
mod proxy;

use http::Response;
use knarr_api::{Status, status};

pub(crate) use dial::{DIAL_TIME_MAX, DialError, Dialer, chain, tcp};

use crate::{
    body::{self, Body},
    call::Call,
};

/// Whether a subresource is one of these. They last, take no seat, and answer what the backend answers.
pub(crate) fn is_stream(resource: &str, subresource: &str) -> bool {
    matches!((resource, subresource), ("pods", "log" | "exec" | "attach" | "portforward") | ("pods" | "nodes" | "services", "proxy"))
}

pub(crate) async fn serve(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    match call.path.subresource.as_str() {
        "log" => pods::log(call, body).await,
        "exec" | "attach" => pods::run(call, body).await,
        "portforward" => pods::port_forward(call, body).await,
        "proxy" => proxy::proxy(call, body).await,
        other => Err(status::not_found(&call.path.group, &call.path.resource, other)),
    }
}
