//! Validation per kind, worded as upstream (pkg/apis/*/validation): tables of rules, and functions where a rule needs logic.

mod affinity;
pub(super) mod apps;
pub(super) mod autoscaling;
pub(super) mod batch;
pub(super) mod certificates;
pub(super) mod claim;
mod conditions;
mod container;
pub(super) mod core;
pub(super) mod cron;
mod device;
pub(super) mod discovery;
mod env;
pub(super) mod events;
mod expressions;
pub(super) mod flowcontrol;
mod job_policy;
pub(super) mod job_status;
pub(super) mod limits;
pub(super) mod migration;
mod mounts;
pub(super) mod networking;
mod os;
mod paths;
pub(super) mod persistent;
pub(super) mod pod;
pub(super) mod pod_change;
pub(super) mod pod_status;
pub(super) mod policies;
pub(super) mod rbac;
pub(super) mod registration;
pub(super) mod resource;
mod resources;
mod rules;
mod security;
pub(super) mod service;
pub(super) mod slice;
pub(super) mod small;
pub(super) mod storage;
mod volumes;
mod warnings;

pub(super) use warnings::{pod_warnings, template_warnings};

use std::collections::HashSet;

use serde_json::Value;

use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

/// The faults of an object by a table whose paths begin at the object.
fn by_table(rules: &rules::Rules, object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    rules.check_map(&object.0, "", &mut errors);
    errors
}

/// `Duplicate value` for each element whose key was there before.
fn duplicates(list: &[Value], path: &str, key: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, item) in list.iter().enumerate() {
        let Some(name) = item[key].as_str().filter(|name| !name.is_empty()) else { continue };
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}[{index}].{key}"), &item[key]));
        }
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}
