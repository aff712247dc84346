//! `/configz`: how this kubelet works, in the fields of upstream's KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Only what is true here
//! is told: a field that is missing has no meaning for this kubelet.

use std::time::Duration;

use knarr_api::duration::text_of;
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
            "webhook": {"enabled": true, "cacheTTL": text_of(ANSWER_LIFE)},
            "anonymous": {"enabled": false},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": text_of(ANSWER_LIFE), "cacheUnauthorizedTTL": text_of(ANSWER_LIFE)},
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
        "nodeStatusUpdateFrequency": text_of(register::STATUS_LOOK),
        "nodeStatusReportFrequency": text_of(register::STATUS_WRITE),
        "nodeLeaseDurationSeconds": register::LEASE_LIFE_S,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": config.dns,
        "resolvConf": path(&config.resolv_conf),
        "maxPods": config.pods_max,
        "podPidsLimit": -1,
        "podLogsDir": path(&config.data_dir.join("logs/pods")),
        "containerLogMaxSize": quantity(log_bytes_max),
        "containerLogMaxFiles": log_files,
        "imageMinimumGCAge": text_of(image_gc::AGE_MIN),
        "imageGCHighThresholdPercent": image_gc::HIGH_PERCENT,
        "imageGCLowThresholdPercent": image_gc::LOW_PERCENT,
        "serializeImagePulls": false,
        "evictionHard": {
            "memory.available": quantity(register::MEMORY_FREE_MIN_BYTES),
            "nodefs.available": percent(register::DISK_FREE_MIN_PERCENT),
            "nodefs.inodesFree": percent(register::INODES_FREE_MIN_PERCENT),
        },
        "localStorageCapacityIsolation": true,
        "crashLoopBackOff": {"maxContainerRestartPeriod": text_of(Duration::from_secs(BACK_OFF_MAX_S.unsigned_abs()))},
    })
}

/// How pods are run.
fn pods(api: &Api) -> Value {
    json!({
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": api.node.config.cgroup_root,
        "cgroupsPerQOS": true,
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": text_of(resources::PERIOD),
        "cpuManagerPolicy": "none",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "failSwapOn": false,
        "memorySwap": {"swapBehavior": "NoSwap"},
        "seccompDefault": true,
    })
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
    fn quantities_are_whole() {
        for (bytes, text) in [(0, "0"), (100 << 20, "100Mi"), (3 << 10, "3Ki"), (1025, "1025"), (2 << 30, "2Gi")] {
            assert_eq!(quantity(bytes), text);
        }
    }
}
