//! Server-side apply and field ownership.

mod fieldset;

pub use fieldset::{FieldSet, ParseFieldsError, Step};

use jiff::Timestamp;

use crate::kind::Kind;
use crate::object::Object;
use crate::status::Status;

/// How an object was written, as managedFields records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Merges an applied configuration into the live object (`None`: there is none yet) and moves the ownership of its fields.
///
/// The result carries the live object's identity; where the configuration changes nothing it equals `live`. `subresource` is empty for the
/// object itself. Conflicts are a 409 with one cause for each field.
#[allow(clippy::too_many_arguments, reason = "an apply has this many inputs, and they have nothing in common")]
pub fn apply(
    _live: Option<&Object>,
    _applied: &Object,
    _kind: &Kind,
    _manager: &str,
    _force: bool,
    _subresource: &str,
    _now: Timestamp,
) -> Result<Object, Status> {
    todo!()
}

/// Records in `new.metadata.managedFields` that `manager` wrote what differs from `old` (`None`: created). Untouched where nothing differs.
pub fn track_update(
    _old: Option<&Object>,
    _new: &mut Object,
    _kind: &Kind,
    _manager: &str,
    _operation: Operation,
    _subresource: &str,
    _now: Timestamp,
) {
    todo!()
}
