//! Paths: the operations on each resource and subresource, with the parameters that each takes. kubectl looks for `dryRun` and
//! `fieldValidation` here before it relies on them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::definitions::Definitions;
use super::{Dialect, root};
use crate::kind::{Kind, Subresource, Verb};
use crate::schema::Schema;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const JSON_WATCH: &str = "application/json;stream=watch";
const PROTOBUF_WATCH: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// name, type, description
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = ("dryRun", "string", "With 'All', every stage runs and nothing is persisted.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change, at most 128 characters.");
const FIELD_VALIDATION: Parameter =
    ("fieldValidation", "string", "What to do with unknown or duplicate fields: 'Ignore', 'Warn' (the default) or 'Strict'.");
const FORCE: Parameter = ("force", "boolean", "Apply takes over the fields that others own.");
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK in a watch."),
    ("continue", "string", "Where the last page of a list ended."),
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
    ("limit", "integer", "The most objects in one page of a list."),
    ("resourceVersion", "string", "What version of the collection is to be shown, or watched from."),
    ("resourceVersionMatch", "string", "How resourceVersion is to be read: 'Exact' or 'NotOlderThan'."),
    ("sendInitialEvents", "boolean", "A watch begins with the objects that there are."),
    ("timeoutSeconds", "integer", "When the request ends, whatever it is doing."),
    ("watch", "boolean", "Shows changes as they happen instead of a list."),
];
const DELETE: [Parameter; 4] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds until the object goes; 0 is at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'."),
];

/// One operation, before it is written in a dialect.
struct Operation<'a> {
    id: String,
    action: &'a str,
    gvk: Value,
    parameters: Vec<Parameter>,
    body: Option<Value>,
    body_required: bool,
    consumes: Vec<&'a str>,
    produces: Vec<&'a str>,
    answer: Value,
    /// HTTP codes that come with the answer.
    codes: &'a [&'a str],
    tag: String,
    /// Of a kind made at run time: no protobuf, no strategic merge.
    custom: bool,
}

pub(super) fn add(kind: &Kind, definitions: &mut Definitions, paths: &mut BTreeMap<String, Value>) {
    let root = root(&kind.group, &kind.version);
    let resource = &kind.resource;
    let collection = if kind.namespaced() { format!("{root}/namespaces/{{namespace}}/{resource}") } else { format!("{root}/{resource}") };

    let mut item = Map::new();
    let verbs = |wanted: &[Verb]| -> Vec<Verb> { wanted.iter().copied().filter(|verb| kind.verbs.contains(*verb)).collect() };
    for verb in verbs(&[Verb::List, Verb::Create, Verb::DeleteCollection]) {
        put(&mut item, method(verb), operation(kind, verb, "", definitions), definitions.dialect);
    }
    insert(paths, collection.clone(), item, kind.namespaced(), false, definitions.dialect);

    let mut item = Map::new();
    for verb in verbs(&[Verb::Get, Verb::Update, Verb::Delete, Verb::Patch]) {
        put(&mut item, method(verb), operation(kind, verb, "", definitions), definitions.dialect);
    }
    insert(paths, format!("{collection}/{{name}}"), item, kind.namespaced(), true, definitions.dialect);

    if kind.namespaced() && kind.verbs.contains(Verb::List) {
        let mut item = Map::new();
        let all = operation(kind, Verb::List, "ForAllNamespaces", definitions);
        put(&mut item, "get", all, definitions.dialect);
        insert(paths, format!("{root}/{resource}"), item, false, false, definitions.dialect);
    }
    for sub in &kind.subresources {
        let mut item = Map::new();
        for verb in sub.verbs.iter().filter(|verb| !method(*verb).is_empty()) {
            put(&mut item, method(verb), sub_operation(kind, sub, verb, definitions), definitions.dialect);
        }
        insert(paths, format!("{collection}/{{name}}/{}", sub.name), item, kind.namespaced(), true, definitions.dialect);
    }
}

