//! What the silence of a node, its conditions and its taints mean for it and its pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How long a node may be silent. A kubelet renews its lease every 10 seconds and may miss three.
const HEARTBEAT_MAX: SignedDuration = SignedDuration::from_secs(40);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// Conditions that keep new pods away while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Conditions that a kubelet reports, and that nobody knows when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(super) struct Input<'a> {
    pub(super) node: &'a Node,
    /// When the node was last heard of.
    pub(super) heartbeat: Timestamp,
    pub(super) now: Timestamp,
}

impl Input<'_> {
    pub(super) fn is_stale(&self) -> bool {
        self.now.duration_since(self.heartbeat) >= HEARTBEAT_MAX
    }
}

pub(super) struct Plan {
    pub(super) now: Timestamp,
    /// Conditions to write; `None` where they stand already.
    pub(super) conditions: Option<Vec<NodeCondition>>,
    /// All taints of the node; `None` where they stand already.
    pub(super) taints: Option<Vec<Taint>>,
    pub(super) unready: Vec<Arc<Pod>>,
    pub(super) evict: Vec<Arc<Pod>>,
    pub(super) wake: Option<Duration>,
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn state<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    condition(node, type_).map(|condition| &*condition.status)
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether the node is in a state that its pods feel.
pub(super) fn needs_pods(node: &Node) -> bool {
    state(node, "Ready") == Some("Unknown") || taints(node).iter().any(|taint| taint.effect == NO_EXECUTE)
}

/// `pods` are those on the node; they matter only where [`needs_pods`] or the node is silent.
pub(super) fn plan(input: &Input<'_>, pods: &[Arc<Pod>]) -> Plan {
    let Input { node, now, .. } = *input;
    let stale = input.is_stale();
    let mut plan = Plan { now, conditions: None, taints: None, unready: Vec::new(), evict: Vec::new(), wake: None };
    let mut ready = state(node, "Ready").unwrap_or("Unknown").to_owned();
    if stale {
        plan.conditions = unknown_conditions(node, now);
        ready = "Unknown".to_owned();
    } else {
        let left = HEARTBEAT_MAX - now.duration_since(input.heartbeat);
        plan.wake = Some(left.unsigned_abs());
    }
    let wanted = wanted_taints(node, &ready, now);
    if !same(&wanted, taints(node)) {
        plan.taints = Some(wanted.clone());
    }
    let alive = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    if ready == "Unknown" {
        plan.unready = alive.clone().filter(|pod| is_ready(pod)).cloned().collect();
    }
    let executing: Vec<&Taint> = wanted.iter().filter(|taint| taint.effect == NO_EXECUTE).collect();
    for pod in alive {
        match leaves_at(pod, &executing, now) {
            Some(at) if at <= now => plan.evict.push(Arc::clone(pod)),
            Some(at) => {
                let wait = at.duration_since(now).unsigned_abs();
                plan.wake = Some(plan.wake.map_or(wait, |wake| wake.min(wait)));
            }
            None => (),
        }
    }
    plan
}

fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let stale: Vec<NodeCondition> = REPORTED
        .iter()
        .filter(|type_| state(node, type_) != Some("Unknown"))
        .map(|type_| {
            let known = condition(node, type_);
            let (reason, message) = match known {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: known.and_then(|known| known.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            }
        })
        .collect();
    (!stale.is_empty()).then_some(stale)
}

/// The node's taints, with ours as its state wants them. A taint that stays keeps its time: tolerations count from it.
fn wanted_taints(node: &Node, ready: &str, now: Timestamp) -> Vec<Taint> {
    let mut ours: Vec<(&str, &str)> = Vec::new();
    let key = match ready {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = key {
        ours.extend([(key, NO_SCHEDULE), (key, NO_EXECUTE)]);
    }
    for (condition, key) in PRESSURES {
        if state(node, condition) == Some("True") {
            ours.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        ours.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let managed = |taint: &Taint| {
        let state = matches!(&*taint.key, NOT_READY | UNREACHABLE);
        let condition = taint.key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| taint.key == *key);
        state || (condition && taint.effect == NO_SCHEDULE)
    };
    let is = |taint: &Taint, key: &str, effect: &str| taint.key == key && taint.effect == effect;
    let mut wanted: Vec<Taint> =
        taints(node).iter().filter(|taint| !managed(taint) || ours.iter().any(|(key, effect)| is(taint, key, effect))).cloned().collect();
    for (key, effect) in ours {
        if !wanted.iter().any(|taint| is(taint, key, effect)) {
            let time_added = (effect == NO_EXECUTE).then_some(Time(now));
            wanted.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    wanted
}

fn same(one: &[Taint], two: &[Taint]) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.key == two.key && one.effect == two.effect)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// When a pod must leave a node with these taints; `None` where it tolerates them for ever.
fn leaves_at(pod: &Pod, taints: &[&Taint], now: Timestamp) -> Option<Timestamp> {
    let none = Vec::new();
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref()).unwrap_or(&none);
    let of_taint = |taint: &&Taint| -> Option<Timestamp> {
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let mut matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Some(now);
        }
        let shortest = matching.filter_map(|toleration| toleration.toleration_seconds).min()?;
        Some(since.checked_add(SignedDuration::from_secs(shortest.max(0))).unwrap_or(Timestamp::MAX))
    };
    taints.iter().filter_map(of_taint).min()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists || value(&toleration.value) == value(&taint.value))
}

/// `unreachable:NoExecute`, for tests and logs.
#[cfg(test)]
fn short(taint: &Taint) -> String {
    format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use kube::ResourceExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_767_323_045).expect("a time")
    }

    fn ago(seconds: i64) -> Timestamp {
        now().checked_sub(SignedDuration::from_secs(seconds)).expect("a time")
    }

    /// `node ready=True heard=5 [cordoned] [pressure] [taint=key:effect:age]`, then pods: `pod a [ready] [tolerates=key:seconds]`.
    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let mut lines = text.lines();
        let words: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        let value = |words: &[&str], key: &str| words.iter().find_map(|word| Some(word.strip_prefix(key)?.strip_prefix('=')?.to_owned()));
        let heard: i64 = value(&words, "heard").and_then(|heard| heard.parse().ok()).unwrap_or(5);
        let taints: Vec<Value> = value(&words, "taint")
            .iter()
            .map(|taint| {
                let parts: Vec<&str> = taint.split(':').collect();
                json!({ "key": format!("node.kubernetes.io/{}", parts[0]), "effect": parts[1], "timeAdded": ago(parts[2].parse().expect("seconds")).to_string() })
            })
            .collect();
        let pressure = if words.contains(&"pressure") { "True" } else { "False" };
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": "n1" },
            "spec": { "taints": taints, "unschedulable": words.contains(&"cordoned") },
            "status": { "conditions": [
                { "type": "Ready", "status": value(&words, "ready").unwrap_or("True".to_owned()) },
                { "type": "MemoryPressure", "status": pressure },
            ] },
        }))
        .expect("a node");
        let pods: Vec<Arc<Pod>> = lines
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let tolerations: Vec<Value> = value(&words, "tolerates")
                    .iter()
                    .map(|toleration| {
                        let (key, seconds) = toleration.split_once(':').unwrap_or((toleration, ""));
                        json!({ "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "tolerationSeconds": seconds.parse::<i64>().ok() })
                    })
                    .collect();
                let ready = if words.contains(&"ready") { "True" } else { "False" };
                let pod = json!({
                    "metadata": { "name": words[1], "deletionTimestamp": words.contains(&"deleting").then(|| now().to_string()) },
                    "spec": { "containers": [], "tolerations": tolerations },
                    "status": { "conditions": [{ "type": "Ready", "status": ready }] },
                });
                Arc::new(serde_json::from_value(pod).expect("a pod"))
            })
            .collect();
        let plan = plan(&Input { node: &node, heartbeat: ago(heard), now: now() }, &pods);
        let mut said = Vec::new();
        if let Some(conditions) = &plan.conditions {
            said.push(format!("unknown {}", conditions.iter().map(|condition| &*condition.type_).collect::<Vec<_>>().join(" ")));
        }
        if let Some(taints) = &plan.taints {
            said.push(format!("taint {}", taints.iter().map(short).collect::<Vec<_>>().join(" ")));
        }
        for (verb, pods) in [("unready", &plan.unready), ("evict", &plan.evict)] {
            if !pods.is_empty() {
                said.push(format!("{verb} {}", pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(" ")));
            }
        }
        if let Some(wake) = plan.wake {
            said.push(format!("wake in {}s", wake.as_secs()));
        }
        expected.assert_eq(&said.join("\n"));
    }

    #[test]
    fn a_node_that_speaks_is_left_alone() {
        check("node heard=5\npod a ready", expect!["wake in 35s"]);
        check(
            "node heard=5 taint=unreachable:NoExecute:9",
            expect![[r#"
            taint 
            wake in 35s"#]],
        );
    }

    #[test]
    fn a_silent_node_is_unknown_tainted_and_its_pods_unready() {
        check(
            "node heard=40\npod a ready tolerates=unreachable:300\npod b ready deleting",
            expect![[r#"
            unknown Ready MemoryPressure DiskPressure PIDPressure
            taint unreachable:NoSchedule unreachable:NoExecute
            unready a
            wake in 300s"#]],
        );
        check(
            "node ready=Unknown heard=90 taint=unreachable:NoSchedule:50\npod a",
            expect![[r#"
            unknown MemoryPressure DiskPressure PIDPressure
            taint unreachable:NoSchedule unreachable:NoExecute
            evict a"#]],
        );
    }

    #[test]
    fn conditions_and_cordons_become_taints() {
        check(
            "node ready=False\npod a ready tolerates=not-ready:300",
            expect![[r#"
            taint not-ready:NoSchedule not-ready:NoExecute
            wake in 35s"#]],
        );
        check(
            "node pressure cordoned",
            expect![[r#"
            taint memory-pressure:NoSchedule unschedulable:NoSchedule
            wake in 35s"#]],
        );
    }

    #[test]
    fn pods_leave_when_their_toleration_ends() {
        check(
            "node taint=other:NoExecute:100\npod a tolerates=other:90\npod b tolerates=other:130\npod c tolerates=other\npod d",
            expect![[r#"
                evict a d
                wake in 30s"#]],
        );
        check("node taint=other:NoSchedule:100\npod a", expect!["wake in 35s"]);
    }
}
