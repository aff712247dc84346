//! From what a container shall be to what its first process does: pure, but for a look at devices, files and users.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;

use crate::cgroup::{self, Cgroups, DeviceRule, Devices, Group};
use crate::error::{Error, Result};
use crate::image::ResolvedUser;
use crate::keeper::launch::{DeviceNode, Launch, MountStep, MountWhat, ProcessSpec, RlimitStep};
use crate::spec::container::{ContainerConfig, Mount, MountKind, Propagation, Rlimit};
use crate::spec::sandbox::SandboxConfig;

/// Where a container finds what is the sandbox's, on the host.
pub(crate) struct Surroundings<'a> {
    pub(crate) sandbox: &'a SandboxConfig,
    pub(crate) sandbox_directory: &'a Path,
    /// An empty directory for each v1 hierarchy, to mount the container's groups on.
    pub(crate) cgroup_view: &'a Path,
    pub(crate) rootfs: &'a Path,
    pub(crate) cgroups: &'a Cgroups,
    pub(crate) group: &'a Group<'a>,
    pub(crate) user: ResolvedUser,
    pub(crate) capabilities: u64,
    pub(crate) seccomp: bool,
    /// Mounted root file systems of image volumes, in the order of the config's mounts.
    pub(crate) image_volumes: Vec<PathBuf>,
}

const MASKED_PATHS: &str = "/proc/asound /proc/acpi /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list \
    /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap";
const READONLY_PATHS: &str = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger";

/// PATH of a container whose image has none (containerd, defaultUnixEnv).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn launch(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Launch> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let protected = !config.privileged;
    Ok(Launch {
        rootfs: around.rootfs.to_owned(),
        readonly_rootfs: config.readonly_rootfs,
        mounts: mounts(config, around)?,
        devices: devices(config)?,
        own_dev: !config.mounts.iter().any(|mount| mount.target == Path::new("/dev")),
        masked_paths: match &config.masked_paths {
            _ if config.privileged => Vec::new(),
            Some(paths) => paths.clone(),
            None => words(MASKED_PATHS),
        },
        readonly_paths: match &config.readonly_paths {
            Some(paths) if protected => paths.clone(),
            None if protected => words(READONLY_PATHS),
            _ => Vec::new(),
        },
        process: process(config, around)?,
    })
}

