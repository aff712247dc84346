//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn service(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn service_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn endpoints(_object: &Object) -> FieldErrors {
    Vec::new()
}
