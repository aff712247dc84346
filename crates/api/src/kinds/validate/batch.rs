//! batch/v1.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::pod::check_template;
use super::rules::{Rules, is_missing, selector};
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;
use crate::select::LabelSelector;
use crate::validate::immutable;

static JOB: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        parallelism min 0
        completions min 0
        activeDeadlineSeconds min 0
        backoffLimit min 0
        backoffLimitPerIndex min 0
        maxFailedIndexes min 0
        ttlSecondsAfterFinished min 0
        completionMode enum NonIndexed Indexed
        podReplacementPolicy enum TerminatingOrFailed Failed
        podFailurePolicy.rules[].action enum Ignore FailIndex FailJob Count
        podFailurePolicy.rules[].onExitCodes.operator enum In NotIn
        podFailurePolicy.rules[].onExitCodes.values required
        podFailurePolicy.rules[].onPodConditions[].type qualified
        podFailurePolicy.rules[].onPodConditions[].status enum True False Unknown
        successPolicy.rules required
        "#,
    )
});

/// Pods at a time and in all of an indexed job (upstream's maxParallelismForIndexedJob and the largest int32 of indexes).
const INDEXED_PARALLELISM_MAX: i64 = 100_000;

pub(in crate::kinds) fn job(object: &Object) -> FieldErrors {
    let Some(spec) = object.get(&["spec"]) else { return vec![FieldError::required("spec.template", "")] };
    let mut errors = job_spec(spec, "spec");
    let Some(selector_value) = spec.get("selector") else {
        errors.push(FieldError::required("spec.selector", ""));
        return errors;
    };
    let labels = &spec["template"]["metadata"]["labels"];
    if let Ok(wanted) = LabelSelector::from_value(selector_value)
        && !wanted.matches(|key| labels[key].as_str())
    {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &or_empty(labels), detail));
    }
    if !object.bool(&["spec", "manualSelector"]) && !object.uid().is_empty() {
        own_label(labels, "batch.kubernetes.io/controller-uid", object.uid(), &mut errors);
    }
    errors
}

fn or_empty(labels: &Value) -> Value {
    if labels.is_null() { json!({}) } else { labels.clone() }
}

/// Without a selector of its own, a job marks its pods itself.
fn own_label(labels: &Value, label: &str, value: &str, errors: &mut FieldErrors) {
    if labels[label] != value {
        let at = format!("spec.template.metadata.labels[{label}]");
        errors.push(FieldError::invalid(at, &labels[label], &format!("must be '{value}'")));
    }
}

/// What a Job and the template of a CronJob have in common.
fn job_spec(spec: &Value, at: &str) -> FieldErrors {
    let mut errors = Vec::new();
    JOB.check(spec, at, &mut errors);
    if let Some(value) = spec.get("selector") {
        selector(value, &format!("{at}.selector"), &mut errors);
    }
    indexed(spec, at, &mut errors);
    let Some(template) = spec.get("template") else {
        errors.push(FieldError::required(format!("{at}.template"), ""));
        return errors;
    };
    errors.extend(check_template(template, &format!("{at}.template")));
    let policy = text(&template["spec"], "restartPolicy");
    if !["OnFailure", "Never"].contains(&policy) {
        let detail = r#"valid values: "OnFailure", "Never""#;
        errors.push(FieldError::required(format!("{at}.template.spec.restartPolicy"), detail));
    }
    if spec.get("podFailurePolicy").is_some() && policy != "Never" {
        let detail = r#"only "Never" is supported when podFailurePolicy is specified"#;
        errors.push(FieldError::invalid(format!("{at}.template.spec.restartPolicy"), &policy.into(), detail));
    }
    failure_policy(spec, at, &mut errors);
    success_policy(spec, at, &mut errors);
    errors
}

fn indexed(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed {
        if spec.get("completions").is_none() {
            errors.push(FieldError::required(format!("{at}.completions"), "when completion mode is Indexed"));
        }
        if let Some(parallelism) = spec["parallelism"].as_i64().filter(|number| *number > INDEXED_PARALLELISM_MAX) {
            let detail = format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed");
            errors.push(FieldError::invalid(format!("{at}.parallelism"), &parallelism.into(), &detail));
        }
        return;
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if let Some(value) = spec.get(key) {
            let detail = "requires indexed completion mode";
            errors.push(FieldError::invalid(format!("{at}.{key}"), value, detail));
        }
    }
}

