//! Webhooks, admission policies and API services.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing, selector};
use super::{by_table, expressions, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

static WEBHOOK: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        admissionReviewVersions required
        failurePolicy enum Fail Ignore
        matchPolicy enum Exact Equivalent
        sideEffects required
        sideEffects enum None NoneOnDryRun
        reinvocationPolicy enum Never IfNeeded
        timeoutSeconds range 1 30
        namespaceSelector selector
        objectSelector selector
        clientConfig.service.name required
        clientConfig.service.namespace required
        clientConfig.service.port port
        "#,
    )
});

/// Versions of AdmissionReview that the server sends.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Conditions of one webhook or policy (upstream's limit of 64).
const CONDITIONS_MAX: usize = 64;

pub(in crate::kinds) fn webhooks(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (index, webhook) in object.list(&["webhooks"]).iter().enumerate() {
        let at = format!("webhooks[{index}]");
        let name = text(webhook, "name");
        qualified_host(name, &format!("{at}.name"), &mut errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &webhook["name"]));
        }
        WEBHOOK.check(webhook, &at, &mut errors);
        review_versions(webhook, &at, &mut errors);
        client(&webhook["clientConfig"], &format!("{at}.clientConfig"), &mut errors);
        for (index, rule) in list(webhook, "rules").iter().enumerate() {
            check_rule(rule, &format!("{at}.rules[{index}]"), &mut errors);
        }
        conditions(list(webhook, "matchConditions"), &format!("{at}.matchConditions"), &mut errors);
        expressions::of_webhook(webhook, &at, &mut errors);
    }
    errors
}

/// A name of at least three parts: `check.example.com`.
fn qualified_host(name: &str, at: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    errors.extend(names::dns1123_subdomain(name).iter().map(|reason| FieldError::invalid(at, &name.into(), reason)));
    if name.split('.').count() < 3 {
        errors.push(FieldError::invalid(at, &name.into(), "should be a domain with at least three segments separated by dots"));
    }
}

fn review_versions(webhook: &Value, at: &str, errors: &mut FieldErrors) {
    let versions = list(webhook, "admissionReviewVersions");
    if !versions.is_empty() && !versions.iter().any(|version| REVIEW_VERSIONS.iter().any(|known| version == known)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::invalid(format!("{at}.admissionReviewVersions"), &webhook["admissionReviewVersions"], &detail));
    }
}

/// Exactly one of a URL and a Service.
fn client(config: &Value, at: &str, errors: &mut FieldErrors) {
    let url = text(config, "url");
    match (url.is_empty(), config.get("service")) {
        (true, None) | (false, Some(_)) => errors.push(FieldError::required(at, "exactly one of url or service is required")),
        (false, None) => check_url(url, &format!("{at}.url"), errors),
        (true, Some(service)) => {
            let path = text(service, "path");
            if !path.is_empty() && !path.starts_with('/') {
                errors.push(FieldError::invalid(format!("{at}.service.path"), &path.into(), "must start with a '/'"));
            }
        }
    }
}

