//! The rows of the built-in kinds, one file per API group, and the registry that finds them.

mod apiextensions;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
pub(crate) mod columns;
mod core;
mod defaults;
mod events;
mod flowcontrol;
mod metrics;
mod migration;
mod networking;
mod node;
mod parts;
mod pod;
mod podspec;
pub(crate) mod prepare;
mod rbac;
mod registration;
mod resource;
mod row;
mod service;
mod small;
mod storage;
mod validate;
mod volume;

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::kind::Kind;
pub(crate) use pod::qos_class;

/// All kinds that a server knows, found by resource or by kind.
#[derive(Clone, Default)]
pub struct Kinds {
    /// Sorted by group, version, plural, so that a look-up needs no owned key.
    rows: Vec<Arc<Kind>>,
}

impl Kinds {
    pub fn builtin() -> Kinds {
        let mut kinds = Kinds::default();
        let groups = [
            apiextensions::kinds,
            core::kinds,
            apps::kinds,
            autoscaling::kinds,
            batch::kinds,
            certificates::kinds,
            events::kinds,
            flowcontrol::kinds,
            metrics::kinds,
            migration::kinds,
            networking::kinds,
            rbac::kinds,
            registration::kinds,
            resource::kinds,
            small::kinds,
            storage::kinds,
        ];
        for group in groups {
            for kind in group() {
                kinds.insert(kind);
            }
        }
        kinds
    }

    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.find(group, version, plural).ok().map(|index| self.rows[index].clone())
    }

    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.iter().find(|row| row.group == group && row.version == version && row.kind == kind).cloned()
    }

    /// By group, version, plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.rows.iter()
    }

    /// Returns the row that it replaces.
    pub fn insert(&mut self, kind: Kind) -> Option<Arc<Kind>> {
        self.add(Arc::new(kind))
    }

    /// The same for a row that others hold, too.
    pub fn add(&mut self, kind: Arc<Kind>) -> Option<Arc<Kind>> {
        match self.find(&kind.group, &kind.version, &kind.resource) {
            Ok(index) => Some(std::mem::replace(&mut self.rows[index], kind)),
            Err(index) => {
                self.rows.insert(index, kind);
                None
            }
        }
    }

    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.find(group, version, plural).ok().map(|index| self.rows.remove(index))
    }

    fn find(&self, group: &str, version: &str, plural: &str) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| (&*row.group, &*row.version, &*row.resource).cmp(&(group, version, plural)))
    }
}
