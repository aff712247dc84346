//! CustomResourceDefinitions themselves: defaults, what a client may not set, and validation (apiextensions-apiserver, pkg/apis/apiextensions).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::jsonpath::Path;
use super::schema::{Structural, Type};
use super::{CLEANUP, status, structural};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

/// Selectable fields of one version (KEP-4358).
const SELECTABLE_MAX: usize = 8;

/// Groups whose kinds are reviewed by the community carry the review in an annotation.
const APPROVED: &str = "api-approved.kubernetes.io";

pub(crate) fn default(definition: &mut Object) {
    let kind = definition.str(&["spec", "names", "kind"]).to_owned();
    let unset = |definition: &Object, path: &[&str]| definition.str(path).is_empty();
    if !kind.is_empty() {
        if unset(definition, &["spec", "names", "singular"]) {
            definition.set(&["spec", "names", "singular"], kind.to_lowercase().into());
        }
        if unset(definition, &["spec", "names", "listKind"]) {
            definition.set(&["spec", "names", "listKind"], format!("{kind}List").into());
        }
    }
    if definition.get(&["spec"]).is_some() && unset(definition, &["spec", "conversion", "strategy"]) {
        definition.set(&["spec", "conversion", "strategy"], "None".into());
    }
    if let Some(Value::Object(service)) = definition.get_mut(&["spec", "conversion", "webhook", "clientConfig", "service"]) {
        service.entry("port").or_insert(443.into());
    }
}

pub(crate) fn prepare_create(definition: &mut Object) {
    let stored: Vec<Value> = storage_version(definition).into_iter().map(Value::from).collect();
    let names = json!({"plural": "", "kind": ""});
    definition.set(&["status"], json!({"storedVersions": stored, "conditions": [], "acceptedNames": names}));
}

/// A new storage version joins those that objects may be stored in.
pub(crate) fn prepare_update(new: &mut Object, _: &Object) {
    let Some(version) = storage_version(new) else { return };
    let mut stored = new.list(&["status", "storedVersions"]).to_vec();
    if !stored.contains(&version.as_str().into()) {
        stored.push(version.into());
        new.set(&["status", "storedVersions"], stored.into());
    }
}

/// Its objects go before it goes.
pub(crate) fn prepare_delete(definition: &mut Object) {
    let mut finalizers: Vec<Value> = definition.finalizers().map(Value::from).collect();
    if !finalizers.contains(&CLEANUP.into()) {
        finalizers.push(CLEANUP.into());
        definition.set(&["metadata", "finalizers"], finalizers.into());
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    status::set_condition(definition, "Terminating", true, "InstanceDeletionPending", message, Timestamp::now());
}

fn storage_version(definition: &Object) -> Option<String> {
    let versions = definition.list(&["spec", "versions"]);
    Some(versions.iter().find(|version| version["storage"] == true)?["name"].as_str()?.to_owned())
}

pub(crate) fn validate(definition: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (group, plural) = (definition.str(&["spec", "group"]), definition.str(&["spec", "names", "plural"]));
    if definition.name() != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &definition.name().into(), why));
    }
    self::group(definition, group, &mut errors);
    match definition.str(&["spec", "scope"]) {
        "" => errors.push(FieldError::required("spec.scope", "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(FieldError::not_supported("spec.scope", &other.into(), &["Cluster", "Namespaced"])),
    }
    versions(definition, &mut errors);
    for key in ["plural", "singular", "kind", "listKind"] {
        if definition.str(&["spec", "names", key]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    if let Some(names) = definition.get(&["spec", "names"]) {
        check_names(names, "spec.names", &mut errors);
    }
    if definition.get(&["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true)) {
        let why = "must be false in order to use defaults in the schema, and apiextensions.k8s.io/v1 has no other way";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), why));
    }
    conversion(definition, &mut errors);
    errors
}

fn group(definition: &Object, group: &str, errors: &mut FieldErrors) {
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
        return;
    }
    let wrong = names::dns1123_subdomain(group);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid("spec.group", &group.into(), &wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")));
    if protected && definition.annotation(APPROVED).is_none_or(str::is_empty) {
        let why = format!(
            "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.push(FieldError::required(format!("metadata.annotations[{APPROVED}]"), &why));
    }
}

fn versions(definition: &Object, errors: &mut FieldErrors) {
    let versions = definition.list(&["spec", "versions"]);
    let whole = Value::Array(versions.to_vec());
    let mut seen = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = version["name"].as_str().unwrap_or("");
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), &wrong.join(",")));
        }
        seen.push(name);
        self::version(version, &path, errors);
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != count {
        errors.push(FieldError::invalid("spec.versions", &whole, "must contain unique version names"));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", &whole, "must have exactly one version marked as storage version"));
    }
}

