//! Migrations of what is stored (pkg/apis/storagemigration/validation).

use serde_json::Value;

use super::conditions::conditions;
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;
use crate::validate::immutable;

pub(in crate::kinds) fn migration(object: &Object) -> FieldErrors {
    match object.str(&["spec", "resource", "resource"]) {
        "" => vec![FieldError::required("spec.resource.resource", "resource is required")],
        _ => Vec::new(),
    }
}

pub(in crate::kinds) fn change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "resource", "group"], &["spec", "resource", "resource"]])
}

pub(in crate::kinds) fn status(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (version, before) = (new.str(&["status", "resourceVersion"]), old.str(&["status", "resourceVersion"]));
    let at = "status.resourceVersion";
    match version.parse::<i64>() {
        _ if version.is_empty() => {}
        Ok(0..) => {}
        Ok(_) => errors.push(FieldError::invalid(at, &version.into(), "must be greater than or equal to 0")),
        Err(_) => errors.push(FieldError::invalid(at, &version.into(), &format!("failed to parse resource version {version:?}"))),
    }
    conditions(new.list(&["status", "conditions"]), "status.conditions", &mut errors);
    if !before.is_empty() && version != before {
        errors.push(FieldError::invalid(at, &version.into(), "cannot be updated"));
    }
    let (succeeded, failed, running) = (is(new, "Succeeded"), is(new, "Failed"), is(new, "Running"));
    let faults = [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (succeeded && running, "Running condition cannot be true when success condition is true"),
        (failed && running, "Running condition cannot be true when failed condition is true"),
        (is(old, "Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
        (is(old, "Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ];
    let value = new.get(&["status", "conditions"]).unwrap_or(&Value::Null);
    let faults = faults.into_iter().filter(|(fault, _)| *fault);
    errors.extend(faults.map(|(_, why)| FieldError::invalid("status.conditions", value, why)));
    errors
}

/// Whether a condition is true.
fn is(object: &Object, ty: &str) -> bool {
    object.list(&["status", "conditions"]).iter().any(|condition| condition["type"] == ty && condition["status"] == "True")
}
