//! The Node object: made at the start, its status kept, its lease renewed.
//!
//! The status is written when something changed, and at the latest every five minutes; that the node lives is told by the lease.
//! Never: takes labels or taints away that others have set.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node as NodeObject, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use knarr_client::{Cluster, EventType};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::node::Node;
use crate::pod::status::time;
use crate::{Config, Registered, StartError};

/// The lease is renewed this often; a quarter of its life (upstream: nodeLeaseDurationSeconds 40, renewed at 0.25 of it).
pub(crate) const LEASE_RENEW: Duration = Duration::from_secs(10);
pub(crate) const LEASE_LIFE_S: i32 = 40;
/// The status is looked at this often for pressure of memory, disk and processes (upstream: nodeStatusUpdateFrequency).
pub(crate) const STATUS_LOOK: Duration = Duration::from_secs(10);
/// The status is written at least this often (upstream: nodeStatusReportFrequency).
pub(crate) const STATUS_WRITE: Duration = Duration::from_secs(300);
/// Images that the status names (upstream: nodeStatusMaxImages).
const IMAGES_MAX: usize = 50;
/// Below this much free memory the node says MemoryPressure (upstream: evictionHard memory.available).
pub(crate) const MEMORY_FREE_MIN_BYTES: u64 = 100 << 20;
/// Below this part of the file system free the node says DiskPressure (upstream: nodefs.available 10 %, inodes 5 %).
pub(crate) const DISK_FREE_MIN_PERCENT: u64 = 10;
pub(crate) const INODES_FREE_MIN_PERCENT: u64 = 5;
/// Where an operation on the Node object fails, it is tried again after this time, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(7));

const LEASES: &str = "kube-node-lease";

/// What the machine is. Read once.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) capacity: BTreeMap<String, Quantity>,
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: usize,
    pub(crate) info: NodeSystemInfo,
}

pub(crate) fn version() -> String {
    format!("v1.37.0+knarr{}", env!("CARGO_PKG_VERSION"))
}

fn first_line(path: &str) -> String {
    // A machine without the file has no such identity.
    std::fs::read_to_string(path).map(|it| it.lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// A line of /proc/meminfo, in bytes; 0 where the kernel does not have it.
pub(crate) fn meminfo_bytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|it| it.split_whitespace().next()).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) * 1024
}

impl Machine {
    pub(crate) fn read(config: &Config) -> Machine {
        let uname = rustix::system::uname();
        let text = |it: &std::ffi::CStr| it.to_string_lossy().into_owned();
        let architecture = match text(uname.machine()).as_str() {
            "x86_64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let os_image = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
        let memory_bytes = meminfo_bytes("MemTotal");
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let disk = rustix::fs::statvfs(&config.data_dir).map(|it| it.f_blocks * it.f_frsize).unwrap_or(0);
        let capacity = BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory_bytes / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk / 1024))),
            ("pods".to_owned(), Quantity(config.pods_max.to_string())),
            ("hugepages-1Gi".to_owned(), Quantity("0".into())),
            ("hugepages-2Mi".to_owned(), Quantity("0".into())),
        ]);
        Machine {
            capacity,
            memory_bytes,
            cpus,
            info: NodeSystemInfo {
                architecture,
                boot_id: first_line("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("knarr://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: text(uname.release()),
                kube_proxy_version: String::new(),
                kubelet_version: version(),
                machine_id: first_line("/etc/machine-id"),
                operating_system: "linux".into(),
                os_image: os_image.to_owned(),
                system_uuid: first_line("/sys/class/dmi/id/product_uuid"),
                ..NodeSystemInfo::default()
            },
        }
    }
}

fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.info.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.info.architecture.clone()),
    ]);
    labels.extend(config.labels.clone());
    labels
}

/// Free and in all, as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

