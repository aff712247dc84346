//! Eviction: when the node runs short of memory or disk, the pod that is furthest beyond what it asked for is ended, one at a look. A pod
//! that uses more disk than its own limits allow is ended whatever the node has.
//!
//! Order and words are upstream's (pkg/kubelet/eviction): those beyond their request first, then the lower priority, then the greater
//! excess. Never: a pod of critical priority; a second pod while the first has not ended.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use knarr_client::EventType;

use crate::kubelet::Pods;
use crate::node::Node;
use crate::pod::status;
use crate::pod::worker::Worker;
use crate::register::{Pressure, STATUS_LOOK};
use crate::resources;

/// Pods of this priority or more are never evicted (upstream: system-cluster-critical).
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scarce {
    Memory,
    Disk,
}

impl Scarce {
    fn name(self) -> &'static str {
        match self {
            Scarce::Memory => "memory",
            Scarce::Disk => "ephemeral-storage",
        }
    }
}

/// What a pod uses of what is scarce, and what it asked for, in bytes.
struct Candidate {
    worker: Arc<Worker>,
    priority: i32,
    used: u64,
    asked: u64,
}

/// Looks at the node as often as its status does; ends only when dropped.
pub(crate) async fn watch(node: &Node, pods: &Pods) {
    let mut look = tokio::time::interval(STATUS_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let workers: Vec<Arc<Worker>> = pods.all().into_iter().filter(|it| is_live(it)).collect();
        for worker in &workers {
            if let Some(message) = beyond_its_limits(node, worker).await {
                evict(node, worker, message);
            }
        }
        let pressure = Pressure::look(&node.config.data_dir);
        let scarce = match pressure {
            Pressure { memory: true, .. } => Scarce::Memory,
            Pressure { disk: true, .. } => Scarce::Disk,
            _ => continue,
        };
        if workers.iter().any(|it| it.memory.lock().rejected.is_some()) {
            continue;
        }
        let mut candidates = Vec::new();
        for worker in workers {
            candidates.push(candidate(node, worker, scarce).await);
        }
        let order: Vec<Rank> = candidates.iter().map(|it| rank(it.priority, it.used, it.asked)).collect();
        match first(&order) {
            Some(at) => evict(node, &candidates[at].worker, Pressure::shortage(&node.config.data_dir, scarce.name())),
            None => tracing::warn!(scarce = scarce.name(), "the node runs short, and there is no pod to evict"),
        }
    }
}

fn is_live(worker: &Worker) -> bool {
    let desired = worker.desired();
    !desired.gone && desired.pod.metadata.deletion_timestamp.is_none() && !status::is_final(&worker.memory.lock().last)
}

/// Beyond its request or not, priority, bytes beyond it: the first to go is the smallest. `None`: it stays.
type Rank = Option<(std::cmp::Reverse<bool>, i32, std::cmp::Reverse<i128>)>;

fn rank(priority: i32, used: u64, asked: u64) -> Rank {
    let beyond = i128::from(used) - i128::from(asked);
    (priority < CRITICAL_PRIORITY).then_some((std::cmp::Reverse(beyond > 0), priority, std::cmp::Reverse(beyond)))
}

fn first(order: &[Rank]) -> Option<usize> {
    let ranked = order.iter().enumerate().filter_map(|(at, rank)| Some((rank.as_ref()?, at)));
    ranked.min().map(|(_, at)| at)
}

async fn candidate(node: &Node, worker: Arc<Worker>, scarce: Scarce) -> Candidate {
    let empty = PodSpec::default();
    let pod = worker.desired().pod;
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let used = match scarce {
        Scarce::Memory => memory_used(node, &worker).await,
        Scarce::Disk => disk_used(node, &worker, spec).await,
    };
    Candidate { priority: spec.priority.unwrap_or(0), used, asked: resources::asked_by_pod(spec, scarce.name()), worker }
}

async fn memory_used(node: &Node, worker: &Worker) -> u64 {
    let sandbox = worker.memory.lock().networked.clone();
    match sandbox {
        // A sandbox that has just gone uses nothing.
        Some(id) => node.runtime.sandbox_stats(&id).await.map_or(0, |it| it.total.memory_working_set_bytes),
        None => 0,
    }
}

