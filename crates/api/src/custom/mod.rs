//! Custom resources: kinds that a CustomResourceDefinition makes at run time.
//!
//! An accepted definition becomes rows ([`rows`]), one for each version that is served, and from there on takes the same way as built-in kinds.
//! What a built-in kind has in tables and functions, a custom one has in its [`Custom`]: the structural schema that prunes, defaults and checks
//! its objects, the paths of its columns and of its scale, and how its versions convert.

mod check;
pub(crate) mod costs;
mod defaults;
pub(crate) mod definition;
pub(crate) mod format;
pub mod jsonpath;
mod openapi;
mod prune;
mod rules;
pub(crate) mod schema;
pub mod status;
pub(crate) mod structural;
#[cfg(test)]
mod tests;
mod version;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::FieldErrors;
use crate::kind::{Cell, Column, Field, Kind, Scope, SelectableField, Strategy, Subresource, Text, VerbSet};
use crate::object::Object;
use jsonpath::Path;
pub use schema::Structural;

/// Where the collection of the definitions themselves is.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// Holds a deleted definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What a kind made at run time knows instead of a message of the field table.
#[derive(Debug)]
pub struct Custom {
    /// Name of the definition.
    pub definition: String,
    pub schema: Arc<Structural>,
    /// The schema of each version of the definition, served or not: who owns fields may speak of any of them.
    pub schemas: Arc<[(Text, Arc<Structural>)]>,
    /// The schema as it was written, for OpenAPI.
    pub published: Value,
    pub storage_version: Text,
    /// The `clientConfig` of the webhook that converts between versions; none if they differ in nothing but their names.
    pub conversion: Option<Value>,
    pub scale: Option<Scale>,
    /// Each version of the definition, served or not, and where its objects keep their replicas; none where it has no scale.
    pub replicas: Vec<(Text, Option<Vec<String>>)>,
    /// Told to everyone who uses this version.
    pub deprecation: Option<String>,
    /// Objects that were written after this revision were written under this schema, in this storage version.
    pub since: u64,
    /// The definition is being deleted: no new objects.
    pub terminating: bool,
}

/// Where the scale subresource finds its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub spec: Vec<String>,
    pub status: Vec<String>,
    pub selector: Option<Vec<String>>,
}

impl Custom {
    /// Drops what the schema does not name; the paths are told to `dropped`.
    pub fn prune(&self, object: &mut Object, dropped: &mut dyn FnMut(&str)) {
        self.prune_map(&mut object.0, dropped);
    }

    pub(crate) fn prune_map(&self, object: &mut Map<String, Value>, dropped: &mut dyn FnMut(&str)) {
        prune::prune(object, &self.schema, dropped);
    }

    pub fn default(&self, object: &mut Object) {
        defaults::fill_map(&mut object.0, &self.schema);
    }

    pub(crate) fn validate(&self, object: &Object, before: Option<&Object>) -> FieldErrors {
        // Of the metadata a schema speaks of these two, and the rest is checked by what all kinds share.
        let named = |metadata: &Value| -> Value {
            ["name", "generateName"].iter().filter_map(|key| Some(((*key).to_owned(), metadata.get(key)?.clone()))).collect()
        };
        let value = |object: &Object| -> Value {
            object.0.iter().map(|(key, value)| (key.clone(), if key == "metadata" { named(value) } else { value.clone() })).collect()
        };
        let (new, old) = (value(object), before.map(value));
        let mut errors = check::check(&new, old.as_ref(), &self.schema);
        // A list that was wrong before does not hold up what is done about something else, nor about itself (customresource/strategy.go).
        let again = check::duplicates(&new, &self.schema);
        if !again.is_empty() && old.is_none_or(|old| check::duplicates(&old, &self.schema).is_empty()) {
            errors.extend(again);
        }
        // Rules are written for objects that fit the schema.
        if errors.is_empty() {
            errors = rules::check(&object.0, before.map(|before| &before.0), &self.schema);
        }
        // Upstream's word for where the object itself is at fault.
        errors.iter_mut().filter(|error| error.path.is_empty()).for_each(|error| "<nil>".clone_into(&mut error.path));
        errors
    }
}

