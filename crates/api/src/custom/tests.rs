//! Properties of pruning and defaulting, and tables of validation.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Structural, defaults, prune};

fn schema() -> Structural {
    Structural::parse(&json!({"type": "object", "properties": {
        "a": {"type": "object", "default": {}, "properties": {
            "b": {"type": "integer", "default": 1}, "c": {"type": "string", "nullable": true, "default": "x"}}},
        "b": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": "y"}}}},
        "c": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "boolean", "default": true}}}},
        "d": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "object"}}},
        "e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"a": {"type": "string"}}},
    }}))
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3i64).prop_map(Value::from), "[a-c]".prop_map(Value::from)];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-e]|kind|metadata", inner, 0..4).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn pruning_and_defaulting_twice_is_once(value in any_value()) {
        let schema = schema();
        let Value::Object(mut object) = value else { return Ok(()) };
        prune::prune(&mut object, &schema, &mut |_| ());
        let once = object.clone();
        prune::prune(&mut object, &schema, &mut |path| panic!("{path} was left"));
        prop_assert_eq!(&object, &once);
        defaults::fill_map(&mut object, &schema);
        let filled = object.clone();
        defaults::fill_map(&mut object, &schema);
        prop_assert_eq!(&object, &filled);
        prune::prune(&mut object, &schema, &mut |path| panic!("the default {path} was pruned"));
        prop_assert_eq!(&object, &filled);
    }
}

#[test]
fn a_null_that_may_not_be_is_as_good_as_absent() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "foo": {"type": "string", "default": "x"}, "bar": {"type": "string", "nullable": true}, "baz": {"type": "string"},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}, "list": {"type": "array", "items": {"type": "string"}}}}));
    let Value::Object(mut object) = json!({"foo": null, "bar": null, "baz": null, "map": {"a": null, "b": "c"}, "list": [null]}) else {
        unreachable!("it is an object")
    };
    prune::prune(&mut object, &schema, &mut |path| panic!("{path} was told"));
    defaults::fill_map(&mut object, &schema);
    assert_eq!(Value::Object(object), json!({"foo": "x", "bar": null, "map": {"b": "c"}, "list": [null]}));
}

