//! Custom resources, from the definition to the last object.

use std::time::{Duration, Instant};

use knarr_store::{Embedded, Options, Store};
use serde_json::{Value, json};

use crate::kit::{Client, Cluster, Stream, eventually, names, text};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A namespaced Widget with a schema of most sorts of fields.
fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A thing.", "properties": {
                    "spec": {"type": "object", "required": ["replicas"], "properties": {
                        "replicas": {"type": "integer", "minimum": 0, "maximum": 10},
                        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                        "size": {"x-kubernetes-int-or-string": true},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                            "items": {"type": "object", "required": ["name"], "properties": {
                                "name": {"type": "string"}, "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
                    }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "selector": {"type": "string"},
                        "conditions": {"type": "array", "items": {"type": "object", "properties": {
                            "type": {"type": "string"}, "status": {"type": "string"}}}}}},
                }}},
            }],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Waits until the definition says that it is served.
pub(crate) async fn established(admin: &Client, name: &str) {
    let mut watch = admin.watch(&format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name={name}")).await;
    until(&mut watch, |event| condition(&event["object"], "Established") == "True").await;
}

async fn until(watch: &mut Stream, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = watch.next().await.expect("the watch goes on");
        if fits(&event) {
            return event;
        }
    }
}

fn condition<'a>(definition: &'a Value, ty: &str) -> &'a str {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == ty).map_or("", |one| text(&one["status"]))
}

pub(crate) async fn define(admin: &Client, definition: &Value) {
    admin.post(DEFINITIONS, definition).await.expect(201);
    established(admin, text(&definition["metadata"]["name"])).await;
}

