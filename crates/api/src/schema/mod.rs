//! The fields of every message of the API, from one table, `fields.tsv`.
//!
//! The table is text in the binary and is parsed on first use, so that a process that never looks (a keeper) does not pay for it.
//! A line `=name` opens a message; then one line per field: JSON key, protobuf number, type, flags, map keys of the list,
//! merge key, default. Types are scalars, well-known types in lower case, or full message names; `@name` is a message that is
//! a bare list of strings in JSON. Flags:
//! `r` repeated, `m` map, `!` required, `i` inline, `a` atomic, `s` set list, `k` map list, `M` merge, `K` retainKeys, `R` replace.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

const TABLE: &str = include_str!("fields.tsv");

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| parse::table(TABLE));

mod parse;

/// A message of the schema: `Schema::get().by_id(id)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub(crate) u32);

pub struct Schema {
    messages: Vec<Message>,
    by_name: HashMap<&'static str, MessageId>,
}

pub struct Message {
    /// Full name: `k8s.io.api.core.v1.PodSpec`
    pub name: &'static str,
    /// A struct that has one owner wherever it stands.
    pub atomic: bool,
    /// As declared; inline structs are one field here. See [`Message::field`] for the JSON view.
    pub fields: Vec<Field>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    Optional,
    Repeated,
    /// A map with string keys; `Field::ty` is the type of its values.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339.
    Time,
    MicroTime,
    /// `1m30s` in JSON.
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON object.
    RawExtension,
    /// The field sets of managedFields.
    FieldsV1,
    /// Any JSON value (defaults and examples of JSON schemas).
    Any,
    /// A list of strings that protobuf wraps in a message (ExtraValue).
    Strings(MessageId),
    /// One of several: in JSON the value itself, in protobuf a message with that one field (JSONSchemaPropsOrBool).
    Union(MessageId),
    Message(MessageId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

#[derive(Clone, Debug)]
pub struct Field {
    /// Key in JSON.
    pub json: &'static str,
    /// Protobuf number.
    pub number: u32,
    pub label: Label,
    pub ty: Type,
    pub required: bool,
    /// The fields of this message stand in the parent's JSON object.
    pub inline: bool,
    pub list_type: Option<ListType>,
    /// Keys of a `Map` list; comma-separated in the table.
    pub map_keys: &'static str,
    /// A map or struct that is owned as a whole by one manager.
    pub atomic: bool,
    pub patch_merge: bool,
    pub patch_retain_keys: bool,
    pub patch_replace: bool,
    pub merge_key: &'static str,
    /// JSON text of the declared default.
    pub default: &'static str,
}

impl Schema {
    pub fn get() -> &'static Schema {
        &SCHEMA
    }

    pub fn message(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|id| self.by_id(*id))
    }
    pub fn id(&self, name: &str) -> Option<MessageId> {
        self.by_name.get(name).copied()
    }
    pub fn by_id(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }
    /// The message of a kind: `("apps", "v1", "Deployment")`.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<MessageId> {
        let package = match group {
            "" => "k8s.io.api.core",
            "apiextensions.k8s.io" => "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions",
            "apiregistration.k8s.io" => "k8s.io.kube_aggregator.pkg.apis.apiregistration",
            "meta.k8s.io" => "k8s.io.apimachinery.pkg.apis.meta",
            "metrics.k8s.io" => "k8s.io.metrics.pkg.apis.metrics",
            group => return self.id(&format!("k8s.io.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group))),
        };
        self.id(&format!("{package}.{version}.{kind}"))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }
}

impl Field {
    pub fn map_keys(&self) -> impl Iterator<Item = &'static str> {
        self.map_keys.split(',').filter(|key| !key.is_empty())
    }
}

impl Message {
    /// By JSON key, looking into inline structs.
    pub fn field(&self, json: &str) -> Option<&Field> {
        let own = self.fields.iter().find(|field| !field.inline && field.json == json);
        own.or_else(|| self.inlined().find_map(|message| message.field(json)))
    }

    /// All fields of the JSON view: those of inline structs in place of the structs.
    pub fn json_fields(&self) -> Vec<&Field> {
        let mut fields: Vec<&Field> = self.fields.iter().filter(|field| !field.inline).collect();
        fields.extend(self.inlined().flat_map(|message| message.json_fields()));
        fields
    }

    fn inlined(&self) -> impl Iterator<Item = &'static Message> {
        self.fields.iter().filter(|field| field.inline).filter_map(|field| match field.ty {
            Type::Message(id) => Some(SCHEMA.by_id(id)),
            _ => None,
        })
    }

    /// Of a union: the field whose form the JSON value has.
    pub fn variant(&self, value: &Value) -> Option<&Field> {
        self.fields.iter().find(|field| match value {
            Value::Object(_) => field.label == Label::Optional && matches!(field.ty, Type::Message(_)),
            Value::Array(_) => field.label == Label::Repeated,
            Value::Bool(_) => field.ty == Type::Bool,
            _ => false,
        })
    }

    /// Of a union: the JSON value that its fields stand for. A schema counts before the word that it allows; nothing at all is the zero of the
    /// simplest form.
    pub(crate) fn chosen(&self, mut fields: Map<String, Value>) -> Value {
        let forms = [Value::Object(Map::new()), Value::Array(Vec::new()), Value::Bool(false)];
        let present = forms.iter().find_map(|form| fields.remove(self.variant(form)?.json));
        let zero = || forms.iter().rev().find(|form| self.variant(form).is_some()).cloned();
        present.or_else(zero).unwrap_or_default()
    }

    /// Whether the object itself has a type: `apiVersion` and `kind` may stand in it although they are no fields.
    pub fn is_top_level(&self) -> bool {
        self.fields.iter().any(|field| field.json == "metadata")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_parses_and_every_type_is_known() {
        let schema = Schema::get();
        assert!(schema.iter().count() > 500);
        let field = |message: &str, json: &str| schema.message(message).unwrap().field(json).unwrap().clone();
        let containers = field("k8s.io.api.core.v1.PodSpec", "containers");
        assert_eq!((containers.label, containers.list_type, containers.required), (Label::Repeated, Some(ListType::Map), true));
        assert_eq!((containers.merge_key, containers.patch_merge), ("name", true));
        assert_eq!(containers.map_keys().collect::<Vec<_>>(), ["name"]);
        let Type::Message(id) = containers.ty else { panic!("{:?}", containers.ty) };
        assert_eq!(schema.by_id(id).name, "k8s.io.api.core.v1.Container");
        assert_eq!(field("k8s.io.api.core.v1.ContainerPort", "protocol").default, "\"TCP\"");
        assert_eq!(field("k8s.io.api.core.v1.ResourceRequirements", "limits").label, Label::Map);
    }

    #[test]
    fn inline_structs_are_looked_through() {
        let schema = Schema::get();
        let volume = schema.message("k8s.io.api.core.v1.Volume").unwrap();
        assert!(volume.field("emptyDir").is_some());
        assert!(volume.field("volumeSource").is_none());
        let container = schema.message("k8s.io.api.core.v1.EphemeralContainer").unwrap();
        assert!(container.field("image").is_some());
        assert!(container.json_fields().iter().any(|field| field.json == "targetContainerName"));
    }

    #[test]
    fn kinds_find_their_message() {
        for (group, version, kind) in [
            ("", "v1", "Pod"),
            ("apps", "v1", "Deployment"),
            ("rbac.authorization.k8s.io", "v1", "Role"),
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        ] {
            assert!(Schema::get().of_kind(group, version, kind).is_some(), "{group}/{version} {kind}");
        }
    }
}
