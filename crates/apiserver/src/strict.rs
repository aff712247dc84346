//! Configuration files are read strictly: what nobody knows, what is of another type, and what is said twice was meant to say something.

use knarr_api::FieldError;
use serde_json::Value;

pub(crate) type Errors = Vec<FieldError>;

/// The document in YAML or JSON; a field that is there twice is a fault.
pub(crate) fn document(text: &[u8]) -> Result<Value, String> {
    knarr_api::decode::strict_value_from_yaml(text)
}

/// What is no text where a text is meant would count as left out, an authority for example, and others be trusted instead.
pub(crate) fn typed(value: &Value, at: &str, texts: &[&str], errors: &mut Errors) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match value {
                    Value::String(_) | Value::Null => {}
                    other if texts.contains(&name.as_str()) => errors.push(FieldError::invalid(at, other, "must be a string")),
                    other => typed(other, &at, texts, errors),
                }
            }
        }
        Value::Array(all) => all.iter().enumerate().for_each(|(index, one)| typed(one, &format!("{at}[{index}]"), texts, errors)),
        _ => {}
    }
}

/// The list at a field; what is there and no list is a fault.
pub(crate) fn list<'v>(value: &'v Value, field: &str, at: &str, errors: &mut Errors) -> &'v [Value] {
    match &value[field] {
        Value::Array(all) => all,
        Value::Null => &[],
        other => {
            errors.push(FieldError::invalid(at, other, "must be a list"));
            &[]
        }
    }
}

/// A field that nobody knows was meant to say something.
pub(crate) fn only(value: &Value, at: &str, known: &[&str], errors: &mut Errors) {
    match value {
        Value::Object(map) => {
            for field in map.keys().filter(|field| !known.contains(&field.as_str())) {
                let at = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
                errors.push(FieldError::not_supported(at, &field.as_str().into(), known));
            }
        }
        Value::Null => {}
        other => errors.push(FieldError::invalid(at, other, "must be an object")),
    }
}
