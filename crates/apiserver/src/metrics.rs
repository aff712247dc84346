//! What `/metrics` tells of requests, in the Prometheus text format and under upstream's names.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::RwLock;

/// Upper bounds of the latency buckets, in seconds: a part of upstream's for apiserver_request_duration_seconds.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Different label sets that are kept; with all built-in kinds, verbs and codes there are about 3,000. What comes beyond is counted under `other`,
/// so that odd requests cannot fill the memory (CVE-2020-8552).
const SERIES_MAX: usize = 8_000;

/// What requests are counted by. Every part comes from the tables of kinds and verbs, never from the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Labels {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
}

#[derive(Debug, Default)]
struct Series {
    /// By status code.
    codes: RwLock<BTreeMap<u16, u64>>,
    buckets: [AtomicU64; BUCKETS.len()],
    micros: AtomicU64,
    count: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: RwLock<BTreeMap<Labels, Series>>,
    /// Requests being served, watches included.
    inflight: AtomicI64,
    pub(crate) watches: AtomicI64,
}

/// A request that is being served. Its drop is its end, also when its client has left and nobody waits for the answer any more.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a AtomicI64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn running(&self) -> Running<'_> {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        Running(&self.inflight)
    }

    pub(crate) fn observe(&self, labels: &Labels, code: u16, took: Duration) {
        let known = self.series.read();
        if let Some(series) = known.get(labels) {
            return series.observe(code, took);
        }
        drop(known);
        let mut all = self.series.write();
        let labels = if all.len() < SERIES_MAX { labels.clone() } else { Labels { verb: "other", ..Labels::default() } };
        all.entry(labels).or_default().observe(code, took);
    }

    /// The page. `objects` are the stored objects by resource.
    pub(crate) fn render(&self, objects: &[(String, usize)]) -> String {
        let mut page = String::new();
        self.write(&mut page, objects).expect("writing to a String does not fail");
        page
    }

    /// One metric more for the page: values with their labels, which may be empty.
    pub(crate) fn append(page: &mut String, name: &str, kind: &str, help: &str, values: &[(String, u64)]) {
        let line = |page: &mut String, (labels, value): &(String, u64)| match labels.as_str() {
            "" => writeln!(page, "{name} {value}"),
            labels => writeln!(page, "{name}{{{labels}}} {value}"),
        };
        let written = head(page, name, kind, help).and_then(|()| values.iter().try_for_each(|value| line(page, value)));
        written.expect("writing to a String does not fail");
    }

    fn write(&self, page: &mut String, objects: &[(String, usize)]) -> std::fmt::Result {
        let series = self.series.read();
        head(page, "apiserver_request_total", "counter", "Requests by verb, resource and status code.")?;
        for (labels, series) in series.iter() {
            for (code, count) in series.codes.read().iter() {
                writeln!(page, "apiserver_request_total{{{},code=\"{code}\"}} {count}", labels.text())?;
            }
        }
        head(page, "apiserver_request_duration_seconds", "histogram", "Time to answer, without watches and other long-running requests.")?;
        for (labels, series) in series.iter() {
            series.write_histogram(page, &labels.text())?;
        }
        head(page, "apiserver_current_inflight_requests", "gauge", "Requests being served.")?;
        writeln!(page, "apiserver_current_inflight_requests {}", self.inflight.load(Ordering::Relaxed))?;
        head(page, "apiserver_longrunning_requests", "gauge", "Watches being served.")?;
        writeln!(page, "apiserver_longrunning_requests {}", self.watches.load(Ordering::Relaxed))?;
        head(page, "apiserver_storage_objects", "gauge", "Stored objects by resource.")?;
        objects.iter().try_for_each(|(resource, count)| writeln!(page, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"))
    }
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

impl Labels {
    fn text(&self) -> String {
        let Self { verb, group, version, resource, subresource } = self;
        format!(r#"verb="{verb}",group="{group}",version="{version}",resource="{resource}",subresource="{subresource}""#)
    }
}

impl Series {
    fn observe(&self, code: u16, took: Duration) {
        *self.codes.write().entry(code).or_default() += 1;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(bucket) = BUCKETS.iter().position(|bound| took.as_secs_f64() <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write_histogram(&self, page: &mut String, labels: &str) -> std::fmt::Result {
        const NAME: &str = "apiserver_request_duration_seconds";
        let mut below = 0;
        for (bound, count) in BUCKETS.iter().zip(&self.buckets) {
            below += count.load(Ordering::Relaxed);
            writeln!(page, "{NAME}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
        }
        let count = self.count.load(Ordering::Relaxed);
        writeln!(page, "{NAME}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        writeln!(page, "{NAME}_sum{{{labels}}} {}", self.micros.load(Ordering::Relaxed) as f64 / 1e6)?;
        writeln!(page, "{NAME}_count{{{labels}}} {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_code_and_time() {
        let metrics = Metrics::default();
        let labels = Labels { verb: "get", resource: "pods".into(), version: "v1".into(), ..Labels::default() };
        metrics.observe(&labels, 200, Duration::from_millis(2));
        metrics.observe(&labels, 404, Duration::from_secs(100));
        let page = metrics.render(&[("pods".into(), 7)]);
        for line in [
            r#"apiserver_request_total{verb="get",group="",version="v1",resource="pods",subresource="",code="404"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{verb="get",group="",version="v1",resource="pods",subresource="",le="0.005"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{verb="get",group="",version="v1",resource="pods",subresource="",le="+Inf"} 2"#,
            r#"apiserver_storage_objects{resource="pods"} 7"#,
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn odd_requests_do_not_fill_the_memory() {
        let metrics = Metrics::default();
        for n in 0..SERIES_MAX + 10 {
            metrics.observe(&Labels { verb: "get", resource: n.to_string(), ..Labels::default() }, 200, Duration::ZERO);
        }
        assert!(metrics.series.read().len() <= SERIES_MAX + 1);
    }
}
