//! Whether the expressions of webhooks and admission policies compile.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{list, text};
use crate::cel::policy::{Purpose, Surroundings};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

/// Variables of one policy. Each may be evaluated for every request; upstream has no limit but the size of an object.
const VARIABLES_MAX: usize = 256;

pub(super) fn of_webhook(webhook: &Value, at: &str, errors: &mut FieldErrors) {
    for (index, condition) in list(webhook, "matchConditions").iter().enumerate() {
        let at = format!("{at}.matchConditions[{index}]");
        check(&Surroundings::of_webhook(), condition, &at, "expression", Purpose::Condition, errors);
    }
}

pub(super) fn of_policy(object: &Object, errors: &mut FieldErrors) {
    let params = object.get(&["spec", "paramKind"]).is_some();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let variables = object.list(&["spec", "variables"]);
    if variables.len() > VARIABLES_MAX {
        errors.push(FieldError::too_many("spec.variables", variables.len(), VARIABLES_MAX));
        return;
    }
    for (index, variable) in variables.iter().enumerate() {
        let (at, name) = (format!("spec.variables[{index}]"), text(variable, "name"));
        check(&Surroundings::of_policy(params, &known), variable, &at, "expression", Purpose::Variable, errors);
        let word =
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !name.is_empty() && !word {
            errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), "name is not a valid CEL identifier"));
        }
        if !known.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
        }
    }
    let around = Surroundings::of_policy(params, &known);
    let mut all = |field: &str, key: &str, purpose: Purpose| {
        for (index, one) in object.list(&["spec", field]).iter().enumerate() {
            check(&around, one, &format!("spec.{field}[{index}]"), key, purpose, errors);
        }
    };
    all("matchConditions", "expression", Purpose::Condition);
    all("validations", "expression", Purpose::Validation);
    all("validations", "messageExpression", Purpose::Message);
    all("auditAnnotations", "valueExpression", Purpose::Annotation);
    for (index, mutation) in object.list(&["spec", "mutations"]).iter().enumerate() {
        for (key, purpose) in [("applyConfiguration", Purpose::Apply), ("jsonPatch", Purpose::Patch)] {
            check(&around, &mutation[key], &format!("spec.mutations[{index}].{key}"), "expression", purpose, errors);
        }
    }
}

/// What is missing has been told already.
fn check(around: &Surroundings<'_>, holder: &Value, at: &str, key: &str, purpose: Purpose, errors: &mut FieldErrors) {
    let source = text(holder, key);
    if !source.trim().is_empty()
        && let Err(error) = around.compile(source, purpose)
    {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &source.into(), &format!("compilation failed: {error}")));
    }
}
