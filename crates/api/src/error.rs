//! What is wrong with a field: kind, path and words as upstream's `field.Error` prints them.

use std::fmt;

use serde_json::Value;

/// All that is wrong with one object, in the order of its checks.
pub type FieldErrors = Vec<FieldError>;

/// Faults told of one object; the rest is passed over. A body of some megabytes can have millions, and nobody mends more at once.
pub(crate) const ERRORS_MAX: usize = 100;

/// The sort of fault; the name is the `reason` of a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    Required,
    Invalid,
    Duplicate,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// The machine-readable reason, as in `status.details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
            ErrorKind::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::Required => "Required value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::NotFound => "Not found",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One fault. `message` is complete but for the path: `Invalid value: 0: must be between 1 and 65535, inclusive`.
/// `Display` puts the path in front.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldError {
    pub kind: ErrorKind,
    pub path: String,
    pub message: String,
}

impl FieldError {
    fn build(kind: ErrorKind, path: impl Into<String>, value: Option<String>, detail: &str) -> FieldError {
        let mut message = kind.words().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&value);
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        FieldError { kind, path: path.into(), message }
    }

    pub fn required(path: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(ErrorKind::Required, path, None, detail)
    }

    pub fn forbidden(path: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(ErrorKind::Forbidden, path, None, detail)
    }

    pub fn invalid(path: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::build(ErrorKind::Invalid, path, Some(words(value)), detail)
    }

    /// Where the value would say nothing, or is not to be shown.
    pub fn invalid_without_value(path: impl Into<String>, detail: &str) -> FieldError {
        FieldError::build(ErrorKind::Invalid, path, None, detail)
    }

    pub fn type_invalid(path: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::build(ErrorKind::TypeInvalid, path, Some(words(value)), detail)
    }

    pub fn duplicate(path: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(ErrorKind::Duplicate, path, Some(words(value)), "")
    }

    pub fn duplicate_without_value(path: impl Into<String>) -> FieldError {
        FieldError::build(ErrorKind::Duplicate, path, None, "")
    }

    /// Adds what upstream says only here and there.
    pub fn with_detail(mut self, detail: &str) -> FieldError {
        self.message.push_str(": ");
        self.message.push_str(detail);
        self
    }

    pub fn not_found(path: impl Into<String>, value: &Value) -> FieldError {
        FieldError::build(ErrorKind::NotFound, path, Some(words(value)), "")
    }

    /// `valid` is listed sorted and quoted, as upstream lists what it keeps as a set.
    pub fn not_supported(path: impl Into<String>, value: &Value, valid: &[&str]) -> FieldError {
        let mut valid: Vec<&str> = valid.to_vec();
        valid.sort_unstable();
        FieldError::not_supported_as_listed(path, value, &valid)
    }

    /// The same where upstream keeps a list.
    pub fn not_supported_as_listed(path: impl Into<String>, value: &Value, valid: &[&str]) -> FieldError {
        let list: Vec<String> = valid.iter().map(|v| format!("{v:?}")).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        FieldError::build(ErrorKind::NotSupported, path, Some(words(value)), &detail)
    }

    /// The value itself is never printed: it is too long.
    pub fn too_long(path: impl Into<String>, bytes_max: usize) -> FieldError {
        FieldError::build(ErrorKind::TooLong, path, None, &format!("may not be more than {bytes_max} bytes"))
    }

    pub fn too_many(path: impl Into<String>, actual: usize, items_max: usize) -> FieldError {
        let detail = format!("must have at most {items_max} items");
        FieldError::build(ErrorKind::TooMany, path, Some(actual.to_string()), &detail)
    }
}

/// A value as upstream prints it in an error: strings quoted, the rest as JSON.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
