//! The container's file system, made in its own mount namespace and entered.
//!
//! Every target is resolved by descriptor beneath the root (`pathrs`, openat2), and a mount is attached to that descriptor, so
//! a link or a rename in an image or a shared volume cannot move a mount elsewhere (CVE-2021-30465, CVE-2019-19921,
//! CVE-2025-52565, CVE-2025-31133). Sources are taken first, while propagation is still as on the host.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use pathrs::Root;
use pathrs::flags::OpenFlags;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::launch::{DeviceNode, Launch, MountStep, MountWhat};
use super::process::{ChildResult, Step};
use crate::spec::container::Propagation;

/// Makes the file system that `launch` describes and enters it. The process is in a new mount namespace.
pub(crate) fn enter(launch: &Launch) -> ChildResult<()> {
    let root_tree = clone_tree(&launch.rootfs, false).step(format_args!("open the root file system {}", launch.rootfs.display()))?;
    let mut sources = Vec::with_capacity(launch.mounts.len());
    for mount in &launch.mounts {
        sources.push(match &mount.what {
            MountWhat::Bind { source } => Some(clone_tree(source, true).step(format_args!("open the volume {}", source.display()))?),
            MountWhat::New { .. } => None,
        });
    }
    // From here nothing that is mounted reaches the host; what the host mounts still arrives below HostToContainer volumes.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .step("separate the mounts from the host's")?;
    set_propagation(root_tree.as_fd(), libc::MS_PRIVATE).step("make the root private")?;
    let place = rustix::fs::open(&launch.rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the root's place")?;
    attach(root_tree.as_fd(), place.as_fd()).step("mount the root")?;
    let root = Root::from_fd(root_tree.try_clone().step("keep the root")?);

    for (mount, source) in launch.mounts.iter().zip(sources) {
        place_mount(&root, mount, source).map_err(|error| format!("mount {}: {error}", mount.target.display()))?;
    }
    if launch.own_dev {
        fill_dev(&root, &launch.devices)?;
    }
    pivot(&root_tree).step("enter the root")
}

/// After the console is in place: what must not be written or seen.
pub(crate) fn protect(launch: &Launch) -> ChildResult<()> {
    let root = Root::open("/").step("open the root")?;
    if !launch.process.cwd.is_empty() {
        // Made where it is missing, as image tools expect; on a read-only file system the later chdir gives the reason.
        let _ = root.mkdir_all(&launch.process.cwd, &Permissions::from_mode(0o755));
    }
    for path in &launch.readonly_paths {
        make_readonly(&root, path).map_err(|error| format!("make {path} read-only: {error}"))?;
    }
    mask(&root, &launch.masked_paths)?;
    if launch.readonly_rootfs {
        set_attributes(root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), false).step("make the root read-only")?;
    }
    Ok(())
}

/// A detached copy of the mount at `source`.
fn clone_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(CWD, source, flags)?)
}

/// A detached copy of what an open descriptor stands for.
fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(fd, "", flags)?)
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: a valid descriptor, an empty C string, and a struct of the size given; the kernel only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), empty.as_ptr(), flags, std::ptr::from_ref(attr), size_of::<MountAttr>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Of a single mount (mount_setattr(2)).
pub(crate) fn set_mount_attributes(tree: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_attributes(tree, set, false)
}

fn set_attributes(tree: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    mount_setattr(tree, recursive, &MountAttr { attr_set: set, ..MountAttr::default() })
}

fn set_propagation(tree: BorrowedFd<'_>, propagation: libc::c_ulong) -> io::Result<()> {
    mount_setattr(tree, true, &MountAttr { propagation: propagation as _, ..MountAttr::default() })
}

