//! `/configz`: how this kubelet works, in the fields of upstream's KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Only what is true here
//! is told: a field that is missing has no meaning for this kubelet.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Api;
use super::auth::ANSWER_LIFE;
use crate::image_gc;
use crate::pod::seen::BACK_OFF_MAX_S;
use crate::{register, resources};

pub(super) fn configz(api: &Api) -> Value {
    let parts = [serving(api), node(api), pods(api)];
    let fields: Map<String, Value> =
        parts.into_iter().filter_map(|it| if let Value::Object(fields) = it { Some(fields) } else { None }).flatten().collect();
    json!({"kubeletconfig": fields})
}

/// How its API is served, and to whom.
fn serving(api: &Api) -> Value {
    let config = &api.node.config;
    json!({
        "enableServer": true,
        "address": config.listen.ip(),
        "port": api.port,
        "readOnlyPort": 0,
        "authentication": {
            // From memory: there is no file.
            "x509": {},
            "webhook": {"enabled": true, "cacheTTL": span(ANSWER_LIFE)},
            "anonymous": {"enabled": false},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": span(ANSWER_LIFE), "cacheUnauthorizedTTL": span(ANSWER_LIFE)},
        },
        "enableDebuggingHandlers": true,
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
        "enableSystemLogHandler": false,
    })
}

/// What it does for the node: registration, disk, memory.
fn node(api: &Api) -> Value {
    let config = &api.node.config;
    let (log_bytes_max, log_files) = api.node.runtime.log_limits();
    let percent = |percent: u64| format!("{percent}%");
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    json!({
        "rotateCertificates": true,
        "registerNode": true,
        "registerWithTaints": config.taints,
        "nodeStatusUpdateFrequency": span(register::STATUS_LOOK),
        "nodeStatusReportFrequency": span(register::STATUS_WRITE),
        "nodeLeaseDurationSeconds": register::LEASE_LIFE_S,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.dns,
        "resolvConf": path(&config.resolv_conf),
        "maxPods": config.pods_max,
        "podPidsLimit": -1,
        "podLogsDir": path(&config.data_dir.join("logs/pods")),
        "containerLogMaxSize": quantity(log_bytes_max),
        "containerLogMaxFiles": log_files,
        "imageMinimumGCAge": span(image_gc::AGE_MIN),
        "imageGCHighThresholdPercent": image_gc::HIGH_PERCENT,
        "imageGCLowThresholdPercent": image_gc::LOW_PERCENT,
        "serializeImagePulls": false,
        "evictionHard": {
            "memory.available": quantity(register::MEMORY_FREE_MIN_BYTES),
            "nodefs.available": percent(register::DISK_FREE_MIN_PERCENT),
            "nodefs.inodesFree": percent(register::INODES_FREE_MIN_PERCENT),
        },
        "localStorageCapacityIsolation": true,
        "crashLoopBackOff": {"maxContainerRestartPeriod": span(Duration::from_secs(BACK_OFF_MAX_S.unsigned_abs()))},
    })
}

/// How pods are run.
fn pods(api: &Api) -> Value {
    json!({
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": api.node.config.cgroup_root,
        "cgroupsPerQOS": true,
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": span(resources::PERIOD),
        "cpuManagerPolicy": "none",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "failSwapOn": false,
        "memorySwap": {"swapBehavior": "NoSwap"},
        "seccompDefault": true,
    })
}

/// As Go writes a duration (time.Duration.String) of whole milliseconds.
fn span(it: Duration) -> String {
    let (seconds, milliseconds) = (it.as_secs(), it.subsec_millis());
    let rest = match milliseconds {
        0 => format!("{}s", seconds % 60),
        _ => format!("{}.{}s", seconds % 60, format!("{milliseconds:03}").trim_end_matches('0')),
    };
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) if seconds == 0 && milliseconds > 0 => format!("{milliseconds}ms"),
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

/// In the greatest unit that gives a whole number.
fn quantity(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let unit = UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ms, text) in
            [(0, "0s"), (100, "100ms"), (1_500, "1.5s"), (30_000, "30s"), (300_000, "5m0s"), (3_600_000, "1h0m0s"), (90_000, "1m30s")]
        {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn quantities_are_whole() {
        for (bytes, text) in [(0, "0"), (100 << 20, "100Mi"), (3 << 10, "3Ki"), (1025, "1025"), (2 << 30, "2Gi")] {
            assert_eq!(quantity(bytes), text);
        }
    }
}
