//! Admission webhooks: real servers over TLS, asked by the real server.

use knarr_apiserver::User;
use serde_json::{Value, json};

use crate::{
    hook::{Hook, allow, patch, respond},
    kit::{Answer, CONFIG_MAPS, Client, Cluster, PODS, pod},
};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Requests that wait for a hook, in the test below.
const WAITING: usize = 16;

/// One hook of a configuration, about config maps unless `more` says otherwise.
fn hook(name: &str, client_config: Value, more: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.hook.example"), "clientConfig": client_config, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]});
    for (key, value) in more.as_object().expect("fields of a hook") {
        hook[key] = value.clone();
    }
    hook
}

async fn mutating(admin: &Client, name: &str, hooks: &[Value]) {
    let body = json!({"metadata": {"name": name}, "webhooks": hooks});
    let made = admin.post(&format!("{CONFIGURATIONS}/mutatingwebhookconfigurations"), &body).await;
    assert_eq!(made.header("warning"), "");
    made.expect(201);
}

async fn validating(admin: &Client, name: &str, hooks: &[Value]) {
    let body = json!({"metadata": {"name": name}, "webhooks": hooks});
    admin.post(&format!("{CONFIGURATIONS}/validatingwebhookconfigurations"), &body).await.expect(201);
}

async fn remove(admin: &Client, kind: &str, name: &str) {
    admin.delete(&format!("{CONFIGURATIONS}/{kind}webhookconfigurations/{name}")).await.expect(200);
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"key": "value"}})
}

async fn create(admin: &Client, name: &str) -> Answer {
    admin.post(CONFIG_MAPS, &config_map(name)).await
}

fn rules(operations: &[&str], group: &str, resource: &str) -> Value {
    json!([{"apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": [resource]}])
}

/// Which of `fields` of the data each manager of `object` owns, by name.
fn owned(object: &Value, fields: &[&str]) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().expect("managers");
    let one = |entry: &Value| {
        let data = &entry["fieldsV1"]["f:data"];
        let of: Vec<&str> = fields.iter().filter(|field| data.get(format!("f:{field}")).is_some()).copied().collect();
        format!("{} {}: {}", entry["manager"].as_str().unwrap_or(""), entry["operation"].as_str().unwrap_or(""), of.join(" "))
    };
    let mut all: Vec<String> = entries.iter().map(one).collect();
    all.sort();
    all
}

#[tokio::test]
async fn nobody_owns_what_admission_changed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| {
        patch(
            review,
            json!([{"op": "add", "path": "/data/hook", "value": review["request"]["uid"]}, {"op": "add", "path": "/data/fixed", "value": "hook"}]),
        )
    })
    .await;
    mutating(&admin, "a", &[hook("a", server.client_config("/mutate"), json!({}))]).await;
    let all = ["key", "fixed", "hook", "b", "c"];
    let object = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": data});
    let path = format!("{CONFIG_MAPS}/one");
    let made = admin.post(&format!("{CONFIG_MAPS}?fieldManager=maker"), &object(json!({"key": "1", "fixed": "mine"}))).await.expect(201);
    assert_eq!(owned(&made, &all), ["maker Update: key fixed"]);
    let put = admin.put(&format!("{path}?fieldManager=putter"), &object(json!({"key": "2", "fixed": "hook"}))).await.expect(200);
    // The putter left out what the hook had set, and got it back; that is no wish for it.
    assert_eq!(owned(&put, &all), ["maker Update: fixed", "putter Update: key"]);
    let merged = admin.patch(&format!("{path}?fieldManager=patcher"), "merge-patch", json!({"data": {"b": "1"}})).await.expect(200);
    assert_eq!(owned(&merged, &all), ["maker Update: fixed", "patcher Update: b", "putter Update: key"]);
    let applied = admin.patch(&format!("{path}?fieldManager=applier"), "apply", object(json!({"c": "1"}))).await.expect(200);
    assert_eq!(owned(&applied, &all), ["applier Apply: c", "maker Update: fixed", "patcher Update: b", "putter Update: key"]);
    assert_eq!(admin.get(&path).await.expect(200)["data"]["hook"], server.seen().last().expect("a review")["request"]["uid"]);
}

