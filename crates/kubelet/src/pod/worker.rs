//! The worker of one pod: sees, plans, starts the actions that the plan names, writes the status, waits.
//!
//! It wakes when the object changes, when something that the pod uses changes, when an action ends, when the runtime tells of an
//! exit, when a probe decides, and at the plan's deadline. Its memory can be lost at any time; [`Worker::adopt`] rebuilds it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, Pod, PodSpec, PodStatus, Secret};
use knarr_client::EventType;
use knarr_runtime::{ContainerState as RunState, ContainerStatus, SandboxState};
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::act;
use super::plan::{self, Plan};
use super::probes::Probes;
use super::seen::{BackOff, ContainerSeen, Doom, Exit, Failure, SandboxSeen, Seen, State, Verdict, Volumes, after};
use super::status;
use crate::node::Node;
use crate::sources::Source;
use crate::volume::{Places, PodDir};

/// Labels by which the pods' sandboxes and containers are found again. The names are upstream's where it has one.
pub(crate) mod label {
    pub(crate) const POD: &str = "io.kubernetes.pod.name";
    pub(crate) const NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub(crate) const IMAGE: &str = "knarr.image";
    pub(crate) const IMAGE_ID: &str = "knarr.image-id";
}

/// Bytes of a termination message that the status shows (upstream: MaxContainerTerminationMessageLength).
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes and lines of the log that stand in for a missing termination message (upstream: …LogLength, …LogLines).
const MESSAGE_LOG_BYTES_MAX: usize = 2048;
const MESSAGE_LOG_LINES_MAX: usize = 80;
/// Delays between attempts to write a status, in seconds.
const WRITE_RETRY_S: (i64, i64) = (1, 30);

pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) uid: String,
    pub(crate) dir: PodDir,
    pub(crate) log_dir: PathBuf,
    pub(crate) wake: Arc<Notify>,
    desired: Mutex<Desired>,
    pub(crate) memory: Mutex<Memory>,
    /// Held while the status is written, so that writes keep their order.
    writing: tokio::sync::Mutex<()>,
    life: tokio::sync::watch::Sender<Life>,
}

#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The object is no longer in the API.
    pub(crate) gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Wanted,
    /// Its deletion has begun.
    Ending,
    /// The API has it no more.
    Gone,
}

impl Desired {
    fn life(&self) -> Life {
        match (self.gone, &self.pod.metadata.deletion_timestamp) {
            (true, _) => Life::Gone,
            (false, Some(_)) => Life::Ending,
            (false, None) => Life::Wanted,
        }
    }
}

/// A ConfigMap or Secret that the pod uses.
pub(crate) enum Used {
    ConfigMap(Arc<Source<ConfigMap>>),
    Secret(Arc<Source<Secret>>),
}

impl Used {
    fn version(&self) -> Option<String> {
        match self {
            Used::ConfigMap(it) => it.version(),
            Used::Secret(it) => it.version(),
        }
    }
}

pub(crate) struct Memory {
    pub(crate) volumes: Volumes,
    pub(crate) places: Places,
    pub(crate) sandbox_failure: Option<Failure>,
    pub(crate) failures: BTreeMap<String, Failure>,
    pub(crate) back_off: BTreeMap<String, BackOff>,
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    pub(crate) doomed: BTreeMap<String, Doom>,
    pub(crate) busy: BTreeSet<String>,
    /// Addresses, and the sandbox that has them.
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) networked: Option<String>,
    /// Containers whose postStart hook has not ended yet; by id.
    pub(crate) unhooked: HashSet<String>,
    /// Containers whose preStop hook was begun; by id.
    pub(crate) pre_stopped: HashSet<String>,
    pub(crate) ending_since: Option<Timestamp>,
    pub(crate) torn_down: bool,
    pub(crate) rejected: Option<(String, String)>,
    pub(crate) used: BTreeMap<(&'static str, String), Used>,
    /// Versions of what the pod uses, and of its labels and annotations, as far as they were known.
    inputs: BTreeMap<String, String>,
    /// They have changed since the volumes were filled.
    pub(crate) volumes_stale: bool,
    pub(crate) tokens: BTreeMap<(String, usize), Token>,
    pub(crate) last: PodStatus,
    pub(crate) reported: PodStatus,
    write_failure: Option<Failure>,
    first_seen: Timestamp,
    exits: HashMap<String, Exit>,
}

pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) renew_at: Timestamp,
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, desired: Desired) -> Arc<Worker> {
        let pod = &desired.pod;
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let uid = text(&pod.metadata.uid);
        let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
        let last = pod.status.clone().unwrap_or_default();
        let now = Timestamp::now();
        Arc::new(Worker {
            dir: PodDir::new(&node.config.data_dir, &uid),
            log_dir: log_dir(&node.config.data_dir, &namespace, &name, &uid),
            node,
            uid,
            wake: Arc::default(),
            memory: Mutex::new(Memory {
                volumes: Volumes::Unset,
                places: Places::new(),
                sandbox_failure: None,
                failures: BTreeMap::new(),
                back_off: BTreeMap::new(),
                verdicts: BTreeMap::new(),
                doomed: BTreeMap::new(),
                busy: BTreeSet::new(),
                ips: Vec::new(),
                networked: None,
                unhooked: HashSet::new(),
                pre_stopped: HashSet::new(),
                ending_since: None,
                torn_down: false,
                rejected: None,
                used: BTreeMap::new(),
                inputs: BTreeMap::new(),
                volumes_stale: false,
                tokens: BTreeMap::new(),
                reported: last.clone(),
                last,
                write_failure: None,
                first_seen: now,
                exits: HashMap::new(),
            }),
            writing: tokio::sync::Mutex::default(),
            life: tokio::sync::watch::Sender::new(desired.life()),
            desired: Mutex::new(desired),
        })
    }

    pub(crate) fn desired(&self) -> Desired {
        self.desired.lock().clone()
    }

    /// Takes a newer object; wakes the worker if it matters.
    pub(crate) fn desire(&self, new: Desired) {
        let mut desired = self.desired.lock();
        let matters = new.gone != desired.gone || differs(&desired.pod, &new.pod);
        self.life.send_replace(new.life());
        *desired = new;
        drop(desired);
        if matters {
            self.wake.notify_one();
        }
    }

    /// The id of the run whose log is meant: the one that runs or ran last, or the one before it. The rule and the words of the
    /// errors are upstream's (pkg/kubelet, validateContainerLogStatus).
    pub(crate) fn logged(&self, container: &str, previous: bool) -> Result<String, String> {
        let memory = self.memory.lock();
        let last = &memory.last;
        let all = (last.container_statuses.iter().flatten())
            .chain(last.init_container_statuses.iter().flatten())
            .chain(last.ephemeral_container_statuses.iter().flatten());
        let pod = self.desired.lock().pod.metadata.name.clone().unwrap_or_default();
        let Some(status) = all.into_iter().find(|it| it.name == container) else {
            return Err(format!("container \"{container}\" in pod \"{pod}\" is not available"));
        };
        let plain = |id: Option<&String>| id.and_then(|id| id.strip_prefix(status::SCHEME)).map(str::to_owned);
        let ended = |state: &Option<ContainerState>| plain(state.as_ref()?.terminated.as_ref()?.container_id.as_ref());
        let state = status.state.as_ref();
        let run = if previous {
            ended(&status.last_state)
        } else if state.is_some_and(|it| it.running.is_some()) {
            plain(status.container_id.as_ref())
        } else {
            ended(&status.state).or_else(|| ended(&status.last_state))
        };
        run.ok_or_else(|| match state.and_then(|it| it.waiting.as_ref()).and_then(|it| it.reason.as_deref()) {
            _ if previous => format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"),
            Some("ErrImagePull" | "ImagePullBackOff") => {
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image")
            }
            reason => {
                let reason = reason.unwrap_or("ContainerCreating");
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")
            }
        })
    }

    /// Returns once the API no longer has the object.
    pub(crate) async fn gone(&self) {
        // The sender lives as long as `self`.
        let _ = self.life.subscribe().wait_for(|it| *it == Life::Gone).await;
    }

    /// Returns once the pod shall end: what is still being prepared is given up.
    pub(crate) async fn ending(&self) {
        let _ = self.life.subscribe().wait_for(|it| *it != Life::Wanted).await;
    }

    /// Runs until nothing of the pod is left on the node and in the API. Returns the pod's uid.
    pub(crate) async fn run(self: Arc<Self>) -> String {
        self.adopt().await;
        let mut tasks: JoinSet<()> = JoinSet::new();
        let mut probes = Probes::default();
        loop {
            while tasks.try_join_next().is_some() {}
            let now = Timestamp::now();
            let Desired { pod, gone } = self.desired();
            let seen = self.see(&pod, gone, now);
            let Plan { actions, status, wake, done } = plan::plan(&pod, &seen, now);
            if done && tasks.is_empty() {
                return self.uid.clone();
            }
            self.announce(&pod, &status);
            let mut deadline = wake;
            let begun: Vec<_> = {
                let mut memory = self.memory.lock();
                memory.last = status;
                actions.into_iter().map(|action| (Busy::new(&self, &mut memory, action.key()), action)).collect()
            };
            // The lock is free again: a task that is dropped at once gives back its mark under it.
            for (busy, action) in begun {
                tracing::debug!(pod = %name_of(&pod), ?action, "act");
                tasks.spawn(act::act(self.clone(), pod.clone(), action, busy));
            }
            if !gone {
                deadline = earlier(deadline, self.write_if_due(&pod, now, &mut tasks));
            }
            deadline = earlier(deadline, self.refresh_if_due(&pod, now, &mut tasks));
            probes.keep(&self, &pod, &seen);
            let sleep = deadline.map(|at| std::time::Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                () = self.wake.notified() => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
            }
        }
    }

    /// Rebuilds the memory of a pod that was here before this process.
    async fn adopt(&self) {
        let Desired { pod, .. } = self.desired();
        let now = Timestamp::now();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let sandboxes = self.sandboxes();
        if let Some((sandbox, _)) = sandboxes.first()
            && sandbox.state == SandboxState::Ready
        {
            match act::attach(self, &pod, &sandbox.id, sandbox.netns.as_deref()).await {
                Ok(()) => {}
                Err(error) => {
                    // The pod runs: it keeps the addresses that it has told, rather than being started anew.
                    tracing::warn!(pod = %name_of(&pod), error = %error, "adopt the pod's network");
                    let status = pod.status.as_ref();
                    let ips = status.and_then(|it| it.pod_ips.as_ref()).into_iter().flatten();
                    let mut memory = self.memory.lock();
                    memory.ips = ips.filter_map(|it| it.ip.parse().ok()).collect();
                    if !memory.ips.is_empty() {
                        memory.networked = Some(sandbox.id.clone());
                    }
                }
            }
        }
        let known = pod.status.as_ref();
        let statuses = known
            .into_iter()
            .flat_map(|it| (it.container_statuses.iter().flatten()).chain(it.init_container_statuses.iter().flatten()).collect::<Vec<_>>());
        let mut memory = self.memory.lock();
        for it in statuses {
            let id = it.container_id.as_deref().and_then(|id| id.strip_prefix(status::SCHEME));
            if let Some(id) = id {
                memory.verdicts.insert(id.to_owned(), Verdict { ready: Some(it.ready), started: it.started });
            }
        }
        for container in self.containers(&sandboxes) {
            let started = container.started_at_ns.map_or(now, time_of);
            if container.attempt > 0 && plan::container(spec, &container.name).is_some() {
                let entry = memory.back_off.entry(container.name.clone());
                if let Some(it) = BackOff::remembered(container.attempt, started) {
                    entry.or_insert(it);
                }
            }
        }
    }

    fn sandboxes(&self) -> Vec<(knarr_runtime::SandboxStatus, u32)> {
        let mut list: Vec<_> = (self.node.runtime.list_sandboxes().into_iter())
            .filter(|it| it.labels.get(label::UID) == Some(&self.uid))
            .map(|it| {
                let attempt = it.id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
                (it, attempt)
            })
            .collect();
        list.sort_by_key(|it| std::cmp::Reverse(it.1));
        list
    }

    fn containers(&self, sandboxes: &[(knarr_runtime::SandboxStatus, u32)]) -> Vec<ContainerStatus> {
        let mut list: Vec<_> = (self.node.runtime.list_containers().into_iter())
            .filter(|it| sandboxes.iter().any(|(sandbox, _)| sandbox.id == it.sandbox))
            .collect();
        list.sort_by_key(|it| std::cmp::Reverse((it.attempt, it.created_at_ns)));
        list
    }

    fn see(&self, pod: &Pod, gone: bool, now: Timestamp) -> Seen {
        let sandboxes = self.sandboxes();
        let containers = self.containers(&sandboxes);
        let spec = pod.spec.as_ref();
        let host_network = spec.and_then(|it| it.host_network) == Some(true);
        let mut memory = self.memory.lock();
        let ending = gone || pod.metadata.deletion_timestamp.is_some() || status::is_final(&memory.last);
        if ending || memory.rejected.is_some() {
            memory.ending_since.get_or_insert(now);
        }
        self.note_inputs(&mut memory, pod, now);
        let seen_containers: Vec<ContainerSeen> = (containers.iter())
            .map(|it| {
                let state = match it.state {
                    RunState::Created => State::Created,
                    RunState::Running { .. } => {
                        State::Running { since: it.started_at_ns.map_or(now, time_of), hooked: !memory.unhooked.contains(&it.id) }
                    }
                    RunState::Exited(exit) => State::Exited(self.exit(&mut memory, pod, it, exit)),
                };
                let of = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
                ContainerSeen {
                    id: it.id.clone(),
                    name: it.name.clone(),
                    attempt: it.attempt,
                    sandbox: it.sandbox.clone(),
                    state,
                    image: of(label::IMAGE),
                    image_id: of(label::IMAGE_ID),
                    hash: of(label::HASH),
                }
            })
            .collect();
        for it in seen_containers.iter().filter(|it| it.is_running()) {
            let Some(container) = spec.and_then(|spec| plan::container(spec, &it.name)) else {
                continue;
            };
            if !ending && it.hash != act::hash(&container) && !memory.doomed.contains_key(&it.id) {
                let why = format!("Container {} definition changed, will be restarted", it.name);
                memory.doomed.insert(it.id.clone(), Doom { why, deadline: after(now, grace_s(pod)) });
            }
        }
        // The API object may hold conditions of others: they are shown as they are.
        let others = pod.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
        let own = memory.last.conditions.get_or_insert_default();
        for condition in others {
            if OWN_CONDITIONS.contains(&condition.type_.as_str()) {
                continue;
            }
            match own.iter_mut().find(|it| it.type_ == condition.type_) {
                Some(it) => *it = condition,
                None => own.push(condition),
            }
        }
        Seen {
            sandboxes: (sandboxes.iter())
                .map(|(it, attempt)| SandboxSeen {
                    id: it.id.clone(),
                    attempt: *attempt,
                    ready: it.state == SandboxState::Ready && (host_network || memory.networked.as_ref() == Some(&it.id) || ending),
                })
                .collect(),
            containers: seen_containers,
            volumes: memory.volumes.clone(),
            sandbox_failure: memory.sandbox_failure.clone(),
            failures: memory.failures.clone(),
            back_off: memory.back_off.clone(),
            verdicts: memory.verdicts.clone(),
            doomed: memory.doomed.clone(),
            busy: memory.busy.clone(),
            ips: memory.ips.clone(),
            gone,
            ending_since: memory.ending_since,
            rejected: memory.rejected.clone(),
            torn_down: memory.torn_down,
            last: memory.last.clone(),
            first_seen: memory.first_seen,
            host_ips: self.node.host_ips().to_vec(),
        }
    }

    /// How a container ended, with its message; read once.
    fn exit(&self, memory: &mut Memory, pod: &Pod, it: &ContainerStatus, exit: knarr_runtime::Exit) -> Exit {
        if let Some(known) = memory.exits.get(&it.id) {
            return known.clone();
        }
        let container = pod.spec.as_ref().and_then(|spec| plan::container(spec, &it.name));
        let mut message = read_start(&self.dir.termination_message(&it.name, it.attempt));
        let fallback = container.is_some_and(|it| it.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        if message.is_empty() && fallback && exit.code != 0 {
            message = it.log_path.as_deref().map(log_end).unwrap_or_default();
        }
        if message.is_empty() {
            message.clone_from(&it.message);
        }
        let seen = Exit {
            code: exit.code,
            signal: exit.signal,
            reason: it.reason.clone(),
            message,
            started: it.started_at_ns.map(time_of),
            finished: time_of(exit.finished_at_ns),
        };
        // Old ids leave with the records that the plan lets go of.
        if memory.exits.len() > 64 {
            memory.exits.clear();
        }
        memory.exits.insert(it.id.clone(), seen.clone());
        seen
    }

    /// Notices that something the pod uses has changed: what failed for want of it is tried again at once.
    fn note_inputs(&self, memory: &mut Memory, pod: &Pod, now: Timestamp) {
        let mut changed = false;
        for (name, version) in versions(memory, pod) {
            let before = memory.inputs.insert(name, version.clone());
            changed |= before.is_some_and(|it| it != version);
        }
        if !changed {
            return;
        }
        for failure in memory.failures.values_mut().filter(|it| it.reason == "CreateContainerConfigError") {
            failure.retry_at = now;
        }
        match &mut memory.volumes {
            Volumes::Failed(failure) => failure.retry_at = now,
            Volumes::Ready => memory.volumes_stale = true,
            Volumes::Unset => {}
        }
    }

    /// Fills the volumes again when their content has changed or a token must be renewed. Returns when the next token must be.
    fn refresh_if_due(self: &Arc<Self>, pod: &Arc<Pod>, now: Timestamp, tasks: &mut JoinSet<()>) -> Option<Timestamp> {
        let mut memory = self.memory.lock();
        if memory.volumes != Volumes::Ready || memory.ending_since.is_some() {
            return None;
        }
        let renew_at = memory.tokens.values().map(|it| it.renew_at).min();
        let due = memory.volumes_stale || renew_at.is_some_and(|at| at <= now);
        if due && !memory.busy.contains("volumes") {
            memory.volumes_stale = false;
            let busy = Busy::new(self, &mut memory, "volumes".into());
            drop(memory);
            tasks.spawn(act::act(self.clone(), pod.clone(), plan::Action::SetUpVolumes, busy));
        }
        renew_at.filter(|at| *at > now)
    }

    fn write_if_due(self: &Arc<Self>, pod: &Arc<Pod>, now: Timestamp, tasks: &mut JoinSet<()>) -> Option<Timestamp> {
        let mut memory = self.memory.lock();
        if memory.last == memory.reported || memory.busy.contains("status") {
            return None;
        }
        if let Some(failure) = &memory.write_failure
            && now < failure.retry_at
        {
            return Some(failure.retry_at);
        }
        let busy = Busy::new(self, &mut memory, "status".into());
        drop(memory);
        let (worker, pod) = (self.clone(), pod.clone());
        tasks.spawn(async move {
            let _busy = busy;
            // A failure is kept in the memory, and tried again at its time.
            let _ = worker.write_status(&pod).await;
        });
        None
    }

    /// Writes the newest status to the API, if it differs from what was written last.
    pub(crate) async fn write_status(&self, pod: &Pod) -> Result<(), kube::Error> {
        let _turn = self.writing.lock().await;
        let (new, patch) = {
            let memory = self.memory.lock();
            (memory.last.clone(), status_patch(&memory.reported, &memory.last))
        };
        let Some(patch) = patch else {
            return Ok(());
        };
        let api = self.node.cluster.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let body = json!({"metadata": {"uid": self.uid}, "status": patch});
        let params = PatchParams { field_manager: Some("kubelet".into()), ..PatchParams::default() };
        let result = api.patch_status(name, &params, &Patch::Strategic(body)).await;
        let mut memory = self.memory.lock();
        match result {
            Ok(_) => {
                memory.reported = new;
                memory.write_failure = None;
                Ok(())
            }
            // It is gone, or is another pod of the same name: there is nobody to tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                memory.reported = new;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = %name_of(pod), %error, "write the pod's status");
                let failure = Failure::after(memory.write_failure.as_ref(), "Status", error.to_string(), Timestamp::now(), WRITE_RETRY_S);
                memory.write_failure = Some(failure);
                Err(error)
            }
        }
    }

    /// Tells of containers that have just begun to wait for their restart.
    fn announce(&self, pod: &Pod, new: &PodStatus) {
        let waits = |status: &PodStatus| -> Vec<String> {
            (status.container_statuses.iter().flatten())
                .chain(status.init_container_statuses.iter().flatten())
                .filter(|it| {
                    let waiting = it.state.as_ref().and_then(|state| state.waiting.as_ref());
                    waiting.is_some_and(|it| it.reason.as_deref() == Some("CrashLoopBackOff"))
                })
                .map(|it| it.name.clone())
                .collect()
        };
        let before = waits(&self.memory.lock().last);
        for name in waits(new).into_iter().filter(|it| !before.contains(it)) {
            let message = format!("Back-off restarting failed container {name} in pod {}({})", name_of(pod), self.uid);
            self.node.say(pod, Some(&name), EventType::Warning, "BackOff", &message);
        }
    }
}

