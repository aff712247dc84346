//! Calls out of the API server over HTTPS: to the webhooks of admission, conversion, authentication, authorisation and audit, and to extension
//! API servers.
//!
//! A [`Target`] says whom to call and how to know it, from a `WebhookClientConfig` or from a kubeconfig file. It keeps connections: make it once
//! for a configuration, not for a call. A Service is resolved to one of its ready endpoints whenever a connection is opened.
//!
//! Redirects are answers like others and never followed, and neither errors nor logs hold what an answer's body said (CVE-2020-8561).

mod identity;
mod kubeconfig;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod trust;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use knarr_store::Store;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) use target::{ConfigError, Target, Trust};
pub(crate) use trust::is_bundle;

use crate::{
    body,
    connect::{self, DIAL_TIME_MAX, DialError, Dialer, endpoints},
};
use target::{Era, Place};

/// Bytes of an answer that is taken into memory. A mutating webhook answers with a patch that may hold the object once more in base64; a request's
/// body, and so an object, has at most 3 MiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A call that failed: the URL, and why in the words of `cause`.
#[derive(Debug, thiserror::Error)]
#[error("{method} \"{url}\": {cause}")]
pub(crate) struct CalloutError {
    /// As Go's client writes it: `Post`.
    method: &'static str,
    url: String,
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    /// There is no such service, it has no such port, or nothing ready behind it.
    #[error("{0}")]
    Unresolved(String),
    #[error("{}", connect::chain(.0))]
    Dial(#[from] DialError),
    #[error("{}", connect::chain(.0))]
    Http(#[from] hyper::Error),
    #[error("read {path}: {source}")]
    Token { path: String, source: std::io::Error },
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the answer broke off: {0}")]
    BrokenOff(body::BodyError),
    /// Upstream's words for each code are matched by programs.
    #[error("{}", words(*.0))]
    Refused(StatusCode),
    /// Go's words, which programs look for.
    #[error("context deadline exceeded")]
    TimedOut,
}

impl CalloutError {
    /// Whether the same call may succeed if it is made once more: not if the other side has understood and refused it.
    pub(crate) fn is_transient(&self) -> bool {
        match self.cause {
            Cause::Refused(code) => code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS,
            Cause::TooLarge => false,
            _ => true,
        }
    }

    /// Whether the other side was there and answered badly, which may pass at once (apiserver, util/webhook, DefaultShouldRetry). Who waits for an answer
    /// does not wait for a server to come.
    pub(crate) fn is_momentary(&self) -> bool {
        match self.cause {
            Cause::Refused(code) => {
                matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT)
            }
            Cause::Http(_) | Cause::BrokenOff(_) => true,
            _ => false,
        }
    }
}

/// What upstream's client says of an answer that is no success (apimachinery, api/errors, NewGenericServerResponse).
fn words(code: StatusCode) -> String {
    let text = match code.as_u16() {
        401 => "the server has asked for the client to provide credentials",
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request",
        code if code >= 500 => return format!("an error on the server (status code {code}) has prevented the request from succeeding"),
        code => return format!("the server responded with the status code {code} but did not return more details"),
    };
    text.to_owned()
}

type Tls = TlsStream<TcpStream>;

/// Calls to [`Target`]s. Their futures are boxed: whatever may call out, which is nearly everything, would carry kilobytes for them.
#[derive(Clone)]
pub(crate) struct Callout {
    store: Arc<dyn Store>,
    dialer: Arc<Dialer>,
}

impl Callout {
    pub(crate) fn new(store: Arc<dyn Store>, dialer: Arc<Dialer>) -> Self {
        Self { store, dialer }
    }

    /// Posts a JSON document and returns the body of a success (2xx). `query` is what comes after `?`, or empty; `time_max` is for everything.
    ///
    /// The document may reach the target twice: when a kept connection breaks without an answer, the call is made once more on a new one.
    pub(crate) async fn post(&self, target: &Target, query: &str, document: Bytes, time_max: Duration) -> Result<Bytes, CalloutError> {
        let answered = tokio::time::timeout(time_max, Box::pin(self.attempts(target, query, document))).await;
        let answered = answered.unwrap_or(Err(Cause::TimedOut));
        answered.map_err(|cause| CalloutError { method: "Post", url: target.url(query), cause })
    }