fn failure_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    for (index, rule) in list(&spec["podFailurePolicy"], "rules").iter().enumerate() {
        let at = format!("{at}.podFailurePolicy.rules[{index}]");
        let given = [rule.get("onExitCodes").is_some(), !list(rule, "onPodConditions").is_empty()];
        if given == [false, false] {
            errors.push(FieldError::invalid(&at, rule, "specifying one of OnExitCodes and OnPodConditions is required"));
        }
        if given == [true, true] {
            errors.push(FieldError::invalid(&at, rule, "specifying both OnExitCodes and OnPodConditions is not supported"));
        }
        if text(rule, "action") == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
            errors.push(FieldError::invalid(format!("{at}.action"), &"FailIndex".into(), "requires the backoffLimitPerIndex to be set"));
        }
        if text(&rule["onExitCodes"], "operator") == "In" && list(&rule["onExitCodes"], "values").contains(&0.into()) {
            errors.push(FieldError::invalid(format!("{at}.onExitCodes.values"), &0.into(), "must not be 0 for the In operator"));
        }
    }
    if spec.get("podFailurePolicy").is_some() && text(spec, "podReplacementPolicy") == "TerminatingOrFailed" {
        let value = &spec["podReplacementPolicy"];
        errors.push(FieldError::not_supported(format!("{at}.podReplacementPolicy"), value, &["Failed"]));
    }
}

fn success_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    for (index, rule) in list(&spec["successPolicy"], "rules").iter().enumerate() {
        if rule.get("succeededCount").is_none() && rule.get("succeededIndexes").is_none() {
            let at = format!("{at}.successPolicy.rules[{index}]");
            errors.push(FieldError::required(at, "at least one of succeededCount or succeededIndexes must be specified"));
        }
    }
}

pub(in crate::kinds) fn job_change(new: &Object, old: &Object) -> FieldErrors {
    let fixed: [&[&str]; 8] = [
        &["spec", "selector"],
        &["spec", "manualSelector"],
        &["spec", "completionMode"],
        &["spec", "podFailurePolicy"],
        &["spec", "backoffLimitPerIndex"],
        &["spec", "managedBy"],
        &["spec", "successPolicy"],
        &["spec", "template"],
    ];
    let mut new = new.clone();
    if old.bool(&["spec", "suspend"]) && old.str(&["status", "startTime"]).is_empty() {
        // A job that never ran may still be placed elsewhere (a queue's admission does so).
        for path in SCHEDULING {
            let path = [&["spec", "template"][..], path].concat();
            match old.get(&path) {
                Some(value) => new.set(&path, value.clone()),
                None => drop(new.remove(&path)),
            }
        }
    }
    let mut errors = immutable(&new, old, &fixed);
    let completions = |object: &Object| object.int(&["spec", "completions"]);
    // An indexed job may change both together.
    let elastic = new.str(&["spec", "completionMode"]) == "Indexed"
        && completions(&new).is_some()
        && completions(&new) == new.int(&["spec", "parallelism"]);
    if completions(&new) != completions(old) && !elastic {
        errors.extend(immutable(&new, old, &[&["spec", "completions"]]));
    }
    errors
}

/// Where the pods of a suspended job run: parts of the template that may change.
const SCHEDULING: [&[&str]; 6] = [
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["spec", "nodeSelector"],
    &["spec", "affinity"],
    &["spec", "tolerations"],
    &["spec", "schedulingGates"],
];

static CRON_JOB: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.schedule required
        spec.startingDeadlineSeconds min 0
        spec.concurrencyPolicy enum Allow Forbid Replace
        spec.successfulJobsHistoryLimit min 0
        spec.failedJobsHistoryLimit min 0
        "#,
    )
});

/// The names of its jobs, which add eleven characters, are label values.
const CRON_NAME_MAX: usize = 52;

