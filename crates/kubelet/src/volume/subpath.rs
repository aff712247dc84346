//! The source of a mount with `subPath`: a place inside a volume that the pod itself may write to while it is looked up.
//!
//! The path is opened by descriptor beneath the volume's root, and what was opened is bound to a place of our own; the runtime is
//! given that place. A link swapped in between cannot lead out (CVE-2017-1002101, CVE-2021-25741).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat2};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

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

/// Binds `path` beneath `root` to `target`, which is made. What is missing of `path` is made as directories with the mode of the root, as
/// upstream does: who may write to the volume may write there. A mount of something else, such as a file's former content, is replaced.
pub(crate) fn bind(root: &Path, path: &Path, target: &Path) -> Result<(), SubPathError> {
    let opened = open_beneath(root, path)?;
    let bind_error = |source: io::Error| SubPathError::Bind { path: path.to_owned(), target: target.to_owned(), source };
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    // The stat goes through the magic link, so it is that of the opened thing.
    let meta = std::fs::metadata(&source).map_err(bind_error)?;
    let is_dir = meta.is_dir();
    if super::is_mounted(target).map_err(bind_error)? {
        let mounted = std::fs::metadata(target).map_err(bind_error)?;
        if (mounted.dev(), mounted.ino()) == (meta.dev(), meta.ino()) {
            return Ok(());
        }
        rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|errno| bind_error(errno.into()))?;
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
    let mode = Mode::from_raw_mode(fstat(&here).map_err(error)?.st_mode & 0o7777);
    for part in parts {
        let next = match openat2(&here, part, flags | OFlags::NOFOLLOW, Mode::empty(), BENEATH) {
            Err(Errno::NOENT) => make_dir(&here, part, mode),
            other => other,
        };
        here = next.map_err(error)?;
    }
    // Whatever was made or met on the way, the whole path must still lead there without leaving the root.
    let root = open(root, flags | OFlags::DIRECTORY, Mode::empty()).map_err(error)?;
    openat2(&root, &relative, flags, Mode::empty(), BENEATH).map_err(error)
}

/// A new directory of exactly this mode, whatever the umask. What a racing pod puts in its place is opened without following links, and a
/// directory of its own volume is all that it could be given the mode of.
fn make_dir(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<OwnedFd, Errno> {
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat2(parent, name, flags, Mode::empty(), BENEATH)?;
    if made {
        fchmod(&dir, mode)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn missing_parts_are_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o2775)).unwrap();
        open_beneath(dir.path(), Path::new("a/b")).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("a/b")).unwrap().mode() & 0o7777, 0o2775);
    }

    #[test]
    fn what_is_mounted_follows_the_content() {
        knarr_testbed::require_root!();
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        for text in ["old", "new", "new"] {
            // As the atomic writer does: another file under the same name.
            std::fs::write(dir.path().join("next"), text).unwrap();
            std::fs::rename(dir.path().join("next"), dir.path().join("file")).unwrap();
            bind(dir.path(), Path::new("file"), &target).unwrap();
            assert_eq!(std::fs::read_to_string(&target).unwrap(), text);
        }
        rustix::mount::unmount(&target, UnmountFlags::DETACH).unwrap();
        assert!(!super::super::is_mounted(&target).unwrap(), "one mount, not one for each time");
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
