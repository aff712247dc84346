//! The cluster's certificates and keys.
//!
//! One directory (`<data-dir>/pki`, mode 0700, every file 0600) holds the cluster certificate authority, the authority of the
//! front proxy, the API server's serving certificate, the key that signs service-account tokens, and the cluster's uid.
//! What is missing is made at start; what is there is kept. Certificates renew when a third of their life is left, while
//! the server runs: new handshakes see the new certificate, open connections keep theirs.

mod authority;
pub(crate) mod files;
mod request;
mod serving;
mod token_key;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use authority::Authority;
pub use authority::Identity;
pub(crate) use request::{from_pem as request_from_pem, parse as parse_request};
use serving::{Serving, Subject};
pub(crate) use token_key::TokenKeys;

/// Life of the admin's certificate in the kubeconfig. It is renewed at each start that finds less than a third left.
const ADMIN_DAYS: i64 = 365;
/// Life of the certificates that components use; issued anew at each start.
const CLIENT_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("make key directory {path}")]
    MakeDir { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} is missing, but {other} is there; restore it from a backup, or remove both to make a new authority (all clients then need new credentials)"
    )]
    Half { path: PathBuf, other: PathBuf },
    #[error("parse {path}: {reason}; restore it from a backup")]
    Parse { path: PathBuf, reason: String },
    #[error("issue certificate for {subject}")]
    Issue { subject: String, source: rcgen::Error },
    #[error("sign a certificate request: {reason}")]
    Request { reason: String },
    #[error("configure TLS: {reason}")]
    Tls { reason: String },
    #[error("generate key")]
    Generate,
}

/// Names and addresses that a serving certificate is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sans {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Sans {
    /// What every API server answers to: localhost, the in-cluster names under `domain`, and the first service address.
    pub fn api_server(domain: &str, service_address: IpAddr, node_name: &str) -> Sans {
        let mut sans = Sans::default();
        for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", node_name] {
            sans.add_name(name);
        }
        sans.add_name(&format!("kubernetes.default.svc.{domain}"));
        sans.add_address(IpAddr::from([127, 0, 0, 1]));
        sans.add_address(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        sans.add_address(service_address);
        sans
    }

    pub fn add_name(&mut self, name: &str) {
        if !name.is_empty() && !self.names.iter().any(|have| have == name) {
            self.names.push(name.to_owned());
        }
    }

    pub fn add_address(&mut self, address: IpAddr) {
        if !address.is_unspecified() && !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
    }

    /// Adds a name or an address, whichever `text` is.
    pub fn add(&mut self, text: &str) {
        match text.parse() {
            Ok(address) => self.add_address(address),
            Err(_) => self.add_name(text),
        }
    }

    fn covers(&self, other: &Sans) -> bool {
        other.names.iter().all(|name| self.names.contains(name)) && other.addresses.iter().all(|address| self.addresses.contains(address))
    }
}

/// The open key directory. Cheap to clone.
#[derive(Clone)]
pub struct Pki {
    inner: Arc<Inner>,
}

struct Inner {
    cluster_uid: String,
    ca: Authority,
    front_proxy: Authority,
    token_keys: Arc<TokenKeys>,
    serving: Arc<Serving>,
    /// The names that the serving certificate must have; its lock also lets one renewal run at a time.
    sans: Mutex<Sans>,
}

impl Pki {
    /// Opens the directory, making what is missing. A serving certificate that lacks one of `sans`, or is near its end, is
    /// replaced.
    pub fn open(dir: &Path, sans: &Sans) -> Result<Pki, PkiError> {
        files::make_dir(dir)?;
        let now = Timestamp::now();
        let cluster_uid = cluster_uid(dir)?;
        let ca = Authority::open(dir, "ca", "knarr-ca", now)?;
        let front_proxy = Authority::open(dir, "front-proxy-ca", "knarr-front-proxy-ca", now)?;
        let token_keys = Arc::new(TokenKeys::open(dir)?);
        let subject = Subject { cn: "kube-apiserver".to_owned(), org: None, dir: Some(dir.to_owned()) };
        let serving = Arc::new(Serving::open(subject, &ca, sans, now)?);
        let inner = Inner { cluster_uid, ca, front_proxy, token_keys, serving, sans: Mutex::new(sans.clone()) };
        Ok(Pki { inner: Arc::new(inner) })
    }

    /// A random UUID, made with the cluster and kept for its life.
    pub fn cluster_uid(&self) -> &str {
        &self.inner.cluster_uid
    }

