//! Objects to protobuf, as Go clients prefer to read them. The way back is in [`crate::decode`].
//!
//! An object is `k8s\0` and a `runtime.Unknown`: its type, then its own message. One writer serves every kind: it is driven by the table of
//! fields, and reads JSON text as it stands in the store, or a value, without a copy between them. What JSON leaves out is left out here;
//! readers take that for the zero that Go would have written.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::schema::{Field, Label, Message, MessageId, Schema, Type};
use crate::{duration, time};

/// Stands before every object, so that a reader can tell it from JSON.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("{api_version} {kind:?} has no protobuf form")]
    NoMessage { api_version: String, kind: String },
    #[error("encode as protobuf")]
    Field(#[source] serde_json::Error),
}

/// The message of a kind, by the type that objects carry. Options, Status, discovery and metadata alone come under any group's name.
pub fn message_of(api_version: &str, kind: &str) -> Option<MessageId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let schema = Schema::get();
    schema.of_kind(group, version, kind).or_else(|| schema.of_kind("meta.k8s.io", "v1", kind))
}

/// An object of any kind that says what it is, in its envelope.
pub fn value(value: &Value) -> Result<Vec<u8>, EncodeError> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let id = message_of(api_version, kind)
        .ok_or_else(|| EncodeError::NoMessage { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let mut raw = Vec::new();
    fields(id, value, &mut raw).map_err(EncodeError::Field)?;
    Ok(enveloped(api_version, kind, &raw))
}

/// The JSON of an object as its bare message, appended to `out`.
pub fn json(id: MessageId, text: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    fields(id, &mut serde_json::Deserializer::from_slice(text), out).map_err(EncodeError::Field)
}

/// A bare message in the envelope that tells its type.
pub fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope(api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_END);
    out
}

/// What stands before a bare message of `len` bytes. [`ENVELOPE_END`] stands after it.
pub fn envelope(api_version: &str, kind: &str, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 64);
    out.extend_from_slice(MAGIC);
    delimited(&mut out, 1, |out| {
        string(out, 1, api_version);
        string(out, 2, kind);
    });
    tag(&mut out, 2, LENGTH);
    varint(&mut out, len as u64);
    out
}

/// The encoding and type of the contents: none but protobuf's own.
pub const ENVELOPE_END: &[u8] = &[0x1a, 0, 0x22, 0];

/// The field of a list that its items stand in, and that of its metadata: the same in every list of the API.
const LIST_METADATA: u32 = 1;
const LIST_ITEMS: u32 = 2;

/// The metadata of a list.
pub fn list_metadata(metadata: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let Some(id) = Schema::get().id("k8s.io.apimachinery.pkg.apis.meta.v1.ListMeta") else { return Ok(()) };
    let mut raw = Vec::new();
    fields(id, metadata, &mut raw).map_err(EncodeError::Field)?;
    tag(out, LIST_METADATA, LENGTH);
    varint(out, raw.len() as u64);
    out.extend_from_slice(&raw);
    Ok(())
}

/// One item of a list; `write` appends its bare message.
pub fn list_item<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    delimited(out, LIST_ITEMS, write)
}

/// An event of a watch: a frame of its length (4 bytes, big-endian) and a WatchEvent around an object in its envelope.
pub fn watch_event(word: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(&[0; 4]);
    string(&mut out, 1, word);
    delimited(&mut out, 2, |out| {
        tag(out, 1, LENGTH);
        varint(out, object.len() as u64);
        out.extend_from_slice(object);
    });
    let length = u32::try_from(out.len() - 4).expect("an object is far below 4 GiB: the store limits it");
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn fields<'de, D: Deserializer<'de>>(id: MessageId, input: D, out: &mut Vec<u8>) -> Result<(), D::Error> {
    Fields { message: Schema::get().by_id(id), out }.deserialize(input)
}

// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn string(out: &mut Vec<u8>, number: u32, text: &str) {
    tag(out, number, LENGTH);
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    // Negative numbers of either size are written as their two's complement in 64 bits.
    varint(out, value.cast_unsigned());
}