/// Writable layers, logs, and emptyDirs on disk.
async fn disk_used(node: &Node, worker: &Worker, spec: &PodSpec) -> u64 {
    let mut bytes = size(worker.log_dir.clone()).await;
    for volume in spec.volumes.iter().flatten().filter(|it| it.empty_dir.is_some()) {
        bytes += size(worker.dir.on_disk(&volume.name)).await;
    }
    for container in &spec.containers {
        bytes += written(node, worker, &container.name).await;
    }
    bytes
}

/// Bytes of a container's writable layer.
async fn written(node: &Node, worker: &Worker, container: &str) -> u64 {
    let own = |it: &&knarr_runtime::ContainerStatus| it.name == container && it.sandbox.starts_with(&worker.uid);
    let id = node.runtime.list_containers().iter().find(own).map(|it| it.id.clone());
    match id {
        Some(id) => node.runtime.container_usage(&id).await.map_or(0, |it| it.bytes),
        None => 0,
    }
}

/// Bytes of what is below a directory, on its own file system: a tmpfs of the pod's takes no disk.
async fn size(dir: std::path::PathBuf) -> u64 {
    let measured = tokio::task::spawn_blocking(move || {
        let device = std::fs::symlink_metadata(dir.parent().unwrap_or(&dir)).map_or(0, |it| it.dev());
        size_on(&dir, device)
    });
    measured.await.unwrap_or(0)
}

fn size_on(dir: &Path, device: u64) -> u64 {
    /// Bytes of a block in `st_blocks`, whatever the file system's own are (stat(2)).
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // What goes while it is measured takes no more room.
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            bytes += meta.blocks() * BLOCK_BYTES;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    bytes
}

/// Why the pod must go whatever the node has: more disk than its emptyDirs or containers may use.
async fn beyond_its_limits(node: &Node, worker: &Worker) -> Option<String> {
    let pod = worker.desired().pod;
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) =
            volume.empty_dir.as_ref().filter(|it| it.medium.as_deref() != Some("Memory")).and_then(|it| it.size_limit.as_ref())
        else {
            continue;
        };
        if i128::from(size(worker.dir.on_disk(&volume.name)).await) > resources::units(limit) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    for container in &spec.containers {
        let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
        let Some(limit) = limits.and_then(|it| it.get("ephemeral-storage")) else { continue };
        let used = written(node, worker, &container.name).await + size(worker.log_dir.join(&container.name)).await;
        if i128::from(used) > resources::units(limit) {
            return Some(format!("Container {} exceeded its local ephemeral storage limit \"{}\". ", container.name, limit.0));
        }
    }
    None
}

fn evict(node: &Node, worker: &Worker, message: String) {
    let pod: Arc<Pod> = worker.desired().pod;
    {
        let mut memory = worker.memory.lock();
        if memory.rejected.is_some() {
            return;
        }
        memory.rejected = Some(("Evicted".to_owned(), message.clone()));
    }
    node.say(&pod, None, EventType::Warning, "Evicted", &message);
    worker.wake.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pods as `name priority used asked`; the one that goes first.
    fn check(pods: &[(&str, i32, u64, u64)], expected: Option<&str>) {
        let order: Vec<Rank> = pods.iter().map(|(_, priority, used, asked)| rank(*priority, *used, *asked)).collect();
        assert_eq!(first(&order).map(|at| pods[at].0), expected, "{pods:?}");
    }

    #[test]
    fn who_is_beyond_its_request_goes_first_then_the_less_important_then_the_greater_excess() {
        check(&[("frugal", 0, 50, 100), ("greedy", 1000, 200, 100)], Some("greedy"));
        check(&[("important", 10, 500, 100), ("plain", 0, 200, 100)], Some("plain"));
        check(&[("little", 0, 150, 100), ("much", 0, 900, 500)], Some("much"));
        check(&[("first", 0, 10, 100), ("second", 0, 90, 100)], Some("second"));
    }

    #[test]
    fn a_critical_pod_is_never_evicted() {
        check(&[("critical", CRITICAL_PRIORITY, 900, 0)], None);
        check(&[("critical", CRITICAL_PRIORITY, 900, 0), ("plain", 0, 1, 100)], Some("plain"));
        check(&[], None);
    }

    #[test]
    fn what_lies_on_another_file_system_takes_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1; 100_000]).unwrap();
        let device = std::fs::metadata(dir.path()).unwrap().dev();
        assert!((100_000..300_000).contains(&size_on(dir.path(), device)));
        assert_eq!(size_on(dir.path(), device + 1), 0);
    }
}
