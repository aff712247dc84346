//! Validation that all kinds share: metadata (apimachinery, api/validation/objectmeta.go).

pub(crate) mod webhook;

use serde_json::{Map, Value};

use crate::error::{FieldError, FieldErrors};
use crate::kind::Kind;
use crate::names;
use crate::object::Object;

/// All annotations of an object together, keys and values, in bytes (upstream's TotalAnnotationSizeLimitB).
pub const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

/// Faults of the metadata of a new object.
pub fn metadata(kind: &Kind, object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if kind.virtual_ {
        return errors;
    }
    name(kind, object, &mut errors);
    namespace(kind, object, &mut errors);
    shared(object, &mut errors);
    finalizer_names(kind, object, &mut errors);
    errors
}

/// What is the same of objects of all kinds, and of objects within objects.
fn shared(object: &Object, errors: &mut FieldErrors) {
    if object.generation() < 0 {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("metadata.generation", &object.generation().into(), detail));
    }
    if let Some(meta) = object.metadata() {
        errors.extend(template_metadata(meta, "metadata"));
        owners(object, errors);
        managers(object, errors);
    }
    for finalizer in object.finalizers() {
        for reason in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", &finalizer.into(), &reason));
        }
    }
    let has = |name: &str| object.finalizers().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", &object.list(&["metadata", "finalizers"]).into(), detail));
    }
}

/// Faults of the metadata of an object within an object at `path`: it need not have a name (apiextensions-apiserver, schema/objectmeta/validation.go).
pub(crate) fn embedded_metadata(meta: &Map<String, Value>, path: &str) -> FieldErrors {
    let text = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or("");
    let mut errors = Vec::new();
    let prefix = text("generateName");
    let masked = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |rest| format!("{rest}a"));
    for (key, value, form) in [
        ("generateName", masked.as_str(), names::path_segment as fn(&str) -> Vec<String>),
        ("name", text("name"), names::path_segment),
        ("namespace", text("namespace"), names::dns1123_label),
    ] {
        let wrong = form(value).into_iter().filter(|_| !value.is_empty());
        errors.extend(wrong.map(|reason| FieldError::invalid(format!("metadata.{key}"), &text(key).into(), &reason)));
    }
    let whole: Map<String, Value> = [("metadata".to_owned(), Value::Object(meta.clone()))].into_iter().collect();
    if let Some(object) = Object::from_value(Value::Object(whole)) {
        shared(&object, &mut errors);
    }
    errors.iter_mut().for_each(|error| error.path = format!("{path}{}", error.path.trim_start_matches("metadata")));
    errors
}

/// Groups whose metadata is checked by the rules of all objects alone (they use apimachinery's ValidateObjectMeta). Definitions have a finalizer of their
/// own that names nobody.
const GENERIC_GROUPS: [&str; 4] = ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "coordination.k8s.io"];

/// Those of the other built-in kinds say whose they are, but for three that are older than that.
fn finalizer_names(kind: &Kind, object: &Object, errors: &mut FieldErrors) {
    if kind.custom.is_some() || GENERIC_GROUPS.contains(&&*kind.group) {
        return;
    }
    let nameless = |finalizer: &&str| !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(finalizer);
    for (index, finalizer) in object.finalizers().enumerate().filter(|(_, finalizer)| nameless(finalizer)) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(format!("metadata.finalizers[{index}]"), &finalizer.into(), detail));
    }
}

/// Bytes of a field manager's name, and of a subresource's (apimachinery, FieldManagerMaxLength and MaxSubresourceNameLength).
const MANAGER_BYTES_MAX: usize = 128;
const SUBRESOURCE_BYTES_MAX: usize = 256;

