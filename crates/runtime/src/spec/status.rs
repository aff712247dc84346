//! What is known of sandboxes and containers. Times are Unix nanoseconds, so that they can be kept in any form.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A sandbox that was just started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    /// The keeper's process.
    pub pid: u32,
    /// A path to open the network namespace by; `None` on the host's network.
    pub netns: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    Ready,
    /// Stopped, or its keeper died: no container runs, and none can be started.
    NotReady,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SandboxStatus {
    pub id: String,
    pub state: SandboxState,
    pub created_at_ns: i128,
    pub pid: u32,
    pub netns: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running { pid: u32 },
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal where a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub finished_at_ns: i128,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub state: ContainerState,
    pub created_at_ns: i128,
    pub started_at_ns: Option<i128>,
    /// Why it ended or could not start, for people: "OOMKilled", "Error", "Completed", "StartError", "ContainerStatusUnknown".
    pub reason: String,
    pub message: String,
    pub log_path: Option<PathBuf>,
    /// The limits that hold now.
    pub resources: super::container::Resources,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub timestamp_ns: i128,
    pub cpu_usage_ns: u64,
    pub memory_usage_bytes: u64,
    /// Usage without the inactive page cache: what eviction and metrics look at.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    /// Bytes and inodes of the writable layer.
    pub writable_layer_bytes: u64,
    pub writable_layer_inodes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxStats {
    /// Of the pod's cgroup: all containers together.
    pub total: ContainerStats,
    /// Per interface: name, received bytes, received errors, sent bytes, sent errors.
    pub network: Vec<(String, u64, u64, u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Output beyond the cap was read and dropped.
    pub truncated: bool,
}
