//! An authorizer outside: it is asked by a SubjectAccessReview, and its answers are remembered for a while
//! (apiserver, plugin/pkg/authorizer/webhook).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use knarr_api::cel::{Budget, OBJECT_COST_MAX, Program, Value as Cel};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Attributes, Decision, Verdict};
use crate::callout::{Callout, CalloutError, Target};

/// Answers remembered (there, cache.NewLRUExpireCache(8192)). Full, those that have ended go, and then all.
const REMEMBERED_MAX: usize = 8192;
/// A question with more bytes is asked every time: one who makes many such must not fill the memory (there, maxControlledAttrCacheSize).
const QUESTION_BYTES_MAX: usize = 10_000;

/// Who answers badly is asked again, all within the webhook's time (there, DefaultRetryBackoffWithInitialDelay: 500 ms, half as much
/// more each time, a fifth by chance).
const ATTEMPTS: usize = 5;
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_GROWTH: f64 = 1.5;
const RETRY_CHANCE: f64 = 0.2;

pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) target: Target,
    /// `v1` or `v1beta1`.
    pub(super) version: String,
    pub(super) time_max: Duration,
    pub(super) allowed_for: Duration,
    pub(super) refused_for: Duration,
    pub(super) denies_on_failure: bool,
    pub(super) conditions: Vec<Program>,
    pub(super) answers: Mutex<HashMap<[u8; 32], (Instant, Decision)>>,
}

/// What is known without asking.
pub(super) enum Known {
    Decision(Decision),
    /// The question is to be put to the webhook.
    Ask(Question),
}

pub(super) struct Question {
    review: String,
    hash: [u8; 32],
}

impl Webhook {
    pub(super) fn known(&self, request: &Attributes<'_>) -> Known {
        match self.is_about(request) {
            Ok(true) => {}
            Ok(false) => return Known::Decision(no_opinion()),
            Err(reason) => return Known::Decision(self.failed(&format!("match condition: {reason}"))),
        }
        let spec = spec(request, false, self.version == "v1beta1");
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.version), "kind": "SubjectAccessReview", "spec": spec,
        })
        .to_string();
        let hash: [u8; 32] = Sha256::digest(&review).into();
        if let Some((since, decision)) = self.answers.lock().get(&hash)
            && since.elapsed() < self.life(decision)
        {
            return Known::Decision(decision.clone());
        }
        Known::Ask(Question { review, hash })
    }

    pub(super) async fn ask(&self, callout: &Callout, question: Question) -> Decision {
        let cacheable = question.review.len() <= QUESTION_BYTES_MAX;
        let answer = match self.call(callout, question.review.into()).await {
            Ok(answer) => answer,
            Err(error) => return self.failed(&error.to_string()),
        };
        let Some(decision) = serde_json::from_slice(&answer).ok().and_then(|answer| decision(&answer)) else {
            return self.failed("the answer is no SubjectAccessReview");
        };
        if cacheable && !self.life(&decision).is_zero() {
            let mut answers = self.answers.lock();
            if answers.len() >= REMEMBERED_MAX {
                answers.retain(|_, (since, decision)| since.elapsed() < self.life(decision));
            }
            if answers.len() >= REMEMBERED_MAX {
                answers.clear();
            }
            answers.insert(question.hash, (Instant::now(), decision.clone()));
        }
        decision
    }

    async fn call(&self, callout: &Callout, review: Bytes) -> Result<Bytes, CalloutError> {
        let end = Instant::now() + self.time_max;
        let mut pause = RETRY_AFTER;
        let mut attempt = 1;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let error = match callout.post(&self.target, "", review.clone(), left).await {
                Err(error) if error.is_momentary() && attempt < ATTEMPTS => error,
                answered => return answered,
            };
            let wait = pause.mul_f64(1.0 + RETRY_CHANCE * fastrand::f64());
            if wait >= end.saturating_duration_since(Instant::now()) {
                return Err(error);
            }
            tracing::debug!(webhook = self.name, attempt, error = &error as &dyn std::error::Error, "ask the authorizer again");
            tokio::time::sleep(wait).await;
            pause = pause.mul_f64(RETRY_GROWTH);
            attempt += 1;
        }
    }

    fn life(&self, decision: &Decision) -> Duration {
        if decision.allowed() { self.allowed_for } else { self.refused_for }
    }

    fn failed(&self, reason: &str) -> Decision {
        tracing::warn!(webhook = self.name, reason, "ask the authorizer");
        match self.denies_on_failure {
            true => Decision { verdict: Verdict::Deny, reason: format!("the authorizer {:?} could not be asked", self.name) },
            false => no_opinion(),
        }
    }

    /// One condition that is false settles it; else one that fails.
    fn is_about(&self, request: &Attributes<'_>) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let spec = spec(request, true, false);
        let budget = Budget::new(OBJECT_COST_MAX);
        let lookup = |name: &str| (name == "request").then(|| Cel::json(&spec));
        let mut failure = None;
        for condition in &self.conditions {
            match condition.evaluate(&lookup, &budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(_) => failure = Some("it is not a boolean".to_owned()),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        failure.map_or(Ok(true), Err)
    }
}

fn no_opinion() -> Decision {
    Decision { verdict: Verdict::NoOpinion, reason: String::new() }
}

/// `None` where the answer says nothing.
fn decision(answer: &Value) -> Option<Decision> {
    let status = answer.get("status")?.as_object()?;
    let is = |field: &str| status.get(field).and_then(Value::as_bool).unwrap_or(false);
    let verdict = match (is("allowed"), is("denied")) {
        // Who says both is not believed.
        (_, true) => Verdict::Deny,
        (true, false) => Verdict::Allow,
        (false, false) => Verdict::NoOpinion,
    };
    let reason = status.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Decision { verdict, reason })
}

/// The spec of a SubjectAccessReview. `whole`: with the fields that are empty, which expressions may name.
pub(super) fn spec(request: &Attributes<'_>, whole: bool, beta: bool) -> Value {
    let user = request.user;
    let mut spec = json!({ "user": user.name, "uid": user.uid, "extra": user.extra });
    spec[if beta { "group" } else { "groups" }] = json!(user.groups);
    if request.resource_request {
        spec["resourceAttributes"] = json!({
            "namespace": request.namespace, "verb": request.verb, "group": request.group, "version": request.version,
            "resource": request.resource, "subresource": request.subresource, "name": request.name,
        });
        request.selectors.describe(&mut spec["resourceAttributes"]);
    } else {
        spec["nonResourceAttributes"] = json!({ "path": request.path, "verb": request.verb });
    }
    if !whole {
        drop_empty(&mut spec);
    }
    spec
}

fn drop_empty(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(drop_empty);
        map.retain(|_, value| match value {
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        });
    }
}
