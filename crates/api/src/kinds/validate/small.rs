//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn lease(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn endpoint_slice(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn endpoint_slice_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn disruption_budget(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn access_review(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn self_access_review(_object: &Object) -> FieldErrors {
    Vec::new()
}
