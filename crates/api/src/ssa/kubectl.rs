//! The way from `kubectl apply` to `kubectl apply --server-side`: the older one keeps in an annotation what it applied last.

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::{KUBECTL, MANAGED, Write, tree};
use crate::object::Object;

/// Where `kubectl apply` keeps the configuration that it applied last.
pub(super) const LAST_APPLIED: [&str; 3] = ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];

/// The longest last-applied annotation that is written: all annotations together may have 256 KiB (apimachinery, TotalAnnotationSizeLimitB).
const LAST_APPLIED_BYTES_MAX: usize = 256 << 10;

impl Write<'_> {
    /// The fields that `kubectl apply` set and that still have its values: `kubectl apply --server-side` may take them.
    pub(super) fn client_side_applied(&self, live: &Object) -> FieldSet {
        let Some(Ok(last)) = live.get(&LAST_APPLIED).and_then(Value::as_str).map(serde_json::from_str::<Map<String, Value>>) else {
            return FieldSet::new();
        };
        let differs = tree::compare(Some(&last), &live.0, self.shape).without(&MANAGED);
        tree::field_set(&Value::Object(last), self.shape).difference(&differs.modified.union(&differs.removed))
    }

    /// Where `kubectl apply` keeps its last configuration, a server-side apply by kubectl keeps it true.
    pub(super) fn keep_last_applied(&self, live: Option<&Object>, mut object: Object, configuration: &Value) -> Object {
        let annotated = live.and_then(|live| live.get(&LAST_APPLIED)).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        if self.manager == KUBECTL && self.subresource.is_empty() && annotated {
            let text = format!("{configuration}\n");
            if text.len() <= LAST_APPLIED_BYTES_MAX {
                object.set(&LAST_APPLIED, text.into());
            } else {
                object.remove(&LAST_APPLIED);
            }
        }
        object
    }
}