#[tokio::test]
async fn a_definition_is_served_at_once_and_everywhere() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{DEFINITIONS}?watch=true")).await;
    assert_eq!(admin.get(WIDGETS).await.code, 404);
    let begun = Instant::now();
    let made = admin.post(DEFINITIONS, &definition()).await.expect(201);
    assert_eq!((&made["spec"]["names"]["singular"], &made["spec"]["names"]["listKind"]), (&json!("widget"), &json!("WidgetList")));
    assert_eq!((&made["status"]["storedVersions"], &made["spec"]["conversion"]), (&json!(["v1"]), &json!({"strategy": "None"})));
    until(&mut watch, |event| condition(&event["object"], "Established") == "True").await;
    // Whoever sees the condition finds the kind: in the verbs, in both discoveries, in both OpenAPIs.
    admin.get(WIDGETS).await.expect(200);
    eprintln!("published {:?} after the definition was sent", begun.elapsed());
    let list = admin.get("/apis/example.com/v1").await.expect(200);
    let named: Vec<&str> = list["resources"].as_array().unwrap().iter().map(|resource| text(&resource["name"])).collect();
    assert_eq!(named, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let groups = admin.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await.expect(200);
    assert!(groups["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "example.com"), "{groups}");
    let index = admin.get("/openapi/v3").await.expect(200);
    let document = admin.get(text(&index["paths"]["apis/example.com/v1"]["serverRelativeURL"])).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["enum"], json!(["red", "blue"]), "{schema}");
    assert_eq!(schema["description"], "A thing.");
    let v2 = admin.get_as("/openapi/v2", "application/json").await.expect(200);
    assert_eq!(v2["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["replicas"]["type"], "integer");
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_checked() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let spec = json!({"replicas": 1, "unknown": 1, "free": {"any": {"thing": 1}}, "ports": [{"name": "a", "more": 2}]});
    let answer = admin.post(WIDGETS, &widget("a", spec.clone())).await;
    assert_eq!(answer.header("warning"), r#"299 - "unknown field \"spec.ports[0].more\"""#);
    let made = answer.expect(201);
    let expected = json!({"replicas": 1, "color": "red", "free": {"any": {"thing": 1}}, "ports": [{"name": "a", "protocol": "TCP"}]});
    assert_eq!((&made["spec"], &made["metadata"]["generation"]), (&expected, &json!(1)));
    assert_eq!(admin.get(&format!("{WIDGETS}/a")).await.expect(200), made);
    let (_, message) = admin.post(&format!("{WIDGETS}?fieldValidation=Strict"), &widget("b", spec)).await.refused(400);
    assert!(message.ends_with(r#"strict decoding error: unknown field "spec.ports[0].more", unknown field "spec.unknown""#), "{message}");
    let spec = json!({"replicas": 11, "color": "green", "size": true, "tags": ["x", "x"], "ports": [{"name": "a"}, {"name": "a"}, {}]});
    let refused = admin.post(WIDGETS, &widget("c", spec)).await.expect(422);
    let causes: Vec<String> = refused["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| format!("{} {} {}", text(&cause["field"]), text(&cause["reason"]), text(&cause["message"])))
        .collect();
    assert_eq!(
        causes,
        [
            r#"spec.color FieldValueNotSupported Unsupported value: "green": supported values: "blue", "red""#,
            r#"spec.ports[2].name FieldValueRequired Required value"#,
            r#"spec.replicas FieldValueInvalid Invalid value: 11: spec.replicas in body should be less than or equal to 10"#,
            r#"spec.size FieldValueTypeInvalid Invalid value: "boolean": spec.size in body must be of type integer,string: "boolean""#,
            r#"spec.ports[1] FieldValueDuplicate Duplicate value: {"name":"a"}"#,
            r#"spec.tags[1] FieldValueDuplicate Duplicate value: "x""#,
        ]
    );
}

#[tokio::test]
async fn all_verbs_work_as_for_built_in_kinds() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true")).await;
    for (name, color) in [("a", "red"), ("b", "blue")] {
        admin.post(WIDGETS, &widget(name, json!({"replicas": 1, "color": color}))).await.expect(201);
    }
    assert_eq!((watch.word().await, watch.word().await), ("ADDED a".into(), "ADDED b".into()));
    assert_eq!(names(&admin.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.expect(200)), ["b"]);
    let list = admin.get("/apis/example.com/v1/widgets?limit=1").await.expect(200);
    assert_eq!((text(&list["kind"]), names(&list).len(), &list["metadata"]["remainingItemCount"]), ("WidgetList", 1, &json!(1)));
    let path = format!("{WIDGETS}/a");
    let merged = admin.patch(&path, "merge-patch", json!({"spec": {"replicas": 2}, "status": {"replicas": 7}})).await.expect(200);
    assert_eq!((&merged["metadata"]["generation"], merged.get("status")), (&json!(2), None));
    admin.patch(&path, "json-patch", json!([{"op": "add", "path": "/spec/tags", "value": ["x"]}])).await.expect(200);
    assert_eq!(admin.patch(&path, "strategic-merge-patch", json!({})).await.code, 415);
    let protobuf = admin.ask("POST", WIDGETS, &[("content-type", "application/vnd.kubernetes.protobuf")], "k8s\0").await;
    assert_eq!(protobuf.code, 415);
    let conditions = json!([{"type": "Ready", "status": "True"}]);
    let status = json!({"status": {"replicas": 2, "selector": "a=b", "conditions": conditions}, "spec": {"replicas": 9}});
    let written = admin.patch(&format!("{path}/status"), "merge-patch", status).await.expect(200);
    assert_eq!((&written["spec"]["replicas"], &written["metadata"]["generation"]), (&json!(2), &json!(3)));
    let scale = admin.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!((&scale["spec"], &scale["status"]), (&json!({"replicas": 2}), &json!({"replicas": 2, "selector": "a=b"})));
    admin.patch(&format!("{path}/scale"), "merge-patch", json!({"spec": {"replicas": 4}})).await.expect(200);
    admin.patch(&format!("{path}/scale"), "strategic-merge-patch", json!({"spec": {"replicas": 5}})).await.refused(415);
    let table = admin.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| text(&column["name"])).collect();
    assert_eq!(columns, ["Name", "Replicas", "Ready", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), json!(4), json!("True")]);
    assert_eq!(table["rows"][1]["cells"][2], Value::Null);
    let (_, message) = admin.put(&path, &widget("a", json!({"replicas": 1}))).await.refused(422);
    assert!(message.ends_with("metadata.resourceVersion: Invalid value: 0: must be specified for an update"), "{message}");
    admin.delete(WIDGETS).await.expect(200);
    assert_eq!(names(&admin.get(WIDGETS).await.expect(200)), Vec::<&str>::new());
}

#[tokio::test]
async fn rules_hold_for_objects_and_for_their_changes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut definition = definition();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["x-kubernetes-validations"] =
        json!([{"rule": "self.metadata.name.startsWith('w')", "reason": "FieldValueForbidden", "message": "names begin with w"}]);
    let spec = &mut schema["properties"]["spec"];
    spec["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 5 || self.color == 'blue'", "messageExpression": "'at most 5, not %d'.format([self.replicas])", "fieldPath": ".replicas"},
        {"rule": "self.replicas >= oldSelf.replicas", "message": "replicas never shrink"},
        {"rule": "!has(self.free) || self.free.limit.matches('^[0-9]+$')"},
    ]);
    spec["properties"]["ports"]["items"]["x-kubernetes-validations"] =
        json!([{"rule": "!oldSelf.hasValue() || self.port == oldSelf.value().port", "optionalOldSelf": true, "message": "ports stay"}]);
    define(&admin, &definition).await;
    let causes = |refused: Value| -> Vec<String> {
        let causes = refused["details"]["causes"].as_array().unwrap();
        causes.iter().map(|cause| format!("{} {} {}", text(&cause["field"]), text(&cause["reason"]), text(&cause["message"]))).collect()
    };
    let refused = admin.post(WIDGETS, &widget("x", json!({"replicas": 7, "free": {"limit": 1}}))).await.expect(422);
    assert_eq!(
        causes(refused),
        [
            "<nil> FieldValueForbidden Forbidden: names begin with w",
            "spec.replicas FieldValueInvalid Invalid value: at most 5, not 7",
            "spec FieldValueInvalid Invalid value: \"object\": 'no such overload: matches': call arguments did not match a supported operator, function or macro signature for rule: !has(self.free) || self.free.limit.matches('^[0-9]+$')",
        ]
    );
    admin.post(WIDGETS, &widget("w", json!({"replicas": 3, "ports": [{"name": "a", "port": 1}]}))).await.expect(201);
    let refused =
        admin.patch(&format!("{WIDGETS}/w"), "merge-patch", json!({"spec": {"replicas": 2, "ports": [{"name": "a", "port": 2}]}})).await;
    assert_eq!(
        causes(refused.expect(422)),
        ["spec FieldValueInvalid Invalid value: replicas never shrink", "spec.ports[0] FieldValueInvalid Invalid value: ports stay",]
    );
    admin
        .patch(&format!("{WIDGETS}/w"), "merge-patch", json!({"spec": {"replicas": 4, "ports": [{"name": "b", "port": 2}]}}))
        .await
        .expect(200);
}

#[tokio::test]
async fn apply_follows_the_schema() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let apply =
        async |manager: &str, spec: Value| admin.patch(&format!("{WIDGETS}/a?fieldManager={manager}"), "apply", widget("a", spec)).await;
    apply("one", json!({"replicas": 1, "tags": ["x"], "ports": [{"name": "a", "port": 1}]})).await.expect(201);
    // Items of a map list and of a set have owners of their own.
    let both = apply("two", json!({"tags": ["y"], "ports": [{"name": "b", "port": 2}], "replicas": 1})).await.expect(200);
    assert_eq!(both["spec"]["tags"], json!(["x", "y"]));
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2);
    let conflict = apply("two", json!({"tags": ["y"], "ports": [{"name": "a", "port": 9}], "replicas": 1})).await.expect(409);
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.ports[name=\"a\"].port");
    let less = apply("one", json!({"replicas": 1, "tags": []})).await.expect(200);
    assert_eq!((&less["spec"]["tags"], less["spec"]["ports"].as_array().unwrap().len()), (&json!(["y"]), 1));
    let again = apply("one", json!({"replicas": 1, "tags": []})).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], less["metadata"]["resourceVersion"], "an apply that changes nothing writes nothing");
}

