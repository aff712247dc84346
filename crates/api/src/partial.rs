//! PartialObjectMetadata: an object without all but its metadata.

use serde_json::{Value, json};

use crate::Object;

/// The `meta.k8s.io/v1` PartialObjectMetadata of an object.
pub fn metadata_only(object: &Object) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": object.metadata().cloned().unwrap_or_default(),
    })
}
