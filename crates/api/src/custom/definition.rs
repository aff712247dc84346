//! CustomResourceDefinitions themselves: defaults, what a client may not set, and validation (apiextensions-apiserver, pkg/apis/apiextensions).

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::version::{self, Common};
use super::{CLEANUP, format, status, structural};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::webhook;

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
    if definition.get(&["spec"]).is_some() && definition.get(&["spec", "conversion"]).is_none() {
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

/// Formats of texts that nobody checks, each once; of an update those that were not in the definition before.
pub(crate) fn warnings(definition: &Object, before: Option<&Object>) -> Vec<String> {
    let known = before.map(unknown_formats).unwrap_or_default();
    let new = unknown_formats(definition).into_iter().filter(|format| !known.contains(format));
    new.map(|format| format!("unrecognized format {format:?}")).collect()
}

fn unknown_formats(definition: &Object) -> BTreeSet<&str> {
    let mut formats = BTreeSet::new();
    for version in definition.list(&["spec", "versions"]) {
        structural::visit(&version["schema"]["openAPIV3Schema"], &mut |schema| {
            let format = structural::text(schema, "format");
            if structural::text(schema, "type") == "string" && !format.is_empty() && !format::is_known(format) {
                formats.insert(format);
            }
        });
    }
    formats
}

pub(crate) fn validate(definition: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (group, plural) = (definition.str(&["spec", "group"]), definition.str(&["spec", "names", "plural"]));
    if definition.name() != format!("{plural}.{group}") {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &definition.name().into(), why));
    }
    self::group(group, &mut errors);
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
    let versions = definition.list(&["spec", "versions"]);
    version::common(versions, &Common::of(versions), &mut errors);
    conversion(definition, &mut errors);
    if let Some(accepted) = definition.get(&["status", "acceptedNames"]) {
        check_names(accepted, "status.acceptedNames", &mut errors);
    }
    errors.extend(stored_versions(definition));
    check_approval(definition, &mut errors);
    if definition.get(&["spec", "preserveUnknownFields"]) == Some(&Value::Bool(true)) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", &true.into(), why));
    }
    errors
}

/// What is asked of a definition that was not there before.
pub(crate) fn validate_creation(definition: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    version::costs(definition.list(&["spec", "versions"]), &[], &mut errors);
    errors
}

fn group(group: &str, errors: &mut FieldErrors) {
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
}

/// What a definition says of the review of its kinds: groups of the community's say where it is, or that there was none.
pub(super) struct Approval {
    /// As the condition of the definition names it.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// None for groups that nobody reviews (apihelpers, GetAPIApprovalState).
pub(super) fn approval(definition: &Object) -> Option<Approval> {
    let group = definition.str(&["spec", "group"]);
    if !["k8s.io", "kubernetes.io"].iter().any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}"))) {
        return None;
    }
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let must = format!("protected groups must have approval annotation {APPROVED:?}");
    let said = definition.annotation(APPROVED).unwrap_or("");
    let is_url = said.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
    let (reason, message) = match said {
        "" => ("MissingAnnotation", format!("{must}, {see}")),
        _ if said.starts_with("unapproved") => ("UnapprovedAnnotation", format!("not approved: {said:?}")),
        _ if is_url => ("ApprovedAnnotation", format!("approved in {said}")),
        _ => ("InvalidAnnotation", format!("{must} with either a URL or a reason starting with \"unapproved\", {see}")),
    };
    Some(Approval { reason, message })
}

fn check_approval(definition: &Object, errors: &mut FieldErrors) {
    let at = format!("metadata.annotations[{APPROVED}]");
    match approval(definition) {
        Some(Approval { reason: "MissingAnnotation", message }) => errors.push(FieldError::required(at, &message)),
        Some(Approval { reason: "InvalidAnnotation", message }) => {
            let said = definition.annotation(APPROVED).unwrap_or("");
            errors.push(FieldError::invalid(at, &said.into(), &message));
        }
        _ => {}
    }
}

