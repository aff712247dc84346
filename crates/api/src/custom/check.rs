//! Validation of a value by its schema, worded and located as upstream's (kube-openapi, pkg/validation/validate; apiextensions-apiserver,
//! pkg/apiserver/validation).
//!
//! On an update, what is as it was is not looked at: a schema that has become stricter does not hold up changes elsewhere (ratcheting,
//! KEP-4008). Items of a list are found again only in lists that tell them apart by keys.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::format;
use super::schema::{Additional, Checks, Items, Structural, Type};
use crate::error::{ERRORS_MAX, FieldError, FieldErrors};
use crate::{names, validate};

/// All that is wrong with a value. `old`: the value before, of an update.
pub(crate) fn check(value: &Value, old: Option<&Value>, schema: &Structural) -> FieldErrors {
    let mut walk = Walk { path: String::new(), errors: Vec::new() };
    walk.root(value, old, schema);
    walk.errors
}

/// The same for a part of an object at `path`, its lists included.
pub(crate) fn check_at(value: &Value, schema: &Structural, path: &str) -> FieldErrors {
    let mut walk = Walk { path: path.to_owned(), errors: Vec::new() };
    walk.value(value, None, schema);
    walk.lists(value, schema);
    walk.errors
}

/// Items that are there more than once in the sets and maps of a value.
pub(crate) fn duplicates(value: &Value, schema: &Structural) -> FieldErrors {
    let mut walk = Walk { path: String::new(), errors: Vec::new() };
    walk.lists(value, schema);
    walk.errors
}

struct Walk {
    path: String,
    errors: FieldErrors,
}

impl Walk {
    fn push(&mut self, error: FieldError) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn invalid(&mut self, value: &Value, detail: &str) {
        let detail = format!("{} in body {detail}", self.path);
        self.push(FieldError::invalid(self.path.clone(), value, &detail));
    }

    fn key<T>(&mut self, key: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = run(self);
        self.path.truncate(length);
        result
    }

    fn index<T>(&mut self, index: usize, run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        let result = run(self);
        self.path.truncate(length);
        result
    }

    /// The metadata of a whole object is checked by what all kinds share.
    fn root(&mut self, value: &Value, old: Option<&Value>, schema: &Structural) {
        self.checks(value, old, schema);
        self.members(value, old, schema);
    }

