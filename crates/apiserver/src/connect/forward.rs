//! Passing a request on and its answer back; after an agreed upgrade, bytes both ways.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use knarr_api::{Status, status};
use tokio_util::sync::CancellationToken;

use super::dial::{DialError, chain};
use crate::{
    audit::Lasts,
    authn,
    body::{self, Body},
    call::Call,
    callout::Target,
    server::Core,
};

/// Where a request goes.
#[derive(Clone)]
pub(crate) enum Backend {
    /// Over TLS, with proof that it is this node's.
    Kubelet { node: String, address: SocketAddr },
    /// In plain HTTP.
    Plain { address: SocketAddr },
    /// Over TLS, to whoever answers there.
    Unverified { address: SocketAddr },
    /// To an extension server, which is told for whom by these headers.
    Extension { target: Arc<Target>, identity: HeaderMap },
}

impl Backend {
    /// What it is called in requests to it.
    pub(crate) fn host(&self) -> HeaderValue {
        let host = match self {
            Self::Kubelet { address, .. } | Self::Plain { address } | Self::Unverified { address } => {
                HeaderValue::try_from(address.to_string()).ok()
            }
            Self::Extension { target, .. } => Some(target.host()),
        };
        host.unwrap_or(HeaderValue::from_static("localhost"))
    }
}

/// A request on its way through, as the client sent it.
pub(crate) struct Passage<'a> {
    pub(crate) core: &'a Core,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// Where the client's connection comes from; none for a component of this process.
    pub(crate) address: Option<IpAddr>,
    /// That connection, should the client ask for another protocol.
    pub(crate) upgrade: Option<OnUpgrade>,
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Seconds after which a client may ask again for what did not answer.
const RETRY_AFTER_SECONDS: u32 = 1;

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
    let upgrade = call.take_upgrade();
    let passage = Passage { core: &call.core, method: &call.method, headers: &call.headers, address: call.address, upgrade };
    pass(passage, body, backend, path).await
}

/// The same for what is no call of a kind.
pub(crate) async fn pass(passage: Passage<'_>, body: body::Incoming, backend: &Backend, path: &str) -> Result<Response<Body>, Status> {
    let Passage { core, method, headers, address, upgrade: client } = passage;
    let upgrade = requested_upgrade(headers);
    let client = match upgrade {
        // Seen to before anything is sent: without it there is nothing to tunnel to.
        Some(_) => Some(client.ok_or_else(|| status::bad_request("this connection cannot be upgraded".to_owned()))?),
        None => None,
    };
    let mut request = request((method, headers), body, backend, path, upgrade)?;
    forwarded_for(request.headers_mut(), address);
    let answer = match backend {
        Backend::Kubelet { node, address } => {
            core.dialer.kubelet(node, *address, request).await.map_err(|error| unreachable_backend(&error))
        }
        Backend::Plain { address } => core.dialer.plain(*address, request).await.map_err(|error| unreachable_backend(&error)),
        Backend::Unverified { address } => core.dialer.unverified(*address, request).await.map_err(|error| unreachable_backend(&error)),
        Backend::Extension { target, .. } => core.callout.exchange(target, request).await.map_err(|error| {
            tracing::info!(error = &error as &dyn std::error::Error, "extension server");
            status::service_unavailable(format!("error trying to reach service: {error}"), RETRY_AFTER_SECONDS)
        }),
    };
    let answer = answer?;
    // A redirect would make us, with our credentials, call whatever the backend says (CVE-2018-1002102, CVE-2020-8559, CVE-2022-3172).
    // A pod's own pages may redirect the browser; a kubelet has no reason to, and what an extension server says goes to the client, who would
    // follow it with his credentials.
    let redirects = answer.status().is_redirection()
        && (answer.status() != StatusCode::NOT_MODIFIED || answer.headers().contains_key(header::LOCATION));
    if redirects && (!matches!(backend, Backend::Plain { .. } | Backend::Unverified { .. }) || upgrade.is_some()) {
        return Err(bad_gateway("the backend attempted to redirect this request, which is not permitted"));
    }
    match client {
        Some(client) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Ok(tunnel(answer, client, core.stop.clone())),
        _ if answer.status() == StatusCode::SWITCHING_PROTOCOLS => Err(bad_gateway("the backend switched protocols without being asked")),
        client => Ok(pass_on(answer, client.is_some())),
    }
}

/// The protocol that the client wants to switch to.
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    authn::has_token(headers, &header::CONNECTION, "upgrade").then(|| headers.get(header::UPGRADE)).flatten()
}

fn request(
    (method, headers): (&Method, &HeaderMap),
    body: body::Incoming,
    backend: &Backend,
    path: &str,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<body::Incoming>, Status> {
    let built = Request::builder().method(method.clone()).uri(path).header(header::HOST, backend.host()).body(body);
    let mut request = built.map_err(|error| status::bad_request(format!("{path} cannot be passed on: {error}")))?;
    let kept = headers
        .iter()
        .filter(|(name, _)| !DROPPED.contains(name) && !DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)));
    for (name, value) in kept {
        request.headers_mut().append(name.clone(), value.clone());
    }
    if let Backend::Extension { identity, .. } = backend {
        request.headers_mut().extend(identity.clone());
    }
    if let Some(protocol) = upgrade {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, protocol.clone());
    }
    Ok(request)
}

/// Those before us say from where they have it, and we say from where we do (net/http/httputil, ReverseProxy): what a client claims alone proves nothing.
fn forwarded_for(headers: &mut HeaderMap, address: Option<IpAddr>) {
    let Some(address) = address else { return };
    let told = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = told.map(str::to_owned).chain([address.to_canonical().to_string()]).collect();
    if let Ok(value) = HeaderValue::try_from(all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

fn tunnel(mut answer: Response<Incoming>, client: hyper::upgrade::OnUpgrade, stop: CancellationToken) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut answer);
    let over = CancellationToken::new();
    let ends = over.clone().drop_guard();
    tokio::spawn(async move {
        let _ends = ends;
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
    response.extensions_mut().insert(Lasts(over));
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
}
