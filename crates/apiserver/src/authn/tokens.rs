//! Service-account tokens: what they say, how they are issued, and when one is good.
//!
//! A token is good while its signature, times and audience are, and while the objects that it is bound to live under the same uid: the
//! service account always, and the pod, secret or node that the token was asked for. Those objects are looked up at every use, so that a token dies
//! with its pod; only the signature check, which is dear and cannot change, is remembered. [`legacy`] are those that stand in Secrets.

mod legacy;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use knarr_store::{Collection, Key, Snapshot, Store};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::jose::{self, JoseError};
use crate::User;
use crate::auth::service_account_of;
use crate::pki::{PkiError, TokenKeys};
use legacy::Legacy;

/// Tokens whose signature is remembered, in each of two generations. One costs about 1 KiB; a pod uses one.
const REMEMBERED_MAX: usize = 2048;
/// Clocks that disagree this much still agree on a token (go-jose, jwt.DefaultLeeway).
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// An object that is being deleted keeps its tokens good this long past its deletion time (serviceaccount/claims.go).
const DELETION_LEEWAY: SignedDuration = SignedDuration::from_secs(60);

pub(crate) const EXTRA_CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
pub(crate) const EXTRA_POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub(crate) const EXTRA_POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub(crate) const EXTRA_NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub(crate) const EXTRA_NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// An object by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    /// A token that should have been renewed by then is good for longer, and its uses are noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// Why a token is not accepted. Quotes nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    Jose(#[from] JoseError),
    #[error("the token's claims are not those of a service account token")]
    Claims,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("token audiences {has:?} is invalid for the target audiences {want:?}")]
    Audience { has: Vec<String>, want: Vec<String> },
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("{what} has been deleted")]
    Gone { what: String },
    #[error("{what} is not the one that the token was issued for")]
    Uid { what: String },
    #[error("the token is not the one that secret {secret} holds")]
    Replaced { secret: String },
    #[error(
        "the token in secret {secret} has been marked invalid. Use tokens from the TokenRequest API, or remove the label \
         kubernetes.io/legacy-token-invalid-since from the secret to allow its use for a while"
    )]
    Invalidated { secret: String },
    /// Whether the Secret that it depends on is there is not known at the moment.
    #[error("{0}")]
    Unknown(String),
    /// Told by an issuer that is configured, or a webhook.
    #[error("{0}")]
    External(String),
}

impl TokenError {
    /// Whether somebody else may have issued the token.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(self, TokenError::Jose(_) | TokenError::Claims | TokenError::Issuer)
    }

    /// Whether it is for want of a Secret.
    pub(super) fn misses_secret(&self) -> bool {
        matches!(self, TokenError::Gone { what } if what.starts_with("secret "))
    }
}

/// A caller who showed a good token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) user: User,
    /// Those of the audiences asked for that the token is meant for.
    pub(crate) audiences: Vec<String>,
    pub(crate) note: Option<Note>,
}

/// What the audit log should know of a credential: an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub(crate) key: &'static str,
    pub(crate) value: String,
}

/// How often tokens were used, of those that somebody should do something about, and of those that tell how many there are.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// With an extended life: before and after they should have been renewed.
    pub(crate) valid: AtomicU64,
    pub(crate) stale: AtomicU64,
    /// Of Secrets.
    pub(crate) legacy: AtomicU64,
}

pub(crate) struct Tokens {
    keys: Arc<TokenKeys>,
    /// The first is named in new tokens; never empty.
    issuers: Vec<String>,
    store: Arc<dyn Store>,
    remembered: Mutex<Remembered>,
    pub(crate) uses: Uses,
}

/// Tokens whose signature was good, by hash. When the young generation is full it becomes the old one.
#[derive(Default)]
struct Remembered {
    young: HashMap<[u8; 32], Arc<Signed>>,
    old: HashMap<[u8; 32], Arc<Signed>>,
}

/// What a token says, and the key that signed it.
struct Signed {
    said: Said,
    key: String,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one, behind an Arc")]
enum Said {
    Claims(Claims),
    Legacy(Legacy),
}

impl Remembered {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Arc<Signed>> {
        if let Some(signed) = self.young.get(hash) {
            return Some(signed.clone());
        }
        let signed = self.old.remove(hash)?;
        self.insert(*hash, signed.clone());
        Some(signed)
    }

    fn insert(&mut self, hash: [u8; 32], signed: Arc<Signed>) {
        if self.young.len() >= REMEMBERED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, signed);
    }
}

