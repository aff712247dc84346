//! Custom resources whose versions are converted by a webhook: a real server over TLS.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use knarr_store::{Collection, Key, Store};
use serde_json::{Value, json};

use crate::{
    custom::{DEFINITIONS, define},
    hook::{Hook, patch, respond},
    kit::{CONFIG_MAPS, Client, Cluster, names, text},
};

const WELL: u8 = 0;
const FAILS: u8 = 1;
const RENAMES: u8 = 2;

fn toys(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/toys")
}

/// v1, which is stored, has `spec.size` in centimetres; v2 has `spec.length` as a text with its unit.
fn definition(client_config: Value) -> Value {
    let version = |name: &str, storage: bool, properties: Value| {
        json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": properties}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    let mut definition = json!({
        "metadata": {"name": "toys.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
            "versions": [
                version("v1", true, json!({"size": {"type": "integer"}, "color": {"type": "string"}})),
                version("v2", false, json!({"length": {"type": "string", "pattern": "cm$"}, "color": {"type": "string"}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client_config, "conversionReviewVersions": ["v1"]}},
        },
    });
    definition["spec"]["versions"][1]["selectableFields"] = json!([{"jsonPath": ".spec.length"}]);
    definition
}

fn convert(object: &Value, wanted: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = wanted.into();
    let Some(Value::Object(spec)) = object.get_mut("spec") else { return object };
    if let Some(size) = spec.remove("size") {
        spec.insert("length".into(), format!("{size} cm").into());
    } else if let Some(length) = spec.remove("length") {
        spec.insert("size".into(), text(&length).trim_end_matches(" cm").parse::<i64>().expect("a number").into());
    }
    object
}

struct World {
    cluster: Cluster,
    admin: Client,
    hook: Hook,
    mood: Arc<AtomicU8>,
}

impl World {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let admin = cluster.admin();
        let mood = Arc::new(AtomicU8::new(WELL));
        let hook = Hook::start(&cluster, {
            let mood = mood.clone();
            move |_, review| {
                let request = &review["request"];
                let wanted = text(&request["desiredAPIVersion"]);
                let mut objects: Vec<Value> = request["objects"].as_array().into_iter().flatten().map(|one| convert(one, wanted)).collect();
                let mut result = json!({"status": "Success"});
                match mood.load(Ordering::SeqCst) {
                    FAILS => result = json!({"status": "Failure", "message": "out of order"}),
                    RENAMES => objects.iter_mut().for_each(|one| one["metadata"]["name"] = "other".into()),
                    _ => objects.iter_mut().for_each(|one| one["metadata"]["finalizers"] = json!(["not/kept"])),
                }
                let response = json!({"uid": request["uid"], "result": result, "convertedObjects": objects});
                Some(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}))
            }
        })
        .await;
        define(&admin, &definition(hook.client_config("/convert"))).await;
        Self { cluster, admin, hook, mood }
    }

    async fn create(&self, name: &str, length: &str) -> Value {
        let toy = json!({"metadata": {"name": name}, "spec": {"length": length}});
        self.admin.post(&toys("v2"), &toy).await.expect(201)
    }

    fn stored(&self, name: &str) -> Value {
        let entry = self.cluster.store.snapshot().get(&Key::new(&Collection::new("example.com/toys"), "default", name)).cloned();
        serde_json::from_slice(&entry.expect("a stored toy").value).expect("JSON")
    }
}

#[tokio::test]
async fn each_version_sees_its_own_form_and_one_is_stored() {
    let world = World::start().await;
    let made = world.create("a", "7 cm").await;
    assert_eq!((&made["apiVersion"], &made["spec"]), (&json!("example.com/v2"), &json!({"length": "7 cm"})));
    let stored = world.stored("a");
    assert_eq!((&stored["apiVersion"], &stored["spec"]), (&json!("example.com/v1"), &json!({"size": 7})));
    assert_eq!(stored["metadata"].get("finalizers"), None, "of the metadata a webhook changes labels and annotations only");
    world.hook.seen();
    let one = world.admin.get(&format!("{}/a", toys("v1"))).await.expect(200);
    assert_eq!(one["spec"], json!({"size": 7}));
    assert!(world.hook.seen().is_empty(), "what is stored in the version that is asked for needs no conversion");
    let two = world.admin.get(&format!("{}/a", toys("v2"))).await.expect(200);
    assert_eq!((&two["spec"], &two["metadata"]["resourceVersion"]), (&json!({"length": "7 cm"}), &one["metadata"]["resourceVersion"]));
    // Validation is that of the request's version.
    let wrong = json!({"metadata": {"name": "b"}, "spec": {"length": "7 mm"}});
    world.admin.post(&toys("v2"), &wrong).await.refused(422);
}

