//! Single HTTP requests to registries: TLS by the settings of each host, redirects, time limits. HTTP/1.1 only: layers come side by
//! side, each as fast as its own connection.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::config::{Registries, is_loopback};
use super::trouble::{Kind, Trouble};

/// Until a connection stands, for each address of a host.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Until the head of an answer is here. Registries that must fetch first (mirrors) take seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// A connection that serves nothing is closed: a node that is done pulling holds none.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Redirects of one request. Registries make one (to their storage), some proxies another.
const REDIRECTS_MAX: usize = 5;

/// Marks an answer that came from another origin than was asked: it does not speak for the registry.
#[derive(Clone, Copy)]
pub(crate) struct Foreign;

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

pub(crate) struct Transport {
    pub(crate) registries: Registries,
    /// By the file of authorities that they trust; `None`: the system's.
    clients: Mutex<HashMap<Option<PathBuf>, Http>>,
}

impl Transport {
    pub(crate) fn new(registries: Registries) -> Transport {
        Transport { registries, clients: Mutex::default() }
    }

    /// Sends a request and follows where it is sent. `Authorization` and what is posted (a refresh token) are for the host that was
    /// asked, and go to no other. An answer from elsewhere is marked as [`Foreign`].
    pub(crate) async fn send(&self, method: Method, url: &Uri, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>, Trouble> {
        let (mut method, mut body) = (method, body);
        let mut url = url.clone();
        let mut foreign = false;
        let mut headers = headers.clone();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("knarr/", env!("CARGO_PKG_VERSION"))));
        for _ in 0..=REDIRECTS_MAX {
            let mut response = self.once(&method, &url, &headers, body.clone()).await?;
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                if foreign {
                    response.extensions_mut().insert(Foreign);
                }
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|it| it.to_str().ok()).and_then(|it| resolve(&url, it));
            let Some(next) = next else {
                return Err(Trouble::new(Kind::Other, format!("it answered {status} without a location that can be followed")));
            };
            if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(Trouble::new(Kind::Other, format!("it redirects from https to {}, which is not followed", shown(&next))));
            }
            // RFC 9110 §15.4: what was posted is not posted again but for 307 and 308.
            if method == Method::POST && !matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
                method = Method::GET;
                body = Bytes::new();
            }
            if origin(&url) != origin(&next) {
                if !body.is_empty() {
                    let reason = format!("it redirects what was posted to {}, which is not followed", shown(&next));
                    return Err(Trouble::new(Kind::Other, reason));
                }
                foreign = true;
                headers.remove(AUTHORIZATION);
            }
            url = next;
        }
        Err(Trouble::new(Kind::Other, format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    async fn once(&self, method: &Method, url: &Uri, headers: &HeaderMap, body: Bytes) -> Result<Response<Incoming>, Trouble> {
        let host = url.authority().map_or("", http::uri::Authority::as_str);
        let client = self.client(host)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers.clone();
        match tokio::time::timeout(ANSWER_TIME_MAX, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::of_connection(&error, host)),
            Err(_) => {
                let seconds = ANSWER_TIME_MAX.as_secs();
                Err(Trouble::new(Kind::Transient(None), format!("{} did not answer within {seconds} s", shown(url))))
            }
        }
    }

    fn client(&self, host: &str) -> Result<Http, Trouble> {
        let ca_file = self.registries.of(host).and_then(|registry| registry.ca_file.clone());
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&ca_file) {
            return Ok(client.clone());
        }
        let client = build(ca_file.as_deref()).map_err(|reason| Trouble::new(Kind::Other, reason))?;
        clients.insert(ca_file, client.clone());
        Ok(client)
    }
}

fn build(ca_file: Option<&Path>) -> Result<Http, String> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let (added, _) = roots.add_parsable_certificates(authorities(path)?);
            if added == 0 {
                return Err(format!("{}: holds no certificate that can be used", path.display()));
            }
        }
        // A system without certificates still reaches plain registries and those with a ca-file of their own.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIME_MAX));
    tcp.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIME_MAX).build(connector))
}

/// The certificates of a PEM file.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("read the certificates in {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| fault(&error))?;
    if found.is_empty() { Err(fault(&"there is none (PEM is expected)")) } else { Ok(found) }
}

/// A URL without its query, which may carry signatures.
pub(crate) fn shown(url: &Uri) -> String {
    format!("{}://{}{}", url.scheme_str().unwrap_or_default(), url.authority().map_or("", |it| it.as_str()), url.path())
}

fn origin(url: &Uri) -> (Option<&str>, Option<&str>, u16) {
    let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
    (url.scheme_str(), url.host(), url.port_u16().unwrap_or(default))
}

/// Where a `Location` leads, seen from `base` (RFC 3986 §5.2, as far as servers use it).
pub(crate) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let absolute = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(dir, _)| dir);
        format!("{scheme}://{authority}{dir}/{location}")
    };
    absolute.parse::<Uri>().ok().filter(|url| url.authority().is_some_and(|it| !it.as_str().contains('@')))
}

/// Whether credentials may travel to `url` when they are meant for a registry that is reached by TLS or not.
pub(crate) fn is_private(url: &Uri) -> bool {
    url.scheme_str() == Some("https") || url.authority().is_some_and(|it| is_loopback(it.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://r.example/v2/a/blobs/x?y".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.example/b?sig=1#f", Some("https://cdn.example/b?sig=1")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("/v2/z", Some("https://r.example/v2/z")),
            ("z", Some("https://r.example/v2/a/blobs/z")),
            ("https://user:pass@cdn.example/b", None),
        ] {
            assert_eq!(resolve(&base, location).map(|it| it.to_string()).as_deref(), expected, "{location}");
        }
    }
}