impl Pressure {
    pub(crate) fn look(data_dir: &Path) -> Pressure {
        let disk = rustix::fs::statvfs(data_dir).is_ok_and(|it| {
            let low = |free: u64, all: u64, percent: u64| all > 0 && free.saturating_mul(100) < all.saturating_mul(percent);
            low(it.f_bavail, it.f_blocks, DISK_FREE_MIN_PERCENT) || low(it.f_favail, it.f_files, INODES_FREE_MIN_PERCENT)
        });
        let number = |path: &str| first_line(path).parse::<u64>().ok();
        let load = first_line("/proc/loadavg");
        let tasks = load.split_whitespace().nth(3).and_then(|it| it.split_once('/')).and_then(|it| it.1.parse::<u64>().ok());
        // The last twentieth of the process ids is for the system.
        let pids = match (tasks, number("/proc/sys/kernel/pid_max")) {
            (Some(tasks), Some(max)) => tasks.saturating_mul(20) > max.saturating_mul(19),
            _ => false,
        };
        Pressure { memory: meminfo_bytes("MemAvailable") < MEMORY_FREE_MIN_BYTES, disk, pids }
    }

    /// What a pod is told that goes for want of memory or disk.
    pub(crate) fn shortage(data_dir: &Path, resource: &str) -> String {
        let (least, available) = if resource == "memory" {
            (MEMORY_FREE_MIN_BYTES, meminfo_bytes("MemAvailable"))
        } else {
            rustix::fs::statvfs(data_dir)
                .map_or((0, 0), |it| (it.f_blocks * it.f_frsize / 100 * DISK_FREE_MIN_PERCENT, it.f_bavail * it.f_frsize))
        };
        let kibibytes = |bytes: u64| format!("{}Ki", bytes / 1024);
        let (least, available) = (kibibytes(least), kibibytes(available));
        format!("The node was low on resource: {resource}. Threshold quantity: {least}, available: {available}. ")
    }
}

fn conditions(old: &[NodeCondition], pressure: Pressure, trouble: Option<&str>, now: Timestamp) -> Vec<NodeCondition> {
    let pressed = |kind: &str, holds: bool, yes: [&str; 2], no: [&str; 2]| {
        let [reason, message] = if holds { yes } else { no };
        (kind.to_owned(), holds, reason.to_owned(), message.to_owned())
    };
    let ready = match trouble {
        None => pressed("Ready", true, ["KubeletReady", "kubelet is posting ready status"], ["", ""]),
        Some(text) => ("Ready".to_owned(), false, "KubeletNotReady".to_owned(), text.to_owned()),
    };
    let all = [
        pressed(
            "MemoryPressure",
            pressure.memory,
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressed(
            "DiskPressure",
            pressure.disk,
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressed(
            "PIDPressure",
            pressure.pids,
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ready,
    ];
    all.into_iter()
        .map(|(type_, holds, reason, message)| {
            let status = if holds { "True" } else { "False" }.to_owned();
            let before = old.iter().find(|it| it.type_ == type_ && it.status == status);
            NodeCondition {
                last_heartbeat_time: Some(time(now)),
                last_transition_time: before.and_then(|it| it.last_transition_time.clone()).or(Some(time(now))),
                message: Some(message),
                reason: Some(reason),
                status,
                type_,
            }
        })
        .collect()
}

fn addresses(config: &Config) -> Vec<NodeAddress> {
    let ip = |it: &IpAddr| NodeAddress { address: it.to_string(), type_: "InternalIP".into() };
    let host = NodeAddress { address: config.node_name.clone(), type_: "Hostname".into() };
    config.node_ips.iter().map(ip).chain([host]).collect()
}

/// Makes the Node object or brings it up to date; see [`crate::register`].
pub(crate) async fn register(cluster: &Cluster, config: &Config) -> Result<Registered, StartError> {
    let machine = Machine::read(config);
    let api: Api<NodeObject> = cluster.all();
    let failed = |source| StartError::Register { node: config.node_name.clone(), source: Box::new(source) };
    let node = retried(|| ensure(&api, config, &machine)).await.map_err(failed)?;
    if let Some(pod_cidr) = node.spec.and_then(|it| it.pod_cidr) {
        return Ok(Registered { pod_cidr });
    }
    // The node lifecycle controller will give a range.
    let mut nodes =
        std::pin::pin!(kube::runtime::WatchStreamExt::default_backoff(kube::runtime::watcher::watch_object(api, &config.node_name)));
    while let Some(node) = futures::StreamExt::next(&mut nodes).await {
        match node {
            Ok(node) => {
                if let Some(pod_cidr) = node.and_then(|it| it.spec).and_then(|it| it.pod_cidr) {
                    return Ok(Registered { pod_cidr });
                }
            }
            Err(error) => tracing::debug!(%error, "watch the node"),
        }
    }
    Err(StartError::NoPodRange { node: config.node_name.clone() })
}

async fn ensure(api: &Api<NodeObject>, config: &Config, machine: &Machine) -> Result<NodeObject, kube::Error> {
    let labels = labels(config, machine);
    if let Some(present) = api.get_opt(&config.node_name).await? {
        let stale: BTreeMap<_, _> =
            (labels.iter()).filter(|(key, value)| present.metadata.labels.as_ref().and_then(|it| it.get(*key)) != Some(value)).collect();
        if stale.is_empty() {
            return Ok(present);
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": stale}}));
        return api
            .patch(&config.node_name, &PatchParams { field_manager: Some("kubelet".into()), ..PatchParams::default() }, &patch)
            .await;
    }
    let node = NodeObject {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidr: config.pod_cidr.clone(),
            pod_cidrs: config.pod_cidr.clone().map(|it| vec![it]),
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses(config)),
            capacity: Some(machine.capacity.clone()),
            allocatable: Some(machine.capacity.clone()),
            node_info: Some(machine.info.clone()),
            conditions: Some(conditions(&[], Pressure::look(&config.data_dir), Some("the node is starting"), Timestamp::now())),
            ..NodeStatus::default()
        }),
    };
    let params = PostParams { field_manager: Some("kubelet".into()), ..PostParams::default() };
    match api.create(&params, &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&config.node_name).await,
        result => result,
    }
}

