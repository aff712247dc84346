//! Request bodies to objects: JSON, YAML or protobuf, pruned and checked by the kind's schema.

mod conform;
pub(crate) mod depth;
mod protobuf;
mod scalar;
mod strict_json;
mod yaml;

use serde_json::Value;

use crate::error::FieldError;
use crate::kind::Kind;
use crate::object::Object;
use crate::schema::{MessageId, Schema};
use crate::status::{self, Status};

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The `fieldValidation` query parameter; `None` where the value is unknown.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub object: Object,
    /// For Warning headers.
    pub warnings: Vec<String>,
}

/// Faults listed before the rest is passed over: a client reads a few, and a body may have a million.
const FAULTS_MAX: usize = 100;

/// A JSON body. Unknown fields are dropped. `apiVersion` and `kind` must fit the kind, or be absent (then they are set).
pub fn json(bytes: &[u8], kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    let parsed = strict_json::parse(bytes).map_err(|message| unreadable(kind, &message, bytes))?;
    finish(parsed.value, parsed.duplicates, kind, validation)
}

/// A YAML body, otherwise as [`json`]. Most clients send JSON under that name, which is read several times faster as what it is; where it is
/// not quite that, YAML's reader says so.
pub fn yaml(bytes: &[u8], kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    let json = bytes.starts_with(b"{").then(|| strict_json::parse(bytes).ok()).flatten().filter(|parsed| parsed.duplicates.is_empty());
    let parsed = match json {
        Some(parsed) => parsed,
        None => yaml::parse(bytes).map_err(|message| unreadable(kind, &message, bytes))?,
    };
    finish(parsed.value, parsed.duplicates, kind, validation)
}

/// A protobuf body, otherwise as [`json`].
pub fn protobuf(bytes: &[u8], kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    let value = protobuf::parse(bytes).map_err(|message| unreadable(kind, &message, &[]))?;
    finish(value, Vec::new(), kind, validation)
}

/// Checks an object that is already a value (the result of a patch): drops unknown fields and names them; errors on types that do not fit.
pub fn conform(value: Value, kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    finish(value, Vec::new(), kind, validation)
}

/// The body of a patch, and the fields that are there twice in it, worded.
pub struct PatchBody {
    pub value: Value,
    pub faults: Vec<String>,
}

/// A merge patch or a strategic merge patch.
pub fn patch_body(bytes: &[u8]) -> Result<PatchBody, Status> {
    let parsed = strict_json::parse(bytes).map_err(|error| status::bad_request(format!("error decoding patch: {error}")))?;
    Ok(PatchBody { value: parsed.value, faults: parsed.duplicates })
}

/// A JSON patch, and what its operations name that an operation does not have, or name twice.
pub fn json_patch_body(bytes: &[u8]) -> Result<PatchBody, Status> {
    const KNOWN: [&str; 4] = ["op", "path", "from", "value"];
    let body = patch_body(bytes)?;
    let operations = body.value.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate();
    let unknown = operations.flat_map(|(index, operation)| {
        let keys = operation.as_object().into_iter().flat_map(|operation| operation.keys());
        keys.filter(|key| !KNOWN.contains(&key.as_str())).map(move |key| format!("unknown field \"[{index}].{key}\""))
    });
    let mut faults: Vec<String> = body.faults.into_iter().chain(unknown).map(|fault| format!("json patch {fault}")).collect();
    faults.truncate(FAULTS_MAX);
    Ok(PatchBody { value: body.value, faults })
}

/// What a patch made of an object, with the faults of the patch itself, otherwise as [`conform`]. What does not fit the kind, and what is strictly
/// wrong, makes the patch invalid, and the request no bad one (apiserver, handlers/patch.go).
pub fn patched(value: Value, faults: &[String], kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    let lenient = if validation == FieldValidation::Ignore { FieldValidation::Ignore } else { FieldValidation::Warn };
    // Upstream shows the object here: a Secret would be in the audit log, which has failures in full.
    let invalid = |why: &str| status::invalid("", "", "", &[FieldError::invalid_without_value("patch", why)]);
    let decoded = finish(value, faults.to_vec(), kind, lenient).map_err(|status| invalid(&status.message))?;
    if validation != FieldValidation::Strict || decoded.warnings.is_empty() {
        return Ok(decoded);
    }
    Err(invalid(&format!("strict decoding error: {}", decoded.warnings.join(", "))))
}

/// Whether an object is as deep as may be at most; the error says it for people.
pub fn check_depth(object: &Value) -> Result<(), String> {
    if depth::fits(object) { Ok(()) } else { Err(format!("the object nests deeper than {} levels", depth::LEVELS_MAX)) }
}

/// A single YAML document as JSON. The message says what is wrong and where.
pub fn value_from_yaml(bytes: &[u8]) -> Result<Value, String> {
    yaml::parse(bytes).map(|parsed| parsed.value)
}

