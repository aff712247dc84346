//! Values of expressions. Data is looked at in place: an object of the API is walked, never copied.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value as Json};

use super::{EvalError, unescape};
use crate::custom::schema::{Items, Structural};
use crate::quantity::Quantity;

/// Something that only the server can look up (`authorizer`). Each call gives another host, or a value.
pub trait Host: Send + Sync {
    fn call<'a>(&self, name: &str, args: &[Value<'a>]) -> Option<Result<Value<'a>, String>>;
}

#[derive(Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, str>),
    Bytes(Arc<[u8]>),
    /// JSON, with its schema where it has one: names of properties are escaped then.
    Object(&'a Map<String, Json>, Option<&'a Structural>),
    Array(&'a [Json], Option<&'a Structural>),
    List(Arc<Vec<Value<'a>>>),
    Map(Arc<BTreeMap<Key, Value<'a>>>),
    /// What a mutation makes: the name of its type, and its fields.
    Made(Arc<str>, Arc<BTreeMap<Key, Value<'a>>>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    Optional(Option<Arc<Value<'a>>>),
    Type(&'static str),
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Semver(Arc<Semver>),
    /// `format.named('dns1123Label')`
    Format(&'static str),
    Host(Arc<dyn Host>),
    /// What could not be had: whoever reads it fails, and who only asks whether it is there does not.
    Failed(EvalError),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Url {
    pub(super) scheme: String,
    pub(super) host: String,
    pub(super) hostname: String,
    pub(super) port: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    pub(super) numbers: [u64; 3],
    pub(super) pre: Vec<String>,
}

/// Keys of maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    /// Signed and unsigned numbers that are equal are one key.
    Int(i128),
    String(String),
}

impl Key {
    pub(super) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(i128::from(*value)),
            Value::Uint(value) => Key::Int(i128::from(*value)),
            #[expect(clippy::cast_possible_truncation, reason = "whole numbers only")]
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => Key::Int(*value as i128),
            Value::String(value) => Key::String(value.to_string()),
            _ => return None,
        })
    }

    pub(super) fn value<'a>(&self) -> Value<'a> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => i64::try_from(*value).map_or_else(|_| Value::Uint(u64::try_from(*value).unwrap_or(u64::MAX)), Value::Int),
            Key::String(value) => Value::String(value.clone().into()),
        }
    }
}

/// `name` is empty where upstream names nothing.
pub(super) fn no_overload<T>(name: &str) -> Result<T, EvalError> {
    Err(EvalError::NoOverload(name.to_owned()))
}

pub(super) fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::Failed(message.into()))
}