/// Repeats an operation until it succeeds or is refused for good.
async fn retried<T, F: Future<Output = Result<T, kube::Error>>>(mut operation: impl FnMut() -> F) -> Result<T, kube::Error> {
    let mut pause = RETRY.0;
    loop {
        match operation().await {
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => return Err(kube::Error::Api(status)),
            Err(error) => tracing::debug!(%error, "the API does not answer yet"),
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

fn images(node: &Node) -> Vec<ContainerImage> {
    let mut list: Vec<ContainerImage> = (node.runtime.images().list().into_iter())
        .map(|it| ContainerImage {
            names: Some(it.repo_digests.iter().chain(&it.names).cloned().collect()),
            size_bytes: i64::try_from(it.size_bytes).ok(),
        })
        .collect();
    list.sort_by_key(|it| std::cmp::Reverse(it.size_bytes));
    list.truncate(IMAGES_MAX);
    list
}

fn status(node: &Node, machine: &Machine, port: u16, old: &NodeStatus, now: Timestamp) -> NodeStatus {
    let config = &node.config;
    NodeStatus {
        addresses: Some(addresses(config)),
        allocatable: Some(node.allocatable.clone()),
        capacity: Some(machine.capacity.clone()),
        conditions: Some(conditions(old.conditions.as_deref().unwrap_or_default(), Pressure::look(&config.data_dir), None, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }) }),
        images: Some(images(node)),
        node_info: Some(machine.info.clone()),
        runtime_handlers: Some(vec![NodeRuntimeHandler {
            name: Some(String::new()),
            features: Some(NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), ..NodeRuntimeHandlerFeatures::default() }),
        }]),
        ..NodeStatus::default()
    }
}

/// Whether two states differ in more than their heartbeats.
fn changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let still = |it: &NodeStatus| {
        let mut it = it.clone();
        for condition in it.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        it
    };
    still(old) != still(new)
}

