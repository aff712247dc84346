//! How often the probes of a pod were answered well and badly, and how fast: counted as they are made, told by `/metrics/probes`. Goes with
//! the pod's worker.

use std::time::Duration;

/// Upper bounds of the buckets, in seconds: those of Prometheus' clients (DefBuckets), as upstream.
pub(crate) const BOUNDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Of one probe of one container, over all its restarts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) failed: u64,
    pub(crate) successful: u64,
    /// Good answers that took at most so long, and longer than the bound before. Upstream, too, times good answers only.
    pub(crate) buckets: [u64; BOUNDS_S.len()],
    /// Of all good answers.
    pub(crate) sum: Duration,
}

impl Tally {
    pub(crate) fn succeeded(&mut self, took: Duration) {
        self.successful += 1;
        self.sum += took;
        if let Some(at) = BOUNDS_S.iter().position(|bound| took.as_secs_f64() <= *bound) {
            self.buckets[at] += 1;
        }
    }

    pub(crate) fn failed(&mut self) {
        self.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_the_time_they_took() {
        let mut tally = Tally::default();
        for ms in [1, 5, 6, 3_000, 20_000] {
            tally.succeeded(Duration::from_millis(ms));
        }
        tally.failed();
        assert_eq!((tally.successful, tally.failed, tally.sum), (5, 1, Duration::from_millis(23_012)));
        assert_eq!(tally.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }
}