/// What a client sends as the record of who owns which fields. One that cannot be read is passed over when the record is kept ([`crate::ssa`]), and no fault.
fn managers(object: &Object, errors: &mut FieldErrors) {
    for (index, entry) in object.list(&["metadata", "managedFields"]).iter().enumerate() {
        for (key, most) in [("manager", MANAGER_BYTES_MAX), ("subresource", SUBRESOURCE_BYTES_MAX)] {
            if entry[key].as_str().is_some_and(|text| text.len() > most) {
                errors.push(FieldError::too_long(format!("metadata.managedFields[{index}].{key}"), most));
            }
        }
    }
}

/// Faults of labels and annotations, as of objects and of templates.
pub fn template_metadata(meta: &Map<String, Value>, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(labels) = meta.get("labels") {
        errors.extend(labels_at(labels, &format!("{path}.labels")));
    }
    if let Some(annotations) = meta.get("annotations").and_then(Value::as_object) {
        annotations_at(annotations, &format!("{path}.annotations"), &mut errors);
    }
    errors
}

/// Faults of a map of labels.
pub fn labels_at(labels: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        for reason in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, &key.as_str().into(), &reason));
        }
        for reason in names::label_value(value.as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(path, value, &reason));
        }
    }
    errors
}

fn annotations_at(annotations: &Map<String, Value>, path: &str, errors: &mut FieldErrors) {
    let mut bytes = 0;
    for (key, value) in annotations {
        bytes += key.len() + value.as_str().unwrap_or("").len();
        for reason in names::qualified_name(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid(path, &key.as_str().into(), &reason));
        }
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATION_BYTES_MAX));
    }
}

fn name(kind: &Kind, object: &Object, errors: &mut FieldErrors) {
    let prefix = object.generate_name();
    if !prefix.is_empty() {
        // The prefix will be followed by something, so it may end as a name may not.
        let masked = match prefix.strip_suffix('-') {
            Some(rest) => format!("{rest}a"),
            None => prefix.to_owned(),
        };
        for reason in (kind.name_form)(&masked) {
            errors.push(FieldError::invalid("metadata.generateName", &prefix.into(), &reason));
        }
    }
    if object.name().is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
        return;
    }
    for reason in (kind.name_form)(object.name()) {
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &reason));
    }
}

fn namespace(kind: &Kind, object: &Object, errors: &mut FieldErrors) {
    match (kind.namespaced(), object.namespace()) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, namespace) => {
            for reason in names::dns1123_label(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", &namespace.into(), &reason));
            }
        }
        (false, "") => {}
        (false, _) => errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type")),
    }
}