    fn value(&mut self, value: &Value, old: Option<&Value>, schema: &Structural) {
        if old == Some(value) {
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        if !self.has_type(value, schema) {
            return;
        }
        self.checks(value, old, schema);
        if let (true, Value::Object(map)) = (schema.embedded, value) {
            self.embedded(map);
        }
        self.members(value, old, schema);
    }

    /// The sets and maps in a value.
    fn lists(&mut self, value: &Value, schema: &Structural) {
        match (value, &schema.items) {
            (Value::Object(map), _) => {
                for (key, value) in map {
                    if let Some(inner) = schema.member(key) {
                        self.key(key, |walk| walk.lists(value, inner));
                    }
                }
            }
            (Value::Array(list), Some(items)) => {
                for (index, item) in list.iter().enumerate() {
                    self.index(index, |walk| walk.lists(item, items));
                }
            }
            _ => {}
        }
        self.duplicates(value, schema);
    }

    /// An object within the object says what it is (apiextensions-apiserver, schema/objectmeta/validation.go).
    fn embedded(&mut self, map: &Map<String, Value>) {
        for key in ["apiVersion", "kind"] {
            let value = map.get(key);
            self.key(key, |walk| match value {
                None => walk.push(FieldError::required(walk.path.clone(), "")),
                Some(Value::String(text)) if text.is_empty() => walk.push(FieldError::required(walk.path.clone(), "")),
                Some(Value::String(text)) if key == "kind" => {
                    let wrong = names::dns1035_label(&text.to_lowercase());
                    if !wrong.is_empty() {
                        let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                        walk.push(FieldError::invalid(walk.path.clone(), &text.as_str().into(), &why));
                    }
                }
                Some(Value::String(text)) if text.matches('/').count() > 1 => {
                    let why = format!("unexpected GroupVersion string: {text}");
                    walk.push(FieldError::invalid(walk.path.clone(), &text.as_str().into(), &why));
                }
                Some(Value::String(_)) => {}
                Some(other) => walk.push(FieldError::invalid(walk.path.clone(), other, "must be a string")),
            });
        }
        if let Some(Value::Object(metadata)) = map.get("metadata") {
            self.key("metadata", |walk| validate::embedded_metadata(metadata, &walk.path).into_iter().for_each(|error| walk.push(error)));
        }
    }

    fn has_type(&mut self, value: &Value, schema: &Structural) -> bool {
        let wanted = match schema.ty {
            Type::Any if schema.int_or_string => {
                if !matches!(value, Value::String(_)) && !is_integer(value) {
                    self.type_error(value, "integer,string");
                    return false;
                }
                return true;
            }
            Type::Any => return true,
            wanted => wanted,
        };
        let fits = match (wanted, value) {
            (Type::Object, Value::Object(_)) | (Type::Array, Value::Array(_)) | (Type::String, Value::String(_)) => true,
            (Type::Boolean, Value::Bool(_)) | (Type::Number, Value::Number(_)) => true,
            (Type::Integer, value) => is_integer(value),
            _ => false,
        };
        if !fits {
            self.type_error(value, wanted.word());
        }
        fits
    }

    fn type_error(&mut self, value: &Value, wanted: &str) {
        let found = type_word(value);
        let detail = format!("{} in body must be of type {wanted}: {found:?}", self.path);
        self.push(FieldError::type_invalid(self.path.clone(), &found.into(), &detail));
    }

    fn members(&mut self, value: &Value, old: Option<&Value>, schema: &Structural) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let old = old.and_then(|old| old.get(key));
                    match (schema.properties.get(key), &schema.additional) {
                        (Some(inner), _) => self.key(key, |walk| walk.value(value, old, inner)),
                        (None, Additional::Schema(inner)) => self.key(key, |walk| walk.value(value, old, inner)),
                        (None, Additional::Any | Additional::Unsaid) => {}
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &schema.items else { return };
                let before = Before::of(old, schema);
                for (index, item) in list.iter().enumerate() {
                    let old = before.same(item, schema);
                    self.index(index, |walk| walk.value(item, old, items));
                }
            }
            _ => {}
        }
    }

    fn checks(&mut self, value: &Value, old: Option<&Value>, schema: &Structural) {
        let checks = &schema.checks;
        self.values(value, checks);
        match value {
            Value::String(text) => self.text(value, text, schema),
            Value::Number(number) => self.number(value, number, checks),
            Value::Array(list) => self.list(value, list, checks),
            Value::Object(map) => {
                let count = map.len() as u64;
                if let Some(max) = checks.max_properties.filter(|max| count > *max) {
                    self.push(FieldError::too_many(self.path.clone(), map.len(), usize::try_from(max).unwrap_or(usize::MAX)));
                }
                if let Some(min) = checks.min_properties.filter(|min| count < *min) {
                    self.invalid(value, &format!("should have at least {min} properties"));
                }
                for name in checks.required.iter().filter(|name| !map.contains_key(*name)) {
                    self.key(name, |walk| walk.push(FieldError::required(walk.path.clone(), "")));
                }
            }
            _ => {}
        }
        self.junctors(value, old, checks);
    }

    fn values(&mut self, value: &Value, checks: &Checks) {
        if checks.one_of_values.is_empty() || checks.one_of_values.iter().any(|known| equal(known, value)) {
            return;
        }
        let words = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let known: Vec<String> = checks.one_of_values.iter().map(words).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        self.push(FieldError::not_supported(self.path.clone(), value, &known));
    }

    fn text(&mut self, value: &Value, text: &str, schema: &Structural) {
        let checks = &schema.checks;
        let length = text.chars().count() as u64;
        if let Some(max) = checks.max_length.filter(|max| length > *max) {
            self.push(FieldError::too_long(self.path.clone(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = checks.min_length.filter(|min| length < *min) {
            self.invalid(value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(value, &format!("should match '{pattern}'"));
        }
        if schema.ty == Type::String && !checks.format.is_empty() && !format::fits(&checks.format, text) {
            let detail = format!("{} in body must be of type {}: {text:?}", self.path, checks.format);
            self.push(FieldError::invalid(self.path.clone(), value, &detail));
        }
    }

    fn number(&mut self, value: &Value, number: &Number, checks: &Checks) {
        let found = number.as_f64().unwrap_or(f64::NAN);
        match checks.maximum {
            Some((max, true)) if found >= max => self.invalid(value, &format!("should be less than {max}")),
            Some((max, false)) if found > max => self.invalid(value, &format!("should be less than or equal to {max}")),
            _ => {}
        }
        match checks.minimum {
            Some((min, true)) if found <= min => self.invalid(value, &format!("should be greater than {min}")),
            Some((min, false)) if found < min => self.invalid(value, &format!("should be greater than or equal to {min}")),
            _ => {}
        }
        if let Some(factor) = checks.multiple_of.filter(|factor| !is_nearly_whole(found / factor)) {
            self.invalid(value, &format!("should be a multiple of {factor}"));
        }
        let whole = number.as_i64();
        let wide = match checks.format.as_str() {
            "int32" => whole.is_some_and(|whole| i32::try_from(whole).is_err()),
            "int64" => whole.is_none() && number.is_u64(),
            _ => false,
        };
        if wide {
            let format = &checks.format;
            self.invalid(value, &format!("must be of type {format}: \"{value}\""));
        }
    }

    fn list(&mut self, value: &Value, list: &[Value], checks: &Checks) {
        let count = list.len() as u64;
        if let Some(max) = checks.max_items.filter(|max| count > *max) {
            self.push(FieldError::too_many(self.path.clone(), list.len(), usize::try_from(max).unwrap_or(usize::MAX)));
        }
        if let Some(min) = checks.min_items.filter(|min| count < *min) {
            self.invalid(value, &format!("should have at least {min} items"));
        }
        if checks.unique_items && has_duplicates(list) {
            self.invalid(value, "shouldn't contain duplicates");
        }
    }

    /// allOf, anyOf, oneOf, not.
    fn junctors(&mut self, value: &Value, old: Option<&Value>, checks: &Checks) {
        for schema in &checks.all_of {
            // Of several schemas that a value must fulfil, each tells what it misses.
            self.root(value, old, schema);
        }
        let fulfils = |schema: &Structural, path: &str| {
            let mut walk = Walk { path: path.to_owned(), errors: Vec::new() };
            walk.value(value, None, schema);
            walk.errors.is_empty()
        };
        let name = self.path.clone();
        if !checks.any_of.is_empty() && !checks.any_of.iter().any(|schema| fulfils(schema, &name)) {
            let detail = format!("{name:?} must validate at least one schema (anyOf)");
            self.push(FieldError::invalid(name.clone(), value, &detail));
        }
        if !checks.one_of.is_empty() {
            let found = match checks.one_of.iter().filter(|schema| fulfils(schema, &name)).count() {
                1 => None,
                0 => Some("Found none valid".to_owned()),
                many => Some(format!("Found {many} valid alternatives")),
            };
            if let Some(found) = found {
                let detail = format!("{name:?} must validate one and only one schema (oneOf). {found}");
                self.push(FieldError::invalid(name.clone(), value, &detail));
            }
        }
        if checks.not.as_ref().is_some_and(|schema| fulfils(schema, &name)) {
            let detail = format!("{name:?} must not validate the schema (not)");
            self.push(FieldError::invalid(name, value, &detail));
        }
    }

    /// Items of sets and maps are there once.
    fn duplicates(&mut self, value: &Value, schema: &Structural) {
        let Value::Array(list) = value else { return };
        let identities: Vec<Value> = match &schema.list {
            Items::Atomic => return,
            Items::Set => list.clone(),
            Items::Map(keys) => list.iter().map(|item| identity(item, keys, schema)).collect(),
        };
        // Sorted by their text, equals stand side by side.
        let mut texts: Vec<(String, usize)> = identities.iter().map(Value::to_string).zip(0..).collect();
        texts.sort();
        let again: Vec<usize> = texts.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).collect();
        for index in again {
            self.index(index, |walk| walk.push(FieldError::duplicate(walk.path.clone(), &identities[index])));
        }
    }
}

/// The key fields of an item, with their defaults.
fn identity(item: &Value, keys: &[String], schema: &Structural) -> Value {
    let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.clone();
    keys.iter().filter_map(|key| Some((key.clone(), item.get(key).cloned().or_else(|| default(key))?))).collect()
}

/// The items that a list had before, by their keys: to look for each in all others would take hours on the largest objects.
pub(super) struct Before<'a>(HashMap<String, &'a Value>);

impl<'a> Before<'a> {
    pub(super) fn of(old: Option<&'a Value>, schema: &Structural) -> Before<'a> {
        let (Items::Map(keys), Some(Value::Array(list))) = (&schema.list, old) else { return Before(HashMap::new()) };
        // Of several with the same keys the first counts.
        Before(list.iter().rev().map(|item| (identity(item, keys, schema).to_string(), item)).collect())
    }

    pub(super) fn same(&self, item: &Value, schema: &Structural) -> Option<&'a Value> {
        match &schema.list {
            Items::Map(keys) if !self.0.is_empty() => self.0.get(&identity(item, keys, schema).to_string()).copied(),
            _ => None,
        }
    }
}

fn has_duplicates(list: &[Value]) -> bool {
    let mut texts: Vec<String> = list.iter().map(Value::to_string).collect();
    texts.sort();
    texts.windows(2).any(|pair| pair[0] == pair[1])
}

/// Equal, whether a whole number is written with a fraction or not.
fn equal(one: &Value, two: &Value) -> bool {
    one == two || matches!((one.as_f64(), two.as_f64()), (Some(one), Some(two)) if one == two)
}

/// 0.3 is a multiple of 0.1, though their quotient misses 3 by a hair (go-openapi/swag, IsFloat64AJSONInteger).
fn is_nearly_whole(number: f64) -> bool {
    const EPSILON: f64 = 1e-9;
    let whole = number.round();
    number == whole || (number - whole).abs() < EPSILON * whole.abs()
}

fn is_integer(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
