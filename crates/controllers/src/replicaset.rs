//! ReplicaSet controller.
//! Watches: ReplicaSet, Pod (by owner).  Owns: the Pods it created or adopted.  Writes: Pod, ReplicaSet.status.
//! Converges: live owned pods == spec.replicas, at most [`BURST_MAX`] creates or deletes an activation.
//! Never: takes a pod that another controls; touches Pod.spec.
//! Wakes: on change, and when a ready pod becomes available.  Plan: [`plan`].  Act: [`ReplicaSets::apply`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use knarr_client::{Change, Cluster, EventType, Informer, ObjectKey, Recorder, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use crate::{
    expectations::Expectations,
    owner,
    runner::{Activation, Controller, Runner, Step as _, StepError, brief},
};

/// Pods created or deleted in one activation. The upstream controller has the same burst (replica_set.go, BurstReplicas); it keeps one bad
/// template from flooding the store.
const BURST_MAX: usize = 500;

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let sets = cluster.informer::<ReplicaSet>();
    let pods = cluster.informer::<Pod>();
    let queue = Arc::new(WorkQueue::default());
    let expectations = Arc::new(Expectations::default());
    sets.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    pods.subscribe({
        let (queue, expectations, sets) = (queue.clone(), expectations.clone(), sets.clone());
        move |change| pod_changed(change, &queue, &expectations, &sets)
    });
    let controller =
        ReplicaSets { cluster: cluster.clone(), sets, pods, expectations, recorder: cluster.recorder("replicaset-controller", "") };
    let (sets, pods) = (controller.sets.clone(), controller.pods.clone());
    runner.start(controller, queue, async move {
        sets.ready().await;
        pods.ready().await;
    });
}

fn pod_changed(change: &Change<Pod>, queue: &WorkQueue<ObjectKey>, expectations: &Expectations<ObjectKey>, sets: &Informer<ReplicaSet>) {
    let pod = change.object();
    let namespace = pod.namespace().unwrap_or_default();
    let leaving = pod.metadata.deletion_timestamp.is_some() || matches!(change, Change::Deleted(_));
    let arriving = matches!(change, Change::Applied { old: None, .. });
    let mut owners: Vec<_> =
        owner::controller(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet").map(|owner| owner.name.clone()).into_iter().collect();
    if let Change::Applied { old: Some(old), .. } = change {
        owners.extend(owner::controller(&old.metadata).filter(|owner| owner.kind == "ReplicaSet").map(|owner| owner.name.clone()));
    }
    for name in owners {
        let key = ObjectKey::new(&namespace, &name);
        if let Some(uid) = pod.metadata.uid.as_deref().filter(|_| leaving || arriving) {
            expectations.seen(&key, uid);
        }
        queue.add(key);
    }
    // An orphan may be one that a set is waiting to adopt.
    if owner::controller(&pod.metadata).is_none() && !leaving {
        for (key, set) in &sets.snapshot() {
            if key.namespace == namespace && owner::selects(&set.spec.selector, &pod.metadata) {
                queue.add(key.clone());
            }
        }
    }
}

struct ReplicaSets {
    cluster: Cluster,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations<ObjectKey>>,
    recorder: Recorder,
}

/// What is to be done for one set.
#[derive(Debug, Default)]
struct Plan {
    adopt: Vec<Arc<Pod>>,
    release: Vec<Arc<Pod>>,
    create: usize,
    delete: Vec<Arc<Pod>>,
    status: ReplicaSetStatus,
    wake: Option<Duration>,
}

/// `pods` are those of the set's namespace. Adopting, releasing and deleting are left out while the set itself is being deleted.
fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = &set.spec;
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let mut live = Vec::new();
    let mut terminating = 0;
    for pod in pods {
        let controlled = owner::controlled_by(&pod.metadata, set);
        let selected = owner::selects(&spec.selector, &pod.metadata);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if controlled && leaving {
            terminating += 1;
        }
        if leaving || is_finished(pod) {
            continue;
        }
        match (controlled, selected, owner::controller(&pod.metadata).is_some()) {
            (true, true, _) => live.push(pod.clone()),
            (true, false, _) if !deleting => plan.release.push(pod.clone()),
            (false, true, false) if !deleting => {
                plan.adopt.push(pod.clone());
                live.push(pod.clone());
            }
            _ => {}
        }
    }
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if !deleting {
        plan.create = wanted.saturating_sub(live.len()).min(BURST_MAX);
        let surplus = live.len().saturating_sub(wanted).min(BURST_MAX);
        if surplus > 0 {
            let mut ranked = live.clone();
            ranked.sort_by_key(|pod| rank(pod));
            plan.delete = ranked.into_iter().take(surplus).collect();
        }
    }
    plan.status = status(set, spec, &live, terminating, now, &mut plan.wake);
    plan
}

fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Since when the pod is ready.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// Pods that go first come first: unassigned, then by phase, unready, cheap to delete (the pod-deletion-cost annotation), ready for the shortest
/// time, most restarted, newest. As upstream ranks them (controller_utils.go, ActivePodsWithRanks), but for its rank by pods on the same node.
fn rank(pod: &Pod) -> (bool, u8, bool, i64, i64, i64, i64) {
    let assigned = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let ready = ready_since(pod);
    let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost").and_then(|cost| cost.parse().ok()).unwrap_or(0);
    let restarts: i32 =
        pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).map(|status| status.restart_count).sum();
    let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    (assigned, phase, ready.is_some(), cost, -ready.map_or(0, Timestamp::as_second), -i64::from(restarts), -created)
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    live: &[Arc<Pod>],
    terminating: i32,
    now: Timestamp,
    wake: &mut Option<Duration>,
) -> ReplicaSetStatus {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let none = PodTemplateSpec::default();
    let template = spec.template.as_ref().unwrap_or(&none);
    let template_labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labelled = live.iter().filter(|pod| template_labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value))).count();
    let ready: Vec<_> = live.iter().filter_map(|pod| ready_since(pod)).collect();
    let min_ready = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let mut available = 0;
    for since in &ready {
        let left = min_ready - now.as_second().saturating_sub(since.as_second());
        if min_ready == 0 || left <= 0 {
            available += 1;
        } else {
            let left = Duration::from_secs(left.unsigned_abs());
            *wake = Some(wake.map_or(left, |earlier| earlier.min(left)));
        }
    }
    let old = set.status.clone().unwrap_or_default();
    ReplicaSetStatus {
        replicas: count(live.len()),
        fully_labeled_replicas: Some(count(labelled)),
        ready_replicas: Some(count(ready.len())),
        available_replicas: Some(count(available)),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        // A failure stands until the pods are there.
        conditions: old.conditions.filter(|_| live.len() != usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0)),
    }
}

impl Controller for ReplicaSets {
    type Key = ObjectKey;

    const NAME: &'static str = "replicaset";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.expectations.forget(key);
            return Ok(Activation::default());
        };
        if !self.expectations.met(key) {
            return Ok(Activation::default());
        }
        let pods: Vec<_> = self.pods.snapshot().into_iter().filter(|(pod, _)| pod.namespace == key.namespace).map(|(_, pod)| pod).collect();
        let plan = plan(&set, &pods, Timestamp::now());
        self.apply(key, &set, plan).await
    }
}

impl ReplicaSets {
    async fn apply(&self, key: &ObjectKey, set: &ReplicaSet, mut plan: Plan) -> Result<Activation, StepError> {
        let mut activation = Activation { wake: plan.wake, ..Activation::default() };
        let pods: Api<Pod> = self.cluster.api(&key.namespace);
        for pod in &plan.adopt {
            let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": [owner::reference(set)] } });
            let name = pod.name_any();
            pods.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.step(|| format!("adopt pod {name}"))?;
            activation.changed(format!("adopt pod {name}"));
        }
        for pod in &plan.release {
            let owners = json!([{ "$patch": "delete", "uid": set.metadata.uid }]);
            let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": owners } });
            let name = pod.name_any();
            pods.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.step(|| format!("release pod {name}"))?;
            activation.changed(format!("release pod {name}"));
        }
        let scaled = self.scale(key, set, &pods, &plan, &mut activation).await;
        if let Err(error) = &scaled {
            plan.status.conditions = Some(vec![failure(error)]);
        }
        let old = set.status.clone().unwrap_or_default();
        if plan.status != old {
            let sets: Api<ReplicaSet> = self.cluster.api(&key.namespace);
            let patch = json!({ "metadata": { "uid": set.metadata.uid }, "status": status_patch(&plan.status) });
            sets.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "write status".to_owned())?;
            activation.changed("status");
        }
        scaled.map(|()| activation)
    }

    async fn scale(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        pods: &Api<Pod>,
        plan: &Plan,
        activation: &mut Activation,
    ) -> Result<(), StepError> {
        let object = kube::Resource::object_ref(set, &());
        self.expectations.begin(plan.create);
        for done in 0..plan.create {
            match pods.create(&PostParams::default(), &pod_of(set)).await {
                Ok(pod) => {
                    self.expectations.note(key, pod.metadata.uid.clone().unwrap_or_default());
                    self.recorder.record_ref(&object, EventType::Normal, "SuccessfulCreate", &format!("Created pod: {}", pod.name_any()));
                    activation.changed(format!("create pod {}", pod.name_any()));
                }
                Err(error) => {
                    // What fails once fails for all: the rest waits for the next turn.
                    (done..plan.create).for_each(|_| self.expectations.give_up());
                    self.recorder.record_ref(&object, EventType::Warning, "FailedCreate", &format!("Error creating: {}", brief(&error)));
                    return Err(error).step(|| "create a pod".to_owned());
                }
            }
        }
        self.expectations.begin(plan.delete.len());
        for (done, pod) in plan.delete.iter().enumerate() {
            let name = pod.name_any();
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            match pods.delete(&name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
                Ok(_) => {
                    self.expectations.note(key, pod.metadata.uid.clone().unwrap_or_default());
                    self.recorder.record_ref(&object, EventType::Normal, "SuccessfulDelete", &format!("Deleted pod: {name}"));
                    activation.changed(format!("delete pod {name}"));
                }
                Err(kube::Error::Api(status)) if status.code == 404 => self.expectations.give_up(),
                Err(error) => {
                    (done..plan.delete.len()).for_each(|_| self.expectations.give_up());
                    self.recorder.record_ref(&object, EventType::Warning, "FailedDelete", &format!("Error deleting: {}", brief(&error)));
                    return Err(error).step(|| format!("delete pod {name}"));
                }
            }
        }
        Ok(())
    }
}

/// A merge patch must say what is no longer there.
fn status_patch(status: &ReplicaSetStatus) -> serde_json::Value {
    let mut patch = json!(status);
    if status.conditions.is_none() {
        patch["conditions"] = serde_json::Value::Null;
    }
    patch
}

fn failure(error: &StepError) -> ReplicaSetCondition {
    ReplicaSetCondition {
        type_: Some("ReplicaFailure".to_owned()),
        status: Some("True".to_owned()),
        reason: Some("FailedCreate".to_owned()),
        message: Some(error.brief()),
        last_transition_time: Some(Time(Timestamp::now())),
    }
}

/// A pod of the set's template. The server chooses the end of its name.
fn pod_of(set: &ReplicaSet) -> Pod {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner::reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests;