fn process(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<ProcessSpec> {
    if config.argv.first().is_none_or(String::is_empty) {
        return Err(Error::Invalid { field: "argv".to_owned(), reason: "no command is given, and the image has none".to_owned() });
    }
    if !config.cwd.is_empty() && !config.cwd.starts_with('/') {
        return Err(Error::Invalid { field: "cwd".to_owned(), reason: format!("{:?} is not an absolute path", config.cwd) });
    }
    let user = &around.user;
    let mut groups = vec![user.gid];
    groups.extend(&config.user.supplemental_groups);
    if !config.user.strict_groups {
        groups.extend(&user.groups);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(ProcessSpec {
        argv: config.argv.clone(),
        env: environment(config, around),
        cwd: config.cwd.clone(),
        uid: user.uid,
        gid: user.gid,
        groups,
        capabilities: around.capabilities,
        no_new_privileges: config.no_new_privileges,
        rlimits: config.rlimits.iter().map(rlimit).collect::<Result<_>>()?,
        oom_score_adj: config.oom_score_adj,
        cgroups: around.group.procs(),
        tty: config.tty,
        seccomp: around.seccomp,
    })
}

fn environment(config: &ContainerConfig, around: &Surroundings<'_>) -> Vec<String> {
    let mut list: Vec<(&str, &str)> = vec![("PATH", DEFAULT_PATH), ("HOME", &around.user.home)];
    if !around.sandbox.hostname.is_empty() {
        list.push(("HOSTNAME", &around.sandbox.hostname));
    }
    if config.tty {
        list.push(("TERM", "xterm"));
    }
    for (name, value) in &config.env {
        match list.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => list.push((name, value)),
        }
    }
    list.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn rlimit(limit: &Rlimit) -> Result<RlimitStep> {
    // Numbers of asm-generic/resource.h.
    const NAMES: &str = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME";
    let name = limit.name.trim_start_matches("RLIMIT_");
    let resource = NAMES.split_whitespace().position(|known| known == name);
    let resource =
        resource.ok_or_else(|| Error::Invalid { field: "rlimits".to_owned(), reason: format!("unknown limit {:?}", limit.name) })?;
    Ok(RlimitStep { resource: resource as u32, soft: limit.soft, hard: limit.hard })
}

fn flags(list: &[MountAttrFlags]) -> u64 {
    list.iter().fold(MountAttrFlags::empty(), |all, &one| all | one).bits().into()
}

const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

fn new(fs: &str, target: &str, attributes: &[MountAttrFlags], options: &str) -> MountStep {
    let options = options.split_terminator(',').map(|option| match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (option.to_owned(), None),
    });
    MountStep {
        what: MountWhat::New { fs: fs.to_owned(), options: options.collect() },
        target: target.into(),
        attributes: flags(attributes),
        recursive: false,
        propagation: Propagation::Private,
    }
}

fn bind(source: PathBuf, target: impl Into<PathBuf>, attributes: &[MountAttrFlags]) -> MountStep {
    MountStep {
        what: MountWhat::Bind { source },
        target: target.into(),
        attributes: flags(attributes),
        recursive: false,
        propagation: Propagation::Private,
    }
}

/// What every container has first, then the caller's mounts, parents before children. A mount of the caller's replaces ours.
fn mounts(config: &ContainerConfig, around: &Surroundings<'_>) -> Result<Vec<MountStep>> {
    let mut list = vec![
        new("proc", "/proc", &[NOSUID, NODEV, NOEXEC], ""),
        new("tmpfs", "/dev", &[NOSUID], "mode=755,size=65536k"),
        // Group 5 is tty, by old custom of every distribution.
        new("devpts", "/dev/pts", &[NOSUID, NOEXEC], "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        new("mqueue", "/dev/mqueue", &[NOSUID, NODEV, NOEXEC], ""),
        new("sysfs", "/sys", if config.privileged { &[NOSUID, NODEV, NOEXEC] } else { &[NOSUID, NODEV, NOEXEC, RDONLY] }, ""),
    ];
    list.extend(cgroup_mounts(config, around));
    let shm = if around.sandbox.host_ipc { PathBuf::from("/dev/shm") } else { around.sandbox_directory.join("shm") };
    list.push(bind(shm, "/dev/shm", &[NOSUID, NODEV, NOEXEC]));
    for (file, wanted) in [
        ("hosts", around.sandbox.hosts.is_some()),
        ("hostname", !around.sandbox.hostname.is_empty()),
        ("resolv.conf", around.sandbox.resolv_conf.is_some()),
    ] {
        if wanted {
            let attributes: &[MountAttrFlags] = if config.readonly_rootfs { &[RDONLY] } else { &[] };
            list.push(bind(around.sandbox_directory.join(file), Path::new("/etc").join(file), attributes));
        }
    }

    let mut volumes = around.image_volumes.iter();
    let mut own: Vec<MountStep> = config.mounts.iter().map(|mount| user_mount(mount, &mut volumes)).collect::<Result<_>>()?;
    list.retain(|step| !own.iter().any(|mount| mount.target == step.target));
    // Stable: of two with the same depth, the first stays first.
    own.sort_by_key(|mount| mount.target.components().count());
    list.extend(own);
    Ok(list)
}

fn cgroup_mounts(config: &ContainerConfig, around: &Surroundings<'_>) -> Vec<MountStep> {
    let attributes: &[MountAttrFlags] = if config.privileged { &[NOSUID, NODEV, NOEXEC] } else { &[NOSUID, NODEV, NOEXEC, RDONLY] };
    if around.cgroups.is_v2() {
        return vec![new("cgroup2", "/sys/fs/cgroup", attributes, "")];
    }
    if !around.cgroups.exist() {
        return Vec::new();
    }
    let mut list = vec![bind(around.cgroup_view.to_owned(), "/sys/fs/cgroup", &[NOSUID, NODEV, NOEXEC, RDONLY])];
    for (name, directory) in around.group.v1_views() {
        list.push(bind(directory, Path::new("/sys/fs/cgroup").join(name), attributes));
    }
    list
}

fn user_mount<'a>(mount: &Mount, image_volumes: &mut impl Iterator<Item = &'a PathBuf>) -> Result<MountStep> {
    let wrong = |reason: String| Error::Invalid { field: format!("mount {}", mount.target.display()), reason };
    if !mount.target.is_absolute() || mount.target == Path::new("/") {
        return Err(wrong("its target is not an absolute path below /".to_owned()));
    }
    let mut step = match &mount.kind {
        MountKind::Bind { source } => bind(source.clone(), &mount.target, &[]),
        MountKind::Tmpfs { size_bytes, mode } => {
            let size = size_bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            new("tmpfs", &mount.target.to_string_lossy(), &[NOSUID, NODEV], &format!("mode={mode:o}{size}"))
        }
        MountKind::Image { sub_path, .. } => {
            let root = image_volumes.next().ok_or_else(|| wrong("its image is not mounted".to_owned()))?;
            let source = if sub_path.as_os_str().is_empty() {
                root.clone()
            } else {
                // Within the image, whatever links it has.
                let resolved = pathrs::Root::open(root).and_then(|root| root.resolve(sub_path));
                let handle = resolved.map_err(|error| wrong(format!("sub-path {}: {error}", sub_path.display())))?;
                handle_path(&handle).map_err(|error| wrong(error.to_string()))?
            };
            bind(source, &mount.target, &[NOSUID, NODEV])
        }
    };
    if mount.readonly || matches!(mount.kind, MountKind::Image { .. }) {
        step.attributes |= flags(&[RDONLY]);
        step.recursive = mount.recursive_readonly;
    }
    step.propagation = mount.propagation;
    Ok(step)
}

/// Where a descriptor is; in a read-only image nothing moves meanwhile.
fn handle_path(handle: &pathrs::Handle) -> std::io::Result<PathBuf> {
    use std::os::fd::{AsFd, AsRawFd};
    std::fs::read_link(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))
}

