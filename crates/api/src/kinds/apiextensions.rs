//! apiextensions.k8s.io: the kind that makes kinds.

use super::row::row;
use crate::custom::definition;
use crate::kind::Kind;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions")
            .cluster()
            .short(&["crd", "crds"])
            .category("api-extensions")
            .status()
            .counts_generations()
            .conditional_update()
            .default_by(definition::default)
            .prepare_by(definition::prepare_create, definition::prepare_update)
            .prepare_delete_by(definition::prepare_delete)
            .validate_by(definition::validate)
            .validate_creation_by(definition::validate_creation)
            .validate_change_by(definition::validate_update)
            .validate_status_by(definition::validate_status)
            .warn_by(definition::warnings),
    ]
}