pub(in crate::kinds) fn cron_job(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CRON_JOB, object);
    if object.name().len() > CRON_NAME_MAX {
        let detail = format!("must be no more than {CRON_NAME_MAX} characters");
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &detail));
    }
    let schedule = object.str(&["spec", "schedule"]);
    if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid("spec.schedule", &schedule.into(), detail));
    } else if !schedule.is_empty()
        && let Err(fault) = check_schedule(schedule)
    {
        errors.push(FieldError::invalid("spec.schedule", &schedule.into(), &fault));
    }
    if let Some(zone) = object.get(&["spec", "timeZone"]).and_then(Value::as_str) {
        time_zone(zone, &mut errors);
    }
    match object.get(&["spec", "jobTemplate", "spec"]) {
        Some(spec) => {
            errors.extend(job_spec(spec, "spec.jobTemplate.spec"));
            if spec["manualSelector"] == true {
                errors.push(FieldError::not_supported("spec.jobTemplate.spec.manualSelector", &true.into(), &["nil", "false"]));
            }
        }
        None if is_missing(object.get(&["spec", "jobTemplate"])) => errors.push(FieldError::required("spec.jobTemplate", "")),
        None => errors.push(FieldError::required("spec.jobTemplate.spec.template", "")),
    }
    errors
}

/// Names only: whether the zone exists is seen where the clock is read.
fn time_zone(zone: &str, errors: &mut FieldErrors) {
    let detail = match zone {
        "" => "timeZone must be nil or non-empty string",
        zone if zone.eq_ignore_ascii_case("local") => {
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        }
        zone if !zone.chars().all(|c| c.is_ascii_alphanumeric() || "_/+-".contains(c)) => {
            "unknown time zone: letters, digits, `_`, `/`, `+` and `-` only"
        }
        _ => return,
    };
    errors.push(FieldError::invalid("spec.timeZone", &zone.into(), detail));
}

/// A schedule of five fields, or one of the words for common ones (robfig/cron, ParseStandard).
fn check_schedule(schedule: &str) -> Result<(), String> {
    if let Some(word) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every =
            word.strip_prefix("every ").is_some_and(|span| span.parse::<jiff::SignedDuration>().is_ok_and(|span| span.is_positive()));
        return if known.contains(&word) || every { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly {} fields, found {}: {fields:?}", FIELDS.len(), fields.len()));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(text, field)| text.split(',').try_for_each(|part| field.check(part)))
}

struct CronField {
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

/// Minute, hour, day of the month, month, day of the week.
const FIELDS: [CronField; 5] = [
    CronField { least: 0, most: 59, names: &[] },
    CronField { least: 0, most: 23, names: &[] },
    CronField { least: 1, most: 31, names: &[] },
    CronField { least: 1, most: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] },
    CronField { least: 0, most: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

impl CronField {
    /// `*`, `?`, `5`, `1-5`, each with a step: `*/15`.
    fn check(&self, part: &str) -> Result<(), String> {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        if let Some(step) = step
            && step.parse::<u32>().ok().is_none_or(|step| step == 0)
        {
            return Err(format!("step of range should be a positive number: {part}"));
        }
        if matches!(range, "*" | "?") {
            return Ok(());
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (self.number(first)?, self.number(last)?);
        match () {
            () if first < self.least => Err(format!("beginning of range ({first}) below minimum ({}): {part}", self.least)),
            () if last > self.most => Err(format!("end of range ({last}) above maximum ({}): {part}", self.most)),
            () if first > last => Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}")),
            () => Ok(()),
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|at| u32::try_from(at).ok());
        named.map(|at| at + self.least).or_else(|| text.parse().ok()).ok_or_else(|| format!("failed to parse int from {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0-23/2 1,15 jan-MAR sun", "@daily", "@every 1h30m", "0 0 ? * 6"] {
            assert_eq!(check_schedule(good), Ok(()), "{good}");
        }
        for (bad, fault) in [
            ("* * * *", "expected exactly 5 fields"),
            ("60 * * * *", "end of range (60) above maximum (59)"),
            ("* * 0 * *", "beginning of range (0) below minimum (1)"),
            ("5-1 * * * *", "beginning of range (5) beyond"),
            ("*/0 * * * *", "step of range"),
            ("x * * * *", "failed to parse int from x"),
            ("@sometimes", "unrecognized descriptor"),
            ("@every soon", "unrecognized descriptor"),
        ] {
            assert!(check_schedule(bad).unwrap_err().starts_with(fault), "{bad}");
        }
    }
}