/// Marks an action as under way for as long as it lives, and wakes the worker at its end, however it ends.
pub(crate) struct Busy {
    worker: Arc<Worker>,
    key: String,
}

impl Busy {
    fn new(worker: &Arc<Worker>, memory: &mut Memory, key: String) -> Busy {
        memory.busy.insert(key.clone());
        Busy { worker: worker.clone(), key }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.worker.memory.lock().busy.remove(&self.key);
        self.worker.wake.notify_one();
    }
}

/// The conditions that the kubelet writes.
const OWN_CONDITIONS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// `pods/<namespace>_<name>_<uid>` below the logs.
pub(crate) fn log_dir(data_dir: &std::path::Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    data_dir.join("logs/pods").join(format!("{namespace}_{name}_{uid}"))
}

/// As upstream writes a pod in messages: `name_namespace`.
pub(crate) fn name_of(pod: &Pod) -> String {
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    format!("{}_{}", text(&pod.metadata.name), text(&pod.metadata.namespace))
}

pub(crate) fn grace_s(pod: &Pod) -> i64 {
    (pod.metadata.deletion_grace_period_seconds).or(pod.spec.as_ref().and_then(|it| it.termination_grace_period_seconds)).unwrap_or(30)
}

pub(crate) fn time_of(ns: i128) -> Timestamp {
    Timestamp::from_nanosecond(ns).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether a change of the object concerns its worker: its own status writes do not.
fn differs(old: &Pod, new: &Pod) -> bool {
    let others = |pod: &Pod| -> Vec<(String, String)> {
        let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_ref());
        (conditions.into_iter().flatten())
            .filter(|it| !OWN_CONDITIONS.contains(&it.type_.as_str()))
            .map(|it| (it.type_.clone(), it.status.clone()))
            .collect()
    };
    let (a, b) = (&old.metadata, &new.metadata);
    old.spec != new.spec
        || a.labels != b.labels
        || a.annotations != b.annotations
        || a.generation != b.generation
        || a.deletion_timestamp != b.deletion_timestamp
        || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
        || others(old) != others(new)
}

