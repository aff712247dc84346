//! Where to put one pod: pure, from the cache as it is.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use crate::cache::{Cache, NodeState};
use crate::plugins::{PlugIns, Prepared};
use crate::pod::PodInfo;

/// Clusters of up to this many nodes are looked at whole (schedule_one.go, minFeasibleNodesToFind).
const NODES_ALL_MAX: usize = 100;
/// Of larger ones at least this share of nodes that will do is compared, in hundredths.
const SHARE_MIN: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Bind {
        node: String,
    },
    /// No node will do.
    Wait(Misfit),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// For the event and the pod's condition.
    pub(crate) message: String,
    /// Who said no; empty when there was no node to ask about.
    pub(crate) rejected_by: PlugIns,
}

/// Plans one pod. `start` is the number of the node to look at first; it comes back moved on, so that large clusters are used evenly.
pub(crate) fn plan(cache: &Cache, pod: &PodInfo, start: &mut usize) -> Plan {
    let count = cache.len();
    if count == 0 {
        return Plan::Wait(Misfit { message: "no nodes available to schedule pods".to_owned(), rejected_by: PlugIns::default() });
    }
    let prepared = Prepared::new(cache, pod);
    let enough = enough_nodes(count);
    let mut fitting: Vec<(&str, &NodeState)> = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut rejected_by = PlugIns::default();
    let mut looked_at = 0;
    while looked_at < count && fitting.len() < enough {
        let (name, state) = cache.node_at(*start + looked_at);
        looked_at += 1;
        match prepared.filter(name, state) {
            Ok(()) => fitting.push((name, state)),
            Err(rejection) => {
                rejected_by.insert(rejection.plug_in);
                for reason in rejection.reasons {
                    *reasons.entry(reason.into_owned()).or_default() += 1;
                }
            }
        }
    }
    *start = (*start + looked_at) % count;
    match best(&prepared, &fitting) {
        Some(node) => Plan::Bind { node },
        None => Plan::Wait(Misfit { message: message(count, reasons), rejected_by }),
    }
}

/// How many nodes that will do are enough to choose among: fewer, in share, the more there are (numFeasibleNodesToFind).
fn enough_nodes(count: usize) -> usize {
    if count <= NODES_ALL_MAX {
        return count;
    }
    let share = 50usize.saturating_sub(count / 125).max(SHARE_MIN);
    (count * share / 100).max(NODES_ALL_MAX)
}

/// The best scored; among equals the one with the fewest pods, then by a hash of both names, so that equals take turns and a plan
/// made again is the same.
fn best(prepared: &Prepared<'_>, fitting: &[(&str, &NodeState)]) -> Option<String> {
    if let [(only, _)] = fitting {
        return Some((*only).to_owned());
    }
    let scores = prepared.score(fitting);
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let rank = |((name, state), score): &(&(&str, &NodeState), i64)| {
        (std::cmp::Reverse(*score), state.pods.len(), hasher.hash_one((prepared.pod.uid(), prepared.pod.key.name.as_str(), name)))
    };
    fitting.iter().zip(scores).min_by_key(rank).map(|((name, _), _)| (*name).to_owned())
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn message(count: usize, reasons: BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.into_iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
    parts.sort();
    format!("0/{count} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests;
