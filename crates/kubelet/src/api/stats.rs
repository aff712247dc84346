//! What the node's API tells of pods and their use of the machine: `/pods`, `/stats/summary`, `/metrics`, `/metrics/resource`.

use std::fmt::Write as _;

use jiff::Timestamp;
use knarr_runtime::ContainerStats;
use serde_json::{Value, json};

use super::Api;
use crate::pod::status::time;
use crate::pod::worker::{label, time_of};
use crate::register::meminfo_bytes;

/// The pods of the node with the statuses that the workers planned last.
pub(super) fn pods(api: &Api) -> Value {
    let items: Vec<Value> = (api.pods.all().iter())
        .map(|worker| {
            let mut pod = (*worker.desired().pod).clone();
            pod.status = Some(worker.memory.lock().last.clone());
            json!(pod)
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

pub(super) fn configz(api: &Api) -> Value {
    let config = &api.node.config;
    json!({"kubeletconfig": {
        "port": config.listen.port(),
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.dns,
        "maxPods": config.pods_max,
        "resolvConf": config.resolv_conf,
        "authentication": {"x509": {}, "webhook": {"enabled": true}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
    }})
}

fn cpu(it: &ContainerStats) -> Value {
    json!({"time": time(time_of(it.timestamp_ns)), "usageCoreNanoSeconds": it.cpu_usage_ns})
}

fn memory(it: &ContainerStats) -> Value {
    let mut out = json!({
        "time": time(time_of(it.timestamp_ns)),
        "usageBytes": it.memory_usage_bytes,
        "workingSetBytes": it.memory_working_set_bytes,
        "rssBytes": it.memory_rss_bytes,
        "pageFaults": it.page_faults,
        "majorPageFaults": it.major_page_faults,
    });
    if let Some(limit) = it.memory_limit_bytes {
        out["availableBytes"] = json!(limit.saturating_sub(it.memory_working_set_bytes));
    }
    out
}

/// Figures of one container with the names of its pod.
struct Line {
    namespace: String,
    pod: String,
    container: String,
    started: Option<Timestamp>,
    stats: ContainerStats,
}

async fn containers(api: &Api) -> Vec<Line> {
    let mut out = Vec::new();
    for it in api.node.runtime.list_containers() {
        if !matches!(it.state, knarr_runtime::ContainerState::Running { .. }) {
            continue;
        }
        // It may have ended in between.
        let Ok(stats) = api.node.runtime.container_stats(&it.id).await else {
            continue;
        };
        let of = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
        out.push(Line {
            namespace: of(label::NAMESPACE),
            pod: of(label::POD),
            container: it.name.clone(),
            started: it.started_at_ns.map(time_of),
            stats,
        });
    }
    out
}

fn proc_stat_cpu_ns() -> u64 {
    const NS_PER_TICK: u64 = 10_000_000;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|it| it.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4) && *at < 8).map(|(_, it)| it * NS_PER_TICK).sum()
}

fn node_memory() -> (u64, u64) {
    let all = meminfo_bytes("MemTotal");
    let available = meminfo_bytes("MemAvailable");
    (all.saturating_sub(available), available)
}

pub(super) async fn summary(api: &Api) -> Value {
    let now = time(Timestamp::now());
    let lines = containers(api).await;
    let mut pods = Vec::new();
    for worker in api.pods.all() {
        let pod = worker.desired().pod;
        let (name, namespace) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default());
        let own: Vec<Value> = (lines.iter())
            .filter(|it| it.pod == name && it.namespace == namespace)
            .map(|it| {
                json!({
                    "name": it.container,
                    "startTime": it.started.map(time),
                    "cpu": cpu(&it.stats),
                    "memory": memory(&it.stats),
                    "rootfs": {"time": now, "usedBytes": it.stats.writable_layer_bytes, "inodesUsed": it.stats.writable_layer_inodes},
                })
            })
            .collect();
        if own.is_empty() {
            continue;
        }
        let mut entry = json!({
            "podRef": {"name": name, "namespace": namespace, "uid": worker.uid},
            "startTime": pod.status.as_ref().and_then(|it| it.start_time.clone()),
            "containers": own,
        });
        let sandbox = worker.memory.lock().networked.clone();
        if let Some(sandbox) = sandbox
            && let Ok(stats) = api.node.runtime.sandbox_stats(&sandbox).await
        {
            entry["cpu"] = cpu(&stats.total);
            entry["memory"] = memory(&stats.total);
            entry["process_stats"] = json!({"process_count": stats.total.pids});
            let interfaces: Vec<Value> = (stats.network.iter())
                .map(|(name, rx, rx_errors, tx, tx_errors)| {
                    json!({"name": name, "rxBytes": rx, "rxErrors": rx_errors, "txBytes": tx, "txErrors": tx_errors})
                })
                .collect();
            if let Some(first) = interfaces.iter().find(|it| it["name"] == "eth0") {
                entry["network"] = first.clone();
                entry["network"]["time"] = json!(now);
                entry["network"]["interfaces"] = json!(interfaces);
            }
        }
        pods.push(entry);
    }
    let (used, available) = node_memory();
    let fs = rustix::fs::statvfs(&api.node.config.data_dir).ok().map(|it| {
        json!({
            "time": now,
            "capacityBytes": it.f_blocks * it.f_frsize,
            "availableBytes": it.f_bavail * it.f_frsize,
            "usedBytes": (it.f_blocks - it.f_bfree) * it.f_frsize,
            "inodes": it.f_files,
            "inodesFree": it.f_ffree,
            "inodesUsed": it.f_files - it.f_ffree,
        })
    });
    json!({
        "node": {
            "nodeName": api.node.config.node_name,
            "cpu": {"time": now, "usageCoreNanoSeconds": proc_stat_cpu_ns()},
            "memory": {"time": now, "usageBytes": used, "workingSetBytes": used, "availableBytes": available},
            "fs": fs,
        },
        "pods": pods,
    })
}

pub(super) async fn resource_metrics(api: &Api) -> String {
    let lines = containers(api).await;
    let mut out = String::new();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut series = |name: &str, kind: &str, help: &str, value: &dyn Fn(&ContainerStats) -> f64, node: Option<f64>| {
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        if let Some(value) = node {
            let _ = writeln!(out, "{name} {value}");
            return;
        }
        for it in &lines {
            let _ = writeln!(
                out,
                "{name}{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {} {}",
                it.container,
                it.namespace,
                it.pod,
                value(&it.stats),
                it.stats.timestamp_ns / 1_000_000
            );
        }
    };
    let none = |_: &ContainerStats| 0.0;
    let (used, _) = node_memory();
    series(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
        &|it| seconds(it.cpu_usage_ns),
        None,
    );
    series(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
        &|it| it.memory_working_set_bytes as f64,
        None,
    );
    series(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
        &none,
        Some(seconds(proc_stat_cpu_ns())),
    );
    series("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes", &none, Some(used as f64));
    let _ = writeln!(
        out,
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n\
         # TYPE resource_scrape_error gauge\nresource_scrape_error 0"
    );
    out
}

/// The kubelet's own figures.
pub(super) fn metrics(api: &Api) -> String {
    let running =
        (api.node.runtime.list_containers().iter()).filter(|it| matches!(it.state, knarr_runtime::ContainerState::Running { .. })).count();
    format!(
        "# HELP kubelet_running_pods [BETA] Number of pods that have a running pod sandbox\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {}\n# HELP kubelet_running_containers [BETA] Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n",
        api.pods.all().len()
    )
}
