//! One repository at one registry, or at a mirror of it: authentication, retries, and the three requests that a pull makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::config::{Endpoint, Scheme};
use super::logins::Credentials;
use super::transport::{Foreign, Transport, is_private};
use super::trouble::{Kind, Trouble};

/// Attempts at one request, and the pauses between them. Who asked has a longer back-off of his own.
const ATTEMPTS_MAX: u32 = 4;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause, also where the registry asks for more (`Retry-After`).
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer that explains an error, and of one that holds a token.
const ERROR_BYTES_MAX: usize = 64 << 10;
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// Characters of a registry's own words that are passed on.
const WORDS_MAX: usize = 300;
/// Without a byte for this long, a connection counts as broken.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(30);
/// Who we say we are where a token is asked for with a refresh token.
const CLIENT_ID: &str = "knarr";

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

pub(crate) struct Session {
    transport: Arc<Transport>,
    pub(crate) endpoint: Endpoint,
    repository: String,
    credentials: Credentials,
    /// TLS was tried and is not spoken there.
    plain: AtomicBool,
    authorization: Mutex<Option<HeaderValue>>,
    /// One at a time asks for a token.
    turn: tokio::sync::Mutex<()>,
}

/// A manifest or an index as it came.
pub(crate) struct Found {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

impl Session {
    pub(crate) fn new(transport: Arc<Transport>, endpoint: Endpoint, repository: &str, credentials: Credentials) -> Session {
        Session {
            transport,
            plain: AtomicBool::new(endpoint.scheme == Scheme::Http),
            endpoint,
            repository: repository.to_owned(),
            credentials,
            authorization: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The digest that a tag or digest has there, where the registry says it without the manifest. Hub does not count this as a pull.
    pub(crate) async fn digest(&self, reference: &str) -> Result<Option<String>, Trouble> {
        let response = self.ask(Method::HEAD, &format!("manifests/{reference}"), &accept()).await?;
        Ok(response.headers().get("docker-content-digest").and_then(|it| it.to_str().ok()).map(str::to_owned))
    }

    /// A manifest or index, of at most `bytes_max` bytes.
    pub(crate) async fn manifest(&self, reference: &str, bytes_max: usize) -> Result<Found, Trouble> {
        let response = self.ask(Method::GET, &format!("manifests/{reference}"), &accept()).await?;
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        match read(response.into_body(), bytes_max).await? {
            Some(bytes) => Ok(Found { media_type, bytes }),
            None => Err(Trouble::new(Kind::Other, format!("its manifest is larger than the {bytes_max} bytes allowed"))),
        }
    }

    /// A blob from a byte on, and the byte that the answer begins with: registries may ignore the wish.
    pub(crate) async fn blob(&self, digest: &str, from: u64) -> Result<(Response<Incoming>, u64), Trouble> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).expect("digits are a header's value"));
        }
        let response = self.ask(Method::GET, &format!("blobs/{digest}"), &headers).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((response, 0));
        }
        let start = response.headers().get(CONTENT_RANGE).and_then(|it| it.to_str().ok()).and_then(range_start);
        match start {
            Some(start) if start == from => Ok((response, from)),
            _ => Err(Trouble::new(Kind::Other, "it answered with another part of the blob than it was asked for")),
        }
    }

    /// Asks until there is an answer that is no error, or one that stays.
    async fn ask(&self, method: Method, path: &str, headers: &HeaderMap) -> Result<Response<Incoming>, Trouble> {
        let mut pause = PAUSE_FIRST;
        let mut attempt = 1;
        loop {
            let trouble = match self.authorized(&method, path, headers).await {
                Ok(response) => return Ok(response),
                Err(trouble) => trouble,
            };
            let Kind::Transient(wanted) = trouble.kind else { return Err(trouble) };
            if attempt == ATTEMPTS_MAX {
                return Err(trouble);
            }
            tracing::debug!(registry = self.endpoint.authority, path, attempt, reason = trouble.reason, "ask a registry again");
            tokio::time::sleep(wanted.unwrap_or(pause).min(PAUSE_MAX)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            attempt += 1;
        }
    }

    /// One attempt, and a second with fresh authorization if the registry wants one.
    async fn authorized(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Response<Incoming>, Trouble> {
        let used = self.authorization.lock().clone();
        let response = self.raw(method, path, headers, used.clone()).await?;
        // Only the registry says where its credentials go, not a storage that it redirects to.
        let is_challenge = response.status() == StatusCode::UNAUTHORIZED && response.extensions().get::<Foreign>().is_none();
        if !is_challenge {
            return checked(response, &self.credentials).await;
        }
        let wanted = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|it| it.to_str().ok());
        let wanted = wanted.filter_map(challenge::parse).max_by_key(|it| matches!(it, Challenge::Bearer { .. }));
        let Some(wanted) = wanted else {
            return checked(response, &self.credentials).await;
        };
        let fresh = {
            let _turn = self.turn.lock().await;
            let now = self.authorization.lock().clone();
            // Another request was faster.
            if now != used { now } else { Some(self.authorize(&wanted).await?) }
        };
        *self.authorization.lock() = fresh.clone();
        let response = self.raw(method, path, headers, fresh).await?;
        checked(response, &self.credentials).await
    }

    async fn raw(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Trouble> {
        let mut headers = headers.clone();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value);
        }
        let sent = self.transport.send(method.clone(), &self.url(path)?, &headers, Bytes::new()).await;
        match sent {
            Err(trouble) if self.endpoint.scheme == Scheme::Either && !self.plain.load(Ordering::Relaxed) && is_no_tls(&trouble) => {
                self.plain.store(true, Ordering::Relaxed);
                self.transport.send(method.clone(), &self.url(path)?, &headers, Bytes::new()).await
            }
            sent => sent,
        }
    }

    fn url(&self, path: &str) -> Result<Uri, Trouble> {
        let scheme = if self.plain.load(Ordering::Relaxed) { "http" } else { "https" };
        let Endpoint { authority, prefix, .. } = &self.endpoint;
        let url = format!("{scheme}://{authority}{prefix}/v2/{}/{path}", self.repository);
        url.parse().map_err(|error| Trouble::new(Kind::Other, format!("{url} is no URL: {error}")))
    }

    /// The header that a challenge asks for.
    async fn authorize(&self, wanted: &Challenge) -> Result<HeaderValue, Trouble> {
        let text = match (wanted, &self.credentials) {
            (_, Credentials::Bearer(token)) => format!("Bearer {token}"),
            (Challenge::Basic, Credentials::Basic { username, password }) => basic(username, password),
            (Challenge::Basic, other) => {
                return Err(Trouble::new(Kind::Denied, format!("it wants a user name and a password, and was shown {}", other.who())));
            }
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                format!("Bearer {}", self.token(realm, service, scope, credentials).await?)
            }
        };
        let mut value =
            HeaderValue::try_from(text).map_err(|_| Trouble::new(Kind::Denied, "the credentials hold characters that no header can"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// An access token (distribution, "token authentication": GET with a password, POST with a refresh token).
    async fn token(&self, realm: &str, service: &str, scope: &str, credentials: &Credentials) -> Result<String, Trouble> {
        let broken = || Trouble::new(Kind::Other, format!("its token service {realm:?} is no URL"));
        let base: Uri = realm.parse().map_err(|_| broken())?;
        let secret = *credentials != Credentials::Anonymous;
        if secret && !self.plain.load(Ordering::Relaxed) && !is_private(&base) {
            return Err(Trouble::new(Kind::Denied, format!("it wants the credentials to be sent to {realm} without TLS; they were not")));
        }
        let wish = self.wish(service, scope, credentials);
        let mut headers = HeaderMap::new();
        let response = if let Credentials::Identity(_) = credentials {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            self.transport.send(Method::POST, &base, &headers, Bytes::from(wish)).await?
        } else {
            if let Credentials::Basic { username, password } = credentials {
                let mut value = HeaderValue::try_from(basic(username, password)).expect("base64 is a header's value");
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
            let separator = if base.query().is_some() { '&' } else { '?' };
            let url: Uri = format!("{realm}{separator}{wish}").parse().map_err(|_| broken())?;
            self.transport.send(Method::GET, &url, &headers, Bytes::new()).await?
        };
        let response = checked(response, credentials).await.map_err(|trouble| match trouble.kind {
            Kind::Missing | Kind::Range => Trouble::new(Kind::Other, format!("its token service: {}", trouble.reason)),
            _ => trouble,
        })?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = read(response.into_body(), TOKEN_BYTES_MAX).await?;
        let answer = bytes.and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
        let token = answer.and_then(|it| it.token.filter(|it| !it.is_empty()).or(it.access_token));
        token.ok_or_else(|| Trouble::new(Kind::Other, "its token service answered without a token"))
    }

    /// What is asked of the token service, as a query or a form.
    fn wish(&self, service: &str, scope: &str, credentials: &Credentials) -> String {
        let mut wish = form_urlencoded::Serializer::new(String::new());
        if !service.is_empty() {
            wish.append_pair("service", service);
        }
        match scope {
            "" => wish.append_pair("scope", &format!("repository:{}:pull", self.repository)),
            scope => wish.append_pair("scope", scope),
        };
        match credentials {
            Credentials::Identity(refresh) => {
                wish.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT_ID).append_pair("refresh_token", refresh);
            }
            Credentials::Basic { username, .. } => {
                wish.append_pair("account", username);
            }
            Credentials::Anonymous | Credentials::Bearer(_) => {}
        }
        wish.finish()
    }
}

fn accept() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(MANIFESTS))])
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

