//! A container: what runs, in which file system, with which rights and limits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a container shall be. The caller has merged the image's entry point, command, environment and directory already.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Chosen by the caller, unique on the node: letters, digits, `-`, `_`, `.`; at most 64 bytes.
    pub id: String,
    pub name: String,
    pub attempt: u32,
    /// Digest of the image's config, as [`crate::Images::resolve`] gives it.
    pub image: String,
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// In order; a later name wins.
    pub env: Vec<(String, String)>,
    /// Absolute; created if it is missing; empty: `/`.
    pub cwd: String,
    pub user: User,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub privileged: bool,
    pub capabilities: Capabilities,
    pub seccomp: Seccomp,
    pub no_new_privileges: bool,
    pub readonly_rootfs: bool,
    /// `None`: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// `None`: the default list.
    pub readonly_paths: Option<Vec<String>>,
    pub rlimits: Vec<Rlimit>,
    pub resources: Resources,
    pub tty: bool,
    /// Keep a standard input open for attach; without it the container reads from /dev/null.
    pub stdin: bool,
    /// The standard input ends when the first attached client's ends.
    pub stdin_once: bool,
    /// Where the CRI log goes; its directory is made. `None`: output is dropped after attach.
    pub log_path: Option<PathBuf>,
    /// Signal number that asks the container to end; 0: SIGTERM.
    pub stop_signal: i32,
    /// A refusal by the kernel is tolerated and said once.
    pub oom_score_adj: Option<i32>,
    /// See the processes of this container, which must run, instead of being alone in a PID namespace.
    #[serde(default)]
    pub processes_of: Option<String>,
    /// Kept for the caller; never read as configuration.
    pub labels: BTreeMap<String, String>,
}

/// Who the process is. Names are looked up in the container's own `/etc/passwd` and `/etc/group`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// As in an image's config: "", "1000", "nginx", "1000:1000", "nginx:adm". Used where `uid` is not given.
    pub image_user: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    /// Do not add the groups that the container's `/etc/group` gives the user (supplementalGroupsPolicy: Strict).
    pub strict_groups: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub kind: MountKind,
    /// Absolute path inside the container; made if missing (a file for a file, a directory otherwise).
    pub target: PathBuf,
    pub readonly: bool,
    /// With `readonly`: mounts below the source are read-only as well.
    pub recursive_readonly: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host. The caller has resolved it (a subPath beneath its volume by descriptor).
    Bind {
        source: PathBuf,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
    /// The root file system of an image, read-only (image volumes).
    Image {
        digest: String,
        sub_path: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// Changes to the default list. Names as `NET_ADMIN` or `CAP_NET_ADMIN`; `ALL` is every capability that the node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
    /// A profile in the OCI or Docker JSON form, on the host. An empty path is refused (CVE-2023-2431).
    Localhost(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// As `RLIMIT_NOFILE`.
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

/// Limits; what is `None` is not limited here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period; negative: no limit.
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Memory and swap together; `None`: the same as `memory_bytes`, so no swap.
    pub memory_swap_bytes: Option<u64>,
    pub pids: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Files of cgroup v2 to write as they are (`memory.high`); ignored under v1.
    pub unified: BTreeMap<String, String>,
}
