//! The loop: what happens goes into cache and queue, pods come out planned, and the plans are carried out.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_client::{Change, Cluster, EventType, ObjectKey, Recorder};
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::plan::{Misfit, Plan, plan};
use crate::plugins::Happening;
use crate::pod::{PodInfo, occupies, wants_node};
use crate::queue::Queue;

/// Bindings and conditions written at a time. More would not be faster: the store joins what waits into one commit.
const WRITES_MAX: usize = 64;
const COMPONENT: &str = "default-scheduler";

#[derive(Clone, Debug)]
pub struct Config {
    /// Pods that name this scheduler (`spec.schedulerName`) are its own.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Config {
        Config { scheduler_name: COMPONENT.to_owned() }
    }
}

#[derive(Default)]
struct State {
    cache: Cache,
    queue: Queue,
    /// Number of the node that the next plan looks at first.
    start: usize,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    scheduler_name: String,
}

/// Schedules until the future is dropped.
pub async fn run(cluster: Cluster, config: Config) {
    let shared = Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), scheduler_name: config.scheduler_name });
    watch(&cluster, &shared).await;
    let actor = Actor { shared: shared.clone(), recorder: cluster.recorder(COMPONENT, ""), cluster };
    let permits = Arc::new(Semaphore::new(WRITES_MAX));
    let mut writes = JoinSet::new();
    loop {
        while let Some(done) = writes.try_join_next() {
            if let Err(error) = done {
                tracing::error!(%error, "a scheduler's write panicked");
            }
        }
        // The semaphore is never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match shared.step() {
            Some(step) => {
                writes.spawn(actor.clone().act(step, permit));
            }
            None => {
                drop(permit);
                shared.wait().await;
            }
        }
    }
}

/// Follows nodes, pods and namespaces, and returns when all that was there is known.
async fn watch(cluster: &Cluster, shared: &Arc<Shared>) {
    let (nodes, pods, namespaces) = (cluster.informer::<Node>(), cluster.informer::<Pod>(), cluster.informer::<Namespace>());
    // The informers outlive this scheduler; what they tell after its end goes nowhere.
    let weak = || Arc::downgrade(shared);
    nodes.subscribe(told(weak(), Shared::node_changed));
    pods.subscribe(told(weak(), Shared::pod_changed));
    namespaces.subscribe(told(weak(), Shared::namespace_changed));
    tokio::join!(nodes.ready(), pods.ready(), namespaces.ready());
}

fn told<K>(shared: Weak<Shared>, take: fn(&Shared, &Change<K>)) -> impl Fn(&Change<K>) + Send + Sync + 'static
where
    K: 'static,
{
    move |change| {
        if let Some(shared) = shared.upgrade() {
            take(&shared, change);
            shared.wake.notify_one();
        }
    }
}

/// One pod and what to do about it.
struct Step {
    pod: Arc<PodInfo>,
    plan: Plan,
}

impl Shared {
    /// Plans the next pod, and takes the plan as done: later plans build on it.
    fn step(&self) -> Option<Step> {
        let mut state = self.state.lock();
        let State { cache, queue, start } = &mut *state;
        loop {
            let pod = queue.pop(Instant::now())?;
            if cache.is_placed(&pod.key) {
                queue.remove(&pod.key);
                continue;
            }
            let plan = plan(cache, &pod, start);
            match &plan {
                Plan::Bind { node } => {
                    cache.assume(pod.clone(), node);
                    queue.happened(Happening::PodPlaced, Instant::now());
                }
                Plan::Wait(misfit) => queue.park(&pod.key, misfit.rejected_by),
            }
            return Some(Step { pod, plan });
        }
    }

