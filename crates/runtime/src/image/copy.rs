//! A layer applied onto a copy, for file systems without overlayfs: whiteouts remove, opaque directories replace, everything else
//! is copied, by reference where the file system can (FICLONE). The layers are ours and the copy is not in use yet.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{tree, unpack};

/// Bytes of the list of attribute names, and of one value (linux/limits.h, XATTR_LIST_MAX and XATTR_SIZE_MAX).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Files with several names, by device and inode: where the first one was copied to, relative to the copy's root.
type Links = HashMap<(u64, u64), Vec<CString>>;

pub(crate) fn layer(layer: &Path, target: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::open(layer, flags, Mode::empty())?;
    let root = rustix::fs::open(target, flags, Mode::empty())?;
    let mut copying = Copying { root, links: Links::new(), path: Vec::new() };
    let root = copying.root.try_clone()?;
    copying.directory(from.as_fd(), root.as_fd())
}

struct Copying {
    root: OwnedFd,
    links: Links,
    path: Vec<CString>,
}

impl Copying {
    /// Recursion is bounded: a layer has at most 1,024 levels (unpack, DEPTH_MAX), a level here a few hundred bytes.
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        for name in tree::names(from)? {
            let stat = tree::stat_at(from, &name)?;
            if tree::is_whiteout(&stat) {
                tree::remove(to, &name)?;
                continue;
            }
            self.path.push(name.clone());
            if tree::kind(&stat) == FileType::Directory {
                let source = tree::open_dir(from, &name)?;
                if unpack::is_opaque(&source) {
                    tree::remove(to, &name)?;
                }
                let copy = match tree::open_dir(to, &name) {
                    Ok(copy) => copy,
                    Err(_) => {
                        tree::remove(to, &name)?;
                        rustix::fs::mkdirat(to, &name, Mode::from(0o700))?;
                        tree::open_dir(to, &name)?
                    }
                };
                self.directory(source.as_fd(), copy.as_fd())?;
            } else {
                tree::remove(to, &name)?;
                self.other(from, to, &name, &stat)?;
            }
            self.path.pop();
        }
        let stat = rustix::fs::fstat(from)?;
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        attributes(from, to)?;
        Ok(rustix::fs::futimens(to, &times(&stat))?)
    }

    fn other(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let (first_name, parents) = first.split_last().ok_or(Errno::NOENT)?;
                let mut dir = self.root.try_clone()?;
                for part in parents {
                    dir = tree::open_dir(dir.as_fd(), part)?;
                }
                return Ok(rustix::fs::linkat(&dir, first_name, to, name, AtFlags::empty())?);
            }
            self.links.insert((stat.st_dev, stat.st_ino), self.path.clone());
        }
        match tree::kind(stat) {
            FileType::RegularFile => {
                let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(to, name, flags, Mode::from(0o600))?;
                let (mut source, mut copy) = (File::from(source), File::from(copy));
                if rustix::fs::ioctl_ficlone(&copy, &source).is_err() {
                    // std copies within the kernel where it can.
                    io::copy(&mut source, &mut copy)?;
                }
                rustix::fs::fchown(&copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode))?;
                attributes(source.as_fd(), copy.as_fd())?;
                return Ok(rustix::fs::futimens(&copy, &times(stat))?);
            }
            FileType::Symlink => rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?,
            kind => rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?,
        }
        rustix::fs::chownat(to, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        if tree::kind(stat) != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Copies extended attributes, but for overlayfs's own marks.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::flistxattr(from, &mut [0u8; 0]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut list = vec![0u8; XATTR_BYTES_MAX];
    let length = rustix::fs::flistxattr(from, &mut list)?;
    for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay.")) {
        let mut value = vec![0u8; XATTR_BYTES_MAX];
        let size = rustix::fs::fgetxattr(from, name, &mut value)?;
        match rustix::fs::fsetxattr(to, name, &value[..size], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |value: u64| i64::try_from(value).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}
