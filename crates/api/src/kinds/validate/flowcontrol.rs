//! flowcontrol.apiserver.k8s.io/v1.

use serde_json::{Value, json};

use super::{duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

/// (kind of a subject, its key)
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The last place in the order of flow schemas (upstream's FlowSchemaMaxMatchingPrecedence).
const PRECEDENCE_MAX: i64 = 10_000;
/// Upstream's priorityLevelConfigurationQueuingMaxQueues.
const QUEUES_MAX: i64 = 10_000_000;

/// The schemas that a server cannot be without are as it made them (flowcontrol/internalbootstrap).
fn fixed_schema(name: &str) -> Option<Value> {
    let (precedence, groups): (i64, &[&str]) = match name {
        "exempt" => (1, &["system:masters"]),
        "catch-all" => (PRECEDENCE_MAX, &["system:unauthenticated", "system:authenticated"]),
        _ => return None,
    };
    let subjects: Vec<Value> = groups.iter().map(|group| json!({"kind": "Group", "group": {"name": group}})).collect();
    let resources = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
    let paths = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    let rule = json!({"subjects": subjects, "resourceRules": [resources], "nonResourceRules": [paths]});
    let mut spec = json!({"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": precedence, "rules": [rule]});
    if name == "catch-all" {
        spec["distinguisherMethod"] = json!({"type": "ByUser"});
    }
    Some(spec)
}

pub(in crate::kinds) fn flow_schema(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let precedence = object.int(&["spec", "matchingPrecedence"]).unwrap_or(0);
    let mut wrong = |detail: &str| errors.push(FieldError::invalid("spec.matchingPrecedence", &precedence.into(), detail));
    match precedence {
        ..=0 => wrong("must be a positive value"),
        1 if object.name() != "exempt" => wrong("only the schema named 'exempt' may have matchingPrecedence 1"),
        _ if precedence > PRECEDENCE_MAX => wrong(&format!("must not be greater than {PRECEDENCE_MAX}")),
        _ => {}
    }
    if let Some(method) = object.get(&["spec", "distinguisherMethod"]) {
        let methods = ["ByNamespace", "ByUser"];
        if !methods.contains(&text(method, "type")) {
            errors.push(FieldError::not_supported("spec.distinguisherMethod.type", method, &methods));
        }
    }
    let (level, at) = (object.str(&["spec", "priorityLevelConfiguration", "name"]), "spec.priorityLevelConfiguration.name");
    if level.is_empty() {
        errors.push(FieldError::required(at, "must reference a priority level"));
    } else {
        errors.extend(names::dns1123_subdomain(level).iter().map(|reason| FieldError::invalid(at, &level.into(), reason)));
    }
    for (index, rule) in object.list(&["spec", "rules"]).iter().enumerate() {
        check_rule(rule, &format!("spec.rules[{index}]"), &mut errors);
    }
    if let Some(fixed) = fixed_schema(object.name()) {
        is_fixed(object, &fixed, &format!("spec of '{}' must equal the fixed value", object.name()), &mut errors);
    }
    errors
}

fn is_fixed(object: &Object, fixed: &Value, detail: &str, errors: &mut FieldErrors) {
    let spec = object.get(&["spec"]).unwrap_or(&Value::Null);
    if spec != fixed {
        errors.push(FieldError::invalid("spec", spec, detail));
    }
}

fn check_rule(rule: &Value, at: &str, errors: &mut FieldErrors) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errors.push(FieldError::required(format!("{at}.subjects"), "subjects must contain at least one value"));
    }
    for (index, subject) in subjects.iter().enumerate() {
        check_subject(subject, &format!("{at}.subjects[{index}]"), errors);
    }
    let (resources, paths) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        errors.push(FieldError::required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (index, rule) in resources.iter().enumerate() {
        let at = format!("{at}.resourceRules[{index}]");
        verbs(rule, &at, errors);
        some(rule, &at, "apiGroups", "resource rules must supply at least one api group", "api groups", errors);
        some(rule, &at, "resources", "resource rules must supply at least one resource", "resources", errors);
        namespaces(rule, &at, errors);
    }
    for (index, rule) in paths.iter().enumerate() {
        let at = format!("{at}.nonResourceRules[{index}]");
        verbs(rule, &at, errors);
        if some(rule, &at, "nonResourceURLs", "nonResourceURLs must contain at least one value", "non-resource URLs", errors) {
            for (index, path) in list(rule, "nonResourceURLs").iter().enumerate() {
                let why = no_path(path.as_str().unwrap_or(""));
                errors.extend(why.map(|why| FieldError::invalid(format!("{at}.nonResourceURLs[{index}]"), path, why)));
            }
        }
    }
}

/// A subject describes itself under the key of its kind, and under no other.
fn check_subject(subject: &Value, at: &str, errors: &mut FieldErrors) {
    let kind = text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        let kinds = SUBJECTS.map(|(kind, _)| kind);
        errors.push(FieldError::not_supported(format!("{at}.kind"), &kind.into(), &kinds));
        return;
    };
    let (body, own_at) = (&subject[*own], format!("{at}.{own}"));
    if body.is_null() {
        errors.push(FieldError::required(&own_at, &format!("{own} is required when subject kind is '{kind}'")));
    } else {
        let (name, name_at) = (text(body, "name"), format!("{own_at}.name"));
        if name.is_empty() {
            errors.push(FieldError::required(name_at, ""));
        } else if kind == "ServiceAccount" && name != "*" {
            errors.extend(names::dns1123_subdomain(name).iter().map(|reason| FieldError::invalid(&name_at, &name.into(), reason)));
        }
        if kind == "ServiceAccount" {
            let (namespace, at) = (text(body, "namespace"), format!("{own_at}.namespace"));
            match namespace {
                "" => errors.push(FieldError::required(at, "must specify namespace for service account")),
                _ => {
                    let wrong = names::dns1123_label(namespace);
                    errors.extend(wrong.iter().map(|reason| FieldError::invalid(&at, &namespace.into(), reason)));
                }
            }
        }
    }
    for (other, key) in SUBJECTS.into_iter().filter(|(other, key)| *other != kind && !subject[*key].is_null()) {
        errors.push(FieldError::forbidden(format!("{at}.{key}"), &format!("{key} is forbidden when subject kind is not '{other}'")));
    }
}