#[tokio::test]
async fn a_hook_may_say_who_owns_what_if_it_can_be_read() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| {
        let operation = if path == "/good" { "Update" } else { "Replace" };
        let entry = json!({"manager": "hook", "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:added": {}}}});
        patch(
            review,
            json!([{"op": "add", "path": "/metadata/managedFields/-", "value": entry}, {"op": "add", "path": "/data/added", "value": "x"}]),
        )
    })
    .await;
    let made = |answer: &Answer| owned(&answer.expect(201), &["key", "added"]);
    mutating(&admin, "a", &[hook("a", server.client_config("/good"), json!({}))]).await;
    let good = admin.post(&format!("{CONFIG_MAPS}?fieldManager=me"), &config_map("good")).await;
    assert_eq!((made(&good), good.header("warning")), (vec!["hook Update: added".to_owned(), "me Update: key".to_owned()], ""));
    remove(&admin, "mutating", "a").await;
    mutating(&admin, "b", &[hook("b", server.client_config("/bad"), json!({}))]).await;
    let bad = admin.post(&format!("{CONFIG_MAPS}?fieldManager=me"), &config_map("bad")).await;
    assert_eq!(made(&bad), ["me Update: key"], "the record as it was before admission");
    assert_eq!(bad.expect(201)["data"]["added"], "x");
    assert!(bad.header("warning").contains("managedFields[1].operation: must be `Apply` or `Update`"), "{}", bad.header("warning"));
}

#[tokio::test]
async fn a_hook_is_sent_the_request_and_changes_the_object() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| {
        patch(review, json!([{"op": "add", "path": "/data/added", "value": "by the hook"}, {"op": "add", "path": "/unknown", "value": 1}]))
    })
    .await;
    mutating(&admin, "a", &[hook("a", server.client_config("/mutate"), json!({}))]).await;
    let made = admin.post(&format!("{CONFIG_MAPS}?fieldManager=me"), &config_map("one")).await.expect(201);
    assert_eq!(made["data"], json!({"key": "value", "added": "by the hook"}));
    assert_eq!(made.get("unknown"), None);
    let fields = &made["metadata"]["managedFields"];
    assert_eq!(fields.as_array().map(Vec::len), Some(1), "{fields}");
    assert_eq!(
        (&fields[0]["manager"], &fields[0]["fieldsV1"]["f:data"]),
        (&json!("me"), &json!({".": {}, "f:key": {}})),
        "the client's own"
    );
    let seen = server.seen();
    let [review] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
    let mut request = review["request"].clone();
    assert!(request["uid"].as_str().is_some_and(|uid| uid.len() == 36), "{request}");
    assert_eq!(request["object"]["apiVersion"], "v1");
    assert_eq!(request["object"]["data"], json!({"key": "value"}));
    assert_eq!(request["object"]["metadata"]["managedFields"], *fields, "the record is made before admission");
    for field in ["uid", "object"] {
        request.as_object_mut().expect("a request").remove(field);
    }
    let (kind, resource) =
        (json!({"group": "", "version": "v1", "kind": "ConfigMap"}), json!({"group": "", "version": "v1", "resource": "configmaps"}));
    let user = json!({"username": "kubernetes-admin", "groups": ["system:masters", "system:authenticated"]});
    assert_eq!(
        request,
        json!({"kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource, "name": "one", "namespace": "default",
            "operation": "CREATE", "userInfo": user, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "fieldValidation": "Warn"}})
    );
}

