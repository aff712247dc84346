//! Validation per kind, worded as upstream (pkg/apis/*/validation).

pub(super) mod apps;
pub(super) mod core;
pub(super) mod networking;
pub(super) mod pod;
pub(super) mod rbac;
pub(super) mod service;
pub(super) mod small;

use crate::object::Object;

pub(super) fn template_warnings(_object: &Object) -> Vec<String> {
    Vec::new()
}

pub(super) fn pod_warnings(_object: &Object) -> Vec<String> {
    Vec::new()
}
