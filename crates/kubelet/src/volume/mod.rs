//! The volumes of a pod: made under `pods/<uid>/volumes`, removed with the pod.
//!
//! ```text
//! pods/<uid>/volumes/<name>            emptyDir and configMap on disk, or a tmpfs of their own
//! pods/<uid>/memory/<name>             secret, projected and downwardAPI: one tmpfs for the pod, never on disk
//! pods/<uid>/subpaths/<container>/<n>  mounts with subPath, bound here by descriptor
//! pods/<uid>/containers/<name>/<n>     termination message of the container's n-th run
//! ```
//! Setting up is idempotent: after a restart it finds everything in place and changes nothing.

pub(crate) mod atomic;
pub(crate) mod payload;
pub(crate) mod subpath;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, Pod, PodSpec, Volume};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Where a volume is, for mounting into containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Containers may not write to it, whatever they ask.
    pub(crate) readonly: bool,
}

pub(crate) type Places = BTreeMap<String, Place>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{0}")]
    Payload(#[from] payload::PayloadError),
    #[error("write volume {volume}: {source}")]
    Write {
        volume: String,
        #[source]
        source: atomic::WriteError,
    },
    #[error("hostPath type check failed: {path} is not a {expected}")]
    HostPathType { path: String, expected: &'static str },
    #[error("{step} {path}: {source}")]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("volume {volume} is of a kind that this node does not offer")]
    Unsupported { volume: String },
    #[error("persistentvolumeclaim \"{claim}\" {trouble}")]
    Claim { claim: String, trouble: String },
}

/// Bytes of the tmpfs that holds a pod's secrets: what the API lets one pod refer to is far below it.
const SECRETS_BYTES_MAX: u64 = 64 << 20;

fn io_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    move |source| VolumeError::Io { step, path: path.to_owned(), source }
}

/// Directories of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodDir(PathBuf);

impl PodDir {
    pub(crate) fn new(data_dir: &Path, uid: &str) -> PodDir {
        PodDir(data_dir.join("pods").join(uid))
    }

    #[cfg(test)]
    fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn on_disk(&self, volume: &str) -> PathBuf {
        self.0.join("volumes").join(volume)
    }

    fn in_memory(&self, volume: &str) -> PathBuf {
        self.0.join("memory").join(volume)
    }

    pub(crate) fn subpath(&self, container: &str, index: usize) -> PathBuf {
        self.0.join("subpaths").join(container).join(index.to_string())
    }

    /// Where the n-th run of a container writes its termination message.
    pub(crate) fn termination_message(&self, container: &str, attempt: u32) -> PathBuf {
        self.0.join("containers").join(container).join(attempt.to_string())
    }
}

/// Whether something is mounted exactly at `path`.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A path as mountinfo writes it.
fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            ' ' => out.push_str("\\040"),
            '\t' => out.push_str("\\011"),
            '\n' => out.push_str("\\012"),
            '\\' => out.push_str("\\134"),
            c => out.push(c),
        }
    }
    out
}

/// Makes one volume. `files` is the content of those kinds that have one.
pub(crate) fn set_up(
    dir: &PodDir,
    pod: &Pod,
    volume: &Volume,
    files: Option<&atomic::Payload>,
    persistent: Option<&PersistentVolume>,
) -> Result<Place, VolumeError> {
    let gid = fs_group(pod.spec.as_ref());
    if let Some(files) = files {
        let secret = volume.config_map.is_none();
        let path = if secret { dir.in_memory(&volume.name) } else { dir.on_disk(&volume.name) };
        if secret {
            mount_tmpfs(&dir.0.join("memory"), Some(SECRETS_BYTES_MAX), 0o755)?;
        }
        make_dir(&path, 0o755)?;
        atomic::write(&path, files, gid).map_err(|source| VolumeError::Write { volume: volume.name.clone(), source })?;
        return Ok(Place { path, readonly: true });
    }
    if let Some(it) = &volume.empty_dir {
        let path = dir.on_disk(&volume.name);
        match it.medium.as_deref() {
            None | Some("") => make_dir(&path, 0o777)?,
            Some("Memory") => {
                let limit = it.size_limit.as_ref().and_then(|it| u64::try_from(crate::resources::units(it)).ok());
                mount_tmpfs(&path, limit.filter(|it| *it > 0), 0o777)?;
            }
            Some(_) => return Err(VolumeError::Unsupported { volume: volume.name.clone() }),
        }
        if let Some(gid) = gid {
            own(&path, gid)?;
        }
        return Ok(Place { path, readonly: false });
    }
    if let Some(it) = &volume.host_path {
        return host_path(it).map(|path| Place { path, readonly: false });
    }
    if let Some(persistent) = persistent {
        return persistent_volume(volume, persistent);
    }
    Err(VolumeError::Unsupported { volume: volume.name.clone() })
}

