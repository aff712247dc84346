//! InterPodAffinity: near pods of some kind, or away from them, in the node's zone or whatever the term names.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{PlugIn, Rejection};
use crate::cache::{Cache, NodeState};
use crate::labels::selects;
use crate::pod::PodInfo;

/// A place: the node label that defines it, and its value.
type Domain = (String, String);

pub(super) struct Prepared<'a> {
    pod: &'a PodInfo,
    /// Places where a pod stands that keeps this one away.
    repelled: HashSet<Domain>,
    /// For each of the pod's anti-affinity terms the places where a matching pod stands.
    avoided: Vec<HashSet<Domain>>,
    /// The same for its affinity terms.
    wanted: Vec<HashSet<Domain>>,
    /// No pod anywhere matches any affinity term, and the pod itself matches them all: the first of a group may go anywhere.
    is_first: bool,
    /// Sums of the weights of preferred terms.
    preferred: HashMap<Domain, i64>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(cache: &'a Cache, pod: &'a PodInfo) -> Prepared<'a> {
        let (near, far) = (pod.required_affinity(), pod.required_anti_affinity());
        let preferred: Vec<(i64, &PodAffinityTerm)> = pod.preferred_affinity().collect();
        let mut prepared = Prepared {
            pod,
            repelled: repelled(cache, pod),
            avoided: vec![HashSet::new(); far.len()],
            wanted: vec![HashSet::new(); near.len()],
            is_first: false,
            preferred: HashMap::new(),
        };
        if near.is_empty() && far.is_empty() && preferred.is_empty() {
            return prepared;
        }
        for (_, state) in cache.nodes() {
            for other in state.pods.values() {
                let here = |term: &PodAffinityTerm| {
                    let value = state.label(&term.topology_key)?;
                    term_selects(cache, term, pod, other).then(|| (term.topology_key.clone(), value.to_owned()))
                };
                for (term, places) in near.iter().zip(&mut prepared.wanted) {
                    places.extend(here(term));
                }
                for (term, places) in far.iter().zip(&mut prepared.avoided) {
                    places.extend(here(term));
                }
                for (weight, term) in &preferred {
                    if let Some(place) = here(term) {
                        *prepared.preferred.entry(place).or_default() += weight;
                    }
                }
            }
        }
        prepared.is_first = prepared.wanted.iter().all(HashSet::is_empty) && near.iter().all(|term| term_selects(cache, term, pod, pod));
        prepared
    }

    pub(super) fn filter(&self, state: &NodeState) -> Result<(), Rejection> {
        let stands_in = |places: &HashSet<Domain>, key: &str| {
            state.label(key).is_some_and(|value| places.contains(&(key.to_owned(), value.to_owned())))
        };
        let near = self.pod.required_affinity().iter().zip(&self.wanted).all(|(term, places)| {
            // Even the first of a group needs a node that has the label.
            stands_in(places, &term.topology_key) || (self.is_first && state.label(&term.topology_key).is_some())
        });
        let far = self.pod.required_anti_affinity().iter().zip(&self.avoided).all(|(term, places)| !stands_in(places, &term.topology_key));
        let repelled = self.repelled.iter().any(|(key, value)| state.label(key) == Some(value));
        let reason = match (near, far, repelled) {
            (false, _, _) => "node(s) didn't match pod affinity rules",
            (_, false, _) => "node(s) didn't match pod anti-affinity rules",
            (_, _, true) => "node(s) didn't satisfy existing pods anti-affinity rules",
            _ => return Ok(()),
        };
        Err(Rejection::new(PlugIn::InterPodAffinity, reason))
    }

    pub(super) fn preference(&self, state: &NodeState) -> i64 {
        let here = self.preferred.iter().filter(|((key, value), _)| state.label(key) == Some(value));
        here.map(|(_, weight)| weight).sum()
    }
}

/// The places from which pods that are there keep this one.
fn repelled(cache: &Cache, pod: &PodInfo) -> HashSet<Domain> {
    let mut places = HashSet::new();
    for other in cache.repelling.values() {
        let Some(state) = cache.node_of(&other.key) else { continue };
        for term in other.required_anti_affinity() {
            if let (Some(value), true) = (state.label(&term.topology_key), term_selects(cache, term, other, pod)) {
                places.insert((term.topology_key.clone(), value.to_owned()));
            }
        }
    }
    places
}

/// Whether a term of `owner` means `other`: its namespace, then its labels.
fn term_selects(cache: &Cache, term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let namespace = &other.key.namespace;
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match (&term.namespace_selector, listed) {
        (None, []) => *namespace == owner.key.namespace,
        (selector, listed) => listed.contains(namespace) || selects(selector.as_ref(), cache.namespaces.get(namespace)),
    };
    in_namespace && selects(term.label_selector.as_ref(), other.pod.metadata.labels.as_ref()) && keys_agree(term, owner, other)
}

/// `matchLabelKeys` demands the owner's own value of a label, `mismatchLabelKeys` any other.
fn keys_agree(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo) -> bool {
    let label = |pod: &PodInfo, key: &str| pod.pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let same = |key: &String| label(owner, key).is_none_or(|value| label(other, key) == Some(value));
    let differs = |key: &String| label(owner, key).is_none_or(|value| label(other, key) != Some(value));
    term.match_label_keys.iter().flatten().all(same) && term.mismatch_label_keys.iter().flatten().all(differs)
}
