//! One cluster's place on this machine: its data directory, who has it, and the names of what it makes on the host.
//!
//! Every link, table, cgroup and socket carries the cluster's id, so that clusters side by side never meet, and `knarr down` finds what is its
//! own even after a crash.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use knarr_apiserver::pki;
use rustix::fs::FlockOperation;

use crate::report::Failure;

/// Hex digits of the cluster's uid that go into names: few enough for the 15 bytes of a link's name.
const ID_DIGITS: usize = 8;

/// A data directory that this process has for itself, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) data_dir: PathBuf,
    pub(crate) id: String,
    _lock: File,
}

impl Held {
    /// Takes the data directory, making it when it is not there.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, Failure> {
        let path = absolute(data_dir)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|error| fault("make the data directory", &path, &error))?;
        let lock = match lock(&path)? {
            Ok(lock) => lock,
            Err(pid) => {
                return Err(Failure::InUse(format!(
                    "{} is in use by process {pid}; `knarr status` shows what runs there, `knarr down` stops it, --data-dir chooses another place",
                    path.display()
                )));
            }
        };
        let uid = pki::cluster_uid(&path.join("pki"))?;
        Ok(Self { id: short(&uid), data_dir: path, _lock: lock })
    }

    pub(crate) fn cgroup_root(&self) -> String {
        format!("/knarr-{}", self.id)
    }

    /// Sockets lie here: the path is short, as theirs must be.
    pub(crate) fn run_dir(&self) -> PathBuf {
        run_dir(&self.id)
    }
}

fn short(uid: &str) -> String {
    uid.chars().filter(char::is_ascii_hexdigit).take(ID_DIGITS).collect()
}

fn run_dir(id: &str) -> PathBuf {
    PathBuf::from(format!("/run/knarr-{id}"))
}

/// The process that has `data_dir`, if one has.
pub(crate) fn holder(data_dir: &Path) -> Result<Option<u32>, Failure> {
    let path = absolute(data_dir)?;
    if !path.join("lock").exists() {
        return Ok(None);
    }
    match lock(&path)? {
        Ok(_) => Ok(None),
        Err(pid) => Ok(pid.parse().ok()),
    }
}

/// The socket on which the Knarr of `data_dir` takes orders about images. Only root can reach it.
pub(crate) fn admin_socket(data_dir: &Path) -> Result<PathBuf, Failure> {
    let uid = pki::cluster_uid(&absolute(data_dir)?.join("pki"))?;
    Ok(run_dir(&short(&uid)).join("admin.sock"))
}

/// The lock on a data directory, or the process that has it.
fn lock(data_dir: &Path) -> Result<Result<File, String>, Failure> {
    let path = data_dir.join("lock");
    let fault = |error: io::Error| fault("lock", &path, &error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fault)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(fault)?;
            return Ok(Err(pid.trim().to_owned()));
        }
        Err(errno) => return Err(fault(errno.into())),
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fault)?;
    Ok(Ok(file))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| fault("find", path, &error))
}

fn fault(step: &str, path: &Path, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied { "; run it as root" } else { "" };
    Failure::Machine(format!("{step} {}: {error}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_held_by_one_and_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::take(dir.path()).unwrap();
        let id = held.id.clone();
        assert_eq!(id.len(), ID_DIGITS);
        // The lock belongs to the open file, so that the same process can stand for a second one.
        let refused = Held::take(dir.path()).unwrap_err();
        assert!(matches!(&refused, Failure::InUse(message) if message.contains(&format!("process {}", std::process::id()))), "{refused}");
        assert_eq!(holder(dir.path()).unwrap(), Some(std::process::id()));
        drop(held);
        assert_eq!(holder(dir.path()).unwrap(), None);
        assert_eq!(Held::take(dir.path()).unwrap().id, id);
    }
}
