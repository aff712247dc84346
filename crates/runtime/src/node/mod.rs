//! The runtime as the node process sees it: every sandbox and container of the node, kept in step with their keepers.
//!
//! What a sandbox or container shall be is on disk (`record`); what it is, its keeper knows. Here is a copy of both, fed by the
//! keepers' messages; nothing is polled. Each change of a sandbox has its turn (`SandboxEntry::turn`), different sandboxes go side by side.

mod adopt;
mod container;
mod link;
mod plan;
mod record;
mod sandbox;
mod seccomp;
mod session;
mod spawn;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};

use crate::cgroup::{self, Cgroups};
use crate::error::{Error, Result};
use crate::image::{Images, Usage};
use crate::registry::Registries;
use crate::spec::container::{ContainerConfig, Resources};
use crate::spec::sandbox::SandboxConfig;
use crate::spec::status::{
    ContainerState, ContainerStats, ContainerStatus, Details, ExecOutput, Exit, Sandbox, SandboxStats, SandboxStatus,
};

use link::Link;
use record::{ContainerRecord, SandboxRecord};
pub use session::Session;

/// Events that a slow subscriber may lag behind by, before it is told to list again.
const EVENTS_MAX: usize = 1024;

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// `/var/lib/knarr`: holds `sandboxes/` and `images/`.
    pub data_dir: PathBuf,
    /// As `/knarr-<id>`; made where it is missing in each hierarchy.
    pub cgroup_root: String,
    /// Started as `<keeper_exe> keeper <sandbox directory>`.
    pub keeper_exe: PathBuf,
    pub log_max_bytes: u64,
    /// How many files a container's log may have, the current one included; at least 1.
    pub log_files: u32,
    /// Where images are pulled from, and how.
    pub registries: Registries,
}

/// Handle to all sandboxes and containers of the node; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: RuntimeConfig,
    images: Images,
    cgroups: Cgroups,
    filters: seccomp::Filters,
    program: spawn::Program,
    /// Capabilities that this process may hand on.
    node_capabilities: u64,
    /// What this host cannot do.
    gaps: Vec<String>,
    sandboxes: Mutex<HashMap<String, Arc<SandboxEntry>>>,
    containers: Mutex<HashMap<String, Arc<ContainerEntry>>>,
    events: broadcast::Sender<RuntimeEvent>,
}

pub(crate) struct SandboxEntry {
    record: SandboxRecord,
    directory: PathBuf,
    /// `None`: its keeper is gone, it is not ready.
    link: Mutex<Option<Arc<Link>>>,
    /// One change at a time. Long waits (a container's end) are not made under it.
    turn: tokio::sync::Mutex<()>,
    /// Its end is wanted: nobody need be told.
    stopping: AtomicBool,
    /// Its limits now, which `record` has from its start.
    resources: Mutex<Resources>,
    /// The keeper has ended and what came of it is known.
    gone: watch::Sender<bool>,
}

pub(crate) struct ContainerEntry {
    record: ContainerRecord,
    sandbox: String,
    directory: PathBuf,
    progress: watch::Sender<Progress>,
    /// The limits that hold now; those of the record held at the start of this process.
    resources: Mutex<Resources>,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    state: ContainerState,
    started_at_ns: Option<i128>,
    /// Empty: follows from the state.
    reason: String,
    message: String,
}

/// Something changed without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    Exited {
        sandbox: String,
        container: String,
        exit: Exit,
    },
    /// The keeper died; its containers were killed with it and are reported by `Exited` before this.
    SandboxDied {
        sandbox: String,
    },
    /// Events were lost because this subscriber was too slow: list again.
    Missed,
}

/// Subscription to [`RuntimeEvent`]s.
pub struct Events {
    receiver: broadcast::Receiver<RuntimeEvent>,
}

impl Events {
    /// Cancel-safe; `None` once the runtime is gone.
    pub async fn next(&mut self) -> Option<RuntimeEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(RuntimeEvent::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Runtime {
    /// Adopts every live keeper; removes what is dead or half made.
    pub async fn open(config: RuntimeConfig) -> Result<Runtime> {
        adopt::open(config).await
    }

    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// What this host cannot do, in words for people; said once in the log as well.
    pub fn gaps(&self) -> &[String] {
        &self.inner.gaps
    }

    pub fn events(&self) -> Events {
        Events { receiver: self.inner.events.subscribe() }
    }

    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox> {
        sandbox::run(&self.inner, config).await
    }

    /// Replaces the pod's `/etc/hosts`, in place: running containers see it. The sandbox was made with a text for it.
    pub async fn set_hosts(&self, sandbox: &str, text: &str) -> Result<()> {
        let path = self.inner.sandbox(sandbox)?.directory.join("hosts");
        let text = text.to_owned();
        blocking(move || record::write_shared(&path, &text)).await
    }

    /// Kills what still runs in it, ends the keeper, leaves the records. Idempotent.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        sandbox::stop(&self.inner, id).await
    }

    /// Stops it and removes everything that it left: containers, mounts, cgroups, directories. Idempotent.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        sandbox::remove(&self.inner, id).await
    }

