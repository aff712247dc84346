//! Admission policies and their bindings.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use serde_json::Value;

use super::conditions::conditions;
use super::registration::check_rule;
use super::rules::{Rules, is_missing, selector};
use super::{by_table, duplicates, expressions, list, text};
use crate::cel::policy::{Purpose, Surroundings};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

/// What a failed validation may answer.
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// Annotations of one policy, and bytes of the expression of one (upstream's maxAuditAnnotations and maxAuditAnnotationValueExpressionLength).
const ANNOTATIONS_MAX: usize = 20;
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;

/// There is nothing to change in what is deleted.
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CREATE", "UPDATE", "CONNECT"];

static POLICY: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.failurePolicy required
        spec.failurePolicy enum Fail Ignore
        "#,
    )
});

pub(in crate::kinds) fn validating_policy(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POLICY, object);
    match_constraints(object, false, &mut errors);
    let params = object.get(&["spec", "paramKind"]).is_some();
    let known = expressions::variables(params, object.list(&["spec", "variables"]), &mut errors);
    let around = Surroundings::of_policy(params, &known);
    let (validations, annotations) = (object.list(&["spec", "validations"]), object.list(&["spec", "auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required(format!("spec.{key}"), detail));
        }
    }
    for (index, one) in validations.iter().enumerate() {
        validation(&around, one, &format!("spec.validations[{index}]"), &mut errors);
    }
    if annotations.len() > ANNOTATIONS_MAX {
        let detail = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(FieldError::invalid("spec.auditAnnotations", &annotations.to_vec().into(), &detail));
    }
    for (index, one) in annotations.iter().enumerate() {
        annotation(&around, object.name(), one, &format!("spec.auditAnnotations[{index}]"), &mut errors);
    }
    duplicates(annotations, "spec.auditAnnotations", "key", &mut errors);
    errors
}

fn validation(around: &Surroundings<'_>, one: &Value, at: &str, errors: &mut FieldErrors) {
    if text(one, "expression").trim().is_empty() {
        errors.push(FieldError::required(format!("{at}.expression"), "expression is not specified"));
    }
    expressions::check(around, one, "expression", Purpose::Validation, at, errors);
    let blank = |key: &str| !text(one, key).is_empty() && text(one, key).trim().is_empty();
    for key in ["messageExpression", "message"].into_iter().filter(|key| blank(key)) {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &one[key], "must be non-empty if specified"));
    }
    expressions::check(around, one, "messageExpression", Purpose::Message, at, errors);
    if text(one, "message").trim().contains(['\n', '\r']) {
        errors.push(FieldError::invalid(format!("{at}.message"), &one["message"], "must not contain line breaks"));
    }
    let reason = text(one, "reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        errors.push(FieldError::not_supported(format!("{at}.reason"), &reason.into(), &REASONS));
    }
}

/// The policy's name and the key are together the name of the annotation.
fn annotation(around: &Surroundings<'_>, policy: &str, one: &Value, at: &str, errors: &mut FieldErrors) {
    let name = format!("{policy}/{}", text(one, "key"));
    let wrong = names::qualified_name(&name);
    errors.extend(wrong.iter().map(|reason| FieldError::invalid(format!("{at}.key"), &name.as_str().into(), reason)));
    match text(one, "valueExpression").trim().len() {
        0 => errors.push(FieldError::required(format!("{at}.valueExpression"), "valueExpression is not specified")),
        bytes if bytes > ANNOTATION_BYTES_MAX => {
            let detail = format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length");
            errors.push(FieldError::required(format!("{at}.valueExpression"), &detail));
        }
        _ => expressions::check(around, one, "valueExpression", Purpose::Annotation, at, errors),
    }
}

static MUTATING: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.reinvocationPolicy required
        spec.reinvocationPolicy enum Never IfNeeded
        "#,
    )
});

pub(in crate::kinds) fn mutating_policy(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POLICY, object);
    match_constraints(object, true, &mut errors);
    let params = object.get(&["spec", "paramKind"]).is_some();
    let known = expressions::variables(params, object.list(&["spec", "variables"]), &mut errors);
    let around = Surroundings::of_policy(params, &known);
    let mutations = object.list(&["spec", "mutations"]);
    if mutations.is_empty() {
        errors.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
    }
    for (index, one) in mutations.iter().enumerate() {
        mutation(&around, one, &format!("spec.mutations[{index}]"), &mut errors);
    }
    errors.extend(by_table(&MUTATING, object));
    errors
}

