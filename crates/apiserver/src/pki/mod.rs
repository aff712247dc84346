//! The cluster's certificates and keys.
//!
//! One directory (`<data-dir>/pki`, mode 0700, every file 0600) holds the cluster certificate authority, the authority of the
//! front proxy, the API server's serving certificate, the key that signs service-account tokens, and the cluster's uid.
//! What is missing is made at start; what is there is kept. All but the authorities renew when a third of their life is left, while
//! the server runs: new handshakes see the new certificate, open connections keep theirs.

mod authority;
mod certificate;
pub(crate) mod files;
mod kubeconfig;
mod renewal;
mod request;
mod sans;
mod token_key;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub use authority::Identity;
use authority::{Authority, Usage};
pub use certificate::Certificate;
use certificate::Subject;
pub(crate) use certificate::{common_name, organizations};
use kubeconfig::AdminKubeconfig;
use renewal::Renewals;
pub use renewal::{Listed, Renewed, survey};
pub(crate) use request::{from_pem as request_from_pem, parse as parse_request};
pub use sans::Sans;
pub(crate) use token_key::TokenKeys;
pub use token_key::{KEY_SET_SECONDS, KeyUse, ListedKey, Turnover};

const FRONT_PROXY_NAME: &str = "front-proxy-client";
/// Life of what is issued for others.
const ISSUED_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("make key directory {path}")]
    MakeDir { path: PathBuf, source: io::Error },
    /// It serves, and is lost with the process.
    #[error("the new certificate is shown, but not kept yet, which is tried again every minute while Knarr runs")]
    Unkept { source: Box<PkiError> },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} is missing, but {other} is there; restore it from a backup, or remove both to make a new authority (all clients then need new credentials)"
    )]
    Half { path: PathBuf, other: PathBuf },
    #[error("leave {path} as it is: {reason}")]
    Left { path: PathBuf, reason: &'static str },
    #[error(
        "the authority {path} is good from {from} to {until} only, so that nobody would believe what it issues; set the clock right if it is wrong, else stop Knarr, move {path} and its .key away and start it again: that makes a new authority (all clients then need new credentials)"
    )]
    Ended { path: PathBuf, from: Timestamp, until: Timestamp },
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
    #[error(
        "{count} keys for tokens are kept already; `knarr tokens forget` drops those from before the one that signs, and with them the tokens that they signed, a day and a half after the last rotation or with --force"
    )]
    TokenKeys { count: usize },
    #[error(
        "a new key for tokens is published and signs from {from} on, the key before it until then: wait, or sign with another new one at once with `knarr tokens rotate --now`"
    )]
    KeyWaits { from: Timestamp },
    #[error(
        "new tokens are signed with the newest key since {since} only, and pods have tokens of it within a day: wait until {until}, or end the tokens of older keys at once with `knarr tokens forget --force`"
    )]
    YoungKey { since: Timestamp, until: Timestamp },
}

/// The open key directory. Cheap to clone.
#[derive(Clone)]
pub struct Pki {
    inner: Arc<Inner>,
}

struct Inner {
    cluster_uid: String,
    ca: Arc<Authority>,
    front_proxy: Arc<Authority>,
    token_keys: Arc<TokenKeys>,
    serving: Arc<Certificate>,
    /// What renews itself, the serving certificate first.
    renewals: Renewals,
}

impl Pki {
    /// Opens the directory, making what is missing. A serving certificate that lacks one of `sans`, or is near its end, is
    /// replaced.
    pub fn open(dir: &Path, sans: &Sans) -> Result<Pki, PkiError> {
        Self::open_at(dir, sans, Timestamp::now())
    }

