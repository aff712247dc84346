//! Who is the caller?
//!
//! Headers of an authenticating proxy, client certificates of the cluster's authority, then bearer tokens (in the header, or for browsers' WebSockets in
//! a subprotocol): of service accounts, of nodes that join, of the issuers of the AuthenticationConfiguration, and those that a webhook knows. The first
//! that is good says who it is, whatever else is shown. Who shows none of these is `system:anonymous`, and is let in
//! only to the few paths that load balancers and clients ask before they have credentials, or where the configuration says. Whoever shows nothing but what
//! is not good is refused, never treated as anonymous. [`impersonate`] then lets a caller act as another whom he may act as.

mod bootstrap_token;
mod claims;
mod configuration;
mod external;
mod impersonate;
mod jose;
mod jwk;
mod oidc;
mod proxy;
mod tokens;
mod webhook;
mod websocket;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;
use knarr_api::status::{self, Status};
use knarr_store::{Collection, Store};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::der_parser::{Oid, oid};

use crate::User;
use crate::auth::GROUP_AUTHENTICATED;
use crate::callout::Callout;
use crate::config::TokenWebhook;
use crate::pki::{self, Pki, PkiError};
use crate::reload::ConfigurationError;
use crate::shut::still_shut;
use external::External;
pub use impersonate::Impersonation;
pub use proxy::Proxy;
pub use tokens::Note;
pub(crate) use tokens::{Bound, EXTRA_CREDENTIAL, EXTRA_NODE_NAME, Reference, TokenError, Tokens, Verified};
pub use webhook::CACHE_TIME as WEBHOOK_CACHE_TIME;
use webhook::Webhook;
pub(crate) use websocket::{has_token, is_asked_for as is_websocket, protocols as websocket_protocols};

/// What may be asked without credentials: health and version tell nothing of the cluster's contents.
const ANONYMOUS_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Groups taken from one certificate or token.
const GROUPS_MAX: usize = 1000;

/// The part of a subject that is its uid (Kubernetes' own arc; KEP: AllowParsingUserUIDFromCertAuth).
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// What a client showed in the handshake.
#[derive(Clone, Debug)]
pub enum Certificate {
    None,
    /// It is nobody's whom this cluster knows. Another credential may still be good.
    Refused,
    Of(Peer),
}

/// The identity in a client certificate that was verified. Made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    user: Arc<User>,
    /// It may ask for others, whom its headers name.
    is_proxy: bool,
    /// A connection may outlive its certificate; it is worth nothing after this.
    not_after: Timestamp,
}

/// A certificate whose subject is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoIdentity;

impl Peer {
    /// Common name, organisations and uid of `leaf`; `None` where it has no common name, and so says nothing of who it is.
    pub fn of(leaf: &CertificateDer<'_>) -> Result<Option<Peer>, NoIdentity> {
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| NoIdentity)?;
        let subject = certificate.subject();
        let Some(name) = pki::common_name(subject).filter(|name| !name.is_empty()) else { return Ok(None) };
        let groups = pki::organizations(subject).ok_or(NoIdentity)?.into_iter().take(GROUPS_MAX);
        let mut user = User::authenticated(name, groups);
        let mut uids = subject.iter_by_oid(&UID).map(|uid| uid.as_str().unwrap_or_default());
        user.uid = match (uids.next(), uids.next()) {
            (None, _) => String::new(),
            (Some(uid), None) if !uid.is_empty() => uid.to_owned(),
            // Which of several, or what an unreadable one would say, is not ours to guess.
            _ => return Err(NoIdentity),
        };
        let fingerprint: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
        user.extra.insert(EXTRA_CREDENTIAL.to_owned(), vec![format!("X509SHA256={fingerprint}")]);
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Some(Peer { user: Arc::new(user), is_proxy: false, not_after: Timestamp::from_second(not_after).unwrap_or(Timestamp::MAX) }))
    }
}

