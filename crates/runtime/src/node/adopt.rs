//! The start of the node process: what its predecessor left is taken over or cleared away.
//!
//! A sandbox whose keeper answers is adopted with its containers. One whose keeper is gone stays as a record, not ready, until
//! the caller removes it; what still ran of it is killed. What was half made or half removed (no `sandbox.json`, no
//! `container.json`) goes at once, and so do root file systems and groups that belong to nobody.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::broadcast;

use super::link::{Greeting, Link};
use super::record::{self, Asked, ContainerRecord, Failed, SandboxRecord};
use super::{ContainerEntry, EVENTS_MAX, Inner, Progress, Runtime, RuntimeConfig, SandboxEntry, blocking, container, sandbox, spawn};
use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::image::Images;
use crate::keeper::launch::EXIT_FILE;
use crate::keeper::protocol::Call;
use crate::spec::status::{ContainerState, Exit};

pub(super) async fn open(config: RuntimeConfig) -> Result<Runtime> {
    let inner = Arc::new(blocking(move || prepare(config)).await?);
    for gap in &inner.gaps {
        tracing::warn!("on this host: {gap}");
    }
    let found = {
        let directory = inner.sandboxes_directory();
        blocking(move || subdirectories(&directory)).await?
    };
    let adopting = {
        let inner = Arc::clone(&inner);
        super::side_by_side(found, move |directory| {
            let inner = Arc::clone(&inner);
            async move { adopt_sandbox(&inner, directory).await }
        })
    };
    adopting.await?;
    let work = {
        let inner = Arc::clone(&inner);
        blocking(move || clear_strays(&inner))
    };
    work.await?;
    Ok(Runtime { inner })
}

fn prepare(config: RuntimeConfig) -> Result<Inner> {
    let mut gaps = Vec::new();
    record::make_private_directory(&config.data_dir.join("sandboxes"))?;
    sandbox::restrict(&config.data_dir.join("sandboxes"))?;
    let cgroups = Cgroups::find(&config.cgroup_root, &mut gaps);
    let view = config.data_dir.join("cgroup-view");
    for (name, _) in cgroups.root().v1_views() {
        let directory = view.join(name);
        fs::create_dir_all(&directory).map_err(|source| Error::Path { step: "make directory", path: directory, source })?;
    }
    let node_capabilities = bounding_set();
    const SYS_RESOURCE: u64 = 1 << 24;
    if node_capabilities & SYS_RESOURCE == 0 {
        gaps.push("no CAP_SYS_RESOURCE: a lower oom_score_adj and raised limits of containers are left out".to_owned());
    }
    let images_directory = config.data_dir.join("images");
    let images = Images::open(&images_directory, config.registries.clone())
        .map_err(|source| Error::Images { path: images_directory, source: Box::new(source) })?;
    let program = spawn::Program::open(&config.keeper_exe, &mut gaps);
    Ok(Inner {
        config,
        images,
        cgroups,
        filters: super::seccomp::Filters::default(),
        program,
        node_capabilities,
        gaps,
        sandboxes: Default::default(),
        containers: Default::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
    })
}

/// Capabilities that this process may hand on: those of its bounding set.
fn bounding_set() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
}

fn subdirectories(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::Path { step: "list", path: directory.to_owned(), source };
    let mut list = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            list.push(entry.path());
        }
    }
    Ok(list)
}

async fn adopt_sandbox(inner: &Arc<Inner>, directory: PathBuf) -> Result<()> {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let record: Option<SandboxRecord> = record::read(&directory.join(record::SANDBOX))?;
    let connected = match Link::connect(&name, &directory).await {
        Ok(connected) => Some(connected),
        Err(error) if is_gone(&error) => None,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            tracing::error!(sandbox = name, "a keeper does not answer and is killed");
            blocking({
                let directory = directory.clone();
                move || kill_keeper_of(&directory)
            })
            .await?;
            None
        }
        Err(source) => return Err(Error::Keeper { step: "greet the keeper", sandbox: name, source }),
    };
    let Some(record) = record else {
        return clear_half_made(inner, &name, directory, connected).await;
    };
    let (link, greeting) = match connected {
        Some((link, greeting)) => (Some(Arc::new(link)), Some(greeting)),
        None => (None, None),
    };
    let entry = Arc::new(SandboxEntry::new(record, directory, link.clone()));
    inner.sandboxes.lock().insert(name.clone(), Arc::clone(&entry));
    let work = {
        let (inner, entry, alive) = (Arc::clone(inner), Arc::clone(&entry), link.is_some());
        blocking(move || load_containers(&inner, &entry, alive))
    };
    work.await?;
    if let (Some(link), Some(greeting)) = (link, greeting) {
        tracing::info!(sandbox = name, pid = greeting.pid, "adopted a keeper");
        for known in &greeting.containers {
            container::adopt(inner, &name, known);
        }
        tokio::spawn(sandbox::follow(Arc::clone(inner), entry, link));
    }
    Ok(())
}

/// Nobody has the listening socket: there is no keeper. The socket itself may be missing where nothing was begun.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionReset)
}

