//! The shape of values as field ownership sees them: what is one leaf with one owner, and what is divided among owners.
//!
//! A list or map that its schema calls atomic is a leaf like any string. What has no schema (kinds made at run time without one) takes the
//! shape of its value: maps are divided, lists are leaves.

use serde_json::{Map, Value};

use crate::custom::schema::{Additional, Items, Structural, Type as CustomType};
use crate::kind::Kind;
use crate::schema::{Field, Label, ListType, Message, MessageId, Schema, Type};
use crate::ssa::Step;

/// Structs that have one owner wherever they stand. Upstream marks the Go types (`+structType=atomic`), which the field table, having
/// only what is said of fields, does not show.
const ATOMIC_STRUCTS: &str = "
k8s.io.api.admissionregistration.v1.NamedRuleWithOperations
k8s.io.api.admissionregistration.v1.ParamKind
k8s.io.api.admissionregistration.v1.ParamRef
k8s.io.api.admissionregistration.v1beta1.NamedRuleWithOperations
k8s.io.api.admissionregistration.v1beta1.ParamKind
k8s.io.api.admissionregistration.v1beta1.ParamRef
k8s.io.api.autoscaling.v1.CrossVersionObjectReference
k8s.io.api.core.v1.ConfigMapKeySelector
k8s.io.api.core.v1.EndpointAddress
k8s.io.api.core.v1.EndpointPort
k8s.io.api.core.v1.FileKeySelector
k8s.io.api.core.v1.LocalObjectReference
k8s.io.api.core.v1.NodeSelector
k8s.io.api.core.v1.NodeSelectorTerm
k8s.io.api.core.v1.ObjectFieldSelector
k8s.io.api.core.v1.ObjectReference
k8s.io.api.core.v1.ResourceFieldSelector
k8s.io.api.core.v1.ScopeSelector
k8s.io.api.core.v1.ScopedResourceSelectorRequirement
k8s.io.api.core.v1.SecretKeySelector
k8s.io.api.core.v1.SecretReference
k8s.io.api.core.v1.TopologySelectorTerm
k8s.io.api.core.v1.TypedLocalObjectReference
k8s.io.api.discovery.v1.EndpointPort
k8s.io.api.networking.v1.ServiceBackendPort
k8s.io.api.rbac.v1.RoleRef
k8s.io.api.rbac.v1.Subject
k8s.io.apimachinery.pkg.apis.meta.v1.LabelSelector
k8s.io.apimachinery.pkg.apis.meta.v1.OwnerReference
";

/// The one field that divides a struct of the list above (`+structType=granular`).
const GRANULAR_FIELD: &str = "claimRef";

