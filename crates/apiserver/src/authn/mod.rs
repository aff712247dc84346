//! Who is the caller?
//!
//! Client certificates of the cluster's authority, then bearer tokens of service accounts. Who shows neither is `system:anonymous`, and is let in
//! only to the few paths that load balancers and clients ask before they have credentials. Whoever shows something that is not good is
//! refused, never treated as anonymous. [`impersonate`] then lets a caller act as another whom he may act as.

mod impersonate;
mod jose;
mod tokens;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;
use knarr_api::status::{self, Status};
use knarr_store::Store;
use rustls_pki_types::CertificateDer;

use crate::User;
use crate::auth::GROUP_AUTHENTICATED;
use crate::pki::Pki;
pub use impersonate::{Impersonation, strip_credentials};
pub(crate) use tokens::{Bound, Reference, TokenError, Tokens, Verified};

/// What may be asked without credentials: health and version tell nothing of the cluster's contents.
const ANONYMOUS_PATHS: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
/// Groups taken from one certificate or token.
const GROUPS_MAX: usize = 1000;

/// The identity in a client certificate that the handshake verified. Made once for each connection.
#[derive(Clone, Debug)]
pub struct Peer {
    user: Arc<User>,
    /// A connection may outlive its certificate; requests after this are refused.
    not_after: Timestamp,
}

impl Peer {
    /// Common name and organisations of the leaf of `chain`; `None` where the client showed no certificate.
    pub fn from_chain(chain: Option<&[CertificateDer<'_>]>) -> Result<Option<Peer>, Status> {
        let Some(leaf) = chain.and_then(<[_]>::first) else {
            return Ok(None);
        };
        let (_, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| status::unauthorized())?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).filter(|name| !name.is_empty());
        let groups = subject.iter_organization().filter_map(|org| org.as_str().ok()).take(GROUPS_MAX);
        let user = User::authenticated(name.ok_or_else(status::unauthorized)?, groups);
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Some(Peer { user: Arc::new(user), not_after: Timestamp::from_second(not_after).unwrap_or(Timestamp::MAX) }))
    }
}

/// Tells callers from credentials.
pub struct Authn {
    tokens: Arc<Tokens>,
    anonymous: Arc<User>,
}

impl Authn {
    pub fn new(pki: &Pki, issuer: &str, store: Arc<dyn Store>) -> Authn {
        Authn { tokens: Arc::new(Tokens::new(pki.token_keys().clone(), issuer, store)), anonymous: Arc::new(User::anonymous()) }
    }

    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The caller of a request over a connection of `peer`. The error is the 401 to answer with.
    pub fn authenticate(&self, request: &Parts, peer: Option<&Peer>) -> Result<Arc<User>, Status> {
        let now = Timestamp::now();
        if let Some(peer) = peer {
            return match now <= peer.not_after {
                true => Ok(peer.user.clone()),
                false => Err(status::unauthorized()),
            };
        }
        let mut credentials = request.headers.get_all(AUTHORIZATION).iter();
        match (credentials.next(), credentials.next()) {
            (None, _) if ANONYMOUS_PATHS.iter().any(|path| is_under(request.uri.path(), path)) => Ok(self.anonymous.clone()),
            (Some(value), None) => {
                let token = value.to_str().ok().and_then(bearer).ok_or_else(status::unauthorized)?;
                let verified = self.tokens.verify(token, &[], now).map_err(|error| {
                    tracing::debug!(%error, "bearer token refused");
                    status::unauthorized()
                })?;
                debug_assert!(verified.user.in_group(GROUP_AUTHENTICATED));
                Ok(Arc::new(verified.user))
            }
            _ => Err(status::unauthorized()),
        }
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
