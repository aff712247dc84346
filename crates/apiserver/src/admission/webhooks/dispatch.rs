//! Asking the hooks: those that change the object one after the other, those that only judge it all at once.

use knarr_api::{Object, Status, decode::FieldValidation, patch, status};
use serde_json::json;

use super::{Hook, HookId, is_exempt, review};
use crate::admission::{Chain, Request, matching::View, reinvocation::Reinvocation, webhooks::review::Answer};

/// Why a hook gave no usable answer, in upstream's words.
struct Unanswered(String);

/// Asks the mutating hooks in turn and says whether one changed the object.
pub(in crate::admission) async fn mutate(
    chain: &Chain,
    request: &mut Request<'_>,
    again: &mut Reinvocation<HookId>,
) -> Result<bool, Status> {
    if is_exempt(request) {
        return Ok(false);
    }
    let hooks = chain.webhooks.at(&chain.store.snapshot());
    again.begin(request.object);
    let mut changed = false;
    let mut place = 0;
    for hook in &hooks.mutating {
        if !again.is_due(&hook.id) {
            continue;
        }
        let asked = hook.asks(chain, &chain.store.snapshot(), request).await?;
        let Some(view) = asked else { continue };
        hook.check_dry_run(request)?;
        let at = format!("round_{}_index_{place}", again.round());
        place += 1;
        let answer = match ask(chain, hook, &view, true).await {
            Ok(answer) => answer,
            Err(failure) => {
                pass_over(chain, hook, request, failure, true, format!("failed-open.mutation.webhook.admission.k8s.io/{at}"))?;
                continue;
            }
        };
        note(hook, request, &answer);
        if !answer.allowed {
            return Err(chain.webhook_counts.rejected(&hook.name, true, request, answer.denial(&hook.name)));
        }
        let mutated = apply(chain, hook, request, view, &answer).await?;
        let noted = json!({"configuration": hook.id.0, "webhook": hook.name, "mutated": mutated});
        request.annotations.insert(format!("mutation.webhook.admission.k8s.io/{at}"), noted.to_string());
        if mutated {
            changed = true;
            again.object_changed();
        }
        if hook.reinvoked {
            again.asked(hook.id.clone());
        }
    }
    again.end(request.object);
    Ok(changed)
}

/// Asks all validating hooks at once. The error is that of the first in order.
pub(in crate::admission) async fn validate(chain: &Chain, request: &mut Request<'_>) -> Result<(), Status> {
    if is_exempt(request) {
        return Ok(());
    }
    let snapshot = chain.store.snapshot();
    let hooks = chain.webhooks.at(&snapshot);
    let mut asked = Vec::new();
    for hook in &hooks.validating {
        if let Some(view) = hook.asks(chain, &snapshot, request).await? {
            hook.check_dry_run(request)?;
            asked.push((hook, view));
        }
    }
    drop(snapshot);
    let answers = futures::future::join_all(asked.iter().map(|(hook, view)| ask(chain, hook, view, false))).await;
    let mut outcome = Ok(());
    for (place, ((hook, _), answer)) in asked.iter().zip(answers).enumerate() {
        let judged = match answer {
            Ok(answer) => {
                note(hook, request, &answer);
                match answer.allowed {
                    true => Ok(()),
                    false => Err(chain.webhook_counts.rejected(&hook.name, false, request, answer.denial(&hook.name))),
                }
            }
            Err(failure) => {
                let annotation = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{place}");
                pass_over(chain, hook, request, failure, false, annotation)
            }
        };
        outcome = outcome.and(judged);
    }
    outcome
}

async fn ask(chain: &Chain, hook: &Hook, view: &View, mutating: bool) -> Result<Answer, Unanswered> {
    let target = match &*hook.target {
        Ok(target) => target,
        Err(error) => return Err(Unanswered(format!("could not get REST client: {error}"))),
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(hook.version, view.admission_request(), &uid);
    let query = format!("timeout={}s", hook.time_max.as_secs());
    let bytes = chain.callout.post(target, &query, question, hook.time_max).await;
    let bytes = bytes.map_err(|error| Unanswered(format!("failed to call webhook: {error}")))?;
    Answer::read(&bytes, hook.version, &uid, mutating).map_err(|why| Unanswered(format!("received invalid webhook response: {why}")))
}

/// Fails the request, unless the hook's failure policy is to go on.
fn pass_over(
    chain: &Chain,
    hook: &Hook,
    request: &mut Request<'_>,
    Unanswered(why): Unanswered,
    mutating: bool,
    annotation: String,
) -> Result<(), Status> {
    let failure = format!("failed calling webhook {:?}: {why}", hook.name);
    tracing::warn!(configuration = hook.id.0, ignored = hook.ignore, "{failure}");
    if hook.ignore {
        request.annotations.insert(annotation, hook.name.clone());
        chain.webhook_counts.passed_over(&hook.name, mutating);
        return Ok(());
    }
    Err(chain.webhook_counts.failed(&hook.name, mutating, request, status::internal(failure)))
}

fn note(hook: &Hook, request: &mut Request<'_>, answer: &Answer) {
    request.annotations.extend(answer.annotations.iter().map(|(key, value)| (format!("{}/{key}", hook.name), value.clone())));
    request.warnings.extend(answer.warnings.iter().cloned());
}

/// Patches the request's object and says whether that changed it.
async fn apply(chain: &Chain, hook: &Hook, request: &mut Request<'_>, view: View, answer: &Answer) -> Result<bool, Status> {
    let operations: Vec<serde_json::Value> = match answer.patch.is_empty() {
        true => return Ok(false),
        false => serde_json::from_slice(&answer.patch).map_err(|error| status::internal(error.to_string()))?,
    };
    if operations.is_empty() {
        return Ok(false);
    }
    let nothing_to_patch = || {
        status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        ))
    };
    let before = Object::from_value(view.object.clone()).ok_or_else(nothing_to_patch)?;
    let patched = patch::json(&before, &answer.patch).map_err(|error| status::internal(error.message))?;
    view.take_back(&chain.conversions, request, patched, FieldValidation::Ignore).await
}
