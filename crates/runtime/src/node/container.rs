//! Containers: made, started, stopped, removed. What runs is the keeper's; here is what surrounds it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::plan::{self, Surroundings};
use super::record::{self, Asked, ContainerRecord, Failed};
use super::{ContainerEntry, Inner, Progress, RuntimeEvent, SandboxEntry, blocking, sandbox, sandbox_group_path, unlimited};
use crate::error::{Error, Result};
use crate::image::resolve_user;
use crate::keeper::launch::{EXIT_FILE, LAUNCH_FILE, SECCOMP_FILE};
use crate::keeper::protocol::{Call, Known, Log, Start};
use crate::spec::capability;
use crate::spec::container::{ContainerConfig, MountKind, Resources};
use crate::spec::status::{ContainerState, Exit};

/// Exit code of what could not start (containerd, errorStartExitCode).
const EXIT_NOT_STARTED: i32 = 128;

/// What a container gets after SIGKILL before the runtime says that it does not die: it waits in the kernel for a disk or a server.
const KILL_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) async fn create(inner: &Arc<Inner>, sandbox_id: &str, config: ContainerConfig) -> Result<()> {
    record::check_id("container id", &config.id)?;
    let sandbox = inner.sandbox(sandbox_id)?;
    let _turn = sandbox.turn.lock().await;
    if !sandbox.is_ready() {
        return Err(Error::Refused { sandbox: sandbox_id.to_owned(), message: "it is not ready".to_owned() });
    }
    let id = config.id.clone();
    if inner.containers.lock().contains_key(&id) {
        return Err(Error::Exists { what: "container", id });
    }
    let work = {
        let (inner, sandbox) = (Arc::clone(inner), Arc::clone(&sandbox));
        move || {
            let directory = sandbox.directory.join("containers").join(&config.id);
            let made = make(&inner, &sandbox, &config, &directory);
            if made.is_err()
                && let Err(left) = clear(&inner, &sandbox, &config, &directory)
            {
                tracing::warn!(container = config.id, error = %left, "a failed container left something behind");
            }
            made.map(|record| ContainerEntry::new(record, &sandbox.record.config.id, directory, Progress::created()))
        }
    };
    let entry = blocking(work).await?;
    inner.containers.lock().insert(id, Arc::new(entry));
    Ok(())
}

pub(super) fn image_error(image: &str, container: &str, source: crate::image::ImageError) -> Error {
    Error::Image { image: image.to_owned(), container: container.to_owned(), source: Box::new(source) }
}

/// Name under which an image volume is mounted.
fn volume_id(container: &str, number: usize) -> String {
    format!("{container}-volume-{number}")
}

/// Ids under which `Images` holds mounts of this container.
pub(super) fn mount_ids(config: &ContainerConfig) -> Vec<String> {
    let volumes = config.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Image { .. }));
    std::iter::once(config.id.clone()).chain(volumes.enumerate().map(|(number, _)| volume_id(&config.id, number))).collect()
}

/// Everything that its first process will find. `container.json` comes last: with it the container exists.
fn make(inner: &Inner, sandbox: &SandboxEntry, config: &ContainerConfig, directory: &Path) -> Result<ContainerRecord> {
    record::make_private_directory(directory)?;
    let capabilities = capability::resolve(&config.capabilities, config.privileged, inner.node_capabilities)?;
    let seccomp = if config.privileged { None } else { inner.filters.program(&config.seccomp, capabilities)? };
    if let Some(program) = &seccomp {
        record::write_bytes(&directory.join(SECCOMP_FILE), program)?;
    }

    let failed = |source| image_error(&config.image, &config.id, source);
    let rootfs = inner.images.mount(&config.image, &config.id).map_err(failed)?;
    let mut image_volumes = Vec::new();
    for mount in &config.mounts {
        if let MountKind::Image { digest, .. } = &mount.kind {
            let id = volume_id(&config.id, image_volumes.len());
            image_volumes.push(inner.images.mount_readonly(digest, &id).map_err(|source| image_error(digest, &config.id, source))?.path);
        }
    }
    let mut user = resolve_user(&rootfs.path, &plan::user_text(&config.user)).map_err(failed)?;
    user.gid = config.user.gid.unwrap_or(user.gid);

    let group = inner.cgroups.group(&sandbox_group_path(&sandbox.record.config)?.join(&config.id));
    group.make()?;
    group.limit(&config.resources)?;
    group.allow_devices(&plan::device_rules(config)?)?;

    let around = Surroundings {
        sandbox: &sandbox.record.config,
        sandbox_directory: &sandbox.directory,
        cgroup_view: &inner.config.data_dir.join("cgroup-view"),
        rootfs: &rootfs.path,
        cgroups: &inner.cgroups,
        group: &group,
        user,
        capabilities,
        seccomp: seccomp.is_some(),
        image_volumes,
    };
    record::write(&directory.join(LAUNCH_FILE), &plan::launch(config, &around)?)?;
    if let Some(parent) = config.log_path.as_deref().and_then(Path::parent) {
        std::fs::create_dir_all(parent).map_err(|source| Error::Path { step: "make log directory", path: parent.to_owned(), source })?;
    }
    let record = ContainerRecord { config: config.clone(), created_at_ns: crate::keeper::now_ns() };
    record::write(&directory.join(record::CONTAINER), &record)?;
    Ok(record)
}