/// A keeper that hangs is found by its command line, for its process id may have passed to another.
fn kill_keeper_of(directory: &Path) -> Result<()> {
    let failed = |source| Error::Path { step: "kill the keeper of", path: directory.to_owned(), source };
    let wanted = [b"knarr\0keeper\0", directory.as_os_str().as_encoded_bytes(), b"\0"].concat();
    for process in fs::read_dir("/proc").map_err(failed)?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(rustix::process::Pid::from_raw) else {
            continue;
        };
        // Opened before the look, so that the kill can meet no other.
        let Ok(descriptor) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { continue };
        if fs::read(process.path().join("cmdline")).is_ok_and(|line| line == wanted) {
            rustix::process::pidfd_send_signal(&descriptor, rustix::process::Signal::KILL).map_err(|error| failed(error.into()))?;
        }
    }
    Ok(())
}

async fn clear_half_made(inner: &Arc<Inner>, name: &str, directory: PathBuf, connected: Option<(Link, Greeting)>) -> Result<()> {
    tracing::info!(sandbox = name, "clear a sandbox that was half made or half removed");
    if let Some((link, _)) = connected {
        // It ends once its containers are dead; the listening ends with it.
        let quit = link.call(Call::Quit, &[]);
        tokio::select! {
            _ = quit => link.listen_to(|_, _| {}).await,
            () = link.listen_to(|_, _| {}) => {}
        }
    }
    let (inner, name) = (Arc::clone(inner), name.to_owned());
    blocking(move || {
        // Its groups are cleared with the strays, for nobody knows their path; here are its mounts and files.
        let containers = directory.join("containers");
        for container in if containers.is_dir() { subdirectories(&containers)? } else { Vec::new() } {
            let id = container.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
            inner.images.unmount(&id).map_err(|source| container::image_error("", &id, source))?;
        }
        tracing::debug!(sandbox = name, "cleared");
        sandbox::remove_directory(&directory)
    })
    .await
}

fn load_containers(inner: &Inner, sandbox_entry: &SandboxEntry, alive: bool) -> Result<()> {
    let sandbox_id = &sandbox_entry.record.config.id;
    for directory in subdirectories(&sandbox_entry.directory.join("containers"))? {
        let Some(record) = record::read::<ContainerRecord>(&directory.join(record::CONTAINER))? else {
            let id = directory.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
            let config = crate::spec::container::ContainerConfig { id, ..Default::default() };
            container::clear(inner, sandbox_entry, &config, &directory)?;
            continue;
        };
        let progress = past(&directory, alive)?;
        let lost = !alive && progress.message == LOST;
        let entry = ContainerEntry::new(record, sandbox_id, directory, progress);
        if !alive {
            inner.container_group(&entry)?.kill()?;
        }
        if lost {
            // So that its end has one time, however often the node starts.
            let progress = entry.progress.borrow().clone();
            if let ContainerState::Exited(exit) = progress.state {
                let failed = Failed { exit, reason: progress.reason, message: progress.message, started_at_ns: progress.started_at_ns };
                record::write(&entry.directory.join(record::FAILED), &failed)?;
            }
        }
        inner.containers.lock().insert(entry.record.config.id.clone(), Arc::new(entry));
    }
    Ok(())
}

const LOST: &str = "the pod's keeper died and the container with it";

/// What the files say of a container; a live keeper then says more.
fn past(directory: &Path, alive: bool) -> Result<Progress> {
    if let Some(failed) = record::read::<Failed>(&directory.join(record::FAILED))? {
        return Ok(Progress::exited(failed.exit, failed.started_at_ns, &failed.reason, &failed.message));
    }
    let asked = record::read::<Asked>(&directory.join(record::ASKED))?.map(|asked| asked.at_ns);
    if let Some(exit) = record::read::<Exit>(&directory.join(EXIT_FILE))? {
        return Ok(Progress::exited(exit, asked, "", ""));
    }
    if !alive && asked.is_some() {
        return Ok(Progress::exited(sandbox::lost_exit(), asked, "", LOST));
    }
    Ok(Progress::created())
}

/// Root file systems and groups that no container has.
fn clear_strays(inner: &Inner) -> Result<()> {
    let containers: Vec<Arc<ContainerEntry>> = inner.containers.lock().values().cloned().collect();
    let live: HashSet<String> = containers.iter().flat_map(|entry| container::mount_ids(&entry.record.config)).collect();
    inner.images.retain_mounts(&live).map_err(|source| container::image_error("", "(strays)", source))?;

    let mut groups: HashSet<PathBuf> = HashSet::from([PathBuf::from("keepers")]);
    for entry in inner.sandboxes.lock().values() {
        let path = super::sandbox_group_path(&entry.record.config)?;
        groups.insert(path.join(format!("pause-{}", entry.record.config.id)));
        groups.insert(path);
    }
    for entry in &containers {
        let sandbox = inner.sandbox(&entry.sandbox)?;
        groups.insert(super::sandbox_group_path(&sandbox.record.config)?.join(&entry.record.config.id));
    }
    clear_groups_below(inner, Path::new(""), &groups)
}

/// Parents of kept groups are kept; a group of the caller's own (a class of pods) goes if it is empty and is made again.
fn clear_groups_below(inner: &Inner, path: &Path, keep: &HashSet<PathBuf>) -> Result<()> {
    for name in inner.cgroups.group(path).children() {
        let child = path.join(name);
        if keep.iter().any(|kept| kept.starts_with(&child)) {
            // What a container makes below its own group is its own.
            if keep.iter().any(|kept| kept != &child && kept.starts_with(&child)) {
                clear_groups_below(inner, &child, keep)?;
            }
            continue;
        }
        let group = inner.cgroups.group(&child);
        group.kill()?;
        group.remove()?;
    }
    Ok(())
}
