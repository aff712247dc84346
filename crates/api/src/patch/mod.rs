//! JSON patch, merge patch and strategic merge patch.

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;
use crate::status::Status;

/// RFC 6902: a list of operations, as the body of the request.
pub fn json(_object: &Object, _patch: &[u8]) -> Result<Object, Status> {
    todo!()
}

/// RFC 7396.
pub fn merge(_object: &Object, _patch: &Value) -> Result<Object, Status> {
    todo!()
}

/// Merges lists by their keys, as the schema of the kind tells.
pub fn strategic(_object: &Object, _patch: &Value, _kind: &Kind) -> Result<Object, Status> {
    todo!()
}