/// Removes what a container has on the host; nothing of it runs. Idempotent.
pub(super) fn clear(inner: &Inner, sandbox: &SandboxEntry, config: &ContainerConfig, directory: &Path) -> Result<()> {
    sandbox::remove_file(&directory.join(record::CONTAINER))?;
    inner.cgroups.group(&sandbox_group_path(&sandbox.record.config)?.join(&config.id)).remove()?;
    for id in mount_ids(config) {
        inner.images.unmount(&id).map_err(|source| image_error(&config.image, &config.id, source))?;
    }
    sandbox::remove_directory(directory)
}

pub(super) async fn start(inner: &Arc<Inner>, id: &str) -> Result<()> {
    let entry = inner.container(id)?;
    let sandbox = inner.sandbox(&entry.sandbox)?;
    let turn = sandbox.turn.lock().await;
    match entry.state() {
        ContainerState::Created => {}
        ContainerState::Running { .. } => return Ok(()),
        ContainerState::Exited(_) => return Err(Error::State { id: id.to_owned(), state: "exited", verb: "start" }),
    }
    let link = inner.link(&entry.sandbox)?;
    // Should this process or the keeper end now, the next start of the node knows that it may have run.
    let asked = Asked { at_ns: crate::keeper::now_ns() };
    record::write(&entry.directory.join(record::ASKED), &asked)?;
    // The end of a short program is told before the answer to its start is read here: it has begun some time, too.
    entry.progress.send_modify(|progress| progress.started_at_ns = Some(asked.at_ns));
    let answer = link.call(Call::Start(start_call(inner, &sandbox, &entry)?), &[]).await;
    drop(turn);
    match answer {
        Ok(answer) => {
            let pid = answer.pid.unwrap_or(0);
            set_running(&entry, pid, answer.at_ns.unwrap_or_else(crate::keeper::now_ns));
            Ok(())
        }
        Err(Error::Refused { sandbox, message }) => {
            entry.progress.send_modify(|progress| progress.started_at_ns = None);
            let exit = Exit { code: EXIT_NOT_STARTED, signal: None, oom_killed: false, finished_at_ns: crate::keeper::now_ns() };
            set_exited(inner, &entry, exit, "StartError", &message);
            Err(Error::Refused { sandbox, message })
        }
        Err(error) => Err(error),
    }
}

fn start_call(inner: &Inner, sandbox: &SandboxEntry, entry: &ContainerEntry) -> Result<Start> {
    let config = &entry.record.config;
    let group = inner.container_group(entry)?;
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    Ok(Start {
        container: config.id.clone(),
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        log: config.log_path.clone().map(|path| Log {
            path: text(path),
            bytes_max: inner.config.log_max_bytes,
            files: inner.config.log_files,
        }),
        oom_file: group.oom_file().map(text),
        kill_cgroup: group.kill_directory().map(text),
        own_pid: config.processes_of.is_none() && !sandbox.record.config.share_pid && !sandbox.record.config.host_pid,
        processes_of: config.processes_of.clone(),
    })
}

/// An exit may have been told before the answer to the start was read.
fn set_running(entry: &ContainerEntry, pid: u32, at_ns: i128) {
    entry.progress.send_modify(|progress| {
        progress.started_at_ns = Some(at_ns);
        if progress.state == ContainerState::Created {
            progress.state = ContainerState::Running { pid };
        }
    });
}

/// Records an end that no keeper recorded (`reason` or `message` say why), and tells of it.
pub(super) fn set_exited(inner: &Inner, entry: &ContainerEntry, exit: Exit, reason: &str, message: &str) {
    let started_at_ns = entry.progress.borrow().started_at_ns;
    if !reason.is_empty() || !message.is_empty() {
        let failed = Failed { exit, reason: reason.to_owned(), message: message.to_owned(), started_at_ns };
        if let Err(error) = record::write(&entry.directory.join(record::FAILED), &failed) {
            tracing::warn!(container = entry.record.config.id, %error, "record the end of a container");
        }
    }
    entry.progress.send_replace(Progress::exited(exit, started_at_ns, reason, message));
    inner.announce(RuntimeEvent::Exited { sandbox: entry.sandbox.clone(), container: entry.record.config.id.clone(), exit });
}