impl Tokens {
    pub(crate) fn new(keys: Arc<TokenKeys>, issuers: &[String], store: Arc<dyn Store>) -> Tokens {
        Tokens { keys, issuers: issuers.to_vec(), store, remembered: Mutex::default(), uses: Uses::default() }
    }

    /// The audience of the API server itself, which a token has when its requester named none.
    pub(crate) fn api_audience(&self) -> &str {
        self.issuers.first().map_or("", String::as_str)
    }

    /// Whether tokens for this audience are for the API server.
    pub(crate) fn is_own_audience(&self, audience: &str) -> bool {
        self.issuers.iter().any(|own| own == audience)
    }

    /// Signs a token for a service account: from now until `expires`.
    pub(crate) fn issue(
        &self,
        audiences: Vec<String>,
        bound: Bound,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<(String, Claims), PkiError> {
        let claims = Claims {
            aud: audiences,
            exp: expires.as_second(),
            iat: now.as_second(),
            iss: self.api_audience().to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            nbf: now.as_second(),
            sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            bound,
        };
        Ok((jose::sign(&self.keys, &claims)?, claims))
    }

    /// Who shows `token`, if it is good for one of `audiences` (the API server's own where that is empty).
    pub(crate) fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, TokenError> {
        if !jose::looks_like(token) {
            return Err(JoseError::Malformed.into());
        }
        let signed = self.signed(token)?;
        match &signed.said {
            Said::Claims(claims) => {
                if !self.issuers.contains(&claims.iss) {
                    return Err(TokenError::Issuer);
                }
                let audiences = meant_for(&claims.aud, audiences, &self.issuers)?;
                claims.check_times(now)?;
                claims.check_objects(&self.store.snapshot(), now)?;
                Ok(Verified { user: claims.user(), audiences, note: claims.staleness(now, &self.uses) })
            }
            Said::Legacy(claims) => {
                // It says nothing of audiences, and is for the API server.
                let audiences = meant_for(&self.issuers, audiences, &self.issuers)?;
                let note = claims.check(&self.store.snapshot(), token)?;
                self.uses.legacy.fetch_add(1, Ordering::Relaxed);
                Ok(Verified { user: claims.user(), audiences, note: Some(note) })
            }
        }
    }

    /// Signs a token without an end for a Secret, which must then hold it.
    pub(crate) fn issue_legacy(&self, namespace: &str, account: &Reference, secret: &str) -> Result<String, PkiError> {
        jose::sign(&self.keys, &Legacy::new(namespace, &account.name, &account.uid, secret))
    }

    /// Whether a token says this, and is signed with a key that the cluster still knows.
    pub(crate) fn is_legacy(&self, namespace: &str, account: &Reference, secret: &str, token: &str) -> bool {
        let wanted = Legacy::new(namespace, &account.name, &account.uid, secret);
        self.signed(token).is_ok_and(|signed| matches!(&signed.said, Said::Legacy(said) if *said == wanted))
    }

    fn signed(&self, token: &str) -> Result<Arc<Signed>, TokenError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let remembered = self.remembered.lock().get(&hash);
        if let Some(signed) = remembered {
            // Its key may have been forgotten since.
            return if self.keys.find(&signed.key).is_some() { Ok(signed) } else { Err(JoseError::UnknownKey.into()) };
        }
        let (payload, key) = jose::verify(&self.keys, token)?;
        let signed = Arc::new(Signed { said: Said::parse(&payload)?, key });
        self.remembered.lock().insert(hash, signed.clone());
        Ok(signed)
    }

    /// `/openid/v1/jwks`.
    pub(crate) fn key_set(&self) -> Value {
        jose::key_set(&self.keys)
    }

