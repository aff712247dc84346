//! One layer: from its blob to a directory in overlayfs form.
//!
//! A layer is a change set (OCI image-spec, layer.md). `.wh.name` becomes overlayfs's whiteout, `.wh..wh..opq` its opaque mark.
//! Directories and links that the layer relies on without naming them are looked up in the layers below, as if the change were
//! applied to the merged tree. Layers are hostile until proven otherwise: names are taken one component at a time by descriptor,
//! never followed by the kernel; links are resolved here, inside the root (CVE-2022-23648, CVE-2025-47290).
//!
//! The directory is made elsewhere and renamed when it is complete, so nothing here needs undoing.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::compression::decompress;
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::tarball::{Kind, Member, Tarball};
use super::tree;

/// Bytes of the files of one layer. Larger ones are machine-learning models, which come in several layers.
pub(crate) const LAYER_BYTES_MAX: u64 = 64 << 30;

/// Members of one layer. A full desktop system has about 500,000 files.
pub(crate) const LAYER_ENTRIES_MAX: u64 = 4_000_000;

/// Bytes of one layer with all that is no file: headers, and content that means nothing.
const STREAM_BYTES_MAX: u64 = 2 * LAYER_BYTES_MAX;

/// Bytes that the paths of a layer's directories may take in memory until it is complete: some 500,000 directories.
const PATHS_BYTES_MAX: usize = 256 << 20;

/// What one name of such a path takes beside its letters.
const NAME_BYTES: usize = 48;

/// Levels of directories. The longest path that a program can use has 4,096 bytes; trees in images have some 50 levels.
const DEPTH_MAX: usize = 1024;

/// Bytes of a member's path (PATH_MAX).
const PATH_BYTES_MAX: usize = 4096;

/// Links followed for one path, as the kernel has it (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

const COPY_BUFFER_BYTES: usize = 128 << 10;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Left by AUFS in very old images; means nothing to others.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";

/// Reads the layer in `blob` into the empty directory `target`. `below` are the layers under it, the uppermost first.
pub(crate) fn unpack(blob: File, layer: &Digest, diff_id: &Digest, below: &[OwnedFd], target: &Path) -> Result<(), ImageError> {
    let failed = |step: &'static str, entry: &[u8], source: io::Error| ImageError::Layer {
        layer: layer.to_string(),
        step,
        entry: String::from_utf8_lossy(entry).into_owned(),
        source,
    };
    let root = rustix::fs::open(target, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed("open directory for", b"", error.into()))?;
    let plain = decompress(blob).map_err(|error| failed("decompress", b"", error))?;
    // Cut there, it ends as an archive that is cut short.
    let mut tarball = Tarball::new(Hashing::new(plain.take(STREAM_BYTES_MAX)));
    let mut unpacking = Unpacking::new(root, below);
    let mut entries = 0;
    let mut last = Vec::new();
    loop {
        let member = tarball.next().map_err(|error| failed("read what follows", &last, error))?;
        let Some(member) = member else { break };
        entries += 1;
        if entries > LAYER_ENTRIES_MAX {
            return Err(ImageError::TooLarge { what: format!("number of files in layer {layer}"), bytes: entries, max: LAYER_ENTRIES_MAX });
        }
        unpacking.apply(&member, &mut tarball).map_err(|Failure { step, source }| failed(step, &member.path, source))?;
        last = member.path;
    }
    // The digest covers what follows the end mark as well.
    let mut rest = tarball.into_inner();
    let limit = LAYER_BYTES_MAX.saturating_sub(rest.count());
    let drained = io::copy(&mut (&mut rest).take(limit + 1), &mut io::sink()).map_err(|error| failed("read what follows", &last, error))?;
    if drained > limit {
        return Err(ImageError::TooLarge { what: format!("layer {layer}"), bytes: LAYER_BYTES_MAX, max: LAYER_BYTES_MAX });
    }
    let (found, _) = rest.finish();
    if found != *diff_id {
        return Err(ImageError::Digest { expected: diff_id.to_string(), found: found.to_string() });
    }
    unpacking.finish().map_err(|source| failed("set the times of directories in", b"", source))
}

