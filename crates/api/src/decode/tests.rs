use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Kinds;

fn kind(group: &str, resource: &str) -> std::sync::Arc<Kind> {
    Kinds::builtin().resource(group, "v1", resource).unwrap()
}

/// Warnings in Warn mode, and the decoded object.
#[track_caller]
fn check(body: &str, expected: Value, warnings: &[&str]) {
    let pods = kind("", "pods");
    let decoded = json(body.as_bytes(), &pods, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.object.into_value(), expected);
    assert_eq!(decoded.warnings, warnings);
}

#[test]
fn unknown_and_duplicate_fields_are_dropped_and_named() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "c"}]}});
    check(
        r#"{"metadata":{"name":"a","name":"b","foo":1},"spec":{"containers":[{"name":"c","bar":{}}]},"baz":null}"#,
        pod,
        &[
            "duplicate field \"metadata.name\"",
            "unknown field \"baz\"",
            "unknown field \"metadata.foo\"",
            "unknown field \"spec.containers[0].bar\"",
        ],
    );
}

#[test]
fn optional_lists_and_maps_without_an_item_are_none() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}});
    check(
        r#"{"metadata":{"name":"a","labels":{},"annotations":{}},
            "spec":{"containers":[],"tolerations":[],"nodeSelector":{},"volumes":[{"name":"v","emptyDir":{}}]}}"#,
        pod,
        &[],
    );
}

#[test]
fn strict_refuses_what_warn_warns_of() {
    let pods = kind("", "pods");
    let error = json(br#"{"spec":{"foo":1}}"#, &pods, FieldValidation::Strict).unwrap_err();
    assert_eq!(error.message, "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\"");
    assert_eq!((error.code, error.reason), (400, "BadRequest"));
    let ignored = json(br#"{"spec":{"foo":1}}"#, &pods, FieldValidation::Ignore).unwrap();
    assert_eq!(ignored.warnings, Vec::<String>::new());
}

#[test]
fn a_wrong_type_names_its_field() {
    for (body, expected) in [
        (r#"{"spec":{"containers":"x"}}"#, "cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"),
        (
            r#"{"spec":{"containers":[{"image":5}]}}"#,
            "cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type map[string]string",
        ),
        (r#"{"spec":{"priority":2147483648}}"#, "cannot unmarshal number into Go struct field PodSpec.spec.priority of type int32"),
        (r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#, "quantities must match the regular expression"),
        (r#"{"metadata":{"creationTimestamp":"x"}}"#, "parsing time \"x\""),
        (r#"[]"#, "must be a JSON object"),
        (r#"{"apiVersion":"v2"}"#, "does not match the expected API version (v1)"),
        (r#"{"kind":"Service"}"#, "cannot be handled as a Pod"),
        (r#"{"#, "unrecognized"),
    ] {
        let error = json(body.as_bytes(), &kind("", "pods"), FieldValidation::Warn).unwrap_err();
        assert!(error.message.contains(expected), "{body}: {}", error.message);
        assert_eq!(error.code, 400, "{body}");
    }
}

#[test]
fn well_known_types_take_their_canonical_form() {
    let body = r#"{"metadata":{"creationTimestamp":null,"deletionTimestamp":"2026-01-01T01:00:00+01:00"},
        "spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}},
        "readinessProbe":{"httpGet":{"port":"http"}}}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1000m"}}]}}"#;
    let expected = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
        "readinessProbe": {"httpGet": {"port": "http"}}}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1"}}]}});
    check(body, expected, &[]);
}

#[test]
fn bytes_are_kept_without_the_line_ends_that_clients_write() {
    let secret = json(b"{\"data\":{\"a\":\"c2Vj\\r\\ncmV0\\n\"}}", &kind("", "secrets"), FieldValidation::Strict).unwrap();
    assert_eq!(secret.object.into_value()["data"], json!({"a": "c2VjcmV0"}));
}

#[test]
fn secrets_do_not_come_back_in_errors() {
    let error = json(br#"{"data":{"a":"c2VjcmV0"#, &kind("", "secrets"), FieldValidation::Warn).unwrap_err();
    assert!(!error.message.contains("c2VjcmV0"), "{}", error.message);
    let error = json(br#"{"data":{"a":"%%"}}"#, &kind("", "secrets"), FieldValidation::Warn).unwrap_err();
    assert!(error.message.ends_with("illegal base64 data at input byte 0"), "{}", error.message);
}

#[test]
fn yaml_reads_as_json() {
    let body = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &d\n  a: 'yes'\n  b: |\n    two\n    lines\n";
    let decoded = yaml(body.as_bytes(), &kind("", "configmaps"), FieldValidation::Strict).unwrap();
    assert_eq!(
        decoded.object.into_value(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "yes", "b": "two\nlines\n"}})
    );
    let error = yaml(b"data:\n  a: b\n  a: c\n", &kind("", "configmaps"), FieldValidation::Strict).unwrap_err();
    assert!(error.message.contains("key \"a\" already set in map"), "{}", error.message);
}

#[test]
fn yaml_anchors_and_merge_keys_work_within_limits() {
    let value = value_from_yaml(b"a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n1: one\ntrue: t\n").unwrap();
    assert_eq!(value, json!({"a": {"x": 1, "true": 2}, "b": {"x": 1, "true": 3}, "c": {"x": 1, "true": 2}, "1": "one", "true": "t"}));
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let previous = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(",")));
    }
    assert!(value_from_yaml(bomb.as_bytes()).unwrap_err().contains("excessive aliasing"));
    assert!(value_from_yaml("[".repeat(100_000).as_bytes()).is_err());
    assert!(value_from_yaml(b"a: &a [*a]").is_err());
    assert!(value_from_json("[".repeat(100_000).as_bytes()).is_err());
    // As deep as JSON may be, and no deeper by way of aliases.
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (levels, fits) in [(127, true), (128, false)] {
        assert_eq!(value_from_json(nested(levels).as_bytes()).is_ok(), fits, "{levels}");
        assert_eq!(value_from_yaml(nested(levels).as_bytes()).is_ok(), fits, "{levels}");
        let aliased = format!("a: &a {}\nb: [[*a]]\n", nested(levels - 3));
        assert_eq!(value_from_yaml(aliased.as_bytes()).is_ok(), fits, "{levels} with an alias");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = value_from_json(&bytes);
        let _ = value_from_yaml(&bytes);
    }

    #[test]
    fn any_yamlish_text_is_read_or_refused(text in "[-a&*:{}\\[\\]!'\"|> \\n<?#,%]{0,60}") {
        let _ = value_from_yaml(text.as_bytes());
    }
}
