//! What a new process shall be, as the node process writes it down and the new process reads it: plain data, resolved in advance
//! (user ids, capability bits, device numbers, the seccomp program), so that little can go wrong once the keeper has forked.
//! As in `protocol`, fields are only ever added: a keeper's child reads what a newer node has written.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::container::Propagation;

/// Names of the files in `<sandbox>/containers/<id>/`.
pub(crate) const LAUNCH_FILE: &str = "launch.json";
pub(crate) const SECCOMP_FILE: &str = "seccomp.bpf";
pub(crate) const EXIT_FILE: &str = "exit.json";

/// A container's first process and the file system made for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Launch {
    pub(crate) rootfs: PathBuf,
    pub(crate) readonly_rootfs: bool,
    /// In order.
    pub(crate) mounts: Vec<MountStep>,
    /// Made in `/dev`, unless a mount of the caller's stands there.
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) own_dev: bool,
    pub(crate) masked_paths: Vec<String>,
    pub(crate) readonly_paths: Vec<String>,
    pub(crate) process: ProcessSpec,
}

/// A process of a container: the first one, or one of an exec.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessSpec {
    pub(crate) argv: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Bit n: capability n of linux/capability.h.
    pub(crate) capabilities: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) rlimits: Vec<RlimitStep>,
    pub(crate) oom_score_adj: Option<i32>,
    /// The `cgroup.procs` files to join.
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) tty: bool,
    pub(crate) seccomp: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RlimitStep {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MountStep {
    pub(crate) what: MountWhat,
    pub(crate) target: PathBuf,
    /// `MOUNT_ATTR_*` of mount_setattr(2).
    pub(crate) attributes: u64,
    /// The attributes hold for the mounts below as well.
    pub(crate) recursive: bool,
    pub(crate) propagation: Propagation,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum MountWhat {
    Bind {
        source: PathBuf,
    },
    /// A new file system of a type, with its options (`mode` `=755`, or a flag without value).
    New {
        fs: String,
        options: Vec<(String, Option<String>)>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    /// Below `/dev`, without it: `null`, `net/tun`.
    pub(crate) path: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// How a sandbox begins: the one thing that a keeper reads at its start, `<sandbox>/keeper.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxLaunch {
    pub(crate) hostname: String,
    pub(crate) own_net: bool,
    pub(crate) own_ipc: bool,
    pub(crate) own_uts: bool,
    pub(crate) share_pid: bool,
    /// Path below /proc/sys and value.
    pub(crate) sysctls: Vec<(String, String)>,
    /// The keeper's own place, outside the node process's cgroup: a service manager that ends the node's must not end it.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Where the pod's PID 1 goes, if there is one.
    pub(crate) pod_cgroups: Vec<PathBuf>,
}

pub(crate) const SANDBOX_FILE: &str = "keeper.json";
