//! What upstream says of every schema in a definition, those in `allOf` and its like included
//! (pkg/apis/apiextensions/validation/validation.go, ValidateCustomResourceDefinitionOpenAPISchema).

use std::collections::HashSet;

use serde_json::Value;

use super::schema::Type;
use super::structural::{flag, members, text, unset};
use crate::error::{FieldError, FieldErrors};

/// Parts of JSON schema that Kubernetes leaves out. A schema that has one cannot be made structural.
const UNSUPPORTED: [&str; 6] = ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

/// Where a schema stands.
#[derive(Clone, Default)]
struct Place {
    /// In the apiVersion, kind or metadata of an object.
    in_meta: bool,
    /// Why there may be no default.
    no_default: Option<String>,
}

/// True if the schema is one that can be structural.
pub(super) fn check(schema: &Value, path: &str, errors: &mut FieldErrors) -> bool {
    let mut walk = Walk { errors, convertible: true };
    walk.schema(schema, path, &Place::default(), true);
    walk.convertible
}

struct Walk<'e> {
    errors: &'e mut FieldErrors,
    convertible: bool,
}

impl Walk<'_> {
    fn schema(&mut self, schema: &Value, path: &str, place: &Place, root: bool) {
        if !schema.is_object() {
            return;
        }
        self.plain(schema, path, place);
        if flag(schema, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
        }
        self.inside(schema, path, place, root);
        if schema["x-kubernetes-preserve-unknown-fields"] == false {
            let at = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.errors.push(FieldError::invalid(at, &false.into(), "must be true or undefined"));
        }
        map_type(schema, path, self.errors);
        list_type(schema, path, self.errors);
    }

    fn plain(&mut self, schema: &Value, path: &str, place: &Place) {
        let ty = text(schema, "type");
        if !ty.is_empty() && Type::parse(ty).is_none() {
            let known = ["array", "boolean", "integer", "number", "object", "string"];
            self.errors.push(FieldError::not_supported(format!("{path}.type"), &ty.into(), &known));
        }
        if let (false, Some(why)) = (schema["default"].is_null(), &place.no_default) {
            self.errors.push(FieldError::forbidden(format!("{path}.default"), &format!("must not be set {why}")));
        }
        for key in UNSUPPORTED {
            // A bool says something of its own here, and is set though it be false.
            if schema[key] == false || !unset(&schema[key]) {
                self.convertible = false;
                self.errors.push(FieldError::forbidden(format!("{path}.{key}"), &format!("{key} is not supported")));
            }
        }
        if ty == "null" {
            let why = "type cannot be set to null, use nullable as an alternative";
            self.errors.push(FieldError::forbidden(format!("{path}.type"), why));
        }
        if schema["items"].is_array() {
            self.convertible = false;
            self.errors.push(FieldError::forbidden(format!("{path}.items"), "items must be a schema object and not an array"));
        }
        if place.in_meta && flag(schema, "x-kubernetes-embedded-resource") {
            let at = format!("{path}.x-kubernetes-embedded-resource");
            self.errors.push(FieldError::forbidden(at, "must not be used inside of resource meta"));
        }
    }

    fn inside(&mut self, schema: &Value, path: &str, place: &Place, root: bool) {
        let additional = &schema["additionalProperties"];
        let at = format!("{path}.additionalProperties");
        if members(schema, "properties").next().is_some() && !additional.is_null() && *additional != true {
            self.errors.push(FieldError::forbidden(&at, "additionalProperties and properties are mutual exclusive"));
        }
        let below = match place.in_meta {
            true => Place { no_default: Some("inside additionalProperties applying to object metadata".to_owned()), ..place.clone() },
            false => place.clone(),
        };
        self.schema(additional, &at, &below, false);
        for (key, inner) in members(schema, "properties") {
            let mut below = place.clone();
            if (root || flag(schema, "x-kubernetes-embedded-resource")) && ["metadata", "kind", "apiVersion"].contains(&key.as_str()) {
                below.in_meta = true;
                if root {
                    below.no_default = Some(format!("in top-level {key}"));
                }
            }
            self.schema(inner, &format!("{path}.properties[{key}]"), &below, false);
        }
        self.schema(&schema["not"], &format!("{path}.not"), place, false);
        for key in ["allOf", "oneOf", "anyOf"] {
            for (index, inner) in schema[key].as_array().into_iter().flatten().enumerate() {
                self.schema(inner, &format!("{path}.{key}[{index}]"), place, false);
            }
        }
        self.schema(&schema["items"], &format!("{path}.items"), place, false);
    }
}