fn check(schema: Value, old: Option<Value>, new: Value, expected: Expect) {
    let errors = super::check::check(&new, old.as_ref(), &Structural::parse(&schema));
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

fn with(property: Value) -> Value {
    json!({"type": "object", "properties": {"x": property}})
}

#[test]
fn values_are_refused_in_upstreams_words() {
    check(
        with(json!({"type": "string"})),
        None,
        json!({"x": 1}),
        expect![[r#"x: Invalid value: "integer": x in body must be of type string: "integer""#]],
    );
    check(
        with(json!({"type": "string"})),
        None,
        json!({"x": null}),
        expect![[r#"x: Invalid value: "null": x in body must be of type string: "null""#]],
    );
    check(with(json!({"type": "string", "nullable": true})), None, json!({"x": null}), expect![""]);
    check(with(json!({"type": "integer"})), None, json!({"x": 1.0}), expect![""]);
    check(
        with(json!({"type": "string", "pattern": "^a+$"})),
        None,
        json!({"x": "b"}),
        expect![[r#"x: Invalid value: "b": x in body should match '^a+$'"#]],
    );
    check(
        with(json!({"type": "string", "minLength": 2})),
        None,
        json!({"x": "é"}),
        expect![[r#"x: Invalid value: "é": x in body should be at least 2 chars long"#]],
    );
    check(with(json!({"type": "string", "maxLength": 2})), None, json!({"x": "abc"}), expect!["x: Too long: may not be more than 2 bytes"]);
    check(
        with(json!({"type": "string", "format": "date"})),
        None,
        json!({"x": "abc"}),
        expect![[r#"x: Invalid value: "abc": x in body must be of type date: "abc""#]],
    );
    check(
        with(json!({"type": "number", "exclusiveMinimum": true, "minimum": 1})),
        None,
        json!({"x": 1}),
        expect!["x: Invalid value: 1: x in body should be greater than 1"],
    );
    check(
        with(json!({"type": "integer", "multipleOf": 3})),
        None,
        json!({"x": 4}),
        expect!["x: Invalid value: 4: x in body should be a multiple of 3"],
    );
    check(with(json!({"type": "number", "multipleOf": 0.1})), None, json!({"x": 0.3}), expect![""]);
    check(
        with(json!({"type": "number", "multipleOf": 0.1})),
        None,
        json!({"x": 0.35}),
        expect!["x: Invalid value: 0.35: x in body should be a multiple of 0.1"],
    );
    check(
        with(json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}})),
        None,
        json!({"x": [1, 2]}),
        expect!["x: Too many: 2: must have at most 1 items"],
    );
    check(
        with(json!({"type": "object", "additionalProperties": {"type": "integer"}})),
        None,
        json!({"x": {"k": "v"}}),
        expect![[r#"x.k: Invalid value: "string": x.k in body must be of type integer: "string""#]],
    );
    let embedded = with(json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}));
    check(embedded.clone(), None, json!({"x": {"apiVersion": "v1", "kind": "Pod", "spec": {}}}), expect![""]);
    check(
        embedded.clone(),
        None,
        json!({"x": {"apiVersion": "a/b/c", "kind": ""}}),
        expect![[r#"
        x.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
        x.kind: Required value"#]],
    );
    check(
        embedded,
        None,
        json!({"x": {"kind": 1}}),
        expect![[r#"
        x.apiVersion: Required value
        x.kind: Invalid value: 1: must be a string"#]],
    );
    let embedded = with(json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}));
    check(
        embedded,
        None,
        json!({"x": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b", "namespace": "A", "generateName": "..",
            "labels": {"a b": "c"}, "finalizers": ["x y"]}}}),
        expect![[r#"
            x.metadata.generateName: Invalid value: "..": may not be '..'
            x.metadata.name: Invalid value: "a/b": may not contain '/'
            x.metadata.namespace: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            x.metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            x.metadata.finalizers: Invalid value: "x y": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]],
    );
    let one_of = json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(
        with(one_of.clone()),
        None,
        json!({"x": {}}),
        expect![[r#"x: Invalid value: {}: "x" must validate one and only one schema (oneOf). Found none valid"#]],
    );
    check(with(one_of.clone()), None, json!({"x": {"a": 1}}), expect![""]);
    check(
        with(one_of),
        None,
        json!({"x": {"a": 1, "b": 1}}),
        expect![[r#"x: Invalid value: {"a":1,"b":1}: "x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#]],
    );
    check(
        with(json!({"type": "string", "not": {"enum": ["a"]}})),
        None,
        json!({"x": "a"}),
        expect![[r#"x: Invalid value: "a": "x" must not validate the schema (not)"#]],
    );
    check(
        with(json!({"type": "integer", "allOf": [{"minimum": 5}, {"maximum": 3}]})),
        None,
        json!({"x": 4}),
        expect![[r#"
        x: Invalid value: 4: x in body should be greater than or equal to 5
        x: Invalid value: 4: x in body should be less than or equal to 3"#]],
    );
}

#[test]
fn long_lists_are_compared_item_by_item() {
    let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
        "type": "object", "properties": {"k": {"type": "integer"}, "v": {"type": "integer", "maximum": 1}}}});
    // In the square of their number this would be ten thousand million comparisons.
    let list = |last: i64| -> Value { (0..100_000_i64).map(|k| json!({"k": k, "v": if k == 99_999 { last } else { 9 }})).collect() };
    let path = "x[99999].v";
    let detail = format!("{path}: Invalid value: 8: {path} in body should be less than or equal to 1");
    let errors = super::check::check(&json!({"x": list(8)}), Some(&json!({"x": list(9)})), &Structural::parse(&with(schema)));
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [detail]);
}

#[test]
fn what_was_wrong_before_does_not_hold_up_changes() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "integer", "maximum": 1}, "b": {"type": "string"},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}},
    }});
    check(schema.clone(), Some(json!({"a": 5})), json!({"a": 5, "b": "x"}), expect![""]);
    check(
        schema.clone(),
        Some(json!({"a": 5})),
        json!({"a": 6}),
        expect!["a: Invalid value: 6: a in body should be less than or equal to 1"],
    );
    let old = json!({"keyed": [{"k": "x", "v": 9}]});
    check(schema.clone(), Some(old.clone()), json!({"keyed": [{"k": "new", "v": 1}, {"k": "x", "v": 9}]}), expect![""]);
    check(
        schema,
        Some(old),
        json!({"keyed": [{"k": "y", "v": 9}]}),
        expect!["keyed[0].v: Invalid value: 9: keyed[0].v in body should be less than or equal to 1"],
    );
}

#[test]
fn versions_that_convert_by_webhook_need_one_that_speaks_v1() {
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}});
    let check = |webhook: Value, expected: &[&str]| {
        let definition = json!({
            "metadata": {"name": "toys.example.com"},
            "spec": {
                "group": "example.com",
                "scope": "Namespaced",
                "names": {"plural": "toys", "singular": "toy", "kind": "Toy", "listKind": "ToyList"},
                "versions": [version("v1", true), version("v2", false)],
                "conversion": {"strategy": "Webhook", "webhook": webhook},
            },
        });
        let mut definition = crate::Object::from_value(definition).expect("an object");
        let kinds = crate::Kinds::builtin();
        let kind = kinds.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("the row");
        kind.prepare_create(&mut definition);
        let errors: Vec<String> = kind.validate(&definition).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected);
    };
    let client = json!({"url": "https://example.com/convert"});
    check(json!({"clientConfig": client, "conversionReviewVersions": ["v1"]}), &[]);
    check(
        json!({"clientConfig": client, "conversionReviewVersions": ["v9"]}),
        &["spec.conversion.conversionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1"],
    );
    check(
        json!({"clientConfig": client, "conversionReviewVersions": ["v1", "v1", "V"]}),
        &[
            "spec.conversion.conversionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
            &format!("spec.conversion.conversionReviewVersions[2]: Invalid value: \"V\": {}", crate::names::dns1035_label("V")[0]),
        ],
    );
    check(json!({"clientConfig": client}), &["spec.conversion.conversionReviewVersions: Required value"]);
    check(
        json!({"conversionReviewVersions": ["v1"]}),
        &["spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook"],
    );
}
