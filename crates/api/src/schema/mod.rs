//! The fields of every message of the API, from one table.

use std::collections::HashMap;

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
        todo!()
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
    pub fn of_kind(&self, _group: &str, _version: &str, _kind: &str) -> Option<MessageId> {
        todo!()
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
    pub fn field(&self, _json: &str) -> Option<&'static Field> {
        todo!()
    }
    /// All fields of the JSON view: those of inline structs in place of the structs.
    pub fn json_fields(&self) -> Vec<&'static Field> {
        todo!()
    }
}
