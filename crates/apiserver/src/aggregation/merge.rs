//! One OpenAPI document of version 2 from this server's and those of extension servers.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::Remotes;

/// Adds to `document` the paths of each extension server's version and the definitions that they need. A definition of the same name that says
/// something else is added under another name, as upstream does (kube-openapi, aggregator).
pub(crate) fn openapi_v2(mut document: Value, remotes: &Remotes) -> Value {
    for remote in remotes.iter() {
        let Ok(other) = serde_json::from_slice::<Value>(&remote.told.openapi_v2.bytes) else { continue };
        add(&mut document, &other, &remote.root());
    }
    document
}

fn add(document: &mut Value, other: &Value, root: &str) {
    let within = |path: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let mut paths: Map<String, Value> =
        map(&other["paths"]).filter(|(path, _)| within(path)).map(|(path, item)| (path.clone(), item.clone())).collect();
    let needed = needed(paths.values(), &other["definitions"]);
    let mut renamed = HashMap::new();
    for name in &needed {
        let theirs = &other["definitions"][name];
        if document["definitions"].get(name).is_some_and(|ours| ours != theirs) {
            let free = (2..).map(|number| format!("{name}_v{number}")).find(|free| document["definitions"].get(free).is_none());
            renamed.insert(name.clone(), free.unwrap_or_default());
        }
    }
    paths.values_mut().for_each(|item| rename(item, &renamed));
    for name in needed {
        let mut definition = other["definitions"][&name].clone();
        rename(&mut definition, &renamed);
        let name = renamed.get(&name).cloned().unwrap_or(name);
        if let Some(definitions) = document["definitions"].as_object_mut() {
            definitions.entry(name).or_insert(definition);
        }
    }
    if let Some(all) = document["paths"].as_object_mut() {
        paths.into_iter().for_each(|(path, item)| drop(all.insert(path, item)));
    }
}

fn map(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

const PREFIX: &str = "#/definitions/";

/// The names of all definitions that `items` refer to, also through others. A chain of definitions may be as long as a document: it is walked, not
/// descended.
fn needed<'a>(items: impl Iterator<Item = &'a Value>, definitions: &'a Value) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), Vec::new());
    items.for_each(|item| references(item, &mut open));
    while let Some(name) = open.pop() {
        if let Some(definition) = definitions.get(name).filter(|_| !found.contains(name)) {
            found.insert(name.to_owned());
            references(definition, &mut open);
        }
    }
    found
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix(PREFIX)));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, renamed: &HashMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(PREFIX).and_then(|name| renamed.get(name))
            {
                *reference = format!("{PREFIX}{name}");
            }
            map.values_mut().for_each(|value| rename(value, renamed));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, renamed)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_its_own_version_come_with_what_they_refer_to() {
        let mut document = json!({"paths": {"/api/v1": {}}, "definitions": {"Meta": {"type": "object"}, "Same": {"x": 1}}});
        let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
        let other = json!({
        "paths": {"/apis/g/v1/things": {"get": reference("Thing")}, "/apis/g/v10/x": {}, "/api/v1": {"theirs": true}, "/version": {}},
        "definitions": {
            "Thing": {"meta": reference("Meta"), "self": [reference("Thing")], "same": reference("Same")},
            "Meta": {"type": "string"}, "Same": {"x": 1}, "Unused": {},
        }});
        add(&mut document, &other, "/apis/g/v1");
        assert_eq!(document["paths"], json!({"/api/v1": {}, "/apis/g/v1/things": {"get": reference("Thing")}}));
        assert_eq!(
            document["definitions"],
            json!({
                "Meta": {"type": "object"}, "Meta_v2": {"type": "string"}, "Same": {"x": 1},
                "Thing": {"meta": reference("Meta_v2"), "self": [reference("Thing")], "same": reference("Same")},
            })
        );
    }
}