#[tokio::test]
async fn a_changed_schema_holds_for_what_is_stored_and_ends_watches() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    admin.post(WIDGETS, &widget("a", json!({"replicas": 9}))).await.expect(201);
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(watch.word().await, "ADDED a");
    let base = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let change = json!([
        {"op": "add", "path": format!("{base}/shape"), "value": {"type": "string", "default": "round"}},
        {"op": "replace", "path": format!("{base}/replicas/maximum"), "value": 5},
        {"op": "add", "path": "/spec/versions/0/selectableFields/1", "value": {"jsonPath": ".spec.shape"}},
    ]);
    admin.patch(&format!("{DEFINITIONS}/widgets.example.com"), "json-patch", change).await.expect(200);
    assert_eq!(watch.word().await, "end");
    let read = admin.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(read["spec"]["shape"], "round", "a default holds for what was stored before it");
    assert_eq!(names(&admin.get(&format!("{WIDGETS}?fieldSelector=spec.shape%3Dround")).await.expect(200)), ["a"]);
    // What is wrong now but was so before does not hold up a change elsewhere.
    admin.patch(&format!("{WIDGETS}/a"), "merge-patch", json!({"spec": {"color": "blue"}})).await.expect(200);
    assert_eq!(admin.patch(&format!("{WIDGETS}/a"), "merge-patch", json!({"spec": {"replicas": 8}})).await.code, 422);
}