fn mutation(around: &Surroundings<'_>, one: &Value, at: &str, errors: &mut FieldErrors) {
    let types = ["ApplyConfiguration", "JSONPatch"];
    let ty = text(one, "patchType");
    let (wanted, other, purpose) = match ty {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Purpose::Apply),
        "JSONPatch" => ("jsonPatch", "applyConfiguration", Purpose::Patch),
        "" => return errors.push(FieldError::required(format!("{at}.patchType"), "")),
        _ => return errors.push(FieldError::not_supported(format!("{at}.patchType"), &ty.into(), &types)),
    };
    let at_wanted = format!("{at}.{wanted}");
    if one[wanted].is_null() {
        errors.push(FieldError::required(at_wanted, &format!("must be specified when patchType is {ty}")));
    } else if text(&one[wanted], "expression").trim().is_empty() {
        errors.push(FieldError::required(format!("{at_wanted}.expression"), ""));
    } else {
        expressions::check(around, &one[wanted], "expression", purpose, &at_wanted, errors);
    }
    if !one[other].is_null() {
        let detail = format!("must not be specified when patchType is {ty}");
        errors.push(FieldError::invalid(format!("{at}.{other}"), &format!("{{{other}}}").into(), &detail));
    }
}

/// What both sorts of policies say of the requests that they are about.
fn match_constraints(object: &Object, mutating: bool, errors: &mut FieldErrors) {
    let kind = object.get(&["spec", "paramKind"]);
    if let Some(kind) = kind {
        param_kind(kind, errors);
    }
    match object.get(&["spec", "matchConstraints"]) {
        None => errors.push(FieldError::required("spec.matchConstraints", "")),
        Some(constraints) => {
            match_resources(constraints, "spec.matchConstraints", errors);
            if list(constraints, "resourceRules").is_empty() {
                errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
            }
            if mutating {
                mutable(constraints, "spec.matchConstraints", errors);
            }
        }
    }
    let none = BTreeSet::new();
    let around = Surroundings::of_policy(kind.is_some(), &none);
    expressions::conditions(&around, object.list(&["spec", "matchConditions"]), "spec.matchConditions", errors);
}

/// `v1` or `group/v1`, and a kind.
fn param_kind(param: &Value, errors: &mut FieldErrors) {
    let at = "spec.paramKind.apiVersion";
    let whole = text(param, "apiVersion");
    let (group, version) = whole.split_once('/').unwrap_or(("", whole));
    if whole.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if version.contains('/') {
        errors.push(FieldError::invalid(at, &whole.into(), &format!("unexpected GroupVersion string: {whole}")));
    } else {
        let wrong = names::dns1123_subdomain(group);
        if !group.is_empty() && !wrong.is_empty() {
            errors.push(FieldError::invalid(at, &group.into(), &wrong.join(",")));
        }
        let wrong = names::dns1035_label(version);
        if version.is_empty() {
            errors.push(FieldError::invalid(at, &whole.into(), "version must be specified"));
        } else if !wrong.is_empty() {
            errors.push(FieldError::invalid(at, &version.into(), &wrong.join(",")));
        }
    }
    let kind = text(param, "kind");
    let wrong = names::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(FieldError::required("spec.paramKind.kind", ""));
    } else if !wrong.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.push(FieldError::invalid("spec.paramKind.kind", &kind.into(), &detail));
    }
}

static MATCH: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        matchPolicy enum Equivalent Exact
        namespaceSelector selector
        objectSelector selector
        "#,
    )
});

fn match_resources(value: &Value, at: &str, errors: &mut FieldErrors) {
    MATCH.check(value, at, errors);
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(value, key).iter().enumerate() {
            let at = format!("{at}.{key}[{index}]");
            let mut seen = HashSet::new();
            for (index, name) in list(rule, "resourceNames").iter().enumerate() {
                let at = format!("{at}.resourceNames[{index}]");
                let wrong = names::path_segment(name.as_str().unwrap_or(""));
                errors.extend(wrong.iter().map(|reason| FieldError::invalid(&at, name, reason)));
                if !seen.insert(name.as_str()) {
                    errors.push(FieldError::duplicate(at, name));
                }
            }
            check_rule(rule, &at, errors);
        }
    }
}

