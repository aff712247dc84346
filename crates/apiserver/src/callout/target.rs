//! Whom a call goes to, how it is known, and the connections to it that are kept.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use rustls::client::ResolvesClientCert;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::{
    identity::{Identity, Looks},
    server_name, service_host, trust,
};

/// Connections kept to one target. Go's client, which webhooks are used to, keeps as many (client-go, transport/cache.go, idleConnsPerHost).
const KEPT_MAX: usize = 25;
/// Older ones are not used again: what is between us and the target may have forgotten them. Upstream's transport has the same.
const KEPT_TIME_MAX: Duration = Duration::from_secs(90);
const SERVICE_PORT: u16 = 443;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// `field` is where in the configuration.
    #[error("{field}: {why}")]
    Field { field: String, why: String },
}

pub(super) fn field(field: impl Into<String>, why: impl ToString) -> ConfigError {
    ConfigError::Field { field: field.into(), why: why.to_string() }
}

pub(super) enum Place {
    Host { host: String, port: u16 },
    Service { namespace: String, name: String, port: u16 },
}

/// How the target is known, and how it knows us.
#[derive(Default)]
pub(crate) struct Trust<'a> {
    /// PEM; without it the authorities of this machine are trusted.
    pub(crate) authorities: Option<&'a [u8]>,
    pub(crate) insecure: bool,
    pub(crate) identity: Option<Arc<dyn ResolvesClientCert>>,
}

pub(super) enum Authorization {
    None,
    Given(HeaderValue),
    File(TokenFile),
}

pub(crate) struct Target {
    pub(super) place: Place,
    /// Begins with a slash.
    path: String,
    pub(super) tls: TlsConnector,
    pub(super) server_name: ServerName<'static>,
    pub(super) authorization: Authorization,
    /// Of files, which may change.
    identity: Option<Arc<Identity>>,
    pub(super) kept: Kept,
}