#[tokio::test]
async fn versions_convert_and_may_be_deprecated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut definition = definition();
    let mut old = definition["spec"]["versions"][0].clone();
    (old["name"], old["storage"], old["deprecated"]) = (json!("v1beta1"), json!(false), json!(true));
    let mut unserved = old.clone();
    (unserved["name"], unserved["served"]) = (json!("v1alpha1"), json!(false));
    definition["spec"]["versions"].as_array_mut().unwrap().extend([old, unserved]);
    define(&admin, &definition).await;
    admin.post(WIDGETS, &widget("a", json!({"replicas": 1}))).await.expect(201);
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let read = admin.get(&format!("{beta}/a")).await;
    assert_eq!(read.header("warning"), r#"299 - "example.com/v1beta1 Widget is deprecated""#);
    assert_eq!(read.expect(200)["apiVersion"], "example.com/v1beta1");
    let mut other = widget("b", json!({"replicas": 1}));
    other["apiVersion"] = "example.com/v1beta1".into();
    assert_eq!(admin.post(beta, &other).await.expect(201)["apiVersion"], "example.com/v1beta1");
    let list = admin.get(WIDGETS).await.expect(200);
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["apiVersion"] == "example.com/v1"), "{list}");
    let mut watch = admin.watch(&format!("{beta}?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["apiVersion"], "example.com/v1beta1");
    assert_eq!(admin.get("/apis/example.com/v1alpha1").await.code, 404);
    assert_eq!(admin.get("/apis/example.com").await.expect(200)["preferredVersion"]["version"], "v1");
    // All say which version they are stored in: base64 of the first 8 bytes of sha256 of `example.com/v1/Widget`, and then of v1beta1's.
    let stored = async || {
        let (v1, beta) = (admin.get("/apis/example.com/v1").await.expect(200), admin.get("/apis/example.com/v1beta1").await.expect(200));
        [v1, beta].map(|list| text(&list["resources"][0]["storageVersionHash"]).to_owned())
    };
    assert_eq!(stored().await, ["gIwvi5rymmg="; 2]);
    let mut live = admin.get(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    for version in live["spec"]["versions"].as_array_mut().unwrap() {
        version["storage"] = (version["name"] == "v1beta1").into();
    }
    admin.put(&format!("{DEFINITIONS}/widgets.example.com"), &live).await.expect(200);
    eventually(async || stored().await == ["3KMbXL6XZiI="; 2]).await;
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let mut held = widget("held", json!({"replicas": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(WIDGETS, &held).await.expect(201);
    admin.post(WIDGETS, &widget("free", json!({"replicas": 1}))).await.expect(201);
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true")).await;
    let mut definitions = admin.watch(&format!("{DEFINITIONS}?watch=true")).await;
    let marked = admin.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&marked, "Terminating"), "True");
    // The row is another now, so that this watch ends; a new one sees the rest.
    while watch.next().await.is_some() {}
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=true")).await;
    until(&mut watch, |event| event["object"]["metadata"]["name"] == "held" && !event["object"]["metadata"]["deletionTimestamp"].is_null())
        .await;
    let (_, message) = admin.post(WIDGETS, &widget("late", json!({"replicas": 1}))).await.refused(405);
    assert_eq!(message, "create not allowed while custom resource definition is terminating");
    let discovered = admin.get("/apis/example.com/v1").await.expect(200);
    assert_eq!(discovered["resources"][0]["verbs"], json!(["delete", "deletecollection", "get", "list", "watch"]));
    assert_eq!(discovered["resources"][1]["verbs"], json!(["get", "patch", "update"]));
    // What waits for its objects may still be written.
    let label = json!({"metadata": {"labels": {"waits": "yes"}}});
    admin.patch(&format!("{DEFINITIONS}/widgets.example.com"), "merge-patch", label).await.expect(200);
    let release = json!({"metadata": {"finalizers": null}});
    admin.patch(&format!("{WIDGETS}/held"), "merge-patch", release).await.expect(200);
    until(&mut definitions, |event| event["type"] == "DELETED").await;
    // Gone from the store; the row goes with the follower's next step.
    while watch.next().await.is_some() {}
    assert_eq!(admin.get(WIDGETS).await.code, 404);
    assert_eq!(admin.get("/apis/example.com").await.code, 404);
}

/// The paths of its managed fields are deeper than the object itself: what is accepted must be readable for ever.
#[tokio::test]
async fn an_object_as_deep_as_may_be_lives_its_life() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let deep = |levels: usize| widget("deep", json!({"replicas": 1, "free": (0..levels).fold(json!({}), |inner, _| json!({"n": inner}))}));
    let (_, message) = admin.post(WIDGETS, &deep(108)).await.refused(400);
    assert!(message.contains("nests deeper than 110 levels"), "{message}");
    let made = admin.post(WIDGETS, &deep(107)).await.expect(201);
    let path = format!("{WIDGETS}/deep");
    assert_eq!(admin.get(&path).await.expect(200)["spec"], made["spec"]);
    admin.patch(&path, "merge-patch", json!({"spec": {"replicas": 2}})).await.expect(200);
    let deeper = json!({"spec": {"free": deep(108)["spec"]["free"]}});
    admin.patch(&path, "merge-patch", deeper).await.refused(422);
    admin.patch(&format!("{path}?fieldManager=x&force=true"), "apply", deep(107)).await.expect(200);
    admin.put(&path, &admin.get(&path).await.expect(200)).await.expect(200);
    admin.delete(&path).await.expect(200);
}

#[tokio::test]
async fn definitions_that_are_wrong_are_refused_where_they_are_wrong() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let check = async |change: Value, expected: &[&str]| {
        let mut patched = definition();
        json_patch(&mut patched, &change);
        let refused = admin.post(DEFINITIONS, &patched).await.expect(422);
        let causes = refused["details"]["causes"].as_array().unwrap();
        let told: Vec<String> = causes.iter().map(|cause| format!("{}: {}", text(&cause["field"]), text(&cause["message"]))).collect();
        assert!(told.len() == expected.len() && told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:#?}");
    };
    let schema = "spec.validation.openAPIV3Schema";
    check(json!({"/metadata/name": "x"}), &["metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group"]).await;
    check(json!({"/spec/scope": "World"}), &["spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\""])
        .await;
    check(json!({"/spec/versions/0/storage": false}), &["spec.versions: Invalid value", "status.storedVersions: Invalid value: []"]).await;
    check(json!({"/spec/versions/0/schema": null}), &["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"])
        .await;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    check(
        json!({format!("{spec}/tags/items/type"): null}),
        &[&format!("{schema}.properties[spec].properties[tags].items.type: Required value: must not be empty for specified array items")],
    )
    .await;
    let rule = |text: &str| json!({format!("{spec}/ports/items/x-kubernetes-validations"): [{"rule": text}]});
    let rules = format!("{schema}.properties[spec].properties[ports].items.x-kubernetes-validations[0].rule: Invalid value");
    check(
        rule("self.prot == 'x'"),
        &[&format!("{rules}: \"self.prot == 'x'\": compilation failed: ERROR: <input>:1:5: undefined field 'prot'")],
    )
    .await;
    check(rule("self.port + 1"), &[&format!("{rules}: \"self.port + 1\": cel expression must evaluate to a bool")]).await;
    let atomic = json!({format!("{spec}/tags/items/x-kubernetes-validations"): [{"rule": "oldSelf != 'x'"}]});
    check(atomic, &[&format!("{schema}.properties[spec].properties[tags].items.x-kubernetes-validations[0].rule: Invalid value: \"oldSelf != 'x'\": oldSelf cannot be used on the uncorrelatable portion")]).await;
    check(
        json!({format!("{spec}/color/default"): "green"}),
        &[&format!("{schema}.properties[spec].properties[color].default: Unsupported value: \"green\"")],
    )
    .await;
    check(
        json!({format!("{spec}/ports/x-kubernetes-list-map-keys"): ["none"]}),
        &[&format!("{schema}.properties[spec].properties[ports].x-kubernetes-list-map-keys: Invalid value: [\"none\"]: entries must all be names of item properties")],
    )
    .await;
    check(
        json!({"/spec/versions/0/selectableFields/0/jsonPath": ".spec.none"}),
        &["spec.selectableFields[0].jsonPath: Invalid value: \".spec.none\": is an invalid path"],
    )
    .await;
    check(json!({"/spec/group": "batch.k8s.io", "/metadata/name": "widgets.batch.k8s.io"}), &["metadata.annotations[api-approved"]).await;
}

/// Sets values by JSON pointer; null removes.
fn json_patch(target: &mut Value, changes: &Value) {
    for (pointer, value) in changes.as_object().unwrap() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match target.pointer_mut(parent).unwrap() {
            Value::Object(map) if value.is_null() => drop(map.remove(key)),
            Value::Object(map) => drop(map.insert(key.to_owned(), value.clone())),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn names_that_are_taken_are_not_accepted_until_they_are_free() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    let mut second = definition();
    second["metadata"]["name"] = "gadgets.example.com".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let mut watch = admin.watch(&format!("{DEFINITIONS}?watch=true&fieldSelector=metadata.name%3Dgadgets.example.com")).await;
    admin.post(DEFINITIONS, &second).await.expect(201);
    let refused = until(&mut watch, |event| condition(&event["object"], "NamesAccepted") == "False").await;
    assert_eq!(refused["object"]["status"]["conditions"][0]["message"], "\"wd\" is already in use");
    assert_eq!(admin.get("/apis/example.com/v1/gadgets").await.code, 404);
    admin.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    until(&mut watch, |event| condition(&event["object"], "Established") == "True").await;
    admin.get("/apis/example.com/v1/gadgets").await.expect(200);
}

#[tokio::test]
async fn kinds_survive_a_restart() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition()).await;
    admin.post(WIDGETS, &widget("a", json!({"replicas": 1}))).await.expect(201);
    let Cluster { server, store, dir } = cluster;
    drop(admin);
    server.shutdown().await;
    drop(store);
    // The store's lock goes with its last user.
    let open = || Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() });
    let begun = Instant::now();
    let store = loop {
        match open() {
            Ok(store) => break std::sync::Arc::new(store),
            Err(error) if begun.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let config = crate::kit::config(&dir);
    let server = knarr_apiserver::ApiServer::start(config, store.clone() as std::sync::Arc<dyn Store>).await.expect("a server");
    let admin = Client::new(server.service_for(crate::kit::admin_user()));
    assert_eq!(names(&admin.get(WIDGETS).await.expect(200)), ["a"]);
}

#[tokio::test]
async fn formats_that_nobody_checks_are_warned_of_when_they_are_new() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let with = |definition: &Value, formats: &[(&str, &str)]| {
        let mut definition = definition.clone();
        let properties = formats.iter().map(|(ty, format)| (format!("{ty}-{format}"), json!({"type": ty, "format": format})));
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["formed"] = json!({
            "type": "array", "items": {"type": "object", "properties": properties.collect::<serde_json::Map<_, _>>()}});
        definition
    };
    let first = [("string", "date-time"), ("string", "odd"), ("integer", "int32"), ("integer", "strange"), ("string", "ip")];
    let made = admin.post(DEFINITIONS, &with(&definition(), &first)).await;
    assert_eq!(warnings(&made), ["299 - \"unrecognized format \\\"ip\\\"\"", "299 - \"unrecognized format \\\"odd\\\"\""]);
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let patch = json!({"spec": {"versions": with(&definition(), &[("string", "odd"), ("string", "new")])["spec"]["versions"]}});
    let changed = admin.patch(&path, "merge-patch", patch).await;
    changed.expect(200);
    assert_eq!(warnings(&changed), ["299 - \"unrecognized format \\\"new\\\"\""]);
    established(&admin, "widgets.example.com").await;
    // Objects are not held to such a format.
    let named = json!({"replicas": 1, "formed": [{"string-odd": "x", "string-new": "y"}]});
    admin.post(WIDGETS, &widget("a", named)).await.expect(201);
}

