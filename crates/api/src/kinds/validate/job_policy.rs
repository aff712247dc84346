//! When a batch/v1 Job has failed or succeeded: its pod failure policy, its success policy, and lists of indexes.

use std::collections::HashSet;

use serde_json::Value;

use super::batch::container_names;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

/// Rules of a policy, exit codes of a rule, conditions of a rule (upstream's maxPodFailurePolicy…).
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;

/// Bytes of a list of indexes (upstream's maxJobSuccessPolicySucceededIndexesLimit).
const INDEXES_BYTES_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn failure_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let rules = list(&spec["podFailurePolicy"], "rules");
    let at = format!("{at}.podFailurePolicy.rules");
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&at, rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("{at}[{index}]");
        one_of(rule, "action", &ACTIONS, &at, errors);
        if text(rule, "action") == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
            errors.push(FieldError::invalid(format!("{at}.action"), &"FailIndex".into(), "requires the backoffLimitPerIndex to be set"));
        }
        let (codes, conditions) = (rule.get("onExitCodes"), list(rule, "onPodConditions"));
        if let Some(codes) = codes {
            exit_codes(codes, &container_names(spec), &format!("{at}.onExitCodes"), errors);
        }
        pod_conditions(conditions, &format!("{at}.onPodConditions"), errors);
        match (codes.is_some(), !conditions.is_empty()) {
            (true, true) => {
                errors.push(FieldError::invalid_without_value(at, "specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            (false, false) => {
                errors.push(FieldError::invalid_without_value(at, "specifying one of OnExitCodes and OnPodConditions is required"));
            }
            _ => {}
        }
    }
}

/// A word out of a set, which must be there.
fn one_of(value: &Value, key: &str, valid: &[&str], at: &str, errors: &mut FieldErrors) {
    let found = text(value, key);
    let at = format!("{at}.{key}");
    if found.is_empty() {
        let quoted: Vec<String> = valid.iter().map(|word| format!("{word:?}")).collect();
        errors.push(FieldError::required(at, &format!("valid values: [{}]", quoted.join(" "))));
    } else if !valid.contains(&found) {
        errors.push(FieldError::not_supported(at, &found.into(), valid));
    }
}

fn exit_codes(codes: &Value, containers: &[&str], at: &str, errors: &mut FieldErrors) {
    one_of(codes, "operator", &OPERATORS, at, errors);
    if let Some(name) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(format!("{at}.containerName"), &name.into(), detail));
    }
    let at = format!("{at}.values");
    let values = list(codes, "values");
    if values.is_empty() {
        errors.push(FieldError::invalid(&at, &Value::from(values), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    let mut seen = HashSet::new();
    for (index, value) in values.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if text(codes, "operator") == "In" && *value == 0 {
            errors.push(FieldError::invalid(&at, value, "must not be 0 for the In operator"));
        }
        if !seen.insert(value.as_i64()) {
            errors.push(FieldError::duplicate(at, value));
        }
    }
    if values.windows(2).any(|pair| pair[0].as_i64() > pair[1].as_i64()) {
        errors.push(FieldError::invalid(at, &Value::from(values), "must be ordered"));
    }
}

fn pod_conditions(conditions: &[Value], at: &str, errors: &mut FieldErrors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(at, conditions.len(), CONDITIONS_MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let ty = text(condition, "type");
        errors.extend(names::qualified_name(ty).iter().map(|reason| FieldError::invalid(format!("{at}.type"), &ty.into(), reason)));
        one_of(condition, "status", &STATUSES, &at, errors);
    }
}

/// Of an indexed job.
pub(super) fn success_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let rules = list(&spec["successPolicy"], "rules");
    let at = format!("{at}.successPolicy.rules");
    if rules.is_empty() {
        errors.push(FieldError::required(&at, "at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() > RULES_MAX {
        errors.push(FieldError::too_many(&at, rules.len(), RULES_MAX));
    }
    // A job that lacks them was told so.
    let completions = spec["completions"].as_i64().unwrap_or(i64::MAX);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(rule, completions, &format!("{at}[{index}]"), errors);
    }
}

fn success_rule(rule: &Value, completions: i64, at: &str, errors: &mut FieldErrors) {
    let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
    if count.is_none() && indexes.is_none() {
        errors.push(FieldError::required(at, "at least one of succeededCount or succeededIndexes must be specified"));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = format!("{at}.succeededIndexes");
        if indexes.len() > INDEXES_BYTES_MAX {
            errors.push(FieldError::too_long(&at, INDEXES_BYTES_MAX));
        }
        match index_ranges(indexes, completions) {
            Ok(ranges) => total = ranges.iter().map(|(first, last)| last - first + 1).sum(),
            Err(why) => {
                errors.push(FieldError::invalid(at, &indexes.into(), &format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(count) = count else { return };
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(format!("{at}.succeededCount"), &count.into(), detail));
    if count < 0 {
        wrong("must be greater than or equal to 0");
    }
    if count > completions {
        wrong(&format!("must be less than or equal to {completions} (the number of specified completions)"));
    }
    if indexes.is_some() && count > total {
        wrong(&format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"));
    }
}

/// `1,3-5,7`: the ranges, each with its first and last index, rising and below `completions`.
pub(super) fn index_ranges(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = index_range(part, completions)?;
        if let Some((_, before)) = ranges.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        ranges.push((first, last));
    }
    Ok(ranges)
}

fn index_range(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match *part.split('-').collect::<Vec<_>>() {
        [one] => index(one).map(|index| (index, index)),
        [first, last] => match (index(first)?, index(last)?) {
            (first, last) if first >= last => Err(format!("non-increasing order, previous: {first}, current: {last}")),
            range => Ok(range),
        },
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::index_ranges;

    #[test]
    fn lists_of_indexes_rise_and_end() {
        assert_eq!(index_ranges("", 3), Ok(vec![]));
        assert_eq!(index_ranges("0,2-4", 5), Ok(vec![(0, 0), (2, 4)]));
        for (bad, why) in [
            ("5", "too large index: \"5\""),
            ("x", "cannot convert string to integer for index: \"x\""),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("2-2", "non-increasing order, previous: 2, current: 2"),
            ("1-2-3", "the fragment \"1-2-3\" violates"),
        ] {
            assert!(index_ranges(bad, 5).unwrap_err().starts_with(why), "{bad}");
        }
    }
}