/// What went wrong with one member.
struct Failure {
    step: &'static str,
    source: io::Error,
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure { step, source: source.into() })
    }
}

fn refuse<T>(reason: &'static str) -> Result<T, Failure> {
    Err(Failure { step: "refuse", source: io::Error::new(io::ErrorKind::InvalidData, reason) })
}

/// A directory of the layer, with its real path: no links in it.
struct Directory {
    fd: OwnedFd,
    path: Vec<CString>,
}

struct Unpacking<'a> {
    root: OwnedFd,
    below: &'a [OwnedFd],
    /// The directory of the last member, for the next one is mostly in the same. Forgotten when anything is removed.
    parent: Option<(Vec<CString>, Directory)>,
    /// Times of directories, set at the end, for every change in a directory changes its time.
    times: BTreeMap<Vec<CString>, (i64, u32)>,
    /// What their paths take.
    paths_bytes: usize,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<'a> Unpacking<'a> {
    fn new(root: OwnedFd, below: &'a [OwnedFd]) -> Unpacking<'a> {
        Unpacking { root, below, parent: None, times: BTreeMap::new(), paths_bytes: 0, bytes: 0, buffer: vec![0; COPY_BUFFER_BYTES] }
    }

    /// The time of a directory, for the end.
    fn remember(&mut self, path: Vec<CString>, mtime: (i64, u32)) -> io::Result<()> {
        let bytes: usize = path.iter().map(|name| name.as_bytes().len() + NAME_BYTES).sum();
        if self.times.insert(path, mtime).is_none() {
            self.paths_bytes += bytes;
        }
        if self.paths_bytes > PATHS_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the paths of the layer's directories are larger than 256 MiB together",
            ));
        }
        Ok(())
    }

    fn apply(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), Failure> {
        let mut components = components(&member.path)?;
        let Some(name) = components.pop() else {
            if member.kind != Kind::Directory {
                return refuse("the root must be a directory");
            }
            let root = self.root.try_clone().step("open")?;
            self.remember(Vec::new(), member.mtime).step("refuse")?;
            return own(root.as_fd(), member);
        };
        let (components, parent) = match self.parent.take() {
            Some((path, parent)) if path == components => (path, parent),
            _ => {
                let parent = self.resolve(&components, true).step("make the directory of")?;
                (components, parent)
            }
        };
        let kept = self.place(&parent, &name, member, content)?;
        if kept {
            self.parent = Some((components, parent));
        }
        Ok(())
    }

    /// Puts a member into its directory. False if something was removed, so that known directories may be gone.
    fn place(&mut self, parent: &Directory, name: &CStr, member: &Member, content: &mut dyn Read) -> Result<bool, Failure> {
        let dir = parent.fd.as_fd();
        if name.to_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent, name.to_bytes()).map(|()| true);
        }
        if member.kind == Kind::Directory {
            return self.directory(parent, name, member);
        }
        let mut removed = false;
        loop {
            match self.create(dir, name, member, content) {
                Err(Failure { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists && !removed => {
                    // The later member of a path wins. A link onto itself would remove what it needs.
                    if member.kind == Kind::Hardlink && self.is_same(dir, name, member) {
                        return Ok(true);
                    }
                    tree::remove(dir, name).step("replace")?;
                    removed = true;
                }
                Err(failure) => return Err(failure),
                Ok(()) => return Ok(!removed),
            }
        }
    }

    fn create(&mut self, dir: BorrowedFd<'_>, name: &CStr, member: &Member, content: &mut dyn Read) -> Result<(), Failure> {
        match member.kind {
            Kind::Directory => unreachable!("directories have a way of their own"),
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(dir, name, flags, Mode::from(0o600)).step("create")?;
                let mut file = File::from(file);
                self.copy(content, &mut file, member.size)?;
                own(file.as_fd(), member)?;
                return rustix::fs::futimens(&file, &times(member.mtime)).step("set the time of");
            }
            Kind::Hardlink => return self.link(dir, name, member),
            Kind::Symlink => {
                if member.link.is_empty() {
                    return refuse("a symbolic link points nowhere");
                }
                rustix::fs::symlinkat(member.link.as_slice(), dir, name).step("create")?;
            }
            Kind::Fifo => mknod(dir, name, FileType::Fifo, member.mode, 0)?,
            Kind::CharDevice { major, minor } => {
                mknod(dir, name, FileType::CharacterDevice, member.mode, rustix::fs::makedev(major, minor))?
            }
            Kind::BlockDevice { major, minor } => mknod(dir, name, FileType::BlockDevice, member.mode, rustix::fs::makedev(major, minor))?,
        }
        let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).step("set the owner of")?;
        if member.kind != Kind::Symlink {
            // The name is a device or a FIFO that was just made in a directory that only this process knows.
            rustix::fs::chmodat(dir, name, Mode::from(member.mode), AtFlags::empty()).step("set the mode of")?;
        }
        rustix::fs::utimensat(dir, name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW).step("set the time of")
    }

    fn directory(&mut self, parent: &Directory, name: &CStr, member: &Member) -> Result<bool, Failure> {
        let dir = parent.fd.as_fd();
        let mut removed = false;
        let fd = match rustix::fs::mkdirat(dir, name, Mode::from(0o700)) {
            Ok(()) => tree::open_dir(dir, name).step("open")?,
            Err(Errno::EXIST) => {
                let stat = tree::stat_at(dir, name).step("look at")?;
                if tree::kind(&stat) == FileType::Directory {
                    tree::open_dir(dir, name).step("open")?
                } else {
                    removed = true;
                    replace_by_directory(dir, name, &stat).step("replace")?
                }
            }
            Err(error) => return Err(error).step("create"),
        };
        own(fd.as_fd(), member)?;
        let mut path = parent.path.clone();
        path.push(name.to_owned());
        self.remember(path, member.mtime).step("refuse")?;
        Ok(!removed)
    }

    /// The target is a path of the image. It must be in this layer: builders copy a file up when they link to it.
    fn link(&mut self, dir: BorrowedFd<'_>, name: &CStr, member: &Member) -> Result<(), Failure> {
        let mut target = components(&member.link)?;
        let Some(target_name) = target.pop() else {
            return refuse("a link points to the root");
        };
        let target_dir = self.resolve(&target, false).step("find the target of the link")?;
        rustix::fs::linkat(&target_dir.fd, &target_name, dir, name, AtFlags::empty()).step("link")
    }

    /// True if the link would be the file that is there.
    fn is_same(&mut self, dir: BorrowedFd<'_>, name: &CStr, member: &Member) -> bool {
        let Ok(mut target) = components(&member.link) else { return false };
        let Some(target_name) = target.pop() else { return false };
        let Ok(target_dir) = self.resolve(&target, false) else {
            return false;
        };
        match (tree::stat_at(dir, name), tree::stat_at(target_dir.fd.as_fd(), &target_name)) {
            (Ok(here), Ok(there)) => (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino),
            _ => false,
        }
    }

    fn whiteout(&mut self, parent: &Directory, name: &[u8]) -> Result<(), Failure> {
        if name == OPAQUE_MARK {
            return if parent.path.is_empty() { self.hide_everything_below().step("hide") } else { set_opaque(&parent.fd).step("hide") };
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return refuse("a whiteout names nothing that could be removed");
        }
        let hidden = CString::new(hidden).step("hide")?;
        hide(parent.fd.as_fd(), &hidden).step("hide")
    }

    /// overlayfs knows no opaque root, so each name is hidden by itself.
    fn hide_everything_below(&self) -> io::Result<()> {
        for layer in self.below {
            for name in tree::names(layer.as_fd())? {
                hide(self.root.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    fn copy(&mut self, content: &mut dyn Read, file: &mut File, size: u64) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LAYER_BYTES_MAX {
            return refuse("the files of the layer are larger than 64 GiB together");
        }
        loop {
            match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => file.write_all(&self.buffer[..count]).step("write")?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).step("read"),
            }
        }
    }

    /// The directory at a path of the image, links resolved inside the root, missing directories made if `create`.
    fn resolve(&mut self, path: &[CString], create: bool) -> io::Result<Directory> {
        let mut pending: VecDeque<CString> = path.iter().cloned().collect();
        let mut at = Directory { fd: self.root.try_clone()?, path: Vec::new() };
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name.as_bytes() == b".." {
                // Only from a link's target; above the root is the root.
                if at.path.pop().is_some() {
                    at.fd = tree::open_dir(at.fd.as_fd(), c"..")?;
                }
                continue;
            }
            if at.path.len() >= DEPTH_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more than 1,024 levels of directories"));
            }
            let link = match tree::open_dir(at.fd.as_fd(), &name) {
                Ok(fd) => {
                    at.enter(fd, name);
                    continue;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = tree::stat_at(at.fd.as_fd(), &name)?;
                    match tree::kind(&stat) {
                        FileType::Symlink => rustix::fs::readlinkat(&at.fd, &name, Vec::new())?,
                        _ if tree::is_whiteout(&stat) && create => {
                            let fd = replace_by_directory(at.fd.as_fd(), &name, &stat)?;
                            rustix::fs::fchmod(&fd, Mode::from(0o755))?;
                            at.enter(fd, name);
                            continue;
                        }
                        _ => return Err(Errno::NOTDIR.into()),
                    }
                }
                Err(Errno::NOENT) => match self.find_below(&at, &name)? {
                    Some(Below::Link(target)) => target,
                    Some(Below::Other) => return Err(Errno::NOTDIR.into()),
                    Some(Below::Directory(_)) | None if !create => return Err(Errno::NOENT.into()),
                    found => {
                        rustix::fs::mkdirat(&at.fd, &name, Mode::from(0o755))?;
                        let fd = tree::open_dir(at.fd.as_fd(), &name)?;
                        rustix::fs::fchmod(&fd, Mode::from(0o755))?;
                        if let Some(Below::Directory(stat)) = found {
                            take_over(&fd, &stat)?;
                            let mut path = at.path.clone();
                            path.push(name.clone());
                            self.remember(path, (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))?;
                        }
                        at.enter(fd, name);
                        continue;
                    }
                },
                Err(error) => return Err(error.into()),
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = link.to_bytes();
            if target.starts_with(b"/") {
                at = Directory { fd: self.root.try_clone()?, path: Vec::new() };
            }
            for part in target.split(|byte| *byte == b'/').rev().filter(|part| !part.is_empty() && *part != b".") {
                // A part of a C string has no zero byte.
                pending.push_front(CString::new(part).map_err(io::Error::from)?);
            }
        }
        Ok(at)
    }

    /// What the layers below show at a name of a directory that this layer has as well.
    fn find_below(&self, dir: &Directory, name: &CStr) -> io::Result<Option<Below>> {
        let mut own = self.root.try_clone()?;
        for part in &dir.path {
            own = tree::open_dir(own.as_fd(), part)?;
            if is_opaque(&own) {
                return Ok(None);
            }
        }
        'layers: for layer in self.below {
            let mut at = layer.try_clone()?;
            let mut last = false;
            for part in &dir.path {
                match tree::open_dir(at.as_fd(), part) {
                    Ok(fd) => at = fd,
                    Err(Errno::NOENT) if last => return Ok(None),
                    Err(Errno::NOENT) => continue 'layers,
                    // A whiteout, or something that hides the directory further below.
                    Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
                last |= is_opaque(&at);
            }
            match tree::stat_at(at.as_fd(), name) {
                Ok(stat) if tree::is_whiteout(&stat) => return Ok(None),
                Ok(stat) => {
                    return Ok(Some(match tree::kind(&stat) {
                        FileType::Directory => Below::Directory(stat),
                        FileType::Symlink => Below::Link(rustix::fs::readlinkat(&at, name, Vec::new())?),
                        _ => Below::Other,
                    }));
                }
                Err(Errno::NOENT) if last => return Ok(None),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn finish(self) -> io::Result<()> {
        'directories: for (path, mtime) in &self.times {
            let mut at = self.root.try_clone()?;
            for part in path {
                match tree::open_dir(at.as_fd(), part) {
                    Ok(fd) => at = fd,
                    // A later member took its place.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue 'directories,
                    Err(error) => return Err(error.into()),
                }
            }
            rustix::fs::futimens(&at, &times(*mtime))?;
        }
        // Everything of the layer is on disk before it gets its name.
        Ok(rustix::fs::syncfs(&self.root)?)
    }
}

impl Directory {
    fn enter(&mut self, fd: OwnedFd, name: CString) {
        self.fd = fd;
        self.path.push(name);
    }
}

enum Below {
    Directory(Stat),
    Link(CString),
    Other,
}

/// The names of a member's path. Leading and double slashes mean nothing; the parent of anything is refused.
fn components(path: &[u8]) -> Result<Vec<CString>, Failure> {
    if path.len() > PATH_BYTES_MAX {
        return refuse("the path is longer than 4,096 bytes");
    }
    let mut names = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return refuse("the path leaves its directory"),
            part => names.push(CString::new(part).step("read the name of")?),
        }
    }
    Ok(names)
}