#[tokio::test]
async fn writes_of_all_sorts_go_through_the_version_of_the_request() {
    let world = World::start().await;
    world.create("a", "7 cm").await;
    let path = format!("{}/a", toys("v2"));
    let patched = world.admin.patch(&path, "merge-patch", json!({"spec": {"length": "8 cm"}})).await.expect(200);
    assert_eq!((&patched["spec"]["length"], &world.stored("a")["spec"]["size"]), (&json!("8 cm"), &json!(8)));
    let mut next = patched.clone();
    next["spec"]["length"] = "9 cm".into();
    world.admin.put(&path, &next).await.expect(200);
    world.admin.put(&path, &next).await.refused(409);
    assert_eq!(world.stored("a")["spec"], json!({"size": 9}));
    let applied = json!({"apiVersion": "example.com/v2", "kind": "Toy", "metadata": {"name": "a"}, "spec": {"color": "red"}});
    let applied = world.admin.patch(&format!("{path}?fieldManager=me"), "apply", applied).await.expect(200);
    assert_eq!(applied["spec"], json!({"length": "9 cm", "color": "red"}));
    let status = world.admin.patch(&format!("{path}/status"), "merge-patch", json!({"status": {"ok": true}})).await.expect(200);
    assert_eq!((&status["status"], &status["spec"]["length"]), (&json!({"ok": true}), &json!("9 cm")));
    let before = world.stored("a")["metadata"]["resourceVersion"].clone();
    world.admin.patch(&path, "merge-patch", json!({"spec": {"length": "9 cm"}})).await.expect(200);
    assert_eq!(world.stored("a")["metadata"]["resourceVersion"], before, "a write that changes nothing writes nothing");
    world.admin.delete(&path).await.expect(200);
    world.admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn a_list_is_one_call_and_a_watch_follows_in_its_own_version() {
    let world = World::start().await;
    for name in ["a", "b", "c"] {
        world.create(name, "1 cm").await;
    }
    world.hook.seen();
    let list = world.admin.get(&toys("v2")).await.expect(200);
    let lengths: Vec<_> = list["items"].as_array().into_iter().flatten().map(|item| text(&item["spec"]["length"])).collect();
    assert_eq!(lengths, ["1 cm"; 3]);
    let calls: Vec<_> = world.hook.seen().iter().map(|review| review["request"]["objects"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(calls, [3]);
    let mut watch = world.admin.watch(&format!("{}?watch=1", toys("v2"))).await;
    for _ in 0..3 {
        assert_eq!(watch.next().await.expect("an event")["object"]["spec"]["length"], "1 cm");
    }
    world.admin.patch(&format!("{}/b", toys("v1")), "merge-patch", json!({"spec": {"size": 5}})).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["apiVersion"], &event["object"]["spec"]["length"]),
        (&json!("MODIFIED"), &json!("example.com/v2"), &json!("5 cm"))
    );
    world.admin.delete(&format!("{}/b", toys("v1"))).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["spec"]["length"]), (&json!("DELETED"), &json!("5 cm")));
}

#[tokio::test]
async fn selectors_look_at_the_version_of_the_request() {
    let world = World::start().await;
    for (name, length) in [("a", "1 cm"), ("b", "2 cm"), ("c", "2 cm"), ("d", "2 cm")] {
        world.create(name, length).await;
    }
    let two = |rest: &str| format!("{}?fieldSelector=spec.length%3D2+cm{rest}", toys("v2"));
    assert_eq!(names(&world.admin.get(&two("")).await.expect(200)), ["b", "c", "d"]);
    let page = world.admin.get(&two("&limit=2")).await.expect(200);
    assert_eq!(names(&page), ["b", "c"]);
    let rest = format!("&limit=2&continue={}", text(&page["metadata"]["continue"]));
    assert_eq!(names(&world.admin.get(&two(&rest)).await.expect(200)), ["d"]);
    world.admin.delete(&format!("{}?fieldSelector=spec.length%21%3D2+cm", toys("v2"))).await.expect(200);
    assert_eq!(names(&world.admin.get(&toys("v1")).await.expect(200)), ["b", "c", "d"]);
}