fn warnings(answer: &crate::kit::Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().expect("a text header")).collect()
}

#[tokio::test]
async fn replicas_are_owned_at_the_path_of_the_version_in_which_they_were_written() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut definition = definition();
    let mut old = definition["spec"]["versions"][0].clone();
    old["name"] = "v1beta1".into();
    old["selectableFields"] = Value::Null;
    (old["storage"], old["subresources"]["scale"]["specReplicasPath"]) = (false.into(), ".spec.size".into());
    old["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "properties": {"size": {"type": "integer"}, "replicas": {"type": "integer"}}});
    definition["spec"]["versions"].as_array_mut().expect("versions").push(old);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] = json!({"type": "integer"});
    define(&admin, &definition).await;
    let beta = "/apis/example.com/v1beta1/namespaces/default/widgets/w?fieldManager=author";
    let whole =
        json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 1, "replicas": 1}});
    admin.patch(beta, "apply", &whole).await.expect(201);
    // The author owns the replicas of his own version, which are its size, and not those of the scale in v1.
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 2}});
    let (_, message) = admin.patch(&format!("{WIDGETS}/w/scale?fieldManager=scaler"), "apply", &scale).await.refused(409);
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"author\": .spec.replicas");
    admin.patch(&format!("{WIDGETS}/w/scale?fieldManager=scaler&force=true"), "apply", &scale).await.expect(200);
    let live = admin.get(&format!("{WIDGETS}/w")).await.expect(200);
    let owned = |manager: &str| {
        let entries = live["metadata"]["managedFields"].as_array().expect("managers");
        entries.iter().find(|entry| entry["manager"] == manager).map(|entry| (entry["apiVersion"].clone(), entry["fieldsV1"].clone()))
    };
    assert_eq!(owned("author"), Some((json!("example.com/v1beta1"), json!({"f:spec": {"f:replicas": {}}}))));
    assert_eq!(owned("scaler"), Some((json!("example.com/v1"), json!({"f:spec": {"f:replicas": {}}}))));
}