    /// Sorted by id.
    pub fn list_sandboxes(&self) -> Vec<SandboxStatus> {
        let mut list: Vec<SandboxStatus> = self.inner.sandboxes.lock().values().map(|entry| entry.status()).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<()> {
        container::create(&self.inner, sandbox, config).await
    }

    /// Returns when its program runs. A failure leaves it exited with code 128 and the reason "StartError".
    pub async fn start_container(&self, id: &str) -> Result<()> {
        container::start(&self.inner, id).await
    }

    /// Sends the container's stop signal, and SIGKILL after `grace`. Returns when it has ended. Idempotent.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        container::stop(&self.inner, id, grace).await
    }

    /// Kills it if it runs, removes its root file system and record; the log stays. Idempotent.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        container::remove(&self.inner, id).await
    }

    pub fn status(&self, id: &str) -> Result<ContainerStatus> {
        Ok(self.inner.container(id)?.status())
    }

    /// Sorted by id.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        let mut list: Vec<ContainerStatus> = self.inner.containers.lock().values().map(|entry| entry.status()).collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    /// Runs a process in a running container, with the container's user, rights and limits.
    pub async fn exec(&self, id: &str, argv: Vec<String>, tty: bool, stdin: bool) -> Result<Session> {
        session::exec(&self.inner, id, argv, tty, stdin).await
    }

    /// Output of each stream beyond `output_max` bytes is dropped.
    pub async fn exec_sync(&self, id: &str, argv: Vec<String>, timeout: Option<Duration>, output_max: usize) -> Result<ExecOutput> {
        session::exec_sync(&self.inner, id, argv, timeout, output_max).await
    }

    /// What it writes from now on. A client that reads too slowly is cut off.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        session::attach(&self.inner, id, stdin).await
    }

    /// A connection to `port` on the pod's loopback, IPv4 first.
    pub async fn port_forward(&self, sandbox: &str, port: u16) -> Result<TcpStream> {
        session::port_forward(&self.inner, sandbox, port).await
    }

    /// Changes the limits of a container that exists. They stay through a restart of the node.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        container::limit(&self.inner, id, resources).await
    }

    /// Changes the limits of the pod as a whole. They stay through a restart of the node.
    pub async fn update_sandbox_resources(&self, id: &str, resources: Resources) -> Result<()> {
        sandbox::limit(&self.inner, id, resources).await
    }

    /// Starts the container's log anew at its path (after an outside rotation).
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let entry = self.inner.container(id)?;
        let link = self.inner.link(&entry.sandbox)?;
        link.call(crate::keeper::protocol::Call::ReopenLog { container: id.to_owned() }, &[]).await.map(drop)
    }

    /// Bytes at which a container's log is begun anew, and how many files of it there may be.
    pub fn log_limits(&self) -> (u64, u32) {
        (self.inner.config.log_max_bytes, self.inner.config.log_files)
    }

    pub async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        let entry = self.inner.container(id)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(cgroup::read_stats(&inner.container_group(&entry)?))).await
    }

    /// What the container wrote into its layer. Walks through all of it.
    pub async fn container_usage(&self, id: &str) -> Result<Usage> {
        let entry = self.inner.container(id)?;
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let failed = move |id: &str, source| container::image_error(&entry.record.config.image, id, source);
        blocking(move || inner.images.usage(&id).map_err(|source| failed(&id, source))).await
    }

    pub async fn sandbox_stats(&self, id: &str) -> Result<SandboxStats> {
        let entry = self.inner.sandbox(id)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let total = cgroup::read_stats(&inner.sandbox_group(&entry.record.config)?);
            Ok(SandboxStats { total, network: sandbox::network_stats(&entry) })
        })
        .await
    }

    pub async fn container_details(&self, id: &str) -> Result<Details> {
        let entry = self.inner.container(id)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(cgroup::read_details(&inner.container_group(&entry)?))).await
    }

    pub async fn sandbox_details(&self, id: &str) -> Result<Details> {
        let entry = self.inner.sandbox(id)?;
        let inner = Arc::clone(&self.inner);
        blocking(move || Ok(cgroup::read_details(&inner.sandbox_group(&entry.record.config)?))).await
    }

    /// Stops and removes every sandbox, then the cgroup root: nothing of this runtime is left but images and logs.
    pub async fn teardown(&self) -> Result<()> {
        let ids: Vec<String> = self.inner.sandboxes.lock().keys().cloned().collect();
        let inner = Arc::clone(&self.inner);
        let removed = side_by_side(ids, move |id| {
            let inner = Arc::clone(&inner);
            async move { sandbox::remove(&inner, &id).await }
        });
        let failed = removed.await.err();
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.cgroups.remove_all()).await?;
        failed.map_or(Ok(()), Err)
    }
}

