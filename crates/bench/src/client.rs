//! The admin's way into the cluster: HTTPS with a client certificate, as any client library would come.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Outcome;

/// How long anything that is waited for may take.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(120);

pub(crate) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Client {
    pub(crate) fn from_kubeconfig(path: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(path).map_err(crate::fault("read", path))?;
        let field =
            |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": ")).ok_or(format!("no {name}"));
        let pem = |name: &str| STANDARD.decode(field(name)?).map_err(|error| format!("{name}: {error}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("certificate-authority-data")?) {
            let added = certificate.map_err(|error| error.to_string()).and_then(|one| roots.add(one).map_err(|error| error.to_string()));
            added.map_err(|error| format!("the cluster's certificate: {error}"))?;
        }
        let certificates = CertificateDer::pem_slice_iter(&pem("client-certificate-data")?).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(&pem("client-key-data")?).map_err(|error| format!("the client's key: {error}"))?;
        // The order of Go's crypto/tls on processors with AES, which is kubectl's.
        let mut provider = ring::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates.map_err(|error| format!("the client's certificate: {error}"))?, key)
            .map_err(|error| error.to_string())?;
        let server = field("server")?.trim_start_matches("https://");
        let address = server.parse().map_err(|error| format!("server {server}: {error}"))?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) fn host(&self) -> IpAddr {
        self.address.ip()
    }

    /// A connection on which nothing was said yet.
    pub(crate) async fn connect(&self) -> Outcome<TlsStream<TcpStream>> {
        let fault = |error: std::io::Error| format!("connect to {}: {error}", self.address);
        let stream = TcpStream::connect(self.address).await.map_err(fault)?;
        stream.set_nodelay(true).map_err(fault)?;
        self.tls.connect(ServerName::from(self.address.ip()), stream).await.map_err(fault)
    }

    /// A connection for one request after the other.
    pub(crate) async fn session(&self) -> Outcome<Session> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| error.to_string())?;
        // Ends with the sender; what goes wrong on it, the request that is under way says.
        tokio::spawn(connection);
        Ok(Session { sender, host: self.address })
    }

    /// The events of a watch, on a connection of its own.
    pub(crate) async fn watch(&self, path: &str) -> Outcome<Events> {
        let mut session = self.session().await?;
        let response = session.request(Method::GET, path, None).await?;
        Ok(Events { _session: session, body: response.into_body(), rest: Vec::new() })
    }
}

pub(crate) struct Session {
    sender: SendRequest<Full<Bytes>>,
    host: SocketAddr,
}

impl Session {
    pub(crate) async fn get(&mut self, path: &str) -> Outcome<Value> {
        self.send(Method::GET, path, None).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Outcome<Value> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&mut self, path: &str, body: &Value) -> Outcome<Value> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Outcome<Value> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Value> {
        let response = self.request(method, path, body).await?;
        let bytes = response.into_body().collect().await.map_err(|error| format!("{path}: {error}"))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| format!("{path}: {error}"))
    }

    async fn request(&mut self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Response<Incoming>> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder().method(&method).uri(path).header("host", self.host.to_string());
        let request = request.header("content-type", "application/json").header("accept", "application/json").body(Full::new(bytes));
        let request = request.map_err(|error| format!("{method} {path}: {error}"))?;
        let fault = |error: &dyn std::fmt::Display| format!("{method} {path}: {error}");
        self.sender.ready().await.map_err(|error| fault(&error))?;
        let response = self.sender.send_request(request).await.map_err(|error| fault(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| fault(&error))?.to_bytes();
        Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&bytes)))
    }
}

pub(crate) struct Events {
    /// The connection lives as long as its sender.
    _session: Session,
    body: Incoming,
    /// What came of an event that is not whole yet.
    rest: Vec<u8>,
}

impl Events {
    /// The next event. Bookmarks are events too.
    pub(crate) async fn next(&mut self) -> Outcome<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| format!("an event: {error}"));
            }
            let frame = tokio::time::timeout(TIME_MAX, self.body.frame()).await.map_err(|_| "no event for too long".to_owned())?;
            let frame = frame.ok_or("the watch ended")?.map_err(|error| format!("watch: {error}"))?;
            self.rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// Events until one is as wanted; its object.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&str, &Value) -> bool) -> Outcome<Value> {
        loop {
            let mut event = self.next().await?;
            let object = event["object"].take();
            if wanted(event["type"].as_str().unwrap_or_default(), &object) {
                return Ok(object);
            }
        }
    }
}
