//! What every kind does alike before a write is admitted.

use crate::kind::Kind;
use crate::object::Object;

/// Keeps spec and status apart, and counts generations.
pub(crate) fn update(_kind: &Kind, _new: &mut Object, _old: &Object, _subresource: &str) {
    todo!()
}
