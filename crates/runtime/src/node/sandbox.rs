//! Sandboxes: made, stopped, removed, and what happens when a keeper goes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::mount::{MountFlags, UnmountFlags};
use tokio::process::Child;

use super::link::{self, Greeting, Link};
use super::record::{self, SandboxRecord};
use super::{ContainerEntry, Inner, Progress, RuntimeEvent, SandboxEntry, blocking, container, sandbox_group_path, unlimited};
use crate::error::{Error, Result};
use crate::keeper::launch::{SANDBOX_FILE, SandboxLaunch};
use crate::keeper::protocol::Call;
use crate::spec::container::Resources;
use crate::spec::sandbox::SandboxConfig;
use crate::spec::status::{ContainerState, Exit, InterfaceStats, Sandbox, SandboxState, SandboxStatus};

/// Size of a pod's /dev/shm where none is given (containerd, defaultShmSize).
const SHM_BYTES: u64 = 64 << 20;

/// Bytes of a keeper's last words in an error.
const LAST_WORDS_MAX: usize = 1 << 10;

pub(super) async fn run(inner: &Arc<Inner>, config: SandboxConfig) -> Result<Sandbox> {
    record::check_id("sandbox id", &config.id)?;
    check_sysctls(&config)?;
    let id = config.id.clone();
    if inner.sandboxes.lock().contains_key(&id) {
        return Err(Error::Exists { what: "sandbox", id });
    }
    let directory = inner.sandboxes_directory().join(&id);
    let made = make(inner, &config, &directory).await;
    let (link, greeting, child) = match made {
        Ok(made) => made,
        Err(error) => {
            // Undo: nothing of a sandbox that does not exist may stay. The first error is the one that tells why.
            let (inner, config) = (Arc::clone(inner), config);
            if let Err(left) = blocking(move || clear(&inner, Some(&config), &directory)).await {
                tracing::warn!(sandbox = id, error = %left, "a failed sandbox left something behind");
            }
            return Err(error);
        }
    };
    tokio::spawn(reap(child));
    let record = SandboxRecord { config, created_at_ns: crate::keeper::now_ns(), pid: greeting.pid };
    record::write(&directory.join(record::SANDBOX), &record)?;
    let link = Arc::new(link);
    let entry = Arc::new(SandboxEntry::new(record, directory, Some(Arc::clone(&link))));
    inner.sandboxes.lock().insert(id.clone(), Arc::clone(&entry));
    let netns = entry.netns();
    tokio::spawn(follow(Arc::clone(inner), entry, link));
    Ok(Sandbox { id, pid: greeting.pid, netns })
}

async fn make(inner: &Arc<Inner>, config: &SandboxConfig, directory: &Path) -> Result<(Link, Greeting, Child)> {
    let listener = {
        let (inner, config, directory) = (Arc::clone(inner), config.clone(), directory.to_owned());
        blocking(move || prepare(&inner, &config, &directory)).await?
    };
    let failed = |step, source| Error::Keeper { step, sandbox: config.id.clone(), source };
    let mut child = inner.program.start(directory, &listener).map_err(|error| failed("start the keeper", error))?;
    // From now on a connection is refused if and only if the keeper is gone.
    drop(listener);
    match Link::connect(&config.id, directory).await {
        Ok((link, greeting)) => Ok((link, greeting, child)),
        Err(error) => {
            if error.kind() == io::ErrorKind::TimedOut {
                // It hangs and must not stay. Otherwise it is at its end, and its last words come before it.
                let _ = child.start_kill();
            }
            child.wait().await.map_err(|error| failed("wait for the keeper", error))?;
            let words = fs::read(directory.join("keeper.log")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words[words.len().saturating_sub(LAST_WORDS_MAX)..]).trim().to_owned();
            if words.is_empty() {
                return Err(failed("greet the keeper", error));
            }
            Err(Error::Refused { sandbox: config.id.clone(), message: words })
        }
    }
}

/// All that a keeper needs, up to its listening socket.
fn prepare(inner: &Inner, config: &SandboxConfig, directory: &Path) -> Result<std::os::fd::OwnedFd> {
    record::make_private_directory(directory)?;
    record::make_private_directory(&directory.join("containers"))?;
    for (file, text) in [("hosts", &config.hosts), ("resolv.conf", &config.resolv_conf)] {
        if let Some(text) = text {
            record::write_shared(&directory.join(file), text)?;
        }
    }
    if !config.hostname.is_empty() {
        record::write_shared(&directory.join("hostname"), &format!("{}\n", config.hostname))?;
    }
    if !config.host_ipc {
        mount_shm(&directory.join("shm"), if config.shm_bytes == 0 { SHM_BYTES } else { config.shm_bytes })?;
    }
    let group = inner.sandbox_group(config)?;
    group.make()?;
    group.limit(&config.resources)?;
    let mut pod_cgroups = Vec::new();
    if config.share_pid {
        let own = inner.cgroups.group(&sandbox_group_path(config)?.join(format!("pause-{}", config.id)));
        own.make()?;
        pod_cgroups = own.procs();
    }
    let launch = SandboxLaunch {
        hostname: config.hostname.clone(),
        own_net: !config.host_network,
        own_ipc: !config.host_ipc,
        // As upstream: a pod on the host's network also has the host's name.
        own_uts: !config.host_network,
        share_pid: config.share_pid && !config.host_pid,
        sysctls: config.sysctls.iter().map(|(name, value)| (name.replace('.', "/"), value.clone())).collect(),
        cgroups: inner.cgroups.make_keepers_group()?,
        pod_cgroups,
    };
    record::write(&directory.join(SANDBOX_FILE), &launch)?;
    link::listen(directory).map_err(|source| Error::Keeper { step: "listen", sandbox: config.id.clone(), source })
}