/// The same, of a document in which no field is there twice.
pub fn strict_value_from_yaml(bytes: &[u8]) -> Result<Value, String> {
    let parsed = yaml::parse(bytes)?;
    match parsed.duplicates.is_empty() {
        true => Ok(parsed.value),
        false => Err(parsed.duplicates.join(", ")),
    }
}

/// The object in a protobuf body as JSON.
pub fn value_from_protobuf(bytes: &[u8]) -> Result<Value, String> {
    protobuf::parse(bytes)
}

/// A JSON document, with the limits of bodies.
pub fn value_from_json(bytes: &[u8]) -> Result<Value, String> {
    strict_json::parse(bytes).map(|parsed| parsed.value)
}

/// A body of another message than a kind (DeleteOptions, a Scale, ...), by its full message name.
pub fn message(value: Value, name: &str) -> Result<Value, Status> {
    let Some(id) = Schema::get().id(name) else { return Err(status::internal(format!("no message {name}"))) };
    let mut value = value;
    let mut faults = conform::Faults::default();
    conform::message(&mut value, id, &mut faults).map_err(status::bad_request)?;
    Ok(value)
}

/// A document read, and the duplicate fields in it, worded.
struct Parsed {
    value: Value,
    duplicates: Vec<String>,
}

fn finish(value: Value, duplicates: Vec<String>, kind: &Kind, validation: FieldValidation) -> Result<Decoded, Status> {
    let Some(mut object) = Object::from_value(value) else {
        return Err(status::bad_request(format!("{} must be a JSON object", kind.kind)));
    };
    check_type(&mut object, kind)?;
    let mut faults = conform::Faults::default();
    let mut value = object.into_value();
    check_depth(&value).map_err(|message| cannot_handle(kind, &message))?;
    let message = match kind.message {
        Some(id) => conform::message(&mut value, id, &mut faults),
        None => custom(&mut value, kind, &mut faults),
    };
    message.map_err(|message| cannot_handle(kind, &message))?;
    let mut warnings = duplicates;
    warnings.extend(faults.unknown.into_iter().map(|path| format!("unknown field \"{path}\"")));
    warnings.truncate(FAULTS_MAX);
    let object = Object::from_value(value).expect("conforming keeps an object an object");
    match validation {
        FieldValidation::Strict if !warnings.is_empty() => {
            Err(cannot_handle(kind, &format!("strict decoding error: {}", warnings.join(", "))))
        }
        FieldValidation::Ignore => Ok(Decoded { object, warnings: Vec::new() }),
        _ => Ok(Decoded { object, warnings }),
    }
}

/// A kind made at run time: the metadata has its known form, the rest that of the kind's schema.
fn custom(value: &mut Value, kind: &Kind, faults: &mut conform::Faults) -> Result<(), String> {
    let Some(id) = object_meta() else { return Ok(()) };
    if let Some(metadata) = value.get_mut("metadata") {
        conform::at(metadata, id, "metadata", faults)?;
    }
    let (Some(custom), Value::Object(map)) = (&kind.custom, value) else { return Ok(()) };
    custom.prune_map(map, &mut |path| {
        if faults.unknown.len() < FAULTS_MAX {
            faults.unknown.push(path.to_owned());
        }
    });
    crate::custom::embedded_metadata(map, &custom.schema, &mut |metadata| conform::at(metadata, id, "metadata", faults))
}

fn object_meta() -> Option<MessageId> {
    Schema::get().id("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

fn check_type(object: &mut Object, kind: &Kind) -> Result<(), Status> {
    let (expected, sent) = (kind.api_version(), object.api_version());
    if !sent.is_empty() && sent != expected {
        return Err(status::bad_request(format!(
            "the API version in the data ({sent}) does not match the expected API version ({expected})"
        )));
    }
    let sent = object.kind();
    if !sent.is_empty() && sent != kind.kind {
        return Err(status::bad_request(format!(
            "{sent} in version {:?} cannot be handled as a {}: the kinds do not match",
            kind.version, kind.kind
        )));
    }
    object.set_type(&expected, &kind.kind);
    Ok(())
}

fn cannot_handle(kind: &Kind, why: &str) -> Status {
    status::bad_request(format!("{} in version {:?} cannot be handled as a {}: {why}", kind.kind, kind.version, kind.kind))
}

/// Bytes of an unreadable body that are shown. Upstream shows 30.
const SUMMARY_MAX: usize = 30;

fn unreadable(kind: &Kind, why: &str, bytes: &[u8]) -> Status {
    // What is secret must not come back in an error.
    let shown = if ["Secret", "TokenReview", "TokenRequest"].contains(&&*kind.kind) { &[] } else { &bytes[..bytes.len().min(SUMMARY_MAX)] };
    let summary = match (shown, bytes.len() > SUMMARY_MAX) {
        ([], _) => String::new(),
        (shown, true) => format!(" ({} ...)", String::from_utf8_lossy(shown)),
        (shown, false) => format!(" ({})", String::from_utf8_lossy(shown)),
    };
    status::bad_request(format!("the object provided is unrecognized (must be of type {}): {why}{summary}", kind.kind))
}

#[cfg(test)]
mod tests;