/// The keeper tells of an end.
pub(super) fn exited(inner: &Inner, sandbox: &str, container: &str, exit: Exit) {
    let Ok(entry) = inner.container(container) else { return };
    if entry.sandbox == sandbox && !matches!(entry.state(), ContainerState::Exited(_)) {
        set_exited(inner, &entry, exit, "", "");
    }
}

/// What a keeper's greeting says of a container.
pub(super) fn adopt(inner: &Inner, sandbox: &str, known: &Known) {
    let Ok(entry) = inner.container(&known.container) else { return };
    set_running(&entry, known.pid, known.started_at_ns);
    if let Some(exit) = known.exit {
        exited(inner, sandbox, &known.container, exit);
    }
}

/// The end that the keeper wrote down, if it did.
pub(super) fn recorded(entry: &ContainerEntry) -> Option<Exit> {
    record::read(&entry.directory.join(EXIT_FILE)).ok().flatten()
}

pub(super) async fn stop(inner: &Arc<Inner>, id: &str, grace: Duration) -> Result<()> {
    let Ok(entry) = inner.container(id) else { return Ok(()) };
    if !matches!(entry.state(), ContainerState::Running { .. }) {
        return Ok(());
    }
    let signal = match entry.record.config.stop_signal {
        0 => libc::SIGTERM,
        signal => signal,
    };
    let container = id.to_owned();
    if !grace.is_zero() {
        ask(inner, &entry, Call::Signal { container: container.clone(), signal }).await?;
        if tokio::time::timeout(grace, ended(&entry)).await.is_ok() {
            return Ok(());
        }
    }
    ask(inner, &entry, Call::Kill { container }).await?;
    match tokio::time::timeout(KILL_TIMEOUT, ended(&entry)).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::State { id: id.to_owned(), state: "held in the kernel", verb: "be killed" }),
    }
}

/// If the keeper goes meanwhile, so does the container, and that is seen as its end.
async fn ask(inner: &Arc<Inner>, entry: &ContainerEntry, call: Call) -> Result<()> {
    let Ok(link) = inner.link(&entry.sandbox) else { return Ok(()) };
    match link.call(call, &[]).await {
        Ok(_) | Err(Error::Keeper { .. }) => Ok(()),
        Err(error) if matches!(entry.state(), ContainerState::Exited(_)) => {
            tracing::debug!(%error, "a container ended before it was asked to");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub(super) async fn ended(entry: &ContainerEntry) {
    let mut progress = entry.progress.subscribe();
    // The sender lives in `entry`.
    let _ = progress.wait_for(|progress| !matches!(progress.state, ContainerState::Running { .. })).await;
}

/// In its sandbox's turn, as its removal is: it must not get its record back.
pub(super) async fn limit(inner: &Arc<Inner>, id: &str, resources: Resources) -> Result<()> {
    let sandbox = inner.sandbox(&inner.container(id)?.sandbox)?;
    let _turn = sandbox.turn.lock().await;
    let entry = inner.container(id)?;
    let inner = Arc::clone(inner);
    blocking(move || {
        inner.container_group(&entry)?.limit(&unlimited(&resources))?;
        let mut record = entry.record.clone();
        record.config.resources.clone_from(&resources);
        record::write(&entry.directory.join(record::CONTAINER), &record)?;
        *entry.resources.lock() = resources;
        Ok(())
    })
    .await
}

pub(super) async fn remove(inner: &Arc<Inner>, id: &str) -> Result<()> {
    stop(inner, id, Duration::ZERO).await?;
    let Ok(entry) = inner.container(id) else { return Ok(()) };
    let sandbox = inner.sandbox(&entry.sandbox)?;
    let _turn = sandbox.turn.lock().await;
    let link = sandbox.link.lock().clone();
    if let Some(link) = link {
        match link.call(Call::Forget { container: id.to_owned() }, &[]).await {
            Ok(_) | Err(Error::Keeper { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let work = {
        let (inner, sandbox, entry) = (Arc::clone(inner), Arc::clone(&sandbox), Arc::clone(&entry));
        blocking(move || clear(&inner, &sandbox, &entry.record.config, &entry.directory))
    };
    work.await?;
    inner.containers.lock().remove(id);
    Ok(())
}
