//! What a kubelet tells under `/metrics/resource` at one moment, and the difference between two moments.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use jiff::Timestamp;

/// Counters of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    /// Seconds of processor time since it began.
    cpu_seconds: f64,
    memory_bytes: u64,
    /// When they were read, in milliseconds since 1970.
    at_ms: i64,
}

/// Between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) nanocores: u64,
    pub(super) memory_bytes: u64,
}

impl Counters {
    /// None where there is no time between, or where it began anew.
    pub(super) fn since(&self, first: &Self) -> Option<Used> {
        // A kubelet says what time it was.
        let (seconds, milliseconds) = (self.cpu_seconds - first.cpu_seconds, self.at_ms.checked_sub(first.at_ms)?);
        (seconds >= 0.0 && milliseconds > 0)
            .then(|| Used { nanocores: (seconds * 1e12 / milliseconds as f64) as u64, memory_bytes: self.memory_bytes })
    }
}

pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) time: Timestamp,
    pub(super) node: Counters,
    /// By namespace and name, then by container.
    pub(super) pods: HashMap<(String, String), BTreeMap<String, Counters>>,
}

impl Look {
    /// What is not one of the four series, or cannot be read, is passed over.
    pub(super) fn parse(text: &str, at: Instant, time: Timestamp) -> Self {
        let mut look = Self { at, time, node: Counters::default(), pods: HashMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            look.read(line);
        }
        look
    }

    /// `name{labels} value [milliseconds]`
    fn read(&mut self, line: &str) -> Option<()> {
        let (name, rest) = line.split_at(line.find(['{', ' '])?);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}')?,
            None => ("", rest),
        };
        let mut words = rest.split_ascii_whitespace();
        let value: f64 = words.next()?.parse().ok()?;
        let at_ms = words.next().and_then(|text| text.parse().ok()).unwrap_or(self.time.as_millisecond());
        let (of_node, metric) = match name.strip_prefix("node_") {
            Some(metric) => (true, metric),
            None => (false, name.strip_prefix("container_")?),
        };
        let counters = if of_node { &mut self.node } else { self.container(labels)? };
        match metric {
            "cpu_usage_seconds_total" => {
                counters.cpu_seconds = value;
                counters.at_ms = at_ms;
            }
            "memory_working_set_bytes" => counters.memory_bytes = value as u64,
            _ => {}
        }
        Some(())
    }

    fn container(&mut self, labels: &str) -> Option<&mut Counters> {
        let label = |key: &str| {
            // Names have no commas and no quotation marks in them.
            let mut labels = labels.split(',').filter_map(|label| label.split_once('='));
            labels.find(|(name, _)| *name == key).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        let pod = self.pods.entry((label("namespace")?, label("pod")?)).or_default();
        Some(pod.entry(label("container")?).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="web",namespace="shop",pod="front"} 1.5 2000
container_memory_working_set_bytes{container="web",namespace="shop",pod="front"} 1.048576e+06 2000
container_start_time_seconds{container="web",namespace="shop",pod="front"} 1.7e9
node_cpu_usage_seconds_total 100
node_memory_working_set_bytes 2048
broken{
resource_scrape_error 0
"#;

    fn look(text: &str, milliseconds: i64) -> Look {
        Look::parse(text, Instant::now(), Timestamp::from_millisecond(milliseconds).unwrap())
    }

    fn web(look: &Look) -> Counters {
        look.pods[&("shop".to_owned(), "front".to_owned())]["web"]
    }

    #[test]
    fn use_is_the_difference_of_two_looks() {
        let first = look(TEXT, 2_000);
        let last = look(&TEXT.replace("} 1.5 2000", "} 1.75 4000").replace("total 100", "total 101"), 4_000);
        assert_eq!(web(&last).since(&web(&first)), Some(Used { nanocores: 125_000_000, memory_bytes: 1 << 20 }));
        assert_eq!(last.node.since(&first.node), Some(Used { nanocores: 500_000_000, memory_bytes: 2048 }));
    }

    #[test]
    fn what_is_not_told_is_not_zero() {
        let (first, last) = (look("", 1_000), look("", 2_000));
        assert_eq!(last.node.since(&first.node), None);
        let odd = |at: i64| look(&TEXT.replace("} 1.5 2000", &format!("}} 1.5 {at}")), 1_000);
        assert_eq!(web(&odd(i64::MAX)).since(&web(&odd(i64::MIN))), None);
    }

    #[test]
    fn what_began_anew_or_had_no_time_used_nothing_that_can_be_told() {
        let (first, same) = (look(TEXT, 2_000), look(TEXT, 2_000));
        assert_eq!(web(&same).since(&web(&first)), None);
        assert_eq!(web(&look(&TEXT.replace("} 1.5 2000", "} 0.1 4000"), 4_000)).since(&web(&first)), None);
    }
}