#[tokio::test]
async fn a_watch_does_not_end_by_what_is_not_for_it() {
    let world = World::start().await;
    world.create("a", "1 cm").await;
    let mut watch = world.admin.watch(&format!("{}?watch=1", toys("v2").replace("default", "kube-system"))).await;
    let mut own = world.admin.watch(&format!("{}?watch=1&fieldSelector=metadata.name%3Da", toys("v2"))).await;
    assert_eq!(own.next().await.expect("an event")["object"]["metadata"]["name"], "a");
    world.mood.store(FAILS, Ordering::SeqCst);
    let other = json!({"metadata": {"name": "b"}, "spec": {"size": 1}});
    world.admin.post(&toys("v1"), &other).await.expect(201);
    world.mood.store(WELL, Ordering::SeqCst);
    let here = json!({"metadata": {"name": "c"}, "spec": {"size": 3}});
    world.admin.post(&toys("v1").replace("default", "kube-system"), &here).await.expect(201);
    assert_eq!(watch.next().await.expect("an event")["object"]["spec"]["length"], "3 cm");
    world.admin.patch(&format!("{}/a", toys("v1")), "merge-patch", json!({"spec": {"size": 4}})).await.expect(200);
    assert_eq!(own.next().await.expect("an event")["object"]["spec"]["length"], "4 cm");
}

#[tokio::test]
async fn a_hook_about_one_version_is_asked_about_objects_of_the_other() {
    let world = World::start().await;
    let server = Hook::start(&world.cluster, |_, review| {
        assert_eq!(review["request"]["kind"]["version"], "v1");
        assert_eq!(review["request"]["requestKind"]["version"], "v2");
        match review["request"]["object"]["spec"]["size"] == 13 {
            true => respond(review, json!({"allowed": false, "status": {"message": "unlucky"}})),
            false => patch(review, json!([{"op": "add", "path": "/spec/color", "value": "red"}])),
        }
    })
    .await;
    let rules = json!([{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["toys"]}]);
    let hook = json!({"name": "a.hook.example", "clientConfig": server.client_config("/"), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "rules": rules});
    let body = json!({"metadata": {"name": "a"}, "webhooks": [hook]});
    world.admin.post("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", &body).await.expect(201);
    assert_eq!(world.create("a", "7 cm").await["spec"], json!({"length": "7 cm", "color": "red"}));
    let unlucky = json!({"metadata": {"name": "b"}, "spec": {"length": "13 cm"}});
    assert!(world.admin.post(&toys("v2"), &unlucky).await.refused(400).1.ends_with("unlucky"));
    world.mood.store(FAILS, Ordering::SeqCst);
    let new = json!({"metadata": {"name": "c"}, "spec": {"length": "1 cm"}});
    world.admin.post(&toys("v2"), &new).await.refused(500);
    world.admin.get(&format!("{}/c", toys("v1"))).await.refused(404);
}

#[tokio::test]
async fn a_webhook_that_fails_or_cheats_is_told_and_changes_nothing() {
    let world = World::start().await;
    world.create("a", "7 cm").await;
    let two = format!("{}/a", toys("v2"));
    for (mood, why) in
        [(FAILS, "failed: out of order"), (RENAMES, "returned invalid converted object at index 0: must have the same name: other != a")]
    {
        world.mood.store(mood, Ordering::SeqCst);
        let expected = format!("conversion webhook for example.com/v1, Kind=Toy {why}");
        assert_eq!(world.admin.get(&two).await.refused(500).1, expected);
        assert_eq!(world.admin.get(&toys("v2")).await.refused(500).1, expected);
        assert_eq!(world.admin.patch(&two, "merge-patch", json!({"spec": {"length": "9 cm"}})).await.refused(500).1, expected);
        let new = json!({"metadata": {"name": "b"}, "spec": {"length": "1 cm"}});
        assert!(world.admin.post(&toys("v2"), &new).await.refused(500).1.starts_with("conversion webhook for example.com/v2, Kind=Toy"));
        world.admin.get(&format!("{}/b", toys("v1"))).await.refused(404);
        // The stored version needs no webhook.
        assert_eq!(world.admin.get(&format!("{}/a", toys("v1"))).await.expect(200)["spec"]["size"], 7);
    }
}

