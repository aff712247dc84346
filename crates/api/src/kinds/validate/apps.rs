//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn deployment(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn deployment_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn replica_set(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn selector_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn stateful_set(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn stateful_set_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn daemon_set(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn controller_revision(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn controller_revision_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}