    /// Sends `request`, whose URI is a path with its query, on a connection of its own, which goes over to an upgrade if the target agrees.
    /// Any answer is a success, and its body is the caller's to limit; the time limit is for opening the connection.
    pub(crate) async fn exchange(&self, target: &Target, request: Request<body::Incoming>) -> Result<Response<Incoming>, CalloutError> {
        let method = if *request.method() == Method::GET { "Get" } else { "Request" };
        let exchanged = Box::pin(async {
            let stream = self.connect(target).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "connection to an extension server");
                }
            });
            Ok(sender.send_request(request).await?)
        });
        exchanged.await.map_err(|cause: Cause| CalloutError { method, url: target.url(""), cause })
    }

    async fn attempts(&self, target: &Target, query: &str, document: Bytes) -> Result<Bytes, Cause> {
        let authorization = target.authorization().await.map_err(|(path, source)| Cause::Token { path, source })?;
        let request = || {
            let mut request = Request::new(Full::new(document.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = target.path(query);
            let headers = request.headers_mut();
            headers.insert(header::HOST, target.host());
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json, */*"));
            headers.insert(header::USER_AGENT, header::HeaderValue::from_static("kube-apiserver-admission"));
            if let Some(value) = &authorization {
                headers.insert(header::AUTHORIZATION, value.clone());
            }
            request
        };
        let era = target.refresh().await;
        if let Some(mut kept) = target.kept.take() {
            match kept.send_request(request()).await {
                Ok(answer) => return finish(target, kept, era, answer).await,
                // The other side gave the connection up, perhaps while we wrote.
                Err(error)
                    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() || error.is_body_write_aborted() => {}
                Err(error) if std::error::Error::source(&error).is_some_and(|source| source.is::<std::io::Error>()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let stream = self.connect(target).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection to a webhook");
            }
        });
        let answer = sender.send_request(request()).await?;
        finish(target, sender, era, answer).await
    }

    async fn connect(&self, target: &Target) -> Result<Tls, Cause> {
        let (address, dialled) = self.dial(target);
        let opened = async {
            let (address, stream) = dialled.await?;
            let tls = target.tls.connect(target.server_name.clone(), stream).await;
            tls.map_err(|source| Cause::Dial(DialError::Tls { address, source }))
        };
        match tokio::time::timeout(DIAL_TIME_MAX, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(Cause::Unresolved(format!("connect to {address}: no answer within {DIAL_TIME_MAX:?}"))),
        }
    }

    /// Whom to dial, in words, and the dialling.
    fn dial<'a>(&'a self, target: &'a Target) -> (String, impl Future<Output = Result<(SocketAddr, TcpStream), Cause>> + 'a) {
        let dialled = async move {
            match &target.place {
                Place::Host { host, port } => by_name(host, *port, connect::tcp).await,
                Place::Service { namespace, name, port } => match self.endpoint(namespace, name, *port)? {
                    Endpoint::Pod(address) => Ok((address, self.dialer.tcp(address).await?)),
                    // Whoever may change a Service is not the operator: it leads nowhere that other Services may not.
                    Endpoint::External(host) => by_name(&host, *port, |address| self.dialer.tcp(address)).await,
                },
            }
        };
        (target.authority(), dialled)
    }

    fn endpoint(&self, namespace: &str, name: &str, port: u16) -> Result<Endpoint, Cause> {
        let snapshot = self.store.snapshot();
        let unresolved = |status: knarr_api::Status| Cause::Unresolved(status.message);
        let missing = |_| Cause::Unresolved(format!("service \"{name}\" not found"));
        let service = endpoints::read(&snapshot, "core/services", namespace, name).map_err(missing)?;
        if service.pointer("/spec/type").and_then(serde_json::Value::as_str) == Some("ExternalName") {
            let host = service.pointer("/spec/externalName").and_then(serde_json::Value::as_str).unwrap_or_default();
            return Ok(Endpoint::External(host.to_owned()));
        }
        endpoints::of_service(&snapshot, namespace, name, &port.to_string()).map(Endpoint::Pod).map_err(unresolved)
    }
}

enum Endpoint {
    Pod(SocketAddr),
    External(String),
}

/// Tries the host's addresses in turn. The error is that of the last.
async fn by_name<D>(host: &str, port: u16, dial: impl Fn(SocketAddr) -> D) -> Result<(SocketAddr, TcpStream), Cause>
where
    D: Future<Output = Result<TcpStream, DialError>>,
{
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| Cause::Unresolved(format!("lookup {host}: {error}")))?;
    let mut failure = Cause::Unresolved(format!("lookup {host}: no such host"));
    for address in addresses {
        match dial(address).await {
            Ok(stream) => return Ok((address, stream)),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Reads the answer and keeps the connection for the next call.
async fn finish(target: &Target, sender: http1::SendRequest<Full<Bytes>>, era: Era, answer: Response<Incoming>) -> Result<Bytes, Cause> {
    if !answer.status().is_success() {
        // Its body is not read, so the connection is of no more use.
        return Err(Cause::Refused(answer.status()));
    }
    let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let bytes = read.map_err(|error| if error.is::<LengthLimitError>() { Cause::TooLarge } else { Cause::BrokenOff(error) })?.to_bytes();
    target.kept.put(sender, era);
    Ok(bytes)
}

/// The name in TLS of a Service's endpoints, whichever of them it is.
fn service_host(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc")
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).ok()
}
