//! What reads bytes of strangers, each as a function of bytes. None may panic, and what is accepted must hold together: what was decoded can be
//! encoded and decoded again.

use std::sync::{Arc, LazyLock};

use knarr_api::{
    Kind, Kinds, Object, Quantity, cel,
    decode::{self, FieldValidation},
    encode, patch,
    select::{FieldSelector, LabelSelector},
    ssa, yaml,
};
use serde_json::Value;

pub(crate) type Entry = fn(&[u8]);

/// Every entry, by the name of its target.
pub(crate) const ALL: [(&str, Entry); 13] = [
    ("json", json),
    ("yaml", yaml_body),
    ("protobuf", protobuf),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_patch", strategic_patch),
    ("apply", apply),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("quantity", quantity),
    ("cel", cel_source),
    ("definition", definition),
    ("validate", validate),
];

static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::builtin);

/// The kind with the most fields, and so the most ways through the decoders.
fn pods() -> Arc<Kind> {
    KINDS.resource("", "v1", "pods").expect("pods are built in")
}

fn pod() -> Object {
    let text = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "E", "value": "1"}]}], "tolerations": [{"key": "k"}]}}"#;
    serde_json::from_str(text).ok().and_then(Object::from_value).expect("a pod")
}

/// What was accepted is written in every form and read again.
fn round(object: &Object) {
    let value = Value::Object(object.0.clone());
    let text = value.to_string();
    let again = decode::json(text.as_bytes(), &pods(), FieldValidation::Ignore).expect("what was decoded is decoded again");
    assert_eq!(Value::Object(again.object.0), value);
    if let Ok(bytes) = encode::value(&value) {
        decode::value_from_protobuf(&bytes).expect("what was encoded is decoded");
    }
    let as_yaml = yaml::to_yaml(&value);
    assert_eq!(decode::value_from_yaml(as_yaml.as_bytes()).as_ref(), Ok(&value), "{as_yaml}");
}

pub(crate) fn json(bytes: &[u8]) {
    for validation in [FieldValidation::Strict, FieldValidation::Ignore] {
        if let Ok(decoded) = decode::json(bytes, &pods(), validation) {
            round(&decoded.object);
        }
    }
}

pub(crate) fn yaml_body(bytes: &[u8]) {
    if let Ok(decoded) = decode::yaml(bytes, &pods(), FieldValidation::Warn) {
        round(&decoded.object);
    }
}

pub(crate) fn protobuf(bytes: &[u8]) {
    let _ = decode::value_from_protobuf(bytes);
    // The envelope is found by its first bytes; without them few inputs get any further.
    let inside = encode::enveloped("v1", "Pod", bytes);
    if let Ok(decoded) = decode::protobuf(&inside, &pods(), FieldValidation::Warn) {
        round(&decoded.object);
    }
}

pub(crate) fn json_patch(bytes: &[u8]) {
    let _ = patch::json(&pod(), bytes);
}

pub(crate) fn merge_patch(bytes: &[u8]) {
    if let Ok(value) = decode::value_from_json(bytes) {
        let _ = patch::merge(&pod(), &value);
    }
}

pub(crate) fn strategic_patch(bytes: &[u8]) {
    if let Ok(value) = decode::value_from_json(bytes) {
        let _ = patch::strategic(&pod(), &value, &pods());
    }
}

pub(crate) fn apply(bytes: &[u8]) {
    let Ok(decoded) = decode::yaml(bytes, &pods(), FieldValidation::Warn) else { return };
    let now = jiff::Timestamp::UNIX_EPOCH;
    let once = ssa::apply(Some(&pod()), &decoded.object, &ssa::Versions::only(&pods()), "fuzz", true, "", now);
    if let Ok(once) = once {
        let twice = ssa::apply(Some(&once), &decoded.object, &ssa::Versions::only(&pods()), "fuzz", true, "", now)
            .expect("what was applied can be applied again");
        assert_eq!(once, twice);
    }
}

pub(crate) fn label_selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let _ = selector.matches(|key| (key == "a").then_some("b"));
    }
}

pub(crate) fn field_selector(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(selector) = FieldSelector::parse(text, &pods()) {
        let _ = selector.matches(|_| Some("x"));
    }
}

pub(crate) fn quantity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string()).expect("what was written can be read");
        assert_eq!(again.to_string(), quantity.to_string());
    }
}

pub(crate) fn cel_source(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(program) = cel::Program::compile(text, &[("self", cel::Static::Dyn)], &cel::Static::Dyn) {
        let _ = program.evaluate(&|_| None, &cel::Budget::new(100_000));
    }
}

/// Of a custom resource: its schema is data of strangers, too.
pub(crate) fn definition(bytes: &[u8]) {
    let Some(kind) = KINDS.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return };
    let Ok(decoded) = decode::yaml(bytes, &kind, FieldValidation::Ignore) else { return };
    let mut object = decoded.object;
    kind.default(&mut object);
    if kind.validate(&object).is_empty() {
        for row in knarr_api::custom::rows(&object, 1) {
            let _ = decode::json(b"{\"metadata\": {\"name\": \"x\"}, \"spec\": {}}", &row, FieldValidation::Strict);
        }
    }
}

/// The defaults and rules of every kind, on objects that have the shape of none.
pub(crate) fn validate(bytes: &[u8]) {
    let Some(object) = decode::value_from_json(bytes).ok().and_then(Object::from_value) else { return };
    for kind in KINDS.iter() {
        let mut object = object.clone();
        kind.default(&mut object);
        kind.prepare_create(&mut object);
        let _ = (kind.validate(&object), kind.warn(&object, None));
    }
}