fn version(version: &Value, path: &str, errors: &mut FieldErrors) {
    let deprecated = version["deprecated"] == true;
    if let Some(warning) = version["deprecationWarning"].as_str() {
        let at = format!("{path}.deprecationWarning");
        if !deprecated {
            errors.push(FieldError::invalid(&at, &warning.into(), "can only be set for deprecated versions"));
        }
        if warning.is_empty() || warning.len() > 256 || warning.chars().any(char::is_control) {
            errors.push(FieldError::invalid(&at, &warning.into(), "must be a printable text of 1 to 256 bytes"));
        }
    }
    let schema = &version["schema"]["openAPIV3Schema"];
    let at = format!("{path}.schema.openAPIV3Schema");
    if !schema.is_object() {
        errors.push(FieldError::required(at, "schemas are required"));
        return;
    }
    errors.extend(structural::check(schema, &at));
    columns(&version["additionalPrinterColumns"], path, errors);
    scale(&version["subresources"]["scale"], path, errors);
    selectable(&version["selectableFields"], &Structural::parse(schema), path, errors);
}

fn columns(columns: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, column) in columns.as_array().into_iter().flatten().enumerate() {
        let at = format!("{path}.additionalPrinterColumns[{index}]");
        let text = |key: &str| column[key].as_str().unwrap_or("");
        if text("name").is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        match text("type") {
            "" => {
                let why = "must be one of boolean,date,integer,number,string";
                errors.push(FieldError::required(format!("{at}.type"), why));
            }
            "boolean" | "date" | "integer" | "number" | "string" => {}
            other => {
                let why = "must be one of boolean,date,integer,number,string";
                errors.push(FieldError::invalid(format!("{at}.type"), &other.into(), why));
            }
        }
        const FORMATS: [&str; 9] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "name", "password"];
        if !text("format").is_empty() && !FORMATS.contains(&text("format")) {
            let why = format!("must be one of {}", FORMATS.join(","));
            errors.push(FieldError::invalid(format!("{at}.format"), &text("format").into(), &why));
        }
        match text("jsonPath") {
            "" => errors.push(FieldError::required(format!("{at}.jsonPath"), "")),
            path => {
                if let Err(error) = Path::parse(path).and_then(|_| must_begin_with_a_dot(path)) {
                    errors.push(FieldError::invalid(format!("{at}.jsonPath"), &path.into(), &error));
                }
            }
        }
    }
}

fn must_begin_with_a_dot(path: &str) -> Result<(), String> {
    if path.starts_with('.') { Ok(()) } else { Err("must be a simple json path starting with .".to_owned()) }
}

