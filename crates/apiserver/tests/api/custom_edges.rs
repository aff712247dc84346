//! Custom resources at the edges of what their schemas say.

use serde_json::{Value, json};

use crate::custom::define;
use crate::kit::{Client, Cluster, text};

const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

/// A Thing whose `spec` has this schema, with a status that is written apart.
fn definition(spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}],
        },
    })
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

async fn told(admin: &Client, object: &Value) -> Vec<String> {
    causes(&admin.post(THINGS, object).await.expect(422))
}

fn causes(refused: &Value) -> Vec<String> {
    let causes = refused["details"]["causes"].as_array().expect("causes");
    causes.iter().map(|cause| format!("{}: {}", text(&cause["field"]), text(&cause["message"]))).collect()
}

#[tokio::test]
async fn what_is_unknown_stays_where_the_schema_says_so_and_goes_where_it_does_not() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let known = || json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "strict": known(), "list": {"type": "array", "items": known()}, "map": {"type": "object", "additionalProperties": known()}}});
    let spec = object(json!({"free": free, "strict": object(json!({"free": {"x-kubernetes-preserve-unknown-fields": true}}))}));
    define(&admin, &definition(&spec)).await;
    let sent = json!({
        "free": {"x": {"y": [1, {"z": 2}]}, "strict": {"a": 1, "b": 2}, "list": [{"a": 1, "b": 2}], "map": {"k": {"a": 1, "b": 2}}},
        "strict": {"free": [{"any": "thing"}], "other": 1},
    });
    let made = admin.post(THINGS, &thing("a", sent)).await.expect(201);
    assert_eq!(
        made["spec"],
        json!({
            "free": {"x": {"y": [1, {"z": 2}]}, "strict": {"a": 1}, "list": [{"a": 1}], "map": {"k": {"a": 1}}},
            "strict": {"free": [{"any": "thing"}]},
        })
    );
}

#[tokio::test]
async fn an_object_within_an_object_has_the_metadata_of_an_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let inner = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
        "spec": object(json!({"size": {"type": "integer", "default": 3}}))}});
    define(&admin, &definition(&object(json!({"template": inner})))).await;
    let template =
        |metadata: Value| thing("a", json!({"template": {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"x": 1}}}));
    assert_eq!(
        told(&admin, &template(json!({"name": "a/b", "labels": {"a b": "c"}}))).await.len(),
        2,
        "a name that is no part of a path, and a label that is none"
    );
    assert_eq!(
        told(&admin, &thing("a", json!({"template": {"metadata": {"name": "a"}}}))).await,
        ["spec.template.apiVersion: Required value", "spec.template.kind: Required value"]
    );
    let made = admin.post(THINGS, &template(json!({"name": "b", "labels": {"a": "b"}, "unknown": 1}))).await.expect(201);
    assert_eq!(
        made["spec"]["template"],
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b", "labels": {"a": "b"}}, "spec": {"size": 3}})
    );
}

#[tokio::test]
async fn nulls_and_defaults_of_items_entries_and_fields() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let one = object(json!({"protocol": {"type": "string", "default": "TCP"}}));
    let spec = object(json!({
        "list": {"type": "array", "items": one}, "map": {"type": "object", "additionalProperties": one},
        "outer": {"type": "object", "default": {}, "properties": {"inner": {"type": "integer", "default": 1}}},
        "defaulted": {"type": "string", "default": "d"}, "nullable": {"type": "string", "nullable": true, "default": "d"},
        "plain": {"type": "string"}, "bare": {"type": "string", "nullable": true}, "port": {"x-kubernetes-int-or-string": true},
    }));
    define(&admin, &definition(&spec)).await;
    let sent = json!({"list": [{}, {"protocol": "UDP"}, {"protocol": null}], "map": {"k": {}}, "defaulted": null, "nullable": null,
        "plain": null, "bare": null, "port": "http"});
    let made = admin.post(THINGS, &thing("a", sent)).await.expect(201);
    let expected = json!({"list": [{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "TCP"}], "map": {"k": {"protocol": "TCP"}},
        "outer": {"inner": 1}, "defaulted": "d", "nullable": null, "bare": null, "port": "http"});
    assert_eq!(made["spec"], expected);
    assert_eq!(admin.get(&format!("{THINGS}/a")).await.expect(200)["spec"], expected);
    let number = admin.patch(&format!("{THINGS}/a"), "merge-patch", json!({"spec": {"port": 80}})).await.expect(200);
    assert_eq!(number["spec"]["port"], 80);
    assert_eq!(
        told(&admin, &thing("b", json!({"port": 1.5}))).await,
        ["spec.port: Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\""]
    );
}

