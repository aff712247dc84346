//! Makes a value fit its message: unknown fields go, nulls and empty lists go, well-known types take their canonical form.

use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::FAULTS_MAX;
use crate::quantity::Quantity;
use crate::schema::{Field, Label, Message, MessageId, Schema, Type};
use crate::time;

#[derive(Default)]
pub(super) struct Faults {
    /// Paths of the fields that were dropped.
    pub(super) unknown: Vec<String>,
}

/// A whole body. The error names the field whose type does not fit.
pub(super) fn message(value: &mut Value, id: MessageId, faults: &mut Faults) -> Result<(), String> {
    at(value, id, "", faults)
}

/// A message at a path.
pub(super) fn at(value: &mut Value, id: MessageId, path: &str, faults: &mut Faults) -> Result<(), String> {
    let mut walk = Walk { path: path.to_owned(), faults };
    let message = Schema::get().by_id(id);
    match value {
        Value::Object(map) => walk.fields(map, message),
        other => Err(format!("json: cannot unmarshal {} into Go value of type {}", word(other), short(message.name))),
    }
}

struct Walk<'a> {
    path: String,
    faults: &'a mut Faults,
}

impl Walk<'_> {
    /// Runs with a longer path.
    fn within<T>(&mut self, add: impl FnOnce(&mut String), run: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        add(&mut self.path);
        let result = run(self);
        self.path.truncate(length);
        result
    }

    fn key<T>(&mut self, key: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        self.within(
            |path| {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            },
            run,
        )
    }

    fn fields(&mut self, map: &mut Map<String, Value>, message: &'static Message) -> Result<(), String> {
        let mut dropped = Vec::new();
        for (key, value) in map.iter_mut() {
            let Some(field) = message.field(key) else {
                if !is_type(key, value, message) {
                    self.key(key, |walk| walk.unknown());
                    dropped.push(key.clone());
                }
                continue;
            };
            if value.is_null() {
                dropped.push(key.clone());
                continue;
            }
            self.key(key, |walk| walk.field(value, field, message))?;
            if is_nothing(value, field) {
                dropped.push(key.clone());
            }
        }
        for key in dropped {
            map.remove(&key);
        }
        Ok(())
    }

    fn unknown(&mut self) {
        if self.faults.unknown.len() < FAULTS_MAX {
            self.faults.unknown.push(self.path.clone());
        }
    }

    fn field(&mut self, value: &mut Value, field: &Field, message: &Message) -> Result<(), String> {
        match (field.label, value) {
            (Label::Optional, value) => self.single(value, field, message),
            (Label::Repeated, Value::Array(list)) => {
                for (index, item) in list.iter_mut().enumerate() {
                    self.within(|path| path.push_str(&format!("[{index}]")), |walk| walk.item(item, field, message))?;
                }
                Ok(())
            }
            (Label::Map, Value::Object(map)) => {
                for (key, item) in map.iter_mut() {
                    self.key(key, |walk| walk.item(item, field, message))?;
                }
                Ok(())
            }
            (_, other) => Err(self.mismatch(other, field, message)),
        }
    }

    /// In lists and maps null is the zero value, as Go reads it.
    fn item(&mut self, value: &mut Value, field: &Field, message: &Message) -> Result<(), String> {
        if value.is_null() {
            *value = match field.ty {
                Type::Message(_) => Value::Object(Map::new()),
                Type::String | Type::Bytes => "".into(),
                Type::Int32 | Type::Int64 | Type::Double => 0.into(),
                Type::Bool => false.into(),
                Type::Quantity => "0".into(),
                Type::Strings(_) => Value::Array(Vec::new()),
                Type::Union(id) => Schema::get().by_id(id).chosen(Map::new()),
                _ => return Ok(()),
            };
        }
        self.single(value, field, message)
    }

    fn single(&mut self, value: &mut Value, field: &Field, message: &Message) -> Result<(), String> {
        let fits = match (field.ty, &mut *value) {
            (Type::Message(id), Value::Object(map)) => return self.fields(map, Schema::get().by_id(id)),
            (Type::Union(id), value) => {
                let union = Schema::get().by_id(id);
                match union.variant(value) {
                    Some(variant) => return self.field(value, variant, union),
                    None => false,
                }
            }
            (Type::Bool, Value::Bool(_)) | (Type::String, Value::String(_)) | (Type::Any | Type::RawExtension, _) => true,
            (Type::Int64, Value::Number(number)) => number.is_i64(),
            (Type::Int32, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Type::Double, Value::Number(_)) => true,
            (Type::IntOrString, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Type::IntOrString, Value::String(_)) => true,
            (Type::FieldsV1, Value::Object(_)) => true,
            (Type::Strings(_), Value::Array(list)) => list.iter().all(Value::is_string),
            (Type::Duration, Value::String(_)) => true,
            (Type::Bytes, Value::String(text)) => return self.bytes(text),
            (Type::Time, Value::String(text)) => return canonical_time(text, time::format),
            (Type::MicroTime, Value::String(text)) => return canonical_time(text, time::format_micro),
            (Type::Quantity, Value::String(text)) => {
                *text = Quantity::parse(text).map_err(|e| e.to_string())?.to_string();
                true
            }
            (Type::Quantity, Value::Number(number)) => {
                let quantity = Quantity::parse(&number.to_string()).map_err(|e| e.to_string())?;
                *value = quantity.to_string().into();
                return Ok(());
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.mismatch(value, field, message)) }
    }

    fn bytes(&self, text: &mut String) -> Result<(), String> {
        // Go's decoder passes over line ends, and its encoder writes none.
        let compact: String = text.chars().filter(|c| !['\r', '\n'].contains(c)).collect();
        match base64::engine::general_purpose::STANDARD.decode(&compact) {
            Ok(_) => {
                *text = compact;
                Ok(())
            }
            Err(base64::DecodeError::InvalidByte(at, _)) => Err(format!("illegal base64 data at input byte {at}")),
            Err(_) => Err(format!("illegal base64 data at input byte {}", compact.len())),
        }
    }

    /// Worded as Go's encoding/json does, with the field's path.
    fn mismatch(&self, value: &Value, field: &Field, message: &Message) -> String {
        let path: String = without_indices(&self.path);
        let of = go_type(field);
        format!("json: cannot unmarshal {} into Go struct field {}.{path} of type {of}", word(value), short(message.name))
    }
}

