//! A sandbox: the namespaces that the containers of one pod share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a pod's sandbox shall be. Stored whole in the sandbox's directory, so that it survives the node process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Chosen by the caller (pod UID and attempt): letters, digits, `-`, `_`, `.`; at most 64 bytes, for it becomes a file name.
    pub id: String,
    /// Empty: the host's name (used with `host_network`).
    pub hostname: String,
    /// Text of the `/etc/resolv.conf` that every container of the pod sees; `None` leaves the image's own file.
    pub resolv_conf: Option<String>,
    /// Text of the `/etc/hosts` that every container of the pod sees; `None` leaves the image's own file.
    /// May be replaced later with [`crate::Runtime::set_hosts`], once the pod's address is known.
    pub hosts: Option<String>,
    /// One PID namespace for all containers of the pod.
    pub share_pid: bool,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// Name with dots (`net.ipv4.ip_forward`) and value; only those of the pod's own namespaces are accepted.
    pub sysctls: BTreeMap<String, String>,
    /// Path below the runtime's cgroup root, such as `burstable/pod<uid>`; empty: `<id>`.
    pub cgroup_parent: String,
    /// Limits of the pod as a whole, set on its cgroup.
    pub resources: crate::Resources,
    /// Size limit of the pod's shared `/dev/shm`, in bytes; 0: 64 MiB.
    pub shm_bytes: u64,
    /// Kept for the caller, given back by [`crate::Runtime::list_sandboxes`]; never read as configuration.
    pub labels: BTreeMap<String, String>,
}