fn place_mount(root: &Root, mount: &MountStep, source: Option<OwnedFd>) -> ChildResult<()> {
    let tree = match (&mount.what, source) {
        (MountWhat::Bind { .. }, Some(tree)) => {
            set_propagation(
                tree.as_fd(),
                match mount.propagation {
                    Propagation::Private => libc::MS_PRIVATE,
                    Propagation::HostToContainer => libc::MS_SLAVE,
                    Propagation::Bidirectional => libc::MS_SHARED,
                },
            )
            .step("set the propagation")?;
            tree
        }
        (MountWhat::New { fs, options }, _) => new_file_system(fs, options)?,
        (MountWhat::Bind { .. }, None) => return Err("no source".to_owned()),
    };
    if mount.attributes != 0 {
        set_attributes(tree.as_fd(), mount.attributes, mount.recursive).step("set the attributes")?;
    }
    let kernel_fs = matches!(&mount.what, MountWhat::New { fs, .. } if matches!(fs.as_str(), "proc" | "sysfs" | "cgroup2"));
    let own_dev = mount.target == Path::new("/dev") && matches!(mount.what, MountWhat::New { .. });
    let target = if is_directory(tree.as_fd())? { directory_target(root, &mount.target)? } else { file_target(root, &mount.target)? };
    if kernel_fs || own_dev {
        // A link at /proc or /dev would put the mount where the image wants it.
        let plain = root.resolve_nofollow(&mount.target).step("look at the target")?;
        if FileType::from_raw_mode(rustix::fs::fstat(&plain).step("look at the target")?.st_mode) != FileType::Directory {
            return Err("the image has no plain directory there".to_owned());
        }
    }
    attach(tree.as_fd(), target.as_fd()).step("attach")
}

fn is_directory(fd: BorrowedFd<'_>) -> ChildResult<bool> {
    let stat = rustix::fs::fstat(fd).step("look at the source")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn directory_target(root: &Root, target: &Path) -> ChildResult<OwnedFd> {
    let handle = match root.resolve(target) {
        Ok(handle) => handle,
        Err(_) => root.mkdir_all(target, &Permissions::from_mode(0o755)).step("make the directory")?,
    };
    if !is_directory(handle.as_fd())? {
        return Err("the target is not a directory, but the source is".to_owned());
    }
    Ok(handle.into())
}

fn file_target(root: &Root, target: &Path) -> ChildResult<OwnedFd> {
    if let Ok(handle) = root.resolve(target) {
        if is_directory(handle.as_fd())? {
            return Err("the target is a directory, but the source is not".to_owned());
        }
        return Ok(handle.into());
    }
    let target = follow_dangling(root, target)?;
    let parent = target.parent().ok_or("the target has no parent")?;
    root.mkdir_all(parent, &Permissions::from_mode(0o755)).step("make the parent directory")?;
    let flags = OpenFlags::O_EXCL | OpenFlags::O_CREAT | OpenFlags::O_NOFOLLOW | OpenFlags::O_CLOEXEC;
    root.create_file(&target, flags, &Permissions::from_mode(0o644)).step("make the file")?;
    Ok(root.resolve(&target).step("open the new file")?.into())
}

/// Links in a row that are followed; the kernel's own limit (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// Where a link leads that leads to nothing: many an image has its /etc/resolv.conf point below /run. Only a name within the
/// root is made of it; every use of the name is resolved beneath the root again.
fn follow_dangling(root: &Root, target: &Path) -> ChildResult<PathBuf> {
    let mut target = target.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = root.readlink(&target) else { return Ok(target) };
        let base = if link.is_absolute() { Path::new("/") } else { target.parent().unwrap_or(Path::new("/")) };
        let mut next = PathBuf::from("/");
        for part in base.join(link).components() {
            match part {
                Component::Normal(name) => next.push(name),
                Component::ParentDir => {
                    next.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        target = next;
    }
    Err("too many links".to_owned())
}

fn new_file_system(fs: &str, options: &[(String, Option<String>)]) -> ChildResult<OwnedFd> {
    let context = rustix::mount::fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC).step(format_args!("open file system {fs}"))?;
    rustix::mount::fsconfig_set_string(&context, "source", fs).step("name the source")?;
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => rustix::mount::fsconfig_set_flag(&context, key.as_str()),
        }
        .step(format_args!("set option {key} of {fs}"))?;
    }
    rustix::mount::fsconfig_create(&context).step(format_args!("create file system {fs}"))?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).step(format_args!("mount file system {fs}"))
}

/// The nodes and links that every container expects in its own, new `/dev`.
fn fill_dev(root: &Root, devices: &[DeviceNode]) -> ChildResult<()> {
    let dev: OwnedFd = root.resolve_nofollow("/dev").step("open /dev")?.into();
    let old = rustix::process::umask(Mode::empty());
    for device in devices {
        make_device(&dev, device).map_err(|error| format!("make /dev/{}: {error}", device.path.display()))?;
    }
    rustix::process::umask(old);
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        match rustix::fs::symlinkat(target, &dev, link) {
            // A volume of the caller's may stand there.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(format!("link /dev/{link}: {error}")),
        }
    }
    Ok(())
}