    /// The first 8 hexadecimal digits of the cluster's uid; part of the name of everything that the cluster makes on a host.
    pub fn cluster_id(&self) -> &str {
        &self.inner.cluster_uid[..8]
    }

    /// The certificate of the cluster's authority, PEM; what `kube-root-ca.crt` holds.
    pub fn ca_pem(&self) -> &str {
        self.inner.ca.pem()
    }

    /// The certificate of the front proxy's authority, PEM.
    pub fn front_proxy_ca_pem(&self) -> &str {
        self.inner.front_proxy.pem()
    }

    pub fn ca_der(&self) -> &CertificateDer<'static> {
        self.inner.ca.der()
    }

    /// What decides whether a client certificate is of this cluster.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        verifier([self.ca_der().clone()])
    }

    /// What decides whether a client certificate is an authenticating proxy's: by the authorities in PEM, or the cluster's own for front proxies.
    pub(crate) fn proxy_verifier(&self, authorities: Option<&str>) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        let Some(pem) = authorities else { return verifier([self.inner.front_proxy.der().clone()]) };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let certificates = certificates.map_err(|error| PkiError::Tls { reason: format!("authorities of the proxies: {error}") })?;
        verifier(certificates)
    }

    /// TLS for the listener: the serving certificate of the moment; client certificates of the cluster's authority are
    /// verified, none is needed. The caller sets the application protocols (ALPN).
    pub fn server_config(&self) -> Result<ServerConfig, PkiError> {
        self.server_config_with(self.client_verifier()?)
    }

    /// The same, with the caller's judgement of client certificates.
    pub fn server_config_with(&self, verifier: Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, PkiError> {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| PkiError::Tls { reason: error.to_string() })?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.inner.serving.clone());
        Ok(config)
    }

    /// A serving certificate for the kubelet of `node`, kept in memory only: each start issues a new one.
    pub fn node_serving(&self, node: &str, sans: &Sans) -> Result<Arc<NodeServing>, PkiError> {
        self.node_serving_from(node, sans, Timestamp::now())
    }

    fn node_serving_from(&self, node: &str, sans: &Sans, now: Timestamp) -> Result<Arc<NodeServing>, PkiError> {
        let subject = Subject { cn: format!("system:node:{node}"), org: Some("system:nodes"), dir: None };
        let serving = Arc::new(Serving::open(subject, &self.inner.ca, sans, now)?);
        Ok(Arc::new(NodeServing { pki: self.clone(), serving, sans: Mutex::new(sans.clone()) }))
    }

    /// Renews the API server's certificate as time goes by; ends only when dropped.
    pub async fn keep(&self) {
        serving::keep("API server", || self.renew_at(), |now| self.renew(now)).await;
    }

    /// Replaces the names of the serving certificate (the host's addresses changed). A certificate that has them all is kept.
    pub fn set_sans(&self, sans: &Sans) -> Result<(), PkiError> {
        let mut current = self.inner.sans.lock();
        *current = sans.clone();
        self.inner.serving.refresh(&self.inner.ca, &current, Timestamp::now())
    }

    /// Renews the serving certificate if its time has come. Call at [`Pki::renew_at`].
    pub fn renew(&self, now: Timestamp) -> Result<(), PkiError> {
        let current = self.inner.sans.lock();
        self.inner.serving.refresh(&self.inner.ca, &current, now)
    }

    /// When the serving certificate has a third of its life left.
    pub fn renew_at(&self) -> Timestamp {
        self.inner.serving.renew_at()
    }

    /// A client certificate: user `cn` in the group `org`.
    pub fn issue_client(&self, cn: &str, org: Option<&str>) -> Result<Identity, PkiError> {
        self.inner.ca.issue(cn, org, authority::Usage::Client, &Sans::default(), CLIENT_DAYS, Timestamp::now())
    }

    /// A serving certificate, as a kubelet needs one for its HTTPS endpoint.
    pub fn issue_serving(&self, cn: &str, org: Option<&str>, sans: &Sans) -> Result<Identity, PkiError> {
        self.inner.ca.issue(cn, org, authority::Usage::Server, sans, CLIENT_DAYS, Timestamp::now())
    }

    /// Signs a request (PKCS #10 in PEM) with the cluster's authority: its subject, key and alternative names as they are, for `usages` as the
    /// API names them, for so many seconds, a year at most and where none are given. Whether the requester may have it is the caller's question.
    pub fn sign_request(&self, pem: &[u8], usages: &[&str], seconds: Option<i64>) -> Result<String, PkiError> {
        self.inner.ca.sign_request(pem, usages, seconds, Timestamp::now())
    }

    /// The certificate that the API server shows to aggregated API servers.
    pub fn issue_front_proxy_client(&self) -> Result<Identity, PkiError> {
        let now = Timestamp::now();
        self.inner.front_proxy.issue("front-proxy-client", None, authority::Usage::Client, &Sans::default(), CLIENT_DAYS, now)
    }

    pub(crate) fn token_keys(&self) -> &Arc<TokenKeys> {
        &self.inner.token_keys
    }

    /// A kubeconfig for `user` with the credentials inside, for the server at `url`.
    pub fn kubeconfig(&self, cluster: &str, user: &str, url: &str, identity: &Identity) -> String {
        let ca = STANDARD.encode(self.ca_pem());
        let certificate = STANDARD.encode(&identity.certificate_pem);
        let key = STANDARD.encode(&identity.key_pem);
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: {cluster}\n  cluster:\n    certificate-authority-data: {ca}\n    server: {url}\n\
             contexts:\n\
             - name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\n\
             current-context: {cluster}\n\
             users:\n\
             - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }

    /// Writes the admin's kubeconfig (mode 0600) to `path` for the server at `url`. One that is still good is left alone,
    /// so that tools which hold it open see no change.
    pub fn write_admin_kubeconfig(&self, path: &Path, url: &str) -> Result<(), PkiError> {
        if let Some(text) = files::read(path)?
            && self.kubeconfig_is_good(&text, url, Timestamp::now())
        {
            return Ok(());
        }
        let now = Timestamp::now();
        let org = Some(crate::auth::GROUP_MASTERS);
        let identity = self.inner.ca.issue("kubernetes-admin", org, authority::Usage::Client, &Sans::default(), ADMIN_DAYS, now)?;
        files::write(path, &self.kubeconfig("knarr", "kubernetes-admin", url, &identity))
    }

    fn kubeconfig_is_good(&self, text: &str, url: &str, now: Timestamp) -> bool {
        let field = |name: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim);
        let good = || {
            let certificate = STANDARD.decode(field("client-certificate-data:")?).ok()?;
            let life = authority::life_of_pem(std::str::from_utf8(&certificate).ok()?)?;
            let ca = STANDARD.encode(self.ca_pem());
            Some(field("server:")? == url && field("certificate-authority-data:")? == ca && now < life.renew_at() && now >= life.from)
        };
        good().unwrap_or(false)
    }
}

