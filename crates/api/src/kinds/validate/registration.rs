//! Admission webhooks and API services.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::rules::Rules;
use super::{expressions, list, text};
use crate::cel::policy::Surroundings;
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::webhook;

static WEBHOOK: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        failurePolicy enum Fail Ignore
        matchPolicy enum Exact Equivalent
        sideEffects required must specify one of None, NoneOnDryRun
        sideEffects enum None NoneOnDryRun
        namespaceSelector selector
        objectSelector selector
        reinvocationPolicy enum Never IfNeeded
        "#,
    )
});

/// Versions of AdmissionReview that the server sends.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(in crate::kinds) fn webhooks(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, hook) in object.list(&["webhooks"]).iter().enumerate() {
        let at = format!("webhooks[{index}]");
        let name = text(hook, "name");
        full_name(name, &format!("{at}.name"), &mut errors);
        for (index, rule) in list(hook, "rules").iter().enumerate() {
            check_rule(rule, &format!("{at}.rules[{index}]"), &mut errors);
        }
        WEBHOOK.check(hook, &at, &mut errors);
        if hook["timeoutSeconds"].as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(format!("{at}.timeoutSeconds"), &hook["timeoutSeconds"], detail));
        }
        webhook::client(&hook["clientConfig"], &format!("{at}.clientConfig"), &mut errors);
        let conditions = format!("{at}.matchConditions");
        expressions::conditions(&Surroundings::of_webhook(), list(hook, "matchConditions"), &conditions, &mut errors);
        review_versions(hook, &format!("{at}.admissionReviewVersions"), &mut errors);
        if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &hook["name"]));
        }
    }
    errors
}

/// A name of at least three parts: `check.example.com`.
fn full_name(name: &str, at: &str, errors: &mut FieldErrors) {
    let wrong = names::dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid(at, &name.into(), &wrong.join(",")));
    } else if name.split('.').count() < 3 {
        errors.push(FieldError::invalid(at, &name.into(), "should be a domain with at least three segments separated by dots"));
    }
}

fn review_versions(hook: &Value, at: &str, errors: &mut FieldErrors) {
    let versions = list(hook, "admissionReviewVersions");
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        errors.push(FieldError::required(at, &format!("must specify one of {known}")));
        return;
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if !seen.insert(version.as_str()) {
            errors.push(FieldError::invalid(at, version, "duplicate version"));
            continue;
        }
        let wrong = names::dns1035_label(version.as_str().unwrap_or(""));
        errors.extend(wrong.iter().map(|reason| FieldError::invalid(&at, version, reason)));
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.iter().any(|known| version == known)) {
        let detail = format!("must include at least one of {known}");
        errors.push(FieldError::invalid(at, &hook["admissionReviewVersions"], &detail));
    }
}

const OPERATIONS: [&str; 5] = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];

/// Operations, groups, versions and resources of a rule: none empty, and a star alone.
pub(super) fn check_rule(rule: &Value, at: &str, errors: &mut FieldErrors) {
    for (key, others) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let (values, at) = (list(rule, key), format!("{at}.{key}"));
        if values.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        if values.len() > 1 && values.iter().any(|value| value == "*") {
            errors.push(FieldError::invalid(&at, &rule[key], &format!("if '*' is present, must not specify other {others}")));
        }
        for (index, value) in values.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if key == "operations" && !OPERATIONS.iter().any(|known| value == known) {
                errors.push(FieldError::not_supported(at, value, &OPERATIONS));
            } else if key == "apiVersions" && value == "" {
                errors.push(FieldError::required(at, ""));
            }
        }
    }
    resources(&rule["resources"], &format!("{at}.resources"), errors);
    let scopes = ["Cluster", "Namespaced", "*"];
    let scope = text(rule, "scope");
    if !scope.is_empty() && !scopes.contains(&scope) {
        errors.push(FieldError::not_supported(format!("{at}.scope"), &scope.into(), &scopes));
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/log`, `*/*`, `*` (no subresources): none may say again what another says.
fn resources(value: &Value, at: &str, errors: &mut FieldErrors) {
    let resources: Vec<&str> = value.as_array().into_iter().flatten().map(|one| one.as_str().unwrap_or("")).collect();
    if resources.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    let mut seen = HashSet::new();
    let mut last_plain = "*";
    for (index, resource) in resources.iter().copied().enumerate() {
        let at = format!("{at}[{index}]");
        if resource.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let Some((main, sub)) = resource.split_once('/') else {
            last_plain = resource;
            continue;
        };
        for wider in [format!("{main}/*"), format!("*/{sub}")] {
            if seen.contains(wider.as_str()) {
                let detail = format!("if '{wider}' is present, must not specify {resource}");
                errors.push(FieldError::invalid(&at, &resource.into(), &detail));
            }
        }
        seen.insert(resource);
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        errors.push(FieldError::invalid(at, value, "if '*/*' is present, must not specify other resources"));
    }
    // Upstream remembers the last of those without a subresource only: a star is let stand after the others.
    if resources.contains(&"*") && last_plain != "*" {
        errors.push(FieldError::invalid(at, value, "if '*' is present, must not specify other resources without subresources"));
    }
}

pub(in crate::kinds) fn api_service(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (group, version) = (object.str(&["spec", "group"]), object.str(&["spec", "version"]));
    let wanted = format!("{version}.{group}");
    if object.name() != wanted && names::path_segment(object.name()).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &detail));
    }
    if group.is_empty() {
        if version != "v1" {
            errors.push(FieldError::required("spec.group", "only v1 may have an empty group and it better be legacy kube"));
        }
    } else {
        errors.extend(names::dns1123_subdomain(group).iter().map(|why| FieldError::invalid("spec.group", &group.into(), why)));
    }
    errors.extend(names::dns1035_label(version).iter().map(|why| FieldError::invalid("spec.version", &version.into(), why)));
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = object.int(&["spec", key]).unwrap_or(0);
        if priority <= 0 || priority > most {
            let detail = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(format!("spec.{key}"), &priority.into(), &detail));
        }
    }
    let bundle = object.str(&["spec", "caBundle"]);
    let insecure = object.bool(&["spec", "insecureSkipTLSVerify"]);
    let mut told = |key: &str, value: Value, detail: &str| errors.push(FieldError::invalid(format!("spec.{key}"), &value, detail));
    let Some(service) = object.get(&["spec", "service"]) else {
        if !bundle.is_empty() {
            // Of every four characters come three bytes, but for those that fill up.
            let bytes = bundle.len() / 4 * 3 - bundle.bytes().rev().take_while(|c| *c == b'=').count();
            told("caBundle", format!("{bytes} bytes").into(), "local APIServices may not have a caBundle");
        }
        if insecure {
            told("insecureSkipTLSVerify", true.into(), "local APIServices may not have insecureSkipTLSVerify");
        }
        return errors;
    };
    if insecure && !bundle.is_empty() {
        told("insecureSkipTLSVerify", true.into(), "may not be true if caBundle is present");
    }
    SERVICE.check(service, "spec.service", &mut errors);
    errors
}

/// Upstream does not look at the port.
static SERVICE: LazyLock<Rules> = LazyLock::new(|| Rules::parse("namespace required\n name required\n port port"));

pub(in crate::kinds) fn api_service_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, condition) in new.list(&["status", "conditions"]).iter().enumerate() {
        let statuses = ["True", "False", "Unknown"];
        if !statuses.contains(&text(condition, "status")) {
            let at = format!("status.conditions[{index}].status");
            errors.push(FieldError::not_supported_as_listed(at, &text(condition, "status").into(), &statuses));
        }
    }
    errors
}
