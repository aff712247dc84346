use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::shape::tests::kind;

fn object(value: Value) -> Object {
    Object::from_value(value).expect("a JSON object")
}

fn outcome(result: Result<Object, Status>) -> Value {
    match result {
        Ok(object) => object.into_value(),
        Err(status) => status.code.into(),
    }
}

#[test]
fn json_patch() {
    fn check(patch: Value, expected: Value) {
        let start = object(json!({"a": 1, "list": ["x", "y"], "map": {"k/": 1}}));
        assert_eq!(outcome(super::json(&start, patch.to_string().as_bytes())), expected, "{patch}");
    }
    check(json!([]), json!({"a": 1, "list": ["x", "y"], "map": {"k/": 1}}));
    check(json!([{"op": "add", "path": "/list/1", "value": "n"}]), json!({"a": 1, "list": ["x", "n", "y"], "map": {"k/": 1}}));
    check(json!([{"op": "add", "path": "/list/-", "value": "n"}]), json!({"a": 1, "list": ["x", "y", "n"], "map": {"k/": 1}}));
    check(json!([{"op": "remove", "path": "/map/k~1"}]), json!({"a": 1, "list": ["x", "y"], "map": {}}));
    check(json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1, "list": ["x", "y"], "map": {"k/": 1}}));
    check(
        json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 2}]),
        json!({"a": 2, "list": ["x", "y"], "map": {"k/": 1}}),
    );
    check(json!([{"op": "test", "path": "/missing", "value": null}]), json!({"a": 1, "list": ["x", "y"], "map": {"k/": 1}}));
    // Does not fit: 422. No patch: 400.
    check(json!([{"op": "test", "path": "/a", "value": 2}]), json!(422));
    check(json!([{"op": "remove", "path": "/missing"}]), json!(422));
    check(json!([{"op": "replace", "path": "", "value": 1}]), json!(422));
    check(json!({"a": 2}), json!(400));
    check(json!([{"op": "jump", "path": "/a"}]), json!(400));
}

#[test]
fn json_patches_are_bounded() {
    let test = json!({"op": "test", "path": "/a", "value": 1});
    let many = |count: usize| Value::Array(vec![test.clone(); count]).to_string();
    let start = object(json!({"a": 1}));
    assert_eq!(outcome(super::json(&start, many(OPERATIONS_MAX).as_bytes())), json!({"a": 1}));
    assert_eq!(outcome(super::json(&start, many(OPERATIONS_MAX + 1).as_bytes())), json!(413));

    // Each operation doubles the object: the twentieth would make a megabyte of one byte, the thirtieth a gigabyte.
    let double: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/c{n}")})).collect();
    assert_eq!(outcome(super::json(&start, Value::Array(double).to_string().as_bytes())), json!(422));
}

#[test]
fn merge_patch() {
    let start = object(json!({"a": {"b": 1, "c": [1]}, "d": 2}));
    let check = |patch: Value, expected: Value| assert_eq!(outcome(merge(&start, &patch)), expected, "{patch}");
    check(json!({"a": {"b": null, "c": [2]}, "e": {"f": null}}), json!({"a": {"c": [2]}, "d": 2, "e": {}}));
    check(json!([]), json!(400));
}

#[track_caller]
fn check_strategic(live: Value, patch: Value, expected: Value) {
    let kind = kind("apps", "v1", "Deployment");
    assert_eq!(outcome(strategic(&object(live), &patch, &kind)), expected, "{patch}");
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

#[test]
fn strategic_merges_maps_and_replaces_plain_lists() {
    check_strategic(
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 1}}),
        json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"replicas": 2}}),
        json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {"replicas": 2}}),
    );
    check_strategic(
        containers(json!([{"name": "a", "args": ["1", "2"]}])),
        containers(json!([{"name": "a", "args": ["3"]}])),
        containers(json!([{"name": "a", "args": ["3"]}])),
    );
}