impl Inner {
    fn sandbox(&self, id: &str) -> Result<Arc<SandboxEntry>> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| Error::NotFound { what: "sandbox", id: id.to_owned() })
    }

    fn container(&self, id: &str) -> Result<Arc<ContainerEntry>> {
        self.containers.lock().get(id).cloned().ok_or_else(|| Error::NotFound { what: "container", id: id.to_owned() })
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<ContainerEntry>> {
        self.containers.lock().values().filter(|entry| entry.sandbox == sandbox).cloned().collect()
    }

    fn link(&self, sandbox: &str) -> Result<Arc<Link>> {
        let entry = self.sandbox(sandbox)?;
        let link = entry.link.lock().clone();
        link.ok_or_else(|| Error::Refused { sandbox: sandbox.to_owned(), message: "its keeper is gone".to_owned() })
    }

    fn sandboxes_directory(&self) -> PathBuf {
        self.config.data_dir.join("sandboxes")
    }

    /// The group of a pod: several sandboxes in turn may be in it.
    fn sandbox_group(&self, config: &SandboxConfig) -> Result<cgroup::Group<'_>> {
        Ok(self.cgroups.group(&sandbox_group_path(config)?))
    }

    fn container_group(&self, entry: &ContainerEntry) -> Result<cgroup::Group<'_>> {
        let sandbox = self.sandbox(&entry.sandbox)?;
        Ok(self.cgroups.group(&sandbox_group_path(&sandbox.record.config)?.join(&entry.record.config.id)))
    }

    fn announce(&self, event: RuntimeEvent) {
        // Nobody need be listening.
        let _ = self.events.send(event);
    }
}

fn sandbox_group_path(config: &SandboxConfig) -> Result<PathBuf> {
    let path = record::check_below("cgroup_parent", &config.cgroup_parent)?;
    Ok(if path.as_os_str().is_empty() { PathBuf::from(&config.id) } else { path })
}

/// As `resources`, but what is not limited is said to be so: there may have been a limit before.
fn unlimited(resources: &Resources) -> Resources {
    const NO_LIMIT: i64 = -1;
    Resources { cpu_quota_us: resources.cpu_quota_us.or(Some(NO_LIMIT)), ..resources.clone() }
}

impl SandboxEntry {
    fn new(record: SandboxRecord, directory: PathBuf, link: Option<Arc<Link>>) -> SandboxEntry {
        SandboxEntry {
            resources: Mutex::new(record.config.resources.clone()),
            record,
            directory,
            link: Mutex::new(link),
            turn: tokio::sync::Mutex::new(()),
            stopping: AtomicBool::new(false),
            gone: watch::Sender::new(false),
        }
    }

    fn is_ready(&self) -> bool {
        self.link.lock().is_some()
    }

    fn netns(&self) -> Option<PathBuf> {
        let own = !self.record.config.host_network && self.is_ready();
        own.then(|| Path::new("/proc").join(self.record.pid.to_string()).join("ns/net"))
    }
}

impl ContainerEntry {
    fn new(record: ContainerRecord, sandbox: &str, directory: PathBuf, progress: Progress) -> ContainerEntry {
        let resources = Mutex::new(record.config.resources.clone());
        ContainerEntry { record, sandbox: sandbox.to_owned(), directory, progress: watch::Sender::new(progress), resources }
    }

    fn state(&self) -> ContainerState {
        self.progress.borrow().state
    }

    fn status(&self) -> ContainerStatus {
        let progress = self.progress.borrow().clone();
        let config = &self.record.config;
        let reason = match progress.state {
            _ if !progress.reason.is_empty() => progress.reason,
            ContainerState::Exited(exit) if exit.oom_killed => "OOMKilled".to_owned(),
            ContainerState::Exited(Exit { code: 0, .. }) => "Completed".to_owned(),
            ContainerState::Exited(_) => "Error".to_owned(),
            _ => String::new(),
        };
        ContainerStatus {
            id: config.id.clone(),
            sandbox: self.sandbox.clone(),
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.clone(),
            state: progress.state,
            created_at_ns: self.record.created_at_ns,
            started_at_ns: progress.started_at_ns,
            reason,
            message: progress.message,
            log_path: config.log_path.clone(),
            resources: self.resources.lock().clone(),
            labels: config.labels.clone(),
        }
    }
}

impl Progress {
    fn created() -> Progress {
        Progress { state: ContainerState::Created, started_at_ns: None, reason: String::new(), message: String::new() }
    }
}

/// Sandboxes that are adopted or removed at a time: mostly waits for the kernel, each with a blocking thread.
const SIDE_BY_SIDE_MAX: usize = 16;

/// Does `work` for each item, several at a time; all are tried, and the first error is given.
async fn side_by_side<T, F, W>(items: Vec<T>, work: W) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
    W: Fn(T) -> F,
{
    let mut failed = Ok(());
    let mut running = tokio::task::JoinSet::new();
    for item in items {
        if running.len() >= SIDE_BY_SIDE_MAX {
            failed = failed.and(joined(running.join_next().await));
        }
        running.spawn(work(item));
    }
    while !running.is_empty() {
        failed = failed.and(joined(running.join_next().await));
    }
    failed
}

fn joined(result: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nobody aborts these tasks but an async runtime that ends.
            Err(_cancelled) => Ok(()),
        },
    }
}

/// A descriptor whose readiness the async runtime watches.
fn watch_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor, the same for all its life, closed by nobody else.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// Runs what blocks on files or the kernel beside the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The async runtime is shutting down.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
