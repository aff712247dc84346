//! A terminal for a container's process, made from the container's own devpts so that its name is right inside.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;

use super::process::{ChildResult, Step, take_stream};
use super::protocol;

/// f_type of devpts (linux/magic.h, DEVPTS_SUPER_MAGIC).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Inside the container's root: opens a terminal, sends its master through `socket`, and makes the slave the controlling
/// terminal and all three streams. A first process also finds it as /dev/console.
pub(crate) fn set_up(socket: &OwnedFd, console: bool) -> ChildResult<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).step("open /dev/pts/ptmx")?;
    verify(&master)?;
    rustix::pty::unlockpt(&master).step("unlock the terminal")?;
    // By descriptor of the master (TIOCGPTPEER), so that no path of the container is trusted (CVE-2025-52565).
    let open = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, open).step("open the terminal")?;
    verify(&slave)?;
    if console {
        bind_console(&slave)?;
    }
    protocol::send(socket.as_fd(), b"terminal", &[master.as_fd()]).step("hand the terminal over")?;
    // SAFETY: makes the slave this session leader's terminal; no memory is involved.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(format!("take the terminal: {}", std::io::Error::last_os_error()));
    }
    for stream in 0..3 {
        take_stream(&slave, stream)?;
    }
    Ok(())
}

fn verify(terminal: &OwnedFd) -> ChildResult<()> {
    let stat = rustix::fs::fstat(terminal).step("look at the terminal")?;
    let fs = rustix::fs::fstatfs(terminal).step("look at the terminal")?;
    let real = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && fs.f_type as u64 == DEVPTS_MAGIC;
    if real { Ok(()) } else { Err("/dev/pts in the container is not a devpts".to_owned()) }
}

fn bind_console(slave: &OwnedFd) -> ChildResult<()> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags};
    let dev =
        rustix::fs::open("/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).step("open /dev")?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let console = rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600)).step("make /dev/console")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(slave, "", flags).step("copy the terminal")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", &console, "", flags).step("mount /dev/console")
}
