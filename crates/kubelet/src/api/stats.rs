//! `/pods` and `/stats/summary`.

use jiff::Timestamp;
use knarr_runtime::{ContainerStats, InterfaceStats};
use serde_json::{Value, json};

use super::{Api, figures};
use crate::pod::status::time;
use crate::pod::worker::time_of;

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

fn swap(it: &ContainerStats) -> Value {
    json!({"time": time(time_of(it.timestamp_ns)), "swapUsageBytes": it.memory_swap_bytes})
}

fn interface(it: &InterfaceStats) -> Value {
    let (received, sent) = (it.received, it.sent);
    json!({"name": it.name, "rxBytes": received.bytes, "rxErrors": received.errors, "txBytes": sent.bytes, "txErrors": sent.errors})
}

pub(super) async fn summary(api: &Api) -> Value {
    let now = time(Timestamp::now());
    let mut lines = Vec::new();
    for it in figures::containers(api, &mut false).await {
        let written = figures::read(api.layers.written(&api.node.runtime, &it.id).await, &mut false).unwrap_or_default();
        lines.push((it, written));
    }
    let mut pods = Vec::new();
    for worker in api.pods.all() {
        let pod = worker.desired().pod;
        let (name, namespace) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default());
        let own: Vec<Value> = (lines.iter())
            .filter(|(it, _)| it.pod == name && it.namespace == namespace)
            .map(|(it, written)| {
                json!({
                    "name": it.name,
                    "startTime": it.started.map(time),
                    "cpu": cpu(&it.stats),
                    "memory": memory(&it.stats),
                    "swap": swap(&it.stats),
                    "rootfs": {"time": now, "usedBytes": written.bytes, "inodesUsed": written.inodes},
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
            entry["swap"] = swap(&stats.total);
            entry["process_stats"] = json!({"process_count": stats.total.pids});
            let interfaces: Vec<Value> = stats.network.iter().map(interface).collect();
            if let Some(first) = interfaces.iter().find(|it| it["name"] == "eth0") {
                entry["network"] = first.clone();
                entry["network"]["time"] = json!(now);
                entry["network"]["interfaces"] = json!(interfaces);
            }
        }
        pods.push(entry);
    }
    let (processors, used) = (figures::processors(), figures::memory());
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
            "startTime": Timestamp::from_second(i64::try_from(processors.booted_s).unwrap_or(0)).ok().map(time),
            "cpu": {"time": now, "usageCoreNanoSeconds": processors.total_ns},
            "memory": {"time": now, "usageBytes": used.used, "workingSetBytes": used.used, "availableBytes": used.available},
            "swap": {"time": now, "swapUsageBytes": used.swap_used, "swapAvailableBytes": used.swap_free},
            "fs": fs,
        },
        "pods": pods,
    })
}