    fn open_at(dir: &Path, sans: &Sans, now: Timestamp) -> Result<Pki, PkiError> {
        files::make_dir(dir)?;
        let cluster_uid = cluster_uid(dir)?;
        let ca = Arc::new(Authority::open(dir, renewal::CLUSTER_AUTHORITY.0, "knarr-ca", now)?);
        let front_proxy = Arc::new(Authority::open(dir, renewal::FRONT_PROXY_AUTHORITY.0, "knarr-front-proxy-ca", now)?);
        let token_keys = Arc::new(TokenKeys::open(dir, now)?);
        let (name, used_by) = renewal::SERVING;
        let (cn, dir) = ("kube-apiserver".to_owned(), Some(dir.to_owned()));
        let subject = Subject { name, used_by, cn, org: None, usage: Usage::Server, dir };
        let serving = Arc::new(Certificate::open(subject, ca.clone(), sans, now)?);
        let renewals = Renewals::default();
        renewals.add(serving.clone());
        Ok(Pki { inner: Arc::new(Inner { cluster_uid, ca, front_proxy, token_keys, serving, renewals }) })
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
    pub fn node_serving(&self, node: &str, sans: &Sans) -> Result<Arc<Certificate>, PkiError> {
        let (name, used_by) = ("kubelet", "the kubelet, to the API server");
        let (cn, org, usage) = (format!("system:node:{node}"), Some("system:nodes"), Usage::Server);
        self.renewing(Subject { name, used_by, cn, org, usage, dir: None }, &self.inner.ca, sans, Timestamp::now())
    }

    /// What the API server shows to kubelets as the user `cn`.
    pub(crate) fn kubelet_client(&self, cn: &str) -> Result<Arc<Certificate>, PkiError> {
        let (name, used_by, usage) = ("apiserver-kubelet-client", "the API server, to kubelets", Usage::Client);
        let subject = Subject { name, used_by, cn: cn.to_owned(), org: None, usage, dir: None };
        self.renewing(subject, &self.inner.ca, &Sans::default(), Timestamp::now())
    }

    /// What the API server shows to aggregated API servers.
    pub(crate) fn front_proxy_client(&self) -> Result<Arc<Certificate>, PkiError> {
        let (name, used_by) = (FRONT_PROXY_NAME, "the API server, to extension API servers");
        let subject = Subject { name, used_by, cn: name.to_owned(), org: None, usage: Usage::Client, dir: None };
        self.renewing(subject, &self.inner.front_proxy, &Sans::default(), Timestamp::now())
    }

    fn renewing(&self, subject: Subject, authority: &Arc<Authority>, sans: &Sans, now: Timestamp) -> Result<Arc<Certificate>, PkiError> {
        let certificate = Arc::new(Certificate::open(subject, authority.clone(), sans, now)?);
        self.inner.renewals.add(certificate.clone());
        Ok(certificate)
    }

    /// Renews all certificates that the process shows, and the administrator's, as time goes by; ends only when dropped.
    pub async fn keep(&self) {
        self.inner.renewals.keep().await;
    }

    /// The serving certificate of the API server.
    pub fn serving(&self) -> &Arc<Certificate> {
        &self.inner.serving
    }

    /// Every certificate of this cluster that this process knows of, authorities first.
    pub fn list(&self) -> Vec<Listed> {
        let authorities = [self.inner.ca.list(renewal::CLUSTER_AUTHORITY), self.inner.front_proxy.list(renewal::FRONT_PROXY_AUTHORITY)];
        authorities.into_iter().chain(self.inner.renewals.list()).collect()
    }

    /// Renews the certificate of that name now, or all that renew.
    pub fn renew(&self, name: Option<&str>) -> Renewed {
        self.inner.renewals.renew(name)
    }

    /// The keys of service account tokens; the first signs.
    pub fn list_token_keys(&self) -> Vec<ListedKey> {
        self.inner.token_keys.list(Timestamp::now())
    }

    /// Publishes a new key that signs tokens, then or at once. Those that the old keys signed stay good, and keys that signed none which lives are
    /// dropped.
    pub fn rotate_token_key(&self, turnover: Turnover) -> Result<ListedKey, PkiError> {
        self.inner.token_keys.rotate(turnover, Timestamp::now())
    }

    /// Forgets the keys that no longer sign; their ids. Tokens that they signed are refused from now on: while pods may still have such, only
    /// if `forced`.
    pub fn forget_token_keys(&self, forced: bool) -> Result<Vec<String>, PkiError> {
        self.inner.token_keys.forget(Timestamp::now(), forced)
    }

    /// A client certificate: user `cn` in the group `org`.
    pub fn issue_client(&self, cn: &str, org: Option<&str>) -> Result<Identity, PkiError> {
        self.inner.ca.issue(cn, org, Usage::Client, &Sans::default(), ISSUED_DAYS, Timestamp::now())
    }

    /// A serving certificate, as a kubelet needs one for its HTTPS endpoint.
    pub fn issue_serving(&self, cn: &str, org: Option<&str>, sans: &Sans) -> Result<Identity, PkiError> {
        self.inner.ca.issue(cn, org, Usage::Server, sans, ISSUED_DAYS, Timestamp::now())
    }

    /// Signs a request (PKCS #10 in PEM) with the cluster's authority: its subject, key and alternative names as they are, for `usages` as the
    /// API names them, for so many seconds, a year at most and where none are given. Whether the requester may have it is the caller's question.
    pub fn sign_request(&self, pem: &[u8], usages: &[&str], seconds: Option<i64>) -> Result<String, PkiError> {
        self.inner.ca.sign_request(pem, usages, seconds, Timestamp::now())
    }

    /// A certificate by which extension API servers, and this one, know a front proxy.
    pub fn issue_front_proxy_client(&self) -> Result<Identity, PkiError> {
        let now = Timestamp::now();
        self.inner.front_proxy.issue(FRONT_PROXY_NAME, None, Usage::Client, &Sans::default(), ISSUED_DAYS, now)
    }

    pub(crate) fn token_keys(&self) -> &Arc<TokenKeys> {
        &self.inner.token_keys
    }

    /// Writes the admin's kubeconfig (mode 0600) to `path` for the server at `url`, and renews it as the certificates. One that is still
    /// good is left alone, so that tools which hold it open see no change.
    pub fn write_admin_kubeconfig(&self, path: &Path, url: &str) -> Result<(), PkiError> {
        let kubeconfig = AdminKubeconfig::open(path.to_owned(), url.to_owned(), self.inner.ca.clone(), Timestamp::now())?;
        self.inner.renewals.add(Arc::new(kubeconfig));
        Ok(())
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
