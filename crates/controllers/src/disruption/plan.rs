//! What a budget allows, computed from its pods (pkg/controller/disruption/disruption.go).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, Time},
        util::intstr::IntOrString,
    },
};

use crate::owner;

/// A pod whose eviction was granted, and which is not being deleted after this time, stays: the grant is taken back (upstream's DeletionTimeout).
const GRANT_TIME_MAX: SignedDuration = SignedDuration::from_mins(2);

const CONDITION: &str = "DisruptionAllowed";

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    pub(super) wake: Option<Duration>,
}

/// Whether the budget is about the pod. An empty selector chooses all pods of the namespace, a missing one none.
pub(super) fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    match budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        Some(selector) if *selector == LabelSelector::default() => true,
        Some(selector) => owner::selects(selector, &pod.metadata),
        None => false,
    }
}

/// Whether it matters how many pods there should be: not where a number of them must stay.
pub(super) fn asks_for_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|spec| spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_))))
}

/// `pods` are those that the budget covers, `scale` is how many their controllers want, or why that is not known.
pub(super) fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], scale: Result<i32, String>, now: Timestamp) -> Plan {
    let old = budget.status.clone().unwrap_or_default();
    let (granted, wake) = still_granted(&old, pods, now);
    let healthy = pods.iter().filter(|pod| is_healthy(pod) && !granted.contains_key(name(pod))).count();
    let current = i32::try_from(healthy).unwrap_or(i32::MAX);
    let room = scale.and_then(|scale| room(budget, i32::try_from(pods.len()).unwrap_or(i32::MAX), scale));
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        disrupted_pods: (!granted.is_empty()).then_some(granted),
        observed_generation: budget.metadata.generation,
        conditions: old.conditions.clone(),
        ..PodDisruptionBudgetStatus::default()
    };
    let condition = match room {
        Ok((expected, desired)) => {
            let allowed = if expected > 0 { (current - desired).max(0) } else { 0 };
            (status.expected_pods, status.desired_healthy, status.disruptions_allowed) = (Some(expected), Some(desired), Some(allowed));
            if allowed > 0 { ("True", "SufficientPods", String::new()) } else { ("False", "InsufficientPods", String::new()) }
        }
        Err(trouble) => {
            let zero = Some(0);
            (status.expected_pods, status.desired_healthy) = (old.expected_pods.or(zero), old.desired_healthy.or(zero));
            status.disruptions_allowed = zero;
            ("False", "SyncFailed", trouble)
        }
    };
    set_condition(&mut status, condition, now);
    Plan { status, wake }
}

/// How many pods are expected, and how many of them must stay healthy.
fn room(budget: &PodDisruptionBudget, pods: i32, scale: i32) -> Result<(i32, i32), String> {
    let Some(spec) = &budget.spec else { return Ok((pods, 0)) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(lost), _) => Ok((scale, (scale - share("maxUnavailable", lost, scale)?).max(0))),
        (None, Some(IntOrString::Int(stay))) => Ok((pods, *stay)),
        (None, Some(stay)) => Ok((scale, share("minAvailable", stay, scale)?)),
        (None, None) => Ok((pods, 0)),
    }
}

/// A number, or a part of `whole`, rounded up.
fn share(field: &str, value: &IntOrString, whole: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or(format!("{field} {text:?} is no percentage"))?;
            Ok(i32::try_from((i64::from(whole) * percent + 99) / 100).unwrap_or(i32::MAX))
        }
    }
}

/// Evictions that were granted and whose pods still look as if nothing had happened, and when the first of them must be looked at again.
fn still_granted(old: &PodDisruptionBudgetStatus, pods: &[Arc<Pod>], now: Timestamp) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut granted = BTreeMap::new();
    let mut wake: Option<Duration> = None;
    for (pod, since) in old.disrupted_pods.iter().flatten() {
        let stands = pods.iter().any(|it| name(it) == pod && it.metadata.deletion_timestamp.is_none());
        let left = GRANT_TIME_MAX - now.duration_since(since.0);
        if stands && left.is_positive() {
            granted.insert(pod.clone(), since.clone());
            let left = Duration::try_from(left).unwrap_or_default();
            wake = Some(wake.map_or(left, |wake| wake.min(left)));
        }
    }
    (granted, wake)
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn is_healthy(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn set_condition(status: &mut PodDisruptionBudgetStatus, (state, reason, message): (&str, &str, String), now: Timestamp) {
    let observed_generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == CONDITION);
    let last_transition_time = old.filter(|old| old.status == state).map_or(Time(now), |old| old.last_transition_time.clone());
    let new = Condition {
        type_: CONDITION.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation,
        last_transition_time,
    };
    conditions.retain(|condition| condition.type_ != CONDITION);
    conditions.push(new);
}
