//! The built-in roles and bindings: `roles.txt`, read into objects, and how they are brought together with what is stored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::authz::Rule;

const TEXT: &str = include_str!("roles.txt");
const RBAC: &str = "rbac.authorization.k8s.io";
/// `false` keeps the server's hands off an object.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

pub(super) type Object = Map<String, Value>;

/// All built-in roles and bindings as the API shows them, without uid and time of creation; aggregated roles have no rules yet.
pub(super) fn built_in() -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("  "), objects.last_mut()) {
            (Some(part), Some(object)) => add_part(object, part),
            _ => objects.push(head(line)),
        }
    }
    objects
}

/// The rules of one built-in cluster role.
pub(crate) fn built_in_rules(role: &str) -> Vec<Rule> {
    let found = built_in().into_iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == role);
    found.map(|object| Rule::list_of(&object)).unwrap_or_default()
}

fn head(line: &str) -> Object {
    let words: Vec<&str> = line.split(' ').collect();
    let (kind, namespace, name, role) = match words[..] {
        [kind @ "ClusterRole", name] => (kind, "", name, None),
        [kind @ "Role", namespace, name] => (kind, namespace, name, None),
        [kind @ "ClusterRoleBinding", name, role] => (kind, "", name, Some(role)),
        [kind @ "RoleBinding", namespace, name, role] => (kind, namespace, name, Some(role)),
        // The text is part of the program, and a test reads all of it.
        _ => panic!("roles.txt: {line:?} is not the head of an object"),
    };
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { AUTOUPDATE: "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    let mut object = Object::new();
    object.insert("apiVersion".to_owned(), format!("{RBAC}/v1").into());
    object.insert("kind".to_owned(), kind.into());
    object.insert("metadata".to_owned(), metadata);
    match role.and_then(|role| role.split_once('/')) {
        Some((kind, name)) => object.insert("roleRef".to_owned(), json!({ "apiGroup": RBAC, "kind": kind, "name": name })),
        None => object.insert("rules".to_owned(), json!([])),
    };
    object
}

fn add_part(object: &mut Object, part: &str) {
    let words: Vec<&str> = part.split(' ').collect();
    match words[..] {
        ["label", label] => {
            let (key, value) = split(label, '=');
            object["metadata"]["labels"][key] = value.into();
        }
        ["aggregate", label] => {
            let (key, value) = split(label, '=');
            object.insert("aggregationRule".to_owned(), json!({ "clusterRoleSelectors": [{ "matchLabels": { key: value } }] }));
        }
        ["rule", verbs, groups, resources] => push(object, "rules", rule(verbs, groups, resources, None)),
        ["rule", verbs, groups, resources, names] => push(object, "rules", rule(verbs, groups, resources, Some(names))),
        ["url", verbs, urls] => push(object, "rules", json!({ "verbs": list(verbs), "nonResourceURLs": list(urls) })),
        ["subject", subject] => push(object, "subjects", subject_of(subject)),
        _ => panic!("roles.txt: {part:?} is not a part of an object"),
    }
}

fn rule(verbs: &str, groups: &str, resources: &str, names: Option<&str>) -> Value {
    let mut rule = json!({ "verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources) });
    if let Some(names) = names {
        rule["resourceNames"] = list(names);
    }
    rule
}

fn subject_of(subject: &str) -> Value {
    match split(subject, ':') {
        ("ServiceAccount", account) => {
            let (namespace, name) = split(account, '/');
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        (kind, name) => json!({ "apiGroup": RBAC, "kind": kind, "name": name }),
    }
}

fn list(text: &str) -> Value {
    text.split(',').map(|item| Value::from(item.trim_matches('"'))).collect()
}

fn split(text: &str, at: char) -> (&str, &str) {
    text.split_once(at).unwrap_or_else(|| panic!("roles.txt: {text:?} has no {at:?}"))
}

fn push(object: &mut Object, field: &str, item: Value) {
    if let Some(items) = object.entry(field).or_insert_with(|| json!([])).as_array_mut() {
        items.push(item);
    }
}

/// What to do with a built-in object that is already stored.
#[derive(Debug, PartialEq)]
pub(super) enum Reconciled {
    Keep,
    Update(Object),
    /// A binding whose role changed: the reference cannot be updated.
    Replace,
}

/// Adds to `stored` what `wanted` has and it lacks: rules, subjects, labels, annotations, selectors. Takes nothing away, as upstream
/// does at each start (component-helpers, auth/rbac/reconciliation).
pub(super) fn reconcile(stored: &Object, wanted: &Object) -> Reconciled {
    if stored["metadata"]["annotations"].get(AUTOUPDATE).and_then(Value::as_str) == Some("false") {
        return Reconciled::Keep;
    }
    if stored.get("roleRef") != wanted.get("roleRef") {
        return Reconciled::Replace;
    }
    let mut merged = stored.clone();
    for map in ["labels", "annotations"] {
        let entries = wanted["metadata"][map].as_object();
        for (key, value) in entries.into_iter().flatten() {
            merged["metadata"][map][key.as_str()] = value.clone();
        }
    }
    match wanted.get("aggregationRule") {
        // Its rules are computed, see `aggregate`.
        Some(rule) => {
            merged.insert("aggregationRule".to_owned(), rule.clone());
        }
        None => {
            let missing = crate::authz::uncovered(&Rule::list_of(stored), &Rule::list_of(wanted));
            let wanted_rules = wanted.get("rules").and_then(Value::as_array).into_iter().flatten().zip(Rule::list_of(wanted));
            for (value, rule) in wanted_rules {
                if !missing.is_empty() && !crate::authz::uncovered(&Rule::list_of(stored), &[rule]).is_empty() {
                    push(&mut merged, "rules", value.clone());
                }
            }
        }
    }
    for subject in wanted.get("subjects").and_then(Value::as_array).into_iter().flatten() {
        let have = merged.get("subjects").and_then(Value::as_array);
        if !have.is_some_and(|have| have.contains(subject)) {
            push(&mut merged, "subjects", subject.clone());
        }
    }
    match merged == *stored {
        true => Reconciled::Keep,
        false => Reconciled::Update(merged),
    }
}

/// The rules of the aggregated cluster role `role`: those of all `roles` with its labels, each once, in the order of the roles' names.
pub(super) fn aggregate(role: &Object, roles: &BTreeMap<String, &Object>) -> Value {
    let selectors = role.get("aggregationRule").and_then(|rule| rule["clusterRoleSelectors"].as_array());
    let selectors: Vec<&Value> = selectors.into_iter().flatten().collect();
    let matches = |other: &Object| {
        selectors.iter().any(|selector| {
            let wanted = selector["matchLabels"].as_object();
            wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| other["metadata"]["labels"].get(key) == Some(value)))
        })
    };
    let mut rules: Vec<Value> = Vec::new();
    for other in roles.values().filter(|other| other["metadata"]["name"] != role["metadata"]["name"] && matches(other)) {
        for rule in other.get("rules").and_then(Value::as_array).into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules.into()
}
