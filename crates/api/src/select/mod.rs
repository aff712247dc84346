//! Label and field selectors.

use serde_json::Value;

use crate::kind::Kind;
use crate::status::Status;

/// A label selector: all requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector;

impl LabelSelector {
    /// The query form: `a=b,c!=d,e in (f,g),h,!i`. The error says what is wrong.
    pub fn parse(_text: &str) -> Result<LabelSelector, String> {
        todo!()
    }
    /// `metav1.LabelSelector`. Null and absent match nothing; `{}` matches everything.
    pub fn from_value(_value: &Value) -> Result<LabelSelector, String> {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    pub fn matches<'a>(&self, _labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        todo!()
    }
}

/// A field selector: `spec.nodeName=a,status.phase!=Failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector;

impl FieldSelector {
    pub fn parse(_text: &str, _kind: &Kind) -> Result<FieldSelector, Status> {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// The value that a field must equal, if the selector says so: to narrow a read to one name or namespace.
    pub fn exact(&self, _path: &str) -> Option<&str> {
        todo!()
    }
    /// `fields`: the value of a selectable field of the object.
    pub fn matches<'a>(&self, _fields: impl Fn(&str) -> Option<&'a str>) -> bool {
        todo!()
    }
}
