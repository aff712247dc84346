//! The worker of one pod: sees, plans, starts the actions that the plan names, writes the status, waits.
//!
//! It wakes when the object changes, when something that the pod uses changes, when an action ends, when the runtime tells of an
//! exit, when a probe decides, and at the plan's deadline. Its memory can be lost at any time; [`Worker::adopt`] rebuilds it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, Pod, PodStatus, Secret};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::act;
use super::plan::{self, Plan};
use super::probe::Kind;
use super::probes::Probes;
use super::seen::{BackOff, Doom, Exit, Failure, Verdict, Volumes};
use super::status;
use super::tally::Tally;
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
    /// Of a container: the limits that its pod as a whole asked for when it was made.
    pub(crate) const WHOLE: &str = "knarr.pod-limits";
}

pub(crate) struct Worker {
    pub(crate) node: Arc<Node>,
    pub(crate) uid: String,
    pub(crate) dir: PodDir,
    pub(crate) log_dir: PathBuf,
    pub(crate) wake: Arc<Notify>,
    desired: Mutex<Desired>,
    pub(crate) memory: Mutex<Memory>,
    /// By container and probe.
    pub(crate) tallies: Mutex<BTreeMap<(String, Kind), Tally>>,
    /// Held while the status is written, so that writes keep their order.
    pub(super) writing: tokio::sync::Mutex<()>,
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
    pub(super) fn version(&self) -> Option<String> {
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
    pub(crate) released: bool,
    pub(crate) torn_down: bool,
    pub(crate) rejected: Option<(String, String)>,
    pub(crate) used: BTreeMap<(&'static str, String), Used>,
    /// Versions of what the pod uses, and of its labels and annotations, as far as they were known.
    pub(super) inputs: BTreeMap<String, String>,
    /// They have changed since the volumes were filled.
    pub(crate) volumes_stale: bool,
    pub(crate) tokens: BTreeMap<(String, usize), Token>,
    pub(crate) last: PodStatus,
    pub(crate) reported: PodStatus,
    pub(super) write_failure: Option<Failure>,
    pub(super) first_seen: Timestamp,
    pub(super) exits: HashMap<String, Exit>,
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
                released: false,
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
            tallies: Mutex::default(),
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
}

/// Marks an action as under way for as long as it lives, and wakes the worker at its end, however it ends.
pub(crate) struct Busy {
    worker: Arc<Worker>,
    key: String,
}

impl Busy {
    pub(super) fn new(worker: &Arc<Worker>, memory: &mut Memory, key: String) -> Busy {
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
pub(super) const OWN_CONDITIONS: [&str; 6] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "PodResizeInProgress"];

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
