//! What a version of a definition may say: its schema, subresources, columns and selectable fields.
//!
//! Where all versions say the same, upstream reads it as said of the whole definition, and names the place so: `spec.validation`, not
//! `spec.versions[0].schema` (apiextensions-apiserver, pkg/apis/apiextensions/v1/conversion.go).

use serde_json::Value;

use super::jsonpath::Path;
use super::schema::{Structural, Type};
use super::structural;
use crate::error::{FieldError, FieldErrors};

/// Selectable fields of one version (KEP-4358).
const SELECTABLE_MAX: usize = 8;
/// Bytes of a deprecation warning.
const WARNING_BYTES_MAX: usize = 256;

/// What all versions say alike.
pub(super) struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    pub(super) fn of(versions: &[Value]) -> Common {
        let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let same = |key: &str| {
            let alike = |one: &Value, two: &Value| one == two || empty(one) && empty(two);
            versions.windows(2).all(|pair| alike(&pair[0][key], &pair[1][key]))
        };
        let schema = same("schema");
        Common {
            schema,
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: schema && same("selectableFields"),
        }
    }
}

/// What is wrong with what a version says on its own.
pub(super) fn own(version: &Value, common: &Common, path: &str, errors: &mut FieldErrors) {
    deprecation(version, &format!("{path}.deprecationWarning"), errors);
    if !common.schema {
        schema(version, has_status(version), &format!("{path}.schema"), errors);
    }
    if !common.subresources {
        scale(version, &format!("{path}.subresources"), errors);
    }
    if !common.columns {
        columns(version, &format!("{path}.additionalPrinterColumns"), errors);
    }
    if !common.selectable {
        selectable(version, &format!("{path}.selectableFields"), errors);
    }
}

/// What is wrong with what all say.
pub(super) fn common(versions: &[Value], common: &Common, errors: &mut FieldErrors) {
    let Some(first) = versions.first() else { return };
    if common.schema {
        schema(first, versions.iter().any(has_status), "spec.validation", errors);
    }
    if common.subresources {
        scale(first, "spec.subresources", errors);
    }
    if common.columns {
        columns(first, "spec.additionalPrinterColumns", errors);
    }
    if common.selectable {
        selectable(first, "spec.selectableFields", errors);
    }
}

/// What the rules of versions may cost. `before`: the versions that the definition had. A schema that a version keeps was accepted by what estimates
/// were then, and is in force: to refuse it now would only hold up what is changed besides (validation.go, findVersionsWithUnchangedSchemas).
pub(super) fn costs(versions: &[Value], before: &[Value], errors: &mut FieldErrors) {
    let keeps = |version: &Value| before.iter().any(|old| old["name"] == version["name"] && old["schema"] == version["schema"]);
    if Common::of(versions).schema {
        let first = versions.first().filter(|_| !versions.iter().any(keeps));
        first.into_iter().for_each(|version| schema_costs(version, "spec.validation", errors));
        return;
    }
    for (index, version) in versions.iter().enumerate().filter(|(_, version)| !keeps(version)) {
        schema_costs(version, &format!("spec.versions[{index}].schema"), errors);
    }
}

fn schema_costs(version: &Value, path: &str, errors: &mut FieldErrors) {
    structural::check_costs(&version["schema"]["openAPIV3Schema"], &format!("{path}.openAPIV3Schema"), errors);
}

fn has_status(version: &Value) -> bool {
    !version["subresources"]["status"].is_null()
}

fn deprecation(version: &Value, at: &str, errors: &mut FieldErrors) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut wrong = |why: &str| errors.push(FieldError::invalid(at, &warning.into(), why));
    if version["deprecated"] != true {
        return wrong("can only be set for deprecated versions");
    }
    if warning.len() > WARNING_BYTES_MAX {
        wrong(&format!("must be <= {WARNING_BYTES_MAX} characters long"));
    }
    if warning.is_empty() {
        wrong("must not be an empty string");
    }
    if let Some((index, _)) = warning.char_indices().find(|(_, letter)| letter.is_control()) {
        wrong(&format!("must only contain printable UTF-8 characters; non-printable character found at index {index}"));
    }
}

/// Fields of a root schema from which a schema for the status alone can be taken, and upstream's names for them.
const ROOT_FIELDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

