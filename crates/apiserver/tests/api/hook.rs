//! A webhook: a real server over TLS whose answers the test gives.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_apiserver::pki::Sans;
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use crate::kit::Cluster;

/// From the path that was called and the review to the answer: a whole body, or none for no answer at all.
type Answer = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;

pub(crate) struct Hook {
    pub(crate) port: u16,
    bundle: String,
    seen: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// Its certificate is for loopback and for the service `hook` in `default`.
    pub(crate) async fn start(cluster: &Cluster, answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let mut sans = Sans::default();
        sans.add("127.0.0.1");
        sans.add("hook.default.svc");
        let identity = cluster.server.pki().issue_serving("hook", None, &sans).expect("a certificate");
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .expect("a TLS configuration");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let (seen, answer): (Arc<Mutex<Vec<Value>>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        let service = service_fn(move |request| serve(request, seen.clone(), answer.clone()));
                        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                    });
                }
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(cluster.server.pki().ca_pem());
        Self { port, bundle, seen, task }
    }

    pub(crate) fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle})
    }

    pub(crate) fn service_config(&self, path: &str) -> Value {
        json!({"service": {"namespace": "default", "name": "hook", "path": path}, "caBundle": self.bundle})
    }

    /// The bodies of the requests so far, which are forgotten.
    pub(crate) fn seen(&self) -> Vec<Value> {
        std::mem::take(&mut self.seen.lock())
    }
}

async fn serve(request: Request<Incoming>, seen: Arc<Mutex<Vec<Value>>>, answer: Arc<Answer>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let bytes = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    seen.lock().push(review.clone());
    match answer(&path, &review) {
        Some(answer) => Ok(Response::new(answer.to_string().into())),
        None => std::future::pending().await,
    }
}

/// An AdmissionReview with a response for `review`.
pub(crate) fn respond(review: &Value, mut response: Value) -> Option<Value> {
    response["uid"] = review["request"]["uid"].clone();
    Some(json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}))
}

pub(crate) fn allow(review: &Value) -> Option<Value> {
    respond(review, json!({"allowed": true}))
}

pub(crate) fn patch(review: &Value, operations: Value) -> Option<Value> {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    respond(review, json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}