#[tokio::test]
async fn a_schema_speaks_of_the_names_of_its_objects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut definition = definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["metadata"] = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 8, "pattern": "^w"}, "generateName": {"type": "string", "maxLength": 3}}});
    define(&admin, &definition).await;
    admin.post(WIDGETS, &widget("w", json!({"replicas": 1}))).await.expect(201);
    let (_, message) = admin.post(WIDGETS, &widget("widget-too-long", json!({"replicas": 1}))).await.refused(422);
    assert!(message.contains("metadata.name: Too long: may not be more than 8 bytes"), "{message}");
    let (_, message) = admin.post(WIDGETS, &widget("x", json!({"replicas": 1}))).await.refused(422);
    assert!(message.contains("metadata.name: Invalid value: \"x\": metadata.name in body should match '^w'"), "{message}");
    let mut generated = widget("", json!({"replicas": 1}));
    generated["metadata"] = json!({"generateName": "wide"});
    let (_, message) = admin.post(WIDGETS, &generated).await.refused(422);
    assert!(message.contains("metadata.generateName: Too long"), "{message}");
    generated["metadata"] = json!({"generateName": "wi-", "labels": {"a": "b"}, "annotations": {"long": "annotation"}});
    admin.post(WIDGETS, &generated).await.expect(201);
}

