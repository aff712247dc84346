//! Services: what the cluster's Services and EndpointSlices mean for this node, kept in the kernel.
//!
//! Watches: Service, EndpointSlice (by service label), this node's Node (zone).  Owns: the frontends of the cluster's table. (And `ranges`.)
//! Converges: the table leads each frontend where [`plan`] says; frontends of no Service are removed.
//! Never: rewrites what did not change; touches a frontend that two Services claim on behalf of the younger one.
//! Wakes: on change, and a growing while after the kernel refused.  Plan: `plan`.  Act: `NodeNetwork::apply`.

mod plan;
mod ranges;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Change, Cluster, ObjectKey};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::nft::NftError;
use crate::node::NodeNetwork;
use crate::table::{Frontend, Target};
use plan::{Place, plan};

/// The first wait after a refusal by the kernel, and the longest; it doubles between them.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What the kernel refuses to change is tried again; only this ends the work.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    #[error("listen to changes of nf_tables")]
    Monitor(#[from] NftError),
    #[error("read changes of nf_tables")]
    Event(#[source] io::Error),
}

/// Keeps this node's frontends as the cluster's Services want them, and the ways to their addresses. Runs until dropped; the table and the routes
/// stay as they are then, and are adopted by the next run.
pub async fn run(cluster: Cluster, network: NodeNetwork, node_name: String) -> Result<(), ServicesError> {
    tokio::select! {
        ended = serve(cluster.clone(), network.clone(), node_name) => ended,
        never = ranges::follow(cluster, network) => match never {},
    }
}

async fn serve(cluster: Cluster, network: NodeNetwork, node_name: String) -> Result<(), ServicesError> {
    let wake = Arc::new(Wake::default());
    let services = cluster.informer::<Service>();
    let slices = cluster.informer::<EndpointSlice>();
    let nodes = cluster.informer_with::<Node>(&format!("metadata.name={node_name}"));
    services.ready().await;
    slices.ready().await;
    services.subscribe({
        let wake = wake.clone();
        move |change| wake.service(change)
    });
    slices.subscribe({
        let wake = wake.clone();
        move |change| wake.slice(change)
    });
    nodes.subscribe({
        let wake = wake.clone();
        move |change| wake.node(change)
    });
    let monitor = network.monitor()?;
    let mut claims = Claims::default();
    let mut stale: HashSet<Frontend> = network.installed_frontends().into_iter().collect();
    let mut intact = true;
    let mut retry = RETRY_MIN;
    loop {
        let work = wake.take();
        let place = Place { node: node_name.clone(), zone: work.zone, dns_ip: network.config().dns_ip };
        for (key, service, slices) in &work.services {
            let wanted = service.as_ref().map(|service| plan(service, slices, &place)).unwrap_or_default();
            stale.extend(claims.replace(key, service.as_deref(), wanted));
        }
        let changes: Vec<_> = stale.iter().map(|frontend| (*frontend, claims.target(frontend).cloned())).collect();
        match apply(&network, changes, std::mem::replace(&mut intact, true)).await {
            Ok(()) => {
                stale.clear();
                retry = RETRY_MIN;
                tokio::select! {
                    () = wake.notify.notified() => {}
                    event = monitor.foreign_change() => {
                        event.map_err(ServicesError::Event)?;
                        tracing::warn!("the nf_tables table was changed by someone else, it is made again");
                        intact = false;
                    }
                }
            }
            Err(error) => {
                intact = false;
                tracing::error!(error = &error as &dyn std::error::Error, ?retry, "Services were not brought up to date");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Makes the table again unless it is `intact`, then applies the changes.
async fn apply(network: &NodeNetwork, changes: Vec<(Frontend, Option<Target>)>, intact: bool) -> Result<(), NftError> {
    if changes.is_empty() && intact {
        return Ok(());
    }
    let network = network.clone();
    let work = move || {
        if !intact {
            network.restore()?;
        }
        network.apply(&changes).map(drop)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What has changed since it was last taken, and the slices of each Service.
#[derive(Default)]
struct Wake {
    state: Mutex<WakeState>,
    notify: Notify,
}

#[derive(Default)]
struct WakeState {
    services: HashMap<ObjectKey, Arc<Service>>,
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
    zone: Option<String>,
    dirty: HashSet<ObjectKey>,
}

/// A Service, or that it is gone, with its slices.
type ServiceWork = (ObjectKey, Option<Arc<Service>>, Vec<Arc<EndpointSlice>>);

/// The Services to look at, each as it is now, with its slices.
struct Work {
    services: Vec<ServiceWork>,
    zone: Option<String>,
}

impl Wake {
    fn service(&self, change: &Change<Service>) {
        let key = ObjectKey::of(&**change.object());
        let mut state = self.state.lock();
        match change {
            Change::Applied { new, .. } => state.services.insert(key.clone(), new.clone()),
            Change::Deleted(_) => state.services.remove(&key),
        };
        state.dirty.insert(key);
        self.notify.notify_one();
    }

    fn slice(&self, change: &Change<EndpointSlice>) {
        let mut state = self.state.lock();
        match change {
            Change::Applied { old, new } => {
                if let Some(old) = old.as_ref().filter(|old| service_of(old) != service_of(new)) {
                    state.remove_slice(old);
                }
                let name = new.metadata.name.clone().unwrap_or_default();
                if let Some(service) = service_of(new) {
                    state.slices.entry(service.clone()).or_default().insert(name, new.clone());
                    state.dirty.insert(service);
                }
            }
            Change::Deleted(old) => state.remove_slice(old),
        }
        self.notify.notify_one();
    }

    fn node(&self, change: &Change<Node>) {
        let zone = match change {
            Change::Applied { new, .. } => new.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).cloned(),
            Change::Deleted(_) => None,
        };
        let mut state = self.state.lock();
        if state.zone != zone {
            state.zone = zone;
            let all: Vec<ObjectKey> = state.services.keys().cloned().collect();
            state.dirty.extend(all);
            self.notify.notify_one();
        }
    }

    fn take(&self) -> Work {
        let mut state = self.state.lock();
        let dirty = std::mem::take(&mut state.dirty);
        let look = |key: ObjectKey| {
            let slices = state.slices.get(&key).map(|slices| slices.values().cloned().collect()).unwrap_or_default();
            (key.clone(), state.services.get(&key).cloned(), slices)
        };
        Work { services: dirty.into_iter().map(look).collect(), zone: state.zone.clone() }
    }
}

impl WakeState {
    fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some(service) = service_of(slice) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(slice.metadata.name.as_deref().unwrap_or_default());
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Which Service has which frontend. Two may name the same external address; the older one has it, then the first by name.
#[derive(Default)]
struct Claims {
    by_frontend: HashMap<Frontend, BTreeMap<Rank, Target>>,
    by_service: HashMap<ObjectKey, (Rank, Vec<Frontend>)>,
}

/// Creation time in seconds, then the key.
type Rank = (i64, ObjectKey);

impl Claims {
    /// Replaces what a Service claims; returns the frontends that may have changed.
    fn replace(&mut self, key: &ObjectKey, service: Option<&Service>, wanted: BTreeMap<Frontend, Target>) -> Vec<Frontend> {
        let mut touched = Vec::new();
        if let Some((rank, frontends)) = self.by_service.remove(key) {
            for frontend in frontends {
                if let Some(claimants) = self.by_frontend.get_mut(&frontend) {
                    claimants.remove(&rank);
                    if claimants.is_empty() {
                        self.by_frontend.remove(&frontend);
                    }
                }
                touched.push(frontend);
            }
        }
        let created = service.and_then(|service| service.metadata.creation_timestamp.as_ref());
        let rank = (created.map_or(i64::MAX, |time| time.0.as_second()), key.clone());
        let frontends: Vec<Frontend> = wanted.keys().copied().collect();
        touched.extend(&frontends);
        for (frontend, target) in wanted {
            self.by_frontend.entry(frontend).or_default().insert(rank.clone(), target);
        }
        if !frontends.is_empty() {
            self.by_service.insert(key.clone(), (rank, frontends));
        }
        touched
    }

    fn target(&self, frontend: &Frontend) -> Option<&Target> {
        self.by_frontend.get(frontend)?.values().next()
    }
}

#[cfg(test)]
mod tests;
