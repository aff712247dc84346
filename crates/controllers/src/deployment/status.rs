//! The status of a Deployment, computed from its sets.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::plan::Room;

/// Seconds an update may stand still where the Deployment does not say (its defaulted value upstream).
const PROGRESS_DEADLINE_DEFAULT: i32 = 600;

pub(super) fn status(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    owned: &[Arc<ReplicaSet>],
    now: Timestamp,
    wake: &mut Option<Duration>,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |field: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        owned.iter().filter_map(|set| set.status.as_ref()).map(field).sum::<i32>()
    };
    let some = |number: i32| Some(number).filter(|number| *number != 0);
    let replicas = sum(|status| status.replicas);
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let wanted_now: i32 = owned.iter().map(|set| super::plan::replicas(set)).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(new.and_then(|new| new.status.as_ref()).map_or(0, |status| status.replicas)),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((wanted_now - available).max(0)),
        terminating_replicas: some(sum(|status| status.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let wanted = spec.replicas.unwrap_or(1);
    let room = Room::of(spec, wanted);
    let (state, reason, message) = if available >= wanted - room.unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition("Available", state, reason, message), now);
    let failure = owned
        .iter()
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
    match failure {
        Some(failure) => {
            let (reason, message) = (failure.reason.clone().unwrap_or_default(), failure.message.clone().unwrap_or_default());
            set(&mut status, condition("ReplicaFailure", failure.status.as_deref().unwrap_or("True"), &reason, &message), now);
        }
        None => status
            .conditions
            .iter_mut()
            .for_each(|conditions| conditions.retain(|condition| condition.type_.as_deref() != Some("ReplicaFailure"))),
    }
    progress(deployment, spec, new, &old, &mut status, now, wake);
    status
}

fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    status: &mut DeploymentStatus,
    now: Timestamp,
    wake: &mut Option<Duration>,
) {
    let deadline = spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE_DEFAULT);
    // The API's word for no deadline.
    if deadline == i32::MAX {
        return;
    }
    let current = status.conditions.iter().flatten().find(|condition| condition.type_.as_deref() == Some("Progressing")).cloned();
    if spec.paused == Some(true) {
        if current.as_ref().is_none_or(|condition| condition.reason.as_deref() != Some("DeploymentPaused")) {
            set(status, condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"), now);
        }
        return;
    }
    let name = new.map_or_else(|| deployment.name_any(), |new| new.name_any());
    let what = if new.is_some() { "ReplicaSet" } else { "Deployment" };
    let wanted = spec.replicas.unwrap_or(1);
    let number = |number: Option<i32>| number.unwrap_or(0);
    let complete = number(status.updated_replicas) == wanted
        && number(status.replicas) == wanted
        && number(status.available_replicas) == wanted
        && status.observed_generation == deployment.metadata.generation
        && new.is_some();
    if complete {
        let message = format!("{what} {name:?} has successfully progressed.");
        set(status, condition("Progressing", "True", "NewReplicaSetAvailable", &message), now);
        return;
    }
    let advanced = number(status.updated_replicas) > number(old.updated_replicas)
        || number(status.replicas) - number(status.updated_replicas) < number(old.replicas) - number(old.updated_replicas)
        || number(status.ready_replicas) > number(old.ready_replicas)
        || number(status.available_replicas) > number(old.available_replicas);
    let reason = current.as_ref().and_then(|condition| condition.reason.as_deref()).unwrap_or_default();
    // A change of the template after a complete rollout, and the end of a pause, begin a new one.
    let begins = current.is_none()
        || reason == "DeploymentPaused"
        || (reason == "NewReplicaSetAvailable" && old.observed_generation != deployment.metadata.generation);
    if advanced || begins {
        let message = format!("{what} {name:?} is progressing.");
        let mut fresh = condition("Progressing", "True", "ReplicaSetUpdated", &message);
        fresh.last_update_time = Some(Time(now));
        set(status, fresh, now);
        *wake = Some(Duration::from_secs(u64::from(deadline.unsigned_abs())));
        return;
    }
    if reason == "NewReplicaSetAvailable" || reason == "ProgressDeadlineExceeded" {
        return;
    }
    let since = current.and_then(|condition| condition.last_update_time).map_or(now, |time| time.0);
    let left = i64::from(deadline) - now.as_second().saturating_sub(since.as_second());
    if left > 0 {
        *wake = Some(Duration::from_secs(left.unsigned_abs()));
        return;
    }
    let message = format!("{what} {name:?} has timed out progressing.");
    set(status, condition("Progressing", "False", "ProgressDeadlineExceeded", &message), now);
}

fn condition(kind: &str, state: &str, reason: &str, message: &str) -> DeploymentCondition {
    DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(state.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: None,
        last_transition_time: None,
    }
}

/// Takes a condition in. Its times change only with it: the update time when anything of it is new, the transition time when its state is.
fn set(status: &mut DeploymentStatus, mut fresh: DeploymentCondition, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let found = conditions.iter().position(|condition| condition.type_ == fresh.type_);
    if let Some(old) = found.map(|index| conditions[index].clone()) {
        let same = old.status == fresh.status && old.reason == fresh.reason && old.message == fresh.message;
        if same && fresh.last_update_time.is_none() {
            return;
        }
        if old.status == fresh.status {
            fresh.last_transition_time = old.last_transition_time;
        }
    }
    fresh.last_update_time.get_or_insert(Time(now));
    fresh.last_transition_time.get_or_insert(Time(now));
    match found {
        Some(index) => conditions[index] = fresh,
        None => conditions.push(fresh),
    }
}
