//! Disruption controller.
//! Watches: PodDisruptionBudget, Pod, ReplicaSet, Deployment.  Writes: PodDisruptionBudget.status.
//! Converges: disruptionsAllowed == healthy pods that can be lost, so that evictions, and with them `kubectl drain`, know what they may do.
//! Never: overwrites what an eviction took meanwhile; counts a pod healthy whose eviction was granted and not yet seen.
//! Wakes: on change, and when a granted eviction has been without effect for too long.  Plan: [`plan::plan`].  Act: [`Budgets::apply`].

mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use knarr_client::{Change, Cluster, EventType, Informer, ObjectKey, Recorder, WorkQueue};
use kube::{Api, ResourceExt as _, api::PostParams};

use crate::{
    owner,
    runner::{Activation, Controller, Runner, Step as _, StepError, brief},
    world::World,
};
use plan::Plan;

/// A scale that could not be read is asked for again: nothing tells when it can be.
const SCALE_RETRY: Duration = Duration::from_secs(30);

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let controller = Budgets {
        cluster: cluster.clone(),
        world: world.clone(),
        budgets: cluster.informer(),
        pods: cluster.informer(),
        sets: cluster.informer(),
        deployments: cluster.informer(),
        recorder: cluster.recorder("controllermanager", ""),
    };
    let queue = Arc::new(WorkQueue::default());
    controller.budgets.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    controller.pods.subscribe({
        let (queue, budgets) = (queue.clone(), controller.budgets.clone());
        move |change| pod_changed(change, &queue, &budgets)
    });
    // How many pods there should be matters as much as how many there are.
    controller.deployments.subscribe({
        let (queue, budgets) = (queue.clone(), controller.budgets.clone());
        move |change| queue_namespace(&change.object().namespace().unwrap_or_default(), &queue, &budgets)
    });
    let (budgets, pods, sets, deployments) =
        (controller.budgets.clone(), controller.pods.clone(), controller.sets.clone(), controller.deployments.clone());
    runner.start(controller, queue, async move {
        budgets.ready().await;
        pods.ready().await;
        sets.ready().await;
        deployments.ready().await;
    });
}

fn pod_changed(change: &Change<Pod>, queue: &WorkQueue<ObjectKey>, budgets: &Informer<PodDisruptionBudget>) {
    let pod = change.object();
    let before = match change {
        Change::Applied { old, .. } => old.as_ref(),
        Change::Deleted(_) => None,
    };
    let namespace = pod.namespace().unwrap_or_default();
    for (key, budget) in &budgets.snapshot() {
        if key.namespace == namespace && [Some(pod), before].into_iter().flatten().any(|pod| plan::covers(budget, pod)) {
            queue.add(key.clone());
        }
    }
}

fn queue_namespace(namespace: &str, queue: &WorkQueue<ObjectKey>, budgets: &Informer<PodDisruptionBudget>) {
    budgets.snapshot().keys().filter(|key| key.namespace == namespace).for_each(|key| queue.add(key.clone()));
}

struct Budgets {
    cluster: Cluster,
    world: Arc<World>,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    recorder: Recorder,
}

impl Controller for Budgets {
    type Key = ObjectKey;

    const NAME: &'static str = "disruption";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(Activation::default()) };
        let covered = |pod: &Arc<Pod>| pod.metadata.namespace.as_deref() == Some(&key.namespace) && plan::covers(&budget, pod);
        let pods: Vec<_> = self.pods.snapshot().values().filter(|pod| covered(pod)).cloned().collect();
        let asks = plan::asks_for_scale(&budget);
        let scale = if asks { self.scale(&key.namespace, &pods).await } else { Ok(0) };
        if asks && pods.iter().any(|pod| owner::controller(&pod.metadata).is_none()) {
            let text = "Pods selected by this PodDisruptionBudget are controlled by nothing. They are not counted among those that should be there; \
                        give minAvailable as a number to protect such pods.";
            self.recorder.record_ref(&kube::Resource::object_ref(&*budget, &()), EventType::Warning, "UnmanagedPods", text);
        }
        if let Err(trouble) = &scale {
            let object = kube::Resource::object_ref(&*budget, &());
            let text = format!("Failed to calculate the number of expected pods: {trouble}");
            self.recorder.record_ref(&object, EventType::Warning, "CalculateExpectedPodCountFailed", &text);
        }
        let unknown = scale.is_err();
        let mut plan = plan::plan(&budget, &pods, scale, Timestamp::now());
        if unknown {
            plan.wake.get_or_insert(SCALE_RETRY);
        }
        self.apply(key, &budget, plan).await
    }
}

impl Budgets {
    /// How many pods the controllers of `pods` shall have in all.
    async fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut wanted = BTreeMap::new();
        for owner in pods.iter().filter_map(|pod| owner::controller(&pod.metadata)) {
            if !wanted.contains_key(&owner.uid) {
                let (uid, replicas) = self.replicas(namespace, owner).await?;
                wanted.insert(owner.uid.clone(), 0);
                wanted.insert(uid, replicas);
            }
        }
        Ok(wanted.values().sum())
    }

    /// Who decides on the number of pods, and the number: for a ReplicaSet its Deployment, if it has one.
    async fn replicas(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), String> {
        if owner.kind == "ReplicaSet" && owner.api_version.starts_with("apps/") {
            let set = self.sets.get(namespace, &owner.name).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
            // A set that is gone wants no pods.
            let Some(set) = set else { return Ok((owner.uid.clone(), 0)) };
            let above = owner::controller(&set.metadata).filter(|above| above.kind == "Deployment");
            let deployment = above
                .and_then(|above| self.deployments.get(namespace, &above.name).filter(|it| it.metadata.uid.as_ref() == Some(&above.uid)));
            return Ok(match deployment {
                Some(it) => (it.metadata.uid.clone().unwrap_or_default(), it.spec.replicas.unwrap_or(1)),
                None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
            });
        }
        let unknown = || format!("{} {} has no scale", owner.kind, owner.name);
        let resource = self.world.resource_of(owner).ok_or_else(unknown)?;
        match resource.in_namespace(self.world.client(), namespace).get_scale(&owner.name).await {
            Ok(scale) => Ok((owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(unknown()),
            Err(error) => Err(format!("{} {}: {}", owner.kind, owner.name, brief(&error))),
        }
    }

    async fn apply(&self, key: &ObjectKey, budget: &PodDisruptionBudget, plan: Plan) -> Result<Activation, StepError> {
        let mut activation = Activation { wake: plan.wake, ..Activation::default() };
        if budget.status.as_ref() == Some(&plan.status) {
            return Ok(activation);
        }
        // Under the version that was looked at: an eviction that was granted meanwhile makes this a conflict, and the next look counts it.
        let wanted = PodDisruptionBudget { status: Some(plan.status), ..budget.clone() };
        let api: Api<PodDisruptionBudget> = self.cluster.api(&key.namespace);
        api.replace_status(&key.name, &PostParams::default(), &wanted).await.step(|| "write status".to_owned())?;
        activation.changed("status");
        Ok(activation)
    }
}