#[tokio::test]
async fn hooks_see_what_those_before_them_made_and_are_asked_again_if_they_wish() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // Each appends its letter to a label; `b` comes after `a` by the name of the configuration.
    let server = Hook::start(&cluster, |path, review| {
        let before = review["request"]["object"]["data"]["trace"].as_str().unwrap_or("").to_owned();
        patch(review, json!([{"op": "add", "path": "/data/trace", "value": before + &path[1..]}]))
    })
    .await;
    mutating(&admin, "b", &[hook("b", server.client_config("/b"), json!({}))]).await;
    mutating(&admin, "a", &[hook("a", server.client_config("/a"), json!({"reinvocationPolicy": "IfNeeded"}))]).await;
    let trace = |made: &Value| made["data"]["trace"].as_str().unwrap_or("").to_owned();
    assert_eq!(trace(&create(&admin, "one").await.expect(201)), "aba", "a is asked again after b, and b is not");
    remove(&admin, "mutating", "b").await;
    assert_eq!(trace(&create(&admin, "two").await.expect(201)), "a", "nothing changed after a");
    remove(&admin, "mutating", "a").await;
    assert_eq!(trace(&create(&admin, "three").await.expect(201)), "", "a configuration that is gone is not in force");
}

#[tokio::test]
async fn what_a_hook_changes_is_defaulted_validated_and_seen_by_the_built_in_plug_ins() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| match path {
        "/sidecar" => patch(
            review,
            json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "i", "ports": [{"containerPort": 1}]}}]),
        ),
        "/invalid" => patch(review, json!([{"op": "add", "path": "/spec/containers/-", "value": {"name": "Not A Name", "image": "i"}}])),
        _ => patch(review, json!([{"op": "replace", "path": "/metadata/namespace", "value": "kube-system"}])),
    })
    .await;
    let about_pods = json!({"rules": rules(&["CREATE"], "", "pods")});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    let mut wish = pod("p");
    wish["spec"]["automountServiceAccountToken"] = true.into();
    mutating(&admin, "m", &[hook("side", server.client_config("/sidecar"), about_pods.clone())]).await;
    let made = admin.post(PODS, &wish).await.expect(201);
    let side = &made["spec"]["containers"][1];
    assert_eq!((&side["ports"][0]["protocol"], &side["terminationMessagePath"]), (&json!("TCP"), &json!("/dev/termination-log")), "{side}");
    let mounts = |container: usize| made["spec"]["containers"][container]["volumeMounts"].clone();
    assert_eq!((mounts(1).is_array(), mounts(0)), (true, mounts(1)), "the token is mounted into the container that came later, too");
    remove(&admin, "mutating", "m").await;
    mutating(&admin, "m", &[hook("bad", server.client_config("/invalid"), about_pods)]).await;
    let (reason, message) = admin.post(PODS, &pod("q")).await.refused(422);
    assert!(reason == "Invalid" && message.contains("spec.containers[1].name: Invalid value"), "{message}");
    mutating(&admin, "n", &[hook("move", server.client_config("/move"), json!({}))]).await;
    assert_eq!(create(&admin, "stays").await.expect(201)["metadata"]["namespace"], "default", "an object stays in the request's namespace");
}

#[tokio::test]
async fn a_denial_reads_as_upstreams_does() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| {
        let object = &review["request"]["object"];
        let response: Value =
            serde_json::from_str(object["data"]["key"].as_str().unwrap_or("")).unwrap_or_else(|_| json!({"allowed": true}));
        respond(review, response)
    })
    .await;
    validating(&admin, "v", &[hook("v", server.client_config("/v"), json!({}))]).await;
    for (response, code, reason, message) in [
        (json!({"allowed": false}), 400, "", "admission webhook \"v.hook.example\" denied the request without explanation"),
        (
            json!({"allowed": false, "status": {"message": "no room", "code": 403, "reason": "Forbidden"}}),
            403,
            "Forbidden",
            "admission webhook \"v.hook.example\" denied the request: no room",
        ),
        (
            json!({"allowed": false, "status": {"reason": "because", "code": 200}}),
            400,
            "because",
            "admission webhook \"v.hook.example\" denied the request: because",
        ),
    ] {
        let answer = admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "x"}, "data": {"key": response.to_string()}})).await;
        assert_eq!(answer.refused(code), (reason.to_owned(), message.to_owned()));
    }
    let warned = json!({"allowed": true, "warnings": ["mind the gap"]});
    let answer = admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "x"}, "data": {"key": warned.to_string()}})).await;
    assert_eq!(answer.header("warning"), "299 - \"mind the gap\"");
    answer.expect(201);
    let metrics = admin.get("/metrics").await;
    let page = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let line = "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"v.hook.example\",operation=\"CREATE\",rejection_code=\"403\",type=\"validating\"} 1";
    assert!(page.contains(line), "{page}");
}

