//! What `/metrics` tells of webhooks, under upstream's names.

use std::collections::BTreeMap;

use knarr_api::{
    Status,
    exposition::{Kind, Page},
};
use parking_lot::Mutex;

use crate::admission::Request;

/// Different label sets that are kept: names of hooks come from configurations, of which there may be any number.
const SERIES_MAX: usize = 1_000;

const REJECTIONS: &str = "apiserver_admission_webhook_rejection_count";
const FAIL_OPEN: &str = "apiserver_admission_webhook_fail_open_count";

type Labels = Vec<(&'static str, String)>;

#[derive(Default)]
pub(crate) struct Counts(Mutex<BTreeMap<(&'static str, Labels), u64>>);

impl Counts {
    /// The hook's own word.
    pub(super) fn rejected(&self, hook: &str, mutating: bool, request: &Request<'_>, denial: Status) -> Status {
        self.reject(hook, mutating, request, "no_error", denial.code);
        denial
    }

    /// It could not be asked, and its failure policy is to refuse.
    pub(super) fn failed(&self, hook: &str, mutating: bool, request: &Request<'_>, failure: Status) -> Status {
        self.reject(hook, mutating, request, "calling_webhook_error", 0);
        failure
    }

    pub(super) fn passed_over(&self, hook: &str, mutating: bool) {
        self.count(FAIL_OPEN, vec![("name", hook.to_owned()), ("type", kind(mutating).to_owned())]);
    }

    fn reject(&self, hook: &str, mutating: bool, request: &Request<'_>, error: &str, code: u16) {
        let (kind, operation) = (kind(mutating), request.operation.word());
        self.count(
            REJECTIONS,
            vec![
                ("error_type", error.to_owned()),
                ("name", hook.to_owned()),
                ("operation", operation.to_owned()),
                ("rejection_code", code.to_string()),
                ("type", kind.to_owned()),
            ],
        );
    }

    fn count(&self, name: &'static str, labels: Labels) {
        let mut counts = self.0.lock();
        if counts.len() < SERIES_MAX || counts.contains_key(&(name, labels.clone())) {
            *counts.entry((name, labels)).or_default() += 1;
        }
    }

    /// Appends to the page.
    pub(crate) fn render(&self, page: &mut Page) {
        for (name, help) in
            [(REJECTIONS, "Requests that webhooks refused."), (FAIL_OPEN, "Webhooks passed over because they could not be asked.")]
        {
            let mut metric = page.metric(name, Kind::Counter, help);
            for ((_, labels), count) in self.0.lock().iter().filter(|((known, _), _)| *known == name) {
                let labels: Vec<_> = labels.iter().map(|(label, value)| (*label, &**value)).collect();
                metric.sample(&labels, *count as f64, None);
            }
        }
    }
}

fn kind(mutating: bool) -> &'static str {
    if mutating { "admit" } else { "validating" }
}
