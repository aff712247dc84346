//! Nodes with what is on them, indexed for placing one more pod.
//!
//! A pod that was just placed counts from that moment (`assume`), long before the watch tells of its binding.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_client::ObjectKey;

use crate::pod::{HostPort, PodInfo, occupies};
use crate::resources::Resources;

/// Pods that a node takes when it does not say (kubelet's default, --max-pods).
const PODS_DEFAULT: i64 = 110;

#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState {
    /// `None` while only pods of the node are known.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) pods_max: i64,
    pub(crate) pods: HashMap<ObjectKey, Arc<PodInfo>>,
    pub(crate) requested: Resources,
    pub(crate) scored: Resources,
    pub(crate) host_ports: Vec<HostPort>,
    /// Bytes by image name.
    pub(crate) images: HashMap<String, i64>,
}

impl NodeState {
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        let pods = allocatable.and_then(|list| knarr_api::Quantity::parse(&list.get("pods")?.0).ok());
        self.pods_max = pods.and_then(|pods| i64::try_from(pods.value()).ok()).unwrap_or(PODS_DEFAULT);
        self.images.clear();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
        self.node = Some(node);
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.add(&pod.scored);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.key.clone(), pod);
    }

    fn remove(&mut self, key: &ObjectKey) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.requested.subtract(&pod.requests);
        self.scored.subtract(&pod.scored);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|have| have == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: HashMap<String, NodeState>,
    /// Nodes that exist, in a fixed order, so that looking at some of them in turn reaches all.
    order: Vec<String>,
    /// Where each pod is.
    places: HashMap<ObjectKey, String>,
    /// Placed, but not yet seen to be bound; with the pod's uid.
    assumed: HashMap<ObjectKey, String>,
    /// Pods that keep others away from them, and pods that others must be asked about: looked at for every placement.
    pub(crate) repelling: HashMap<ObjectKey, Arc<PodInfo>>,
    /// Labels of namespaces, for affinity terms that select them.
    pub(crate) namespaces: HashMap<String, crate::labels::Labels>,
    /// Nodes that have an image.
    image_nodes: HashMap<String, usize>,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let Some(name) = node.metadata.name.clone() else { return };
        let state = self.nodes.entry(name.clone()).or_default();
        let is_new = state.node.is_none();
        for image in state.images.keys() {
            decrement(&mut self.image_nodes, image);
        }
        state.set_node(node);
        for image in state.images.keys() {
            *self.image_nodes.entry(image.clone()).or_default() += 1;
        }
        if is_new {
            self.order.push(name);
        }
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        self.order.retain(|have| have != name);
        let Some(state) = self.nodes.get_mut(name) else { return };
        for image in state.images.drain() {
            decrement(&mut self.image_nodes, &image.0);
        }
        state.node = None;
        // Its pods are still there until they are deleted.
        if state.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// Takes a pod as the API server has it.
    pub(crate) fn set_pod(&mut self, pod: &Arc<Pod>) {
        let key = ObjectKey::of(&**pod);
        match occupies(pod) {
            Some(node) => {
                self.assumed.remove(&key);
                self.place(Arc::new(PodInfo::new(pod.clone())), node);
            }
            // An older state than the placement that is on its way; an ended pod frees its place.
            None if self.assumed.get(&key).is_some_and(|uid| Some(uid) == pod.metadata.uid.as_ref()) && !has_node(pod) => {}
            None => self.remove_pod(&key),
        }
    }

    pub(crate) fn remove_pod(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        self.repelling.remove(key);
        let Some(node) = self.places.remove(key) else { return };
        let Some(state) = self.nodes.get_mut(&node) else { return };
        state.remove(key);
        if state.node.is_none() && state.pods.is_empty() {
            self.nodes.remove(&node);
        }
    }

    /// Counts a pod on `node` before its binding is known.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.key.clone(), pod.uid().to_owned());
        self.place(pod, node);
    }

    /// Takes back [`Cache::assume`] where the binding failed; one that was seen meanwhile stays.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        if self.assumed.contains_key(key) {
            self.remove_pod(key);
        }
    }

    /// Whether the pod has a place already, bound or assumed.
    pub(crate) fn is_placed(&self, key: &ObjectKey) -> bool {
        self.places.contains_key(key)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let assumed = self.assumed.remove(&pod.key);
        self.remove_pod(&pod.key);
        if let Some(uid) = assumed {
            self.assumed.insert(pod.key.clone(), uid);
        }
        if !pod.required_anti_affinity().is_empty() {
            self.repelling.insert(pod.key.clone(), pod.clone());
        }
        self.places.insert(pod.key.clone(), node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    /// The nodes that exist, in a fixed order.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (&str, &NodeState)> {
        // Every name in the order has a state: both change together.
        self.order.iter().map(|name| (name.as_str(), &self.nodes[name]))
    }

    pub(crate) fn node_at(&self, index: usize) -> (&str, &NodeState) {
        let name = &self.order[index % self.order.len()];
        (name, &self.nodes[name])
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn node_of(&self, pod: &ObjectKey) -> Option<&NodeState> {
        self.nodes.get(self.places.get(pod)?)
    }

    pub(crate) fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }
}

fn has_node(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

fn decrement(counts: &mut HashMap<String, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
