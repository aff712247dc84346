//! The plug-ins: each answers whether a node will do (filter), how well (score), and which changes in the cluster may alter its answer (wakes).
//!
//! Names, order, weights and words are upstream's default profile, so that messages and placements are those that people know.

mod affinity;
mod images;
mod node;
mod resources;
mod spread;
mod taints;

use std::borrow::Cow;

use crate::cache::{Cache, NodeState};
use crate::pod::PodInfo;

/// Best score of one plug-in for one node.
pub(crate) const SCORE_MAX: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum PlugIn {
    NodeUnschedulable = 1,
    NodeName = 1 << 1,
    TaintToleration = 1 << 2,
    NodeAffinity = 1 << 3,
    NodePorts = 1 << 4,
    NodeResourcesFit = 1 << 5,
    PodTopologySpread = 1 << 6,
    InterPodAffinity = 1 << 7,
}

/// A set of plug-ins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlugIns(u16);

impl PlugIns {
    pub(crate) fn insert(&mut self, plug_in: PlugIn) {
        self.0 |= plug_in as u16;
    }

    pub(crate) fn contains(self, plug_in: PlugIn) -> bool {
        self.0 & plug_in as u16 != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What happened in the cluster, as far as pods that found no node may care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    NodeAdded,
    /// Which parts of a node are different now.
    NodeChanged {
        labels: bool,
        taints: bool,
        resources: bool,
    },
    /// A pod took a place.
    PodPlaced,
    /// A pod left a place, or its labels changed.
    PodLeft,
    NamespaceChanged,
}

/// Whether a pod that `rejected` it may find a node after `happening`.
pub(crate) fn may_help(rejected: PlugIns, happening: Happening) -> bool {
    use PlugIn::*;
    let any = |plug_ins: &[PlugIn]| plug_ins.iter().any(|plug_in| rejected.contains(*plug_in));
    // No node at all rejected it: whatever comes may help.
    if rejected.is_empty() {
        return true;
    }
    match happening {
        Happening::NodeAdded => true,
        Happening::NodeChanged { labels, taints, resources } => {
            (labels && any(&[NodeAffinity, PodTopologySpread, InterPodAffinity, TaintToleration, NodeUnschedulable]))
                || (taints && any(&[TaintToleration, NodeUnschedulable, PodTopologySpread]))
                || (resources && any(&[NodeResourcesFit]))
        }
        Happening::PodPlaced => any(&[InterPodAffinity, PodTopologySpread]),
        Happening::PodLeft => any(&[NodeResourcesFit, NodePorts, InterPodAffinity, PodTopologySpread]),
        Happening::NamespaceChanged => any(&[InterPodAffinity]),
    }
}

/// Why a node will not do: the words that people read, of the first plug-in that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) plug_in: PlugIn,
    pub(crate) reasons: Vec<Cow<'static, str>>,
}

impl Rejection {
    fn new(plug_in: PlugIn, reason: impl Into<Cow<'static, str>>) -> Rejection {
        Rejection { plug_in, reasons: vec![reason.into()] }
    }
}

/// What is computed once for a pod, before nodes are looked at one by one.
pub(crate) struct Prepared<'a> {
    pub(crate) pod: &'a PodInfo,
    cache: &'a Cache,
    affinity: affinity::Prepared<'a>,
    spread: spread::Prepared<'a>,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(cache: &'a Cache, pod: &'a PodInfo) -> Prepared<'a> {
        Prepared { pod, cache, affinity: affinity::Prepared::new(cache, pod), spread: spread::Prepared::new(cache, pod) }
    }

    /// Whether the pod can run on the node.
    pub(crate) fn filter(&self, name: &str, state: &NodeState) -> Result<(), Rejection> {
        let Some(node) = &state.node else {
            return Err(Rejection::new(PlugIn::NodeName, "node(s) were gone"));
        };
        node::unschedulable(self.pod, node)?;
        node::name(self.pod, name)?;
        taints::filter(self.pod, node)?;
        node::affinity(self.pod, node)?;
        node::ports(self.pod, state)?;
        resources::fit(self.pod, state)?;
        self.spread.filter(state)?;
        self.affinity.filter(state)
    }

    /// The weighted sum of all scores, for each of `nodes`.
    pub(crate) fn score(&self, nodes: &[(&str, &NodeState)]) -> Vec<i64> {
        let mut total = vec![0; nodes.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            for (total, score) in total.iter_mut().zip(scores) {
                *total += weight * score;
            }
        };
        let each = |score: &dyn Fn(&NodeState) -> i64| nodes.iter().map(|(_, state)| score(state)).collect::<Vec<i64>>();
        add(3, reversed(each(&|state| taints::intolerable(self.pod, state))));
        add(2, normalised(each(&|state| node::preference(self.pod, state))));
        add(2, self.spread.score(nodes));
        add(2, centred(each(&|state| self.affinity.preference(state))));
        add(1, each(&|state| resources::least_allocated(self.pod, state)));
        add(1, each(&|state| resources::balanced(self.pod, state)));
        add(1, each(&|state| images::locality(self.pod, state, self.cache)));
        total
    }
}

/// Scaled so that the best has [`SCORE_MAX`].
fn normalised(mut scores: Vec<i64>) -> Vec<i64> {
    let best = scores.iter().copied().max().unwrap_or(0);
    if best > 0 {
        scores.iter_mut().for_each(|score| *score = *score * SCORE_MAX / best);
    }
    scores
}

/// Scaled so that none has [`SCORE_MAX`] and the most has 0.
fn reversed(scores: Vec<i64>) -> Vec<i64> {
    normalised(scores).into_iter().map(|score| SCORE_MAX - score).collect()
}

/// Scaled so that the least has 0 and the most [`SCORE_MAX`]; all equal: all 0.
fn centred(mut scores: Vec<i64>) -> Vec<i64> {
    let (Some(least), Some(most)) = (scores.iter().copied().min(), scores.iter().copied().max()) else {
        return scores;
    };
    let span = most - least;
    scores.iter_mut().for_each(|score| *score = if span == 0 { 0 } else { (*score - least) * SCORE_MAX / span });
    scores
}