/// null, zero, full, random, urandom, tty: (name, major, minor).
const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn devices(config: &ContainerConfig) -> Result<Vec<DeviceNode>> {
    let mut list: Vec<DeviceNode> = DEFAULT_DEVICES
        .iter()
        .map(|&(name, major, minor)| DeviceNode { path: name.into(), block: false, major, minor, mode: 0o666, uid: 0, gid: 0 })
        .collect();
    for device in &config.devices {
        let below = device.container_path.strip_prefix("/dev").map_err(|_| Error::Invalid {
            field: "devices".to_owned(),
            reason: format!("{} is not below /dev", device.container_path.display()),
        })?;
        list.push(host_device(&device.host_path, below)?);
    }
    if config.privileged {
        host_devices(Path::new("/dev"), Path::new(""), &mut list);
    }
    Ok(list)
}

fn host_device(path: &Path, below: &Path) -> Result<DeviceNode> {
    let meta = std::fs::metadata(path).map_err(|source| Error::Path { step: "look at device", path: path.to_owned(), source })?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(Error::Invalid { field: "devices".to_owned(), reason: format!("{} is not a device", path.display()) });
    }
    let number = meta.rdev();
    Ok(DeviceNode {
        path: below.to_owned(),
        block: kind.is_block_device(),
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// A privileged container sees the host's devices, but terminals, shared memory and the like are its own.
fn host_devices(directory: &Path, below: &Path, list: &mut Vec<DeviceNode>) {
    const OWN: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        if OWN.iter().any(|own| path == Path::new(own)) || list.iter().any(|known| known.path == path) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => host_devices(&entry.path(), &path, list),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => list.extend(host_device(&entry.path(), &path)),
            _ => {}
        }
    }
}

/// What the devices cgroup shall allow.
pub(crate) fn device_rules(config: &ContainerConfig) -> Result<Vec<DeviceRule>> {
    if config.privileged {
        return Ok(vec![DeviceRule { kind: Devices::All, major: None, minor: None, access: "rwm".to_owned() }]);
    }
    let mut rules = cgroup::default_rules();
    for device in &config.devices {
        let node = host_device(&device.host_path, Path::new(""))?;
        let kind = if node.block { Devices::Block } else { Devices::Char };
        rules.push(DeviceRule { kind, major: Some(node.major), minor: Some(node.minor), access: device.access.clone() });
    }
    Ok(rules)
}