/// A field whose length is known once `write` is done. Most have less than 128 bytes: one byte is kept for the length, and what is
/// longer moves up.
fn delimited<T>(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    tag(out, number, LENGTH);
    let start = out.len();
    out.push(0);
    let result = write(out);
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    result
}

/// A JSON object as the fields of a message.
struct Fields<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut inlined = Parts::default();
        while let Some(found) = map.next_key_seed(Key(self.message))? {
            match found {
                // `apiVersion` and `kind`, which protobuf tells in the envelope, and whatever an older version stored.
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
                Some(Found { field, inside }) => {
                    let out = if inside.is_empty() { &mut *self.out } else { inlined.at(&inside) };
                    map.next_value_seed(Labelled { field, out })?;
                }
            }
        }
        inlined.write(self.out);
        Ok(())
    }
}

/// A field, and the numbers of the inline structs around it, from the outside in.
struct Found {
    field: &'static Field,
    inside: Vec<u32>,
}

fn find(message: &'static Message, json: &str) -> Option<Found> {
    if let Some(field) = message.fields.iter().find(|field| !field.inline && field.json == json) {
        return Some(Found { field, inside: Vec::new() });
    }
    message.fields.iter().filter(|field| field.inline).find_map(|field| {
        let Type::Message(id) = field.ty else { return None };
        let mut found = find(Schema::get().by_id(id), json)?;
        found.inside.insert(0, field.number);
        Some(found)
    })
}

struct Key(&'static Message);

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<Found>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<Found>, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<Found>, E> {
        Ok(find(self.0, name))
    }
}

/// Inline structs: one object in JSON, messages of their own in protobuf. Their fields are gathered as they come.
#[derive(Default)]
struct Parts {
    own: Vec<u8>,
    parts: Vec<(u32, Parts)>,
}

impl Parts {
    fn at(&mut self, inside: &[u32]) -> &mut Vec<u8> {
        let [first, rest @ ..] = inside else { return &mut self.own };
        let index = self.parts.iter().position(|(number, _)| number == first).unwrap_or_else(|| {
            self.parts.push((*first, Parts::default()));
            self.parts.len() - 1
        });
        self.parts[index].1.at(rest)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.own);
        for (number, part) in &self.parts {
            delimited(out, *number, |out| part.write(out));
        }
    }
}

/// A field with its label: one value, a list or a map. Null is nothing.
struct Labelled<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Labelled<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Labelled<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.label {
            Label::Optional => write!(f, "a value of {}", self.field.json),
            Label::Repeated => write!(f, "the list {}", self.field.json),
            Label::Map => write!(f, "the map {}", self.field.json),
        }
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        match self.field.label {
            Label::Optional => self.one().deserialize(input),
            Label::Repeated => input.deserialize_seq(self),
            Label::Map => input.deserialize_map(self),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.reborrow().one())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let field = self.field;
        while let Some(key) = map.next_key::<String>()? {
            delimited(self.out, field.number, |out| {
                string(out, 1, &key);
                map.next_value_seed(One { field, number: 2, out })
            })?;
        }
        Ok(())
    }
}

impl<'o> Labelled<'o> {
    fn reborrow(&mut self) -> Labelled<'_> {
        Labelled { field: self.field, out: self.out }
    }

    fn one(self) -> One<'o> {
        One { field: self.field, number: self.field.number, out: self.out }
    }
}