/// The serving certificate of a node's kubelet.
pub struct NodeServing {
    pki: Pki,
    serving: Arc<Serving>,
    /// As [`Inner::sans`].
    sans: Mutex<Sans>,
}

impl NodeServing {
    /// Gives each handshake the certificate of the moment.
    pub fn resolver(&self) -> Arc<dyn rustls::server::ResolvesServerCert> {
        self.serving.clone()
    }

    /// Replaces the names (the node's addresses changed). A certificate that has them all is kept.
    pub fn set_sans(&self, sans: &Sans) -> Result<(), PkiError> {
        let mut current = self.sans.lock();
        *current = sans.clone();
        self.serving.refresh(&self.pki.inner.ca, &current, Timestamp::now())
    }

    /// Renews the certificate as time goes by; ends only when dropped.
    pub async fn keep(&self) {
        let renew = |now| self.serving.refresh(&self.pki.inner.ca, &self.sans.lock(), now);
        serving::keep("kubelet", || self.serving.renew_at(), renew).await;
    }
}

fn verifier(authorities: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = |error: &dyn std::fmt::Display| PkiError::Tls { reason: error.to_string() };
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| tls(&error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated().build().map_err(|error| tls(&error))
}

/// The cluster's uid in a key directory, made on first use. For those who need the name of the cluster without its server.
pub fn cluster_uid(dir: &Path) -> Result<String, PkiError> {
    files::make_dir(dir)?;
    let path = dir.join("cluster-uid");
    match files::read(&path)? {
        Some(text) => match uuid::Uuid::parse_str(text.trim()) {
            Ok(uid) => Ok(uid.to_string()),
            Err(error) => Err(PkiError::Parse { path, reason: error.to_string() }),
        },
        None => {
            let uid = uuid::Uuid::new_v4().to_string();
            files::write(&path, &format!("{uid}\n"))?;
            Ok(uid)
        }
    }
}

#[cfg(test)]
mod tests;