/// At least one, and a star alone; true where there is no star.
fn some(rule: &Value, at: &str, key: &str, none: &str, others: &str, errors: &mut FieldErrors) -> bool {
    let (values, at) = (list(rule, key), format!("{at}.{key}"));
    let star = values.iter().any(|value| value == "*");
    if values.is_empty() {
        errors.push(FieldError::required(at, none));
    } else if star && values.len() > 1 {
        errors.push(FieldError::invalid(at, &rule[key], &format!("if '*' is present, must not specify other {others}")));
    }
    !star
}

fn verbs(rule: &Value, at: &str, errors: &mut FieldErrors) {
    let plain = some(rule, at, "verbs", "verbs must contain at least one value", "verbs", errors);
    if plain && list(rule, "verbs").iter().any(|verb| !VERBS.iter().any(|known| verb == known)) {
        errors.push(FieldError::not_supported(format!("{at}.verbs"), &rule["verbs"], &VERBS));
    }
}

fn namespaces(rule: &Value, at: &str, errors: &mut FieldErrors) {
    if list(rule, "namespaces").is_empty() && rule["clusterScope"] == true {
        return;
    }
    let none = "resource rules that are not cluster scoped must supply at least one namespace";
    if !some(rule, at, "namespaces", none, "namespaces", errors) {
        return;
    }
    for (index, namespace) in list(rule, "namespaces").iter().enumerate() {
        for reason in names::dns1123_label(namespace.as_str().unwrap_or("")) {
            let detail = format!("each member of this list must be '*' or a DNS-1123 label; {reason}");
            errors.push(FieldError::invalid(format!("{at}.namespaces[{index}]"), namespace, &detail));
        }
    }
}

