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
    /// The limits of the pod as a whole, as they were last set.
    pub resources: super::container::Resources,
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
    pub memory_swap_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
}

/// What monitoring asks for beyond [`ContainerStats`], of a container's group or of a pod's. `None` is what this kernel does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The group's path, the same in every hierarchy, with a leading slash.
    pub cgroup: String,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Kept only where there is a quota.
    pub throttling: Option<Throttling>,
    pub cpu_period_us: Option<u64>,
    /// `None`: no limit.
    pub cpu_quota_us: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub memory_cache_bytes: u64,
    pub memory_mapped_bytes: u64,
    /// The most that was ever in use (v2: since Linux 5.19).
    pub memory_peak_bytes: Option<u64>,
    /// How often the limit was met.
    pub memory_limit_hits: u64,
    /// Memory and swap together in v1, swap alone in v2. `None`: no limit.
    pub memory_swap_limit_bytes: Option<u64>,
    /// Processes killed because memory was short.
    pub oom_kills: u64,
    pub processes: u64,
    pub threads_max: Option<u64>,
    pub file_descriptors: u64,
    /// By disk; v2 only, since nothing is grouped by blkio in v1.
    pub disks: Vec<DiskStats>,
    /// Waiting for processors, memory and disks; v2 only, and only if the kernel counts it.
    pub pressure: Option<[Pressure; 3]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// As `/dev/vda`, or its numbers where it has no name.
    pub device: String,
    pub read_bytes: u64,
    pub reads: u64,
    pub written_bytes: u64,
    pub writes: u64,
}

/// Time lost to waiting (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// At least one process waited.
    pub some_us: u64,
    /// All did.
    pub full_us: u64,
}

/// Counters of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    pub name: String,
    pub received: PacketStats,
    pub sent: PacketStats,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketStats {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

impl InterfaceStats {
    /// The interfaces in the network namespace of a process, but the loopback one. None of a process that has ended.
    pub fn of_process(pid: u32) -> Vec<InterfaceStats> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
        text.lines().filter_map(InterfaceStats::parse).filter(|it| it.name != "lo").collect()
    }

    /// `eth0: bytes packets errs drop fifo frame compressed multicast`, received and then sent (proc_pid_net(5)).
    fn parse(line: &str) -> Option<InterfaceStats> {
        const COLUMNS: usize = 8;
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let packets = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)?.as_array()?;
            Some(PacketStats { bytes, packets, errors, dropped })
        };
        Some(InterfaceStats { name: name.trim().to_owned(), received: packets(0)?, sent: packets(COLUMNS)? })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxStats {
    /// Of the pod's cgroup: all containers together.
    pub total: ContainerStats,
    /// None on the host's network.
    pub network: Vec<InterfaceStats>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Output beyond the cap was read and dropped.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_as_the_kernel_writes_them() {
        let line =
            "  eth0:    1176      14    1    2    0     0          0         0      816      10    3    4    0     0       0          0";
        let received = PacketStats { bytes: 1176, packets: 14, errors: 1, dropped: 2 };
        let sent = PacketStats { bytes: 816, packets: 10, errors: 3, dropped: 4 };
        assert_eq!(InterfaceStats::parse(line), Some(InterfaceStats { name: "eth0".to_owned(), received, sent }));
        let head =
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed";
        assert_eq!(InterfaceStats::parse(head), None);
    }
}
