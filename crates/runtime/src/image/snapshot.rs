//! Root file systems of containers: an overlay of the image's layers with a writable directory on top, or, where the file system
//! of the data directory takes no overlay, a copy.
//!
//! A container's directory has `mount.json` first (it keeps the layers from being collected), then `upper`, `work` and
//! `rootfs`, then the mount. Each step may be repeated; removal goes by renaming the directory away first.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::content::at;
use super::copy;
use super::digest::Digest;
use super::error::ImageError;
use super::unpack::fd_path;
use super::{RootFs, Usage, tree};

/// Bytes of a string that fsconfig(2) takes (fs/fsopen.c, strndup_user with 256, the zero included).
const FSCONFIG_STRING_MAX: usize = 255;

/// Mounts on top of each other at one place that are undone: only a fault makes more than one.
const STACKED_MOUNTS_MAX: usize = 16;

const RECORD: &str = "mount.json";

/// What a container's root file system is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) image: Digest,
    /// Chain ids, the lowest layer first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) readonly: bool,
    /// A copy instead of an overlay; complete if `rootfs` exists.
    #[serde(default)]
    pub(crate) copied: bool,
}

pub(crate) struct Snapshots {
    dir: PathBuf,
    layers: PathBuf,
    /// Set when the file system of the data directory refused an overlay.
    overlay_refused: AtomicBool,
}

impl Snapshots {
    pub(crate) fn open(images: &Path) -> Result<Snapshots, ImageError> {
        let snapshots =
            Snapshots { dir: images.join("containers"), layers: images.join("layers"), overlay_refused: AtomicBool::new(false) };
        for path in [&snapshots.dir, &snapshots.layers] {
            fs::create_dir_all(path).map_err(at("create", path))?;
        }
        Ok(snapshots)
    }

    pub(crate) fn layer(&self, chain: &Digest) -> PathBuf {
        self.layers.join(chain.hex())
    }

