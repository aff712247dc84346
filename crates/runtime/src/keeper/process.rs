//! From a fork of the keeper to the container's program: what a first process and an exec'd one have in common, so that an exec
//! has the very restrictions of its container.
//!
//! Order matters. Cgroups first, so that all that follows is counted. Resource limits and groups while still root. Without
//! no-new-privileges the seccomp filter needs CAP_SYS_ADMIN, so it is loaded before capabilities are dropped; with it, last.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::launch::ProcessSpec;

/// What went wrong in the child, in words for people: it travels as text to the keeper and from there to the node.
pub(crate) type ChildResult<T> = Result<T, String>;

pub(crate) trait Step<T> {
    /// Names the step that failed.
    fn step(self, what: impl std::fmt::Display) -> ChildResult<T>;
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, what: impl std::fmt::Display) -> ChildResult<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// Undoes what the keeper has set for itself, dies with the keeper, and moves into the container's cgroups.
pub(crate) fn leave_keeper(process: &ProcessSpec) -> ChildResult<()> {
    die_with_keeper()?;
    reset_signals();
    // Lowering it needs CAP_SYS_RESOURCE, which root need not have; the node process says so once.
    match std::fs::write("/proc/self/oom_score_adj", process.oom_score_adj.unwrap_or(0).to_string()) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(format!("set oom_score_adj: {error}")),
        _ => {}
    }
    for procs in &process.cgroups {
        std::fs::write(procs, "0").step(format_args!("join {}", procs.display()))?;
    }
    rustix::process::setsid().step("start a session")?;
    Ok(())
}

/// Set again whenever credentials change, which clears it (prctl(2), PR_SET_PDEATHSIG).
fn die_with_keeper() -> ChildResult<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).step("set the death signal")
}

