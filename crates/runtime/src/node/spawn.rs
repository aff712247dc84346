//! Starting a keeper: this binary anew, detached, with a listening socket and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

/// The program's descriptor must survive until the exec, and is kept above those that are put in place for it.
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

    /// Starts the keeper of a sandbox, which finds its listener as its standard input. Its errors go to `keeper.log` in the sandbox's directory.
    ///
    /// Nothing is done between fork and exec, for then there is no fork: the standard library starts the program without copying the page tables of
    /// this process, which cost 1 ms or more for each pod, and a fault for each page written afterwards.
    pub(crate) fn start(&self, directory: &Path, listener: &OwnedFd) -> io::Result<tokio::process::Child> {
        let errors = File::options().append(true).create(true).open(directory.join("keeper.log"))?;
        let program = match &self.mount {
            Some(mount) => PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())),
            None => self.path.clone(),
        };
        let mut command = tokio::process::Command::new(program);
        command.arg0("knarr").arg("keeper").arg(directory).env_clear().current_dir("/");
        command.stdin(listener.try_clone()?).stdout(Stdio::null()).stderr(errors).spawn()
    }
}

fn readonly_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    crate::keeper::set_mount_attributes(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into())?;
    Ok(rustix::io::fcntl_dupfd_cloexec(&tree, FD_MIN)?)
}
