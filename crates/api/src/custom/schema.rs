//! A structural schema: what may stand in an object of a custom resource, made ready from the `openAPIV3Schema` of its definition.
//!
//! Reading is lenient: what a definition may not say is refused before ([`super::structural`]), and a stored definition must always load.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use super::rules::{self, Rule};

/// Bytes that a compiled pattern may take: patterns come from users, and repetitions of repetitions grow without end.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The JSON type that a schema asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Type::Any => "",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Type> {
        let all = [Type::Object, Type::Array, Type::String, Type::Integer, Type::Number, Type::Boolean];
        all.into_iter().find(|ty| ty.word() == word)
    }
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Items {
    #[default]
    Atomic,
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// What a schema says of keys that it does not name.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    #[default]
    Unsaid,
    Any,
    Schema(Box<Structural>),
}

#[derive(Clone, Debug, Default)]
pub struct Structural {
    pub ty: Type,
    pub properties: BTreeMap<String, Structural>,
    pub additional: Additional,
    pub items: Option<Box<Structural>>,
    pub list: Items,
    /// A map that is owned as a whole.
    pub atomic_map: bool,
    pub default: Option<Value>,
    pub nullable: bool,
    pub preserve: bool,
    pub embedded: bool,
    pub int_or_string: bool,
    pub checks: Checks,
    /// `x-kubernetes-validations`
    pub rules: Vec<Rule>,
}

/// What a value must fulfil beyond its type.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    pub format: String,
    pub pattern: Option<Regex>,
    pub maximum: Option<(f64, bool)>,
    pub minimum: Option<(f64, bool)>,
    pub multiple_of: Option<f64>,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub unique_items: bool,
    pub one_of_values: Vec<Value>,
    pub required: Vec<String>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

impl Structural {
    pub fn parse(schema: &Value) -> Structural {
        let empty = Map::new();
        let map = schema.as_object().unwrap_or(&empty);
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("");
        let schemas = |key: &str| -> BTreeMap<String, Structural> {
            let inner = map.get(key).and_then(Value::as_object);
            inner.into_iter().flatten().map(|(name, schema)| (name.clone(), Structural::parse(schema))).collect()
        };
        let mut schema = Structural {
            ty: Type::parse(text("type")).unwrap_or_default(),
            properties: schemas("properties"),
            additional: match map.get("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Any,
                Some(schema @ Value::Object(_)) => Additional::Schema(Box::new(Structural::parse(schema))),
                _ => Additional::Unsaid,
            },
            items: map.get("items").filter(|items| items.is_object()).map(|items| Box::new(Structural::parse(items))),
            list: match text("x-kubernetes-list-type") {
                "set" => Items::Set,
                "map" => Items::Map(texts(map.get("x-kubernetes-list-map-keys"))),
                _ => Items::Atomic,
            },
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            default: map.get("default").filter(|value| !value.is_null()).cloned(),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            checks: Checks::parse(map),
            rules: Vec::new(),
        };
        if let Some(written) = map.get("x-kubernetes-validations") {
            schema.rules = rules::compile(&schema, written);
        }
        schema
    }

    /// The schema of whole objects, which have a type and metadata besides.
    pub fn parse_root(schema: &Value) -> Structural {
        let mut root = Structural::parse(schema);
        root.embedded = true;
        if let Some(written) = schema.get("x-kubernetes-validations") {
            root.rules = rules::compile(&root, written);
        }
        root
    }

    /// The schema of the value under `key`, where the schema says anything about it.
    pub fn member(&self, key: &str) -> Option<&Structural> {
        self.properties.get(key).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            Additional::Any | Additional::Unsaid => None,
        })
    }

    /// At the end of a path of property names.
    pub fn at(&self, path: &[&str]) -> Option<&Structural> {
        path.iter().try_fold(self, |schema, key| schema.member(key))
    }
}

impl Checks {
    fn parse(map: &Map<String, Value>) -> Checks {
        let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
        // A negative bound leaves room for nothing, as upstream.
        let count = |key: &str| map.get(key).and_then(|value| value.as_u64().or(value.as_i64().map(|_| 0)));
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let schemas = |key: &str| -> Vec<Structural> {
            map.get(key).and_then(Value::as_array).into_iter().flatten().map(Structural::parse).collect()
        };
        Checks {
            format: map.get("format").and_then(Value::as_str).unwrap_or("").to_owned(),
            pattern: map.get("pattern").and_then(Value::as_str).and_then(|text| pattern(text).ok()),
            maximum: number("maximum").map(|bound| (bound, flag("exclusiveMaximum"))),
            minimum: number("minimum").map(|bound| (bound, flag("exclusiveMinimum"))),
            multiple_of: number("multipleOf").filter(|factor| *factor > 0.0),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            unique_items: flag("uniqueItems"),
            one_of_values: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: texts(map.get("required")),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: map.get("not").filter(|not| not.is_object()).map(|not| Box::new(Structural::parse(not))),
        }
    }
}

/// A pattern of a schema: unanchored, as in JSON schema.
pub(crate) fn pattern(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
