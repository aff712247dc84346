//! EndpointSlice controller.
//! Watches: Service, Pod, EndpointSlice (of Services), Node (for zones).  Owns: the slices that carry its label.  Writes: EndpointSlice.
//! Converges: the slices of a Service with a selector hold an endpoint for each pod that the selector chooses and that has an address.
//! Never: touches a slice that another manages; writes a slice that says what it said.
//! Wakes: on change.  Plan: [`plan`].  Act: [`apply`].

mod plan;

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use knarr_client::{Change, Cluster, Informer, ObjectKey, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use plan::plan;
pub(crate) use plan::{Plan, chooses, first_family};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let services = cluster.informer::<Service>();
    let pods = cluster.informer::<Pod>();
    let slices = cluster.informer::<EndpointSlice>();
    let nodes = cluster.informer::<Node>();
    let queue = Arc::new(WorkQueue::default());
    services.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    pods.subscribe({
        let (queue, services) = (queue.clone(), services.clone());
        move |change| pod_changed(change, &queue, &services)
    });
    follow_slices(&slices, MANAGER, &queue);
    let controller = EndpointSlices { cluster: cluster.clone(), services, pods, slices, nodes };
    let (services, pods, slices, nodes) =
        (controller.services.clone(), controller.pods.clone(), controller.slices.clone(), controller.nodes.clone());
    runner.start(controller, queue, async move {
        services.ready().await;
        pods.ready().await;
        slices.ready().await;
        nodes.ready().await;
    });
}

fn is_of(slice: &EndpointSlice, manager: &str) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|its| its == manager)
}

/// Queues the Service of each slice of `manager` that changes.
pub(crate) fn follow_slices(slices: &Informer<EndpointSlice>, manager: &'static str, queue: &Arc<WorkQueue<ObjectKey>>) {
    let queue = queue.clone();
    slices.subscribe(move |change| {
        let slice = change.object();
        if let Some(service) = slice.labels().get(SERVICE_NAME).filter(|_| is_of(slice, manager)) {
            queue.add(ObjectKey::new(&slice.namespace().unwrap_or_default(), service));
        }
    });
}

/// The slices that `manager` has made for a Service.
pub(crate) fn slices_of(slices: &Informer<EndpointSlice>, manager: &str, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
    let all = slices.snapshot().into_iter().filter(|(slice, _)| slice.namespace == service.namespace).map(|(_, slice)| slice);
    all.filter(|slice| is_of(slice, manager) && slice.labels().get(SERVICE_NAME) == Some(&service.name)).collect()
}

/// Queues the Services that chose the pod, or choose it now.
pub(crate) fn pod_changed(change: &Change<Pod>, queue: &WorkQueue<ObjectKey>, services: &Informer<Service>) {
    let namespace = change.object().namespace().unwrap_or_default();
    for (key, service) in services.snapshot().iter().filter(|(key, _)| key.namespace == namespace) {
        let old = match change {
            Change::Applied { old, .. } => old.as_deref(),
            Change::Deleted(_) => None,
        };
        if plan::chooses(service, change.object()) || old.is_some_and(|old| plan::chooses(service, old)) {
            queue.add(key.clone());
        }
    }
}

struct EndpointSlices {
    cluster: Cluster,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
}

impl Controller for EndpointSlices {
    type Key = ObjectKey;

    const NAME: &'static str = "endpointslice";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let slices = slices_of(&self.slices, MANAGER, key);
        let service = self.services.get(&key.namespace, &key.name);
        let chosen = |pod: &Arc<Pod>| service.as_ref().is_some_and(|service| plan::chooses(service, pod));
        let pods: Vec<_> =
            self.pods.snapshot().into_iter().filter(|(pod, _)| pod.namespace == key.namespace).map(|(_, pod)| pod).filter(chosen).collect();
        let zone = |node: &str| self.nodes.get("", node)?.labels().get("topology.kubernetes.io/zone").cloned();
        let plan = plan(service.as_deref(), &pods, &slices, zone);
        apply(&self.cluster, &key.namespace, plan).await
    }
}

/// Makes the slices of a namespace what a plan wants them to be. One that is refused does not hold up the others; the first fault is told.
pub(crate) async fn apply(cluster: &Cluster, namespace: &str, plan: Plan) -> Result<Activation, StepError> {
    let slices: Api<EndpointSlice> = cluster.api(namespace);
    let mut results: Vec<Result<String, StepError>> = Vec::new();
    for slice in &plan.create {
        let created = slices.create(&PostParams::default(), slice).await.step(|| "create a slice".to_owned());
        results.push(created.map(|_| format!("create a slice of {} endpoints", slice.endpoints.iter().flatten().count())));
    }
    for slice in &plan.replace {
        let step = format!("write slice {}", slice.name_any());
        let written = slices.replace(&slice.name_any(), &PostParams::default(), slice).await;
        results.push(written.step(|| step.clone()).map(|_| step));
    }
    for name in &plan.delete {
        match slices.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => results.push(deleted.step(|| format!("delete slice {name}")).map(|_| format!("delete slice {name}"))),
        }
    }
    let mut activation = Activation::default();
    let mut fault = None;
    for result in results {
        match result {
            Ok(step) => activation.changed(step),
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    fault.map_or(Ok(activation), Err)
}

#[cfg(test)]
mod tests;