#[tokio::test]
async fn generations_count_changes_of_all_but_the_metadata_and_a_status_that_is_written_apart() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut definition = definition(&object(json!({"n": {"type": "integer"}})));
    let mut whole = definition["spec"]["versions"][0].clone();
    (whole["name"], whole["storage"], whole["subresources"]) = (json!("v1alpha1"), json!(false), Value::Null);
    definition["spec"]["versions"].as_array_mut().expect("versions").push(whole);
    define(&admin, &definition).await;
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().expect("a generation");
    let mut sent = thing("a", json!({"n": 1}));
    sent["status"] = json!({"ready": true});
    let made = admin.post(THINGS, &sent).await.expect(201);
    assert_eq!((generation(&made), made.get("status")), (1, None), "a status that is written apart is not made with its object");
    let path = format!("{THINGS}/a");
    let patched = async |path: &str, patch: Value| admin.patch(path, "merge-patch", patch).await.expect(200);
    assert_eq!(generation(&patched(&path, json!({"metadata": {"labels": {"a": "b"}}})).await), 1);
    assert_eq!(generation(&patched(&format!("{path}/status"), json!({"status": {"ready": false}})).await), 1);
    assert_eq!(generation(&patched(&path, json!({"spec": {"n": 2}, "status": {"ready": true}})).await), 2);
    // In a version without such a part the status is as any other field.
    let whole = "/apis/example.com/v1alpha1/namespaces/default/things/a";
    assert_eq!(admin.get(&format!("{whole}/status")).await.code, 404);
    let changed = patched(whole, json!({"status": {"ready": true}})).await;
    assert_eq!(
        (generation(&changed), &changed["status"], &changed["apiVersion"]),
        (3, &json!({"ready": true}), &json!("example.com/v1alpha1"))
    );
}

#[tokio::test]
async fn faults_of_rules_stand_where_their_value_or_their_field_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ruled = |mut schema: Value, rules: Value| {
        schema["x-kubernetes-validations"] = rules;
        schema
    };
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let named = ruled(
        object(json!({"labels": labels, "n": {"type": "integer"}})),
        json!([
            {"rule": "!has(self.n) || self.n < 5", "reason": "FieldValueForbidden", "fieldPath": ".n", "message": "too large"},
            {"rule": "!has(self.labels) || !('a' in self.labels)", "reason": "FieldValueDuplicate", "fieldPath": ".labels['a']"},
        ]),
    );
    let short = ruled(json!({"type": "string"}), json!([{"rule": "self.size() < 3", "messageExpression": "'%s is long'.format([self])"}]));
    let spec = object(json!({
        "named": named, "map": {"type": "object", "additionalProperties": short}, "words": {"type": "array", "items": short},
        "port": ruled(json!({"x-kubernetes-int-or-string": true}), json!([{"rule": "int(self) > 0 && self != 'x'"}])), "note": {"type": "string"},
    }));
    let mut definition = definition(&spec);
    define(&admin, &definition).await;
    let wrong = json!({"named": {"n": 7, "labels": {"a": "b"}}, "map": {"k.x": "long"}, "words": ["ok", "word"], "port": "http"});
    assert_eq!(
        told(&admin, &thing("a", wrong)).await,
        [
            "spec.map[k.x]: Invalid value: \"long\": long is long",
            "spec.named.n: Forbidden: too large",
            "spec.named.labels[a]: Duplicate value",
            "spec.port: Invalid value: \"\": type conversion error from 'string' to 'int' evaluating rule: int(self) > 0 && self != 'x'",
            "spec.words[1]: Invalid value: \"word\": word is long",
        ]
    );
    // What was accepted before a rule was there stays as long as it is not touched, in lists that are one value as well.
    admin.post(THINGS, &thing("b", json!({"words": ["no"], "named": {"n": 4}}))).await.expect(201);
    let rules = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/words/items/x-kubernetes-validations/0";
    definition.pointer_mut(rules).expect("the rule")["rule"] = "self.size() < 2".into();
    let versions = json!({"spec": {"versions": definition["spec"]["versions"]}});
    admin.patch(&format!("{}/things.example.com", crate::custom::DEFINITIONS), "merge-patch", versions).await.expect(200);
    let path = format!("{THINGS}/b");
    admin.patch(&path, "merge-patch", json!({"spec": {"note": "changed"}})).await.expect(200);
    let refused = admin.patch(&path, "merge-patch", json!({"spec": {"words": ["no", "x"]}})).await.expect(422);
    assert_eq!(causes(&refused), ["spec.words[0]: Invalid value: \"no\": no is long"]);
}