fn schema(version: &Value, has_status: bool, path: &str, errors: &mut FieldErrors) {
    let (schema, at) = (&version["schema"]["openAPIV3Schema"], format!("{path}.openAPIV3Schema"));
    let Some(fields) = schema.as_object() else { return };
    if has_status && fields.iter().any(|(key, value)| !structural::unset(value) && !ROOT_FIELDS.iter().any(|(known, _)| key == known)) {
        let known: Vec<&str> = ROOT_FIELDS.iter().map(|(_, name)| *name).collect();
        let why = format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", known.join(" "));
        errors.push(FieldError::invalid(&at, schema, &why));
    }
    if schema["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{at}.nullable"), "nullable cannot be true at the root"));
    }
    errors.extend(structural::check(schema, &at));
}

fn columns(version: &Value, path: &str, errors: &mut FieldErrors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for (index, column) in version["additionalPrinterColumns"].as_array().into_iter().flatten().enumerate() {
        let at = |key: &str| format!("{path}[{index}].{key}");
        let text = |key: &str| column[key].as_str().unwrap_or("");
        if text("name").is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        let why = format!("must be one of {}", TYPES.join(","));
        match text("type") {
            "" => errors.push(FieldError::required(at("type"), &why)),
            ty if !TYPES.contains(&ty) => errors.push(FieldError::invalid(at("type"), &ty.into(), &why)),
            _ => {}
        }
        if !text("format").is_empty() && !FORMATS.contains(&text("format")) {
            let why = format!("must be one of {}", FORMATS.join(","));
            errors.push(FieldError::invalid(at("format"), &text("format").into(), &why));
        }
        let path = text("jsonPath");
        if path.is_empty() {
            errors.push(FieldError::required(at("JSONPath"), ""));
        } else if let Err(error) = simple(path).and_then(|()| Path::parse(path).map(drop)) {
            errors.push(FieldError::invalid(at("JSONPath"), &path.into(), &error));
        }
    }
}

fn simple(path: &str) -> Result<(), String> {
    if path.starts_with('.') { Ok(()) } else { Err("must be a simple json path starting with .".to_owned()) }
}

fn scale(version: &Value, path: &str, errors: &mut FieldErrors) {
    let scale = &version["subresources"]["scale"];
    if scale.is_null() {
        return;
    }
    for (key, roots, why) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let at = format!("{path}.scale.{key}");
        let text = scale[key].as_str().unwrap_or("");
        // Upstream takes steps that are no names, too, and never finds anything there.
        let names =
            || Path::parse(text).ok().and_then(|path| path.names().map(drop)).ok_or("must be a json path in the dot notation".to_owned());
        let under = || if roots.iter().any(|root| text.starts_with(root)) { Ok(()) } else { Err(why.to_owned()) };
        match simple(text).and_then(|()| under()).and_then(|()| names()) {
            Err(_) if text.is_empty() && key == "labelSelectorPath" => {}
            Err(_) if text.is_empty() => errors.push(FieldError::required(at, "")),
            Err(why) => errors.push(FieldError::invalid(at, &text.into(), &why)),
            Ok(()) => {}
        }
    }
}

fn selectable(version: &Value, path: &str, errors: &mut FieldErrors) {
    let fields = version["selectableFields"].as_array().map_or(&[][..], Vec::as_slice);
    let schema = &version["schema"]["openAPIV3Schema"];
    // That there is no schema is told elsewhere.
    if fields.is_empty() || schema.is_null() {
        return;
    }
    let schema = Structural::parse(schema);
    let mut seen: Vec<Vec<String>> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = format!("{path}[{index}].jsonPath");
        let text = field["jsonPath"].as_str().unwrap_or("");
        if text.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let mut wrong = |why: &str| errors.push(FieldError::invalid(&at, &text.into(), why));
        let parsed = Path::parse(text).ok().filter(|_| text.starts_with('.'));
        let names = parsed.as_ref().and_then(Path::names);
        let Some((names, found)) = names.and_then(|names| Some((names.clone(), find(&schema, &names)?))) else {
            wrong("is an invalid path: does not refer to a valid field");
            continue;
        };
        if names[0] == "metadata" {
            wrong("must not point to fields in metadata");
        }
        if !matches!(found, Type::String | Type::Boolean | Type::Integer) {
            wrong("must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        if seen.contains(&names) {
            errors.push(FieldError::duplicate(at, &text.into()));
        } else {
            seen.push(names);
        }
    }
    if seen.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_MAX));
    }
}

/// The type of the field at a path of properties. Of metadata the schema need say nothing: it is known.
fn find(schema: &Structural, names: &[&str]) -> Option<Type> {
    match names {
        ["metadata", ..] => Some(Type::String),
        _ => names.iter().try_fold(schema, |schema, name| schema.properties.get(*name)).map(|found| found.ty),
    }
}
