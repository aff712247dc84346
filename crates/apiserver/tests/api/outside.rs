//! Servers that the API server asks, on loopback: token issuers and webhooks, over TLS with an authority of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_apiserver::pki::{Pki, Sans};
use parking_lot::Mutex;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::AbortHandle};

type Answer = dyn Fn(&str, &Value) -> Option<Value> + Send + Sync;

/// Answers paths with JSON, or the code of a failure; what has no answer is a 404, and `true` one that never comes.
pub(crate) struct Outside {
    pub(crate) url: String,
    pub(crate) dir: TempDir,
    pub(crate) ca: String,
    asked: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Outside {
    pub(crate) async fn start(answer: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut sans = Sans::default();
        sans.add("127.0.0.1");
        let pki = Pki::open(&dir.path().join("pki"), &sans).unwrap();
        let identity = pki.issue_serving("outside", None, &sans).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(serve(listener, acceptor, Arc::new(answer), asked.clone())).abort_handle();
        Self { url, ca: pki.ca_pem().to_owned(), dir, asked, task }
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A kubeconfig for `path` of this server.
    pub(crate) fn kubeconfig(&self, path: &str) -> PathBuf {
        fs::write(self.dir.path().join("ca.pem"), &self.ca).unwrap();
        let file = self.dir.path().join("webhook.kubeconfig");
        let cluster = json!({"name": "c", "cluster": {"server": format!("{}{path}", self.url), "certificate-authority": "ca.pem"}});
        let context = json!({"name": "c", "context": {"cluster": "c", "user": ""}});
        write(&file, &json!({"current-context": "c", "clusters": [cluster], "contexts": [context]}));
        file
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Puts a new file in the place of the old, as editors and ConfigMaps do.
pub(crate) fn write(path: &Path, value: &Value) {
    let new = path.with_extension("new");
    fs::write(&new, value.to_string()).unwrap();
    fs::rename(new, path).unwrap();
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, answer: Arc<Answer>, asked: Arc<AtomicUsize>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, answer, asked) = (acceptor.clone(), answer.clone(), asked.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, asked) = (answer.clone(), asked.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    asked.fetch_add(1, Ordering::SeqCst);
                    let found = answer(&path, &serde_json::from_slice(&body).unwrap_or_default());
                    if found == Some(Value::Bool(true)) {
                        std::future::pending::<()>().await;
                    }
                    let (code, body) = match found {
                        None => (404, String::new()),
                        Some(Value::Number(code)) => (code.as_u64().unwrap() as u16, String::new()),
                        Some(value) => (200, value.to_string()),
                    };
                    Response::builder().status(code).body(Full::<Bytes>::from(body))
                }
            });
            // A client that is gone is no matter here.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A token issuer: its keys may change.
pub(crate) struct Issuer {
    pub(crate) server: Outside,
    keys: Arc<Mutex<Vec<(String, EcdsaKeyPair)>>>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let keys: Arc<Mutex<Vec<(String, EcdsaKeyPair)>>> = Arc::default();
        let (url, shown) = (Arc::new(Mutex::new(String::new())), keys.clone());
        let own = url.clone();
        let server = Outside::start(move |path, _| match path {
            "/.well-known/openid-configuration" => {
                let url = own.lock().clone();
                Some(json!({"issuer": url, "jwks_uri": format!("{url}/keys")}))
            }
            "/keys" => Some(json!({"keys": shown.lock().iter().map(|(id, key)| jwk(id, key)).collect::<Vec<_>>()})),
            _ => None,
        })
        .await;
        url.lock().clone_from(&server.url);
        let issuer = Self { server, keys };
        issuer.rotate("one");
        issuer
    }

    /// From now on tokens are signed with a new key, and the old is shown no more.
    pub(crate) fn rotate(&self, id: &str) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        *self.keys.lock() = vec![(id.to_owned(), pair)];
    }

    /// A token with these claims; issuer, audience `knarr` and an hour of life are added where they are not given.
    pub(crate) fn token(&self, mut claims: Value) -> String {
        let hour = jiff::Timestamp::now().as_second() + 3600;
        for (name, value) in [("iss", json!(self.server.url)), ("aud", json!("knarr")), ("exp", json!(hour))] {
            let claims = claims.as_object_mut().unwrap();
            claims.entry(name).or_insert(value);
        }
        let keys = self.keys.lock();
        let (id, pair) = &keys[0];
        let header = json!({"alg": "ES256", "kid": id}).to_string();
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn jwk(id: &str, key: &EcdsaKeyPair) -> Value {
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}