/// The user as one text for the look-up in the container's files.
pub(crate) fn user_text(user: &crate::spec::container::User) -> String {
    let image_group = user.image_user.split_once(':').map(|(_, group)| group);
    let name = match user.uid {
        Some(uid) => uid.to_string(),
        None => user.image_user.split(':').next().unwrap_or_default().to_owned(),
    };
    match (user.gid, image_group) {
        (Some(gid), _) if name.is_empty() => format!("0:{gid}"),
        (Some(gid), _) => format!("{name}:{gid}"),
        (None, Some(group)) if user.uid.is_none() => format!("{name}:{group}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::container::User;

    #[test]
    fn the_pod_overrides_the_image_user() {
        let check = |image_user: &str, uid: Option<u32>, gid: Option<u32>, expected: &str| {
            let user = User { image_user: image_user.to_owned(), uid, gid, ..User::default() };
            assert_eq!(user_text(&user), expected, "{user:?}");
        };
        check("", None, None, "");
        check("nginx:adm", None, None, "nginx:adm");
        check("nginx:adm", Some(7), None, "7");
        check("nginx", Some(7), Some(8), "7:8");
        check("nginx", None, Some(8), "nginx:8");
        check("", None, Some(8), "0:8");
    }

    fn targets(config: &ContainerConfig) -> Vec<String> {
        let cgroups = Cgroups::find("/none-of-these", &mut Vec::new());
        let group = cgroups.root();
        let sandbox = SandboxConfig { hostname: "h".to_owned(), ..SandboxConfig::default() };
        let around = Surroundings {
            sandbox: &sandbox,
            sandbox_directory: Path::new("/s"),
            cgroup_view: Path::new("/v"),
            rootfs: Path::new("/r"),
            cgroups: &cgroups,
            group: &group,
            user: ResolvedUser { home: "/root".to_owned(), ..ResolvedUser::default() },
            capabilities: 0,
            seccomp: true,
            image_volumes: Vec::new(),
        };
        let launch = launch(config, &around).expect("plans");
        let own = launch.mounts.iter().map(|step| step.target.display().to_string());
        own.filter(|target| !target.starts_with("/sys")).collect()
    }

    #[test]
    fn mounts_of_the_caller_come_after_and_replace_ours() {
        let mount = |target: &str| Mount {
            kind: MountKind::Bind { source: "/x".into() },
            target: target.into(),
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
        };
        let config = ContainerConfig {
            argv: vec!["a".to_owned()],
            mounts: vec![mount("/data/deep/er"), mount("/data"), mount("/etc/hostname"), mount("/dev/shm")],
            ..ContainerConfig::default()
        };
        assert_eq!(targets(&config), ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/data", "/etc/hostname", "/dev/shm", "/data/deep/er"]);
    }

    #[test]
    fn later_names_win_in_the_environment() {
        let config = ContainerConfig {
            argv: vec!["a".to_owned()],
            env: vec![("PATH".to_owned(), "/p".to_owned()), ("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())],
            ..ContainerConfig::default()
        };
        let cgroups = Cgroups::find("/none-of-these", &mut Vec::new());
        let group = cgroups.root();
        let sandbox = SandboxConfig::default();
        let around = Surroundings {
            sandbox: &sandbox,
            sandbox_directory: Path::new("/s"),
            cgroup_view: Path::new("/v"),
            rootfs: Path::new("/r"),
            cgroups: &cgroups,
            group: &group,
            user: ResolvedUser { home: "/".to_owned(), ..ResolvedUser::default() },
            capabilities: 0,
            seccomp: false,
            image_volumes: Vec::new(),
        };
        assert_eq!(environment(&config, &around), ["PATH=/p", "HOME=/", "A=2"]);
    }

    #[test]
    fn limits_have_names() {
        let step = |name: &str| rlimit(&Rlimit { name: name.to_owned(), soft: 1, hard: 2 }).map(|step| step.resource).ok();
        assert_eq!((step("RLIMIT_NOFILE"), step("NPROC"), step("NICENESS")), (Some(7), Some(6), None));
    }
}