#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// One value with one owner.
    Leaf,
    /// Named fields. `root`: apiVersion and kind stand in it too.
    Struct { message: &'static Message, root: bool },
    /// Keys that the schema does not name; the field tells the type of the values.
    Map(&'static Field),
    /// Items told apart by their value.
    Set,
    /// Items told apart by some of their fields.
    Keyed(Keyed),
    /// A map of a kind made at run time. `root`: apiVersion, kind and metadata stand in it too.
    Custom { schema: &'a Structural, root: bool },
    /// A list of such a kind, its items told apart by these fields.
    CustomKeyed { schema: &'a Structural, keys: &'a [String] },
    /// Without a schema.
    Deduced,
}

#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    field: &'static Field,
    keys: &'static str,
}

pub(crate) fn is_atomic_struct(name: &str) -> bool {
    ATOMIC_STRUCTS.lines().any(|atomic| atomic == name)
}

impl<'a> Shape<'a> {
    pub(crate) fn of_kind(kind: &'a Kind) -> Shape<'a> {
        match (kind.message, &kind.custom) {
            (Some(id), _) => Shape::of_message(id),
            (None, Some(custom)) => Shape::of_root(&custom.schema),
            (None, None) => Shape::Deduced,
        }
    }

    /// A whole object of a built-in kind.
    pub(crate) fn of_message(id: MessageId) -> Shape<'a> {
        Shape::Struct { message: Schema::get().by_id(id), root: true }
    }

    /// A whole object of a kind made at run time.
    pub(crate) fn of_root(schema: &'a Structural) -> Shape<'a> {
        Shape::Custom { schema, root: true }
    }

    fn of_custom(schema: &'a Structural) -> Shape<'a> {
        match schema.ty {
            CustomType::Object if schema.atomic_map => Shape::Leaf,
            CustomType::Object => Shape::Custom { schema, root: schema.embedded },
            CustomType::Array => match &schema.list {
                Items::Atomic => Shape::Leaf,
                Items::Set => Shape::Set,
                Items::Map(keys) => Shape::CustomKeyed { schema, keys },
            },
            CustomType::Any if schema.preserve => Shape::Deduced,
            _ => Shape::Leaf,
        }
    }

    /// The metadata of every object.
    fn metadata() -> Shape<'a> {
        let message = Schema::get().message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        message.map_or(Shape::Deduced, |message| Shape::Struct { message, root: false })
    }

    fn of_field(field: &'static Field) -> Shape<'a> {
        match field.label {
            Label::Optional if field.atomic => Shape::Leaf,
            Label::Optional => Shape::of_type(field.ty, field.json == GRANULAR_FIELD),
            Label::Map if field.atomic => Shape::Leaf,
            Label::Map => Shape::Map(field),
            Label::Repeated => Shape::of_list(field),
        }
    }

    fn of_list(field: &'static Field) -> Shape<'a> {
        match field.list_type {
            Some(ListType::Atomic) => Shape::Leaf,
            Some(ListType::Set) => Shape::Set,
            Some(ListType::Map) => Shape::Keyed(Keyed { field, keys: field.map_keys }),
            // Without a list type, the strategy of the older patch decides, as upstream (kube-openapi, schemaconv).
            None if !field.patch_merge => Shape::Leaf,
            None if field.merge_key.is_empty() => Shape::Set,
            None => Shape::Keyed(Keyed { field, keys: field.merge_key }),
        }
    }

    fn of_type(ty: Type, granular: bool) -> Shape<'a> {
        match ty {
            Type::Message(id) => {
                let message = Schema::get().by_id(id);
                if !granular && message.atomic { Shape::Leaf } else { Shape::Struct { message, root: false } }
            }
            _ => Shape::Leaf,
        }
    }

    /// The shape of the value under a key of a map, and whether the schema names the key.
    pub(crate) fn field(self, key: &str) -> (Shape<'a>, bool) {
        match self {
            Shape::Struct { message, root } => match message.field(key) {
                Some(field) => (Shape::of_field(field), true),
                None if root && matches!(key, "apiVersion" | "kind") => (Shape::Leaf, true),
                None => (Shape::Deduced, false),
            },
            Shape::Map(field) => (Shape::of_type(field.ty, false), false),
            Shape::Custom { root: true, .. } if matches!(key, "apiVersion" | "kind") => (Shape::Leaf, true),
            Shape::Custom { root: true, .. } if key == "metadata" => (Shape::metadata(), true),
            Shape::Custom { schema, .. } => match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => (Shape::of_custom(property), true),
                (None, Additional::Schema(inner)) => (Shape::of_custom(inner), false),
                (None, Additional::Any | Additional::Unsaid) => (Shape::Deduced, false),
            },
            Shape::Deduced => (Shape::Deduced, false),
            Shape::Leaf | Shape::Set | Shape::Keyed(_) | Shape::CustomKeyed { .. } => (Shape::Leaf, false),
        }
    }

    /// The shape of the items of a list.
    pub(crate) fn item(self) -> Shape<'a> {
        match self {
            Shape::CustomKeyed { schema, .. } => schema.items.as_ref().map_or(Shape::Deduced, |items| Shape::of_custom(items)),
            Shape::Keyed(list) => Shape::of_type(list.field.ty, true),
            _ => Shape::Leaf,
        }
    }

    /// The value as the map that this shape divides, if it does.
    pub(crate) fn map(self, value: &Value) -> Option<&Map<String, Value>> {
        match self {
            Shape::Struct { .. } | Shape::Map(_) | Shape::Custom { .. } | Shape::Deduced => value.as_object(),
            Shape::Leaf | Shape::Set | Shape::Keyed(_) | Shape::CustomKeyed { .. } => None,
        }
    }

    /// The value as the list that this shape divides, if it does.
    pub(crate) fn list(self, value: &Value) -> Option<&Vec<Value>> {
        match self {
            Shape::Set | Shape::Keyed(_) | Shape::CustomKeyed { .. } => value.as_array(),
            _ => None,
        }
    }

    /// The step to an item of a list; `None` where it has none of the list's keys.
    pub(crate) fn step(self, item: &Value) -> Option<Step> {
        let default = |key: &str| match self {
            Shape::Keyed(list) => list.default(key),
            Shape::CustomKeyed { schema, .. } => schema.items.as_ref()?.properties.get(key)?.default.clone(),
            _ => None,
        };
        if !matches!(self, Shape::Keyed(_) | Shape::CustomKeyed { .. }) {
            return Some(Step::value(item));
        }
        let fields: Map<String, Value> =
            self.keys().into_iter().filter_map(|key| Some((key.to_owned(), item.get(key).cloned().or_else(|| default(key))?))).collect();
        (!fields.is_empty()).then(|| Step::key(fields))
    }

    /// The keys of the list's items.
    pub(crate) fn keys(self) -> Vec<&'a str> {
        match self {
            Shape::Keyed(list) => list.keys().collect(),
            Shape::CustomKeyed { keys, .. } => keys.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

impl Keyed {
    fn keys(self) -> impl Iterator<Item = &'static str> {
        self.keys.split(',').filter(|key| !key.is_empty())
    }

    /// The value that a key has where an item leaves it out (a port's protocol is TCP).
    fn default(self, key: &str) -> Option<Value> {
        let Type::Message(id) = self.field.ty else { return None };
        let field = Schema::get().by_id(id).field(key)?;
        serde_json::from_str(field.default).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::kind::Kind;
    use crate::kinds::Kinds;

    pub(crate) fn kind(group: &str, version: &str, kind: &str) -> Kind {
        Kind::clone(&Kinds::builtin().by_kind(group, version, kind).expect("a built-in kind"))
    }
}
