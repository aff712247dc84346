//! `meta.k8s.io/v1` Tables: what `kubectl get` shows.

use serde_json::{Value, json};

use crate::kind::{Column, Kind};
use crate::object::Object;
use crate::partial;

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// The `includeObject` query parameter; `None` where the value is unknown.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A Table without list metadata: the caller adds `metadata.resourceVersion` and so on.
pub fn render(kind: &Kind, objects: &mut dyn Iterator<Item = &Object>, include: IncludeObject, now: jiff::Timestamp) -> Value {
    with_columns(&kind.columns, objects, include, now)
}

/// A Table of what has no row of its own among the kinds.
pub fn with_columns(columns: &[Column], objects: &mut dyn Iterator<Item = &Object>, include: IncludeObject, now: jiff::Timestamp) -> Value {
    let rows: Vec<Value> = objects.map(|object| row(columns, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions(columns),
        "rows": rows,
    })
}

fn definitions(columns: &[Column]) -> Vec<Value> {
    if columns.is_empty() {
        return vec![
            json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}),
            json!({"name": "Created At", "type": "date", "format": "", "description": "", "priority": 0}),
        ];
    }
    let definition = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.ty,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    };
    columns.iter().map(definition).collect()
}

fn row(columns: &[Column], object: &Object, include: IncludeObject, now: jiff::Timestamp) -> Value {
    let cells: Vec<Value> = match columns {
        [] => vec![object.name().into(), object.creation_timestamp().into()],
        columns => columns.iter().map(|column| column.value(object, now)).collect(),
    };
    let mut row = json!({ "cells": cells });
    match include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => row["object"] = partial::metadata_only(object),
        IncludeObject::Object => row["object"] = Value::Object(object.0.clone()),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kinds;

    /// Name of the kind in the facts, columns with their priority.
    #[test]
    fn columns_are_upstreams() {
        let kinds = Kinds::builtin();
        let columns = |group: &str, resource: &str| {
            let kind = kinds.resource(group, "v1", resource).unwrap();
            let list: Vec<String> = kind.columns.iter().map(|c| format!("{}/{}", c.name, c.priority)).collect();
            list.join(" ")
        };
        assert_eq!(columns("", "pods"), "Name/0 Ready/0 Status/0 Restarts/0 Age/0 IP/1 Node/1 Nominated Node/1 Readiness Gates/1");
        assert_eq!(columns("apps", "deployments"), "Name/0 Ready/0 Up-to-date/0 Available/0 Age/0 Containers/1 Images/1 Selector/1");
        assert_eq!(columns("", "services"), "Name/0 Type/0 Cluster-IP/0 External-IP/0 Port(s)/0 Age/0 Selector/1");
        assert_eq!(
            columns("", "events"),
            "Last Seen/0 Type/0 Reason/0 Object/0 Subobject/1 Source/1 Message/0 First Seen/1 Count/1 Name/1"
        );
    }

    #[test]
    fn every_kind_renders_even_an_empty_object() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let object = Object::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        for kind in Kinds::builtin().iter() {
            let table = render(kind, &mut [&object].into_iter(), IncludeObject::Metadata, now);
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns, "{kind:?}");
            assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
        }
    }
}