fn persistent_volume(volume: &Volume, persistent: &PersistentVolume) -> Result<Place, VolumeError> {
    let readonly = volume.persistent_volume_claim.as_ref().is_some_and(|it| it.read_only == Some(true));
    let spec = persistent.spec.as_ref();
    if let Some(it) = spec.and_then(|it| it.host_path.as_ref()) {
        return host_path(it).map(|path| Place { path, readonly });
    }
    if let Some(it) = spec.and_then(|it| it.local.as_ref()) {
        let path = PathBuf::from(&it.path);
        std::fs::metadata(&path).map_err(io_error("look at the local volume", &path))?;
        return Ok(Place { path, readonly });
    }
    Err(VolumeError::Unsupported { volume: volume.name.clone() })
}

fn fs_group(spec: Option<&PodSpec>) -> Option<u32> {
    let gid = spec?.security_context.as_ref()?.fs_group?;
    u32::try_from(gid).ok()
}

fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(io_error("make the directory", path))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(io_error("set the mode of", path))
}

/// The group owns the volume, may write to it, and what is made in it belongs to the group.
fn own(path: &Path, gid: u32) -> Result<(), VolumeError> {
    let meta = std::fs::metadata(path).map_err(io_error("look at", path))?;
    if meta.gid() != gid {
        chown(path, None, Some(gid)).map_err(io_error("give to the group", path))?;
    }
    let mode = meta.mode() | 0o2070;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(io_error("set the mode of", path))
}

fn mount_tmpfs(path: &Path, bytes_max: Option<u64>, mode: u32) -> Result<(), VolumeError> {
    make_dir(path, mode)?;
    if is_mounted(path).map_err(io_error("look at", path))? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(bytes) = bytes_max {
        options.push_str(&format!(",size={bytes}"));
    }
    let options = std::ffi::CString::new(options).expect("no NUL in numbers");
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|errno| io_error("mount a tmpfs at", path)(errno.into()))
}

fn host_path(it: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&it.path);
    let kind = it.type_.as_deref().unwrap_or_default();
    let found = match std::fs::metadata(&path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io_error("look at", &path)(error)),
    };
    let wrong = |expected| VolumeError::HostPathType { path: it.path.clone(), expected };
    let check = |ok: bool, expected| if ok { Ok(()) } else { Err(wrong(expected)) };
    match (kind, found) {
        ("", None) | ("DirectoryOrCreate", None) => make_dir(&path, 0o755)?,
        ("", Some(_)) => {}
        ("DirectoryOrCreate" | "Directory", Some(found)) => check(found.is_dir(), "directory")?,
        ("FileOrCreate", None) => {
            std::fs::File::create_new(&path).map_err(io_error("make the file", &path))?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).map_err(io_error("set the mode of", &path))?;
        }
        ("FileOrCreate" | "File", Some(found)) => check(found.is_file(), "file")?,
        ("Socket", Some(found)) => check(found.is_socket(), "socket file")?,
        ("CharDevice", Some(found)) => check(found.is_char_device(), "character device")?,
        ("BlockDevice", Some(found)) => check(found.is_block_device(), "block device")?,
        ("Directory", None) => return Err(wrong("directory")),
        ("File", None) => return Err(wrong("file")),
        ("Socket", None) => return Err(wrong("socket file")),
        ("CharDevice", None) => return Err(wrong("character device")),
        ("BlockDevice", None) => return Err(wrong("block device")),
        _ => return Err(wrong("known type")),
    }
    Ok(path)
}

