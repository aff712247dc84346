//! How a keeper begins: out of the node process's cgroups, into the pod's namespaces.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::process::{DumpableBehavior, Pid, Signal};
use rustix::thread::UnshareFlags;

use super::engine::Keeper;
use super::fork;
use super::launch::{SANDBOX_FILE, SandboxLaunch};

/// As containerd's shims and the kubelet have it (kubernetes pkg/kubelet/qos/policy.go, KubeletOOMScoreAdj, plus one).
const OOM_SCORE_ADJ: &str = "-998";

pub(crate) fn boot(directory: &Path, listener: OwnedFd) -> io::Result<Keeper> {
    let launch: SandboxLaunch = serde_json::from_slice(&fs::read(directory.join(SANDBOX_FILE))?)?;
    rustix::process::chdir("/")?;
    name_process();
    // Processes that leave their container's first process come here to be reaped.
    rustix::process::set_child_subreaper(Pid::from_raw(1))?;
    // What is forked from here holds the host's descriptors until its exec: nobody in a container may look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Without the keeper the pod dies: when memory is short, something else should. Refused without CAP_SYS_RESOURCE, which the
    // node process has said. What is forked sets its own.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    for procs in &launch.cgroups {
        fs::write(procs, "0")?;
    }
    enter_namespaces(&launch)?;
    let own_pid_namespace = fork::open_namespace("self", "pid")?;
    if launch.share_pid {
        start_pid_one(&launch)?;
    }
    Keeper::new(directory, listener, own_pid_namespace)
}

fn name_process() {
    let name: &CStr = c"knarr-keeper";
    // Only what `ps` shows.
    let _ = rustix::thread::set_name(name);
}

fn enter_namespaces(launch: &SandboxLaunch) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNET, launch.own_net);
    flags.set(UnshareFlags::NEWIPC, launch.own_ipc);
    flags.set(UnshareFlags::NEWUTS, launch.own_uts);
    if !flags.is_empty() {
        // SAFETY: none of these flags touches the file table or memory of this single-threaded process.
        unsafe { rustix::thread::unshare_unsafe(flags)? };
    }
    if launch.own_uts && !launch.hostname.is_empty() {
        rustix::system::sethostname(launch.hostname.as_bytes())?;
    }
    if launch.own_net {
        raise_loopback()?;
    }
    for (name, value) in &launch.sysctls {
        let path = Path::new("/proc/sys").join(name);
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("set {} to {value}: {error}", path.display())))?;
    }
    Ok(())
}

fn raise_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; zero is a valid value for it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a null-terminated name.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The first process of a PID namespace that all containers of the pod share: it reaps, and is there. Without it the namespace
/// would end with whichever container came first.
fn start_pid_one(launch: &SandboxLaunch) -> io::Result<()> {
    let (ready, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let pid = fork::fork(libc::CLONE_NEWPID as u64, || match be_pid_one(launch, told) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("keeper: first process of the pod: {error}");
            1
        }
    })?;
    // The closure took this process's copy of `told` with it. Its word, or the end of the pipe: either way it has done what it does.
    if rustix::io::read(&ready, &mut [0u8])? == 0 {
        return Err(io::Error::other("the pod's first process did not start"));
    }
    let namespace = fork::open_namespace(&pid.as_raw_nonzero().to_string(), "pid")?;
    fork::set_pid_namespace(&namespace)
}

enum Never {}

fn be_pid_one(launch: &SandboxLaunch, told: OwnedFd) -> io::Result<Never> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    for procs in &launch.pod_cgroups {
        fs::write(procs, "0")?;
    }
    // SAFETY: blocks SIGCHLD in this single-threaded child and makes a set on the stack.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    rustix::io::write(&told, b"1")?;
    drop(told);
    // SAFETY: the keeper's listener is of no use here; nothing in this child owns it by number.
    drop(unsafe { OwnedFd::from_raw_fd(super::LISTENER_FD) });
    loop {
        let mut number = 0;
        // SAFETY: waits for a signal in the set above.
        unsafe { libc::sigwait(&signals, &mut number) };
        while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}
