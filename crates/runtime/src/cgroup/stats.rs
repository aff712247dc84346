//! What a group has used, from the files of either version.

use std::fs;
use std::path::Path;

use super::{Group, tree};
use crate::spec::status::{ContainerStats, Details, DiskStats, Pressure, Throttling};

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
        stats.memory_swap_bytes =
            if v2 { number(&directory, "memory.swap.current").unwrap_or(0) } else { field(&memory_stat, "total_swap") };
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

/// The rest of what the kernel counts. Reads more files than [`read_stats`], and looks at every process.
pub(crate) fn read_details(group: &Group<'_>) -> Details {
    let v2 = group.cgroups.is_v2();
    let mut details = Details { cgroup: format!("/{}", group.path.display()), ..Details::default() };
    if let Some(directory) = group.directory("memory") {
        memory_details(&mut details, &directory, v2);
    }
    if let Some(directory) = group.directory("cpu") {
        cpu_details(&mut details, &directory, v2);
    }
    if !v2 && let Some(directory) = group.directory("cpuacct") {
        details.cpu_user_ns = number(&directory, "cpuacct.usage_user").unwrap_or(0);
        details.cpu_system_ns = number(&directory, "cpuacct.usage_sys").unwrap_or(0);
    }
    if let Some(directory) = group.directory("pids") {
        details.threads_max = number(&directory, "pids.max");
    }
    for directory in group.kill_directory().iter().flat_map(|directory| tree(directory)) {
        for pid in text(&directory, "cgroup.procs").lines() {
            details.processes += 1;
            // A process may end in between.
            details.file_descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |open| open.count() as u64);
        }
    }
    details
}

fn memory_details(details: &mut Details, directory: &Path, v2: bool) {
    let stat = text(directory, "memory.stat");
    if v2 {
        details.memory_cache_bytes = field(&stat, "file");
        details.memory_mapped_bytes = field(&stat, "file_mapped");
        details.memory_peak_bytes = number(directory, "memory.peak");
        details.memory_swap_limit_bytes = number(directory, "memory.swap.max");
        let events = text(directory, "memory.events");
        details.memory_limit_hits = field(&events, "max");
        details.oom_kills = field(&events, "oom_kill");
    } else {
        details.memory_cache_bytes = field(&stat, "total_cache");
        details.memory_mapped_bytes = field(&stat, "total_mapped_file");
        details.memory_peak_bytes = number(directory, "memory.max_usage_in_bytes");
        details.memory_swap_limit_bytes = number(directory, "memory.memsw.limit_in_bytes").filter(|&limit| limit < V1_NO_LIMIT);
        details.memory_limit_hits = number(directory, "memory.failcnt").unwrap_or(0);
        details.oom_kills = field(&text(directory, "memory.oom_control"), "oom_kill");
    }
}

fn cpu_details(details: &mut Details, directory: &Path, v2: bool) {
    let stat = text(directory, "cpu.stat");
    let throttled_ns = if v2 {
        details.cpu_user_ns = field(&stat, "user_usec") * 1_000;
        details.cpu_system_ns = field(&stat, "system_usec") * 1_000;
        // `<quota>|max <period>`
        let max = text(directory, "cpu.max");
        let (quota, period) = max.trim().split_once(' ').unwrap_or_default();
        details.cpu_quota_us = quota.parse().ok();
        details.cpu_period_us = period.parse().ok();
        details.cpu_shares = number(directory, "cpu.weight").map(weight_to_shares);
        details.disks = text(directory, "io.stat").lines().filter_map(disk).collect();
        details.pressure =
            pressure(directory, "cpu").zip(pressure(directory, "memory")).zip(pressure(directory, "io")).map(|((a, b), c)| [a, b, c]);
        field(&stat, "throttled_usec") * 1_000
    } else {
        // -1, which is no number here: no limit.
        details.cpu_quota_us = number(directory, "cpu.cfs_quota_us");
        details.cpu_period_us = number(directory, "cpu.cfs_period_us");
        details.cpu_shares = number(directory, "cpu.shares");
        field(&stat, "throttled_time")
    };
    details.throttling = details.cpu_quota_us.map(|_| Throttling {
        periods: field(&stat, "nr_periods"),
        throttled_periods: field(&stat, "nr_throttled"),
        throttled_ns,
    });
}

/// The way back from KEP-2254's weights, as cAdvisor goes it.
fn weight_to_shares(weight: u64) -> u64 {
    2 + weight.saturating_sub(1) * 262_142 / 9_999
}

/// `253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn disk(line: &str) -> Option<DiskStats> {
    let (numbers, counters) = line.split_once(' ')?;
    let of = |name: &str| {
        let value = counters.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let link = fs::read_link(format!("/sys/dev/block/{numbers}")).ok();
    let name = link.as_deref().and_then(Path::file_name).map(|name| format!("/dev/{}", name.to_string_lossy()));
    Some(DiskStats {
        device: name.unwrap_or_else(|| numbers.to_owned()),
        read_bytes: of("rbytes"),
        reads: of("rios"),
        written_bytes: of("wbytes"),
        writes: of("wios"),
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=<microseconds>`, and a line `full`, which old kernels do not have for processors.
fn pressure(directory: &Path, what: &str) -> Option<Pressure> {
    let text = fs::read_to_string(directory.join(format!("{what}.pressure"))).ok()?;
    let total = |start: &str| {
        let line = text.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.split_once("total=")?.1.trim().parse().ok()).unwrap_or(0)
    };
    Some(Pressure { some_us: total("some "), full_us: total("full ") })
}

/// Empty where there is no such file: the figures are then 0, or unknown.
fn text(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default()
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