#[tokio::test]
async fn a_hook_that_gives_no_usable_answer_fails_the_request_or_is_passed_over() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| match path {
        "/hang" => None,
        "/uid" => Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "x", "allowed": true}})),
        "/version" => {
            let mut answer = allow(review)?;
            answer["apiVersion"] = "admission.k8s.io/v1beta1".into();
            Some(answer)
        }
        "/empty" => Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"})),
        "/untyped" => respond(review, json!({"allowed": true, "patch": "W10="})),
        "/judge" => patch(review, json!([])),
        _ => patch(review, json!([{"op": "remove", "path": "/nothing"}])),
    })
    .await;
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", server.port);
    let invalid = |why: &str| format!("failed calling webhook \"h.hook.example\": received invalid webhook response: {why}");
    let uid = "expected response.uid=";
    let version =
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview";
    let cases = [
        (
            "mutating",
            "/hang",
            format!(
                "failed calling webhook \"h.hook.example\": failed to call webhook: Post \"{}?timeout=1s\": context deadline exceeded",
                url("/hang")
            ),
        ),
        ("mutating", "/uid", invalid(uid)),
        ("mutating", "/version", invalid(version)),
        ("mutating", "/empty", invalid("webhook response was absent")),
        ("mutating", "/untyped", invalid("webhook returned response.patch but not response.patchType")),
        ("validating", "/judge", invalid("validating webhook may not return response.patch")),
        ("validating", "/uid", invalid(uid)),
    ];
    for (kind, path, expected) in cases {
        for (policy, passes) in [("Fail", false), ("Ignore", true)] {
            let hooks = [hook("h", server.client_config(path), json!({"failurePolicy": policy, "timeoutSeconds": 1}))];
            match kind {
                "mutating" => mutating(&admin, "h", &hooks).await,
                _ => validating(&admin, "h", &hooks).await,
            }
            let answer = create(&admin, &format!("dry-{}", &path[1..])).await;
            if passes {
                let made = answer.expect(201);
                admin.delete(&format!("{CONFIG_MAPS}/{}", made["metadata"]["name"].as_str().expect("a name"))).await.expect(200);
            } else {
                let (reason, message) = answer.refused(500);
                assert_eq!(reason, "InternalError");
                assert!(message.starts_with(&format!("Internal error occurred: {expected}")), "{path}: {message}");
            }
            remove(&admin, kind, "h").await;
        }
    }
    mutating(&admin, "h", &[hook("h", server.client_config("/patch"), json!({"failurePolicy": "Ignore"}))]).await;
    let (reason, _) = create(&admin, "x").await.refused(500);
    assert_eq!(reason, "InternalError", "a patch that does not fit is no failure to call");
    remove(&admin, "mutating", "h").await;
    let nowhere = json!({"service": {"namespace": "default", "name": "gone"}});
    validating(&admin, "h", &[hook("h", nowhere, json!({}))]).await;
    let gone = "Internal error occurred: failed calling webhook \"h.hook.example\": failed to call webhook: \
                Post \"https://gone.default.svc:443/?timeout=10s\": service \"gone\" not found";
    assert_eq!(create(&admin, "x").await.refused(500).1, gone);
}