/// Only sysctls of namespaces that the pod does not share with the host; the caller has its own, narrower list.
fn check_sysctls(config: &SandboxConfig) -> Result<()> {
    const IPC: [&str; 4] = ["kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."];
    for name in config.sysctls.keys() {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) && !name.contains("..");
        let of_net = name.starts_with("net.") && !config.host_network;
        let of_ipc = IPC.iter().any(|prefix| name.starts_with(prefix)) && !config.host_ipc;
        if !plain || !(of_net || of_ipc) {
            let reason = format!("{name} is not a setting of the pod's own namespaces");
            return Err(Error::Invalid { field: "sysctls".to_owned(), reason });
        }
    }
    Ok(())
}

fn mount_shm(path: &Path, bytes: u64) -> Result<()> {
    record::make_private_directory(path)?;
    let options = std::ffi::CString::new(format!("mode=1777,size={bytes}")).map_err(io::Error::from);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounted = options.and_then(|options| Ok(rustix::mount::mount("shm", path, "tmpfs", flags, options.as_c_str())?));
    mounted.map_err(|source| Error::Path { step: "mount shared memory", path: path.to_owned(), source })
}

/// A keeper is this process's child until this process ends; without this it would stay as a zombie.
async fn reap(mut child: Child) {
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "wait for a keeper");
    }
}

/// Listens to a keeper until it is gone, and deals with that.
pub(super) async fn follow(inner: Arc<Inner>, entry: Arc<SandboxEntry>, mut link: Arc<Link>) {
    let id = &entry.record.config.id;
    loop {
        link.listen_to(|container, exit| container::exited(&inner, id, &container, exit)).await;
        // A keeper that lives has closed a connection that did not take its messages: then it is greeted again.
        match Link::connect(id, &entry.directory).await {
            Ok((again, greeting)) => {
                for known in &greeting.containers {
                    container::adopt(&inner, id, known);
                }
                link = Arc::new(again);
                *entry.link.lock() = Some(Arc::clone(&link));
            }
            Err(_gone) => break,
        }
    }
    gone(&inner, &entry).await;
}

/// The keeper has ended. What it did not record ended with it.
async fn gone(inner: &Arc<Inner>, entry: &Arc<SandboxEntry>) {
    let id = entry.record.config.id.clone();
    let lost: Vec<Arc<ContainerEntry>> =
        inner.containers_of(&id).into_iter().filter(|container| matches!(container.state(), ContainerState::Running { .. })).collect();
    let work = {
        let (inner, lost) = (Arc::clone(inner), lost.clone());
        blocking(move || lost.iter().try_for_each(|container| inner.container_group(container)?.kill())).await
    };
    if let Err(error) = work {
        tracing::error!(sandbox = id, %error, "kill what a dead keeper left");
    }
    *entry.link.lock() = None;
    for container in lost {
        // It may have been recorded after the last message that was read.
        let exit = container::recorded(&container);
        let (exit, message) = match exit {
            Some(exit) => (exit, ""),
            None => (lost_exit(), "the pod's keeper died and the container with it"),
        };
        container::set_exited(inner, &container, exit, "", message);
    }
    entry.gone.send_replace(true);
    if !entry.stopping.load(Ordering::Acquire) {
        tracing::error!(sandbox = id, "the keeper of a sandbox died");
        inner.announce(RuntimeEvent::SandboxDied { sandbox: id });
    }
}

/// Of a container that nobody saw end: the kernel killed it when its keeper died.
pub(super) fn lost_exit() -> Exit {
    Exit { code: 128 + libc::SIGKILL, signal: Some(libc::SIGKILL), oom_killed: false, finished_at_ns: crate::keeper::now_ns() }
}

pub(super) async fn stop(inner: &Arc<Inner>, id: &str) -> Result<()> {
    let Ok(entry) = inner.sandbox(id) else { return Ok(()) };
    let _turn = entry.turn.lock().await;
    entry.stopping.store(true, Ordering::Release);
    let Some(link) = entry.link.lock().clone() else { return Ok(()) };
    match link.call(Call::Quit, &[]).await {
        // It may be gone before it answers.
        Ok(_) | Err(Error::Keeper { .. }) => {}
        Err(error) => return Err(error),
    }
    // `follow` sees its end.
    let _ = entry.gone.subscribe().wait_for(|gone| *gone).await;
    Ok(())
}

