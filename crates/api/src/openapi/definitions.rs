//! Definitions: the schema of every message that the paths name, and of the messages that those name in turn.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{Dialect, custom};
use crate::kind::Kind;
use crate::kinds::Kinds;
use crate::schema::{Field, Label, ListType, Message, MessageId, Schema, Type};

/// A group, version and kind.
type Gvk = (String, String, String);

const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1";

pub(super) struct Definitions {
    pub(super) dialect: Dialect,
    /// The messages that are whole objects, and what they are called.
    kinds: HashMap<MessageId, Vec<Gvk>>,
    done: BTreeMap<String, Value>,
    todo: Vec<MessageId>,
    descriptions: Descriptions,
}

/// `k8s.io.api.apps.v1.Deployment` → `io.k8s.api.apps.v1.Deployment`
pub(super) fn definition_name(message: &str) -> String {
    let rest = message.strip_prefix("k8s.io.").unwrap_or(message);
    format!(
        "io.k8s.{}",
        rest.replacen("apiextensions_apiserver", "apiextensions-apiserver", 1).replacen("kube_aggregator", "kube-aggregator", 1)
    )
}

impl Definitions {
    pub(super) fn new(served: &Kinds, dialect: Dialect) -> Definitions {
        let schema = Schema::get();
        let mut kinds: HashMap<MessageId, Vec<Gvk>> = HashMap::new();
        let mut know = |id: Option<MessageId>, group: &str, version: &str, kind: &str| {
            if let Some(id) = id {
                let names = kinds.entry(id).or_default();
                let gvk = (group.to_owned(), version.to_owned(), kind.to_owned());
                if !names.contains(&gvk) {
                    names.push(gvk);
                }
            }
        };
        for kind in served.iter() {
            let (group, version) = (&*kind.group, &*kind.version);
            know(kind.message, group, version, &kind.kind);
            know(schema.of_kind(group, version, &kind.list_kind), group, version, &kind.list_kind);
            // Every group and version takes the same options.
            know(schema.id(&format!("{META}.DeleteOptions")), group, version, "DeleteOptions");
            know(schema.id(&format!("{META}.WatchEvent")), group, version, "WatchEvent");
            for sub in &kind.subresources {
                know(schema.of_kind(&sub.group, &sub.version, &sub.kind), &sub.group, &sub.version, &sub.kind);
            }
        }
        for document in ["APIGroup", "APIGroupList", "APIResourceList", "APIVersions", "Status"] {
            know(schema.id(&format!("{META}.{document}")), "", "v1", document);
        }
        Definitions { dialect, kinds, done: BTreeMap::new(), todo: Vec::new(), descriptions: Descriptions::load() }
    }

    /// Writes what was asked for, and all that it refers to.
    pub(super) fn finish(mut self) -> BTreeMap<String, Value> {
        while let Some(id) = self.todo.pop() {
            let message = Schema::get().by_id(id);
            let schema = self.message(id, message);
            self.done.insert(definition_name(message.name), schema);
        }
        self.done
    }

    /// A reference to a message, which is thereby asked for.
    pub(super) fn message_ref(&mut self, id: MessageId) -> Value {
        let name = definition_name(Schema::get().by_id(id).name);
        if !self.done.contains_key(&name) {
            self.done.insert(name.clone(), Value::Null);
            self.todo.push(id);
        }
        self.dialect.reference(&name)
    }

    pub(super) fn meta_ref(&mut self, name: &str) -> Value {
        match Schema::get().id(&format!("{META}.{name}")) {
            Some(id) => self.message_ref(id),
            None => self.special(&format!("{META}.{name}"), json!({ "type": "object" })),
        }
    }

