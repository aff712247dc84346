//! Rules.

use crate::error::FieldErrors;
use crate::object::Object;

pub(in crate::kinds) fn persistent_volume(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn persistent_volume_claim(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn persistent_volume_claim_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn node(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn node_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn event(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn new_event(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn namespace(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn config_map(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn config_map_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn secret(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn secret_change(_new: &Object, _old: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn pod_template(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn replication_controller(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn limit_range(_object: &Object) -> FieldErrors {
    Vec::new()
}

pub(in crate::kinds) fn resource_quota(_object: &Object) -> FieldErrors {
    Vec::new()
}
