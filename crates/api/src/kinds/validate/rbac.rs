//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn role(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn cluster_role(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn role_binding(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn binding_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn cluster_role_binding(_object: &Object) -> FieldErrors {
    Vec::new()
}