/// Tells callers from credentials.
pub struct Authn {
    tokens: Arc<Tokens>,
    anonymous: Arc<User>,
    store: Arc<dyn Store>,
    proxy: Proxy,
    external: Arc<External>,
    /// What others are asked with; without it nobody is.
    callout: Option<Callout>,
    webhook: Option<Webhook>,
}

impl Authn {
    pub fn new(pki: &Pki, issuers: &[String], store: Arc<dyn Store>) -> Authn {
        Authn {
            tokens: Arc::new(Tokens::new(pki.token_keys().clone(), issuers, store.clone())),
            anonymous: Arc::new(User::anonymous()),
            store,
            proxy: Proxy::default(),
            external: Arc::new(External::nobody(issuers)),
            callout: None,
            webhook: None,
        }
    }

    pub(crate) fn with_proxy(mut self, proxy: Proxy) -> Authn {
        self.proxy = proxy;
        self
    }

    /// Also those whom the issuers of the AuthenticationConfiguration in `file` know, or a webhook. The future follows the file.
    pub(crate) fn with_others(
        mut self,
        callout: Callout,
        file: Option<&Path>,
        webhook: Option<&TokenWebhook>,
    ) -> Result<(Authn, impl Future<Output = ()> + Send + 'static + use<>), ConfigurationError> {
        let follow = file.map(|file| self.external.follow(file)).transpose()?;
        self.webhook = match webhook {
            Some(webhook) => Some(Webhook::new(&webhook.kubeconfig, webhook.remember).map_err(|error| ConfigurationError::Invalid {
                path: webhook.kubeconfig.clone(),
                reason: crate::connect::chain(&error),
            })?),
            None => None,
        };
        self.callout = Some(callout);
        let follow = async move {
            match follow {
                Some(follow) => follow.await,
                None => std::future::pending().await,
            }
        };
        Ok((self, follow))
    }

    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// What signs tokens for Secrets.
    pub fn secret_tokens(&self) -> SecretTokens {
        SecretTokens(self.tokens.clone())
    }

    /// Takes away what only proxies may say, and the token in a subprotocol, once the caller is known.
    pub(crate) fn strip_headers(&self, headers: &mut HeaderMap) {
        self.proxy.strip(headers);
        websocket::strip(headers);
    }

    /// The connection of a proxy, if its verified certificate has one of the proxies' names.
    pub(crate) fn proxy_peer(&self, peer: Peer) -> Option<Peer> {
        self.proxy.is_proxy(&peer.user.name).then_some(Peer { is_proxy: true, ..peer })
    }

    /// The caller of a request over a connection whose client showed `certificate`. The error is the 401 to answer with.
    pub async fn authenticate(&self, request: &Parts, certificate: &Certificate) -> Result<Caller, Status> {
        let now = Timestamp::now();
        let mut refused = false;
        match certificate {
            Certificate::None => {}
            Certificate::Refused => refused = true,
            Certificate::Of(peer) if now > peer.not_after => refused = true,
            Certificate::Of(peer) if !peer.is_proxy => return Ok(peer.user.clone().into()),
            // A proxy that names nobody asks as anyone without a certificate would.
            Certificate::Of(_) => {
                if let Some(user) = self.proxy.user(&request.headers) {
                    return Ok(Arc::new(user).into());
                }
            }
        }
        for token in [authorization(&request.headers), websocket::token(&request.headers)] {
            let verified = match token {
                Ok(None) => continue,
                Ok(Some(token)) => self.token(&token, &[], now).await,
                Err(Unreadable) => {
                    refused = true;
                    continue;
                }
            };
            match verified {
                Ok(verified) => {
                    debug_assert!(verified.user.in_group(GROUP_AUTHENTICATED));
                    return Ok(Caller { user: Arc::new(verified.user), note: verified.note });
                }
                Err(TokenError::Unknown(why)) => return Err(status::internal(why)),
                Err(error) => {
                    tracing::debug!(%error, "bearer token refused");
                    refused = true;
                }
            }
        }
        match !refused && self.admits_anonymous(request.uri.path()) {
            true => Ok(self.anonymous.clone().into()),
            false => Err(status::unauthorized()),
        }
    }

