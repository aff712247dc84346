//! The source of a mount with `subPath`: a place inside a volume that the pod itself may write to while it is looked up.
//!
//! The path is opened by descriptor beneath the volume's root, and what was opened is bound to a place of our own; the runtime is
//! given that place. A link swapped in between cannot lead out (CVE-2017-1002101, CVE-2021-25741).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("subPath {path} leaves its volume")]
    Climbs { path: PathBuf },
    #[error("open subPath {path} beneath {root}")]
    Open {
        root: PathBuf,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("bind subPath {path} to {target}")]
    Bind {
        path: PathBuf,
        target: PathBuf,
        #[source]
        source: io::Error,
    },
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Binds `path` beneath `root` to `target`, which is made. What is missing of `path` is made as directories, as upstream does.
/// Does nothing where `target` is a mount already.
pub(crate) fn bind(root: &Path, path: &Path, target: &Path) -> Result<(), SubPathError> {
    let opened = open_beneath(root, path)?;
    let bind_error = |source: io::Error| SubPathError::Bind { path: path.to_owned(), target: target.to_owned(), source };
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    // The stat goes through the magic link, so it is that of the opened thing.
    let is_dir = std::fs::metadata(&source).map_err(bind_error)?.is_dir();
    if super::is_mounted(target) {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(bind_error)?;
    }
    if is_dir {
        std::fs::create_dir_all(target).map_err(bind_error)?;
    } else {
        std::fs::OpenOptions::new().create(true).append(true).open(target).map_err(bind_error)?;
    }
    rustix::mount::mount_bind_recursive(&source, target).map_err(|errno| bind_error(errno.into()))
}

fn open_beneath(root: &Path, path: &Path) -> Result<OwnedFd, SubPathError> {
    let mut parts: Vec<&OsStr> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            _ => return Err(SubPathError::Climbs { path: path.to_owned() }),
        }
    }
    let error = |errno: Errno| {
        if errno == Errno::XDEV {
            return SubPathError::Climbs { path: path.to_owned() };
        }
        SubPathError::Open { root: root.to_owned(), path: path.to_owned(), source: errno.into() }
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut here = open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(error)?;
    let relative: PathBuf = parts.iter().collect();
    if parts.is_empty() {
        return Ok(here);
    }
    match openat2(&here, &relative, flags, Mode::empty(), BENEATH) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(error),
    }
    for part in parts {
        let next = match openat2(&here, part, flags | OFlags::NOFOLLOW, Mode::empty(), BENEATH) {
            Err(Errno::NOENT) => {
                match mkdirat(&here, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(error(errno)),
                }
                openat2(&here, part, flags | OFlags::NOFOLLOW | OFlags::DIRECTORY, Mode::empty(), BENEATH)
            }
            other => other,
        };
        here = next.map_err(error)?;
    }
    // Whatever was made or met on the way, the whole path must still lead there without leaving the root.
    let root = open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(error)?;
    openat2(&root, &relative, flags, Mode::empty(), BENEATH).map_err(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn missing_parts_are_made() {
        let dir = tempfile::tempdir().unwrap();
        open_beneath(dir.path(), Path::new("a/b")).unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }

    #[test]
    fn links_inside_are_followed_and_links_out_are_not() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("inner")).unwrap();
        symlink(outside.path(), dir.path().join("outer")).unwrap();
        symlink("../..", dir.path().join("real/up")).unwrap();
        open_beneath(dir.path(), Path::new("inner")).unwrap();
        for path in ["outer", "outer/x", "real/up", "inner/up/etc", "../x", "/etc"] {
            assert!(open_beneath(dir.path(), Path::new(path)).is_err(), "{path}");
        }
        assert!(!outside.path().join("x").exists());
    }
}
