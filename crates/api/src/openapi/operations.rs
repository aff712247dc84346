//! Paths: the operations on each resource and subresource, with the parameters that each takes. kubectl looks for `dryRun` and
//! `fieldValidation` here before it relies on them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::definitions::Definitions;
use super::parameters::{self, DELETE, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE, LIST, PRETTY, Parameter};
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

/// One operation, before it is written in a dialect.
struct Operation<'a> {
    id: String,
    /// Empty, as the group, version and kind are null, where no kind is meant.
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
    let collection = if kind.namespaced() { format!("namespaces/{{namespace}}/{resource}") } else { resource.to_string() };
    let one = format!("{collection}/{{name}}");

    let mut item = Map::new();
    let verbs = |wanted: &[Verb]| -> Vec<Verb> { wanted.iter().copied().filter(|verb| kind.verbs.contains(*verb)).collect() };
    for verb in verbs(&[Verb::List, Verb::Create, Verb::DeleteCollection]) {
        put(&mut item, method(verb), operation(kind, verb, "", definitions), definitions.dialect);
    }
    insert(paths, format!("{root}/{collection}"), item, definitions.dialect);

    let mut item = Map::new();
    for verb in verbs(&[Verb::Get, Verb::Update, Verb::Delete, Verb::Patch]) {
        put(&mut item, method(verb), operation(kind, verb, "", definitions), definitions.dialect);
    }
    insert(paths, format!("{root}/{one}"), item, definitions.dialect);

    if kind.namespaced() && kind.verbs.contains(Verb::List) {
        let mut item = Map::new();
        let all = operation(kind, Verb::List, "ForAllNamespaces", definitions);
        put(&mut item, "get", all, definitions.dialect);
        insert(paths, format!("{root}/{resource}"), item, definitions.dialect);
    }
    if kind.verbs.contains(Verb::Watch) && kind.custom.is_none() {
        let mut watch = |path: &str, action, suffix| {
            let mut item = Map::new();
            put(&mut item, "get", watch_operation(kind, action, suffix, definitions), definitions.dialect);
            insert(paths, format!("{root}/watch/{path}"), item, definitions.dialect);
        };
        watch(&collection, "watchlist", "List");
        watch(&one, "watch", "");
        if kind.namespaced() {
            watch(resource, "watchlist", "ListForAllNamespaces");
        }
    }
    for sub in &kind.subresources {
        let path = format!("{root}/{one}/{}", sub.name);
        if is_stream(sub) {
            let mut connect = |path: String, suffix| {
                let mut item = Map::new();
                for method in connect_methods(sub) {
                    put(&mut item, method, connect_operation(kind, sub, method, suffix, definitions), definitions.dialect);
                }
                insert(paths, path, item, definitions.dialect);
            };
            if &*sub.name == "proxy" {
                connect(format!("{path}/{{path}}"), "WithPath");
            }
            connect(path, "");
            continue;
        }
        let mut item = Map::new();
        for verb in sub.verbs.iter().filter(|verb| !method(*verb).is_empty()) {
            put(&mut item, method(verb), sub_operation(kind, sub, verb, definitions), definitions.dialect);
        }
        insert(paths, path, item, definitions.dialect);
    }
}

/// What a group and version says of itself: its resources.
pub(super) fn add_resources(group: &str, version: &str, definitions: &mut Definitions, paths: &mut BTreeMap<String, Value>) {
    let id = group_id(group, version);
    let answer = definitions.meta_ref("APIResourceList");
    add_document(paths, &format!("{}/", root(group, version)), format!("get{id}APIResources"), tag(&id), answer, definitions.dialect);
}

/// What all groups and versions say together, and the server of itself.
pub(super) fn add_groups<'a>(groups: impl Iterator<Item = &'a str>, definitions: &mut Definitions, paths: &mut BTreeMap<String, Value>) {
    let dialect = definitions.dialect;
    let mut put = |path: &str, id: String, tag: String, answer| add_document(paths, path, id, tag, answer, dialect);
    put("/api/", "getCoreAPIVersions".to_owned(), "core".to_owned(), definitions.meta_ref("APIVersions"));
    put("/apis/", "getAPIVersions".to_owned(), "apis".to_owned(), definitions.meta_ref("APIGroupList"));
    put("/version/", "getCodeVersion".to_owned(), "version".to_owned(), definitions.version_ref());
    for group in groups {
        let id = group_id(group, "");
        put(&format!("/apis/{group}/"), format!("get{id}APIGroup"), tag(&id), definitions.meta_ref("APIGroup"));
    }
}