/// Unmounts and removes everything under the pod's directory. Idempotent; never follows a mount into what is not the pod's.
pub(crate) fn tear_down(dir: &PodDir) -> Result<(), VolumeError> {
    unmount_below(&dir.0)?;
    match std::fs::remove_dir_all(&dir.0) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &dir.0)(error)),
        _ => Ok(()),
    }
}

/// Unmounts and removes the volumes of a pod that has ended; what its containers wrote as their last words stays until it is deleted.
pub(crate) fn release(dir: &PodDir) -> Result<(), VolumeError> {
    unmount_below(&dir.0)?;
    for name in ["subpaths", "memory", "volumes"] {
        let path = dir.0.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// As [`tear_down`], for the pods of the whole node, and their logs.
pub(crate) fn tear_down_all(data_dir: &Path) -> Result<(), VolumeError> {
    let pods = data_dir.join("pods");
    unmount_below(&pods)?;
    for dir in [pods, data_dir.join("logs")] {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &dir)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts everything at or below `path`, the latest first.
pub(crate) fn unmount_below(path: &Path) -> Result<(), VolumeError> {
    let info = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(info).map_err(io_error("read", info))?;
    let root = escaped(path);
    let below = format!("{root}/");
    let targets: Vec<&str> =
        (text.lines()).filter_map(|line| line.split(' ').nth(4)).filter(|target| *target == root || target.starts_with(&below)).collect();
    for target in targets.into_iter().rev() {
        let target = unescaped(target);
        rustix::mount::unmount(&target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|errno| io_error("unmount", &target)(errno.into()))?;
    }
    Ok(())
}

fn unescaped(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|it| u8::from_str_radix(it, 8).ok());
        match code {
            Some(code) => out.push(char::from(code)),
            None => out.push('\\'),
        }
        rest = rest.get(at + 4..).unwrap_or_default();
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_host_path(path: &Path, kind: &str, expected: Result<(), &str>) {
        let source = HostPathVolumeSource { path: path.to_str().unwrap().into(), type_: Some(kind.into()) };
        let got = host_path(&source).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(|it| it.replace("PATH", path.to_str().unwrap())), "{kind}");
    }

    #[test]
    fn a_host_path_is_what_its_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let nothing = dir.path().join("nothing");
        check_host_path(dir.path(), "Directory", Ok(()));
        check_host_path(&file, "File", Ok(()));
        check_host_path(&file, "Directory", Err("hostPath type check failed: PATH is not a directory"));
        check_host_path(&nothing, "File", Err("hostPath type check failed: PATH is not a file"));
        check_host_path(&nothing, "Socket", Err("hostPath type check failed: PATH is not a socket file"));
        check_host_path(Path::new("/dev/null"), "CharDevice", Ok(()));
        check_host_path(&nothing, "DirectoryOrCreate", Ok(()));
        assert!(nothing.is_dir());
        check_host_path(&dir.path().join("made"), "FileOrCreate", Ok(()));
        assert!(dir.path().join("made").is_file());
    }

    #[test]
    fn an_empty_dir_is_for_all_and_stays() {
        let data = tempfile::tempdir().unwrap();
        let dir = PodDir::new(data.path(), "u1");
        let volume: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
        let place = set_up(&dir, &Pod::default(), &volume, None, None).unwrap();
        assert_eq!(std::fs::metadata(&place.path).unwrap().mode() & 0o7777, 0o777);
        std::fs::write(place.path.join("kept"), "").unwrap();
        assert_eq!(set_up(&dir, &Pod::default(), &volume, None, None).unwrap(), place);
        assert!(place.path.join("kept").exists());
        tear_down(&dir).unwrap();
        assert!(!dir.path().exists());
        tear_down(&dir).unwrap();
    }

    #[test]
    fn mount_paths_are_read_as_the_kernel_writes_them() {
        for path in ["/a b", "/a\tb", "/a\\b", "/plain"] {
            assert_eq!(unescaped(&escaped(Path::new(path))), Path::new(path));
        }
    }
}