/// Upstream checks what all versions have in common in one place above them, and tells faults there.
fn versions(definition: &Object, errors: &mut FieldErrors) {
    let versions = definition.list(&["spec", "versions"]);
    let whole = Value::Array(versions.to_vec());
    let common = Common::of(versions);
    let mut seen = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{index}].schema.openAPIV3Schema");
        if !version["schema"]["openAPIV3Schema"].is_object() {
            errors.push(FieldError::required(at, "schemas are required"));
        }
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = version["name"].as_str().unwrap_or("");
        let wrong = names::dns1035_label(name);
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), &wrong.join(",")));
        }
        seen.push(name);
        version::own(version, &common, &path, errors);
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

/// Upstream tells faults where an older version of the API had these fields.
fn conversion(definition: &Object, errors: &mut FieldErrors) {
    let Some(conversion) = definition.get(&["spec", "conversion"]) else { return };
    let (client_at, versions_at) = ("spec.conversion.webhookClientConfig", "spec.conversion.conversionReviewVersions");
    let client = &conversion["webhook"]["clientConfig"];
    let versions = conversion["webhook"]["conversionReviewVersions"].as_array().map_or(&[][..], Vec::as_slice);
    let strategies = ["None", "Webhook"];
    match conversion["strategy"].as_str().unwrap_or("") {
        "Webhook" => {
            if client.is_null() {
                errors.push(FieldError::required(client_at, "required when strategy is set to Webhook"));
            } else {
                webhook::client(client, client_at, errors);
            }
            review_versions(versions, versions_at, errors);
            return;
        }
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        other if !strategies.contains(&other) => {
            errors.push(FieldError::not_supported("spec.conversion.strategy", &other.into(), &strategies));
        }
        _ => {}
    }
    for (at, there) in [(client_at, !client.is_null()), (versions_at, !versions.is_empty())] {
        if there {
            errors.push(FieldError::forbidden(at, "should not be set when strategy is not set to Webhook"));
        }
    }
}

/// The server asks in v1 alone. Upstream also asks those who know nothing but v1beta1.
fn review_versions(versions: &[Value], at: &str, errors: &mut FieldErrors) {
    if versions.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = format!("{at}[{index}]");
        if !seen.insert(version.as_str()) {
            errors.push(FieldError::invalid(at, version, "duplicate version"));
            continue;
        }
        let wrong = names::dns1035_label(version.as_str().unwrap_or(""));
        errors.extend(wrong.iter().map(|reason| FieldError::invalid(&at, version, reason)));
    }
    if !versions.iter().any(|version| version == "v1") {
        errors.push(FieldError::invalid(at, &Value::Array(versions.to_vec()), "must include at least one of v1"));
    }
}

pub(crate) fn validate_update(new: &Object, old: &Object) -> FieldErrors {
    let mut paths: Vec<&[&str]> = Vec::new();
    if status::is_true(old, "Established") {
        paths.extend([&["spec", "scope"][..], &["spec", "names", "kind"][..]]);
    }
    paths.extend([&["spec", "group"][..], &["spec", "names", "plural"][..]]);
    let mut errors = Vec::new();
    version::costs(new.list(&["spec", "versions"]), old.list(&["spec", "versions"]), &mut errors);
    errors.extend(crate::validate::immutable(new, old, &paths));
    errors
}

pub(crate) fn validate_status(new: &Object, _: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(names) = new.get(&["status", "acceptedNames"]) {
        check_names(names, "status.acceptedNames", &mut errors);
    }
    errors
}

/// Objects may be stored in these versions, so that each must be known.
fn stored_versions(definition: &Object) -> FieldErrors {
    let at = "status.storedVersions";
    let (versions, stored) = (definition.list(&["spec", "versions"]), definition.list(&["status", "storedVersions"]));
    let whole = Value::Array(stored.to_vec());
    if stored.is_empty() {
        return vec![FieldError::invalid(at, &whole, "must have at least one stored version")];
    }
    let unsaid = versions.iter().filter(|version| version["storage"] == true && !stored.contains(&version["name"]));
    let unsaid = unsaid.map(|version| format!("must have the storage version {}", version["name"].as_str().unwrap_or("")));
    let mut errors: FieldErrors = unsaid.map(|why| FieldError::invalid(at, &whole, &why)).collect();
    for (index, name) in stored.iter().enumerate().filter(|(_, name)| !versions.iter().any(|version| version["name"] == **name)) {
        let v = name.as_str().unwrap_or("");
        let why = format!(
            "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
        );
        errors.push(FieldError::invalid(format!("{at}[{index}]"), name, &why));
    }
    errors
}
