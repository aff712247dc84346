//! Tokens that another service knows: it is asked by a TokenReview, and its answers are remembered for a while
//! (apiserver, plugin/pkg/authenticator/token/webhook).

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use knarr_api::Object;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::User;
use crate::callout::{Callout, ConfigError, Target};

/// For one answer, as upstream's client waits.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// How long an answer is good: upstream's --authentication-token-webhook-cache-ttl.
pub const CACHE_TIME: Duration = Duration::from_secs(120);
/// Answers remembered. Each has a hash and a user; full, those that have ended go, and then all.
const REMEMBERED_MAX: usize = 4096;

pub(super) struct Webhook {
    target: Target,
    remember: Duration,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
}

/// Since when, and who.
type Answer = (Instant, Option<User>);

impl Webhook {
    pub(super) fn new(kubeconfig: &Path, remember: Duration) -> Result<Webhook, ConfigError> {
        Ok(Webhook { target: Target::from_kubeconfig(kubeconfig)?, remember, answers: Mutex::default() })
    }

    /// Who shows this token to `audience`; `None` where the service does not know it. The error is for the log.
    pub(super) async fn authenticate(&self, callout: &Callout, token: &str, audience: &str) -> Result<Option<User>, String> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some((since, known)) = self.answers.lock().get(&hash)
            && since.elapsed() < self.remember
        {
            return Ok(known.clone());
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        });
        let answer = callout.post(&self.target, "", review.to_string().into(), CALL_TIME_MAX).await.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| format!("the answer is no TokenReview: {error}"))?;
        // Its trouble is not an answer, and is not remembered as one.
        if answer["status"]["authenticated"] != true
            && let Some(trouble) = answer["status"]["error"].as_str().filter(|text| !text.is_empty())
        {
            return Err(trouble.to_owned());
        }
        let user = user(&answer, audience);
        let mut answers = self.answers.lock();
        if answers.len() >= REMEMBERED_MAX {
            answers.retain(|_, (since, _)| since.elapsed() < self.remember);
        }
        if answers.len() >= REMEMBERED_MAX {
            answers.clear();
        }
        answers.insert(hash, (Instant::now(), user.clone()));
        Ok(user)
    }
}

fn user(answer: &Value, audience: &str) -> Option<User> {
    let answer = Object::from_value(answer.clone())?;
    if answer.get(&["status", "authenticated"]) != Some(&true.into()) {
        return None;
    }
    // A service that says nothing of audiences knows only this one.
    let audiences = answer.list(&["status", "audiences"]);
    if !audiences.is_empty() && !audiences.iter().any(|one| one == audience) {
        return None;
    }
    let name = answer.str(&["status", "user", "username"]);
    let texts = |list: &[Value]| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let mut user = User::authenticated(name, texts(answer.list(&["status", "user", "groups"])));
    user.uid = answer.str(&["status", "user", "uid"]).to_owned();
    let extra = answer.get(&["status", "user", "extra"]).and_then(Value::as_object);
    user.extra =
        extra.into_iter().flatten().map(|(key, values)| (key.clone(), texts(values.as_array().map_or(&[], Vec::as_slice)))).collect();
    (!name.is_empty()).then_some(user)
}
