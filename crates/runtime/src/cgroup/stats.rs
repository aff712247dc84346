//! What a group has used, from the files of either version.

use std::fs;
use std::path::Path;

use super::Group;
use crate::spec::status::ContainerStats;

/// v1 writes this where there is no limit: the largest multiple of the page size in a signed long.
const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

pub(crate) fn read_stats(group: &Group<'_>) -> ContainerStats {
    let mut stats = ContainerStats { timestamp_ns: crate::keeper::now_ns(), ..ContainerStats::default() };
    let v2 = group.cgroups.is_v2();
    if let Some(directory) = group.directory("memory") {
        let memory_stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
        let (usage, limit, inactive, rss) = if v2 {
            ("memory.current", "memory.max", "inactive_file", "anon")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss")
        };
        stats.memory_usage_bytes = number(&directory, usage).unwrap_or(0);
        stats.memory_limit_bytes = number(&directory, limit).filter(|&limit| limit < V1_NO_LIMIT);
        stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(&memory_stat, inactive));
        stats.memory_rss_bytes = field(&memory_stat, rss);
        let prefix = if v2 { "" } else { "total_" };
        stats.page_faults = field(&memory_stat, &format!("{prefix}pgfault"));
        stats.major_page_faults = field(&memory_stat, &format!("{prefix}pgmajfault"));
    }
    if v2 {
        if let Some(directory) = group.directory("cpu") {
            let text = fs::read_to_string(directory.join("cpu.stat")).unwrap_or_default();
            stats.cpu_usage_ns = field(&text, "usage_usec") * 1_000;
        }
    } else if let Some(directory) = group.directory("cpuacct") {
        stats.cpu_usage_ns = number(&directory, "cpuacct.usage").unwrap_or(0);
    }
    if let Some(directory) = group.directory("pids") {
        stats.pids = number(&directory, "pids.current").unwrap_or(0);
    }
    stats
}

fn number(directory: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()
}

/// The value in a line `name value`; 0 if there is none.
pub(super) fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}