#[tokio::test]
async fn who_waits_for_a_hook_holds_up_nobody_else() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (asked, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let server = Hook::start(&cluster, move |_, _| {
        asked.send(()).expect("the test counts");
        None
    })
    .await;
    let hooks = [hook("h", server.client_config("/hang"), json!({"timeoutSeconds": 30, "failurePolicy": "Fail"}))];
    mutating(&admin, "h", &hooks).await;
    let held: Vec<_> = (0..WAITING)
        .map(|n| {
            let admin = admin.clone();
            tokio::spawn(async move { create(&admin, &format!("held-{n}")).await.code })
        })
        .collect();
    for _ in &held {
        waiting.recv().await.expect("each is asked about");
    }
    for n in 0..100 {
        let secret = json!({"metadata": {"name": format!("free-{n}")}});
        admin.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    }
    admin.get(CONFIG_MAPS).await.expect(200);
    assert!(held.iter().all(|held| !held.is_finished()), "they wait for the hook");
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_dry_run_asks_only_hooks_without_side_effects() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| allow(review)).await;
    validating(&admin, "n", &[hook("n", server.client_config("/n"), json!({"sideEffects": "NoneOnDryRun"}))]).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    admin.post(&dry, &config_map("x")).await.expect(201);
    let seen = server.seen();
    assert_eq!((&seen[0]["request"]["dryRun"], &seen[0]["request"]["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    let beta = json!({"sideEffects": "Some", "admissionReviewVersions": ["v1beta1"]});
    let body = json!({"metadata": {"name": "s"}, "webhooks": [hook("s", server.client_config("/s"), beta)]});
    // v1 takes no hook with side effects any more, but one from before may be there.
    admin.post(&format!("{CONFIGURATIONS}/validatingwebhookconfigurations"), &body).await.refused(422);
    cluster.write("admissionregistration.k8s.io/validatingwebhookconfigurations", body).await;
    server.seen();
    let (_, message) = admin.post(&dry, &config_map("x")).await.refused(400);
    assert_eq!(message, "admission webhook \"s.hook.example\" does not support dry run");
    assert!(!server.seen().iter().any(|review| review["apiVersion"] == "admission.k8s.io/v1beta1"), "it was not asked");
    create(&admin, "x").await.expect(201);
}

#[tokio::test]
async fn a_hook_that_speaks_v1beta1_need_not_repeat_the_uid_or_name_the_patch_type() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| {
        let mut answer = patch(review, json!([{"op": "add", "path": "/data/by", "value": "beta"}]))?;
        let response = answer["response"].as_object_mut()?;
        response.retain(|key, _| !["uid", "patchType"].contains(&key.as_str()));
        if path == "/denies" {
            *response = json!({"allowed": false, "status": {"message": "no"}}).as_object()?.clone();
        }
        Some(json!({"response": answer["response"]}))
    })
    .await;
    let beta = json!({"admissionReviewVersions": ["v9", "v1beta1", "v1"]});
    mutating(&admin, "m", &[hook("m", server.client_config("/m"), beta.clone())]).await;
    assert_eq!(create(&admin, "x").await.expect(201)["data"], json!({"key": "value", "by": "beta"}));
    let review = server.seen().remove(0);
    assert_eq!((&review["apiVersion"], &review["request"]["name"]), (&json!("admission.k8s.io/v1beta1"), &json!("x")));
    validating(&admin, "v", &[hook("v", server.client_config("/denies"), beta)]).await;
    assert_eq!(create(&admin, "y").await.refused(400).1, "admission webhook \"v.hook.example\" denied the request: no");
}

