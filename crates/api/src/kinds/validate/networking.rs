//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn ingress(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn ingress_class(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn ingress_class_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn network_policy(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn ip_address(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn service_cidr(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn ip_name(_name: &str) -> Vec<String> {
    Vec::new()
}