/// Owner, mode and attributes, in this order: a change of owner clears setuid bits and capabilities.
fn own(fd: BorrowedFd<'_>, member: &Member) -> Result<(), Failure> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid))).step("set the owner of")?;
    rustix::fs::fchmod(fd, Mode::from(member.mode)).step("set the mode of")?;
    for (name, value) in &member.xattrs {
        if !is_wanted(name) {
            continue;
        }
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // The file system keeps none; capabilities must not get lost in silence.
            Err(Errno::OPNOTSUPP) if !name.starts_with("security.") => tracing::warn!(name, "the file system keeps no such attribute"),
            Err(error) => return Err(error).step("set an attribute of"),
        }
    }
    Ok(())
}

/// `trusted.overlay.*` would let a layer steer overlayfs (redirects, metadata-only copies), labels belong to the host.
fn is_wanted(name: &str) -> bool {
    name == "security.capability"
        || name.starts_with("system.posix_acl_")
        || (name.starts_with("user.") && !name.starts_with("user.overlay."))
}

fn mknod(dir: BorrowedFd<'_>, name: &CStr, kind: FileType, mode: u32, device: u64) -> Result<(), Failure> {
    rustix::fs::mknodat(dir, name, kind, Mode::from(mode), device).step("create")
}

/// A directory that replaces a whiteout shows nothing of what the whiteout hid.
fn replace_by_directory(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<OwnedFd> {
    tree::remove(dir, name)?;
    rustix::fs::mkdirat(dir, name, Mode::from(0o700))?;
    let fd = tree::open_dir(dir, name)?;
    if tree::is_whiteout(stat) {
        set_opaque(&fd)?;
    }
    Ok(fd)
}

/// Hides what the layers below have at a name; what this layer has there stays.
fn hide(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => match tree::open_dir(dir, name) {
            Ok(fd) => Ok(set_opaque(&fd)?),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn set_opaque(dir: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

pub(crate) fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0u8; 2];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE_XATTR, &mut value), Ok(1) if value[0] == b'y')
}

fn take_over(fd: &OwnedFd, stat: &Stat) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode))?)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

/// The path by which an open descriptor can be named to calls that take none.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_directories_are_kept_once_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut unpacking = Unpacking::new(root, &[]);
        let deep = || vec![c"a".to_owned(); DEPTH_MAX];
        for time in 0..100 {
            unpacking.remember(deep(), (time, 0)).unwrap();
        }
        assert_eq!(unpacking.times.get(&deep()), Some(&(99, 0)), "the last time counts");
        assert_eq!((unpacking.times.len(), unpacking.paths_bytes), (1, DEPTH_MAX * (1 + NAME_BYTES)));
        unpacking.paths_bytes = PATHS_BYTES_MAX;
        unpacking.remember(deep(), (0, 0)).unwrap();
        let error = unpacking.remember(vec![c"b".to_owned()], (0, 0)).unwrap_err();
        assert!(error.to_string().contains("256 MiB"), "{error}");
    }
}
