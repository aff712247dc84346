//! Forking from the keeper. It has one thread, so a child may do as it likes with its copy of the memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Pid;

/// Forks with `flags` (new namespaces of clone3(2)); the child runs `child` and ends with what it returns, never unwinding into
/// the keeper's own code.
pub(crate) fn fork(flags: u64, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
    }
    let args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    // SAFETY: without CLONE_VM and without a stack this is fork(2): the child has its own copy of the address space. The keeper
    // has one thread, so no lock of the allocator can be held by another. `args` lives across the call and its size is given.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(EXIT_PANIC);
            // SAFETY: ends the child at once, without the keeper's exit handlers.
            unsafe { libc::_exit(code) }
        }
        // A positive result of clone3 is the child's process id.
        pid => Pid::from_raw(pid as i32).ok_or_else(|| io::Error::other("clone3 gave no process id")),
    }
}

/// A bug in the child's code; its message is in the keeper's log.
const EXIT_PANIC: i32 = 101;

/// Forks into the PID namespace of `target`, then points the keeper's next children back to its own.
pub(crate) fn fork_into_pid_namespace(target: &OwnedFd, own: &OwnedFd, flags: u64, child: impl FnOnce() -> i32) -> io::Result<Pid> {
    set_pid_namespace(target)?;
    let result = fork(flags, child);
    set_pid_namespace(own)?;
    result
}

/// Children forked from now on are in this PID namespace; the caller stays where it is (setns(2)).
pub(crate) fn set_pid_namespace(namespace: &OwnedFd) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::ProcessID))?;
    Ok(())
}

pub(crate) fn open_namespace(pid: &str, name: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/{name}"))?.into())
}
