//! Request bodies to objects.

use serde_json::Value;

use crate::kind::Kind;
use crate::object::Object;
use crate::status::Status;

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// For Warning headers.
    pub warnings: Vec<String>,
}

/// A JSON body. Unknown fields are dropped. `apiVersion` and `kind` must fit the kind, or be absent (then they are set).
pub fn json(_bytes: &[u8], _kind: &Kind, _validation: FieldValidation) -> Result<Decoded, Status> {
    todo!()
}

/// A YAML body, otherwise as [`json`].
pub fn yaml(_bytes: &[u8], _kind: &Kind, _validation: FieldValidation) -> Result<Decoded, Status> {
    todo!()
}

/// Checks an object that is already a value (the result of a patch): drops unknown fields and names them; errors on types that do not fit.
pub fn conform(_value: Value, _kind: &Kind, _validation: FieldValidation) -> Result<Decoded, Status> {
    todo!()
}

/// A single YAML document as JSON. The message says what is wrong and where.
pub fn value_from_yaml(_bytes: &[u8]) -> Result<Value, String> {
    todo!()
}
