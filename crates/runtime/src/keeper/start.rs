//! The two kinds of children that become programs: a container's first process, and an exec.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;

use super::launch::{LAUNCH_FILE, Launch, ProcessSpec};
use super::process::{self, ChildResult, Step};
use super::{console, fork, rootfs};

/// Streams 0, 1, 2, or the socket to send a terminal through.
pub(crate) enum Streams {
    Three([OwnedFd; 3]),
    Terminal(OwnedFd),
}

/// A PID namespace to fork into, and the keeper's own to come back to.
pub(crate) struct Pids<'a> {
    pub(crate) target: OwnedFd,
    pub(crate) own: &'a OwnedFd,
}

/// Forks a container's first process. `status` is written to if it fails and closed when its program runs.
pub(crate) fn container(directory: &Path, own_pid: bool, pids: Option<Pids<'_>>, streams: Streams, status: OwnedFd) -> io::Result<Pid> {
    let mut flags = libc::CLONE_NEWNS as u64;
    if own_pid {
        flags |= libc::CLONE_NEWPID as u64;
    }
    let child = || {
        let error = become_container(directory, &streams);
        process::report(status, &error)
    };
    match pids {
        None => fork::fork(flags, child),
        Some(pids) => fork::fork_into_pid_namespace(&pids.target, pids.own, flags, child),
    }
}

fn become_container(directory: &Path, streams: &Streams) -> String {
    let prepared = || -> ChildResult<(Launch, Option<Vec<u8>>)> {
        let path = directory.join(LAUNCH_FILE);
        let text = std::fs::read(&path).step(format_args!("read {}", path.display()))?;
        let launch: Launch = serde_json::from_slice(&text).step(format_args!("understand {}", path.display()))?;
        let seccomp = launch.process.seccomp.then(|| process::read_seccomp(directory)).transpose()?;
        process::leave_keeper(&launch.process)?;
        new_cgroup_namespace()?;
        take_streams(streams)?;
        rootfs::enter(&launch)?;
        rootfs::reopen_null()?;
        if let Streams::Terminal(socket) = streams {
            console::set_up(socket, true)?;
        }
        rootfs::protect(&launch)?;
        Ok((launch, seccomp))
    };
    match prepared() {
        Ok((launch, seccomp)) => process::become_program(&launch.process, seccomp.as_deref()),
        Err(error) => error,
    }
}

/// After the cgroups were joined: they are the root that the container sees.
fn new_cgroup_namespace() -> ChildResult<()> {
    // SAFETY: a cgroup namespace touches neither the file table nor memory.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }.step("make a cgroup namespace")
}

fn take_streams(streams: &Streams) -> ChildResult<()> {
    match streams {
        Streams::Three(fds) => (0..).zip(fds).try_for_each(|(stream, fd)| process::take_stream(fd, stream)),
        Streams::Terminal(_) => Ok(()),
    }
}

/// Forks a process into a running container. `description` is a memory file with a `ProcessSpec`.
pub(crate) fn exec(
    directory: &Path,
    target: Pid,
    own_pid_namespace: &OwnedFd,
    description: OwnedFd,
    streams: Streams,
    status: OwnedFd,
) -> io::Result<Pid> {
    let target = target.as_raw_nonzero().to_string();
    let pid_namespace = fork::open_namespace(&target, "pid")?;
    fork::fork_into_pid_namespace(&pid_namespace, own_pid_namespace, 0, || {
        let error = become_exec(directory, &target, description, &streams);
        process::report(status, &error)
    })
}

fn become_exec(directory: &Path, target: &str, description: OwnedFd, streams: &Streams) -> String {
    let prepared = || -> ChildResult<(ProcessSpec, Option<Vec<u8>>)> {
        let mut text = Vec::new();
        let mut file = File::from(description);
        file.rewind().and_then(|()| file.read_to_end(&mut text)).step("read what to execute")?;
        let spec: ProcessSpec = serde_json::from_slice(&text).step("understand what to execute")?;
        let seccomp = spec.seccomp.then(|| process::read_seccomp(directory)).transpose()?;
        let mount = fork::open_namespace(target, "mnt").step("find the container's mounts")?;
        let cgroup = fork::open_namespace(target, "cgroup").step("find the container's cgroups")?;
        process::leave_keeper(&spec)?;
        take_streams(streams)?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&cgroup), Some(LinkNameSpaceType::ControlGroup))
            .step("enter the container's cgroups")?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&mount), Some(LinkNameSpaceType::Mount))
            .step("enter the container's mounts")?;
        rootfs::reopen_null()?;
        if let Streams::Terminal(socket) = streams {
            console::set_up(socket, false)?;
        }
        Ok((spec, seccomp))
    };
    match prepared() {
        Ok((spec, seccomp)) => process::become_program(&spec, seccomp.as_deref()),
        Err(error) => error,
    }
}
