//! `/metrics`, `/metrics/resource` and `/metrics/probes`. Names, labels and words are upstream's.

use knarr_api::exposition::{Kind, Page};
use knarr_runtime::{ContainerState, SandboxState};

use super::{Api, figures};
use crate::pod::status;
use crate::pod::tally::{BOUNDS_S, Tally};

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The kubelet's own figures.
pub(super) fn own(api: &Api) -> String {
    let mut page = Page::default();
    let runtime = &api.node.runtime;
    let version = crate::register::version();
    page.metric(
        "kubernetes_build_info",
        Kind::Gauge,
        "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, \
         and compiler from which Kubernetes was built, and platform on which it is running.",
    )
    .sample(&[("git_version", &version), ("major", "1"), ("minor", "37")], 1.0, None);
    page.metric("kubelet_node_name", Kind::Gauge, "[ALPHA] The node's name. The count is always 1.").sample(
        &[("node", &api.node.config.node_name)],
        1.0,
        None,
    );
    let sandboxes = runtime.list_sandboxes().iter().filter(|it| it.state == SandboxState::Ready).count();
    page.single("kubelet_running_pods", Kind::Gauge, "[BETA] Number of pods that have a running pod sandbox", sandboxes as f64);
    let mut containers = page.metric("kubelet_running_containers", Kind::Gauge, "[BETA] Number of containers currently running");
    let states = runtime.list_containers();
    for (name, of) in [
        ("created", (|it| matches!(it, ContainerState::Created)) as fn(&ContainerState) -> bool),
        ("exited", |it| matches!(it, ContainerState::Exited(_))),
        ("running", |it| matches!(it, ContainerState::Running { .. })),
    ] {
        containers.sample(&[("container_state", name)], states.iter().filter(|it| of(&it.state)).count() as f64, None);
    }
    page.single(
        "kubelet_desired_pods",
        Kind::Gauge,
        "[ALPHA] The number of pods the kubelet is being instructed to run.",
        api.pods.all().iter().filter(|it| !it.desired().gone).count() as f64,
    );
    process(&mut page);
    page.text()
}

/// The process that answers. Where the API server is in it, it is part of what is told.
fn process(page: &mut Page) {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9;
    page.single("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.", cpu);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    // proc_pid_statm(5): size, resident, ... in pages.
    let pages: u64 = statm.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
    let resident = pages * rustix::param::page_size() as u64;
    page.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.", resident as f64);
    start_time(page);
}

fn start_time(page: &mut Page) {
    // proc_pid_stat(5), field 22, counted behind the name of the program, which may hold anything: in ticks since the node was started.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok()).unwrap_or(0.0);
    let started = figures::processors().booted_s as f64 + ticks / rustix::param::clock_ticks_per_second() as f64;
    page.single("process_start_time_seconds", Kind::Gauge, "Start time of the process since unix epoch in seconds.", started);
}