fn check_url(url: &str, at: &str, errors: &mut FieldErrors) {
    let mut fault = |detail: &str| errors.push(FieldError::invalid(at, &url.into(), detail));
    let Some(rest) = url.strip_prefix("https://") else {
        fault("'https' is the only allowed URL scheme; desired format: https://host[/path]");
        return;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    if host.is_empty() {
        fault("host must be specified; desired format: https://host[/path]");
    }
    if host.contains('@') {
        fault("user information is not permitted in the URL");
    }
    if rest.contains('?') {
        fault("query parameters are not permitted in the URL");
    }
    if rest.contains('#') {
        fault("fragments are not permitted in the URL");
    }
}

/// Operations, groups, versions and resources of a rule: none empty, and a star alone.
fn check_rule(rule: &Value, at: &str, errors: &mut FieldErrors) {
    let operations = ["*", "CREATE", "UPDATE", "DELETE", "CONNECT"];
    for (index, operation) in list(rule, "operations").iter().enumerate() {
        if !operations.iter().any(|known| operation == known) {
            errors.push(FieldError::not_supported(format!("{at}.operations[{index}]"), operation, &operations));
        }
    }
    for key in ["operations", "apiGroups", "apiVersions", "resources"] {
        let values = list(rule, key);
        if values.is_empty() {
            errors.push(FieldError::required(format!("{at}.{key}"), ""));
        }
        if key != "resources" && values.len() > 1 && values.iter().any(|value| value == "*") {
            let detail = "if '*' is present, must not specify other values";
            errors.push(FieldError::invalid(format!("{at}.{key}"), &rule[key], detail));
        }
        for (index, _) in values.iter().enumerate().filter(|(_, value)| *value == "" && key != "apiGroups") {
            errors.push(FieldError::required(format!("{at}.{key}[{index}]"), ""));
        }
    }
    let scopes = ["Cluster", "Namespaced", "*"];
    let scope = text(rule, "scope");
    if !scope.is_empty() && !scopes.contains(&scope) {
        errors.push(FieldError::not_supported(format!("{at}.scope"), &scope.into(), &scopes));
    }
}

/// Named expressions.
fn conditions(conditions: &[Value], at: &str, errors: &mut FieldErrors) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(at, conditions.len(), CONDITIONS_MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if text(condition, "expression").trim().is_empty() {
            errors.push(FieldError::required(format!("{at}.expression"), ""));
        }
        let name = text(condition, "name");
        match name {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            _ => errors
                .extend(names::qualified_name(name).iter().map(|reason| FieldError::invalid(format!("{at}.name"), &name.into(), reason))),
        }
        if !name.is_empty() && conditions[..index].iter().any(|other| other["name"] == name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
        }
    }
}

static POLICY: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec required
        spec.failurePolicy required
        spec.failurePolicy enum Fail Ignore
        spec.paramKind.apiVersion required
        spec.paramKind.kind required
        spec.matchConstraints required
        spec.reinvocationPolicy enum Never IfNeeded
        spec.mutations[].patchType required
        spec.mutations[].patchType enum ApplyConfiguration JSONPatch
        spec.validations[].expression required
        spec.auditAnnotations[].key required
        spec.auditAnnotations[].key qualified
        spec.auditAnnotations[].valueExpression required
        spec.variables[].name required
        spec.variables[].expression required
        "#,
    )
});

/// What a failed validation may answer.
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];

pub(in crate::kinds) fn validating_policy(object: &Object) -> FieldErrors {
    let mut errors = policy(object);
    let validations = object.list(&["spec", "validations"]);
    if validations.is_empty() && object.list(&["spec", "auditAnnotations"]).is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required("spec.validations", detail));
        errors.push(FieldError::required("spec.auditAnnotations", detail));
    }
    for (index, validation) in validations.iter().enumerate() {
        let reason = text(validation, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errors.push(FieldError::not_supported(format!("spec.validations[{index}].reason"), &reason.into(), &REASONS));
        }
        if validation.get("message").is_some_and(|message| message.as_str().is_some_and(|text| text.trim().is_empty())) {
            let at = format!("spec.validations[{index}].message");
            errors.push(FieldError::invalid(at, &validation["message"], "message must be non-empty if specified"));
        }
    }
    errors
}

pub(in crate::kinds) fn mutating_policy(object: &Object) -> FieldErrors {
    let mut errors = policy(object);
    let mutations = object.list(&["spec", "mutations"]);
    if mutations.is_empty() {
        errors.push(FieldError::required("spec.mutations", "mutations must contain at least one item"));
    }
    for (index, mutation) in mutations.iter().enumerate() {
        let at = format!("spec.mutations[{index}]");
        let (wanted, other) = match text(mutation, "patchType") {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            _ => continue,
        };
        if is_missing(mutation.get(wanted).map(|patch| &patch["expression"])) {
            errors.push(FieldError::required(format!("{at}.{wanted}.expression"), ""));
        }
        if mutation.get(other).is_some() {
            errors.push(FieldError::invalid(format!("{at}.{other}"), &mutation[other], "must be unset for this patchType"));
        }
    }
    errors
}

fn policy(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POLICY, object);
    if let Some(constraints) = object.get(&["spec", "matchConstraints"]).filter(|constraints| !is_missing(Some(constraints))) {
        match_resources(constraints, "spec.matchConstraints", &mut errors);
        if list(constraints, "resourceRules").is_empty() {
            errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
        }
    }
    conditions(object.list(&["spec", "matchConditions"]), "spec.matchConditions", &mut errors);
    expressions::of_policy(object, &mut errors);
    errors
}