#[test]
fn strategic_merges_lists_by_key() {
    let two = || containers(json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]));
    check_strategic(
        two(),
        containers(json!([{"name": "b", "image": "b:2"}])),
        containers(json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}])),
    );
    // New items stand first, as in the upstream documentation's example.
    check_strategic(
        two(),
        containers(json!([{"name": "c", "image": "c:1"}])),
        containers(json!([{"name": "c", "image": "c:1"}, {"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}])),
    );
    check_strategic(two(), containers(json!([{"name": "a", "$patch": "delete"}])), containers(json!([{"name": "b", "image": "b:1"}])));
    check_strategic(
        two(),
        containers(json!([{"$patch": "replace"}, {"name": "c", "image": "c:1"}])),
        containers(json!([{"name": "c", "image": "c:1"}])),
    );
    check_strategic(two(), containers(json!([{"image": "c:1"}])), json!(400));
    check_strategic(two(), containers(json!([{"name": "a", "$patch": "twist"}])), json!(422));
    check_strategic(
        json!({}),
        containers(json!([{"name": "a"}, {"name": "gone", "$patch": "delete"}])),
        containers(json!([{"name": "a"}])),
    );
}

#[test]
fn strategic_merges_lists_in_lists() {
    let env = |list: Value| containers(json!([{"name": "a", "env": list}]));
    check_strategic(
        env(json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])),
        env(json!([{"name": "B", "value": "3"}, {"name": "A", "$patch": "delete"}])),
        env(json!([{"name": "B", "value": "3"}])),
    );
}

#[test]
fn strategic_orders_lists() {
    let patch =
        |list: Value, order: Value| json!({"spec": {"template": {"spec": {"containers": list, "$setElementOrder/containers": order}}}});
    check_strategic(
        containers(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}])),
        patch(json!([{"name": "c"}]), json!([{"name": "b"}, {"name": "c"}, {"name": "a"}])),
        containers(json!([{"name": "server"}, {"name": "b"}, {"name": "c"}, {"name": "a"}])),
    );
    check_strategic(
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["c", "b"], "$deleteFromPrimitiveList/finalizers": ["a"]}}),
        json!({"metadata": {"finalizers": ["c", "b"]}}),
    );
    check_strategic(
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"$setElementOrder/finalizers": ["b", "a"]}}),
        json!({"metadata": {"finalizers": ["b", "a"]}}),
    );
}

#[test]
fn strategic_merges_primitives() {
    check_strategic(
        json!({"metadata": {"finalizers": ["a"]}}),
        json!({"metadata": {"finalizers": ["b", "a"]}}),
        json!({"metadata": {"finalizers": ["b", "a"]}}),
    );
}

#[test]
fn strategic_directives_in_maps() {
    let strategy = |value: Value| json!({"spec": {"strategy": value}});
    let rolling = || strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}));
    check_strategic(rolling(), strategy(json!({"$retainKeys": ["type"], "type": "Recreate"})), strategy(json!({"type": "Recreate"})));
    check_strategic(rolling(), strategy(json!({"$patch": "replace", "type": "Recreate"})), strategy(json!({"type": "Recreate"})));
    check_strategic(rolling(), strategy(json!({"$patch": "delete"})), strategy(json!({})));
    check_strategic(rolling(), strategy(json!({"$retainKeys": ["rollingUpdate"], "type": "Recreate"})), json!(400));
    check_strategic(json!({}), strategy(json!({"$retainKeys": ["type"], "type": "Recreate"})), strategy(json!({"type": "Recreate"})));
}

#[test]
fn kinds_without_a_schema_have_no_strategic_patch() {
    let mut kind = kind("apps", "v1", "Deployment");
    kind.message = None;
    assert_eq!(outcome(strategic(&object(json!({})), &json!({}), &kind)), json!(415));
}

proptest! {
    #[test]
    fn no_patch_panics(live in any_json(), patch in any_json()) {
        let live = object(json!({"metadata": {"finalizers": live}, "spec": {"template": {"spec": {"containers": live}}}}));
        let patch = json!({"metadata": {"finalizers": patch}, "spec": {"template": {"spec": {"containers": patch}}}});
        let _ = strategic(&live, &patch, &kind("apps", "v1", "Deployment"));
        let _ = merge(&live, &patch);
        let _ = super::json(&live, patch.to_string().as_bytes());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from), "[ab]".prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![Just("name"), Just("$patch"), Just("$retainKeys"), Just("$setElementOrder/ports"), Just("ports"), Just("a")];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())),
        ]
    })
}