/// Keeps the Node's status; ends only when dropped.
pub(crate) async fn keep_status(node: &Node, machine: &Machine, port: u16) {
    let api: Api<NodeObject> = node.cluster.all();
    let name = &node.config.node_name;
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.clone()),
        uid: Some(name.clone()),
        ..k8s_openapi::api::core::v1::ObjectReference::default()
    };
    node.recorder.record_ref(&reference, EventType::Normal, "Starting", "Starting kubelet.");
    let mut written: Option<(NodeStatus, Timestamp)> = None;
    let mut look = tokio::time::interval(STATUS_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = Timestamp::now();
        let old = written.as_ref().map(|it| it.0.clone()).unwrap_or_default();
        let new = status(node, machine, port, &old, now);
        let fresh = written.as_ref().is_some_and(|(old, at)| !changed(old, &new) && now.duration_since(*at).unsigned_abs() < STATUS_WRITE);
        if fresh {
            continue;
        }
        let first = written.is_none();
        let params = PatchParams { field_manager: Some("kubelet".into()), ..PatchParams::default() };
        let body = json!({"status": new});
        match api.patch_status(name, &params, &Patch::Strategic(body)).await {
            Ok(_) => {
                written = Some((new, now));
                if first {
                    node.recorder.record_ref(&reference, EventType::Normal, "NodeReady", &format!("Node {name} status is now: NodeReady"));
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Somebody deleted the Node: it is made again, as upstream does at its start.
                if let Err(error) = ensure(&api, &node.config, machine).await {
                    tracing::warn!(%error, "make the node's object again");
                }
                look.reset_after(Duration::from_secs(1));
            }
            Err(error) => {
                tracing::warn!(%error, "write the node's status");
                look.reset_after(Duration::from_secs(1));
            }
        }
    }
}

/// Renews the node's lease; ends only when dropped.
pub(crate) async fn keep_lease(node: &Node) {
    let api: Api<Lease> = node.cluster.api(LEASES);
    let name = &node.config.node_name;
    let mut renew = tokio::time::interval(LEASE_RENEW);
    renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        renew.tick().await;
        let now = MicroTime(Timestamp::now());
        let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
        let params = PatchParams { field_manager: Some("kubelet".into()), ..PatchParams::default() };
        let renewed = match api.patch(name, &params, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => make_lease(node, &api, now).await,
            result => result.map(|_| ()),
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "renew the node's lease");
            renew.reset_after(Duration::from_secs(1));
        }
    }
}

async fn make_lease(node: &Node, api: &Api<Lease>, now: MicroTime) -> Result<(), kube::Error> {
    let name = &node.config.node_name;
    let owner: NodeObject = node.cluster.all::<NodeObject>().get(name).await?;
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(LEASES.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: owner.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_LIFE_S),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    let params = PostParams { field_manager: Some("kubelet".into()), ..PostParams::default() };
    api.create(&params, &lease).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Pressure = Pressure { memory: false, disk: false, pids: false };

    #[test]
    fn a_condition_keeps_the_time_of_its_last_change() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = conditions(&[], CALM, None, at(100));
        let pressed = Pressure { disk: true, ..CALM };
        let second = conditions(&first, pressed, None, at(200));
        let shown: Vec<String> = second
            .iter()
            .map(|it| format!("{}={} {}", it.type_, it.status, it.last_transition_time.as_ref().unwrap().0.as_second()))
            .collect();
        assert_eq!(shown, ["MemoryPressure=False 100", "DiskPressure=True 200", "PIDPressure=False 100", "Ready=True 100"]);
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let of = |pressure, s| NodeStatus {
            conditions: Some(conditions(
                &conditions(&[], CALM, None, Timestamp::UNIX_EPOCH),
                pressure,
                None,
                Timestamp::from_second(s).unwrap(),
            )),
            ..NodeStatus::default()
        };
        assert!(!changed(&of(CALM, 10), &of(CALM, 20)));
        assert!(changed(&of(CALM, 10), &of(Pressure { pids: true, ..CALM }, 20)));
    }
}