fn method(verb: Verb) -> &'static str {
    match verb {
        Verb::Get | Verb::List => "get",
        Verb::Create => "post",
        Verb::Update => "put",
        Verb::Patch => "patch",
        Verb::Delete | Verb::DeleteCollection => "delete",
        Verb::Watch => "",
    }
}

/// `rbac.authorization.k8s.io` v1 → `RbacAuthorizationV1`
fn group_id(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split(['.', '-']).chain([version]).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

fn operation<'a>(kind: &Kind, verb: Verb, suffix: &str, definitions: &mut Definitions) -> Operation<'a> {
    let word = match verb {
        Verb::Get => "read",
        Verb::List | Verb::Watch => "list",
        Verb::Create => "create",
        Verb::Update => "replace",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
        Verb::DeleteCollection => "deleteCollection",
    };
    let scope = if kind.namespaced() && suffix.is_empty() { "Namespaced" } else { "" };
    let id = group_id(&kind.group, &kind.version);
    let mut operation = Operation {
        id: format!("{word}{id}{scope}{}{suffix}", kind.kind),
        action: verb_action(verb),
        gvk: gvk(&kind.group, &kind.version, &kind.kind),
        parameters: vec![PRETTY],
        body: None,
        body_required: false,
        consumes: vec!["*/*"],
        produces: vec![JSON, YAML, PROTOBUF],
        answer: Value::Null,
        codes: &["200"],
        tag: tag(&id),
        custom: kind.custom.is_some(),
    };
    if operation.custom {
        operation.produces.retain(|media| *media != PROTOBUF);
    }
    match verb {
        Verb::List | Verb::Watch => {
            operation.parameters.extend(LIST);
            operation.produces.extend([JSON_WATCH, PROTOBUF_WATCH]);
            operation.answer = definitions.list_ref(kind);
        }
        Verb::Get => operation.answer = definitions.kind_ref(kind),
        Verb::Create | Verb::Update | Verb::Patch => {
            operation.write(verb, definitions.kind_ref(kind), definitions);
        }
        Verb::Delete | Verb::DeleteCollection => {
            if verb == Verb::DeleteCollection {
                operation.parameters.extend(LIST.iter().filter(|(name, ..)| !matches!(*name, "watch" | "allowWatchBookmarks")));
            }
            operation.parameters.extend(DELETE);
            operation.body = Some(definitions.meta_ref("DeleteOptions"));
            operation.answer = definitions.meta_ref("Status");
            operation.codes = if verb == Verb::Delete { &["200", "202"] } else { &["200"] };
        }
    }
    operation
}

fn sub_operation<'a>(kind: &Kind, sub: &Subresource, verb: Verb, definitions: &mut Definitions) -> Operation<'a> {
    let connect = matches!(&*sub.name, "exec" | "attach" | "portforward" | "proxy");
    let mut operation = operation(kind, verb, "", definitions);
    let name: String = sub.name.split('-').map(capital).collect();
    operation.id = if connect {
        format!("connect{}{}", capital(method(verb)), operation.id.trim_start_matches(|letter: char| letter.is_lowercase()))
    } else {
        operation.id
    };
    operation.id.push_str(&name);
    operation.gvk = gvk(&sub.group, &sub.version, &sub.kind);
    if connect {
        operation.action = "connect";
    }
    let body = match Schema::get().of_kind(&sub.group, &sub.version, &sub.kind) {
        Some(id) if !connect => definitions.message_ref(id),
        None if kind.custom.is_some() => definitions.kind_ref(kind),
        _ => json!({ "type": "string" }),
    };
    operation.parameters.truncate(1);
    operation.body = None;
    if connect || &*sub.name == "log" {
        operation.produces = vec!["text/plain", JSON, YAML, PROTOBUF];
        operation.answer = json!({ "type": "string" });
        operation.codes = &["200"];
    } else if matches!(verb, Verb::Create | Verb::Update | Verb::Patch) {
        operation.write(verb, body, definitions);
    } else {
        operation.answer = body;
    }
    operation
}

fn verb_action(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    }
}

