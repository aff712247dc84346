//! What containers, pods and the node use at this moment, from the runtime and from /proc. Read when someone asks, and kept nowhere, but for what
//! containers wrote.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use knarr_runtime::{ContainerState, ContainerStats, InterfaceStats, Runtime, SandboxState, SandboxStats, Usage};
use parking_lot::Mutex;

use super::Api;
use crate::pod::worker::{label, time_of};
use crate::register::meminfo_bytes;

/// How long it is told again what a container wrote: to measure it is to walk through all its files, and monitoring may ask every few seconds.
/// cAdvisor measures once a minute too (container/common, fsHandler).
const WRITTEN_FOR: Duration = Duration::from_secs(60);

/// What containers wrote when it was measured last, by id.
#[derive(Default)]
pub(super) struct Layers(Mutex<HashMap<String, (Instant, Usage)>>);

impl Layers {
    pub(super) async fn written(&self, runtime: &Runtime, id: &str) -> knarr_runtime::Result<Usage> {
        let fresh = |measured: &(Instant, Usage)| measured.0.elapsed() < WRITTEN_FOR;
        if let Some((_, usage)) = self.0.lock().get(id).filter(|it| fresh(it)) {
            return Ok(*usage);
        }
        let usage = runtime.container_usage(id).await?;
        let mut layers = self.0.lock();
        // Those that have ended are not asked for any more.
        layers.retain(|_, measured| fresh(measured));
        layers.insert(id.to_owned(), (Instant::now(), usage));
        Ok(usage)
    }
}

pub(super) struct Container {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) name: String,
    pub(super) id: String,
    /// As the pod names it.
    pub(super) image: String,
    pub(super) started: Option<Timestamp>,
    pub(super) stats: ContainerStats,
}

/// What was read, unless it has ended since it was listed. What is there and cannot be read is said, and noted in `failed`.
pub(super) fn read<T>(result: knarr_runtime::Result<T>, failed: &mut bool) -> Option<T> {
    match result {
        Ok(figures) => Some(figures),
        Err(knarr_runtime::Error::NotFound { .. }) => None,
        Err(error) => {
            tracing::warn!(error = crate::image::chain(&error), "read what a container uses");
            *failed = true;
            None
        }
    }
}

/// The containers that run. One that ends in between is left out.
pub(super) async fn containers(api: &Api, failed: &mut bool) -> Vec<Container> {
    let mut out = Vec::new();
    for it in api.node.runtime.list_containers() {
        if !matches!(it.state, ContainerState::Running { .. }) {
            continue;
        }
        let Some(stats) = read(api.node.runtime.container_stats(&it.id).await, failed) else { continue };
        let of = |name: &str| it.labels.get(name).cloned();
        out.push(Container {
            namespace: of(label::NAMESPACE).unwrap_or_default(),
            pod: of(label::POD).unwrap_or_default(),
            image: of(label::IMAGE).unwrap_or_else(|| it.image.clone()),
            name: it.name,
            id: it.id,
            started: it.started_at_ns.map(time_of),
            stats,
        });
    }
    out
}

pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The sandbox's.
    pub(super) id: String,
    pub(super) started: Timestamp,
    pub(super) stats: SandboxStats,
}

/// The pods whose sandbox is ready.
pub(super) async fn pods(api: &Api, failed: &mut bool) -> Vec<Pod> {
    let mut out = Vec::new();
    for it in api.node.runtime.list_sandboxes() {
        if it.state != SandboxState::Ready {
            continue;
        }
        let Some(stats) = read(api.node.runtime.sandbox_stats(&it.id).await, failed) else { continue };
        let of = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
        out.push(Pod {
            namespace: of(label::NAMESPACE),
            name: of(label::POD),
            id: it.id.clone(),
            started: time_of(it.created_at_ns),
            stats,
        });
    }
    out
}

/// Processor time of the node since it was started.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Processors {
    pub(super) total_ns: u64,
    pub(super) user_ns: u64,
    pub(super) system_ns: u64,
    pub(super) booted_s: u64,
}

pub(super) fn processors() -> Processors {
    read_processors(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn read_processors(text: &str) -> Processors {
    // USER_HZ, which is 100 on every architecture that Knarr runs on.
    const NS_PER_TICK: u64 = 10_000_000;
    let numbers = |start: &str| -> Vec<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(start));
        line.into_iter().flat_map(str::split_whitespace).filter_map(|it| it.parse().ok()).collect()
    };
    let ticks = numbers("cpu ");
    let sum = |columns: &[usize]| columns.iter().filter_map(|at| ticks.get(*at)).sum::<u64>() * NS_PER_TICK;
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guests' time is in user and nice.
    Processors {
        total_ns: sum(&[0, 1, 2, 5, 6, 7]),
        user_ns: sum(&[0, 1]),
        system_ns: sum(&[2, 5, 6]),
        booted_s: numbers("btime ").first().copied().unwrap_or(0),
    }
}

pub(super) struct Memory {
    pub(super) total: u64,
    /// All that could not be had for something else.
    pub(super) used: u64,
    pub(super) available: u64,
    pub(super) swap_used: u64,
    pub(super) swap_free: u64,
}

pub(super) fn memory() -> Memory {
    let (total, available) = (meminfo_bytes("MemTotal"), meminfo_bytes("MemAvailable"));
    let swap_free = meminfo_bytes("SwapFree");
    let swap_used = meminfo_bytes("SwapTotal").saturating_sub(swap_free);
    Memory { total, used: total.saturating_sub(available), available, swap_used, swap_free }
}

/// The node's own interfaces. The ends of pods' links are left out: what they carry is the pods'.
pub(super) fn interfaces() -> Vec<InterfaceStats> {
    let of_pods = |it: &InterfaceStats| ["kv", "veth", "docker"].iter().any(|start| it.name.starts_with(start));
    InterfaceStats::of_process(std::process::id()).into_iter().filter(|it| !of_pods(it)).collect()
}

/// The source of the mount that a path is on, `/dev/vda1` for example; empty if it is not told.
pub(super) fn device_of(path: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(path) else { return String::new() };
    let device = metadata.dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    source_of(&mounts, &numbers).unwrap_or_default().to_owned()
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /mount-point options - type source super-options`
fn source_of<'a>(mounts: &'a str, numbers: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(numbers))?;
    line.split_once(" - ")?.1.split(' ').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_processors_use_nothing() {
        let text = "cpu  100 10 50 9000 800 4 3 2 60 1\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 1 2\nbtime 1700000000\n";
        let read = Processors { total_ns: 1_690_000_000, user_ns: 1_100_000_000, system_ns: 570_000_000, booted_s: 1_700_000_000 };
        assert_eq!(read_processors(text), read);
    }

    #[test]
    fn a_mount_tells_its_device() {
        let mounts = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n23 22 0:20 / /proc rw - proc proc rw\n";
        assert_eq!(source_of(mounts, "254:1"), Some("/dev/vda1"));
        assert_eq!(source_of(mounts, "1:1"), None);
    }
}
