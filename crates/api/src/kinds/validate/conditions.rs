//! Conditions of a status, of the form that newer kinds share (apimachinery, meta/v1/validation, ValidateConditions).

use serde_json::Value;

use super::{duplicates, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;

pub(super) fn conditions(conditions: &[Value], at: &str, errors: &mut FieldErrors) {
    duplicates(conditions, at, "type", errors);
    for (index, condition) in conditions.iter().enumerate() {
        check(condition, &format!("{at}[{index}]"), errors);
    }
}

fn check(condition: &Value, at: &str, errors: &mut FieldErrors) {
    let (ty, status, reason) = (text(condition, "type"), text(condition, "status"), text(condition, "reason"));
    errors.extend(names::qualified_name(ty).iter().map(|why| FieldError::invalid(format!("{at}.type"), &ty.into(), why)));
    let statuses = ["False", "True", "Unknown"];
    if !statuses.contains(&status) {
        errors.push(FieldError::not_supported(format!("{at}.status"), &status.into(), &statuses));
    }
    if let Some(generation) = condition["observedGeneration"].as_i64().filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(format!("{at}.observedGeneration"), &generation.into(), why));
    }
    if text(condition, "lastTransitionTime").is_empty() {
        errors.push(FieldError::required(format!("{at}.lastTransitionTime"), "must be set"));
    }
    if reason.is_empty() {
        errors.push(FieldError::required(format!("{at}.reason"), "must be set"));
    } else if !is_reason(reason) {
        let why = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errors.push(FieldError::invalid(format!("{at}.reason"), &reason.into(), why));
    }
    for (key, most) in [("reason", REASON_BYTES_MAX), ("message", MESSAGE_BYTES_MAX)] {
        if text(condition, key).len() > most {
            errors.push(FieldError::too_long(format!("{at}.{key}"), most));
        }
    }
}

fn is_reason(reason: &str) -> bool {
    let bytes = reason.as_bytes();
    bytes[0].is_ascii_alphabetic()
        && bytes.last().is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_')
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"_,:".contains(c))
}