/// In its turn: two writers of the record would trip over each other, and one that is removed must not get its record back.
pub(super) async fn limit(inner: &Arc<Inner>, id: &str, resources: Resources) -> Result<()> {
    let entry = inner.sandbox(id)?;
    let _turn = entry.turn.lock().await;
    if entry.stopping.load(Ordering::Acquire) {
        return Err(Error::Refused { sandbox: id.to_owned(), message: "it is being stopped".to_owned() });
    }
    let (inner, entry) = (Arc::clone(inner), Arc::clone(&entry));
    blocking(move || {
        // Even where they seem to hold: an attempt that failed may have set some of them.
        inner.sandbox_group(&entry.record.config)?.limit(&unlimited(&resources))?;
        if *entry.resources.lock() == resources {
            return Ok(());
        }
        let mut record = entry.record.clone();
        record.config.resources.clone_from(&resources);
        record::write(&entry.directory.join(record::SANDBOX), &record)?;
        *entry.resources.lock() = resources;
        Ok(())
    })
    .await
}

pub(super) async fn remove(inner: &Arc<Inner>, id: &str) -> Result<()> {
    stop(inner, id).await?;
    let Ok(entry) = inner.sandbox(id) else { return Ok(()) };
    for container in inner.containers_of(id) {
        container::remove(inner, &container.record.config.id).await?;
    }
    let turn = entry.turn.lock().await;
    let work = {
        let (inner, entry) = (Arc::clone(inner), Arc::clone(&entry));
        blocking(move || {
            // From here it is half made: should this end in the middle, the next start goes on.
            remove_file(&entry.directory.join(record::SANDBOX))?;
            clear(&inner, Some(&entry.record.config), &entry.directory)
        })
    };
    work.await?;
    inner.sandboxes.lock().remove(id);
    drop(turn);
    Ok(())
}

/// Removes what a sandbox has on the host; its keeper is gone. Idempotent.
pub(super) fn clear(inner: &Inner, config: Option<&SandboxConfig>, directory: &Path) -> Result<()> {
    if let Some(config) = config {
        let path = sandbox_group_path(config)?;
        inner.cgroups.group(&path.join(format!("pause-{}", config.id))).remove()?;
        let shared =
            inner.sandboxes.lock().values().any(|other| {
                other.record.config.id != config.id && sandbox_group_path(&other.record.config).is_ok_and(|other| other == path)
            });
        if !shared {
            let group = inner.cgroups.group(&path);
            group.kill()?;
            group.remove()?;
        }
    }
    remove_directory(directory)
}

/// A directory and all in it, but never through a mount: what is mounted below is detached first.
pub(super) fn remove_directory(directory: &Path) -> Result<()> {
    let failed = |step| move |source| Error::Path { step, path: directory.to_owned(), source };
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(failed("list the mounts below"))?;
    let mounts = table.lines().filter_map(|line| line.split(' ').nth(4)).map(crate::cgroup::unescape);
    let below = mounts.filter(|mount| Path::new(mount).starts_with(directory));
    // Later mounts may be on top of earlier ones.
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        match rustix::mount::unmount(mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed("unmount what is below")(error.into())),
        }
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
        _ => Ok(()),
    }
}

pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Path { step: "remove", path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

impl SandboxEntry {
    pub(super) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            id: self.record.config.id.clone(),
            state: if self.is_ready() { SandboxState::Ready } else { SandboxState::NotReady },
            created_at_ns: self.record.created_at_ns,
            pid: self.record.pid,
            netns: self.netns(),
            labels: self.record.config.labels.clone(),
            resources: self.resources.lock().clone(),
        }
    }
}

pub(super) fn network_stats(entry: &SandboxEntry) -> Vec<InterfaceStats> {
    let own = !entry.record.config.host_network && entry.is_ready();
    if own { InterfaceStats::of_process(entry.record.pid) } else { Vec::new() }
}

/// Directories that only root can enter.
pub(super) fn restrict(directory: &Path) -> Result<()> {
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory, mode).map_err(|source| Error::Path { step: "restrict", path: directory.to_owned(), source })
}

impl Progress {
    pub(super) fn exited(exit: Exit, started_at_ns: Option<i128>, reason: &str, message: &str) -> Progress {
        Progress { state: ContainerState::Exited(exit), started_at_ns, reason: reason.to_owned(), message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let check = |name: &str, host_network: bool, expected: bool| {
            let sysctls = [(name.to_owned(), "1".to_owned())].into();
            let config = SandboxConfig { sysctls, host_network, ..SandboxConfig::default() };
            assert_eq!(check_sysctls(&config).is_ok(), expected, "{name}");
        };
        check("net.ipv4.ip_unprivileged_port_start", false, true);
        check("net.ipv4.ip_unprivileged_port_start", true, false);
        check("kernel.shmmax", false, true);
        check("kernel.core_pattern", false, false);
        check("vm.swappiness", false, false);
        check("net...kernel.core_pattern", false, false);
        check("net/../kernel/core_pattern", false, false);
    }
}