    /// Until something happened, or a pause is over.
    async fn wait(&self) {
        let deadline = self.state.lock().queue.deadline();
        match deadline {
            None => self.wake.notified().await,
            Some(deadline) => tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
            },
        }
    }

    fn node_changed(&self, change: &Change<Node>) {
        let mut state = self.state.lock();
        match change {
            Change::Applied { old, new } => {
                state.cache.set_node(new.clone());
                let happening = match old {
                    None => Happening::NodeAdded,
                    Some(old) => node_difference(old, new),
                };
                state.queue.happened(happening, Instant::now());
            }
            Change::Deleted(node) => state.cache.remove_node(node.metadata.name.as_deref().unwrap_or("")),
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let mut state = self.state.lock();
        let (pod, now) = (change.object(), Instant::now());
        let key = ObjectKey::of(&**pod);
        if let Change::Deleted(_) = change {
            state.queue.remove(&key);
            let was_placed = state.cache.is_placed(&key);
            state.cache.remove_pod(&key);
            if was_placed {
                state.queue.happened(Happening::PodLeft, now);
            }
            return;
        }
        let was_placed = state.cache.is_placed(&key);
        state.cache.set_pod(pod);
        if wants_node(pod, &self.scheduler_name) && !state.cache.is_placed(&key) {
            state.queue.set(Arc::new(PodInfo::new(pod.clone())), now);
            return;
        }
        if !state.cache.is_placed(&key) || occupies(pod).is_some() {
            state.queue.remove(&key);
        }
        match (was_placed, state.cache.is_placed(&key)) {
            (false, true) => state.queue.happened(Happening::PodPlaced, now),
            (true, false) => state.queue.happened(Happening::PodLeft, now),
            _ => false,
        };
    }

    fn namespace_changed(&self, change: &Change<Namespace>) {
        let mut state = self.state.lock();
        let namespace = change.object();
        let name = namespace.metadata.name.clone().unwrap_or_default();
        match change {
            Change::Applied { .. } => {
                state.cache.namespaces.insert(name, namespace.metadata.labels.clone().unwrap_or_default());
                state.queue.happened(Happening::NamespaceChanged, Instant::now());
            }
            Change::Deleted(_) => {
                state.cache.namespaces.remove(&name);
            }
        }
    }

    /// The binding was refused: the node has its room back, and the pod another turn.
    fn bind_failed(&self, pod: &PodInfo) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.cache.forget(&pod.key);
        state.queue.failed(&pod.key, now);
        state.queue.happened(Happening::PodLeft, now);
        drop(state);
        self.wake.notify_one();
    }
}

fn node_difference(old: &Node, new: &Node) -> Happening {
    let spec = |node: &Node| node.spec.as_ref().map(|spec| (spec.taints.clone(), spec.unschedulable));
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    Happening::NodeChanged {
        labels: old.metadata.labels != new.metadata.labels,
        taints: spec(old) != spec(new),
        resources: allocatable(old) != allocatable(new),
    }
}

/// Carries out plans.
#[derive(Clone)]
struct Actor {
    shared: Arc<Shared>,
    cluster: Cluster,
    recorder: Recorder,
}

impl Actor {
    async fn act(self, step: Step, permit: OwnedSemaphorePermit) {
        match &step.plan {
            Plan::Bind { node } => self.bind(&step.pod, node).await,
            Plan::Wait(misfit) => self.explain(&step.pod, misfit).await,
        }
        drop(permit);
    }

    async fn bind(&self, pod: &PodInfo, node: &str) {
        let ObjectKey { namespace, name } = &pod.key;
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: pod.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..ObjectReference::default() },
        };
        let api = self.cluster.api::<Pod>(namespace);
        let bound: Result<Value, kube::Error> = api.create_subresource("binding", name, &PostParams::default(), &binding).await;
        match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.record(&*pod.pod, EventType::Normal, "Scheduled", &message);
            }
            // Deleted meanwhile; its deletion is on its way.
            Err(kube::Error::Api(status)) if status.code == 404 => self.shared.bind_failed(pod),
            Err(error) => {
                tracing::warn!(pod = %pod.key, node, %error, "bind a pod");
                let message = format!("binding rejected: {error}");
                self.recorder.record(&*pod.pod, EventType::Warning, "FailedScheduling", &message);
                self.shared.bind_failed(pod);
            }
        }
    }

    /// Says on the pod, and in an event, why it waits. A condition that says so already is not written again.
    async fn explain(&self, pod: &PodInfo, misfit: &Misfit) {
        self.recorder.record(&*pod.pod, EventType::Warning, "FailedScheduling", &misfit.message);
        let Some(condition) = new_condition(&pod.pod, &misfit.message) else { return };
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
        let api = self.cluster.api::<Pod>(&pod.key.namespace);
        match api.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            // Said again at the next attempt.
            Err(error) => tracing::warn!(pod = %pod.key, %error, "write why a pod waits"),
        }
    }
}

/// The condition to write; `None` where the pod has it.
fn new_condition(pod: &Pod, message: &str) -> Option<PodCondition> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let have = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let same = have.is_some_and(|have| {
        have.status == "False" && have.reason.as_deref() == Some("Unschedulable") && have.message.as_deref() == Some(message)
    });
    if same {
        return None;
    }
    let since = have.filter(|have| have.status == "False").and_then(|have| have.last_transition_time.clone());
    Some(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(Timestamp::now()))),
        ..PodCondition::default()
    })
}
