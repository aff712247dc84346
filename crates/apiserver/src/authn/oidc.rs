//! One issuer of an AuthenticationConfiguration: its keys, found by OpenID Connect Discovery, and the judgement of its tokens.
//!
//! Keys are fetched when the first token comes, again when one does not verify, and, without anyone waiting, when they have become old. Each fetch is one
//! for all who wait, goes on when they leave, and is not repeated for a little while: strangers who send tokens cannot make this server ask the issuer as
//! often as they like.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::claims::Claims;
use super::jwk::{KeySet, TokenRefusal, Unverified};
use crate::User;
use crate::callout::{Callout, Target, Trust};

/// For discovery and keys together. Upstream's client gives 30 s; a request that waits for it has 60.
const FETCH_TIME_MAX: Duration = Duration::from_secs(15);
/// Between two fetches, whatever tokens say.
const FETCH_EVERY_MIN: Duration = Duration::from_secs(10);
/// Older keys are fetched anew with the next token, so that one that the issuer has withdrawn does not serve for ever.
const KEYS_AGE_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a discovery document or a key set. Large providers' have some 10 KiB.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Clocks that disagree this much still agree on when a token begins (go-oidc, verify.go).
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5 * 60;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Why a token of a configured issuer is not accepted. Quotes no claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OidcError {
    #[error("oidc: {0}")]
    Token(#[from] TokenRefusal),
    #[error("oidc: keys of {issuer}: {reason}")]
    Keys { issuer: String, reason: String },
    #[error("oidc: the token has expired, or says not when it does")]
    Expired,
    #[error("oidc: the token is not valid yet")]
    NotYet,
    #[error("oidc: the token is meant for none of the issuer's configured audiences")]
    Audience,
    #[error("oidc: {0}")]
    Claims(String),
}

pub(super) struct Issuer {
    pub(super) url: String,
    /// Where the discovery document is, if not at the issuer's URL.
    pub(super) discovery_url: Option<String>,
    /// PEM.
    pub(super) authority: Option<String>,
    pub(super) audiences: Vec<String>,
    pub(super) claims: Claims,
    pub(super) keys: Keys,
}

#[derive(Default)]
pub(super) struct Keys {
    known: ArcSwapOption<Known>,
    /// When was the last fetch, and what went wrong with it. Held while one is under way.
    last: Arc<Mutex<Last>>,
}

type Last = Option<(Instant, Option<String>)>;

struct Known {
    set: KeySet,
    since: Instant,
}

impl Issuer {
    /// Who shows this token, which names this issuer.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        callout: &Callout,
        token: &Unverified<'_>,
        now: Timestamp,
    ) -> Result<User, OidcError> {
        self.verify(callout, token).await?;
        let time = |claim: &str| token.claims[claim].as_f64();
        let seconds = now.as_second();
        if time("exp").is_none_or(|end| end <= seconds as f64) {
            return Err(OidcError::Expired);
        }
        if time("nbf").is_some_and(|begin| begin > (seconds + NOT_BEFORE_LEEWAY_SECONDS) as f64) {
            return Err(OidcError::NotYet);
        }
        let meant_for = |audience: &Value| self.audiences.iter().any(|own| audience == own);
        let audience = &token.claims["aud"];
        if !(meant_for(audience) || audience.as_array().is_some_and(|all| all.iter().any(meant_for))) {
            return Err(OidcError::Audience);
        }
        self.claims.user(&token.claims).map_err(OidcError::Claims)
    }

    async fn verify(self: &Arc<Self>, callout: &Callout, token: &Unverified<'_>) -> Result<(), OidcError> {
        let known = self.keys.known.load_full();
        let refusal = match &known {
            Some(known) => match known.set.verify(token) {
                Ok(()) => {
                    if known.since.elapsed() >= KEYS_AGE_MAX {
                        self.refresh(callout);
                    }
                    return Ok(());
                }
                // Whatever it is: the issuer may have another key now, also under the same id.
                Err(refusal) => Some(refusal),
            },
            None => None,
        };
        match (self.fetched(callout, known.as_ref()).await, refusal) {
            (Ok(now), _) => Ok(now.set.verify(token)?),
            (Err(_), Some(refusal)) => Err(refusal.into()),
            (Err(reason), None) => Err(OidcError::Keys { issuer: self.url.clone(), reason }),
        }
    }

    /// Keys that are newer than `old`, or those that are known if they were fetched a moment ago.
    async fn fetched(self: &Arc<Self>, callout: &Callout, old: Option<&Arc<Known>>) -> Result<Arc<Known>, String> {
        let last = self.keys.last.clone().lock_owned().await;
        let known = self.keys.known.load_full();
        let newer = match (&known, old) {
            (Some(known), Some(old)) => !Arc::ptr_eq(known, old),
            (known, _) => known.is_some(),
        };
        if let (Some(known), true) = (&known, newer) {
            return Ok(known.clone());
        }
        if let Some((at, fault)) = &*last
            && at.elapsed() < FETCH_EVERY_MIN
        {
            return match (fault, known) {
                (Some(fault), _) => Err(fault.clone()),
                (None, Some(known)) => Ok(known),
                (None, None) => Err("they were fetched a moment ago".to_owned()),
            };
        }
        // Who waits may leave; then the fetch still ends, and counts.
        let fetched = tokio::spawn(self.clone().fetch_anew(callout.clone(), last));
        fetched.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Fetches the keys for those who come later, unless somebody does already.
    fn refresh(self: &Arc<Self>, callout: &Callout) {
        let Ok(last) = self.keys.last.clone().try_lock_owned() else { return };
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() >= FETCH_EVERY_MIN) {
            tokio::spawn(self.clone().fetch_anew(callout.clone(), last));
        }
    }

    async fn fetch_anew(self: Arc<Self>, callout: Callout, mut last: OwnedMutexGuard<Last>) -> Result<Arc<Known>, String> {
        let fetched = tokio::time::timeout(FETCH_TIME_MAX, self.fetch(&callout)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIME_MAX:?}")));
        *last = Some((Instant::now(), fetched.as_ref().err().cloned()));
        match fetched {
            Ok(set) => {
                let known = Arc::new(Known { set, since: Instant::now() });
                self.keys.known.store(Some(known.clone()));
                Ok(known)
            }
            Err(reason) => {
                tracing::warn!(issuer = self.url, reason, "fetch the keys of a token issuer");
                Err(reason)
            }
        }
    }

    async fn fetch(&self, callout: &Callout) -> Result<KeySet, String> {
        let discovery = match &self.discovery_url {
            Some(url) => url.clone(),
            None => format!("{}{WELL_KNOWN}", self.url.trim_end_matches('/')),
        };
        let document = self.get(callout, &discovery).await?;
        let document: Value = serde_json::from_slice(&document).map_err(|error| format!("{discovery}: {error}"))?;
        if document["issuer"] != *self.url {
            return Err(format!("{discovery}: it names another issuer than {}", self.url));
        }
        let keys = document["jwks_uri"].as_str().ok_or_else(|| format!("{discovery}: it has no jwks_uri"))?;
        KeySet::parse(&self.get(callout, keys).await?).map_err(|error| format!("{keys}: {error}"))
    }

    async fn get(&self, callout: &Callout, url: &str) -> Result<Bytes, String> {
        let trust = Trust { authorities: self.authority.as_ref().map(String::as_bytes), ..Trust::default() };
        let target = Target::of_url(url, "url", trust).map_err(|error| error.to_string())?;
        let path = url.parse::<http::Uri>().ok().and_then(|uri| uri.path_and_query().cloned());
        let request = Request::builder()
            .method(Method::GET)
            .uri(path.map_or_else(|| "/".to_owned(), |path| path.to_string()))
            .header(header::HOST, target.host())
            .header(header::ACCEPT, "application/json")
            .body(Empty::new().map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| error.to_string())?;
        let answer = callout.exchange(&target, request).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("{url}: {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect().await.map_err(|error| format!("{url}: {error}"))?;
        Ok(body.to_bytes())
    }
}