/// `/healthz` or `/api/*`
fn no_path(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if path.strip_suffix("/*").unwrap_or(path).contains('*') => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

/// Bits of a hash that a hand of queues may take (apiserver, util/shufflesharding, MaxHashBits).
const HAND_BITS_MAX: f64 = 60.0;

pub(in crate::kinds) fn priority_level(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (ty, name) = (object.str(&["spec", "type"]), object.name());
    if (name == "exempt") != (ty == "Exempt") {
        errors.push(FieldError::invalid("spec.type", &ty.into(), "type must be 'Exempt' if and only if name is 'exempt'"));
    }
    let (limited, exempt) = (object.get(&["spec", "limited"]), object.get(&["spec", "exempt"]));
    match ty {
        "Exempt" => {
            if limited.is_some() {
                errors.push(FieldError::forbidden("spec.limited", "must be nil if the type is not Limited"));
            }
            exempt.into_iter().for_each(|level| shares(level, "spec.exempt", &mut errors));
        }
        "Limited" => {
            if exempt.is_some() {
                errors.push(FieldError::forbidden("spec.exempt", "must be nil if the type is Limited"));
            }
            match limited {
                None => errors.push(FieldError::required("spec.limited", "must not be empty when type is Limited")),
                Some(limited) => check_limited(limited, &mut errors),
            }
        }
        _ => errors.push(FieldError::not_supported("spec.type", &ty.into(), &["Exempt", "Limited"])),
    }
    match name {
        "exempt" => {
            let spec = object.get(&["spec"]).cloned().unwrap_or_default();
            let fixed = json!({"type": "Exempt", "exempt": spec["exempt"]});
            is_fixed(object, &fixed, "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value", &mut errors);
        }
        "catch-all" => {
            let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            let fixed = json!({"type": "Limited", "limited": limited});
            is_fixed(object, &fixed, "spec of 'catch-all' must equal the fixed value", &mut errors);
        }
        _ => {}
    }
    errors
}

fn shares(level: &Value, at: &str, errors: &mut FieldErrors) {
    let mut wrong = |key: &str, fits: fn(i64) -> bool, detail: &str| {
        if level[key].as_i64().is_some_and(|number| !fits(number)) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &level[key], detail));
        }
    };
    wrong("nominalConcurrencyShares", |number| number >= 0, "must be a non-negative integer");
    wrong("lendablePercent", |number| (0..=100).contains(&number), "must be between 0 and 100, inclusive");
}

fn check_limited(limited: &Value, errors: &mut FieldErrors) {
    shares(limited, "spec.limited", errors);
    if limited["borrowingLimitPercent"].as_i64().is_some_and(|percent| percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid("spec.limited.borrowingLimitPercent", &limited["borrowingLimitPercent"], detail));
    }
    let at = "spec.limited.limitResponse";
    let response = &limited["limitResponse"];
    // Upstream says Limited here where it means Queue.
    match (text(response, "type"), &response["queuing"]) {
        ("Reject", Value::Null) => {}
        ("Reject", _) => {
            errors.push(FieldError::forbidden(format!("{at}.queuing"), "must be nil if limited.limitResponse.type is not Limited"));
        }
        ("Queue", Value::Null) => {
            errors.push(FieldError::required(format!("{at}.queuing"), "must not be empty if limited.limitResponse.type is Limited"));
        }
        ("Queue", queuing) => check_queuing(queuing, &format!("{at}.queuing"), errors),
        (other, _) => errors.push(FieldError::not_supported(format!("{at}.type"), &other.into(), &["Queue", "Reject"])),
    }
}

fn check_queuing(queuing: &Value, at: &str, errors: &mut FieldErrors) {
    let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let mut wrong = |key: &str, detail: &str| errors.push(FieldError::invalid(format!("{at}.{key}"), &number(key).into(), detail));
    if number("queueLengthLimit") <= 0 {
        wrong("queueLengthLimit", "must be positive");
    }
    if queues <= 0 {
        wrong("queues", "must be positive");
    } else if queues > QUEUES_MAX {
        wrong("queues", &format!("must not be greater than {QUEUES_MAX}"));
    }
    // A hand is dealt from a hash, which has no more to deal from.
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil();
    if hand <= 0 {
        wrong("handSize", "must be positive");
    } else if hand > queues {
        wrong("handSize", &format!("should not be greater than queues ({queues})"));
    } else if bits > HAND_BITS_MAX {
        let detail = format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HAND_BITS_MAX}");
        wrong("handSize", &detail);
    }
}

/// Of both kinds.
pub(in crate::kinds) fn status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let conditions = new.list(&["status", "conditions"]);
    duplicates(conditions, "status.conditions", "type", &mut errors);
    for (index, _) in conditions.iter().enumerate().filter(|(_, condition)| text(condition, "type").is_empty()) {
        errors.push(FieldError::required(format!("status.conditions[{index}].type"), "must not be empty"));
    }
    errors
}