    pub(crate) fn layers_dir(&self) -> &Path {
        &self.layers
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Containers that have a root file system here.
    pub(crate) fn list(&self) -> Result<Vec<String>, ImageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at("list", &self.dir))? {
            let entry = entry.map_err(at("list", &self.dir))?;
            ids.extend(entry.file_name().into_string());
        }
        Ok(ids)
    }

    pub(crate) fn record(&self, id: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.container(id).join(RECORD)).ok()?).ok()
    }

    /// Writes down what the container will use, before its layers are looked at.
    pub(crate) fn register(&self, id: &str, record: &Record) -> Result<(), ImageError> {
        let dir = self.container(id);
        fs::create_dir_all(&dir).map_err(at("create", &dir))?;
        let (path, fresh) = (dir.join(RECORD), dir.join("mount.json.new"));
        let bytes = serde_json::to_vec(record).map_err(|error| at("encode", &path)(error.into()))?;
        // Not synced: a container does not outlive the machine, a process crash loses nothing that was written.
        fs::write(&fresh, bytes).map_err(at("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(at("rename to", &path))
    }

    /// Mounts what [`Snapshots::register`] wrote down. The layers are there.
    pub(crate) fn mount(&self, id: &str, record: &Record) -> Result<RootFs, ImageError> {
        let dir = self.container(id);
        let rootfs = dir.join("rootfs");
        let upper = (!record.readonly && !record.copied).then(|| dir.join("upper"));
        if record.copied {
            if !rootfs.exists() {
                self.copy(&dir, record)?;
            }
            return Ok(RootFs { path: rootfs, upper: None });
        }
        fs::create_dir_all(&rootfs).map_err(at("create", &rootfs))?;
        if is_mount_point(&rootfs)? {
            return Ok(RootFs { path: rootfs, upper });
        }
        if !self.overlay_refused.load(Ordering::Relaxed) {
            match self.overlay(&dir, record) {
                Ok(()) => return Ok(RootFs { path: rootfs, upper }),
                Err(ImageError::Path { source, path, .. }) if is_refusal(&source) => {
                    tracing::warn!(path = %path.display(), error = %source, "overlayfs is refused here; root file systems are copied instead");
                    self.overlay_refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        // An empty `rootfs` would look like a complete copy.
        fs::remove_dir(&rootfs).map_err(at("remove", &rootfs))?;
        let record = Record { copied: true, ..record.clone() };
        self.register(id, &record)?;
        self.copy(&dir, &record)?;
        Ok(RootFs { path: rootfs, upper: None })
    }

    fn copy(&self, dir: &Path, record: &Record) -> Result<(), ImageError> {
        let (half, rootfs) = (dir.join("rootfs.half"), dir.join("rootfs"));
        if half.exists() {
            fs::remove_dir_all(&half).map_err(at("remove", &half))?;
        }
        fs::create_dir(&half).map_err(at("create", &half))?;
        for chain in &record.layers {
            let layer = self.layer(chain);
            copy::layer(&layer, &half).map_err(at("copy layer", &layer))?;
        }
        fs::rename(&half, &rootfs).map_err(at("rename to", &rootfs))
    }

    fn overlay(&self, dir: &Path, record: &Record) -> Result<(), ImageError> {
        let mut lower: Vec<PathBuf> = record.layers.iter().rev().map(|chain| self.layer(chain)).collect();
        if record.readonly || lower.is_empty() {
            // An overlay without a writable layer needs two others.
            let empty = dir.join("empty");
            fs::create_dir_all(&empty).map_err(at("create", &empty))?;
            lower.push(empty);
        }
        let writable = if record.readonly {
            if lower.len() < 2 {
                let empty = dir.join("empty2");
                fs::create_dir_all(&empty).map_err(at("create", &empty))?;
                lower.push(empty);
            }
            None
        } else {
            let (upper, work) = (dir.join("upper"), dir.join("work"));
            fs::create_dir_all(&work).map_err(at("create", &work))?;
            if !upper.exists() {
                // The writable layer's directory is the root that the container sees.
                let half = dir.join("upper.half");
                fs::create_dir_all(&half).map_err(at("create", &half))?;
                take_over(&lower[0], &half)?;
                fs::rename(&half, &upper).map_err(at("rename to", &upper))?;
            }
            Some((upper, work))
        };
        let rootfs = dir.join("rootfs");
        let overlay = Overlay { lower: &lower, writable: writable.as_ref().map(|(upper, work)| (upper.as_path(), work.as_path())) };
        match overlay.mount(&rootfs) {
            // Before Linux 6.8 there is no `lowerdir+`.
            Err(Errno::INVAL) => overlay.mount_by_options(&rootfs),
            result => result,
        }
        .map_err(|error| at("mount overlay at", &rootfs)(error.into()))
    }

    /// Idempotent. Gives the directory that is left to discard.
    pub(crate) fn unmount(&self, id: &str) -> Result<(), ImageError> {
        let rootfs = self.container(id).join("rootfs");
        for _ in 0..STACKED_MOUNTS_MAX {
            match rustix::mount::unmount(&rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(error) => return Err(at("unmount", &rootfs)(error.into())),
            }
        }
        Err(at("unmount", &rootfs)(io::Error::other("still mounted after 16 attempts")))
    }

    pub(crate) fn usage(&self, id: &str) -> Result<Usage, ImageError> {
        /// Bytes of a block in `st_blocks`, whatever the file system's own are (stat(2)).
        const STAT_BLOCK_BYTES: u64 = 512;
        let copied = self.record(id).is_some_and(|record| record.copied);
        let path = self.container(id).join(if copied { "rootfs" } else { "upper" });
        let dir = match rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(Usage::default()),
            Err(error) => return Err(at("open", &path)(error.into())),
        };
        let mut usage = Usage::default();
        let mut count = |stat: &rustix::fs::Stat| {
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * STAT_BLOCK_BYTES;
            usage.inodes += 1;
        };
        tree::walk(dir.as_fd(), &mut count).map_err(at("measure", &path))?;
        Ok(usage)
    }
}

/// The layers of one overlay, the uppermost first, and its writable and work directories.
struct Overlay<'a> {
    lower: &'a [PathBuf],
    writable: Option<(&'a Path, &'a Path)>,
}

impl Overlay<'_> {
    /// By fsopen(2): each layer is one parameter, so their number and names are not limited by a page.
    fn mount(&self, target: &Path) -> rustix::io::Result<()> {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", "knarr")?;
        let mut open = Vec::new();
        for lower in self.lower {
            set_path(&fs, "lowerdir+", lower, &mut open)?;
        }
        if let Some((upper, work)) = self.writable {
            set_path(&fs, "upperdir", upper, &mut open)?;
            set_path(&fs, "workdir", work, &mut open)?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let attributes = if self.writable.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    /// By mount(2), whose options must fit a page: layers are named by open descriptors, so 190 of them do.
    fn mount_by_options(&self, target: &Path) -> rustix::io::Result<()> {
        let mut open = Vec::new();
        let mut name = |path: &Path| -> rustix::io::Result<String> {
            let fd = open_path(path)?;
            let name = fd_path(fd.as_fd());
            open.push(fd);
            Ok(name)
        };
        let lower = self.lower.iter().map(|path| name(path)).collect::<Result<Vec<_>, _>>()?;
        let mut options = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = self.writable {
            options.push_str(&format!(",upperdir={},workdir={}", name(upper)?, name(work)?));
        }
        let flags = if self.writable.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("knarr", target, "overlay", flags, Some(options.as_c_str()))
    }
}

/// Sets a path by its name, which /proc/self/mountinfo then shows, or by a descriptor where the name is too long.
fn set_path(fs: &OwnedFd, key: &str, path: &Path, open: &mut Vec<OwnedFd>) -> rustix::io::Result<()> {
    if path.as_os_str().len() <= FSCONFIG_STRING_MAX {
        return rustix::mount::fsconfig_set_string(fs.as_fd(), key, path);
    }
    let fd = open_path(path)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), key, fd_path(fd.as_fd()))?;
    open.push(fd);
    Ok(())
}

fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    debug_assert!(fd.as_raw_fd() >= 0);
    Ok(fd)
}

/// The kernel or the file system has no overlay here: not this mount's fault, so a copy can do.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NODEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::REMOTE))
}

/// Asks the kernel whether something is mounted exactly here.
pub(crate) fn is_mount_point(path: &Path) -> Result<bool, ImageError> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(at("look at", path)(error.into())),
    }
}

/// Gives a directory the owner and mode of another.
fn take_over(from: &Path, to: &Path) -> Result<(), ImageError> {
    let metadata = fs::metadata(from).map_err(at("look at", from))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(at("set the owner of", to))?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777)).map_err(at("set the mode of", to))
}