fn scale(scale: &Value, path: &str, errors: &mut FieldErrors) {
    if scale.is_null() {
        return;
    }
    let mut one = |key: &str, roots: &[&str], required: bool| {
        let at = format!("{path}.subresources.scale.{key}");
        let text = scale[key].as_str().unwrap_or("");
        if text.is_empty() {
            if required {
                errors.push(FieldError::required(at, ""));
            }
            return;
        }
        let parsed = Path::parse(text).ok();
        if parsed.as_ref().and_then(Path::names).is_none() || !text.starts_with('.') {
            errors.push(FieldError::invalid(at, &text.into(), "should be a json path under .spec, starting with ."));
        } else if !roots.iter().any(|root| text.starts_with(root)) {
            let why = format!("should be a json path under {}", roots.join(" or ").replace(". or", " or").trim_end_matches('.'));
            errors.push(FieldError::invalid(at, &text.into(), &why));
        }
    };
    one("specReplicasPath", &[".spec."], true);
    one("statusReplicasPath", &[".status."], true);
    one("labelSelectorPath", &[".spec.", ".status."], false);
}

fn selectable(fields: &Value, schema: &Structural, path: &str, errors: &mut FieldErrors) {
    let fields = fields.as_array().map_or(&[][..], Vec::as_slice);
    if fields.len() > SELECTABLE_MAX {
        errors.push(FieldError::too_many(format!("{path}.selectableFields"), fields.len(), SELECTABLE_MAX));
    }
    let mut seen = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = format!("{path}.selectableFields[{index}].jsonPath");
        let text = field["jsonPath"].as_str().unwrap_or("");
        if text.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if seen.contains(&text) {
            errors.push(FieldError::duplicate(at, &text.into()));
            continue;
        }
        seen.push(text);
        let parsed = Path::parse(text).ok().filter(|_| text.starts_with('.'));
        let names = parsed.as_ref().and_then(Path::names);
        let Some(names) = names else {
            errors.push(FieldError::invalid(at, &text.into(), "is an invalid path: only simple field paths are allowed"));
            continue;
        };
        if names[0] == "metadata" {
            errors.push(FieldError::invalid(at, &text.into(), "must not point to fields in metadata"));
            continue;
        }
        let in_properties = names.iter().try_fold(schema, |schema, name| schema.properties.get(*name));
        match in_properties.map(|found| found.ty) {
            Some(Type::String | Type::Boolean | Type::Integer) => {}
            Some(_) => errors.push(FieldError::invalid(at, &text.into(), "must point to a field of type string, boolean or integer")),
            None => errors.push(FieldError::invalid(at, &text.into(), "is an invalid path: the schema does not have this field")),
        }
    }
}

fn check_names(names: &Value, path: &str, errors: &mut FieldErrors) {
    let text = |key: &str| names[key].as_str().unwrap_or("");
    for key in ["plural", "singular"] {
        let wrong = names::dns1035_label(text(key));
        if !text(key).is_empty() && !wrong.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.{key}"), &text(key).into(), &wrong.join(",")));
        }
    }
    for key in ["kind", "listKind"] {
        let wrong = names::dns1035_label(&text(key).to_lowercase());
        if !text(key).is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(format!("{path}.{key}"), &text(key).into(), &why));
        }
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in names[key].as_array().into_iter().flatten().enumerate() {
            let wrong = names::dns1035_label(name.as_str().unwrap_or(""));
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(format!("{path}.{key}[{index}]"), name, &wrong.join(",")));
            }
        }
    }
    if !text("kind").is_empty() && text("kind") == text("listKind") {
        errors.push(FieldError::invalid(format!("{path}.listKind"), &text("listKind").into(), "kind and listKind may not be the same"));
    }
}