fn add_document(paths: &mut BTreeMap<String, Value>, path: &str, id: String, tag: String, answer: Value, dialect: Dialect) {
    let operation = Operation {
        id,
        action: "",
        gvk: Value::Null,
        parameters: Vec::new(),
        body: None,
        body_required: false,
        consumes: vec![JSON, YAML],
        produces: vec![JSON, YAML],
        answer,
        codes: &["200"],
        tag,
        custom: false,
    };
    let mut item = Map::new();
    put(&mut item, "get", operation, dialect);
    insert(paths, path.to_owned(), item, dialect);
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

/// The scope and the kind, as names of operations have them.
fn subject(kind: &Kind, suffix: &str) -> String {
    let scope = if kind.namespaced() && !suffix.ends_with("ForAllNamespaces") { "Namespaced" } else { "" };
    format!("{scope}{}{suffix}", kind.kind)
}

fn operation<'a>(kind: &Kind, verb: Verb, suffix: &str, definitions: &mut Definitions) -> Operation<'a> {
    let (word, what) = match verb {
        Verb::Get => ("read", ""),
        Verb::List | Verb::Watch => ("list", ""),
        Verb::Create => ("create", ""),
        Verb::Update => ("replace", ""),
        Verb::Patch => ("patch", ""),
        Verb::Delete => ("delete", ""),
        Verb::DeleteCollection => ("delete", "Collection"),
    };
    let id = group_id(&kind.group, &kind.version);
    let mut operation = Operation {
        id: format!("{word}{id}{what}{}", subject(kind, suffix)),
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
            operation.answer =
                if verb == Verb::Delete && kind.answers_deleted() { definitions.kind_ref(kind) } else { definitions.meta_ref("Status") };
            operation.codes = if verb == Verb::Delete { &["200", "202"] } else { &["200"] };
        }
    }
    operation
}

/// The old form of watches, `/watch/` in front of the path.
fn watch_operation<'a>(kind: &Kind, action: &'a str, suffix: &str, definitions: &mut Definitions) -> Operation<'a> {
    let mut operation = operation(kind, Verb::List, "", definitions);
    operation.id = format!("watch{}{}", group_id(&kind.group, &kind.version), subject(kind, suffix));
    operation.action = action;
    operation.answer = definitions.meta_ref("WatchEvent");
    operation
}

fn is_stream(sub: &Subresource) -> bool {
    matches!(&*sub.name, "exec" | "attach" | "portforward" | "proxy")
}

/// The methods of HTTP that a stream is opened with.
fn connect_methods(sub: &Subresource) -> &'static [&'static str] {
    if &*sub.name == "proxy" { &["get", "head", "post", "put", "patch", "delete", "options"] } else { &["get", "post"] }
}

fn connect_operation<'a>(
    kind: &Kind,
    sub: &Subresource,
    method: &'static str,
    suffix: &str,
    definitions: &mut Definitions,
) -> Operation<'a> {
    let mut operation = operation(kind, Verb::Get, "", definitions);
    let group = group_id(&kind.group, &kind.version);
    operation.id = format!("connect{group}{}{}{}{suffix}", capital(method), subject(kind, ""), capital(&sub.name));
    operation.action = "connect";
    operation.gvk = gvk(&sub.group, &sub.version, &sub.kind);
    operation.parameters = parameters::of_subresource(&sub.name).to_vec();
    operation.produces = vec!["*/*"];
    operation.answer = json!({ "type": "string" });
    operation
}

fn sub_operation<'a>(kind: &Kind, sub: &Subresource, verb: Verb, definitions: &mut Definitions) -> Operation<'a> {
    let mut operation = operation(kind, verb, "", definitions);
    operation.id.extend(sub.name.split('-').map(capital));
    operation.gvk = gvk(&sub.group, &sub.version, &sub.kind);
    operation.parameters.truncate(1);
    operation.body = None;
    let body = match Schema::get().of_kind(&sub.group, &sub.version, &sub.kind) {
        Some(id) => definitions.message_ref(id),
        None => definitions.kind_ref(kind),
    };
    if &*sub.name == "log" {
        operation.parameters.extend(parameters::of_subresource(&sub.name));
        operation.produces.insert(0, "text/plain");
        operation.answer = json!({ "type": "string" });
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
    let mut written = json!({ "operationId": operation.id, "tags": [operation.tag] });
    if !operation.action.is_empty() {
        written["x-kubernetes-action"] = operation.action.into();
        written["x-kubernetes-group-version-kind"] = operation.gvk;
    }
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

/// Adds what stands at a path, with the parameters that the path itself names.
fn insert(paths: &mut BTreeMap<String, Value>, path: String, mut item: Map<String, Value>, dialect: Dialect) {
    if item.is_empty() {
        return;
    }
    let named = parameters::IN_PATHS.iter().filter(|(name, ..)| path.contains(&format!("{{{name}}}")));
    let parameters: Vec<Value> = named.map(|(name, ty, description)| parameter(name, ty, description, "path", dialect)).collect();
    if !parameters.is_empty() {
        item.insert("parameters".to_owned(), parameters.into());
    }
    paths.insert(path, Value::Object(item));
}
