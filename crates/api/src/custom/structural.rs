//! What the schema of a definition may say: the rules of structural schemas, worded and located as upstream's
//! (apiextensions-apiserver, pkg/apiserver/schema/validation.go and defaulting/validation.go).

use serde_json::{Map, Value, json};

use super::schema::{Structural, pattern};
use super::{check, costs, openapi, prune, rules};
use crate::error::{FieldError, FieldErrors};

/// Levels of nesting. Deeper schemas would take the stack of those who walk them.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All that is wrong with a schema at `path`. Rules and defaults are looked at once nothing else is wrong.
pub(crate) fn check(schema: &Value, path: &str) -> FieldErrors {
    compiled(schema, path).err().unwrap_or_default()
}

/// The schema with its rules compiled, or all that is wrong with it.
fn compiled(schema: &Value, path: &str) -> Result<Structural, FieldErrors> {
    let mut errors = Vec::new();
    if deeper_than(schema, DEPTH_MAX * 2) {
        return Err(vec![FieldError::forbidden(path, &format!("must not nest deeper than {DEPTH_MAX} levels"))]);
    }
    let mut general = Vec::new();
    let convertible = openapi::check(schema, path, &mut general);
    let structural = Structural::parse_root(schema);
    if convertible {
        generic(schema, Level::Root, path, &mut errors);
        completeness(schema, schema, path, &mut errors);
        errors.sort_by_key(ToString::to_string);
        if errors.is_empty() {
            default_values(&structural, path, &mut errors);
        }
    }
    errors.append(&mut general);
    if errors.is_empty() {
        rules::check_schema(&structural, schema, path, None, &mut errors);
    }
    if errors.is_empty() { Ok(structural) } else { Err(errors) }
}

/// What costs too much in a schema at `path`. Of one that is refused for something else nothing is said.
pub(super) fn check_costs(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let mut is_ruled = false;
    visit(schema, &mut |schema| is_ruled |= !unset(&schema["x-kubernetes-validations"]));
    if is_ruled && let Ok(structural) = compiled(schema, path) {
        costs::check_schema(&structural, schema, path, errors);
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    let inside = |value: &Value| levels == 0 || deeper_than(value, levels - 1);
    match value {
        Value::Object(map) => map.values().any(inside),
        Value::Array(list) => list.iter().any(inside),
        _ => false,
    }
}

/// Shows `look` a schema that [`check`] accepts, and each that is in it.
pub(super) fn visit<'a>(schema: &'a Value, look: &mut dyn FnMut(&'a Value)) {
    if !schema.is_object() {
        return;
    }
    look(schema);
    for key in ["items", "additionalProperties", "not"] {
        visit(&schema[key], look);
    }
    for list in ["allOf", "anyOf", "oneOf"].map(|key| schema[key].as_array()) {
        list.into_iter().flatten().for_each(|schema| visit(schema, look));
    }
    schema["properties"].as_object().into_iter().flat_map(Map::values).for_each(|schema| visit(schema, look));
}

pub(super) fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or("")
}

pub(super) fn flag(schema: &Value, key: &str) -> bool {
    schema[key] == true
}

/// Go's zero values, which upstream cannot tell from what is not there.
pub(super) fn unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

pub(super) fn members<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema[key].as_object().into_iter().flatten()
}

/// A schema that gives values their structure.
fn generic(schema: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    if !schema.is_object() {
        errors.push(FieldError::invalid(path, schema, "must be a schema"));
        return;
    }
    let ty = text(schema, "type");
    match &schema["items"] {
        Value::Null if ty == "array" => errors.push(FieldError::required(format!("{path}.items"), "must be specified")),
        Value::Null => {}
        items => generic(items, Level::Item, &format!("{path}.items"), errors),
    }
    for (key, inner) in members(schema, "properties") {
        generic(inner, Level::Field, &format!("{path}.properties[{key}]"), errors);
    }
    additional(schema, level, path, errors);
    extensions(schema, path, errors);
    values(schema, is_int_or_string(&schema["anyOf"]), is_int_or_string(&schema["allOf"][0]["anyOf"]), path, errors);
    types(schema, ty, level, path, errors);
    object_fields(schema, level, path, errors);
}

fn additional(schema: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    let additional = &schema["additionalProperties"];
    let at = format!("{path}.additionalProperties");
    if additional.is_null() {
        return;
    }
    if level == Level::Root {
        errors.push(FieldError::forbidden(&at, "must not be used at the root"));
    }
    if flag(schema, "x-kubernetes-embedded-resource") {
        errors.push(FieldError::forbidden(&at, "must not be used if x-kubernetes-embedded-resource is set"));
    }
    if additional.is_object() {
        generic(additional, Level::Field, &at, errors);
    }
}

fn extensions(schema: &Value, path: &str, errors: &mut FieldErrors) {
    if flag(schema, "x-kubernetes-int-or-string") {
        for key in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag(schema, key) {
                let why = "must be false if x-kubernetes-int-or-string is true";
                errors.push(FieldError::invalid(format!("{path}.{key}"), &true.into(), why));
            }
        }
    }
}

fn types(schema: &Value, ty: &str, level: Level, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.type");
    if flag(schema, "x-kubernetes-embedded-resource") && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() { FieldError::required(at, why) } else { FieldError::invalid(at, &ty.into(), why) });
    } else if ty.is_empty() && !flag(schema, "x-kubernetes-int-or-string") && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(at, why));
    } else if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(at, &ty.into(), "must be object at the root"));
    }
}