impl Target {
    /// Of a `WebhookClientConfig` of admissionregistration or apiextensions.
    pub(crate) fn from_client_config(config: &Value) -> Result<Self, ConfigError> {
        let bundle = match config["caBundle"].as_str().filter(|text| !text.is_empty()) {
            Some(text) => {
                Some(base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| field("clientConfig.caBundle", error))?)
            }
            None => None,
        };
        let trust = Trust { authorities: bundle.as_deref(), ..Trust::default() };
        if let Some(url) = config["url"].as_str() {
            return Self::of_url(url, "clientConfig.url", trust);
        }
        let service = &config["service"];
        let text = |key: &str| service[key].as_str().unwrap_or_default();
        if text("name").is_empty() {
            return Err(field("clientConfig", "must define a url or a service"));
        }
        let port =
            service["port"].as_u64().map_or(Ok(SERVICE_PORT), u16::try_from).map_err(|error| field("clientConfig.service.port", error))?;
        Self::of_service(text("namespace"), text("name"), port, text("path"), trust)
    }

    /// `path` may be empty, and may lack its slash.
    pub(crate) fn of_service(namespace: &str, name: &str, port: u16, path: &str, trust: Trust<'_>) -> Result<Self, ConfigError> {
        let host = service_host(namespace, name);
        let server_name = server_name(&host).ok_or_else(|| field("service.name", format!("{host} is no host name")))?;
        let place = Place::Service { namespace: namespace.to_owned(), name: name.to_owned(), port };
        Self::new(place, path, server_name, trust)
    }

    /// `at` is what the URL's field is called.
    pub(crate) fn of_url(url: &str, at: &str, trust: Trust<'_>) -> Result<Self, ConfigError> {
        let uri: Uri = url.parse().map_err(|error| field(at, format!("{url}: {error}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(field(at, format!("{url}: only https is called")));
        }
        let host = uri.host().unwrap_or_default();
        let server_name = server_name(host).ok_or_else(|| field(at, format!("{host} is no host")))?;
        let place = Place::Host { host: host.trim_matches(['[', ']']).to_owned(), port: uri.port_u16().unwrap_or(443) };
        Self::new(place, uri.path(), server_name, trust)
    }

    fn new(place: Place, path: &str, server_name: ServerName<'static>, trust: Trust<'_>) -> Result<Self, ConfigError> {
        let path = format!("/{}", path.trim_start_matches('/'));
        path.parse::<Uri>().map_err(|error| field("service.path", format!("{path}: {error}")))?;
        let tls = TlsConnector::from(Arc::new(trust::client_config(trust)?));
        Ok(Self { place, path, tls, server_name, authorization: Authorization::None, identity: None, kept: Kept::default() })
    }

    /// The name to expect in the certificate, where it is not that of the URL.
    pub(super) fn with_server_name(mut self, name: &str, at: &str) -> Result<Self, ConfigError> {
        self.server_name = server_name(name).ok_or_else(|| field(at, format!("{name} is no host name")))?;
        Ok(self)
    }

    pub(super) fn with_authorization(mut self, authorization: Authorization) -> Self {
        self.authorization = authorization;
        self
    }

    pub(super) fn with_identity(mut self, identity: Option<Arc<Identity>>) -> Self {
        self.identity = identity;
        self
    }

    /// Takes note of a changed certificate: connections under the old one are not used again. What era of connections it is now.
    pub(super) async fn refresh(&self) -> Era {
        let Some(identity) = &self.identity else { return Era::default() };
        let era = identity.refresh().await;
        self.kept.begin(era);
        era
    }

    /// Host and port, as URLs have them.
    pub(super) fn authority(&self) -> String {
        match &self.place {
            Place::Host { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Host { host, port } => format!("{host}:{port}"),
            Place::Service { namespace, name, port } => format!("{}:{port}", service_host(namespace, name)),
        }
    }

    pub(crate) fn host(&self) -> HeaderValue {
        HeaderValue::try_from(self.authority()).unwrap_or_else(|_| HeaderValue::from_static("webhook"))
    }

    pub(super) fn path(&self, query: &str) -> Uri {
        let path = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        path.parse().unwrap_or_else(|_| Uri::from_static("/"))
    }

    /// For messages.
    pub(super) fn url(&self, query: &str) -> String {
        format!("https://{}{}", self.authority(), self.path(query))
    }

    /// The error names the file.
    pub(super) async fn authorization(&self) -> Result<Option<HeaderValue>, (String, io::Error)> {
        match &self.authorization {
            Authorization::None => Ok(None),
            Authorization::Given(value) => Ok(Some(value.clone())),
            Authorization::File(file) => file.read().await.map(Some).map_err(|error| (file.path.display().to_string(), error)),
        }
    }
}

/// A bearer token that someone renews. As with the files of a certificate, one that cannot be read holds one thread.
pub(super) struct TokenFile {
    path: PathBuf,
    /// What the last look found; nothing before the first.
    token: Arc<Mutex<Option<io::Result<HeaderValue>>>>,
    looks: Looks,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, token: Arc::default(), looks: Looks::default() }
    }

    async fn read(&self) -> io::Result<HeaderValue> {
        let (path, token) = (self.path.clone(), self.token.clone());
        let look = move || {
            let read = fs::read_to_string(path).and_then(|text| bearer(text.trim()).ok_or_else(|| io::Error::other("holds no token")));
            *token.lock() = Some(read);
        };
        self.looks.share(look).await?;
        match &*self.token.lock() {
            Some(Ok(token)) => Ok(token.clone()),
            // Errors are not for sharing, but what they say is.
            Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Err(io::Error::other("was not read")),
        }
    }
}

pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

/// Connections that wait for the next call.
#[derive(Default)]
pub(super) struct Kept(Mutex<Idle>);

#[derive(Default)]
struct Idle {
    era: Era,
    senders: Vec<(SendRequest<Full<Bytes>>, Instant)>,
}

/// Counts the certificates under which connections were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Era(pub(super) u64);

impl Kept {
    /// The one used last: others may then grow old and go.
    pub(super) fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let senders = &mut self.0.lock().senders;
        senders.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < KEPT_TIME_MAX);
        // Not ready is one whose last answer is not quite over.
        let at = senders.iter().rposition(|(sender, _)| sender.is_ready())?;
        Some(senders.remove(at).0)
    }

    /// Ends the eras before this one.
    fn begin(&self, era: Era) {
        let mut idle = self.0.lock();
        if idle.era < era {
            *idle = Idle { era, senders: Vec::new() };
        }
    }

    /// Keeps a connection of `era`, unless that has ended.
    pub(super) fn put(&self, sender: SendRequest<Full<Bytes>>, era: Era) {
        let mut idle = self.0.lock();
        if idle.era != era {
            return;
        }
        if idle.senders.len() == KEPT_MAX {
            idle.senders.remove(0);
        }
        idle.senders.push((sender, Instant::now()));
    }
}