fn map_type(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let map_type = text(schema, "x-kubernetes-map-type");
    if map_type.is_empty() {
        return;
    }
    errors.extend(wrong_type(schema, "object", path, "must be object if x-kubernetes-map-type is specified"));
    let known = ["atomic", "granular"];
    if !known.contains(&map_type) {
        errors.push(FieldError::not_supported_as_listed(format!("{path}.x-kubernetes-map-type"), &map_type.into(), &known));
    }
}

fn wrong_type(schema: &Value, wanted: &str, path: &str, why: &str) -> Option<FieldError> {
    let at = format!("{path}.type");
    match text(schema, "type") {
        "" => Some(FieldError::required(at, why)),
        ty if ty != wanted => Some(FieldError::invalid(at, &ty.into(), why)),
        _ => None,
    }
}

fn list_type(schema: &Value, path: &str, errors: &mut FieldErrors) {
    let list_type = text(schema, "x-kubernetes-list-type");
    let keys = schema["x-kubernetes-list-map-keys"].as_array().map_or(&[][..], Vec::as_slice);
    let (at, items) = (format!("{path}.x-kubernetes-list-type"), &schema["items"]);
    if !list_type.is_empty() {
        match wrong_type(schema, "array", path, "must be array if x-kubernetes-list-type is specified") {
            Some(error) => errors.push(error),
            None if list_type == "set" => errors.extend(container(items, path)),
            None => {}
        }
        let known = ["atomic", "set", "map"];
        if !known.contains(&list_type) {
            errors.push(FieldError::not_supported_as_listed(&at, &list_type.into(), &known));
        }
    }
    if !keys.is_empty() && list_type != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list_type.is_empty() { FieldError::required(at, why) } else { FieldError::invalid(at, &list_type.into(), why) });
    }
    if list_type == "map" {
        map_keys(keys, items, path, errors);
    }
    if ["set", "map"].contains(&list_type) && flag(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(format!("{path}.items.nullable"), &why));
    }
    if list_type == "map" {
        key_values(keys, items, path, errors);
    }
}

/// Members of a set are told apart as wholes.
fn container(items: &Value, path: &str) -> Option<FieldError> {
    let key = match text(items, "type") {
        "array" if !["", "atomic"].contains(&text(items, "x-kubernetes-list-type")) => "x-kubernetes-list-type",
        "object" if text(items, "x-kubernetes-map-type") != "atomic" => "x-kubernetes-map-type",
        _ => return None,
    };
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    Some(FieldError::invalid(format!("{path}.items.{key}"), &items["x-kubernetes-list-type"], why))
}

fn map_keys(keys: &[Value], items: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(FieldError::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let ty = text(items, "type");
    match items {
        Value::Null => errors.push(FieldError::required(format!("{path}.items"), "must have a schema if x-kubernetes-list-type is map")),
        Value::Object(_) if ty != "object" => {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(format!("{path}.items.type"), &ty.into(), why));
        }
        _ => {}
    }
    if ty != "object" {
        return;
    }
    let (mut seen, mut is_unknown, mut is_double) = (HashSet::new(), false, false);
    for name in keys.iter().map(|key| key.as_str().unwrap_or("")) {
        if !seen.insert(name) {
            is_double = true;
            continue;
        }
        match text(&items["properties"][name], "type") {
            "array" | "object" => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(format!("{path}.items.properties[{name}].type"), &ty.into(), why));
            }
            _ => is_unknown |= items["properties"][name].is_null(),
        }
    }
    // Each is told with the whole list, and so once.
    for (_, why) in [(is_unknown, "entries must all be names of item properties"), (is_double, "must not contain duplicate entries")]
        .into_iter()
        .filter(|(is_so, _)| *is_so)
    {
        errors.push(FieldError::invalid(&at, &keys.to_vec().into(), why));
    }
}

/// An item has a value for each of its keys.
fn key_values(keys: &[Value], items: &Value, path: &str, errors: &mut FieldErrors) {
    let required: HashSet<&str> = items["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut seen = HashSet::new();
    for name in keys.iter().map(|key| key.as_str().unwrap_or("")).filter(|name| seen.insert(*name)) {
        let (at, property) = (format!("{path}.items.properties[{name}]"), &items["properties"][name]);
        if property.is_null() {
            continue;
        }
        if property["default"].is_null() && !required.contains(name) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{at}.default"), why));
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{at}.nullable"), why));
        }
    }
}
