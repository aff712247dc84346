//! batch/v1 CronJob: the clock, and the job that it makes.

use std::sync::LazyLock;

use serde_json::Value;

use super::batch::job_spec;
use super::by_table;
use super::rules::{Rules, is_missing};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

static CRON_JOB: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.schedule required
        spec.startingDeadlineSeconds min 0
        spec.concurrencyPolicy oneof Allow Forbid Replace
        spec.successfulJobsHistoryLimit min 0
        spec.failedJobsHistoryLimit min 0
        "#,
    )
});

/// The names of its jobs, which add eleven characters, are label values.
const CRON_NAME_MAX: usize = 52;

/// Older ones may have longer names.
pub(in crate::kinds) fn new_cron_job(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let schedule = object.str(&["spec", "schedule"]);
    if schedule.contains("TZ") {
        errors.push(FieldError::invalid("spec.schedule", &schedule.into(), ZONE_IN_SCHEDULE));
    }
    if object.name().len() > CRON_NAME_MAX {
        let detail = format!("must be no more than {CRON_NAME_MAX} bytes");
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &detail));
    }
    errors
}

const ZONE_IN_SCHEDULE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";

/// One that had its zone in the schedule may keep it there.
pub(in crate::kinds) fn cron_job_change(new: &Object, old: &Object) -> FieldErrors {
    let schedule = new.str(&["spec", "schedule"]);
    let detail = match (schedule.contains("TZ"), old.str(&["spec", "schedule"]).contains("TZ")) {
        (true, false) => ZONE_IN_SCHEDULE,
        (true, true) if new.get(&["spec", "timeZone"]).is_some() => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
        _ => return Vec::new(),
    };
    vec![FieldError::invalid("spec.schedule", &schedule.into(), detail)]
}

pub(in crate::kinds) fn cron_job(object: &Object) -> FieldErrors {
    let mut errors = by_table(&CRON_JOB, object);
    let schedule = object.str(&["spec", "schedule"]);
    // The library takes a zone before the fields.
    let zone = ["TZ=", "CRON_TZ="].iter().find_map(|word| schedule.strip_prefix(word));
    let fields = zone.map_or(schedule, |rest| rest.split_once(' ').map_or("", |(_, fields)| fields.trim()));
    if !schedule.is_empty()
        && let Err(fault) = check_schedule(fields)
    {
        errors.push(FieldError::invalid("spec.schedule", &schedule.into(), &fault));
    }
    if let Some(zone) = object.get(&["spec", "timeZone"]).and_then(Value::as_str) {
        time_zone(zone, &mut errors);
    }
    match object.get(&["spec", "jobTemplate", "spec"]) {
        Some(spec) => {
            errors.extend(job_spec(spec, "spec.jobTemplate.spec"));
            if let Some(selector) = spec.get("selector") {
                errors.push(FieldError::invalid("spec.jobTemplate.spec.selector", selector, "`selector` will be auto-generated"));
            }
            if spec["manualSelector"] == true {
                errors.push(FieldError::not_supported("spec.jobTemplate.spec.manualSelector", &true.into(), &["nil", "false"]));
            }
        }
        None if is_missing(object.get(&["spec", "jobTemplate"])) => errors.push(FieldError::required("spec.jobTemplate", "")),
        None => errors.push(FieldError::required("spec.jobTemplate.spec.template", "")),
    }
    errors
}

/// Characters in a part of a zone's name, at most.
const ZONE_PART_MAX: usize = 14;

/// Names only: whether the zone exists is seen where the clock is read.
fn time_zone(zone: &str, errors: &mut FieldErrors) {
    let part = |part: &str| {
        let word =
            !part.is_empty() && part.len() <= ZONE_PART_MAX && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._+-".contains(&c));
        word && part != "." && part != ".." && !part.starts_with('-')
    };
    let detail = match zone {
        "" => "timeZone must be nil or non-empty string".to_owned(),
        zone if !zone.split('/').all(part) => format!("unknown time zone {zone}"),
        zone if zone.eq_ignore_ascii_case("local") => {
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
        }
        _ => return,
    };
    errors.push(FieldError::invalid("spec.timeZone", &zone.into(), &detail));
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
