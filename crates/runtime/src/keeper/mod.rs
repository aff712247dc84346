//! The keeper: one small process per pod, the parent of the pod's containers.
//!
//! It holds the pod's network, IPC and UTS namespaces by being in them; starts containers and execs by forking itself; writes
//! the containers' logs; records their exits on disk before it tells anyone; and answers the node process over a Unix socket
//! that it inherits listening, so that "is anybody there" is one connect(2). It has one thread, no timers, and little memory:
//! what is large (launch files, exec'd processes' descriptions) is read by the forked child only.
//!
//! It starts containers by its own hand and not through libcontainer, whose code was tried on paper first: an exec'd process
//! would lose the seccomp filter, a refused oom_score_adj or a missing cgroup hierarchy is fatal to it, `noNewPrivileges:
//! false` with a filter fails, mounts have no propagation of their own, and each start reads the mount table two dozen times.
//!
//! If the keeper dies its containers die: each first process asks the kernel for SIGKILL at its parent's death, and the node
//! process, which sees the socket close, or its next start empties the pod's cgroups, for a container can take that wish back.

mod attach;
mod boot;
mod console;
mod container;
mod engine;
mod fork;
pub(crate) mod launch;
pub(crate) mod log;
mod process;
pub(crate) mod protocol;
mod rootfs;
mod start;

pub(crate) use container::kill_cgroup;
pub(crate) use rootfs::set_mount_attributes;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Where the keeper puts the listening socket that it gets as its standard input.
const LISTENER_FD: i32 = 3;

/// Name of the socket in the sandbox's directory.
pub(crate) const SOCKET_FILE: &str = "keeper.sock";

/// Entry of the re-executed binary: `<exe> keeper <sandbox directory>`. Call it before any thread is started or file opened.
pub fn keeper_main(directory: &Path) -> ! {
    let code = match run(directory) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("keeper {}: {error}", directory.display());
            1
        }
    };
    std::process::exit(code)
}

fn run(directory: &Path) -> io::Result<()> {
    // A session leader already, if it was started by hand: then there is nothing to leave. Signals of the terminal that Knarr was started from are not
    // for it.
    let _ = rustix::process::setsid();
    // SAFETY: nothing above the standard descriptors belongs to anyone here, at the start.
    unsafe { libc::syscall(libc::SYS_close_range, LISTENER_FD, u32::MAX, 0) };
    let listener = rustix::io::fcntl_dupfd_cloexec(io::stdin(), LISTENER_FD)?;
    // SAFETY: replaces the standard input as a whole; nobody has read from it.
    if unsafe { libc::dup2(File::open("/dev/null")?.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let keeper = boot::boot(directory, listener)?;
    keeper.run()
}

/// Unix nanoseconds.
pub(crate) fn now_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