/// One value of a field's type, under a number: the field's own, or that of a map's values.
struct One<'o> {
    field: &'static Field,
    number: u32,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        match self.field.ty {
            Type::Message(id) => delimited(self.out, self.number, |out| fields(id, input, out)),
            Type::RawExtension | Type::FieldsV1 | Type::Any => {
                let raw = Box::<RawValue>::deserialize(input)?;
                delimited(self.out, self.number, |out| string(out, 1, raw.get()));
                Ok(())
            }
            Type::Union(id) => {
                let value = Value::deserialize(input)?;
                let union = Schema::get().by_id(id);
                let Some(field) = union.variant(&value) else {
                    return Err(D::Error::custom(format!("no form of {} fits the value of {}", union.name, self.field.json)));
                };
                delimited(self.out, self.number, |out| {
                    // Go's type says of a schema that it allows, too.
                    if let Some(allows) = union.variant(&Value::Bool(true)).filter(|allows| allows.number != field.number) {
                        integer(out, allows.number, 1);
                    }
                    Labelled { field, out }.deserialize(value).map_err(D::Error::custom)
                })
            }
            _ => input.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.field.ty, self.field.json)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.field.ty {
            Type::Bool => integer(self.out, self.number, value.into()),
            _ => return Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.field.ty {
            Type::Int32 | Type::Int64 => integer(self.out, self.number, value),
            #[expect(clippy::cast_precision_loss, reason = "JSON writes whole floats without a fraction")]
            Type::Double => return self.visit_f64(value as f64),
            Type::IntOrString => delimited(self.out, self.number, |out| {
                integer(out, 1, 0);
                integer(out, 2, value);
            }),
            Type::Quantity => delimited(self.out, self.number, |out| string(out, 1, &value.to_string())),
            _ => return Err(E::invalid_type(Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_type(Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.ty {
            Type::Double => {
                tag(self.out, self.number, FIXED64);
                self.out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
            _ => Err(E::invalid_type(Unexpected::Float(value), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let wrong = |this: &Self| E::invalid_value(Unexpected::Str(text), this);
        match self.field.ty {
            Type::String => string(self.out, self.number, text),
            Type::Bytes => {
                // Line ends are passed over, as on the way in.
                let compact: Vec<u8> = text.bytes().filter(|byte| !b"\r\n".contains(byte)).collect();
                let bytes = STANDARD.decode(compact).map_err(|_| wrong(&self))?;
                tag(self.out, self.number, LENGTH);
                varint(self.out, bytes.len() as u64);
                self.out.extend_from_slice(&bytes);
            }
            Type::Time | Type::MicroTime => {
                let time = time::parse(text).ok_or_else(|| wrong(&self))?;
                delimited(self.out, self.number, |out| instant(out, time));
            }
            Type::Duration => {
                let nanoseconds = duration::parse(text).ok_or_else(|| wrong(&self))?;
                delimited(self.out, self.number, |out| integer(out, 1, nanoseconds));
            }
            Type::Quantity => delimited(self.out, self.number, |out| string(out, 1, text)),
            Type::IntOrString => delimited(self.out, self.number, |out| {
                integer(out, 1, 1);
                string(out, 3, text);
            }),
            _ => return Err(wrong(&self)),
        }
        Ok(())
    }

    /// A list of strings that protobuf wraps in a message.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !matches!(self.field.ty, Type::Strings(_)) {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        delimited(self.out, self.number, |out| {
            while let Some(item) = list.next_element::<String>()? {
                string(out, 1, &item);
            }
            Ok(())
        })
    }

    /// Null among the items of a list or map: the zero of its type, which is nothing in protobuf.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Both parts are written even when they are 0: an empty message is Go's zero time, not 1970.
fn instant(out: &mut Vec<u8>, time: Timestamp) {
    let (mut seconds, mut nanoseconds) = (time.as_second(), time.subsec_nanosecond());
    if nanoseconds < 0 {
        // The fraction counts forward from the second before.
        (seconds, nanoseconds) = (seconds - 1, nanoseconds + 1_000_000_000);
    }
    integer(out, 1, seconds);
    integer(out, 2, nanoseconds.into());
}

#[cfg(test)]
mod tests;