fn make_device(dev: &OwnedFd, device: &DeviceNode) -> ChildResult<()> {
    if let Some(parent) = device.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Root::from_fd(dev.try_clone().step("keep /dev")?).mkdir_all(parent, &Permissions::from_mode(0o755)).step("make its directory")?;
    }
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(dev, &device.path, kind, Mode::from_raw_mode(device.mode), number) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (rustix::fs::Uid::from_raw(device.uid), rustix::fs::Gid::from_raw(device.gid));
        rustix::fs::chownat(dev, &device.path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).step("set its owner")?;
    }
    Ok(())
}

/// pivot_root(2) with the same directory twice: the old root lies over the new one and is then unmounted.
fn pivot(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// A copy of the path is laid over itself, read-only with all that is mounted below. A path that does not exist is nothing to protect.
fn make_readonly(root: &Root, path: &str) -> ChildResult<()> {
    let Ok(target) = root.resolve_nofollow(path) else { return Ok(()) };
    let tree = clone_fd(target.as_fd(), true).step("copy")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    set_attributes(tree.as_fd(), attributes.bits().into(), true).step("set")?;
    attach(tree.as_fd(), target.as_fd()).step("attach")
}

/// Files are covered by /dev/null, directories by an empty read-only tmpfs.
fn mask(root: &Root, paths: &[String]) -> ChildResult<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = open_null(root)?;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Ok(target) = root.resolve_nofollow(path) else { continue };
        let tree = if is_directory(target.as_fd())? {
            // One empty tmpfs serves all: each place gets a copy of the mount.
            let shared = match &empty {
                Some(fd) => fd,
                None => empty.insert(empty_directory()?),
            };
            clone_detached(shared).step(format_args!("hide {path}"))?
        } else {
            clone_fd(null.as_fd(), false).step(format_args!("hide {path}"))?
        };
        attach(tree.as_fd(), target.as_fd()).step(format_args!("hide {path}"))?;
    }
    Ok(())
}

fn empty_directory() -> ChildResult<OwnedFd> {
    let tmpfs = new_file_system("tmpfs", &[("size".to_owned(), Some("0k".to_owned())), ("mode".to_owned(), Some("555".to_owned()))])?;
    set_attributes(tmpfs.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), false).step("make the empty directory read-only")?;
    Ok(tmpfs)
}

/// A copy of a mount that is not attached anywhere; before Linux 6.15 the kernel copies attached mounts only.
fn clone_detached(tree: &OwnedFd) -> ChildResult<OwnedFd> {
    match clone_fd(tree.as_fd(), false) {
        Ok(copy) => Ok(copy),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => empty_directory(),
        Err(error) => Err(format!("copy the empty directory: {error}")),
    }
}

/// The container's /dev/null, by descriptor and looked at: were it a link or another file, masking would bind that file
/// read-write over the path that should be hidden (CVE-2025-31133).
fn open_null(root: &Root) -> ChildResult<OwnedFd> {
    let null: OwnedFd = root.resolve_nofollow("/dev/null").step("open /dev/null")?.into();
    verify_null(&null)?;
    Ok(null)
}

fn verify_null(null: &OwnedFd) -> ChildResult<()> {
    const NULL_MAJOR: u32 = 1;
    const NULL_MINOR: u32 = 3;
    let stat = rustix::fs::fstat(null).step("look at /dev/null")?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(NULL_MAJOR, NULL_MINOR);
    if is_null { Ok(()) } else { Err("/dev/null in the container is not the null device".to_owned()) }
}

/// Streams that are the host's /dev/null become the container's.
pub(crate) fn reopen_null() -> ChildResult<()> {
    let root = Root::open("/").step("open the root")?;
    let file: File = root.open_subpath("/dev/null", OpenFlags::O_RDWR | OpenFlags::O_NOFOLLOW).step("open /dev/null")?;
    let null = OwnedFd::from(file);
    verify_null(&null)?;
    let device = rustix::fs::fstat(&null).step("look at /dev/null")?.st_rdev;
    for stream in 0..3 {
        // SAFETY: the standard streams are open in this child.
        let fd = unsafe { BorrowedFd::borrow_raw(stream) };
        let stat = rustix::fs::fstat(fd).step("look at a stream")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == device {
            super::process::take_stream(&null, stream)?;
        }
    }
    Ok(())
}