fn conversion(definition: &Object, errors: &mut FieldErrors) {
    let Some(conversion) = definition.get(&["spec", "conversion"]) else { return };
    let path = "spec.conversion";
    let webhook = &conversion["webhook"];
    match conversion["strategy"].as_str().unwrap_or("") {
        "None" if !webhook.is_null() => {
            errors.push(FieldError::forbidden(format!("{path}.webhook"), "should not be set when strategy is not set to Webhook"));
        }
        "None" => {}
        "Webhook" => {
            let client = &webhook["clientConfig"];
            if client.is_null() {
                errors.push(FieldError::required(format!("{path}.webhook.clientConfig"), "required when strategy is set to Webhook"));
            } else {
                errors.extend(client_config(client, &format!("{path}.webhook.clientConfig")));
            }
            let versions = webhook["conversionReviewVersions"].as_array().map_or(&[][..], Vec::as_slice);
            if versions.is_empty() {
                errors.push(FieldError::required(format!("{path}.webhook.conversionReviewVersions"), ""));
            } else if !versions.iter().any(|version| version == "v1") {
                let why = "must include at least one of v1";
                errors.push(FieldError::invalid(format!("{path}.webhook.conversionReviewVersions"), &Value::Array(versions.to_vec()), why));
            }
        }
        other => errors.push(FieldError::not_supported(format!("{path}.strategy"), &other.into(), &["None", "Webhook"])),
    }
}

/// Where a webhook is called (apiserver, pkg/util/webhook/validation.go).
pub(crate) fn client_config(client: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    match (client["url"].as_str(), client["service"].as_object()) {
        (Some(_), Some(_)) | (None, None) => {
            errors.push(FieldError::required(format!("{path}.url"), "exactly one of url or service is required"))
        }
        (Some(url), None) => {
            let rest = url.strip_prefix("https://");
            let why = match rest {
                None => Some("'https' is the only allowed URL scheme".to_owned()),
                Some(rest) if rest.split('/').next().unwrap_or("").is_empty() => Some("host must be specified".to_owned()),
                Some(rest) if rest.split('/').next().unwrap_or("").contains('@') => {
                    Some("user information is not permitted in the URL".to_owned())
                }
                Some(rest) if rest.contains('#') => Some("fragments are not permitted in the URL".to_owned()),
                Some(rest) if rest.contains('?') => Some("query parameters are not permitted in the URL".to_owned()),
                Some(_) => None,
            };
            if let Some(why) = why {
                errors.push(FieldError::invalid(format!("{path}.url"), &url.into(), &why));
            }
        }
        (None, Some(service)) => {
            for key in ["namespace", "name"] {
                if service.get(key).and_then(Value::as_str).unwrap_or("").is_empty() {
                    errors.push(FieldError::required(format!("{path}.service.{key}"), &format!("service {key} is required")));
                }
            }
            let port = service.get("port").and_then(Value::as_i64).unwrap_or(443);
            if let Some(why) = names::port_number(port) {
                errors.push(FieldError::invalid(format!("{path}.service.port"), &port.into(), &format!("port is not valid: {why}")));
            }
            if let Some(path_text) = service.get("path").and_then(Value::as_str).filter(|text| !text.starts_with('/')) {
                errors.push(FieldError::invalid(format!("{path}.service.path"), &path_text.into(), "must start with a '/'"));
            }
        }
    }
    errors
}

pub(crate) fn validate_update(new: &Object, old: &Object) -> FieldErrors {
    let mut paths: Vec<&[&str]> = vec![&["spec", "group"], &["spec", "names", "plural"]];
    if status::is_true(old, "Established") {
        paths.extend([&["spec", "scope"][..], &["spec", "names", "kind"][..]]);
    }
    let mut errors = crate::validate::immutable(new, old, &paths);
    errors.extend(stored_versions(new));
    errors
}

pub(crate) fn validate_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(names) = new.get(&["status", "acceptedNames"]) {
        check_names(names, "status.acceptedNames", &mut errors);
    }
    errors.extend(stored_versions(new));
    errors
}

/// Objects may be stored in these versions, so that each must be known.
fn stored_versions(definition: &Object) -> FieldErrors {
    let versions = definition.list(&["spec", "versions"]);
    let stored = definition.list(&["status", "storedVersions"]).iter().enumerate();
    let unknown = stored.filter(|(_, name)| !versions.iter().any(|version| version["name"] == **name));
    unknown
        .map(|(index, name)| FieldError::invalid(format!("status.storedVersions[{index}]"), name, "must appear in spec.versions"))
        .collect()
}