#[tokio::test]
async fn reviews_that_are_answered_and_not_stored_are_admitted_too() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| match path {
        "/user" => patch(review, json!([{"op": "replace", "path": "/spec/user", "value": "nobody"}])),
        _ => respond(review, json!({"allowed": false, "status": {"message": "no reviews"}})),
    })
    .await;
    let review = json!({"spec": {"user": "ann", "groups": ["system:masters"], "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let rule = json!({"rules": rules(&["CREATE"], "authorization.k8s.io", "subjectaccessreviews")});
    mutating(&admin, "m", &[hook("m", server.client_config("/user"), rule)]).await;
    assert_eq!(admin.post(path, &review).await.expect(201)["spec"]["user"], "nobody");
    let seen = server.seen();
    assert_eq!((&seen[0]["request"]["operation"], &seen[0]["request"]["object"]["spec"]["user"]), (&json!("CREATE"), &json!("ann")));
    let rule = json!({"rules": rules(&["CREATE"], "authentication.k8s.io", "tokenreviews")});
    validating(&admin, "v", &[hook("v", server.client_config("/no"), rule)]).await;
    let (_, message) = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": "x"}})).await.refused(400);
    assert_eq!(message, "admission webhook \"v.hook.example\" denied the request: no reviews");
}

#[tokio::test]
async fn a_hook_is_asked_only_about_what_it_is_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| allow(review)).await;
    let names = |seen: Vec<Value>| -> Vec<String> {
        let name = |review: &Value| {
            format!("{} {}", review["request"]["operation"].as_str().unwrap_or(""), review["request"]["name"].as_str().unwrap_or(""))
        };
        seen.iter().map(name).collect()
    };
    let chosen = json!({
        "objectSelector": {"matchLabels": {"asked": "yes"}},
        "matchConditions": [{"name": "not-b", "expression": "object == null || object.metadata.name != 'b'"}],
        "rules": rules(&["CREATE", "DELETE"], "", "configmaps")});
    validating(&admin, "v", &[hook("v", server.client_config("/v"), chosen)]).await;
    admin.config_map("a", json!({"asked": "yes"})).await;
    admin.config_map("b", json!({"asked": "yes"})).await;
    admin.config_map("c", json!({})).await;
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"x": "y"}})).await.expect(200);
    admin.delete(&format!("{CONFIG_MAPS}/a?gracePeriodSeconds=7")).await.expect(200);
    let seen = server.seen();
    let last = seen.last().expect("a deletion")["request"].clone();
    assert_eq!(names(seen), ["CREATE a", "DELETE a"]);
    assert_eq!((&last["object"], &last["oldObject"]["data"]["x"]), (&Value::Null, &json!("y")));
    assert_eq!(last["options"], json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 7}));
    remove(&admin, "validating", "v").await;

    let elsewhere = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}});
    validating(&admin, "v", &[hook("v", server.client_config("/v"), elsewhere)]).await;
    create(&admin, "d").await.expect(201);
    admin.post("/api/v1/namespaces/kube-system/configmaps", &config_map("e")).await.expect(201);
    assert_eq!(names(server.seen()), ["CREATE e"]);
    remove(&admin, "validating", "v").await;

    let scope =
        json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["*"], "scope": "Cluster"}]});
    validating(&admin, "v", &[hook("v", server.client_config("/v"), scope)]).await;
    create(&admin, "f").await.expect(201);
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "g"}})).await.expect(201);
    assert_eq!(names(server.seen()), ["CREATE g"]);
    remove(&admin, "validating", "v").await;

    let failing = json!({"matchConditions": [{"name": "broken", "expression": "object.data.missing == 'x'"}]});
    validating(&admin, "v", &[hook("v", server.client_config("/v"), failing.clone())]).await;
    let (reason, message) = create(&admin, "h").await.refused(403);
    assert!(reason == "Forbidden" && message.starts_with("configmaps \"h\" is forbidden: "), "{message}");
    remove(&admin, "validating", "v").await;
    // One that is false decides, however another fails.
    for broken in ["object.data.missing == 'x'", "object.metadata.name < 5"] {
        let conditions = json!([{"name": "broken", "expression": broken}, {"name": "never", "expression": "request.name == 'x'"}]);
        validating(&admin, "v", &[hook("v", server.client_config("/v"), json!({"matchConditions": conditions}))]).await;
        create(&admin, &format!("i{}", broken.len())).await.expect(201);
        remove(&admin, "validating", "v").await;
    }
    let mut ignored = failing;
    ignored["failurePolicy"] = "Ignore".into();
    validating(&admin, "v", &[hook("v", server.client_config("/v"), ignored)]).await;
    create(&admin, "h").await.expect(201);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn another_version_of_the_same_objects_is_converted_for_the_hook() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server =
        Hook::start(&cluster, |_, review| patch(review, json!([{"op": "replace", "path": "/spec/maxReplicas", "value": 7}]))).await;
    let v1 =
        json!([{"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]);
    mutating(&admin, "m", &[hook("m", server.client_config("/m"), json!({"rules": v1}))]).await;
    let scaler = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = admin.post(path, &scaler("a")).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]["maxReplicas"]), (&json!("autoscaling/v2"), &json!(7)));
    assert_eq!(made["spec"]["metrics"], scaler("a")["spec"]["metrics"], "nothing is lost on the way");
    let request = server.seen().remove(0)["request"].clone();
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(
        (&request["object"]["apiVersion"], &request["object"]["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(50))
    );
    remove(&admin, "mutating", "m").await;
    let exact = json!({"rules": v1, "matchPolicy": "Exact"});
    mutating(&admin, "m", &[hook("m", server.client_config("/m"), exact)]).await;
    assert_eq!(admin.post(path, &scaler("b")).await.expect(201)["spec"]["maxReplicas"], 3);
}

#[tokio::test]
async fn subresources_and_streams_are_asked_about_in_their_own_kinds() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| match path {
        "/scale" => patch(review, json!([{"op": "replace", "path": "/spec/replicas", "value": 2}])),
        _ => respond(review, json!({"allowed": false, "status": {"message": "not here"}})),
    })
    .await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin.post(DEPLOYMENTS, &deployment).await.expect(201);
    let scale = json!({"rules": rules(&["UPDATE"], "apps", "deployments/scale")});
    mutating(&admin, "s", &[hook("s", server.client_config("/scale"), scale)]).await;
    let scaled = admin.patch(&format!("{DEPLOYMENTS}/d/scale"), "merge-patch", json!({"spec": {"replicas": 9}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 2);
    let request = server.seen().remove(0)["request"].clone();
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(
        (&request["object"]["kind"], &request["object"]["spec"]["replicas"], &request["oldObject"]["spec"]["replicas"]),
        (&json!("Scale"), &json!(9), &json!(1))
    );
    assert_eq!((&request["resource"]["resource"], &request["subResource"]), (&json!("deployments"), &json!("scale")));
    let live = admin.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((&live["spec"]["replicas"], &live["metadata"]["generation"]), (&json!(2), &json!(2)));

    admin.post(PODS, &pod("p")).await.expect(201);
    let exec = json!({"rules": rules(&["CONNECT"], "", "pods/exec")});
    validating(&admin, "x", &[hook("x", server.client_config("/exec"), exec)]).await;
    let (_, message) = admin.post(&format!("{PODS}/p/exec?command=sh&command=-c&stdin=true&container=c"), &json!({})).await.refused(400);
    assert_eq!(message, "admission webhook \"x.hook.example\" denied the request: not here");
    let request = server.seen().remove(0)["request"].clone();
    assert_eq!((&request["operation"], &request["name"], &request["subResource"]), (&json!("CONNECT"), &json!("p"), &json!("exec")));
    let options = json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "stdout": true, "stderr": true, "container": "c", "command": ["sh", "-c"]});
    assert_eq!((&request["object"], &request["oldObject"]), (&options, &Value::Null));
}

