//! The text format in which Prometheus reads metrics, version 0.0.4.

use std::fmt::Write as _;

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the values of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Name and value; the value may hold anything.
pub type Label<'a> = (&'a str, &'a str);

/// A page that is being written.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric. One without samples leaves no trace, as upstream.
    pub fn metric<'a>(&'a mut self, name: &'a str, kind: Kind, help: &'a str) -> Metric<'a> {
        Metric { page: &mut self.0, name, kind, help, begun: false }
    }

    /// A metric with one value and no labels.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.metric(name, kind, help).sample(&[], value, None);
    }

    /// The whole page.
    pub fn text(self) -> String {
        self.0
    }
}

/// A metric of a page: its samples follow.
pub struct Metric<'a> {
    page: &'a mut String,
    name: &'a str,
    kind: Kind,
    help: &'a str,
    begun: bool,
}

impl Metric<'_> {
    /// `at_ms`: when it was read, in milliseconds since 1970, if that is not now.
    pub fn sample(&mut self, labels: &[Label<'_>], value: f64, at_ms: Option<i128>) {
        self.line("", labels, value, at_ms);
    }

    /// `counts`: how many observations were at most as great as each of `bounds`, and greater than the one before.
    pub fn histogram(&mut self, labels: &[Label<'_>], bounds: &[f64], counts: &[u64], sum: f64, count: u64) {
        let mut so_far = 0;
        for (bound, own) in bounds.iter().zip(counts) {
            so_far += own;
            let bound = bound.to_string();
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), so_far as f64, None);
        }
        self.line("_bucket", &[labels, &[("le", "+Inf")]].concat(), count as f64, None);
        self.line("_sum", labels, sum, None);
        self.line("_count", labels, count as f64, None);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: f64, at_ms: Option<i128>) {
        let (page, name) = (&mut *self.page, self.name);
        if !std::mem::replace(&mut self.begun, true) {
            let help = self.help.replace('\\', r"\\").replace('\n', r"\n");
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {}", self.kind.name());
        }
        page.push_str(name);
        page.push_str(suffix);
        for (at, (label, value)) in labels.iter().enumerate() {
            page.push(if at == 0 { '{' } else { ',' });
            let _ = write!(page, "{label}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => page.push_str(r"\\"),
                    '"' => page.push_str("\\\""),
                    '\n' => page.push_str(r"\n"),
                    other => page.push(other),
                }
            }
            page.push('"');
        }
        if !labels.is_empty() {
            page.push('}');
        }
        let _ = write!(page, " {value}");
        if let Some(at_ms) = at_ms {
            let _ = write!(page, " {at_ms}");
        }
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn values_of_labels_may_hold_anything() {
        let mut page = Page::default();
        page.metric("absent", Kind::Gauge, "Has no samples");
        page.metric("a_total", Kind::Counter, "One\ntwo").sample(&[("b", "x\"y\\z\n"), ("c", "")], 0.5, Some(7));
        page.single("d", Kind::Gauge, "Alone", 3e10);
        expect![[r#"
            # HELP a_total One\ntwo
            # TYPE a_total counter
            a_total{b="x\"y\\z\n",c=""} 0.5 7
            # HELP d Alone
            # TYPE d gauge
            d 30000000000
        "#]]
        .assert_eq(&page.text());
    }

    #[test]
    fn buckets_hold_those_below_them_too() {
        let mut page = Page::default();
        page.metric("s", Kind::Histogram, "Seconds").histogram(&[("a", "b")], &[0.5, 1.0], &[2, 1], 9.0, 4);
        expect![[r#"
            # HELP s Seconds
            # TYPE s histogram
            s_bucket{a="b",le="0.5"} 2
            s_bucket{a="b",le="1"} 3
            s_bucket{a="b",le="+Inf"} 4
            s_sum{a="b"} 9
            s_count{a="b"} 4
        "#]]
        .assert_eq(&page.text());
    }
}