#[tokio::test]
async fn objects_of_an_older_storage_version_are_converted_too() {
    let world = World::start().await;
    world.create("a", "7 cm").await;
    let mut watch = world.admin.watch(&format!("{}?watch=1", toys("v1"))).await;
    watch.next().await;
    let path = format!("{DEFINITIONS}/toys.example.com");
    let mut definition = world.admin.get(&path).await.expect(200);
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"][1]["storage"] = true.into();
    world.admin.put(&path, &definition).await.expect(200);
    // Watches of the old rows end when the new ones are served.
    while watch.next().await.is_some() {}
    assert_eq!(world.stored("a")["apiVersion"], "example.com/v1");
    assert_eq!(world.admin.get(&format!("{}/a", toys("v2"))).await.expect(200)["spec"], json!({"length": "7 cm"}));
    assert_eq!(world.admin.get(&format!("{}/a", toys("v1"))).await.expect(200)["spec"], json!({"size": 7}));
    // An apply of nothing stores it anew, once.
    let nothing = json!({"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": "a"}});
    let apply = || async { world.admin.patch(&format!("{}/a?fieldManager=m", toys("v1")), "apply", nothing.clone()).await.expect(200) };
    let (old, rewritten) = (world.stored("a"), apply().await);
    let new = world.stored("a");
    assert_eq!((&new["apiVersion"], &new["spec"]), (&json!("example.com/v2"), &json!({"length": "7 cm"})));
    assert_eq!(new["metadata"]["managedFields"], old["metadata"]["managedFields"]);
    assert_ne!(new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
    assert_eq!(apply().await, rewritten, "what is stored as it should be is not written again");
    world.admin.patch(&format!("{}/a", toys("v1")), "merge-patch", json!({"spec": {"size": 8}})).await.expect(200);
    assert_eq!(world.stored("a")["spec"], json!({"length": "8 cm"}));
}

#[tokio::test]
async fn policies_judge_and_change_objects_in_the_version_that_they_name() {
    let world = World::start().await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let about =
        json!({"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["toys"]}]});
    let change = json!([{"patchType": "ApplyConfiguration", "applyConfiguration": {
        "expression": "Object{spec: Object.spec{size: object.spec.size + 1, color: 'red'}}"}}]);
    let mutating =
        json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": about, "reinvocationPolicy": "Never", "mutations": change}});
    let validating =
        json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": about, "validations": [{"expression": "object.spec.size < 10"}]}});
    for (sort, policy) in [("mutating", mutating), ("validating", validating)] {
        world.admin.post(&format!("{group}/{sort}admissionpolicies"), &policy).await.expect(201);
        let mut binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
        if sort == "validating" {
            binding["spec"]["validationActions"] = json!(["Deny"]);
        }
        world.admin.post(&format!("{group}/{sort}admissionpolicybindings"), &binding).await.expect(201);
    }
    let made = world.create("a", "7 cm").await;
    assert_eq!(made["spec"], json!({"length": "8 cm", "color": "red"}));
    let toy = json!({"metadata": {"name": "b"}, "spec": {"length": "9 cm"}});
    let (_, message) = world.admin.post(&toys("v2"), &toy).await.refused(422);
    assert!(message.ends_with("failed expression: object.spec.size < 10"), "{message}");
    // Where it cannot be had in that version, nothing goes through unjudged.
    world.mood.store(FAILS, Ordering::SeqCst);
    let (_, message) = world.admin.post(&toys("v2"), &toy).await.refused(403);
    assert!(message.starts_with("policy 'p' with binding 'b' denied request: failed to convert object version: "), "{message}");
}

#[tokio::test]
async fn a_policys_parameters_are_in_the_version_that_it_names() {
    let world = World::start().await;
    world.create("limits", "7 cm").await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rules =
        json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": rules,
        "paramKind": {"apiVersion": "example.com/v2", "kind": "Toy"},
        "validations": [{"expression": "params.apiVersion == 'example.com/v2' && params.spec.length == object.data.length"}]}});
    world.admin.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.expect(201);
    let reference = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"], "paramRef": reference}});
    world.admin.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let measured = |name: &str, length: &str| json!({"metadata": {"name": name}, "data": {"length": length}});
    world.admin.post(CONFIG_MAPS, &measured("a", "7 cm")).await.expect(201);
    world.admin.post(CONFIG_MAPS, &measured("b", "8 cm")).await.refused(422);
    world.mood.store(FAILS, Ordering::SeqCst);
    let (_, message) = world.admin.post(CONFIG_MAPS, &measured("c", "7 cm")).await.refused(422);
    assert!(message.contains("failed to configure binding: ") && message.contains("out of order"), "{message}");
}