    /// What the server says of its build. It is no object of the API, so that no message describes it.
    pub(super) fn version_ref(&mut self) -> Value {
        let fields = ["buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "major", "minor", "platform"];
        let properties: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), json!({ "type": "string" }))).collect();
        let schema = json!({ "type": "object", "properties": properties, "required": fields });
        self.special("k8s.io.apimachinery.pkg.version.Info", schema)
    }

    /// The body of a patch: any JSON.
    pub(super) fn patch_ref(&mut self) -> Value {
        self.special(&format!("{META}.Patch"), json!({ "type": "object" }))
    }

    /// The schema of a kind's objects. Of kinds made at run time it is the schema of their definition.
    pub(super) fn kind_ref(&mut self, kind: &Kind) -> Value {
        if let Some(id) = kind.message {
            return self.message_ref(id);
        }
        let mut schema = kind.custom.as_ref().map_or(json!({ "type": "object" }), |custom| custom.published.clone());
        if self.dialect == Dialect::V2 {
            custom::simplify(&mut schema);
        }
        let object_meta = self.meta_ref("ObjectMeta");
        let object_meta = self.wrap(object_meta);
        let type_meta = definition_name("k8s.io.api.core.v1.ConfigMap");
        let string = json!({ "type": "string" });
        schema["properties"]["apiVersion"] = self.described(string.clone(), &type_meta, "apiVersion");
        schema["properties"]["kind"] = self.described(string, &type_meta, "kind");
        schema["properties"]["metadata"] = self.described(object_meta, &type_meta, "metadata");
        schema["x-kubernetes-group-version-kind"] = gvks(&[(kind.group.to_string(), kind.version.to_string(), kind.kind.to_string())]);
        if !kind.selectable.is_empty() {
            schema["x-kubernetes-selectable-fields"] = kind.selectable.iter().map(|field| json!({ "fieldPath": field.path })).collect();
        }
        self.named(own_name(kind, &kind.kind), schema)
    }

    pub(super) fn list_ref(&mut self, kind: &Kind) -> Value {
        if let Some(id) = Schema::get().of_kind(&kind.group, &kind.version, &kind.list_kind) {
            return self.message_ref(id);
        }
        let items = self.kind_ref(kind);
        let metadata = self.meta_ref("ListMeta");
        let metadata = self.wrap(metadata);
        let schema = json!({
            "type": "object",
            "properties": {
                "apiVersion": { "type": "string" }, "kind": { "type": "string" }, "metadata": metadata,
                "items": { "type": "array", "items": items },
            },
            "required": ["items"],
            "x-kubernetes-group-version-kind": gvks(&[(kind.group.to_string(), kind.version.to_string(), kind.list_kind.to_string())]),
        });
        self.named(own_name(kind, &kind.list_kind), schema)
    }

    fn named(&mut self, name: String, schema: Value) -> Value {
        let reference = self.dialect.reference(&name);
        self.done.insert(name, schema);
        reference
    }

    /// A definition that is no message of fields.
    fn special(&mut self, message: &str, mut schema: Value) -> Value {
        let name = definition_name(message);
        let description = self.descriptions.of(&name, "");
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        self.named(name, schema)
    }

    fn message(&mut self, id: MessageId, message: &'static Message) -> Value {
        let name = definition_name(message.name);
        let mut properties = Map::new();
        let mut required = Vec::new();
        let kinds = self.kinds.get(&id).cloned();
        if kinds.is_some() {
            for key in ["apiVersion", "kind"] {
                properties.insert(key.to_owned(), self.described(json!({ "type": "string" }), &name, key));
            }
        }
        for field in message.json_fields() {
            if field.required {
                required.push(Value::from(field.json));
            }
            let schema = self.field(field);
            properties.insert(field.json.to_owned(), self.described(schema, &name, field.json));
        }
        let mut schema = json!({ "type": "object" });
        let description = self.descriptions.of(&name, "");
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if message.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(kinds) = kinds {
            schema["x-kubernetes-group-version-kind"] = gvks(&kinds);
        }
        schema
    }

    fn described(&self, mut schema: Value, definition: &str, field: &str) -> Value {
        let description = self.descriptions.of(definition, field);
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        schema
    }

    fn field(&mut self, field: &'static Field) -> Value {
        let value = self.ty(field.ty);
        let mut schema = match field.label {
            Label::Optional => self.wrap(value),
            Label::Repeated => json!({ "type": "array", "items": value }),
            Label::Map => json!({ "type": "object", "additionalProperties": value }),
        };
        if let Ok(default) = serde_json::from_str::<Value>(field.default) {
            schema["default"] = default;
        }
        if let Some(list_type) = field.list_type {
            schema["x-kubernetes-list-type"] = match list_type {
                ListType::Atomic => "atomic".into(),
                ListType::Set => "set".into(),
                ListType::Map => "map".into(),
            };
            if list_type == ListType::Map {
                schema["x-kubernetes-list-map-keys"] = field.map_keys().map(Value::from).collect();
            }
        }
        if field.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        let strategies = [(field.patch_merge, "merge"), (field.patch_retain_keys, "retainKeys"), (field.patch_replace, "replace")]
            .map(|(has, word)| has.then_some(word));
        let strategies: Vec<&str> = strategies.into_iter().flatten().collect();
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if !field.merge_key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = field.merge_key.into();
        }
        schema
    }

    /// Version 3 ignores what stands beside a reference, so that one with a description is put into an `allOf`.
    fn wrap(&self, schema: Value) -> Value {
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() { json!({ "allOf": [schema] }) } else { schema }
    }

    fn ty(&mut self, ty: Type) -> Value {
        let v3 = self.dialect == Dialect::V3;
        match ty {
            Type::Bool => json!({ "type": "boolean" }),
            Type::Int32 => json!({ "type": "integer", "format": "int32" }),
            Type::Int64 => json!({ "type": "integer", "format": "int64" }),
            Type::Double => json!({ "type": "number", "format": "double" }),
            Type::String => json!({ "type": "string" }),
            Type::Bytes => json!({ "type": "string", "format": "byte" }),
            Type::Time => self.special(&format!("{META}.Time"), json!({ "type": "string", "format": "date-time" })),
            Type::MicroTime => self.special(&format!("{META}.MicroTime"), json!({ "type": "string", "format": "date-time" })),
            Type::Duration => self.special(&format!("{META}.Duration"), json!({ "type": "string" })),
            Type::FieldsV1 => self.special(&format!("{META}.FieldsV1"), json!({ "type": "object" })),
            Type::Quantity => {
                let schema =
                    if v3 { json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }) } else { json!({ "type": "string" }) };
                self.special("k8s.io.apimachinery.pkg.api.resource.Quantity", schema)
            }
            Type::IntOrString => {
                let mut schema =
                    if v3 { json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] }) } else { json!({ "type": "string" }) };
                schema["format"] = "int-or-string".into();
                self.special("k8s.io.apimachinery.pkg.util.intstr.IntOrString", schema)
            }
            Type::RawExtension => self.special("k8s.io.apimachinery.pkg.runtime.RawExtension", json!({ "type": "object" })),
            Type::Any => self.special("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON", json!({})),
            Type::Union(id) => self.special(Schema::get().by_id(id).name, json!({})),
            Type::Strings(_) => json!({ "type": "array", "items": { "type": "string" } }),
            Type::Message(id) => self.message_ref(id),
        }
    }
}

fn gvks(kinds: &[Gvk]) -> Value {
    kinds.iter().map(|(group, version, kind)| json!({ "group": group, "version": version, "kind": kind })).collect()
}

/// Groups of run-time kinds are domain names, whose parts upstream writes in reverse: `com.example.v1.Widget`.
fn own_name(kind: &Kind, name: &str) -> String {
    let group: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{name}", group.join("."), kind.version)
}