/// The rows of a definition: one for each served version, under the names that were accepted. `revision` is that of the definition.
pub fn rows(definition: &Object, revision: u64) -> Vec<Kind> {
    let names = definition.get(&["status", "acceptedNames"]).filter(|names| names.is_object()).or(definition.get(&["spec", "names"]));
    let Some(names) = names else { return Vec::new() };
    let served = definition.list(&["spec", "versions"]).iter().filter(|version| version["served"] == true);
    let schemas = schemas(definition);
    served.filter_map(|version| row(definition, names, version, &schemas, revision)).collect()
}

/// A row of the definition, whether it is served or not: to find its objects by.
pub fn any_row(definition: &Object) -> Option<Kind> {
    row(definition, definition.get(&["spec", "names"])?, definition.list(&["spec", "versions"]).first()?, &schemas(definition), 0)
}

/// The schema of each version.
fn schemas(definition: &Object) -> Arc<[(Text, Arc<Structural>)]> {
    let versions = definition.list(&["spec", "versions"]).iter();
    versions
        .filter_map(|version| Some((version["name"].as_str()?.to_owned().into(), Arc::new(Structural::parse_root(&published(version))))))
        .collect()
}

/// The schema of a version as it was written.
fn published(version: &Value) -> Value {
    version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| serde_json::json!({"type": "object"}))
}

fn row(definition: &Object, names: &Value, version: &Value, schemas: &Arc<[(Text, Arc<Structural>)]>, revision: u64) -> Option<Kind> {
    let versions = definition.list(&["spec", "versions"]);
    let storage = versions.iter().find(|version| version["storage"] == true)?["name"].as_str()?;
    let group: Text = definition.str(&["spec", "group"]).to_owned().into();
    let text = |key: &str| -> Text { names[key].as_str().unwrap_or("").to_owned().into() };
    let list = |key: &str| -> Vec<Text> {
        names[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(|name| name.to_owned().into()).collect()
    };
    let (kind, resource) = (text("kind"), text("plural"));
    let version_name: Text = version["name"].as_str()?.to_owned().into();
    let subresources = &version["subresources"];
    let has_status = !subresources["status"].is_null();
    let scale = scale(&subresources["scale"]);
    let deprecation = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
        Some(warning) => warning.to_owned(),
        None => format!("{group}/{version_name} {kind} is deprecated"),
    });
    let conversion = match definition.str(&["spec", "conversion", "strategy"]) {
        "Webhook" if versions.len() > 1 => definition.get(&["spec", "conversion", "webhook", "clientConfig"]).cloned(),
        _ => None,
    };
    let custom = Custom {
        conversion,
        definition: definition.name().to_owned(),
        schema: schemas.iter().find(|(name, _)| *name == version_name)?.1.clone(),
        schemas: schemas.clone(),
        published: published(version),
        storage_version: storage.to_owned().into(),
        scale: scale.clone(),
        replicas: versions.iter().filter_map(replicas).collect(),
        deprecation,
        since: revision,
        terminating: !definition.deletion_timestamp().is_empty(),
    };
    let sub = |name: &'static str, group: &Text, version: &Text, kind: &Text| Subresource {
        name: name.into(),
        group: group.clone(),
        version: version.clone(),
        kind: kind.clone(),
        verbs: VerbSet::GET_PATCH_UPDATE,
    };
    let status_part = has_status.then(|| sub("status", &group, &version_name, &kind));
    let scale_part = scale.map(|_| sub("scale", &"autoscaling".into(), &"v1".into(), &"Scale".into()));
    Some(Kind {
        list_kind: text("listKind"),
        singular: text("singular"),
        short_names: list("shortNames"),
        categories: list("categories"),
        scope: if definition.str(&["spec", "scope"]) == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        message: None,
        collection: format!("{group}/{resource}").into(),
        storage: None,
        verbs: VerbSet::ALL,
        subresources: status_part.into_iter().chain(scale_part).collect(),
        name_form: crate::names::dns1123_subdomain,
        strategy: Strategy { status_leaves: &crate::kinds::prepare::OBJECT_METADATA, ..Strategy::default() },
        columns: columns(&version["additionalPrinterColumns"]),
        selectable: selectable(&version["selectableFields"]),
        has_status,
        status_on_create: false,
        generation: true,
        heartbeat: false,
        virtual_: false,
        create_on_update: false,
        unconditional_update: false,
        graceful: false,
        orphans: false,
        orphan_warning: None,
        deprecation: None,
        inert: false,
        custom: Some(Arc::new(custom)),
        version: version_name,
        group,
        kind,
        resource,
    })
}