/// An optional list or map without an item: upstream stores protobuf, which cannot tell it from none, and never shows it again.
fn is_nothing(value: &Value, field: &Field) -> bool {
    let is_empty = match (field.label, value) {
        (Label::Repeated, Value::Array(list)) => list.is_empty(),
        (Label::Map, Value::Object(map)) => map.is_empty(),
        _ => false,
    };
    is_empty && !field.required
}

/// `apiVersion` and `kind` may stand in every object and in options, where they are no fields.
fn is_type(key: &str, value: &Value, message: &Message) -> bool {
    ["apiVersion", "kind"].contains(&key) && value.is_string() && (message.is_top_level() || message.name.ends_with("Options"))
}

fn canonical_time(text: &mut String, format: fn(Timestamp) -> String) -> Result<(), String> {
    match time::parse(text) {
        Some(time) => {
            *text = format(time);
            Ok(())
        }
        None => Err(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")),
    }
}

fn without_indices(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `v1.Container` of `k8s.io.api.core.v1.Container`; the bare name where a struct is meant.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn go_type(field: &Field) -> String {
    let base = match field.ty {
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::String | Type::Duration => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time | Type::MicroTime => "v1.Time".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::RawExtension | Type::FieldsV1 | Type::Any => "object".to_owned(),
        Type::Strings(_) => "[]string".to_owned(),
        Type::Message(id) | Type::Union(id) => {
            let name = Schema::get().by_id(id).name;
            let mut parts = name.rsplit('.');
            let (name, version) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("{version}.{name}")
        }
    };
    match field.label {
        Label::Optional => base,
        Label::Repeated => format!("[]{base}"),
        Label::Map => format!("map[string]{base}"),
    }
}