#[tokio::test]
async fn who_owns_fields_of_another_version_is_asked_in_that_version() {
    let world = World::start().await;
    let path = |version: &str, manager: &str| format!("{}/a?fieldManager={manager}", toys(version));
    let toy = |version: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Toy", "spec": spec});
    let managers = |toy: &Value| -> Vec<String> {
        let entries = toy["metadata"]["managedFields"].as_array().into_iter().flatten();
        let said = |entry: &Value| format!("{} {} {}", text(&entry["manager"]), text(&entry["apiVersion"]), entry["fieldsV1"]["f:spec"]);
        let mut all: Vec<String> = entries.map(said).collect();
        all.sort();
        all
    };
    let mut labelled = toy("v2", json!({"length": "7 cm", "color": "red"}));
    labelled["metadata"] = json!({"labels": {"a": "b"}});
    let made = world.admin.patch(&path("v2", "a"), "apply", labelled).await.expect(201);
    assert_eq!(managers(&made), [r#"a example.com/v2 {"f:color":{},"f:length":{}}"#]);
    let (reason, message) = world.admin.patch(&path("v1", "b"), "apply", toy("v1", json!({"size": 8}))).await.refused(409);
    assert_eq!((&*reason, &*message), ("Conflict", "Apply failed with 1 conflict: conflict with \"a\": .spec.length"));
    // The same in other words is no conflict.
    let shared = world.admin.patch(&path("v1", "b"), "apply", toy("v1", json!({"size": 7}))).await.expect(200);
    assert_eq!(managers(&shared), [r#"a example.com/v2 {"f:color":{},"f:length":{}}"#, r#"b example.com/v1 {"f:size":{}}"#]);
    // What a does not want any more stays for b, and goes when b does not want it either.
    let left = world.admin.patch(&path("v1", "a"), "apply", toy("v1", json!({"color": "red"}))).await.expect(200);
    assert_eq!((&left["spec"], left["metadata"].get("labels")), (&json!({"color": "red", "size": 7}), None));
    assert_eq!(managers(&left), [r#"a example.com/v1 {"f:color":{}}"#, r#"b example.com/v1 {"f:size":{}}"#]);
    let left = world.admin.patch(&path("v2", "b"), "apply", toy("v2", Value::Null)).await.expect(200);
    assert_eq!(left["spec"], json!({"color": "red"}));
    // An update takes over what it changes.
    world.admin.patch(&path("v2", "a"), "apply", toy("v2", json!({"length": "7 cm", "color": "red"}))).await.expect(200);
    let updated = world.admin.patch(&path("v1", "c"), "merge-patch", json!({"spec": {"size": 9}})).await.expect(200);
    assert_eq!(managers(&updated), [r#"a example.com/v2 {"f:color":{}}"#, r#"c example.com/v1 {"f:size":{}}"#]);
    // A webhook that is down holds up what is written as it is stored as little as ever, and nobody loses by it.
    world.mood.store(FAILS, Ordering::SeqCst);
    let updated = world.admin.patch(&path("v1", "c"), "merge-patch", json!({"spec": {"size": 10}})).await.expect(200);
    assert_eq!(managers(&updated), [r#"a example.com/v2 {"f:color":{}}"#, r#"c example.com/v1 {"f:size":{}}"#]);
    assert!(world.admin.patch(&path("v1", "d"), "apply", toy("v1", json!({"size": 10}))).await.refused(500).1.ends_with("out of order"));
}

#[tokio::test]
async fn who_owns_fields_of_a_version_that_is_gone_owns_nothing() {
    let world = World::start().await;
    let path = |version: &str, manager: &str| format!("{}/a?fieldManager={manager}", toys(version));
    let toy = |version: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Toy", "spec": spec});
    world.admin.patch(&path("v2", "a"), "apply", toy("v2", json!({"color": "red"}))).await.expect(201);
    world.admin.patch(&path("v1", "b"), "apply", toy("v1", json!({"size": 8}))).await.expect(200);
    let mut watch = world.admin.watch(&format!("{}?watch=1", toys("v1"))).await;
    let definition = format!("{DEFINITIONS}/toys.example.com");
    let versions = world.admin.get(&definition).await.expect(200)["spec"]["versions"].clone();
    world
        .admin
        .patch(
            &definition,
            "merge-patch",
            json!({"spec": {"versions": [versions[0]], "conversion": {"strategy": "None", "webhook": null}}}),
        )
        .await
        .expect(200);
    while watch.next().await.is_some() {}
    let written = world.admin.patch(&path("v1", "b"), "apply", toy("v1", json!({"size": 9, "color": "blue"}))).await.expect(200);
    let managers: Vec<&str> =
        written["metadata"]["managedFields"].as_array().expect("managers").iter().map(|entry| text(&entry["manager"])).collect();
    assert_eq!((managers, &written["spec"]["color"]), (vec!["b"], &json!("blue")));
}