fn scale(scale: &Value) -> Option<Scale> {
    let names = |key: &str| -> Option<Vec<String>> {
        let path = Path::parse(scale[key].as_str().filter(|text| !text.is_empty())?).ok()?;
        Some(path.names()?.into_iter().map(str::to_owned).collect())
    };
    Some(Scale { spec: names("specReplicasPath")?, status: names("statusReplicasPath")?, selector: names("labelSelectorPath") })
}

/// A version's name, and where its objects keep their replicas.
fn replicas(version: &Value) -> Option<(Text, Option<Vec<String>>)> {
    let path = scale(&version["subresources"]["scale"]).map(|scale| scale.spec);
    Some((version["name"].as_str()?.to_owned().into(), path))
}

/// The name, and the columns of the definition; the age where there are none.
fn columns(list: &Value) -> Vec<Column> {
    let mut columns = vec![crate::kinds::columns::name()];
    let given = list.as_array().map_or(&[][..], Vec::as_slice);
    if given.is_empty() {
        columns.push(column(&serde_json::json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})));
    }
    columns.extend(given.iter().map(column));
    columns
}

fn column(column: &Value) -> Column {
    let text = |key: &str| column[key].as_str().unwrap_or("").to_owned();
    let description = text("description");
    let path = text("jsonPath");
    Column {
        name: text("name").into(),
        ty: text("type").into(),
        format: text("format").into(),
        priority: column["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
        description: if description.is_empty() {
            format!("Custom resource definition column (in JSONPath format): {path}")
        } else {
            description
        }
        .into(),
        cell: Path::parse(&path).map_or(Cell::Computed(|_, _| Value::Null), Cell::At),
    }
}

fn selectable(list: &Value) -> Vec<SelectableField> {
    let field = |field: &Value| {
        let text = field["jsonPath"].as_str()?;
        let path = Path::parse(text).ok()?;
        Some(SelectableField { path: text.trim_start_matches('.').to_owned().into(), get: Field::At(path) })
    };
    list.as_array().into_iter().flatten().filter_map(field).collect()
}

/// One cell of a table, by upstream's rules for custom columns (apiextensions-apiserver, tableconvertor).
pub(crate) fn cell(path: &Path, ty: &str, object: &Object, now: jiff::Timestamp) -> Value {
    let found = path.find(&object.0);
    let Some(first) = found.first().filter(|value| !value.is_null()) else { return Value::Null };
    match (ty, *first) {
        #[expect(clippy::cast_possible_truncation, reason = "Go cuts the fraction, too")]
        ("integer", Value::Number(number)) => number.as_i64().or(number.as_f64().map(|float| float as i64)).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("date", Value::String(text)) => match crate::time::parse(text) {
            Some(_) => crate::time::age(text, now).into(),
            None => "<invalid>".into(),
        },
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}

/// A selectable field as selectors compare it.
pub(crate) fn field_text(path: &Path, object: &Object) -> String {
    let Some(names) = path.names() else { return String::new() };
    match object.get(&names) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The metadata of objects within objects is of the same form as everywhere.
pub(crate) fn embedded_metadata(
    object: &mut Map<String, Value>,
    schema: &Structural,
    coerce: &mut dyn FnMut(&mut Value) -> Result<(), String>,
) -> Result<(), String> {
    for (key, value) in object.iter_mut() {
        if let Some(inner) = schema.member(key) {
            embedded(value, inner, coerce)?;
        }
    }
    Ok(())
}

fn embedded(value: &mut Value, schema: &Structural, coerce: &mut dyn FnMut(&mut Value) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            if let (true, Some(metadata)) = (schema.embedded, map.get_mut("metadata")) {
                coerce(metadata)?;
            }
            embedded_metadata(map, schema, coerce)
        }
        Value::Array(list) => match &schema.items {
            Some(items) => list.iter_mut().try_for_each(|item| embedded(item, items, coerce)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