/// Rules for the apiVersion, kind and metadata of whole objects.
fn object_fields(schema: &Value, level: Level, path: &str, errors: &mut FieldErrors) {
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    if embedded && !flag(schema, "x-kubernetes-preserve-unknown-fields") && members(schema, "properties").next().is_none() {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), why));
    }
    if level != Level::Root && !embedded {
        return;
    }
    for (key, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let property = &schema["properties"][key];
        if !property.is_null() && text(property, "type") != wanted {
            let at = format!("{path}.properties[{key}].type");
            errors.push(FieldError::invalid(at, &text(property, "type").into(), &format!("must be {wanted}")));
        }
    }
    let metadata = &schema["properties"]["metadata"];
    if level == Level::Root && metadata.is_object() {
        let known = |(key, value): (&String, &Value)| match key.as_str() {
            "type" | "default" => true,
            "properties" => value.as_object().into_iter().flatten().all(|(name, _)| ["name", "generateName"].contains(&name.as_str())),
            "additionalProperties" => false,
            _ => unset(value),
        };
        if !metadata.as_object().into_iter().flatten().all(known) {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), why));
        }
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, where a schema is int-or-string.
fn is_int_or_string(alternatives: &Value) -> bool {
    *alternatives == json!([{"type": "integer"}, {"type": "string"}])
}

/// What only checks values, and may not give structure. The two flags: the schema has one of the forms in which an int-or-string is written, which name
/// types where none may be named otherwise.
fn values(schema: &Value, any_of: bool, first_all_of: bool, path: &str, errors: &mut FieldErrors) {
    for key in ["anyOf", "allOf", "oneOf"] {
        for (index, inner) in schema[key].as_array().into_iter().flatten().enumerate() {
            if !(key == "anyOf" && any_of) {
                nested(inner, first_all_of && key == "allOf" && index == 0, &format!("{path}.{key}[{index}]"), errors);
            }
        }
    }
    if schema["not"].is_object() {
        nested(&schema["not"], false, &format!("{path}.not"), errors);
    }
    if let Some(text) = schema["pattern"].as_str()
        && let Err(error) = pattern(text)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(format!("{path}.pattern"), &text.into(), &why));
    }
}

/// Of what is set as soon as it is there.
const UNDEFINED: &str = "must be undefined to be structural";

/// What must be left out of a nested schema, and how upstream words it.
const NESTED: [(&str, &str); 14] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", UNDEFINED),
    ("default", UNDEFINED),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("externalDocs", UNDEFINED),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", UNDEFINED),
    ("x-kubernetes-map-type", UNDEFINED),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested(schema: &Value, any_of: bool, path: &str, errors: &mut FieldErrors) {
    values(schema, any_of, false, path, errors);
    if schema["items"].is_object() {
        nested(&schema["items"], false, &format!("{path}.items"), errors);
    }
    for (key, inner) in members(schema, "properties") {
        nested(inner, false, &format!("{path}.properties[{key}]"), errors);
    }
    for (key, why) in NESTED {
        let value = &schema[key];
        let is_set = if why == UNDEFINED { !matches!(value, Value::Null | Value::Bool(false)) } else { !unset(value) };
        if is_set {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
        }
    }
    if !schema["properties"]["metadata"].is_null() {
        errors.push(FieldError::forbidden(format!("{path}.properties[metadata]"), "must not be specified in a nested context"));
    }
}

/// Every field and item that nested schemas speak of is also specified outside of them.
fn completeness(schema: &Value, structure: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, inner) in members(schema, "properties") {
        completeness(inner, inner, &format!("{path}.properties[{key}]"), errors);
    }
    for key in ["items", "additionalProperties"] {
        if schema[key].is_object() {
            completeness(&schema[key], &schema[key], &format!("{path}.{key}"), errors);
        }
    }
    nested_completeness(schema, structure, path, path, errors);
}

fn nested_completeness(schema: &Value, structure: &Value, path: &str, structure_path: &str, errors: &mut FieldErrors) {
    let inner =
        ["anyOf", "allOf", "oneOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten().map(move |one| (key, one)));
    for (key, one) in inner.chain(schema["not"].is_object().then(|| ("not", &schema["not"]))) {
        let at = format!("{path}.{key}");
        for (name, property) in members(one, "properties") {
            let found = &structure["properties"][name.as_str()];
            let found = if found.is_null() { &structure["additionalProperties"] } else { found };
            let there = format!("{structure_path}.properties[{name}]");
            if found.is_object() {
                let wrapped = json!({ "allOf": [property] });
                nested_completeness(&wrapped, found, &at, &there, errors);
            } else {
                errors.push(FieldError::required(there, &format!("because it is defined in {at}.properties[{name}]")));
            }
        }
        if one["items"].is_object() {
            let there = format!("{structure_path}.items");
            if structure["items"].is_object() {
                nested_completeness(&json!({ "allOf": [one["items"]] }), &structure["items"], &at, &there, errors);
            } else {
                errors.push(FieldError::required(there, &format!("because it is defined in {at}.items")));
            }
        }
        nested_completeness(one, structure, &at, structure_path, errors);
    }
}

/// Defaults must be values that their own schema neither prunes nor refuses. Those below `additionalProperties` are not looked at, as upstream does not.
fn default_values(schema: &Structural, path: &str, errors: &mut FieldErrors) {
    if let Some(default) = &schema.default {
        let at = format!("{path}.default");
        let mut dropped = Vec::new();
        prune::prune_value(&mut default.clone(), schema, &mut |path| dropped.push(path.to_owned()));
        if !dropped.is_empty() {
            errors.push(FieldError::invalid(&at, default, "must not have unknown fields"));
        }
        errors.extend(check::check_at(default, schema, &at));
    }
    if let Some(items) = &schema.items {
        default_values(items, &format!("{path}.items"), errors);
    }
    for (name, property) in &schema.properties {
        default_values(property, &format!("{path}.properties[{name}]"), errors);
    }
}
