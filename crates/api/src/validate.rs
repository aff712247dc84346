//! Validation that all kinds share.

use crate::error::FieldErrors;
use crate::kind::Kind;
use crate::object::Object;

/// Faults of the metadata of a new object.
pub fn metadata(_kind: &Kind, _object: &Object) -> FieldErrors {
    todo!()
}

/// Faults of a change of metadata.
pub fn metadata_update(_kind: &Kind, _new: &Object, _old: &Object) -> FieldErrors {
    todo!()
}