impl<'a> Value<'a> {
    /// JSON without a schema.
    pub fn json(value: &'a Json) -> Value<'a> {
        Value::typed(value, None)
    }

    /// JSON as its schema has it: times, durations and bytes have types of their own.
    pub fn typed(value: &'a Json, schema: Option<&'a Structural>) -> Value<'a> {
        match value {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), schema.map(|schema| schema.ty.word())) {
                (Some(whole), Some("number")) => Value::Double(whole as f64),
                (Some(whole), _) => Value::Int(whole),
                (None, Some("integer")) => number.as_f64().map_or(Value::Null, |float| Value::Int(float as i64)),
                (None, _) => number.as_f64().map_or(Value::Null, Value::Double),
            },
            Json::String(text) => Value::text(text, schema),
            Json::Array(list) => Value::Array(list, schema),
            Json::Object(map) => Value::Object(map, schema),
        }
    }

    fn text(text: &'a str, schema: Option<&'a Structural>) -> Value<'a> {
        use base64::Engine as _;
        let plain = || Value::String(text.into());
        match schema.map_or("", |schema| schema.checks.format.as_str()) {
            "date-time" => crate::time::parse(text).map_or_else(plain, Value::Timestamp),
            "date" => crate::time::parse(&format!("{text}T00:00:00Z")).map_or_else(plain, Value::Timestamp),
            "duration" => crate::duration::parse(text).map_or_else(plain, |nanos| Value::Duration(SignedDuration::from_nanos(nanos))),
            "byte" => base64::engine::general_purpose::STANDARD.decode(text).map_or_else(|_| plain(), |bytes| Value::Bytes(bytes.into())),
            _ => plain(),
        }
    }

    /// A map of named values.
    pub fn of_fields(fields: BTreeMap<String, Value<'a>>) -> Value<'a> {
        Value::Map(Arc::new(fields.into_iter().map(|(name, value)| (Key::String(name), value)).collect()))
    }

    pub(super) fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(Arc::new(items))
    }

    pub(super) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    pub(super) fn string(text: impl Into<String>) -> Value<'a> {
        Value::String(Cow::Owned(text.into()))
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Object(..) | Value::Map(_) | Value::Made(..) => "map",
            Value::Array(..) | Value::List(_) => "list",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Host(_) => "kubernetes.authorization.Authorizer",
            Value::Failed(_) => "error",
        }
    }

    /// Items of a list.
    pub fn items(&self) -> Option<Vec<Value<'a>>> {
        match self {
            Value::List(list) => Some(list.to_vec()),
            Value::Array(list, schema) => {
                let items = schema.and_then(|schema| schema.items.as_deref());
                Some(list.iter().map(|item| Value::typed(item, items)).collect())
            }
            _ => None,
        }
    }

    /// Keys and values of a map.
    pub(super) fn entries(&self) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        match self {
            Value::Map(map) => Some(map.iter().map(|(key, value)| (key.value(), value.clone())).collect()),
            Value::Object(map, schema) => {
                let value = |(key, value): (&'a String, &'a Json)| {
                    (Value::String(key.as_str().into()), Value::typed(value, schema.and_then(|schema| schema.member(key))))
                };
                Some(map.iter().map(value).collect())
            }
            _ => None,
        }
    }

    pub(super) fn size(&self) -> Option<usize> {
        Some(match self {
            Value::String(text) => text.chars().count(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Object(map, _) => map.len(),
            Value::Map(map) | Value::Made(_, map) => map.len(),
            Value::Array(list, _) => list.len(),
            Value::List(list) => list.len(),
            _ => return None,
        })
    }

    /// A field by its name in the expression; none if it is not there.
    pub(super) fn field(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Value::Object(map, Some(schema)) if !schema.properties.is_empty() || schema.embedded => {
                let plain = unescape(name);
                Ok(map.get(&plain).map(|value| Value::typed(value, schema.member(&plain))))
            }
            Value::Object(map, schema) => Ok(map.get(name).map(|value| Value::typed(value, schema.and_then(|schema| schema.member(name))))),
            Value::Map(map) | Value::Made(_, map) => Ok(map.get(&Key::String(name.to_owned())).cloned()),
            Value::Optional(None) => Ok(None),
            Value::Optional(Some(inner)) => inner.field(name),
            Value::Host(host) => host.call(name, &[]).transpose().map_err(EvalError::Failed),
            _ => Ok(None),
        }
    }

    /// An entry of a map by its key, or an item of a list by its index.
    pub(super) fn at(&self, index: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Value::Object(map, schema) => match index {
                Value::String(key) => Ok(map.get(&**key).map(|value| Value::typed(value, schema.and_then(|schema| schema.member(key))))),
                _ => Ok(None),
            },
            Value::Map(map) => Ok(Key::of(index).and_then(|key| map.get(&key).cloned())),
            Value::Array(list, schema) => {
                let item = position(index)?.and_then(|at| list.get(at));
                Ok(item.map(|item| Value::typed(item, schema.and_then(|schema| schema.items.as_deref()))))
            }
            Value::List(list) => Ok(position(index)?.and_then(|at| list.get(at).cloned())),
            Value::Optional(None) => Ok(None),
            Value::Optional(Some(inner)) => inner.at(index),
            _ => Ok(None),
        }
    }

    /// As JSON, for messages and audit annotations.
    pub fn to_text(&self) -> String {
        match self {
            Value::String(text) => text.to_string(),
            other => super::functions::to_string(other).unwrap_or_default(),
        }
    }

    /// Plain data as JSON: what a mutation yields.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Uint(value) => (*value).into(),
            Value::Double(value) => (*value).into(),
            Value::Object(map, _) => Json::Object((*map).clone()),
            Value::Array(list, _) => Json::Array(list.to_vec()),
            Value::List(list) => list.iter().map(Value::to_json).collect(),
            Value::Map(map) | Value::Made(_, map) => map.iter().map(|(key, value)| (key.value().to_text(), value.to_json())).collect(),
            Value::Null => Json::Null,
            other => other.to_text().into(),
        }
    }
}

