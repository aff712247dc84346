//! `/metrics/cadvisor`: what dashboards and alerts for Kubernetes ask Prometheus for, under cAdvisor's names (google/cadvisor,
//! metrics/prometheus.go), for each container, each pod (an empty container label) and the node (`id="/"`).
//!
//! There is no sandbox container here: what cAdvisor tells of it, the network above all, is told of the pod.

use jiff::Timestamp;
use knarr_api::exposition::{Kind, Page};
use knarr_runtime::{ContainerStats, Details, DiskStats, InterfaceStats, PacketStats, Pressure};

use super::{Api, figures};
use crate::register::{Machine, meminfo_bytes};

/// What has figures: a container, a pod or the node.
#[derive(Default)]
struct Subject {
    id: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
    container: String,
    started: Option<Timestamp>,
    stats: ContainerStats,
    details: Details,
    network: Vec<InterfaceStats>,
    disk: Option<Disk>,
}

/// A file system, and how much of it the subject uses.
struct Disk {
    device: String,
    used_bytes: u64,
    capacity_bytes: u64,
}

const NODE: &str = "/";

impl Subject {
    fn is_node(&self) -> bool {
        self.id == NODE
    }
}

/// One metric: where its values come from. `None` and an empty list leave the subject out.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    /// Told with the time at which it was read.
    timed: bool,
    values: Values,
}

