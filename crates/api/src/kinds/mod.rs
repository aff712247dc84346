//! The rows of the built-in kinds, one file per API group, and the registry that finds them.

mod apps;
mod columns;
mod core;
mod defaults;
mod events;
mod networking;
mod node;
mod pod;
mod podspec;
pub(crate) mod prepare;
mod rbac;
mod row;
mod service;
mod small;
mod validate;
mod volume;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kind::Kind;

/// All kinds that a server knows, found by resource or by kind.
#[derive(Clone, Default)]
pub struct Kinds {
    rows: BTreeMap<Key, Arc<Kind>>,
}

/// group, version, plural
type Key = (String, String, String);

impl Kinds {
    pub fn builtin() -> Kinds {
        let mut kinds = Kinds::default();
        for group in [core::kinds, apps::kinds, rbac::kinds, networking::kinds, events::kinds, small::kinds] {
            for kind in group() {
                kinds.insert(kind);
            }
        }
        kinds
    }

    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.rows.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<Arc<Kind>> {
        self.iter().find(|row| row.group == group && row.version == version && row.kind == kind).cloned()
    }

    /// By group, version, plural.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.rows.values()
    }

    /// Returns the row that it replaces.
    pub fn insert(&mut self, kind: Kind) -> Option<Arc<Kind>> {
        let key = (kind.group.to_string(), kind.version.to_string(), kind.resource.to_string());
        self.rows.insert(key, Arc::new(kind))
    }

    pub fn remove(&mut self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.rows.remove(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }
}
