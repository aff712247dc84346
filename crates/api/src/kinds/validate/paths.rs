//! Paths that stay beneath where they begin.

use crate::error::{FieldError, FieldErrors};

pub(super) fn no_way_up(value: &str, path: &str, errors: &mut FieldErrors) {
    if climbs(value) {
        errors.push(FieldError::invalid(path, &value.into(), "must not contain '..'"));
    }
}

pub(super) fn climbs(value: &str) -> bool {
    value.split('/').any(|part| part == "..")
}

/// Relative, and without a way up.
pub(super) fn local_path(value: &str, path: &str, errors: &mut FieldErrors) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, &value.into(), "must be a relative path"));
    }
    no_way_up(value, path, errors);
}

/// The same for a file that is projected into a volume, where names with two dots are the kubelet's own.
pub(super) fn projected_path(value: &str, path: &str, errors: &mut FieldErrors) {
    local_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") {
        errors.push(FieldError::invalid(path, &value.into(), "must not start with '..'"));
    }
}
