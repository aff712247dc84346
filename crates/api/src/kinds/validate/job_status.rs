//! The status of a batch/v1 Job: what its controller, Knarr's or another, may say of it.

use std::sync::LazyLock;

use serde_json::Value;

use super::by_table;
use super::job_policy::index_ranges;
use super::rules::Rules;
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

static STATUS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        status.active min 0
        status.succeeded min 0
        status.failed min 0
        status.ready min 0
        status.terminating min 0
        "#,
    )
});

/// Whether a condition is true.
fn has(object: &Object, ty: &str) -> bool {
    object.list(&["status", "conditions"]).iter().any(|condition| condition["type"] == ty && condition["status"] == "True")
}

fn conditions_may_not(errors: &mut FieldErrors, detail: &str) {
    errors.push(FieldError::invalid_without_value("status.conditions", detail));
}

pub(in crate::kinds) fn job_status(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = by_table(&STATUS, new);
    uncounted(new, &mut errors);
    // What the stored status already had wrong is not held against another change.
    let mut rules = conditions(new);
    rules.extend(times(new));
    rules.extend(numbers(new));
    rules.extend(indexes(new));
    let known: FieldErrors = [conditions(old), times(old), numbers(old), indexes(old)].concat();
    errors.extend(rules.into_iter().filter(|error| !known.contains(error)));
    changes(new, old, &mut errors);
    errors
}

fn uncounted(new: &Object, errors: &mut FieldErrors) {
    let mut seen = Vec::new();
    for key in ["succeeded", "failed"] {
        for (index, uid) in new.list(&["status", "uncountedTerminatedPods", key]).iter().enumerate() {
            let at = format!("status.uncountedTerminatedPods.{key}[{index}]");
            if uid == "" {
                errors.push(FieldError::invalid(at, uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(FieldError::duplicate(at, uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

fn conditions(job: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let [complete, failed, target, met] = ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|ty| has(job, ty));
    for (wrong, detail) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            conditions_may_not(&mut errors, detail);
        }
    }
    errors
}

fn times(job: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let complete = has(job, "Complete");
    let (start, completion) = (job.str(&["status", "startTime"]), job.str(&["status", "completionTime"]));
    let mut wrong = |detail: &str| errors.push(FieldError::invalid("status.completionTime", &completion.into(), detail));
    if !completion.is_empty() && !complete {
        wrong("cannot set completionTime when there is no Complete=True condition");
    }
    // Times are written in one form, which sorts as they do.
    if !completion.is_empty() && !start.is_empty() && completion < start {
        wrong("must be equal to or after `startTime`");
    }
    if completion.is_empty() && complete {
        errors.push(FieldError::required("status.completionTime", "completionTime is required for Complete jobs"));
    }
    if start.is_empty() && (complete || has(job, "Failed")) {
        errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
    errors
}

fn numbers(job: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let number = |key: &str| job.int(&["status", key]).unwrap_or(0);
    let finished = has(job, "Complete") || has(job, "Failed");
    for (key, wrong, detail) in [
        ("active", finished && number("active") > 0, "active>0 is invalid for finished job"),
        ("terminating", finished && number("terminating") > 0, "terminating>0 is invalid for finished job"),
        ("ready", number("ready") > number("active").max(0), "cannot set more ready pods than active"),
    ] {
        if wrong {
            errors.push(FieldError::invalid(format!("status.{key}"), &number(key).into(), detail));
        }
    }
    let pods = ["succeeded", "failed"].iter().any(|key| !job.list(&["status", "uncountedTerminatedPods", key]).is_empty());
    if finished && pods {
        let value = job.get(&["status", "uncountedTerminatedPods"]).unwrap_or(&Value::Null);
        errors.push(FieldError::invalid("status.uncountedTerminatedPods", value, "must be empty for finished job"));
    }
    errors
}

fn indexes(job: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (completed, failed) = (job.str(&["status", "completedIndexes"]), job.get(&["status", "failedIndexes"]));
    let per_index = job.get(&["spec", "backoffLimitPerIndex"]).is_some();
    let mut wrong = |key: &str, value: &Value, detail: &str| errors.push(FieldError::invalid(format!("status.{key}"), value, detail));
    if job.str(&["spec", "completionMode"]) != "Indexed" && !completed.is_empty() {
        wrong("completedIndexes", &completed.into(), "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if let (Some(failed), false) = (failed, per_index) {
        wrong("failedIndexes", failed, "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    let Some(completions) = job.int(&["spec", "completions"]) else { return errors };
    let completed_ranges = index_ranges(completed, completions);
    if let Err(why) = &completed_ranges {
        wrong("completedIndexes", &completed.into(), &format!("error parsing completedIndexes: {why}"));
    }
    let Some(failed) = failed else { return errors };
    let failed_ranges = index_ranges(failed.as_str().unwrap_or(""), completions);
    if let (Err(why), true) = (&failed_ranges, per_index) {
        wrong("failedIndexes", failed, &format!("error parsing failedIndexes: {why}"));
    }
    if let (Ok(completed), Ok(failed_ranges)) = (completed_ranges, failed_ranges)
        && let Some(index) = overlap(&completed, &failed_ranges)
    {
        wrong("failedIndexes", failed, &format!("failedIndexes and completedIndexes overlap at index: {index}"));
    }
    errors
}

/// The first index in both lists of rising ranges.
fn overlap(one: &[(i64, i64)], other: &[(i64, i64)]) -> Option<i64> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, b)), Some((c, d))) = (one.peek(), other.peek()) {
        if a <= d && c <= b {
            return Some(*a.max(c));
        }
        if a <= c {
            one.next()
        } else {
            other.next()
        };
    }
    None
}

fn changes(new: &Object, old: &Object, errors: &mut FieldErrors) {
    for ty in ["Failed", "Complete", "FailureTarget"] {
        if has(old, ty) && !has(new, ty) {
            conditions_may_not(errors, &format!("cannot disable the terminal {ty}=True condition"));
        }
    }
    for key in ["failed", "succeeded"] {
        let [now, was] = [new, old].map(|job| job.int(&["status", key]).unwrap_or(0));
        if now < was {
            errors.push(FieldError::invalid(format!("status.{key}"), &now.into(), &format!("cannot decrease the {key} counter")));
        }
    }
    let time = |job: &Object, key: &str| job.str(&["status", key]).to_owned();
    let (completion, completed) = (time(new, "completionTime"), time(old, "completionTime"));
    if !completion.is_empty() && !completed.is_empty() && completion != completed {
        errors.push(FieldError::invalid("status.completionTime", &completion.into(), "field is immutable"));
    }
    let started = time(old, "startTime");
    if !started.is_empty() && started != time(new, "startTime") && !new.bool(&["spec", "suspend"]) {
        errors.push(FieldError::required("status.startTime", "startTime cannot be removed for unsuspended job"));
    }
    if has(old, "SuccessCriteriaMet") && !has(new, "SuccessCriteriaMet") {
        conditions_may_not(errors, "cannot disable the SuccessCriteriaMet=True condition");
    }
}
