//! OpenAPI documents of the served kinds.

use serde_json::Value;

use crate::kinds::Kinds;

/// `/openapi/v3`: where the document of each group and version is found.
pub fn v3_index(_kinds: &Kinds) -> Value {
    todo!()
}

/// `/openapi/v3/apis/<group>/<version>`; `None` where no kind of this group and version is served.
pub fn v3(_kinds: &Kinds, _group: &str, _version: &str) -> Option<Value> {
    todo!()
}

/// `/openapi/v2` as JSON.
pub fn v2(_kinds: &Kinds) -> Value {
    todo!()
}

/// The gnostic protobuf encoding of a version 2 document.
pub fn v2_protobuf(_document: &Value) -> Vec<u8> {
    todo!()
}
