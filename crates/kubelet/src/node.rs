//! What all pods of the node share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use knarr_client::{Cluster, EventType, Informer, Recorder};
use knarr_network::NodeNetwork;
use knarr_runtime::Runtime;
use tokio::sync::Semaphore;

use crate::Config;
use crate::sources::Sources;

pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) runtime: Runtime,
    pub(crate) network: NodeNetwork,
    pub(crate) recorder: Recorder,
    pub(crate) config_maps: Sources<ConfigMap>,
    pub(crate) secrets: Sources<Secret>,
    pub(crate) services: Informer<Service>,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    /// Bytes of memory that the node has.
    pub(crate) memory_bytes: u64,
    /// Containers that are being prepared at one time.
    pub(crate) starts: Semaphore,
}

/// Containers prepared at one time. More only queue at the same disk; fewer leave a slow image in the way of all others.
pub(crate) const STARTS_MAX: usize = 16;

impl Node {
    pub(crate) fn host_ips(&self) -> &[IpAddr] {
        &self.config.node_ips
    }

    /// Services whose variables a pod sees: those of its namespace, unless it does not want them, and the API's own.
    pub(crate) fn visible_services(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|it| it.enable_service_links) != Some(false);
        let mut services: Vec<Arc<Service>> = (self.services.list().into_iter())
            .filter(|it| {
                let of = it.metadata.namespace.as_deref();
                let api = of == Some("default") && it.metadata.name.as_deref() == Some("kubernetes");
                api || (links && of == Some(namespace))
            })
            .collect();
        services.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        services
    }

    pub(crate) fn say(&self, pod: &Pod, container: Option<&str>, kind: EventType, reason: &str, message: &str) {
        let spec = pod.spec.as_ref();
        let field_path = container.map(|name| {
            let init = spec.is_some_and(|spec| crate::pod::plan::is_init(spec, name));
            let main = spec.is_some_and(|spec| spec.containers.iter().any(|it| it.name == name));
            let list = match (init, main) {
                (true, _) => "initContainers",
                (_, true) => "containers",
                _ => "ephemeralContainers",
            };
            format!("spec.{list}{{{name}}}")
        });
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            field_path,
            ..ObjectReference::default()
        };
        self.recorder.record_ref(&object, kind, reason, message);
    }
}