    /// `/.well-known/openid-configuration`: enough for relying parties to check tokens (OpenID Connect Discovery 1.0, section 3).
    pub(crate) fn openid_configuration(&self) -> Value {
        let issuer = self.api_audience();
        serde_json::json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl Said {
    fn parse(payload: &[u8]) -> Result<Said, TokenError> {
        #[derive(Deserialize)]
        struct Head {
            iss: String,
        }
        let head: Head = serde_json::from_slice(payload).map_err(|_| TokenError::Claims)?;
        if head.iss == legacy::ISSUER {
            return Legacy::parse(payload).map(Said::Legacy);
        }
        let claims: Claims = serde_json::from_slice(payload).map_err(|_| TokenError::Claims)?;
        let subject = service_account_of(&claims.sub).ok_or(TokenError::Claims)?;
        if subject != (&*claims.bound.namespace, &*claims.bound.serviceaccount.name) {
            return Err(TokenError::Claims);
        }
        Ok(Said::Claims(claims))
    }
}

/// Those of the audiences that are `wanted` (the server's `own` where none are) that a token `has`.
fn meant_for(has: &[String], wanted: &[String], own: &[String]) -> Result<Vec<String>, TokenError> {
    let wanted = if wanted.is_empty() { own } else { wanted }.to_vec();
    let both: Vec<String> = wanted.iter().filter(|audience| has.contains(audience)).cloned().collect();
    match both.is_empty() {
        true => Err(TokenError::Audience { has: has.to_vec(), want: wanted }),
        false => Ok(both),
    }
}

impl Claims {
    /// Counts a use of a token with an extended life; what is to be noted of one that should have been renewed (serviceaccount/claims.go).
    fn staleness(&self, now: Timestamp, uses: &Uses) -> Option<Note> {
        let late = now.as_second().saturating_sub(self.bound.warnafter.filter(|after| *after != 0)?);
        if late <= 0 {
            uses.valid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        uses.stale.fetch_add(1, Ordering::Relaxed);
        let value = format!("subject: {}, seconds after warning threshold: {late}", self.sub);
        Some(Note { key: "authentication.k8s.io/stale-token", value })
    }

    fn check_times(&self, now: Timestamp) -> Result<(), TokenError> {
        let (now, leeway) = (now.as_second(), LEEWAY.as_secs());
        if self.exp.saturating_add(leeway) < now {
            return Err(TokenError::Expired);
        }
        if self.nbf.saturating_sub(leeway) > now || self.iat.saturating_sub(leeway) > now {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }

    /// The service account, and what else the token is bound to, still live.
    fn check_objects(&self, snapshot: &Snapshot, now: Timestamp) -> Result<(), TokenError> {
        let bound = &self.bound;
        lives(snapshot, "serviceaccounts", &bound.namespace, &bound.serviceaccount, now)?;
        if let Some(pod) = &bound.pod {
            // The node beside a pod is for information; the pod's life decides.
            return lives(snapshot, "pods", &bound.namespace, pod, now);
        }
        if let Some(secret) = &bound.secret {
            return lives(snapshot, "secrets", &bound.namespace, secret, now);
        }
        match &bound.node {
            Some(node) => lives(snapshot, "nodes", "", node, now),
            None => Ok(()),
        }
    }

    fn user(&self) -> User {
        let bound = &self.bound;
        let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        user.extra.insert(EXTRA_CREDENTIAL.to_owned(), vec![format!("JTI={}", self.jti)]);
        for (reference, name, uid) in [(&bound.pod, EXTRA_POD_NAME, EXTRA_POD_UID), (&bound.node, EXTRA_NODE_NAME, EXTRA_NODE_UID)] {
            if let Some(reference) = reference {
                user.extra.insert(name.to_owned(), vec![reference.name.clone()]);
                user.extra.insert(uid.to_owned(), vec![reference.uid.clone()]);
            }
        }
        user
    }
}

fn lives(snapshot: &Snapshot, resource: &str, namespace: &str, reference: &Reference, now: Timestamp) -> Result<(), TokenError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        uid: String,
        deletion_timestamp: Option<String>,
    }
    #[derive(Deserialize)]
    struct Head {
        metadata: Metadata,
    }
    let kind = resource.strip_suffix('s').unwrap_or(resource);
    let what = || match namespace {
        "" => format!("{kind} {}", reference.name),
        namespace => format!("{kind} {namespace}/{}", reference.name),
    };
    let gone = || TokenError::Gone { what: what() };
    let key = Key::new(&Collection::new(&format!("core/{resource}")), namespace, &reference.name);
    let entry = snapshot.get(&key).ok_or_else(gone)?;
    let head: Head = serde_json::from_slice(&entry.value).map_err(|_| gone())?;
    if head.metadata.uid != reference.uid {
        return Err(TokenError::Uid { what: what() });
    }
    let deleted = head.metadata.deletion_timestamp.and_then(|at| at.parse::<Timestamp>().ok());
    // Both are times that a client may have given; the end of all times is no end.
    match deleted.is_some_and(|at| now.duration_since(at) > DELETION_LEEWAY) {
        true => Err(gone()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