/// A server of plain HTTP answers a TLS greeting with an error in words, or hangs up.
fn is_no_tls(trouble: &Trouble) -> bool {
    trouble.kind == Kind::NotTls || (trouble.is_transient() && trouble.reason.contains("tls handshake eof"))
}

/// `bytes 100-199/200`.
fn range_start(header: &str) -> Option<u64> {
    header.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The answer if it is none of an error; else what the registry says of it.
async fn checked(response: Response<Incoming>, credentials: &Credentials) -> Result<Response<Incoming>, Trouble> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let wait = response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok());
    // Its explanation is a help, not a need.
    let words = read(response.into_body(), ERROR_BYTES_MAX).await.ok().flatten().map(|bytes| words(&bytes)).unwrap_or_default();
    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
    let code = status.as_u16();
    Err(match code {
        401 | 403 => Trouble::new(Kind::Denied, format!("it answered {code} to {}{words}", credentials.who())),
        404 => Trouble::new(Kind::Missing, format!("it answered 404{words}")),
        416 => Trouble::new(Kind::Range, "it has no such part of the blob"),
        429 => Trouble::new(Kind::Transient(wait.map(Duration::from_secs)), format!("it is asked too often (429){words}")),
        408 | 500.. => Trouble::new(Kind::Transient(wait.map(Duration::from_secs)), format!("it answered {status}{words}")),
        _ => Trouble::new(Kind::Other, format!("it answered {status}{words}")),
    })
}

