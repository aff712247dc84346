//! Directory trees walked by descriptor, one level open at a time: hostile trees may be deeper than the limit on open files or
//! the stack, and a name may turn into a link at any moment.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory by one name; a link is refused.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
}

pub(crate) fn stat_at(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// How overlayfs writes "removed": a character device 0:0 (Documentation/filesystems/overlayfs.rst).
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes a file, link or whole directory. Idempotent.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let mut dir = match open_dir(parent, name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // Where we came from: the name of each level, and which directory must be above it.
    let mut path: Vec<(CString, (u64, u64))> = vec![(name.to_owned(), identity(parent)?)];
    loop {
        if let Some(child) = empty(dir.as_fd())? {
            let below = open_dir(dir.as_fd(), &child)?;
            path.push((child, identity(dir.as_fd())?));
            dir = below;
            continue;
        }
        let Some((name, above)) = path.pop() else { return Ok(()) };
        if path.is_empty() {
            return Ok(rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?);
        }
        let up = open_dir(dir.as_fd(), c"..")?;
        if identity(up.as_fd())? != above {
            return Err(io::Error::other("the tree was moved while it was being removed"));
        }
        rustix::fs::unlinkat(&up, &name, AtFlags::REMOVEDIR)?;
        dir = up;
    }
}

/// Unlinks everything in a directory up to the first directory with something in it, whose name it gives.
fn empty(dir: BorrowedFd<'_>) -> io::Result<Option<CString>> {
    for name in names(dir)? {
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => match rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name)),
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn identity(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Calls `visit` for everything below `dir`. What vanishes meanwhile is skipped.
pub(crate) fn walk(dir: BorrowedFd<'_>, visit: &mut dyn FnMut(&Stat)) -> io::Result<()> {
    let mut dir = open_dir(dir, c".")?;
    // Directories of each level that are still to be entered, and which directory they are in.
    let mut levels: Vec<(Vec<CString>, (u64, u64))> = Vec::new();
    loop {
        let mut below = Vec::new();
        for name in names(dir.as_fd())? {
            let Ok(stat) = stat_at(dir.as_fd(), &name) else { continue };
            visit(&stat);
            if kind(&stat) == FileType::Directory {
                below.push(name);
            }
        }
        levels.push((below, identity(dir.as_fd())?));
        // Enter the next directory, here or above.
        loop {
            let Some((names, _)) = levels.last_mut() else { return Ok(()) };
            if let Some(name) = names.pop() {
                if let Ok(next) = open_dir(dir.as_fd(), &name) {
                    dir = next;
                    break;
                }
                continue;
            }
            levels.pop();
            let Some((_, above)) = levels.last() else { return Ok(()) };
            let up = open_dir(dir.as_fd(), c"..")?;
            if identity(up.as_fd())? != *above {
                return Err(io::Error::other("the tree was moved while it was being read"));
            }
            dir = up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_deeper_than_the_open_file_limit_are_removed() {
        const DEPTH: usize = 5000;
        let outer = tempfile::tempdir().unwrap();
        let root = open_dir(rustix::fs::CWD, &CString::new(outer.path().to_str().unwrap()).unwrap()).unwrap();
        let mut dir = root.try_clone().unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&dir, c"d", Mode::from(0o755)).unwrap();
            rustix::fs::symlinkat(c"/etc", &dir, c"link").unwrap();
            dir = open_dir(dir.as_fd(), c"d").unwrap();
        }
        let mut seen = 0;
        walk(root.as_fd(), &mut |_| seen += 1).unwrap();
        assert_eq!(seen, 2 * DEPTH);
        remove(root.as_fd(), c"d").unwrap();
        remove(root.as_fd(), c"d").unwrap();
        assert_eq!(names(root.as_fd()).unwrap(), [c"link".to_owned()]);
    }
}