/// What metrics-server and `kubectl top` build on.
pub(super) async fn resource(api: &Api) -> String {
    let mut failed = false;
    let (containers, pods) = (figures::containers(api, &mut failed).await, figures::pods(api, &mut failed).await);
    let at_ms = jiff::Timestamp::now().as_millisecond().into();
    let mut page = Page::default();
    // When a container started is told without the time at which it was read.
    let mut of_containers = |name, kind, help, timed: bool, value: fn(&figures::Container) -> Option<f64>| {
        let mut metric = page.metric(name, kind, help);
        for it in &containers {
            let labels = [("container", &*it.name), ("namespace", &it.namespace), ("pod", &it.pod)];
            let at_ms = timed.then_some(it.stats.timestamp_ns / 1_000_000);
            value(it).into_iter().for_each(|value| metric.sample(&labels, value, at_ms));
        }
    };
    of_containers(
        "container_cpu_usage_seconds_total",
        Kind::Counter,
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        true,
        |it| Some(seconds(it.stats.cpu_usage_ns)),
    );
    of_containers(
        "container_memory_working_set_bytes",
        Kind::Gauge,
        "[STABLE] Current working set of the container in bytes",
        true,
        |it| Some(it.stats.memory_working_set_bytes as f64),
    );
    of_containers(
        "container_start_time_seconds",
        Kind::Gauge,
        "[STABLE] Start time of the container since unix epoch in seconds",
        false,
        |it| it.started.map(|it| it.as_millisecond() as f64 / 1e3),
    );
    of_containers(
        "container_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        true,
        |it| Some(it.stats.memory_swap_bytes as f64),
    );
    let mut of_pods = |name, kind, help, value: fn(&figures::Pod) -> f64| {
        let mut metric = page.metric(name, kind, help);
        for it in &pods {
            let at_ms = Some(it.stats.total.timestamp_ns / 1_000_000);
            metric.sample(&[("namespace", &it.namespace), ("pod", &it.name)], value(it), at_ms);
        }
    };
    of_pods("pod_cpu_usage_seconds_total", Kind::Counter, "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", |it| {
        seconds(it.stats.total.cpu_usage_ns)
    });
    of_pods("pod_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the pod in bytes", |it| {
        it.stats.total.memory_working_set_bytes as f64
    });
    let memory = figures::memory();
    let mut node = |name, kind, help, value| page.metric(name, kind, help).sample(&[], value, Some(at_ms));
    node(
        "node_cpu_usage_seconds_total",
        Kind::Counter,
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        seconds(figures::processors().total_ns),
    );
    node("node_memory_working_set_bytes", Kind::Gauge, "[STABLE] Current working set of the node in bytes", memory.used as f64);
    node(
        "node_swap_usage_bytes",
        Kind::Gauge,
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        memory.swap_used as f64,
    );
    page.single(
        "resource_scrape_error",
        Kind::Gauge,
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        if failed { 1.0 } else { 0.0 },
    );
    page.text()
}

/// How probes were answered, of the pods that are here and have not ended.
pub(super) fn probes(api: &Api) -> String {
    let workers = api.pods.all();
    let mut all = Vec::new();
    for worker in workers.iter().filter(|it| !status::is_final(&it.memory.lock().last)) {
        let pod = worker.desired().pod;
        for ((container, kind), tally) in worker.tallies.lock().iter() {
            all.push((pod.clone(), worker.uid.as_str(), container.clone(), kind.title(), tally.clone()));
        }
    }
    let name = |it: &Option<String>| it.clone().unwrap_or_default();
    let mut page = Page::default();
    let mut totals = page.metric(
        "prober_probe_total",
        Kind::Counter,
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for (pod, uid, container, kind, Tally { failed, successful, .. }) in &all {
        let (namespace, pod) = (name(&pod.metadata.namespace), name(&pod.metadata.name));
        for (result, count) in [("failed", failed), ("successful", successful)].into_iter().filter(|(_, count)| **count > 0) {
            let labels = [
                ("container", container.as_str()),
                ("namespace", &namespace),
                ("pod", &pod),
                ("pod_uid", uid),
                ("probe_type", kind),
                ("result", result),
            ];
            totals.sample(&labels, *count as f64, None);
        }
    }
    let mut durations = page.metric("prober_probe_duration_seconds", Kind::Histogram, "[ALPHA] Duration in seconds for a probe response.");
    // No uid here, as upstream: of two pods of one name, one of which is ending, the one that is wanted is told.
    all.sort_by_key(|(pod, ..)| pod.metadata.deletion_timestamp.is_some());
    let mut seen = std::collections::HashSet::new();
    for (pod, _, container, kind, tally) in all.iter().filter(|it| it.4.successful > 0) {
        let (namespace, pod) = (name(&pod.metadata.namespace), name(&pod.metadata.name));
        if !seen.insert((namespace.clone(), pod.clone(), container, kind)) {
            continue;
        }
        let labels = [("container", container.as_str()), ("namespace", &namespace), ("pod", &pod), ("probe_type", kind)];
        durations.histogram(&labels, &BOUNDS_S, &tally.buckets, tally.sum.as_secs_f64(), tally.successful);
    }
    start_time(&mut page);
    page.text()
}