enum Values {
    One(fn(&Subject) -> Option<f64>),
    /// Several, told apart by one more label.
    By(&'static str, fn(&Subject) -> Vec<(String, f64)>),
}

const fn counter(name: &'static str, help: &'static str, values: Values) -> Metric {
    Metric { name, kind: Kind::Counter, help, timed: true, values }
}

const fn gauge(name: &'static str, help: &'static str, values: Values) -> Metric {
    Metric { name, kind: Kind::Gauge, help, timed: true, values }
}

/// How the subject was made, which has no time.
const fn spec(name: &'static str, help: &'static str, value: fn(&Subject) -> Option<f64>) -> Metric {
    Metric { name, kind: Kind::Gauge, help, timed: false, values: Values::One(value) }
}

use Values::{By, One};

/// In upstream's order, which is that of the alphabet.
const METRICS: &[Metric] = &[
    counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        One(|it| it.details.throttling.map(|it| it.periods as f64)),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        One(|it| it.details.throttling.map(|it| it.throttled_periods as f64)),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        One(|it| it.details.throttling.map(|it| seconds(it.throttled_ns))),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        One(|it| Some(seconds(it.details.cpu_system_ns))),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        By("cpu", |it| vec![("total".to_owned(), seconds(it.stats.cpu_usage_ns))]),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        One(|it| Some(seconds(it.details.cpu_user_ns))),
    ),
    gauge(
        "container_file_descriptors",
        "Number of open file descriptors for the container.",
        One(|it| of_group(it, it.details.file_descriptors)),
    ),
    gauge(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        By("device", |it| of_disk(it, |it| it.capacity_bytes)),
    ),
    counter("container_fs_reads_bytes_total", "Cumulative count of bytes read", By("device", |it| of_disks(it, |it| it.read_bytes))),
    counter("container_fs_reads_total", "Cumulative count of reads completed", By("device", |it| of_disks(it, |it| it.reads))),
    gauge(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
        By("device", |it| of_disk(it, |it| it.used_bytes)),
    ),
    counter("container_fs_writes_bytes_total", "Cumulative count of bytes written", By("device", |it| of_disks(it, |it| it.written_bytes))),
    counter("container_fs_writes_total", "Cumulative count of writes completed", By("device", |it| of_disks(it, |it| it.writes))),
    gauge(
        "container_last_seen",
        "Last time a container was seen by the exporter",
        One(|it| Some((it.stats.timestamp_ns / 1_000_000_000) as f64)),
    ),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", One(|it| Some(it.details.memory_cache_bytes as f64))),
    counter("container_memory_failcnt", "Number of memory usage hits limits", One(|it| of_group(it, it.details.memory_limit_hits))),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", One(|it| Some(it.details.memory_mapped_bytes as f64))),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        One(|it| it.details.memory_peak_bytes.map(|it| it as f64)),
    ),
    gauge("container_memory_rss", "Size of RSS in bytes.", One(|it| Some(it.stats.memory_rss_bytes as f64))),
    gauge("container_memory_swap", "Container swap usage in bytes.", One(|it| Some(it.stats.memory_swap_bytes as f64))),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        One(|it| Some(it.stats.memory_usage_bytes as f64)),
    ),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", One(|it| Some(it.stats.memory_working_set_bytes as f64))),
    counter(
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        By("interface", |it| of_interfaces(it, |it| it.received, |it| it.bytes)),
    ),
    counter(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        By("interface", |it| of_interfaces(it, |it| it.received, |it| it.errors)),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        By("interface", |it| of_interfaces(it, |it| it.received, |it| it.dropped)),
    ),
    counter(
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        By("interface", |it| of_interfaces(it, |it| it.received, |it| it.packets)),
    ),
    counter(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        By("interface", |it| of_interfaces(it, |it| it.sent, |it| it.bytes)),
    ),
    counter(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        By("interface", |it| of_interfaces(it, |it| it.sent, |it| it.errors)),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        By("interface", |it| of_interfaces(it, |it| it.sent, |it| it.dropped)),
    ),
    counter(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        By("interface", |it| of_interfaces(it, |it| it.sent, |it| it.packets)),
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        One(|it| of_group(it, it.details.oom_kills)),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        One(|it| of_pressure(it, 0, |it| it.full_us)),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        One(|it| of_pressure(it, 0, |it| it.some_us)),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        One(|it| of_pressure(it, 2, |it| it.full_us)),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        One(|it| of_pressure(it, 2, |it| it.some_us)),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        One(|it| of_pressure(it, 1, |it| it.full_us)),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        One(|it| of_pressure(it, 1, |it| it.some_us)),
    ),
    gauge("container_processes", "Number of processes running inside the container.", One(|it| of_group(it, it.details.processes))),
    spec("container_spec_cpu_period", "CPU period of the container.", |it| it.details.cpu_period_us.map(|it| it as f64)),
    spec("container_spec_cpu_quota", "CPU quota of the container.", |it| it.details.cpu_quota_us.map(|it| it as f64)),
    spec("container_spec_cpu_shares", "CPU share of the container.", |it| it.details.cpu_shares.map(|it| it as f64)),
    spec(
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        |it| Some(it.stats.memory_limit_bytes.unwrap_or(0) as f64),
    ),
    spec("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |it| {
        of_group(it, it.details.memory_swap_limit_bytes.unwrap_or(0))
    }),
    spec("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |it| {
        it.started.map(|it| it.as_second() as f64)
    }),
    gauge("container_threads", "Number of threads running inside the container", One(|it| of_group(it, it.stats.pids))),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        One(|it| of_group(it, it.details.threads_max.unwrap_or(0))),
    ),
];

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// What only a control group has.
fn of_group(it: &Subject, value: u64) -> Option<f64> {
    (!it.is_node()).then_some(value as f64)
}

fn of_pressure(it: &Subject, at: usize, value: fn(&Pressure) -> u64) -> Option<f64> {
    Some(value(it.details.pressure?.get(at)?) as f64 / 1e6)
}

fn of_disk(it: &Subject, value: fn(&Disk) -> u64) -> Vec<(String, f64)> {
    it.disk.iter().map(|disk| (disk.device.clone(), value(disk) as f64)).collect()
}

fn of_disks(it: &Subject, value: fn(&DiskStats) -> u64) -> Vec<(String, f64)> {
    it.details.disks.iter().map(|disk| (disk.device.clone(), value(disk) as f64)).collect()
}