fn match_resources(value: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["namespaceSelector", "objectSelector"] {
        if let Some(labels) = value.get(key) {
            selector(labels, &format!("{at}.{key}"), errors);
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(value, key).iter().enumerate() {
            check_rule(rule, &format!("{at}.{key}[{index}]"), errors);
        }
    }
    let policies = ["Equivalent", "Exact"];
    let policy = text(value, "matchPolicy");
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.matchPolicy"), &policy.into(), &policies));
    }
}

pub(in crate::kinds) fn binding(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let policy = object.str(&["spec", "policyName"]);
    match policy {
        "" => errors.push(FieldError::required("spec.policyName", "")),
        _ => errors
            .extend(names::dns1123_subdomain(policy).iter().map(|reason| FieldError::invalid("spec.policyName", &policy.into(), reason))),
    }
    if let Some(reference) = object.get(&["spec", "paramRef"]) {
        param_ref(reference, &mut errors);
    }
    if let Some(resources) = object.get(&["spec", "matchResources"]) {
        match_resources(resources, "spec.matchResources", &mut errors);
    }
    errors
}

fn param_ref(reference: &Value, errors: &mut FieldErrors) {
    let at = "spec.paramRef";
    match (text(reference, "name"), reference.get("selector")) {
        ("", None) => errors.push(FieldError::required(at, "one of name or selector must be specified")),
        ("", Some(labels)) => selector(labels, "spec.paramRef.selector", errors),
        (_, Some(_)) => {
            errors.push(FieldError::forbidden("spec.paramRef.name", "name and selector are mutually exclusive"));
        }
        (_, None) => {}
    }
    let actions = ["Deny", "Allow"];
    match text(reference, "parameterNotFoundAction") {
        "" => errors.push(FieldError::required("spec.paramRef.parameterNotFoundAction", "")),
        action if !actions.contains(&action) => {
            errors.push(FieldError::not_supported("spec.paramRef.parameterNotFoundAction", &action.into(), &actions));
        }
        _ => {}
    }
}

pub(in crate::kinds) fn validating_binding(object: &Object) -> FieldErrors {
    let mut errors = binding(object);
    let known = ["Deny", "Warn", "Audit"];
    let actions = object.list(&["spec", "validationActions"]);
    if actions.is_empty() {
        errors.push(FieldError::required("spec.validationActions", ""));
    }
    for (index, action) in actions.iter().enumerate() {
        let at = format!("spec.validationActions[{index}]");
        if !known.iter().any(|known| action == known) {
            errors.push(FieldError::not_supported(&at, action, &known));
        }
        if actions[..index].contains(action) {
            errors.push(FieldError::duplicate(&at, action));
        }
    }
    let both = ["Deny", "Warn"].iter().all(|action| actions.iter().any(|given| given == action));
    if both {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid("spec.validationActions", &actions.to_vec().into(), detail));
    }
    errors
}

static API_SERVICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.version required
        spec.version label
        spec.group subdomain
        spec.groupPriorityMinimum range 1 20000
        spec.versionPriority range 1 1000
        spec.service.name required
        spec.service.namespace required
        spec.service.port port
        "#,
    )
});

pub(in crate::kinds) fn api_service(object: &Object) -> FieldErrors {
    let mut errors = by_table(&API_SERVICE, object);
    let (group, version) = (object.str(&["spec", "group"]), object.str(&["spec", "version"]));
    let wanted = format!("{version}.{group}");
    if object.name() != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &detail));
    }
    for key in ["groupPriorityMinimum", "versionPriority"].into_iter().filter(|key| object.get(&["spec", key]).is_none()) {
        let most = if key == "groupPriorityMinimum" { 20_000 } else { 1000 };
        let detail = format!("must be between 1 and {most}, inclusive");
        errors.push(FieldError::invalid(format!("spec.{key}"), &0.into(), &detail));
    }
    let bundle = !object.str(&["spec", "caBundle"]).is_empty();
    match (object.get(&["spec", "service"]).is_some(), bundle, object.bool(&["spec", "insecureSkipTLSVerify"])) {
        (false, true, _) => {
            errors.push(FieldError::invalid("spec.caBundle", &"<redacted>".into(), "local APIServices may not have a caBundle"))
        }
        (false, _, true) => {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", &true.into(), detail));
        }
        (true, true, true) => {
            let detail = "may not be true if caBundle is present";
            errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", &true.into(), detail));
        }
        _ => {}
    }
    errors
}