    fn admits_anonymous(&self, path: &str) -> bool {
        self.external.admits_anonymous(path, |path| ANONYMOUS_PATHS.iter().any(|open| is_under(path, open)))
    }

    /// Who shows a bearer token, if it is good for one of `audiences` (the API server's own where that is empty).
    pub(crate) async fn token(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, TokenError> {
        let shut = self.store.shut(&Collection::new("core/secrets"));
        let verified = self.tokens.verify(token, audiences, now);
        // What is not known is not gone, and a token that may be ours is shown to nobody else.
        if verified.as_ref().is_err_and(|error| error.misses_secret() || (error.is_of_another() && bootstrap_token::looks_like(token)))
            && let Some(shut) = shut
        {
            return Err(TokenError::Unknown(still_shut(&shut).message));
        }
        let error = match verified {
            Ok(verified) => return Ok(verified),
            // Of this cluster, and not good: nobody else is asked.
            Err(error) if !error.is_of_another() => return Err(error),
            Err(error) => error,
        };
        // All others know only the API server itself.
        let own = self.tokens.api_audience();
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == own) {
            return Err(error);
        }
        let known = |user: User| Ok(Verified { user, audiences: vec![own.to_owned()], note: None });
        if let Some(user) = bootstrap_token::verify(&self.store.snapshot(), token, now) {
            return known(user);
        }
        let Some(callout) = &self.callout else { return Err(error) };
        let mut error = error;
        if self.external.has_issuers() {
            match self.external.authenticate(callout, token, now).await {
                Some(Ok(user)) => return known(user),
                Some(Err(why)) => error = TokenError::External(why.to_string()),
                None => {}
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.authenticate(callout, token, own).await {
                Ok(Some(user)) => return known(user),
                Ok(None) => {}
                Err(reason) => {
                    tracing::warn!(reason, "ask the webhook that knows tokens");
                    error = TokenError::External("the webhook that knows tokens could not be asked".to_owned());
                }
            }
        }
        Err(error)
    }

    /// `/openid/v1/jwks`: the keys that tokens are signed with.
    pub fn key_set(&self) -> serde_json::Value {
        self.tokens.key_set()
    }

    /// `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self) -> serde_json::Value {
        self.tokens.openid_configuration()
    }
}

/// Tokens that stand in Secrets, for the controller that fills these.
#[derive(Clone)]
pub struct SecretTokens(Arc<Tokens>);

impl SecretTokens {
    /// A token without an end for the service account of this name and uid, good as long as the Secret holds it.
    pub fn sign(&self, namespace: &str, account: &str, account_uid: &str, secret: &str) -> Result<String, PkiError> {
        let account = Reference { name: account.to_owned(), uid: account_uid.to_owned() };
        self.0.issue_legacy(namespace, &account, secret)
    }

    /// Whether a token is what [`SecretTokens::sign`] gave for the same, with a key that the cluster has not forgotten.
    pub fn knows(&self, namespace: &str, account: &str, account_uid: &str, secret: &str, token: &str) -> bool {
        let account = Reference { name: account.to_owned(), uid: account_uid.to_owned() };
        self.0.is_legacy(namespace, &account, secret, token)
    }
}

/// Who was authenticated, and what the audit log should know of his credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub user: Arc<User>,
    pub note: Option<Note>,
}

impl From<Arc<User>> for Caller {
    fn from(user: Arc<User>) -> Caller {
        Caller { user, note: None }
    }
}

/// A credential that is no bearer token, or more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

fn authorization(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Unreadable> {
    let mut credentials = headers.get_all(AUTHORIZATION).iter();
    match (credentials.next(), credentials.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().ok().and_then(bearer).map(|token| Some(token.into())).ok_or(Unreadable),
        _ => Err(Unreadable),
    }
}

/// The token of `Bearer <token>`; the scheme in any case (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// `path` itself or below it.
fn is_under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