fn owners(object: &Object, errors: &mut FieldErrors) {
    let at = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in object.owner_references() {
        let part = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or("");
        // `v1`, or `group/v1`.
        let version = part("apiVersion");
        if version.is_empty() || version.ends_with('/') || version.matches('/').count() > 1 {
            errors.push(FieldError::invalid(format!("{at}.apiVersion"), &version.into(), "version must not be empty"));
        }
        for key in ["kind", "name", "uid"].into_iter().filter(|key| part(key).is_empty()) {
            errors.push(FieldError::invalid(format!("{at}.{key}"), &"".into(), "must not be empty"));
        }
        if (version, part("kind")) == ("v1", "Event") {
            let value = Value::Object(owner.clone());
            errors.push(FieldError::invalid(at, &value, "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        let named = format!("{}/{}", part("kind"), part("name"));
        match &controller {
            None => controller = Some(named),
            Some(first) => {
                let detail =
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {named}");
                let value = Value::Array(object.list(&["metadata", "ownerReferences"]).to_vec());
                errors.push(FieldError::invalid(at, &value, &detail));
            }
        }
    }
}

/// Metadata that never changes.
const IMMUTABLE: [&str; 6] = ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// Faults of a change of metadata.
pub fn metadata_update(kind: &Kind, new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if !old.deletion_timestamp().is_empty() {
        let known: Vec<&str> = old.finalizers().collect();
        let added: Vec<&str> = new.finalizers().filter(|finalizer| !known.contains(finalizer)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    if new.generation() < old.generation() {
        errors.push(FieldError::invalid("metadata.generation", &new.generation().into(), "must not be decremented"));
    }
    for key in IMMUTABLE {
        let value = |object: &Object| object.metadata().and_then(|meta| meta.get(key)).cloned().unwrap_or(Value::Null);
        if value(new) != value(old) {
            errors.push(FieldError::invalid(format!("metadata.{key}"), &value(new), "field is immutable"));
        }
    }
    // The name was checked when the object was made; the rest may have changed.
    let rest = metadata(kind, new);
    errors.extend(rest.into_iter().filter(|error| !["metadata.name", "metadata.generateName"].contains(&error.path.as_str())));
    errors
}

/// `field is immutable` for each path whose value has changed.
pub fn immutable(new: &Object, old: &Object, paths: &[&[&str]]) -> FieldErrors {
    let changed = paths.iter().filter(|path| new.get(path) != old.get(path));
    changed.map(|path| FieldError::invalid(path.join("."), new.get(path).unwrap_or(&Value::Null), "field is immutable")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kinds;
    use serde_json::json;

    #[track_caller]
    fn check(resource: &str, metadata: Value, expected: &[&str]) {
        let kind = Kinds::builtin().resource("", "v1", resource).unwrap();
        let object = Object::from_value(json!({"metadata": metadata})).unwrap();
        let errors: Vec<String> = super::metadata(&kind, &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        for (error, expected) in errors.iter().zip(expected) {
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn metadata_has_its_rules() {
        check("pods", json!({"name": "a", "namespace": "b"}), &[]);
        check("pods", json!({"namespace": "b"}), &["metadata.name: Required value: name or generateName is required"]);
        check("pods", json!({"name": "A", "namespace": "b"}), &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123"]);
        check("pods", json!({"name": "a", "generateName": "a-", "namespace": "b"}), &[]);
        check("pods", json!({"name": "a"}), &["metadata.namespace: Required value"]);
        check("nodes", json!({"name": "a", "namespace": "b"}), &["metadata.namespace: Forbidden: not allowed on this type"]);
        check(
            "pods",
            json!({"name": "a", "namespace": "b", "labels": {"-": "x", "y": "-"}, "annotations": {"A/b": ""}, "finalizers": ["a b"]}),
            &[
                "metadata.labels: Invalid value: \"-\"",
                "metadata.labels: Invalid value: \"-\"",
                "metadata.finalizers: Invalid value",
                "metadata.finalizers[0]: Invalid value",
            ],
        );
        check(
            "pods",
            json!({"name": "a", "namespace": "b", "annotations": {"x": "y".repeat(ANNOTATION_BYTES_MAX)}}),
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "X", "name": name, "uid": "1", "controller": true});
        check(
            "pods",
            json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x"), owner("y")]}),
            &["metadata.ownerReferences: Invalid value: [{"],
        );
        let with = |more: Value| {
            let mut metadata = json!({"name": "a", "namespace": "b"});
            more.as_object().unwrap().iter().for_each(|(key, value)| metadata[key] = value.clone());
            metadata
        };
        for (more, expected) in [
            (json!({"finalizers": ["x/y", "orphan"]}), vec![]),
            (
                json!({"finalizers": ["mine"]}),
                vec![
                    "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"finalizers": ["orphan", "foregroundDeletion"]}),
                vec![
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
                ],
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                vec!["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "a/b/c", "kind": "Pod", "name": "p", "uid": "1"}]}),
                vec!["metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty"],
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "1"}]}),
                vec![
                    "metadata.ownerReferences: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"e\",\"uid\":\"1\"}: /v1, Kind=Event is disallowed from being an owner",
                ],
            ),
            (
                json!({"managedFields": [{"manager": "m".repeat(129), "operation": "Replace", "fieldsType": "V2"}]}),
                vec!["metadata.managedFields[0].manager: Too long: may not be more than 128 bytes"],
            ),
        ] {
            check("pods", with(more), &expected);
        }
    }
}
