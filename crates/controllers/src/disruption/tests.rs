use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use serde_json::json;

use super::plan::{asks_for_scale, covers, plan};

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn budget(spec: serde_json::Value, status: serde_json::Value) -> PodDisruptionBudget {
    let object = json!({"metadata": {"name": "web", "namespace": "default", "generation": 3}, "spec": spec, "status": status});
    serde_json::from_value(object).unwrap()
}

/// Pods by name: `+` ready, `-` not, `x` ready and going.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let one = |word: &str| {
        let (state, name) = word.split_at(1);
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "status": {"conditions": [{"type": "Ready", "status": if state == "-" { "False" } else { "True" }}]},
        });
        if state == "x" {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T11:59:59Z");
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    text.split_whitespace().map(one).collect()
}

/// `allowed expected desired healthy`, and the reason.
fn check(spec: serde_json::Value, pods_text: &str, scale: i32, expected: &str) {
    let status = plan(&budget(spec.clone(), json!(null)), &pods(pods_text), Ok(scale), now()).status;
    let reason = &status.conditions.as_ref().unwrap()[0].reason;
    let numbers = [status.disruptions_allowed, status.expected_pods, status.desired_healthy, status.current_healthy];
    let shown = format!("{} {reason}", numbers.map(|number| number.unwrap().to_string()).join(" "));
    assert_eq!(shown, expected, "{spec} with {pods_text}, scale {scale}");
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn what_may_be_lost_follows_from_what_must_stay() {
    check(json!({"minAvailable": 2}), "+a +b +c", 0, "1 3 2 3 SufficientPods");
    check(json!({"minAvailable": 2}), "+a +b -c", 0, "0 3 2 2 InsufficientPods");
    check(json!({"minAvailable": 2}), "+a +b xc", 0, "0 3 2 2 InsufficientPods");
    check(json!({"minAvailable": 0}), "", 0, "0 0 0 0 InsufficientPods");
    check(json!({"minAvailable": "50%"}), "+a +b +c", 3, "1 3 2 3 SufficientPods");
    check(json!({"minAvailable": "100%"}), "+a +b", 2, "0 2 2 2 InsufficientPods");
    check(json!({"maxUnavailable": 1}), "+a +b", 3, "0 3 2 2 InsufficientPods");
    check(json!({"maxUnavailable": 1}), "+a +b +c", 3, "1 3 2 3 SufficientPods");
    check(json!({"maxUnavailable": "34%"}), "+a +b +c", 3, "2 3 1 3 SufficientPods");
    check(json!({"maxUnavailable": 5}), "+a", 1, "1 1 0 1 SufficientPods");
}

#[test]
fn an_evicted_pod_is_not_healthy_until_its_grant_runs_out() {
    let granted = |at: &str| json!({"disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptedPods": {"a": at}});
    let look = |at: &str, text: &str| plan(&budget(json!({"minAvailable": 1}), granted(at)), &pods(text), Ok(0), now());

    let fresh = look("2026-01-01T11:59:00Z", "+a +b");
    assert_eq!((fresh.status.current_healthy, fresh.status.disruptions_allowed), (Some(1), Some(0)));
    assert_eq!(fresh.wake.map(|wake| wake.as_secs()), Some(60));

    let forgotten = look("2026-01-01T11:58:00Z", "+a +b");
    assert_eq!((forgotten.status.current_healthy, forgotten.status.disruptions_allowed), (Some(2), Some(1)));
    assert_eq!(forgotten.status.disrupted_pods, None);

    let under_way = look("2026-01-01T11:59:00Z", "xa +b");
    assert_eq!((under_way.status.disrupted_pods, under_way.wake), (None, None));
}

#[test]
fn without_a_known_scale_nothing_may_be_lost() {
    let status =
        plan(&budget(json!({"maxUnavailable": 1}), json!(null)), &pods("+a +b"), Err("Robot r has no scale".to_owned()), now()).status;
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(status.disruptions_allowed, Some(0));
    assert_eq!((&*condition.status, &*condition.reason, &*condition.message), ("False", "SyncFailed", "Robot r has no scale"));
}

#[test]
fn the_condition_keeps_its_time_while_it_stands() {
    let before =
        plan(&budget(json!({"minAvailable": 1}), json!(null)), &pods("+a +b"), Ok(0), now() - SignedDuration::from_hours(1)).status;
    let budget = PodDisruptionBudget { status: Some(before.clone()), ..budget(json!({"minAvailable": 1}), json!(null)) };
    assert_eq!(plan(&budget, &pods("+a +b"), Ok(0), now()).status, before);
    let short = plan(&budget, &pods("+a"), Ok(0), now()).status;
    assert_eq!(short.conditions.unwrap()[0].last_transition_time.0, now());
}

#[test]
fn a_budget_covers_what_it_selects() {
    let covered = |selector: serde_json::Value| covers(&budget(json!({"selector": selector}), json!(null)), &pods("+a")[0]);
    assert!(covered(json!({"matchLabels": {"app": "web"}})));
    assert!(covered(json!({})));
    assert!(!covered(json!({"matchLabels": {"app": "db"}})));
    assert!(!covered(json!(null)));
}

#[test]
fn a_plain_number_that_must_stay_needs_no_scale() {
    assert!(!asks_for_scale(&budget(json!({"minAvailable": 2}), json!(null))));
    assert!(asks_for_scale(&budget(json!({"minAvailable": "10%"}), json!(null))));
    assert!(asks_for_scale(&budget(json!({"maxUnavailable": 0}), json!(null))));
}
