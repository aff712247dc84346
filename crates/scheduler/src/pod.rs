//! A pod as the scheduler sees it: what placing it depends on, read once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, Toleration};
use knarr_client::ObjectKey;

use crate::resources::{self, Resources};

/// A port of the host that a container takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) port: i32,
    pub(crate) protocol: String,
    /// Empty for all addresses.
    pub(crate) address: String,
}

impl HostPort {
    /// Whether both cannot be taken at once.
    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_empty() || other.address.is_empty() || self.address == other.address)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    pub(crate) key: ObjectKey,
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Resources,
    pub(crate) scored: Resources,
    pub(crate) host_ports: Vec<HostPort>,
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> PodInfo {
        PodInfo {
            key: ObjectKey::of(&*pod),
            requests: resources::requests(&pod),
            scored: resources::scored_requests(&pod),
            host_ports: host_ports(&pod),
            pod,
        }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    pub(crate) fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }

    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub(crate) fn required_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.spec().and_then(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }

    pub(crate) fn required_anti_affinity(&self) -> &[PodAffinityTerm] {
        let affinity = self.spec().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
    }

    /// Preferred terms, those of anti-affinity with a negative weight.
    pub(crate) fn preferred_affinity(&self) -> impl Iterator<Item = (i64, &PodAffinityTerm)> {
        let affinity = self.spec().and_then(|spec| spec.affinity.as_ref());
        let near =
            affinity.and_then(|affinity| affinity.pod_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref());
        let far = affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref());
        let near = near.into_iter().flatten().map(|term| (i64::from(term.weight), &term.pod_affinity_term));
        near.chain(far.into_iter().flatten().map(|term| (-i64::from(term.weight), &term.pod_affinity_term)))
    }
}

/// Which pods are the scheduler's business.
pub(crate) fn wants_node(pod: &Pod, scheduler: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(is_end);
    spec.node_name.as_deref().unwrap_or("").is_empty()
        && spec.scheduler_name.as_deref().unwrap_or("default-scheduler") == scheduler
        && spec.scheduling_gates.as_deref().unwrap_or_default().is_empty()
        && pod.metadata.deletion_timestamp.is_none()
        && !ended
}

/// The node that a pod occupies: none before it is bound and after it has ended.
pub(crate) fn occupies(pod: &Pod) -> Option<&str> {
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(is_end);
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty() && !ended)
}

fn is_end(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    // Init containers that end give their ports back; sidecars keep them.
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let address = port.host_ip.as_deref().filter(|address| !matches!(*address, "0.0.0.0" | "::")).unwrap_or("");
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.to_owned(),
            })
        })
        .collect()
}
