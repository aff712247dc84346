//! Mutating and validating admission.

use knarr_api::{Kind, Object};

use crate::User;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, port-forward, proxy: `object` is the pod, node or service.
    Connect,
}

/// One write on its way to the store, after decoding, defaulting and [`Kind::prepare_create`] or [`Kind::prepare_update`], and before validation.
#[derive(Debug)]
pub struct Request<'a> {
    pub user: &'a User,
    pub kind: &'a Kind,
    /// `status`, `scale`, `binding`, `eviction`, `ephemeralcontainers`, `finalize`, `exec`, ...; empty for the object itself.
    pub subresource: &'a str,
    pub operation: Operation,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub name: &'a str,
    /// The new state, which may be changed; for a deletion what is deleted, and changes are lost.
    pub object: &'a mut Object,
    /// The state before an update or deletion.
    pub old: Option<&'a Object>,
    pub dry_run: bool,
    /// For Warning headers.
    pub warnings: &'a mut Vec<String>,
}