fn of_interfaces(it: &Subject, way: fn(&InterfaceStats) -> PacketStats, value: fn(PacketStats) -> u64) -> Vec<(String, f64)> {
    it.network.iter().map(|interface| (interface.name.clone(), value(way(interface)) as f64)).collect()
}

pub(super) async fn page(api: &Api) -> String {
    let machine = Machine::read(&api.node.config);
    let (subjects, failed) = subjects(api, &machine).await;
    let mut page = Page::default();
    page.metric(
        "cadvisor_version_info",
        Kind::Gauge,
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    )
    .sample(
        &[
            ("cadvisorRevision", ""),
            ("cadvisorVersion", ""),
            ("dockerVersion", ""),
            ("kernelVersion", &machine.info.kernel_version),
            ("osVersion", &machine.info.os_image),
        ],
        1.0,
        None,
    );
    write(&mut page, &subjects);
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    page.single("container_scrape_error", Kind::Gauge, help, if failed { 1.0 } else { 0.0 });
    let identity =
        [("boot_id", &*machine.info.boot_id), ("machine_id", &machine.info.machine_id), ("system_uuid", &machine.info.system_uuid)];
    let mut of_machine = |name, help, value| page.metric(name, Kind::Gauge, help).sample(&identity, value, None);
    of_machine("machine_cpu_cores", "Number of logical CPU cores.", machine.cpus as f64);
    of_machine("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory_bytes as f64);
    of_machine("machine_swap_bytes", "Amount of swap memory available on the machine.", meminfo_bytes("SwapTotal") as f64);
    page.text()
}

fn write(page: &mut Page, subjects: &[Subject]) {
    for metric in METRICS {
        let mut samples = page.metric(metric.name, metric.kind, metric.help);
        for it in subjects {
            let at_ms = metric.timed.then_some(it.stats.timestamp_ns / 1_000_000);
            let labels = [
                ("container", &*it.container),
                ("id", &it.id),
                ("image", &it.image),
                ("name", &it.name),
                ("namespace", &it.namespace),
                ("pod", &it.pod),
            ];
            match metric.values {
                One(value) => value(it).into_iter().for_each(|value| samples.sample(&labels, value, at_ms)),
                By(label, values) => {
                    for (of, value) in values(it) {
                        samples.sample(&[&labels[..], &[(label, &of)]].concat(), value, at_ms);
                    }
                }
            }
        }
    }
}

/// And whether one of them could not be read though it is there.
async fn subjects(api: &Api, machine: &Machine) -> (Vec<Subject>, bool) {
    let runtime = &api.node.runtime;
    let device = figures::device_of(&api.node.config.data_dir);
    let space = rustix::fs::statvfs(&api.node.config.data_dir).ok();
    let (capacity, used) = space.map_or((0, 0), |it| (it.f_blocks * it.f_frsize, (it.f_blocks - it.f_bfree) * it.f_frsize));
    let disk = |used_bytes| Some(Disk { device: device.clone(), used_bytes, capacity_bytes: capacity });
    let mut failed = false;
    let mut out = vec![node(machine, disk(used))];
    for it in figures::pods(api, &mut failed).await {
        let Some(details) = figures::read(runtime.sandbox_details(&it.id).await, &mut failed) else { continue };
        out.push(Subject {
            id: details.cgroup.clone(),
            namespace: it.namespace,
            pod: it.name,
            started: Some(it.started),
            stats: it.stats.total,
            network: it.stats.network,
            details,
            ..Subject::default()
        });
    }
    for it in figures::containers(api, &mut failed).await {
        let Some(details) = figures::read(runtime.container_details(&it.id).await, &mut failed) else { continue };
        let Some(written) = figures::read(api.layers.written(runtime, &it.id).await, &mut failed) else { continue };
        out.push(Subject {
            id: details.cgroup.clone(),
            image: it.image,
            name: it.id,
            namespace: it.namespace,
            pod: it.pod,
            container: it.name,
            started: it.started,
            disk: disk(written.bytes),
            stats: it.stats,
            details,
            ..Subject::default()
        });
    }
    (out, failed)
}

/// The node, from /proc: the root group of cgroups v2 does not count memory.
fn node(machine: &Machine, disk: Option<Disk>) -> Subject {
    let now = Timestamp::now();
    let (processors, memory) = (figures::processors(), figures::memory());
    Subject {
        id: NODE.to_owned(),
        started: i64::try_from(processors.booted_s).ok().and_then(|it| Timestamp::from_second(it).ok()),
        stats: ContainerStats {
            timestamp_ns: now.as_nanosecond(),
            cpu_usage_ns: processors.total_ns,
            memory_usage_bytes: memory.total.saturating_sub(meminfo_bytes("MemFree")),
            memory_working_set_bytes: memory.used,
            memory_rss_bytes: meminfo_bytes("AnonPages"),
            memory_swap_bytes: memory.swap_used,
            memory_limit_bytes: Some(machine.memory_bytes),
            ..ContainerStats::default()
        },
        details: Details {
            cgroup: NODE.to_owned(),
            cpu_user_ns: processors.user_ns,
            cpu_system_ns: processors.system_ns,
            memory_cache_bytes: meminfo_bytes("Cached"),
            memory_mapped_bytes: meminfo_bytes("Mapped"),
            ..Details::default()
        },
        network: figures::interfaces(),
        disk,
        ..Subject::default()
    }
}

#[cfg(test)]
mod tests {
    use knarr_runtime::Throttling;

    use super::*;

    /// The lines of one metric.
    fn lines(subjects: &[Subject], name: &str) -> Vec<String> {
        let mut page = Page::default();
        write(&mut page, subjects);
        let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        page.text().lines().filter(own).map(str::to_owned).collect()
    }

    fn container() -> Subject {
        Subject {
            id: "/knarr/pod1/c".into(),
            image: "busybox:1".into(),
            name: "c".into(),
            namespace: "default".into(),
            pod: "p".into(),
            container: "main".into(),
            stats: ContainerStats { timestamp_ns: 5_000_000_000, cpu_usage_ns: 1_500_000_000, ..ContainerStats::default() },
            ..Subject::default()
        }
    }

    #[test]
    fn a_sample_says_whose_it_is_and_when_it_was_read() {
        let labels = r#"container="main",id="/knarr/pod1/c",image="busybox:1",name="c",namespace="default",pod="p""#;
        let usage = format!("container_cpu_usage_seconds_total{{{labels},cpu=\"total\"}} 1.5 5000");
        assert_eq!(lines(&[container()], "container_cpu_usage_seconds_total"), [usage]);
        assert_eq!(
            lines(&[container()], "container_spec_memory_limit_bytes"),
            [format!("container_spec_memory_limit_bytes{{{labels}}} 0")]
        );
    }

    #[test]
    fn what_is_not_counted_is_not_told() {
        let node = Subject { id: NODE.into(), ..Subject::default() };
        let subjects = [node, container()];
        assert_eq!(lines(&subjects, "container_cpu_cfs_periods_total"), [""; 0]);
        assert_eq!(lines(&subjects, "container_pressure_cpu_waiting_seconds_total"), [""; 0]);
        assert_eq!(lines(&subjects, "container_processes").len(), 1);
        let mut limited = container();
        limited.details.throttling = Some(Throttling { periods: 7, ..Throttling::default() });
        limited.details.pressure = Some([Pressure { some_us: 2_000_000, full_us: 0 }; 3]);
        assert!(lines(&[limited], "container_cpu_cfs_periods_total")[0].ends_with(" 7 5000"));
    }

    #[test]
    fn metrics_stand_in_the_order_of_the_alphabet_and_once() {
        let names: Vec<&str> = METRICS.iter().map(|it| it.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
