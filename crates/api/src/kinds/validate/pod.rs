//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn pod(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn pod_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}