/// `AppsV1` → `apps_v1`
fn tag(id: &str) -> String {
    let mut tag = String::new();
    for letter in id.chars() {
        if letter == 'V' && !tag.is_empty() {
            tag.push('_');
        }
        if tag.is_empty() || letter == 'V' { tag.extend(letter.to_lowercase()) } else { tag.push(letter) }
    }
    tag
}

impl Operation<'_> {
    fn write(&mut self, verb: Verb, schema: Value, definitions: &mut Definitions) {
        self.parameters.extend([DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION]);
        self.body_required = true;
        self.body = Some(schema.clone());
        self.answer = schema;
        self.codes = match verb {
            Verb::Create => &["200", "201", "202"],
            _ => &["200", "201"],
        };
        if verb == Verb::Patch {
            self.parameters.push(FORCE);
            self.body = Some(definitions.patch_ref());
            self.consumes = PATCHES.to_vec();
            if self.custom {
                self.consumes.retain(|media| !media.contains("strategic"));
            }
        }
    }
}

fn put(item: &mut Map<String, Value>, method: &str, operation: Operation<'_>, dialect: Dialect) {
    let answers = |answer: Value| -> Map<String, Value> {
        let known = operation.codes.iter().map(|code| ((*code).to_owned(), answer.clone()));
        known.chain([("401".to_owned(), json!({ "description": "Unauthorized" }))]).collect()
    };
    let mut parameters: Vec<Value> = operation.parameters.iter().map(|parameter| query(*parameter, dialect)).collect();
    let mut written = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.gvk,
    });
    let content = |types: &[&str], schema: &Value| -> Map<String, Value> {
        types.iter().map(|ty| ((*ty).to_owned(), json!({ "schema": schema }))).collect()
    };
    match dialect {
        Dialect::V2 => {
            if let Some(body) = operation.body {
                let mut parameter = json!({ "in": "body", "name": "body", "schema": body });
                if operation.body_required {
                    parameter["required"] = true.into();
                }
                parameters.insert(0, parameter);
            }
            written["schemes"] = json!(["https"]);
            written["consumes"] = json!(operation.consumes);
            written["produces"] = json!(operation.produces);
            written["responses"] = Value::Object(answers(json!({ "description": "OK", "schema": operation.answer })));
        }
        Dialect::V3 => {
            if let Some(body) = operation.body {
                let mut request = json!({ "content": content(&operation.consumes, &body) });
                if operation.body_required {
                    request["required"] = true.into();
                }
                written["requestBody"] = request;
            }
            written["responses"] =
                Value::Object(answers(json!({ "description": "OK", "content": content(&operation.produces, &operation.answer) })));
        }
    }
    written["parameters"] = parameters.into();
    item.insert(method.to_owned(), written);
}

fn query((name, ty, description): Parameter, dialect: Dialect) -> Value {
    parameter(name, ty, description, "query", dialect)
}

fn parameter(name: &str, ty: &str, description: &str, place: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({ "name": name, "in": place, "description": description });
    match dialect {
        Dialect::V2 => parameter["type"] = ty.into(),
        Dialect::V3 => parameter["schema"] = json!({ "type": ty }),
    }
    match dialect {
        Dialect::V2 => parameter["uniqueItems"] = true.into(),
        Dialect::V3 => parameter["schema"]["uniqueItems"] = true.into(),
    }
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

fn insert(
    paths: &mut BTreeMap<String, Value>,
    path: String,
    mut item: Map<String, Value>,
    namespaced: bool,
    named: bool,
    dialect: Dialect,
) {
    if item.is_empty() {
        return;
    }
    let name = named.then(|| parameter("name", "string", "The name of the object.", "path", dialect));
    let namespace = namespaced.then(|| parameter("namespace", "string", "The namespace of the object.", "path", dialect));
    let parameters: Vec<Value> = name.into_iter().chain(namespace).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    paths.insert(path, Value::Object(item));
}
