//! Whether the expressions of webhooks and admission policies compile, and the match conditions that both have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::text;
use crate::cel::KEYWORDS;
use crate::cel::policy::{Purpose, Surroundings};
use crate::error::{FieldError, FieldErrors};
use crate::names;

/// Conditions of one webhook or policy (upstream's limit of 64).
const CONDITIONS_MAX: usize = 64;
/// Variables of one policy. Each may be evaluated for every request; upstream has no limit but the size of an object.
const VARIABLES_MAX: usize = 256;

/// Named expressions.
pub(super) fn conditions(around: &Surroundings<'_>, conditions: &[Value], at: &str, errors: &mut FieldErrors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(at, conditions.len(), CONDITIONS_MAX));
        return;
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if text(condition, "expression").trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.expression"), ""));
        }
        check(around, condition, "expression", Purpose::Condition, &at, errors);
        let (name, at) = (text(condition, "name"), format!("{at}.name"));
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        errors.extend(names::qualified_name(name).iter().map(|reason| FieldError::invalid(&at, &name.into(), reason)));
        if conditions[..index].iter().any(|other| other["name"] == name) {
            errors.push(FieldError::duplicate(at, &name.into()));
        }
    }
}

/// The names of a policy's variables, each of which the later ones may use.
pub(super) fn variables<'a>(params: bool, variables: &'a [Value], errors: &mut FieldErrors) -> BTreeSet<&'a str> {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    if variables.len() > VARIABLES_MAX {
        errors.push(FieldError::too_many("spec.variables", variables.len(), VARIABLES_MAX));
        return known;
    }
    for (index, variable) in variables.iter().enumerate() {
        let (at, name) = (format!("spec.variables[{index}]"), text(variable, "name"));
        if name.trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), "name is not specified"));
        } else if !is_identifier(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), "must be a valid CEL identifier"));
        }
        if text(variable, "expression").trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.expression"), "expression is not specified"));
        }
        check(&Surroundings::of_policy(params, &known), variable, "expression", Purpose::Variable, &at, errors);
        if !known.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
        }
    }
    known
}

fn is_identifier(name: &str) -> bool {
    let word =
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word && !KEYWORDS.contains(&name)
}

/// That an expression is missing is told by others, where it must be there.
pub(super) fn check(around: &Surroundings<'_>, holder: &Value, key: &str, purpose: Purpose, at: &str, errors: &mut FieldErrors) {
    let source = text(holder, key);
    if !source.trim().is_empty()
        && let Err(error) = around.compile(source, purpose)
    {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &source.into(), &error.detail()));
    }
}