impl Value<'_> {
    /// The name of the type of a made value, and its fields.
    pub fn made(&self) -> Option<(&str, impl Iterator<Item = (String, &Self)>)> {
        match self {
            Value::Made(ty, fields) => Some((ty, fields.iter().map(|(key, value)| (key.value().to_text(), value)))),
            _ => None,
        }
    }

    /// Whether what was made has at each place the type of that place: `Object.spec` at the field `spec` of an `Object`
    /// (apiserver, cel/mutation/dynamic/objects.go).
    pub fn check_made(&self, place: &str) -> Result<(), String> {
        match self {
            Value::Made(ty, _) if **ty != *place => {
                Err(format!("unexpected type name {ty:?}, expected {place:?}, which matches field name path from root Object type"))
            }
            Value::Made(_, fields) => {
                fields.iter().try_for_each(|(key, value)| value.check_made(&format!("{place}.{}", key.value().to_text())))
            }
            Value::List(items) => items.iter().try_for_each(|item| item.check_made(place)),
            Value::Map(map) => map.values().try_for_each(|value| value.check_made(place)),
            _ => Ok(()),
        }
    }
}

fn position(index: &Value<'_>) -> Result<Option<usize>, EvalError> {
    match Key::of(index) {
        Some(Key::Int(at)) => Ok(usize::try_from(at).ok()),
        _ => failed(format!("unsupported index type '{}' in list", index.type_name())),
    }
}

/// CEL's equality: numbers across types, lists of sets and keyed maps in any order.
pub(super) fn equal(one: &Value<'_>, two: &Value<'_>) -> bool {
    use Value::{
        Array, Bool, Bytes, Cidr, Double, Duration, Int, Ip, List, Made, Map, Null, Object, Optional, Quantity, Semver, String, Timestamp,
        Type, Uint, Url,
    };
    match (one, two) {
        (Null, Null) => true,
        (Bool(one), Bool(two)) => one == two,
        (String(one), String(two)) => one == two,
        (Bytes(one), Bytes(two)) => one == two,
        (Int(_) | Uint(_) | Double(_), Int(_) | Uint(_) | Double(_)) => compare_numbers(one, two) == Some(std::cmp::Ordering::Equal),
        (Timestamp(one), Timestamp(two)) => one == two,
        (Duration(one), Duration(two)) => one == two,
        (Type(one), Type(two)) => one == two,
        (Quantity(one), Quantity(two)) => one == two,
        (Url(one), Url(two)) => one == two,
        (Ip(one), Ip(two)) => one == two,
        (Cidr(one, bits), Cidr(two, other)) => (one, bits) == (two, other),
        (Semver(one), Semver(two)) => one == two,
        (Optional(one), Optional(two)) => match (one, two) {
            (None, None) => true,
            (Some(one), Some(two)) => equal(one, two),
            _ => false,
        },
        (Array(one, Some(schema)), Array(two, _)) if schema.list != Items::Atomic => {
            // Told apart by value or key, their order means nothing.
            let texts = |list: &[Json]| list.iter().map(Json::to_string).collect::<BTreeSet<_>>();
            one.len() == two.len() && texts(one) == texts(two)
        }
        (List(one), List(two)) => one.len() == two.len() && one.iter().zip(two.iter()).all(|(one, two)| equal(one, two)),
        (Array(..) | List(_), Array(..) | List(_)) => {
            let (one, two) = (one.items().unwrap_or_default(), two.items().unwrap_or_default());
            one.len() == two.len() && one.iter().zip(&two).all(|(one, two)| equal(one, two))
        }
        (Made(ty, one), Made(other, two)) => {
            ty == other
                && one.len() == two.len()
                && one.iter().zip(two.iter()).all(|((key, one), (other, two))| key == other && equal(one, two))
        }
        (Object(one, _), Object(two, _)) => one == two,
        (Object(..) | Map(_), Object(..) | Map(_)) => {
            one.size() == two.size()
                && one.entries().unwrap_or_default().iter().all(|(key, value)| match two.at(key) {
                    Ok(Some(found)) => equal(value, &found),
                    _ => false,
                })
        }
        _ => false,
    }
}

pub(super) fn compare_numbers(one: &Value<'_>, two: &Value<'_>) -> Option<std::cmp::Ordering> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    let float = |value: &Value<'_>| match value {
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::Double(value) => Some(*value),
        _ => None,
    };
    match (whole(one), whole(two)) {
        (Some(one), Some(two)) => Some(one.cmp(&two)),
        _ => float(one)?.partial_cmp(&float(two)?),
    }
}
