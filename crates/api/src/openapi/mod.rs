//! OpenAPI documents of the served kinds, from their rows and the field table.
//!
//! Version 3 has one document for each group and version; kubectl reads them for `explain` and to learn which parameters the server knows.
//! Version 2 is one document for all; clients ask for it in protobuf (`gnostic`). Both are made from the same definitions and operations,
//! which differ only in dialect. Making a document takes milliseconds and yields megabytes: callers keep the encoded form.

mod custom;
mod definitions;
mod descriptions;
mod gnostic;
mod operations;
mod parameters;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::kind::Kind;
use crate::kinds::Kinds;
use definitions::Definitions;

/// The version of Kubernetes whose API this is: that of the field table.
const API_VERSION: &str = "v1.37.0";

/// How the two versions of OpenAPI say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, definition: &str) -> Value {
        match self {
            Dialect::V2 => json!({ "$ref": format!("#/definitions/{definition}") }),
            Dialect::V3 => json!({ "$ref": format!("#/components/schemas/{definition}") }),
        }
    }
}

/// `/openapi/v3`: where the document of each group and version is found. `hash` must change with the document, which may so be kept for ever.
pub fn v3_index(kinds: &Kinds, hash: impl Fn(&str, &str) -> String) -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions(kinds) {
        let path = root(&group, &version).trim_start_matches('/').to_owned();
        let url = format!("/openapi/v3/{path}?hash={}", hash(&group, &version));
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    json!({ "paths": paths })
}

/// `/openapi/v3/apis/<group>/<version>`; `None` where no kind of this group and version is served.
pub fn v3(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let rows: Vec<Arc<Kind>> = kinds.iter().filter(|kind| kind.group == group && kind.version == version).cloned().collect();
    if rows.is_empty() {
        return None;
    }
    let (paths, schemas) = document(kinds, &rows, Dialect::V3);
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "BearerToken": security("Bearer Token authentication") },
        },
    }))
}

/// `/openapi/v2` as JSON.
pub fn v2(kinds: &Kinds) -> Value {
    let rows: Vec<Arc<Kind>> = kinds.iter().cloned().collect();
    let (paths, definitions) = document(kinds, &rows, Dialect::V2);
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": security("Bearer Token authentication") },
        "security": [{ "BearerToken": [] }],
    })
}

/// The gnostic protobuf encoding of a version 2 document.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    gnostic::encode(document)
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": API_VERSION })
}

fn security(description: &str) -> Value {
    json!({ "type": "apiKey", "name": "authorization", "in": "header", "description": description })
}

fn group_versions(kinds: &Kinds) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = kinds.iter().map(|kind| (kind.group.to_string(), kind.version.to_string())).collect();
    all.sort();
    all.dedup();
    all
}

/// `/api/v1`, `/apis/apps/v1`
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn document(kinds: &Kinds, rows: &[Arc<Kind>], dialect: Dialect) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
    let mut definitions = Definitions::new(kinds, dialect);
    let mut paths = BTreeMap::new();
    for kind in rows {
        operations::add(kind, &mut definitions, &mut paths);
    }
    // Groups that definitions make are found by discovery alone, as upstream.
    let own: BTreeSet<(&str, &str)> = rows.iter().filter(|kind| kind.custom.is_none()).map(|kind| (&*kind.group, &*kind.version)).collect();
    for (group, version) in &own {
        operations::add_resources(group, version, &mut definitions, &mut paths);
    }
    if dialect == Dialect::V2 {
        let groups: BTreeSet<&str> = own.iter().map(|(group, _)| *group).filter(|group| !group.is_empty()).collect();
        operations::add_groups(groups.into_iter(), &mut definitions, &mut paths);
    }
    (paths, definitions.finish())
}
