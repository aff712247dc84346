//! Starting a keeper: this binary anew, detached, with a listening socket and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use crate::keeper::LISTENER_FD;

/// Descriptors that must survive until the exec are kept above the ones that are put in place for it.
const FD_MIN: i32 = 10;

/// The keeper's program. It is started from a read-only mount of its own: a container that gets hold of its keeper's
/// /proc/<pid>/exe can then not write to the file on the host (CVE-2019-5736).
pub(crate) struct Program {
    path: PathBuf,
    mount: Option<OwnedFd>,
}

impl Program {
    pub(crate) fn open(path: &Path, gaps: &mut Vec<String>) -> Program {
        let mount = match readonly_mount(path) {
            Ok(mount) => Some(mount),
            Err(error) => {
                gaps.push(format!("keepers run from a writable mount of {}: {error}", path.display()));
                None
            }
        };
        Program { path: path.to_owned(), mount }
    }

    /// Starts the keeper of a sandbox. Its errors go to `keeper.log` in the sandbox's directory.
    pub(crate) fn start(&self, directory: &Path, listener: &OwnedFd) -> io::Result<tokio::process::Child> {
        let listener = rustix::io::fcntl_dupfd_cloexec(listener, FD_MIN)?;
        let errors = File::options().append(true).create(true).open(directory.join("keeper.log"))?;
        let program = match &self.mount {
            Some(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            None => self.path.clone(),
        };
        let mut command = tokio::process::Command::new(program);
        command.arg0("knarr").arg("keeper").arg(directory).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let number = listener.as_raw_fd();
        // SAFETY: between fork and exec only async-signal-safe calls are made: dup2, setsid.
        unsafe {
            command.pre_exec(move || {
                if libc::dup2(number, LISTENER_FD) < 0 || libc::setsid() < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn()
    }
}

fn readonly_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    crate::keeper::set_mount_attributes(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into())?;
    Ok(rustix::io::fcntl_dupfd_cloexec(&tree, FD_MIN)?)
}
