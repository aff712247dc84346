//! `pods/<name>/eviction`: a deletion that a disruption budget may refuse.

use http::Response;
use jiff::Timestamp;
use knarr_api::{Object, Status, select::LabelSelector, status, status::Cause, time};
use knarr_store::{Collection, Entry, Expect, Snapshot};
use serde_json::Value;

use super::success;
use crate::{
    body::{self, Body},
    call::Call,
    request::options::{DeleteOptions, WriteOptions},
    verbs::{delete, write},
};

/// Seconds after which an eviction may be tried again that came before the budget was looked at (registry/core/pod/storage/eviction.go). A budget that
/// is spent names no time, as upstream: clients would wait through it ten times, unseen, where `kubectl drain` says what it waits for.
const RETRY_AFTER_SECONDS: u32 = 10;

const BUDGETS: (&str, &str, &str) = ("policy", "v1", "poddisruptionbudgets");

pub(super) async fn evict(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&call.query)?;
    let mut eviction = super::read_object(call, body).await?;
    if !eviction.name().is_empty() && eviction.name() != call.path.name {
        let message = format!("name in URL does not match name in Eviction object: {} and {}", call.path.name, eviction.name());
        return Err(status::bad_request(message));
    }
    let pod = call.live_object()?;
    let asked = deletion(&eviction, &options)?;
    write::check_preconditions(call, &pod, asked.uid.as_deref(), asked.resource_version.as_deref())?;
    super::admit_act(call, &mut eviction, &pod, &WriteOptions { dry_run: asked.dry_run, ..options.clone() }).await?;
    let mut deletion = deletion(&eviction, &options)?;
    if disturbs(&pod) {
        spend(call, &pod, deletion.dry_run).await?;
    }
    // Not another pod of the same name that came meanwhile.
    deletion.uid = Some(pod.uid().to_owned());
    delete::delete_admitted(call, &call.path.name, &deletion).await?;
    Ok(success(call))
}

fn deletion(eviction: &Object, options: &WriteOptions) -> Result<DeleteOptions, Status> {
    let mut deletion = match eviction.get(&["deleteOptions"]) {
        Some(Value::Object(map)) => DeleteOptions::from_object(map)?,
        _ => DeleteOptions::default(),
    };
    deletion.dry_run |= options.dry_run;
    Ok(deletion)
}

/// Whether losing the pod takes something away: not when it is over, has not begun, or is going already.
fn disturbs(pod: &Object) -> bool {
    pod.deletion_timestamp().is_empty() && !matches!(pod.str(&["status", "phase"]), "Succeeded" | "Failed" | "Pending")
}

/// Takes one disruption from the pod's budget, if it has one.
async fn spend(call: &Call, pod: &Object, dry_run: bool) -> Result<(), Status> {
    let (group, version, resource) = BUDGETS;
    let Some(kind) = call.core.published().kinds.resource(group, version, resource) else { return Ok(()) };
    let snapshot = call.core.store.snapshot();
    let budgets = budgets_of(&snapshot, &Collection::new(kind.storage_collection()), pod)?;
    let (entry, mut budget) = match budgets.len() {
        0 => return Ok(()),
        1 => budgets.into_iter().next().ok_or_else(|| status::internal("a budget was lost"))?,
        _ => {
            return Err(status::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    if !is_ready(pod) && may_lose_unready(&budget) {
        return Ok(());
    }
    let allowed = budget.int(&["status", "disruptionsAllowed"]).unwrap_or(0);
    let observed = budget.int(&["status", "observedGeneration"]).unwrap_or(0) >= budget.generation();
    if !observed || allowed < 1 {
        return Err(refused(&budget, observed));
    }
    if dry_run {
        return Ok(());
    }
    budget.set(&["status", "disruptionsAllowed"], (allowed - 1).into());
    budget.set(&["status", "disruptedPods", pod.name()], time::format(Timestamp::now()).into());
    let spent = write::put(&kind, entry.key.clone(), budget.clone(), Expect::Revision(entry.revision));
    match call.core.store.commit(vec![spent]).await {
        Ok(_) => Ok(()),
        // Someone else has changed the budget: whether there is room is to be asked anew.
        Err(knarr_store::CommitError::Conflict { .. }) => Err(refused(&budget, false)),
        Err(error) => Err(write::commit_failed(error)),
    }
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a pod that is not ready, and so counts for nothing, may go without a disruption being taken for it: always if the budget says so,
/// otherwise only while enough others are healthy.
fn may_lose_unready(budget: &Object) -> bool {
    let number = |field: &str| budget.int(&["status", field]).unwrap_or(0);
    let enough = number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
    budget.str(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow" || enough
}

fn budgets_of(snapshot: &Snapshot, collection: &Collection, pod: &Object) -> Result<Vec<(std::sync::Arc<Entry>, Object)>, Status> {
    let prefix = format!("{}/", pod.namespace());
    let mut found = Vec::new();
    for entry in snapshot.range(collection, &prefix, None) {
        let budget =
            serde_json::from_slice::<Object>(&entry.value).map_err(|error| status::internal(format!("stored {}: {error}", entry.key)))?;
        let selector = budget.get(&["spec", "selector"]).unwrap_or(&Value::Null);
        let selector = LabelSelector::from_value(selector).map_err(status::internal)?;
        if selector.matches(|key| pod.label(key)) {
            found.push((entry.clone(), budget));
        }
    }
    Ok(found)
}

fn refused(budget: &Object, observed: bool) -> Status {
    let pause = if observed { 0 } else { RETRY_AFTER_SECONDS };
    let mut refusal = status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", pause);
    let message = if observed {
        let number = |field: &str| budget.int(&["status", field]).unwrap_or(0);
        format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            budget.name(),
            number("desiredHealthy"),
            number("currentHealthy")
        )
    } else {
        format!("The disruption budget {} is still being processed by the server.", budget.name())
    };
    if let Some(details) = &mut refusal.details {
        details.causes = vec![Cause { reason: "DisruptionBudget".into(), message, field: String::new() }];
    }
    refusal
}
