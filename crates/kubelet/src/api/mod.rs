//! The node's HTTPS API, which the API server calls for logs, exec, attach and port-forward, and monitoring for figures.
//!
//! Every request is authenticated by a client certificate of the cluster's CA or by a bearer token, and authorised by the API server
//! as an action on this node's subresources, as upstream. There is no anonymous path.

mod auth;
mod cadvisor;
mod configz;
mod figures;
mod inotify;
mod logs;
mod metrics;
mod stats;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::kubelet::Pods;
use crate::node::Node;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Connections at one time. The API server keeps one for each stream; 1,000 followed logs on a node of 110 pods are plenty.
const CONNECTIONS_MAX: usize = 1_000;
/// A client that does not finish its handshake or its request's head in this time is dropped.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Arc<Pods>,
    /// The port that was taken.
    port: u16,
    auth: auth::Auth,
    changes: inotify::Changes,
    layers: figures::Layers,
}

/// Serves the API; ends only when dropped, and every connection with it.
pub(crate) async fn serve(node: Arc<Node>, pods: Arc<Pods>, listener: TcpListener) {
    let acceptor = match acceptor(&node) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(error, "the node's API cannot be served: logs, exec and port-forward will fail");
            return std::future::pending().await;
        }
    };
    let port = listener.local_addr().map_or(0, |it| it.port());
    let api = Arc::new(Api {
        port,
        auth: auth::Auth::new(node.clone()),
        changes: inotify::Changes::new(),
        layers: figures::Layers::default(),
        node,
        pods,
    });
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(seat) = seats.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (api, acceptor) = (api.clone(), acceptor.clone());
                connections.spawn(async move {
                    let _seat = seat;
                    connection(api, acceptor, stream).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection to the node's API");
                // Out of descriptors: others must close some first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn acceptor(node: &Node) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(&node.config.tls.client_ca) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(node.config.tls.certificate.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(api: Arc<Api>, acceptor: TlsAcceptor, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "node API");
    }
    let stream = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS with a client of the node's API"),
        Err(_) => return,
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let peer = peer.and_then(|it| auth::identity(&it)).map(Arc::new);
    let service = hyper::service::service_fn(move |request| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(api, peer, request).await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    server.http2().timer(TokioTimer::new());
    if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(error, "connection to the node's API");
    }
}

async fn answer(api: Arc<Api>, peer: Option<Arc<auth::User>>, request: Request<Incoming>) -> Response<Body> {
    let user = match api.auth.authenticate(peer, request.headers()).await {
        Ok(user) => user,
        Err(text) => return text_response(StatusCode::UNAUTHORIZED, text),
    };
    if let Err(text) = api.auth.authorize(&user, request.method(), request.uri().path()).await {
        return text_response(StatusCode::FORBIDDEN, text);
    }
    route(api, request).await
}

async fn route(api: Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    let get = request.method() == Method::GET;
    // WebSocket clients begin with GET, SPDY clients with POST.
    let post = request.method() == Method::POST;
    match parts.as_slice() {
        ["containerLogs", namespace, pod, container] if get => logs::serve(&api, namespace, pod, container, request.uri().query()).await,
        ["exec", namespace, pod, container] if get || post => streams::exec(&api, request, namespace, pod, container),
        ["attach", namespace, pod, container] if get || post => streams::attach(&api, request, namespace, pod, container),
        ["portForward", namespace, pod] if get || post => streams::port_forward(&api, request, namespace, pod),
        ["pods"] if get => json_response(&stats::pods(&api)),
        ["healthz"] if get => text_response(StatusCode::OK, "ok".into()),
        ["configz"] if get => json_response(&configz::configz(&api)),
        ["stats", "summary"] if get => json_response(&stats::summary(&api).await),
        ["metrics"] if get => metrics_response(metrics::own(&api)),
        ["metrics", "resource"] if get => metrics_response(metrics::resource(&api).await),
        ["metrics", "cadvisor"] if get => metrics_response(cadvisor::page(&api).await),
        ["metrics", "probes"] if get => metrics_response(metrics::probes(&api)),
        _ => text_response(StatusCode::NOT_FOUND, "404 page not found\n".into()),
    }
}

/// Percent-decoding of a query value; what is malformed stays as it is.
fn decode(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| value.get(at + 1..at + 3)).flatten().and_then(|it| u8::from_str_radix(it, 16).ok());
        match (bytes[at], hex) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn text_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn metrics_response(page: String) -> Response<Body> {
    let mut response = text_response(StatusCode::OK, page);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(knarr_api::exposition::CONTENT_TYPE));
    response
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
