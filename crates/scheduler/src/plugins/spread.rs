//! PodTopologySpread: pods of one kind evenly over zones, nodes or whatever a constraint names.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{PlugIn, Rejection, SCORE_MAX, node, taints};
use crate::cache::{Cache, NodeState};
use crate::labels::selects;
use crate::pod::PodInfo;

pub(super) struct Prepared<'a> {
    pod: &'a PodInfo,
    /// Constraints that must hold, and those that should, each with the number of matching pods by value of its label.
    hard: Vec<Counted<'a>>,
    soft: Vec<Counted<'a>>,
}

struct Counted<'a> {
    constraint: &'a TopologySpreadConstraint,
    by_value: HashMap<String, i64>,
}

impl Counted<'_> {
    /// The smallest count, or 0 while there are fewer places than the constraint wants at least.
    fn least(&self) -> i64 {
        let wanted = self.constraint.min_domains.unwrap_or(1);
        match i64::try_from(self.by_value.len()).unwrap_or(i64::MAX) < i64::from(wanted) {
            true => 0,
            false => self.by_value.values().copied().min().unwrap_or(0),
        }
    }
}

impl<'a> Prepared<'a> {
    pub(super) fn new(cache: &Cache, pod: &'a PodInfo) -> Prepared<'a> {
        let constraints = pod.spec().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default();
        let (hard, soft): (Vec<_>, Vec<_>) = constraints.iter().partition(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        Prepared {
            pod,
            hard: hard.into_iter().map(|constraint| count(cache, pod, constraint)).collect(),
            soft: soft.into_iter().map(|constraint| count(cache, pod, constraint)).collect(),
        }
    }

    pub(super) fn filter(&self, state: &NodeState) -> Result<(), Rejection> {
        for counted in &self.hard {
            let constraint = counted.constraint;
            let Some(value) = state.label(&constraint.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::new(PlugIn::PodTopologySpread, reason));
            };
            let own = i64::from(is_counted(constraint, self.pod, self.pod));
            let here = counted.by_value.get(value).copied().unwrap_or(0);
            if here + own - counted.least() > i64::from(constraint.max_skew) {
                return Err(Rejection::new(PlugIn::PodTopologySpread, "node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    /// The fewer matching pods in its places, the better a node.
    pub(super) fn score(&self, nodes: &[(&str, &NodeState)]) -> Vec<i64> {
        if self.soft.is_empty() {
            return vec![0; nodes.len()];
        }
        let crowd = |state: &NodeState| -> i64 {
            let of = |counted: &Counted<'_>| match state.label(&counted.constraint.topology_key) {
                Some(value) => counted.by_value.get(value).copied().unwrap_or(0),
                // Without the label a node counts as the fullest place.
                None => counted.by_value.values().copied().max().unwrap_or(0) + 1,
            };
            self.soft.iter().map(of).sum()
        };
        let crowds: Vec<i64> = nodes.iter().map(|(_, state)| crowd(state)).collect();
        let most = crowds.iter().copied().max().unwrap_or(0);
        crowds.into_iter().map(|crowd| if most == 0 { SCORE_MAX } else { SCORE_MAX * (most - crowd) / most }).collect()
    }
}

/// Counts the pods that match, on the nodes that the pod may use at all.
fn count<'a>(cache: &Cache, pod: &PodInfo, constraint: &'a TopologySpreadConstraint) -> Counted<'a> {
    let honour_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honour_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let mut by_value = HashMap::new();
    for (_, state) in cache.nodes() {
        let (Some(value), Some(node)) = (state.label(&constraint.topology_key), &state.node) else { continue };
        if (honour_affinity && !node::matches_node(pod, node)) || (honour_taints && taints::filter(pod, node).is_err()) {
            continue;
        }
        let matching = state.pods.values().filter(|other| is_counted(constraint, pod, other)).count();
        *by_value.entry(value.to_owned()).or_default() += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    Counted { constraint, by_value }
}

/// Pods of the same namespace that the selector names, and that are to stay.
fn is_counted(constraint: &TopologySpreadConstraint, pod: &PodInfo, other: &PodInfo) -> bool {
    let label = |pod: &PodInfo, key: &str| pod.pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    other.key.namespace == pod.key.namespace
        && other.pod.metadata.deletion_timestamp.is_none()
        && selects(constraint.label_selector.as_ref(), other.pod.metadata.labels.as_ref())
        && constraint.match_label_keys.iter().flatten().all(|key| label(pod, key).is_none_or(|value| label(other, key) == Some(value)))
}
