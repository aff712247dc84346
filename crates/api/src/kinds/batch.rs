//! batch/v1: jobs, and jobs by the clock.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::apps::{apply, default_template};
use super::columns::{age, boolean, format_selector, int, len, name, or_none, template, text, wide};
use super::defaults::Defaults;
use super::podspec;
use super::row::row;
use super::validate::{self, batch as rules, cron, job_status};
use crate::kind::Kind;
use crate::object::Object;
use crate::time;

/// Upstream's words (registry/batch/job/storage, deleteOptionWarnings): clients look for them.
const PODS_STAY: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
     propagationPolicy=Orphan to suppress this warning";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("batch", "v1", "Job", "jobs")
            .inert()
            .orphans_with_warning(PODS_STAY)
            .in_all()
            .status()
            .counts_generations()
            .default_by(default_job)
            .prepare_by(select_own_pods, |_, _| ())
            .validate_by(rules::job)
            .validate_change_by(rules::job_change)
            .validate_status_by(job_status::job_status)
            .warn_by(validate::template_warnings)
            .columns(
                [name(), text("Status", status), text("Completions", completions), text("Duration", duration), age()]
                    .into_iter()
                    .chain(template())
                    .chain([wide("Selector", |o, _| format_selector(o.get(&["spec", "selector"])))])
                    .collect(),
            )
            .select("status.successful", |o| o.int(&["status", "succeeded"]).unwrap_or(0).to_string()),
        row("batch", "v1", "CronJob", "cronjobs")
            .inert()
            .short(&["cj"])
            .in_all()
            .status()
            .counts_generations()
            .default_by(default_cron_job)
            .validate_by(cron::cron_job)
            .validate_creation_by(cron::new_cron_job)
            .validate_change_by(cron::cron_job_change)
            .columns(vec![
                name(),
                text("Schedule", |o, _| o.str(&["spec", "schedule"]).into()),
                text("Timezone", |o, _| or_none(o.str(&["spec", "timeZone"]))),
                boolean("Suspend", |o, _| o.bool(&["spec", "suspend"]).into()),
                int("Active", |o, _| len(o, &["status", "active"]).into()),
                text("Last Schedule", |o, now| match o.str(&["status", "lastScheduleTime"]) {
                    "" => "<none>".into(),
                    last => time::age(last, now).into(),
                }),
                age(),
                wide("Containers", |o, _| super::columns::containers(o, &JOB_POD, "name")),
                wide("Images", |o, _| super::columns::containers(o, &JOB_POD, "image")),
                wide("Selector", |o, _| format_selector(o.get(&["spec", "jobTemplate", "spec", "selector"]))),
            ]),
    ]
}

const JOB_POD: [&str; 5] = ["spec", "jobTemplate", "spec", "template", "spec"];

static JOB: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.parallelism = 1
        spec.completionMode = "NonIndexed"
        spec.suspend = false
        spec.podFailurePolicy.rules[].onPodConditions[].status = "True"
        "#,
    )
});

/// Failed pods before a job fails; without a limit where each index has its own.
const BACKOFF_LIMIT: i32 = 6;

fn default_job(object: &mut Object) {
    // Only where neither is given: a parallelism alone is a work queue.
    if object.get(&["spec", "completions"]).is_none() && object.get(&["spec", "parallelism"]).is_none() {
        object.set(&["spec", "completions"], 1.into());
    }
    apply(object, &JOB);
    if object.get(&["spec", "backoffLimit"]).is_none() {
        let limit = if object.get(&["spec", "backoffLimitPerIndex"]).is_some() { i32::MAX } else { BACKOFF_LIMIT };
        object.set(&["spec", "backoffLimit"], limit.into());
    }
    if object.str(&["spec", "podReplacementPolicy"]).is_empty() {
        let policy = if object.get(&["spec", "podFailurePolicy"]).is_some() { "Failed" } else { "TerminatingOrFailed" };
        object.set(&["spec", "podReplacementPolicy"], policy.into());
    }
    if object.labels().next().is_none()
        && let Some(labels) = object.get(&["spec", "template", "metadata", "labels"]).cloned()
    {
        object.set(&["metadata", "labels"], labels);
    }
    default_template(object);
}

/// Labels by which a job knows its pods, the older names beside the newer.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// A job selects its pods by its uid, unless the client wants to see to that.
fn select_own_pods(object: &mut Object) {
    if object.bool(&["spec", "manualSelector"]) {
        return;
    }
    let (uid, name) = (object.uid().to_owned(), object.name().to_owned());
    for (labels, value) in [(UID_LABELS, &uid), (NAME_LABELS, &name)] {
        for label in labels {
            let path = ["spec", "template", "metadata", "labels", label];
            // A label of another value stays, and is refused in validation.
            if object.get(&path).is_none() {
                object.set(&path, value.as_str().into());
            }
        }
    }
    let path = ["spec", "selector", "matchLabels", UID_LABELS[0]];
    if object.get(&path).is_none() {
        object.set(&path, uid.into());
    }
}

static CRON_JOB: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.concurrencyPolicy = "Allow"
        spec.suspend = false
        spec.successfulJobsHistoryLimit = 3
        spec.failedJobsHistoryLimit = 1
        "#,
    )
});

fn default_cron_job(object: &mut Object) {
    apply(object, &CRON_JOB);
    if let Some(spec) = object.get_mut(&JOB_POD) {
        podspec::default_spec(spec);
    }
}

fn condition<'a>(object: &'a Object, ty: &str) -> Option<&'a Value> {
    object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == ty && condition["status"] == "True")
}

fn status(object: &Object, _: jiff::Timestamp) -> Value {
    let known = [("Complete", "Complete"), ("Failed", "Failed")];
    if let Some((_, word)) = known.iter().find(|(ty, _)| condition(object, ty).is_some()) {
        return (*word).into();
    }
    if !object.deletion_timestamp().is_empty() {
        return "Terminating".into();
    }
    let later = [("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")];
    later.iter().find(|(ty, _)| condition(object, ty).is_some()).map_or("Running", |(_, word)| word).into()
}

/// `1/3`; `0/1 of 5` for a work queue.
fn completions(object: &Object, _: jiff::Timestamp) -> Value {
    let succeeded = object.int(&["status", "succeeded"]).unwrap_or(0);
    if let Some(wanted) = object.int(&["spec", "completions"]) {
        return format!("{succeeded}/{wanted}").into();
    }
    match object.int(&["spec", "parallelism"]).unwrap_or(0) {
        parallelism @ 2.. => format!("{succeeded}/1 of {parallelism}").into(),
        _ => format!("{succeeded}/1").into(),
    }
}

fn duration(object: &Object, now: jiff::Timestamp) -> Value {
    let Some(started) = time::parse(object.str(&["status", "startTime"])) else { return json!("") };
    let ended = [object.str(&["status", "completionTime"])]
        .into_iter()
        .chain(condition(object, "Failed").and_then(|failed| failed["lastTransitionTime"].as_str()))
        .find_map(time::parse);
    time::human_duration(ended.unwrap_or(now).as_second() - started.as_second()).into()
}