#[tokio::test]
async fn a_list_that_had_duplicates_may_keep_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut loose = definition();
    let tags = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/tags/x-kubernetes-list-type";
    *loose.pointer_mut(tags).expect("a list type") = "atomic".into();
    define(&admin, &loose).await;
    admin.post(WIDGETS, &widget("old", json!({"replicas": 1, "tags": ["x", "x"]}))).await.expect(201);
    admin.post(WIDGETS, &widget("well", json!({"replicas": 1, "tags": ["x"]}))).await.expect(201);
    let mut watch = admin.watch(&format!("{WIDGETS}?watch=1")).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut strict = admin.get(&path).await.expect(200);
    *strict.pointer_mut(tags).expect("a list type") = "set".into();
    admin.put(&path, &strict).await.expect(200);
    // Watches of the old rows end when the new ones are served.
    while watch.next().await.is_some() {}
    let tags = |tags: Value| json!({"spec": {"tags": tags}});
    for (name, patch, fits) in [
        ("old", json!({"spec": {"replicas": 2}}), true),
        ("old", tags(json!(["x", "x", "y"])), true),
        ("well", tags(json!(["x", "y", "y"])), false),
        ("old", tags(json!(["x"])), true),
        ("old", tags(json!(["x", "x"])), false),
    ] {
        let answer = admin.patch(&format!("{WIDGETS}/{name}"), "merge-patch", &patch).await;
        if fits {
            answer.expect(200);
        } else {
            let (_, message) = answer.refused(422);
            assert!(message.contains("Duplicate value"), "{message}");
        }
    }
}
