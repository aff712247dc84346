//! Passing a request on and its answer back; after an agreed upgrade, bytes both ways.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_api::{Status, status};
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, chain};
use crate::{
    body::{self, Body},
    call::Call,
};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Over TLS, with proof that it is this node's.
    Kubelet { node: String, address: SocketAddr },
    /// In plain HTTP.
    Plain { address: SocketAddr },
}

/// Headers that concern one connection (RFC 9110, 7.6.1), and the caller's credentials, which are not for those behind us.
const DROPPED: [HeaderName; 12] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    header::AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::EXPECT,
];
/// The caller's impersonation, likewise.
const DROPPED_PREFIXES: [&str; 2] = ["impersonate-", "x-remote-"];

/// Sends the call's request to `backend` under `path` (with its query) and answers what comes back.
pub(crate) async fn forward(call: &Call, body: body::Incoming, backend: &Backend, path: &str) -> Result<Response<Body>, Status> {
    let upgrade = requested_upgrade(&call.headers);
    let client = match upgrade {
        // Taken before anything is sent: without it there is nothing to tunnel to.
        Some(_) => Some(call.take_upgrade().ok_or_else(|| status::bad_request("this connection cannot be upgraded".to_owned()))?),
        None => None,
    };
    let request = request(call, body, backend, path, upgrade)?;
    let answer = match backend {
        Backend::Kubelet { node, address } => call.core.dialer.kubelet(node, *address, request).await,
        Backend::Plain { address } => call.core.dialer.plain(*address, request).await,
    };
    let answer = answer.map_err(|error| unreachable_backend(&error))?;
    // A redirect would make us, with our credentials, call whatever the backend says (CVE-2018-1002102, CVE-2020-8559, CVE-2022-3172).
    // A pod's own pages may redirect the browser; a kubelet has no reason to.
    if answer.status().is_redirection() && (matches!(backend, Backend::Kubelet { .. }) || upgrade.is_some()) {
        return Err(bad_gateway("the backend answered with a redirect, which is not followed"));
    }
    match client {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(tunnel(answer, client, call.core.stop.clone())),
        _ if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Err(bad_gateway("the backend switched protocols without being asked")),
        client => Ok(pass_on(answer, client.is_some())),
    }
}

/// The protocol that the client wants to switch to.
fn requested_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let tokens = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case("upgrade")).then(|| headers.get(header::UPGRADE)).flatten()
}

fn request(
    call: &Call,
    body: body::Incoming,
    backend: &Backend,
    path: &str,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<body::Incoming>, Status> {
    let address = match backend {
        Backend::Kubelet { address, .. } | Backend::Plain { address } => address,
    };
    let built = Request::builder().method(call.method.clone()).uri(path).header(header::HOST, address.to_string()).body(body);
    let mut request = built.map_err(|error| status::bad_request(format!("{path} cannot be passed on: {error}")))?;
    let kept = call
        .headers
        .iter()
        .filter(|(name, _)| !DROPPED.contains(name) && !DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)));
    for (name, value) in kept {
        request.headers_mut().append(name.clone(), value.clone());
    }
    if let Some(protocol) = upgrade {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol.clone());
    }
    // For kubectl's WebSocket check the token is in the subprotocols, too.
    strip_bearer_protocol(request.headers_mut());
    Ok(request)
}

/// Browsers cannot set Authorization on WebSockets and put the token into a subprotocol instead; it was for us.
fn strip_bearer_protocol(headers: &mut HeaderMap) {
    const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
    let Some(protocols) = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()) else { return };
    let kept: Vec<_> = protocols.split(',').map(str::trim).filter(|protocol| !protocol.starts_with(BEARER)).collect();
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(value) if !kept.is_empty() => headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(header::SEC_WEBSOCKET_PROTOCOL),
    };
}

fn tunnel(mut answer: Response<Incoming>, client: hyper::upgrade::OnUpgrade, stop: CancellationToken) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        tokio::select! {
            done = tokio::io::copy_bidirectional(&mut client, &mut backend) => if let Err(error) = done {
                tracing::debug!(%error, "tunnel");
            },
            () = stop.cancelled() => {}
        }
    });
    let (parts, _) = answer.into_parts();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    // Connection and Upgrade belong to the agreement.
    *response.headers_mut() = parts.headers;
    response
}

fn pass_on(answer: Response<Incoming>, close: bool) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, HeaderName::from_static("keep-alive")] {
        parts.headers.remove(name);
    }
    if close {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    parts.extensions.clear();
    let mut response = Response::new(Body::stream(body.into_data_stream()));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    response
}

fn unreachable_backend(error: &DialError) -> Status {
    let chain = chain(error);
    tracing::info!(error = chain, "proxy");
    match error {
        DialError::Refused { .. } => status::bad_request(chain),
        _ => bad_gateway(&chain),
    }
}

fn bad_gateway(message: &str) -> Status {
    Status { code: StatusCode::BAD_GATEWAY.as_u16(), ..status::internal(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(requested_upgrade(&headers), None);
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(requested_upgrade(&headers).map(HeaderValue::as_bytes), Some(&b"websocket"[..]));
    }

    #[test]
    fn the_token_in_the_subprotocols_stays_here() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
        );
        strip_bearer_protocol(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}