fn reset_signals() {
    // SAFETY: sets dispositions and the mask of this single-threaded process; SIGKILL and SIGSTOP are refused, harmlessly.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Makes `fd` this process's stream 0, 1 or 2.
pub(crate) fn take_stream(fd: &OwnedFd, stream: i32) -> ChildResult<()> {
    // SAFETY: dup2 onto a standard stream of this child; nothing in it owns that number.
    if unsafe { libc::dup2(fd.as_raw_fd(), stream) } < 0 {
        return Err(format!("take stream {stream}: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// The seccomp program beside the launch file, as classic BPF instructions.
pub(crate) fn read_seccomp(directory: &Path) -> ChildResult<Vec<u8>> {
    let mut program = Vec::new();
    let path = directory.join(super::launch::SECCOMP_FILE);
    File::open(&path).and_then(|mut file| file.read_to_end(&mut program)).step(format_args!("read {}", path.display()))?;
    if program.is_empty() || program.len() % size_of::<libc::sock_filter>() != 0 {
        return Err(format!("seccomp program {} is damaged", path.display()));
    }
    Ok(program)
}

/// Inside the container's root: takes its user and rights, and becomes its program. Returns only on failure.
pub(crate) fn become_program(process: &ProcessSpec, seccomp: Option<&[u8]>) -> String {
    match take_rights(process, seccomp).and_then(|program| execute(process, &program)) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn take_rights(process: &ProcessSpec, seccomp: Option<&[u8]>) -> ChildResult<CString> {
    // Everything but the streams is closed at the exec: among them descriptors of the host (CVE-2024-21626).
    // SAFETY: marks descriptors close-on-exec; none is closed while in use.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } != 0 {
        return Err(format!("mark descriptors: {}", io::Error::last_os_error()));
    }
    set_limits(process)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    // As root, like runc: the user may lack the right to pass a parent directory. The directory may also be on a file system
    // that root cannot enter (NFS with root squash), where the user can: then it is tried again below.
    let entered = rustix::process::chdir(cwd);

    if let Some(program) = seccomp.filter(|_| !process.no_new_privileges) {
        load_seccomp(program)?;
    }
    drop_bounding_set(process.capabilities)?;
    rustix::thread::set_keep_capabilities(true).step("keep capabilities")?;
    let groups: Vec<Gid> = process.groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
    rustix::thread::set_thread_groups(&groups).step("set the supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).step(format_args!("set the group {}", process.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step(format_args!("set the user {}", process.uid))?;
    let wanted = CapabilitySet::from_bits_retain(process.capabilities);
    // Inheritable stays empty (CVE-2022-29162), so that nothing is gained by an exec but what the file grants.
    let sets = CapabilitySets { effective: wanted, permitted: wanted, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("set the capabilities")?;
    die_with_keeper()?;
    if let Err(error) = entered {
        rustix::process::chdir(cwd).map_err(|_| format!("enter the working directory {cwd}: {error}"))?;
    }
    verify_cwd()?;
    let program = find_program(process)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
        if let Some(program) = seccomp {
            load_seccomp(program)?;
        }
    }
    Ok(program)
}

/// A working directory outside the root reads as "(unreachable)" (getcwd(2)): a leaked descriptor of the host (CVE-2024-21626).
fn verify_cwd() -> ChildResult<()> {
    let cwd = rustix::process::getcwd(Vec::new()).step("read the working directory")?;
    if !cwd.as_bytes().starts_with(b"/") {
        return Err("the working directory is outside the container".to_owned());
    }
    Ok(())
}

fn set_limits(process: &ProcessSpec) -> ChildResult<()> {
    for limit in &process.rlimits {
        let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
        // SAFETY: sets a limit of this process from a value on the stack.
        let result = unsafe { libc::prlimit64(0, limit.resource, &value, std::ptr::null_mut()) };
        let error = io::Error::last_os_error();
        // Raising a hard limit needs CAP_SYS_RESOURCE, which root need not have: then the process gets as much as is allowed.
        if result != 0 && error.kind() == io::ErrorKind::PermissionDenied {
            let mut current = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: reads and then sets a limit of this process through values on the stack.
            let result = unsafe {
                libc::prlimit64(0, limit.resource, std::ptr::null(), &mut current);
                current.rlim_cur = limit.soft.min(current.rlim_max);
                libc::prlimit64(0, limit.resource, &current, std::ptr::null_mut())
            };
            if result == 0 {
                continue;
            }
        }
        if result != 0 {
            return Err(format!("set resource limit {}: {error}", limit.resource));
        }
    }
    Ok(())
}

fn drop_bounding_set(keep: u64) -> ChildResult<()> {
    rustix::thread::clear_ambient_capability_set().step("clear the ambient capabilities")?;
    for capability in 0..u64::BITS {
        let set = CapabilitySet::from_bits_retain(1 << capability);
        if keep & (1 << capability) != 0 {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(set) {
            // Past the last capability that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            Ok(true) => {
                rustix::thread::remove_capability_from_bounding_set(set).step(format_args!("give up capability {capability}"))?;
            }
            Ok(false) => {}
            Err(error) => return Err(format!("read the bounding set: {error}")),
        }
    }
    Ok(())
}

fn load_seccomp(program: &[u8]) -> ChildResult<()> {
    let count = program.len() / size_of::<libc::sock_filter>();
    let mut filter: Vec<libc::sock_filter> = Vec::with_capacity(count);
    for chunk in program.chunks_exact(size_of::<libc::sock_filter>()) {
        // struct sock_filter: u16 code, u8 jt, u8 jf, u32 k, in this machine's byte order.
        filter.push(libc::sock_filter {
            code: u16::from_ne_bytes([chunk[0], chunk[1]]),
            jt: chunk[2],
            jf: chunk[3],
            k: u32::from_ne_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
        });
    }
    let length = u16::try_from(count).step("seccomp program is too long")?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points to `length` instructions that live across the call; the kernel checks and copies them.
    if unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } != 0 {
        return Err(format!("load the seccomp filter: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// As execvp(3) does it, with the container's own PATH and the container user's rights.
fn find_program(process: &ProcessSpec) -> ChildResult<CString> {
    let name = process.argv.first().filter(|name| !name.is_empty()).ok_or("no command is given")?;
    let to_c = |bytes: &[u8]| CString::new(bytes).map_err(|_| format!("command {name:?} has a NUL byte"));
    if name.contains('/') {
        // A name with a directory is executed as it is; execve gives the reason if it cannot be.
        return to_c(name.as_bytes());
    }
    let path = process.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut found_without_right = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        let Ok(meta) = std::fs::metadata(&candidate) else { continue };
        if !meta.is_file() {
            continue;
        }
        match rustix::fs::access(&candidate, rustix::fs::Access::EXEC_OK) {
            Ok(()) => return to_c(candidate.as_os_str().as_bytes()),
            Err(_) => found_without_right = true,
        }
    }
    if found_without_right {
        return Err(format!("exec: {name:?}: permission denied"));
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

enum Never {}

fn execute(process: &ProcessSpec, program: &CString) -> ChildResult<Never> {
    let to_c = |text: &String| CString::new(OsStr::new(text).as_bytes()).map_err(|_| format!("{text:?} has a NUL byte"));
    let argv: Vec<CString> = process.argv.iter().map(to_c).collect::<ChildResult<_>>()?;
    let env: Vec<CString> = process.env.iter().map(to_c).collect::<ChildResult<_>>()?;
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    // SAFETY: null-terminated arrays of pointers to C strings that live in `argv` and `env` across the call.
    unsafe { libc::execve(program.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    Err(format!("exec: {:?}: {error}", process.argv[0]))
}

/// Tells the keeper, through the pipe that an exec would have closed, and gives the child's exit code.
pub(crate) fn report(status: OwnedFd, message: &str) -> i32 {
    // If the keeper is gone there is nobody left to tell.
    let _ = File::from(status).write_all(message.as_bytes());
    EXIT_NOT_STARTED
}

/// What upstream reports for a container that could not start (containerd, errorStartExitCode).
pub(crate) const EXIT_NOT_STARTED: i32 = 128;