#[tokio::test]
async fn what_hooks_make_of_acts_is_done_or_refused_and_never_only_judged() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |path, review| match path {
        "/exec" => patch(review, json!([{"op": "replace", "path": "/command", "value": ["true"]}])),
        "/bind" => patch(review, json!([{"op": "replace", "path": "/target/name", "value": "other"}])),
        _ => patch(
            review,
            json!([{"op": "add", "path": "/metadata/deletionTimestamp", "value": "2026-01-01T00:00:00Z"},
            {"op": "replace", "path": "/metadata/uid", "value": "forged"}]),
        ),
    })
    .await;
    admin.post(PODS, &pod("p")).await.expect(201);
    let exec = json!({"rules": rules(&["CONNECT"], "", "pods/exec")});
    mutating(&admin, "x", &[hook("x", server.client_config("/exec"), exec)]).await;
    let (_, message) = admin.post(&format!("{PODS}/p/exec?command=sh&container=c"), &json!({})).await.refused(500);
    assert!(message.contains("attempted to modify the options of a stream"), "{message}");

    let binding = json!({"rules": rules(&["CREATE"], "", "pods/binding")});
    mutating(&admin, "b", &[hook("b", server.client_config("/bind"), binding)]).await;
    let to = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "one"}});
    admin.post(&format!("{PODS}/p/binding"), &to).await.expect(201);
    assert_eq!(admin.get(&format!("{PODS}/p")).await.expect(200)["spec"]["nodeName"], "other");

    mutating(&admin, "c", &[hook("c", server.client_config("/create"), json!({}))]).await;
    let made = create(&admin, "c").await.expect(201);
    assert!(made["metadata"].get("deletionTimestamp").is_none() && made["metadata"]["uid"] != "forged", "{made}");
}