fn mutable(resources: &Value, at: &str, errors: &mut FieldErrors) {
    let operations = list(resources, "resourceRules").iter().flat_map(|rule| list(rule, "operations"));
    for operation in operations.filter(|operation| !MUTATING_OPERATIONS.iter().any(|known| operation == known)) {
        errors.push(FieldError::not_supported(format!("{at}.resourceRules.operations"), operation, &MUTATING_OPERATIONS));
    }
}

fn binding(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let at = "spec.policyName";
    let policy = object.str(&["spec", "policyName"]);
    match policy {
        "" => errors.push(FieldError::required(at, "")),
        _ => errors.extend(names::dns1123_subdomain(policy).iter().map(|reason| FieldError::invalid(at, &policy.into(), reason))),
    }
    if let Some(reference) = object.get(&["spec", "paramRef"]) {
        param_ref(reference, &mut errors);
    }
    if let Some(resources) = object.get(&["spec", "matchResources"]) {
        match_resources(resources, "spec.matchResources", &mut errors);
    }
    errors
}

pub(in crate::kinds) fn mutating_binding(object: &Object) -> FieldErrors {
    let mut errors = binding(object);
    if let Some(resources) = object.get(&["spec", "matchResources"]) {
        mutable(resources, "spec.matchResources", &mut errors);
    }
    errors
}

fn param_ref(reference: &Value, errors: &mut FieldErrors) {
    let at = "spec.paramRef";
    let both = "name and selector are mutually exclusive";
    let (name, labels) = (text(reference, "name"), &reference["selector"]);
    if name.is_empty() && labels.is_null() {
        errors.push(FieldError::required(at, "one of name or selector must be specified"));
    }
    let wrong = names::path_segment(name);
    errors.extend(wrong.iter().map(|reason| FieldError::invalid(format!("{at}.name"), &name.into(), reason)));
    if !name.is_empty() && !labels.is_null() {
        errors.push(FieldError::forbidden(format!("{at}.name"), both));
    }
    if !labels.is_null() {
        selector(labels, &format!("{at}.selector"), errors);
        if !name.is_empty() {
            errors.push(FieldError::forbidden(format!("{at}.selector"), both));
        }
    }
    let actions = ["Deny", "Allow"];
    let action = text(reference, "parameterNotFoundAction");
    if action.is_empty() {
        errors.push(FieldError::required(format!("{at}.parameterNotFoundAction"), ""));
    } else if !actions.contains(&action) {
        errors.push(FieldError::not_supported_as_listed(format!("{at}.parameterNotFoundAction"), &action.into(), &actions));
    }
}

pub(in crate::kinds) fn validating_binding(object: &Object) -> FieldErrors {
    let mut errors = binding(object);
    let known = ["Deny", "Warn", "Audit"];
    let actions = object.list(&["spec", "validationActions"]);
    let mut seen = HashSet::new();
    for (index, action) in actions.iter().enumerate() {
        let at = format!("spec.validationActions[{index}]");
        if !known.iter().any(|known| action == known) {
            errors.push(FieldError::not_supported(&at, action, &known));
        }
        if !seen.insert(action.as_str()) {
            errors.push(FieldError::duplicate(&at, action));
        }
    }
    if ["Deny", "Warn"].iter().all(|action| actions.iter().any(|given| given == action)) {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid("spec.validationActions", &actions.to_vec().into(), detail));
    }
    if actions.is_empty() {
        errors.push(FieldError::required("spec.validationActions", "at least one validation action is required"));
    }
    errors
}

pub(in crate::kinds) fn validating_policy_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, warning) in new.list(&["status", "typeChecking", "expressionWarnings"]).iter().enumerate() {
        for key in ["warning", "fieldRef"].into_iter().filter(|key| is_missing(warning.get(key))) {
            errors.push(FieldError::required(format!("status.typeChecking.expressionWarnings[{index}].{key}"), ""));
        }
    }
    conditions(new.list(&["status", "conditions"]), "status.conditions", &mut errors);
    errors
}
