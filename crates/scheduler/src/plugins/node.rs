//! NodeUnschedulable, NodeName, NodeAffinity, NodePorts.

use k8s_openapi::api::core::v1::{Node, Taint};

use super::{PlugIn, Rejection, taints};
use crate::cache::NodeState;
use crate::labels::term_matches;
use crate::pod::PodInfo;

/// A cordoned node takes only pods that tolerate the taint of that name.
pub(super) fn unschedulable(pod: &PodInfo, node: &Node) -> Result<(), Rejection> {
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true) {
        return Ok(());
    }
    let taint = Taint { key: "node.kubernetes.io/unschedulable".to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    match pod.tolerations().iter().any(|toleration| taints::tolerates(toleration, &taint)) {
        true => Ok(()),
        false => Err(Rejection::new(PlugIn::NodeUnschedulable, "node(s) were unschedulable")),
    }
}

pub(super) fn name(pod: &PodInfo, name: &str) -> Result<(), Rejection> {
    match pod.spec().and_then(|spec| spec.node_name.as_deref()) {
        Some(wanted) if !wanted.is_empty() && wanted != name => {
            Err(Rejection::new(PlugIn::NodeName, "node(s) didn't match the requested node name"))
        }
        _ => Ok(()),
    }
}

/// `nodeSelector`, and the terms of required node affinity, one of which must hold.
pub(super) fn affinity(pod: &PodInfo, node: &Node) -> Result<(), Rejection> {
    match matches_node(pod, node) {
        true => Ok(()),
        false => Err(Rejection::new(PlugIn::NodeAffinity, "node(s) didn't match Pod's node affinity/selector")),
    }
}

pub(super) fn matches_node(pod: &PodInfo, node: &Node) -> bool {
    let Some(spec) = pod.spec() else { return true };
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// The weights of the preferred terms that the node fulfils.
pub(super) fn preference(pod: &PodInfo, state: &NodeState) -> i64 {
    let (Some(spec), Some(node)) = (pod.spec(), &state.node) else { return 0 };
    let preferred = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref());
    let fulfilled = preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
    fulfilled.map(|term| i64::from(term.weight)).sum()
}

pub(super) fn ports(pod: &PodInfo, state: &NodeState) -> Result<(), Rejection> {
    let taken = pod.host_ports.iter().any(|wanted| state.host_ports.iter().any(|have| have.conflicts(wanted)));
    match taken {
        false => Ok(()),
        true => Err(Rejection::new(PlugIn::NodePorts, "node(s) didn't have free ports for the requested pod ports")),
    }
}
