//! `meta.k8s.io/v1` Tables: what `kubectl get` shows.

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// A Table without list metadata: the caller adds `metadata.resourceVersion` and so on.
pub fn render(_kind: &Kind, _objects: &mut dyn Iterator<Item = &Object>, _include: IncludeObject, _now: jiff::Timestamp) -> Value {
    todo!()
}