#[tokio::test]
async fn tokens_are_admitted_and_a_node_gets_only_those_bound_to_its_pods() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "sa"}})).await.expect(201);
    let mut own = pod("own");
    own["spec"]["nodeName"] = "n".into();
    own["spec"]["serviceAccountName"] = "sa".into();
    own["spec"]["volumes"] = json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
    let own = admin.post(PODS, &own).await.expect(201);
    let node = cluster.as_user(User::node("n"));
    let path = "/api/v1/namespaces/default/serviceaccounts/sa/token";
    let (_, message) = node.post(path, &json!({"spec": {"expirationSeconds": 31_536_000}})).await.refused(403);
    assert!(message.contains("node requested token not bound to a pod"), "{message}");
    let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "own", "uid": own["metadata"]["uid"]});
    node.post(path, &json!({"spec": {"boundObjectRef": reference}})).await.expect(201);

    let server = Hook::start(&cluster, |_, review| respond(review, json!({"allowed": false, "status": {"message": "no tokens"}}))).await;
    let token = json!({"rules": rules(&["CREATE"], "", "serviceaccounts/token")});
    validating(&admin, "t", &[hook("t", server.client_config("/token"), token)]).await;
    let (_, message) = admin.post(path, &json!({"spec": {}})).await.refused(400);
    assert_eq!(message, "admission webhook \"t.hook.example\" denied the request: no tokens");
    assert_eq!(server.seen()[0]["request"]["kind"]["kind"], "TokenRequest");
}

#[tokio::test]
async fn hooks_are_never_about_the_configuration_of_admission() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| respond(review, json!({"allowed": false}))).await;
    let all = json!({"rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"]}]});
    validating(&admin, "v", &[hook("v", server.client_config("/v"), all)]).await;
    create(&admin, "x").await.refused(400);
    remove(&admin, "validating", "v").await;
    create(&admin, "x").await.expect(201);
}

#[tokio::test]
async fn a_hook_behind_a_service_is_reached_at_its_endpoint() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let server = Hook::start(&cluster, |_, review| respond(review, json!({"allowed": false, "status": {"message": "from behind"}}))).await;
    admin
        .post(
            "/api/v1/namespaces/default/services",
            &json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443, "targetPort": 8443}]}}),
        )
        .await
        .expect(201);
    validating(&admin, "v", &[hook("v", server.service_config("/v"), json!({}))]).await;
    assert!(create(&admin, "x").await.refused(500).1.ends_with("no endpoints available for service \"hook\""));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "hook-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "ports": [{"name": "", "port": server.port}], "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    cluster.write("discovery.k8s.io/endpointslices", slice).await;
    assert_eq!(create(&admin, "x").await.refused(400).1, "admission webhook \"v.hook.example\" denied the request: from behind");
}
