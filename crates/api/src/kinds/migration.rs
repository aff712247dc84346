//! storagemigration.k8s.io/v1: that all objects of a resource be stored anew, in the version that is stored now.

use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::migration as rules;
use crate::kind::Kind;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
            .cluster()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .conditional_update()
            .validate_by(rules::migration)
            .validate_change_by(rules::change)
            .validate_status_by(rules::status),
    ]
}
