//! What `/metrics` tells of requests, in the Prometheus text format and under upstream's names.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use knarr_api::exposition::{Kind, Label, Page};
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

    /// Adds them to the page. `objects` are the stored objects by resource.
    pub(crate) fn render(&self, page: &mut Page, objects: &[(String, usize)]) {
        let series = self.series.read();
        let mut requests = page.metric("apiserver_request_total", Kind::Counter, "Requests by verb, resource and status code.");
        for (labels, series) in series.iter() {
            for (code, count) in series.codes.read().iter() {
                requests.sample(&[&labels.pairs()[..], &[("code", &code.to_string())]].concat(), *count as f64, None);
            }
        }
        let help = "Time to answer, without watches and other long-running requests.";
        let mut durations = page.metric("apiserver_request_duration_seconds", Kind::Histogram, help);
        for (labels, series) in series.iter() {
            let counts: Vec<u64> = series.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
            let (micros, count) = (series.micros.load(Ordering::Relaxed), series.count.load(Ordering::Relaxed));
            durations.histogram(&labels.pairs(), &BUCKETS, &counts, micros as f64 / 1e6, count);
        }
        let mut now = |name, help, value: &AtomicI64| page.single(name, Kind::Gauge, help, value.load(Ordering::Relaxed) as f64);
        now("apiserver_current_inflight_requests", "Requests being served.", &self.inflight);
        now("apiserver_longrunning_requests", "Watches being served.", &self.watches);
        let mut stored = page.metric("apiserver_storage_objects", Kind::Gauge, "Stored objects by resource.");
        objects.iter().for_each(|(resource, count)| stored.sample(&[("resource", resource)], *count as f64, None));
    }
}

impl Labels {
    fn pairs(&self) -> [Label<'_>; 5] {
        let Self { verb, group, version, resource, subresource } = self;
        [("verb", verb), ("group", group), ("version", version), ("resource", resource), ("subresource", subresource)]
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
        let mut page = Page::default();
        metrics.render(&mut page, &[("pods".into(), 7)]);
        let page = page.text();
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