/// The registry's words (distribution-spec, "Error Codes"), cut and without what a terminal would obey.
fn words(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let answer: Answer = serde_json::from_slice(bytes).unwrap_or(Answer { errors: Vec::new() });
    let all: Vec<String> = answer.errors.iter().map(|one| format!("{} {}", one.code, one.message).trim().to_owned()).collect();
    all.join("; ").chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}

/// A body whole; `None` if it is longer.
async fn read(mut body: Incoming, bytes_max: usize) -> Result<Option<Bytes>, Trouble> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut body).await? {
        if whole.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Some(whole.freeze()))
}

/// The next bytes of a body; a stall is an error like any other.
pub(crate) async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>, Trouble> {
    loop {
        match tokio::time::timeout(STALL_MAX, body.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => return Err(Trouble::new(Kind::Transient(None), format!("the connection broke: {error}"))),
            Err(_) => return Err(Trouble::new(Kind::Transient(None), format!("nothing came for {} s", STALL_MAX.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_are_cut_and_harmless() {
        let text = br#"{"errors":[{"code":"DENIED","message":"no \u001b[31m way"},{"code":"X","message":""}]}"#;
        assert_eq!(words(text), "DENIED no [31m way; X");
        assert_eq!(words(b"<html>"), "");
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
    }
}
