//! flowcontrol.apiserver.k8s.io/v1.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing};
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::object::Object;

static FLOW_SCHEMA: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.priorityLevelConfiguration.name required
        spec.priorityLevelConfiguration.name subdomain
        spec.matchingPrecedence range 1 10000
        spec.distinguisherMethod.type enum ByUser ByNamespace
        spec.rules[].subjects required
        spec.rules[].subjects[].kind required
        spec.rules[].subjects[].kind enum User Group ServiceAccount
        spec.rules[].subjects[].user.name required
        spec.rules[].subjects[].group.name required
        spec.rules[].subjects[].serviceAccount.name required
        spec.rules[].subjects[].serviceAccount.namespace required
        spec.rules[].resourceRules[].verbs required
        spec.rules[].resourceRules[].apiGroups required
        spec.rules[].resourceRules[].resources required
        spec.rules[].nonResourceRules[].verbs required
        spec.rules[].nonResourceRules[].nonResourceURLs required
        "#,
    )
});

/// (kind of a subject, its key)
const SUBJECTS: [(&str, &str); 3] = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
const VERBS: [&str; 10] = ["*", "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(in crate::kinds) fn flow_schema(object: &Object) -> FieldErrors {
    let mut errors = by_table(&FLOW_SCHEMA, object);
    if is_missing(object.get(&["spec", "priorityLevelConfiguration"])) {
        errors.push(FieldError::required("spec.priorityLevelConfiguration.name", "must reference a priority level"));
    }
    if object.name() != "exempt" && object.int(&["spec", "matchingPrecedence"]) == Some(1) {
        errors.push(FieldError::invalid(
            "spec.matchingPrecedence",
            &1.into(),
            "only the schema named 'exempt' may have matchingPrecedence 1",
        ));
    }
    for (index, rule) in object.list(&["spec", "rules"]).iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        for (index, subject) in list(rule, "subjects").iter().enumerate() {
            check_subject(subject, &format!("{at}.subjects[{index}]"), &mut errors);
        }
        if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
            errors.push(FieldError::required(&at, "at least one of resourceRules and nonResourceRules has to be non-empty"));
        }
        for (index, resources) in list(rule, "resourceRules").iter().enumerate() {
            let at = format!("{at}.resourceRules[{index}]");
            star_alone(resources, "verbs", &at, &mut errors);
            star_alone(resources, "apiGroups", &at, &mut errors);
            star_alone(resources, "resources", &at, &mut errors);
            for verb in list(resources, "verbs").iter().filter(|verb| !VERBS.iter().any(|known| verb == known)) {
                errors.push(FieldError::not_supported(format!("{at}.verbs"), verb, &VERBS));
            }
            if list(resources, "namespaces").is_empty() && resources["clusterScope"] != true {
                let detail = "resource rules that are not cluster scoped must supply at least one namespace";
                errors.push(FieldError::required(format!("{at}.namespaces"), detail));
            }
        }
        for (index, paths) in list(rule, "nonResourceRules").iter().enumerate() {
            let at = format!("{at}.nonResourceRules[{index}]");
            star_alone(paths, "verbs", &at, &mut errors);
            for (index, path) in list(paths, "nonResourceURLs").iter().enumerate() {
                if path.as_str().is_none_or(|path| path != "*" && !path.starts_with('/')) {
                    errors.push(FieldError::invalid(format!("{at}.nonResourceURLs[{index}]"), path, "must start with slash"));
                }
            }
        }
    }
    errors
}

/// A subject describes itself under the key of its kind, and under no other.
fn check_subject(subject: &Value, at: &str, errors: &mut FieldErrors) {
    let kind = text(subject, "kind");
    for (other, key) in SUBJECTS {
        match (kind == other, subject.get(key).is_some()) {
            (true, false) => {
                errors.push(FieldError::required(format!("{at}.{key}"), &format!("{key} is required when subject kind is '{kind}'")))
            }
            (false, true) => {
                errors.push(FieldError::forbidden(format!("{at}.{key}"), &format!("{key} is forbidden when subject kind is not '{other}'")))
            }
            _ => {}
        }
    }
}

fn star_alone(rule: &Value, key: &str, at: &str, errors: &mut FieldErrors) {
    let values = list(rule, key);
    if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.push(FieldError::invalid(format!("{at}.{key}"), &rule[key], "if '*' is present, must not specify other values"));
    }
}

static LEVEL: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.type required
        spec.type enum Exempt Limited
        spec.limited.nominalConcurrencyShares min 0
        spec.limited.lendablePercent range 0 100
        spec.limited.borrowingLimitPercent min 0
        spec.limited.limitResponse.type required
        spec.limited.limitResponse.type enum Queue Reject
        spec.limited.limitResponse.queuing.queues range 1 10000000
        spec.limited.limitResponse.queuing.handSize min 1
        spec.limited.limitResponse.queuing.queueLengthLimit min 1
        spec.exempt.nominalConcurrencyShares min 0
        spec.exempt.lendablePercent range 0 100
        "#,
    )
});

/// Bits of a hash that a hand of queues may take (apiserver, util/shufflesharding, MaxHashBits).
const HAND_BITS_MAX: f64 = 60.0;

pub(in crate::kinds) fn priority_level(object: &Object) -> FieldErrors {
    let mut errors = by_table(&LEVEL, object);
    let (limited, exempt) = (object.get(&["spec", "limited"]), object.get(&["spec", "exempt"]));
    match object.str(&["spec", "type"]) {
        "Exempt" if limited.is_some() => {
            errors.push(FieldError::forbidden("spec.limited", "must be nil if the type is not Limited"));
        }
        "Limited" if exempt.is_some() => {
            errors.push(FieldError::forbidden("spec.exempt", "must be nil if the type is Limited"));
        }
        "Limited" if limited.is_none() => {
            errors.push(FieldError::required("spec.limited", "must not be empty when type is Limited"));
        }
        _ => {}
    }
    let at = "spec.limited.limitResponse";
    let response = limited.map_or(&Value::Null, |limited| &limited["limitResponse"]);
    match (text(response, "type"), response.get("queuing")) {
        ("Reject", Some(_)) => {
            errors.push(FieldError::forbidden(format!("{at}.queuing"), "must be nil if limited.limitResponse.type is not Queue"))
        }
        ("Queue", None) => {
            errors.push(FieldError::required(format!("{at}.queuing"), "must not be empty if limited.limitResponse.type is Queue"));
        }
        ("Queue", Some(queuing)) => {
            let number = |key: &str| queuing[key].as_i64().unwrap_or(0);
            if number("handSize") > number("queues") {
                let detail = format!("should not be greater than queues ({})", number("queues"));
                errors.push(FieldError::invalid(format!("{at}.queuing.handSize"), &queuing["handSize"], &detail));
            }
            // A hand is dealt from a hash, which has no more to deal from.
            let bits = ((number("queues").max(1) as f64).log2() * number("handSize") as f64).ceil();
            if bits > HAND_BITS_MAX {
                let detail = format!(
                    "required entropy bits of deckSize {} and handSize {} should not be greater than {HAND_BITS_MAX}",
                    number("queues"),
                    number("handSize")
                );
                errors.push(FieldError::invalid(format!("{at}.queuing.handSize"), &queuing["handSize"], &detail));
            }
        }
        _ => {}
    }
    errors
}
