//! Deployment controller.
//! Watches: Deployment, ReplicaSet (by owner).  Owns: one ReplicaSet for each template it has had.  Writes: ReplicaSet, Deployment.status and its
//! revision annotation.
//! Converges: the set of the newest template has all replicas, the others none, within maxSurge and maxUnavailable on the way.
//! Never: touches a pod; deletes the set of the newest template.
//! Wakes: on change, and at the progress deadline.  Plan: [`plan`].  Act: [`Deployments::apply`].

mod plan;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use knarr_client::{Cluster, EventType, Informer, ObjectKey, Recorder, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use crate::{
    owner,
    runner::{Activation, Controller, Runner, Step as _, StepError},
};
use plan::{Plan, Step, plan};

/// Marks the pods of one template, so that sets of different templates never select each other's.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations that stay on the Deployment and are not copied to its sets.
const NOT_COPIED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX];

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let deployments = cluster.informer::<Deployment>();
    let sets = cluster.informer::<ReplicaSet>();
    let queue = Arc::new(WorkQueue::default());
    deployments.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    sets.subscribe({
        let (queue, deployments) = (queue.clone(), deployments.clone());
        move |change| {
            let set = change.object();
            let namespace = set.namespace().unwrap_or_default();
            match owner::controller(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => queue.add(ObjectKey::new(&namespace, &owner.name)),
                Some(_) => {}
                // One that a deployment may want to adopt.
                None => deployments
                    .snapshot()
                    .iter()
                    .filter(|(key, deployment)| key.namespace == namespace && owner::selects(&deployment.spec.selector, &set.metadata))
                    .for_each(|(key, _)| queue.add(key.clone())),
            }
        }
    });
    let controller = Deployments { cluster: cluster.clone(), deployments, sets, recorder: cluster.recorder("deployment-controller", "") };
    let (deployments, sets) = (controller.deployments.clone(), controller.sets.clone());
    runner.start(controller, queue, async move {
        deployments.ready().await;
        sets.ready().await;
    });
}

struct Deployments {
    cluster: Cluster,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    recorder: Recorder,
}

impl Controller for Deployments {
    type Key = ObjectKey;

    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else { return Ok(Activation::default()) };
        let sets: Vec<_> = self.sets.snapshot().into_iter().filter(|(set, _)| set.namespace == key.namespace).map(|(_, set)| set).collect();
        let plan = plan(&deployment, &sets, Timestamp::now());
        self.apply(key, &deployment, plan).await
    }
}

impl Deployments {
    async fn apply(&self, key: &ObjectKey, deployment: &Deployment, plan: Plan) -> Result<Activation, StepError> {
        let mut activation = Activation { wake: plan.wake, ..Activation::default() };
        let sets: Api<ReplicaSet> = self.cluster.api(&key.namespace);
        let mut collision = false;
        for step in &plan.steps {
            collision |= self.take(step, deployment, &sets).await?;
            activation.changed(step.to_string());
        }
        let deployments: Api<Deployment> = self.cluster.api(&key.namespace);
        if let Some(revision) = &plan.revision {
            let patch = json!({ "metadata": { "uid": deployment.metadata.uid, "annotations": { REVISION: revision } } });
            // As a part of the status: otherwise it would be a new generation, which would be a rollout to whoever waits for one.
            deployments
                .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .step(|| "note the revision".to_owned())?;
            activation.changed(format!("revision {revision}"));
        }
        let mut status = plan.status;
        if collision {
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        }
        if Some(&status) != deployment.status.as_ref() {
            let mut patch = json!({ "metadata": { "uid": deployment.metadata.uid }, "status": status });
            for absent in
                ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "terminatingReplicas"]
            {
                // A merge patch must say what is no longer there.
                if patch["status"].get(absent).is_none() {
                    patch["status"][absent] = serde_json::Value::Null;
                }
            }
            deployments.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "write status".to_owned())?;
            activation.changed("status");
        }
        Ok(activation)
    }

    /// Returns whether the name of a new set is taken by a set of another template: the hash must be salted anew.
    async fn take(&self, step: &Step, deployment: &Deployment, sets: &Api<ReplicaSet>) -> Result<bool, StepError> {
        let object = kube::Resource::object_ref(deployment, &());
        match step {
            Step::Create { hash, replicas, annotations } => {
                let set = new_set(deployment, hash, *replicas, annotations.clone());
                match sets.create(&PostParams::default(), &set).await {
                    Ok(set) => {
                        let message = format!("Scaled up replica set {} from 0 to {replicas}", set.name_any());
                        self.recorder.record_ref(&object, EventType::Normal, "ScalingReplicaSet", &message);
                        Ok(false)
                    }
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => self.collides(deployment, sets, &set).await,
                    Err(error) => Err(error).step(|| step.to_string()),
                }
            }
            Step::Adopt { set } => {
                let patch = json!({ "metadata": { "uid": set.metadata.uid, "ownerReferences": [owner::reference(deployment)] } });
                sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.step(|| step.to_string())?;
                Ok(false)
            }
            Step::Scale { set, from, to, annotations } => {
                let patch = json!({ "metadata": { "uid": set.metadata.uid, "annotations": annotations }, "spec": { "replicas": to } });
                sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.step(|| step.to_string())?;
                let way = if to > from { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {} from {from} to {to}", set.name_any());
                self.recorder.record_ref(&object, EventType::Normal, "ScalingReplicaSet", &message);
                Ok(false)
            }
            Step::Annotate { set, annotations, min_ready_seconds } => {
                let patch = json!({
                    "metadata": { "uid": set.metadata.uid, "annotations": annotations },
                    "spec": { "minReadySeconds": min_ready_seconds },
                });
                sets.patch(&set.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.step(|| step.to_string())?;
                Ok(false)
            }
            Step::Delete { set } => {
                let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
                match sets.delete(&set.name_any(), &parameters).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
                    result => result.step(|| step.to_string()).map(|_| false),
                }
            }
        }
    }

    /// The name of a new set exists: by our own hand, and the informer is only late, or it is somebody else's.
    async fn collides(&self, deployment: &Deployment, sets: &Api<ReplicaSet>, wanted: &ReplicaSet) -> Result<bool, StepError> {
        let found = sets.get(&wanted.name_any()).await.step(|| format!("look at replica set {}", wanted.name_any()))?;
        let template = |set: &ReplicaSet| set.spec.template.clone();
        let ours =
            owner::controlled_by(&found.metadata, deployment) && plan::same_template(template(&found).as_ref(), template(wanted).as_ref());
        Ok(!ours)
    }
}

fn new_set(deployment: &Deployment, hash: &str, replicas: i32, annotations: std::collections::BTreeMap<String, String>) -> ReplicaSet {
    let spec = deployment.spec.clone();
    let labelled = |labels: Option<std::collections::BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
        labels
    };
    let template_meta = spec.template.metadata.clone().unwrap_or_default();
    let labels = labelled(template_meta.labels.clone());
    let selector =
        LabelSelector { match_labels: Some(labelled(spec.selector.match_labels)), match_expressions: spec.selector.match_expressions };
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![owner::reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..template_meta }),
                spec: spec.template.spec,
            }),
        },
        status: None,
    }
}

#[cfg(test)]
mod tests;