fn versions(memory: &Memory, pod: &Pod) -> Vec<(String, String)> {
    let used = memory.used.iter().filter_map(|((kind, name), used)| Some((format!("{kind}/{name}"), used.version()?)));
    let mut hasher = std::hash::DefaultHasher::new();
    pod.metadata.labels.hash(&mut hasher);
    pod.metadata.annotations.hash(&mut hasher);
    used.chain([("pod".to_owned(), hasher.finish().to_string())]).collect()
}

/// The fields of the status that differ, as a strategic merge patch; `None` if none does.
fn status_patch(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A status is an object of strings, numbers and lists.
        _ => Map::new(),
    };
    let (old, new) = (object(old), object(new));
    let mut patch = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(list)) => {
                let known = before.and_then(Value::as_array);
                let changed = list.iter().filter(|it| !known.is_some_and(|known| known.contains(it)));
                Value::Array(changed.map(complete_condition).collect())
            }
            // These lists are merged by address unless told otherwise.
            ("podIPs" | "hostIPs", Value::Array(list)) => {
                let mut all = vec![json!({"$patch": "replace"})];
                all.extend(list.iter().cloned());
                Value::Array(all)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A condition whose reason or message went away says so: the list is merged by type, field by field.
fn complete_condition(condition: &Value) -> Value {
    let mut condition = condition.clone();
    if let Value::Object(map) = &mut condition {
        for key in ["reason", "message"] {
            map.entry(key).or_insert(Value::Null);
        }
    }
    condition
}

/// The beginning of a termination message; nothing where there is none.
fn read_start(path: &std::path::Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The last lines of a container's log, without their CRI heads.
fn log_end(path: &std::path::Path) -> String {
    use std::io::{Read as _, Seek as _};
    // Heads make the file longer than the text; four times is enough for lines of ordinary length.
    const TAIL_BYTES: u64 = 4 * MESSAGE_LOG_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut out = lines[lines.len().saturating_sub(MESSAGE_LOG_LINES_MAX)..].join("\n");
    if !out.is_empty() {
        out.push('\n');
    }
    let mut start = out.len().saturating_sub(MESSAGE_LOG_BYTES_MAX);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_only_what_changed() {
        let old: PodStatus = serde_json::from_value(json!({
            "phase": "Pending", "reason": "x", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "no"}, {"type": "Initialized", "status": "True"}],
        }))
        .unwrap();
        let new: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        }))
        .unwrap();
        assert_eq!(
            status_patch(&old, &new),
            Some(json!({
                "phase": "Running", "reason": null, "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
            }))
        );
        assert_eq!(status_patch(&new, &new), None);
    }

    #[test]
    fn the_end_of_a_log_stands_in_for_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:01Z stderr F it broke\n").unwrap();
        assert_eq!(log_end(&path), "hello\nit broke\n");
    }
}
