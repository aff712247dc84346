//! Creating, updating, patching, deleting.

use serde_json::{Value, json};

use crate::kit::{CONFIG_MAPS, Cluster, PODS, names, pod, text};

#[tokio::test]
async fn a_created_object_gets_its_identity_and_can_be_read_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.config_map("a", json!({"x": "y"})).await;
    let meta = &made["metadata"];
    assert_eq!((text(&made["kind"]), text(&made["apiVersion"])), ("ConfigMap", "v1"));
    assert_eq!((text(&meta["name"]), text(&meta["namespace"])), ("a", "default"));
    assert_eq!(text(&meta["uid"]).len(), 36);
    assert!(text(&meta["creationTimestamp"]).ends_with('Z'));
    assert!(!text(&meta["resourceVersion"]).is_empty());
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), made);
    let (reason, message) = admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "a"}})).await.refused(409);
    assert_eq!((reason.as_str(), message.as_str()), ("AlreadyExists", "configmaps \"a\" already exists"));
}

#[tokio::test]
async fn names_are_generated() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"generateName": "x-"}});
    let (one, two) = (admin.post(CONFIG_MAPS, &body).await.expect(201), admin.post(CONFIG_MAPS, &body).await.expect(201));
    assert!(text(&one["metadata"]["name"]).starts_with("x-"));
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
}

#[tokio::test]
async fn bodies_that_do_not_fit_the_path_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let other = json!({"metadata": {"name": "a", "namespace": "other"}});
    assert_eq!(admin.post(CONFIG_MAPS, &other).await.refused(400).0, "BadRequest");
    let versioned = json!({"metadata": {"name": "a", "resourceVersion": "5"}});
    assert_eq!(admin.post(CONFIG_MAPS, &versioned).await.refused(400).1, "resourceVersion should not be set on objects to be created");
    let wrong_kind = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(admin.post(CONFIG_MAPS, &wrong_kind).await.refused(400).0, "BadRequest");
    admin.config_map("a", json!({})).await;
    let renamed = json!({"metadata": {"name": "b"}});
    let (_, message) = admin.put(&format!("{CONFIG_MAPS}/a"), &renamed).await.refused(400);
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    let (reason, _) = admin.post("/api/v1/namespaces/nowhere/configmaps", &json!({"metadata": {"name": "a"}})).await.refused(404);
    assert_eq!(reason, "NotFound");
    let (reason, _) = admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "Not A Name"}})).await.refused(422);
    assert_eq!(reason, "Invalid");
}

#[tokio::test]
async fn an_update_with_an_old_version_conflicts_and_one_without_does_not() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    let first = admin.config_map("a", json!({})).await;
    let mut second = first.clone();
    second["data"]["key"] = "two".into();
    let second = admin.put(&path, &second).await.expect(200);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    let (reason, message) = admin.put(&path, &first).await.refused(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("the object has been modified"), "{message}");
    let third = admin.put(&path, &json!({"metadata": {"name": "a"}, "data": {"key": "three"}})).await.expect(200);
    assert_eq!(third["data"]["key"], "three");
    assert_eq!(third["metadata"]["creationTimestamp"], first["metadata"]["creationTimestamp"]);
    let (reason, _) = admin.put(&format!("{CONFIG_MAPS}/none"), &json!({"metadata": {"name": "none"}})).await.refused(404);
    assert_eq!(reason, "NotFound");
}

#[tokio::test]
async fn writes_that_change_nothing_write_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    let made = admin.config_map("a", json!({})).await;
    let same = admin.put(&path, &made).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let same = admin.patch(&path, "merge-patch", json!({"data": {"key": "value"}})).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn dry_runs_answer_and_do_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"name": "a"}});
    assert_eq!(admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &body).await.expect(201)["metadata"]["name"], "a");
    admin.get(&format!("{CONFIG_MAPS}/a")).await.refused(404);
    let made = admin.config_map("a", json!({})).await;
    let patched = admin.patch(&format!("{CONFIG_MAPS}/a?dryRun=All"), "merge-patch", json!({"data": {"key": "other"}})).await.expect(200);
    assert_eq!(patched["data"]["key"], "other");
    admin.delete(&format!("{CONFIG_MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), made);
    assert_eq!(admin.post(&format!("{CONFIG_MAPS}?dryRun=Some"), &body).await.refused(422).0, "Invalid");
}

#[tokio::test]
async fn unknown_fields_are_warned_of_or_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"name": "a"}, "dota": {}});
    let warned = admin.post(CONFIG_MAPS, &body).await;
    assert_eq!(warned.expect(201).get("dota"), None);
    assert_eq!(warned.header("warning"), r#"299 - "unknown field \"dota\"""#);
    let (reason, message) =
        admin.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), &json!({"metadata": {"name": "b"}, "dota": {}})).await.refused(400);
    assert_eq!(reason, "BadRequest");
    assert!(message.contains("unknown field \"dota\""), "{message}");
    let quiet = admin.post(&format!("{CONFIG_MAPS}?fieldValidation=Ignore"), &json!({"metadata": {"name": "c"}, "dota": {}})).await;
    assert_eq!(quiet.header("warning"), "");
}

#[tokio::test]
async fn the_four_patches() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    admin.config_map("a", json!({})).await;
    let data = |value: Value| value["data"].clone();
    let merged = admin.patch(&path, "merge-patch", json!({"data": {"key": null, "b": "1"}})).await.expect(200);
    assert_eq!(data(merged), json!({"b": "1"}));
    let json_patched = admin.patch(&path, "json-patch", json!([{"op": "add", "path": "/data/c", "value": "2"}])).await.expect(200);
    assert_eq!(data(json_patched), json!({"b": "1", "c": "2"}));
    let strategic = admin.patch(&path, "strategic-merge-patch", json!({"metadata": {"finalizers": ["x/y"]}})).await.expect(200);
    assert_eq!(strategic["metadata"]["finalizers"], json!(["x/y"]));
    let applied = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {d: '3'}}";
    let applied = admin.patch(&format!("{path}?fieldManager=me"), "apply", applied).await.expect(200);
    assert_eq!(data(applied), json!({"b": "1", "c": "2", "d": "3"}));
    admin.patch(&path, "apply", "{}").await.refused(422);
    let (reason, _) = admin.ask("PATCH", &path, &[("content-type", "application/json")], "{}").await.refused(415);
    assert_eq!(reason, "UnsupportedMediaType");
    admin.patch(&format!("{CONFIG_MAPS}/none"), "merge-patch", json!({})).await.refused(404);
}

/// What is no patch is a bad request; a patch that makes no object of the kind is a patch that cannot be processed (handlers/patch.go).
#[tokio::test]
async fn a_patch_that_makes_no_object_of_the_kind_is_invalid() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let path = format!("{CONFIG_MAPS}/a");
    for (media, patch) in [
        ("merge-patch", json!({"data": {"a": 1}})),
        ("strategic-merge-patch", json!({"data": {"a": 1}})),
        ("json-patch", json!([{"op": "add", "path": "/data", "value": "x"}])),
        ("merge-patch", json!({"kind": "Secret"})),
    ] {
        let (reason, message) = admin.patch(&path, media, &patch).await.refused(422);
        assert_eq!(reason, "Invalid", "{patch}");
        assert!(message.contains("\"\" is invalid: patch: Invalid value: "), "{message}");
    }
    for (media, patch) in [("merge-patch", "[]"), ("merge-patch", "{"), ("strategic-merge-patch", "1"), ("json-patch", "{}")] {
        assert_eq!(admin.patch(&path, media, patch).await.refused(400).0, "BadRequest", "{patch}");
    }
}

#[tokio::test]
async fn apply_creates_and_conflicts_name_their_fields() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    let applied = |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: '{value}'\n");
    admin.patch(&format!("{path}?fieldManager=one"), "apply", applied("1")).await.expect(201);
    admin.patch(&format!("{path}?fieldManager=one"), "apply", applied("1")).await.expect(200);
    let answer = admin.patch(&format!("{path}?fieldManager=two"), "apply", applied("2")).await;
    assert_eq!(answer.refused(409).0, "Conflict");
    assert_eq!(answer.json()["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = admin.patch(&format!("{path}?fieldManager=two&force=true"), "apply", applied("2")).await.expect(200);
    assert_eq!(forced["data"]["k"], "2");
}

#[tokio::test]
async fn a_patch_with_an_old_version_conflicts() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    let made = admin.config_map("a", json!({})).await;
    let version = made["metadata"]["resourceVersion"].clone();
    let patch = |n: u8| json!({"metadata": {"resourceVersion": version}, "data": {"n": n.to_string()}});
    admin.patch(&path, "merge-patch", patch(1)).await.expect(200);
    assert_eq!(admin.patch(&path, "merge-patch", patch(2)).await.refused(409).0, "Conflict");
}

#[tokio::test]
async fn many_patches_at_once_all_count() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..20).map(|n| {
        let (admin, path) = (admin.clone(), path.clone());
        async move { admin.patch(&path, "merge-patch", json!({"data": {format!("k{n}"): "v"}})).await.expect(200) }
    });
    futures::future::join_all(patches).await;
    assert_eq!(admin.get(&path).await.expect(200)["data"].as_object().map(serde_json::Map::len), Some(21));
}

#[tokio::test]
async fn yaml_goes_in_and_out() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: 'yes'\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer = admin.ask("POST", CONFIG_MAPS, &headers, yaml).await;
    assert_eq!((answer.code.as_u16(), answer.header("content-type")), (201, "application/yaml"));
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert!(text.contains("data:\n  k: \"yes\"\n"), "{text}");
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a")).await.expect(200)["data"]["k"], "yes");
}

#[tokio::test]
async fn spec_and_status_are_written_apart_and_only_the_spec_counts_generations() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "status": {"replicas": 9}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let made = admin.post(deployments, &deployment).await.expect(201);
    assert_eq!((&made["metadata"]["generation"], &made["status"]["replicas"]), (&json!(1), &Value::Null));
    let path = format!("{deployments}/d");
    let changed = admin.patch(&path, "merge-patch", json!({"spec": {"replicas": 2}, "status": {"replicas": 9}})).await.expect(200);
    assert_eq!((&changed["metadata"]["generation"], &changed["status"]["replicas"]), (&json!(2), &Value::Null));
    let status = admin
        .patch(&format!("{path}/status"), "merge-patch", json!({"spec": {"replicas": 7}, "status": {"replicas": 2}}))
        .await
        .expect(200);
    assert_eq!(status["metadata"]["generation"], 2);
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn deletion_answers_a_success_with_the_identity_of_what_is_gone() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.config_map("a", json!({})).await;
    let gone = admin.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    assert_eq!((text(&gone["kind"]), text(&gone["status"])), ("Status", "Success"));
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}/a")).await.refused(404).1, "configmaps \"a\" not found");
}

#[tokio::test]
async fn preconditions_protect_a_successor() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "another"}});
    let path = format!("{CONFIG_MAPS}/a");
    let (reason, _) = admin.ask("DELETE", &path, &[("content-type", "application/json")], options.to_string()).await.refused(409);
    assert_eq!(reason, "Conflict");
    admin.get(&path).await.expect(200);
}

#[tokio::test]
async fn a_finalizer_holds_and_the_update_that_removes_it_deletes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/a");
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "a", "finalizers": ["x/y"]}})).await.expect(201);
    let held = admin.delete(&path).await.expect(200);
    assert!(!text(&held["metadata"]["deletionTimestamp"]).is_empty());
    let (_, message) = admin.patch(&path, "merge-patch", json!({"metadata": {"finalizers": ["x/y", "z/z"]}})).await.refused(422);
    assert!(message.contains("no new finalizers can be added"), "{message}");
    admin.patch(&path, "merge-patch", json!({"metadata": {"finalizers": null}})).await.expect(200);
    admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn foreground_and_orphan_leave_the_object_to_the_garbage_collector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        admin.config_map(&policy.to_lowercase(), json!({})).await;
        let path = format!("{CONFIG_MAPS}/{}?propagationPolicy={policy}", policy.to_lowercase());
        assert_eq!(admin.delete(&path).await.expect(200)["metadata"]["finalizers"], json!([finalizer]));
    }
}

#[tokio::test]
async fn a_pod_on_a_node_gets_its_grace_and_one_without_goes_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("free")).await.expect(201);
    admin.delete(&format!("{PODS}/free")).await.expect(200);
    admin.get(&format!("{PODS}/free")).await.refused(404);
    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n".into();
    bound["spec"]["terminationGracePeriodSeconds"] = 7.into();
    admin.post(PODS, &bound).await.expect(201);
    let marked = admin.delete(&format!("{PODS}/bound")).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    admin.delete(&format!("{PODS}/bound?gracePeriodSeconds=0")).await.expect(200);
    admin.get(&format!("{PODS}/bound")).await.refused(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        admin.config_map(name, json!({"l": label})).await;
    }
    let deleted = admin.delete(&format!("{CONFIG_MAPS}?labelSelector=l%3Dx")).await.expect(200);
    assert_eq!(names(&deleted), ["a", "b"]);
    assert_eq!(names(&admin.get(CONFIG_MAPS).await.expect(200)), ["c"]);
}

#[tokio::test]
async fn a_namespace_waits_until_it_is_finalized() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    assert_eq!((&made["spec"]["finalizers"], &made["status"]["phase"]), (&json!(["kubernetes"]), &json!("Active")));
    let mut going = admin.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let (reason, message) = admin.post("/api/v1/namespaces/n/configmaps", &json!({"metadata": {"name": "a"}})).await.refused(403);
    assert_eq!(reason, "Forbidden");
    assert!(message.contains("because it is being terminated"), "{message}");
    going["spec"]["finalizers"] = json!([]);
    admin.put("/api/v1/namespaces/n/finalize", &going).await.expect(200);
    admin.get("/api/v1/namespaces/n").await.refused(404);
}

#[tokio::test]
async fn services_get_an_address_and_keep_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let services = "/api/v1/namespaces/default/services";
    let body = json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = admin.post(services, &body).await.expect(201);
    let address = text(&made["spec"]["clusterIP"]).to_owned();
    assert!(address.starts_with("10.43."), "{made}");
    let same = admin.put(&format!("{services}/s"), &body).await.expect(200);
    assert_eq!(same["spec"]["clusterIP"], address.as_str());
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn too_large_a_body_is_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(4 << 20)}});
    assert_eq!(admin.post(CONFIG_MAPS, &body).await.refused(413).0, "RequestEntityTooLarge");
}

#[tokio::test]
async fn bodies_in_other_formats_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for media in ["application/cbor", "text/plain"] {
        let (reason, _) = admin.ask("POST", CONFIG_MAPS, &[("content-type", media)], "x").await.refused(415);
        assert_eq!(reason, "UnsupportedMediaType", "{media}");
    }
    admin.ask("POST", CONFIG_MAPS, &[], "{").await.refused(400);
}

#[tokio::test]
async fn protobuf_bodies_are_answered_in_what_the_client_accepts() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // runtime.Unknown of a v1 ConfigMap with the name "p" and the data k=v.
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01p\x12\x06\x0a\x01k\x12\x01v".to_vec();
    let headers = [("content-type", "application/vnd.kubernetes.protobuf"), ("accept", "application/json")];
    let made = admin.ask("POST", CONFIG_MAPS, &headers, body).await.expect(201);
    assert_eq!((text(&made["metadata"]["name"]), &made["data"]), ("p", &json!({"k": "v"})));
    admin.ask("POST", CONFIG_MAPS, &headers, "k8s").await.refused(400);
}

#[tokio::test]
async fn who_leaves_a_field_out_takes_it_from_its_owners_though_the_server_puts_it_back() {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let service = |node_port: Value| json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80, "nodePort": node_port}]}});
    let owners = |object: &Value| -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().expect("managers");
        let port = r#"k:{"port":80,"protocol":"TCP"}"#;
        let owns = |entry: &&Value| entry["fieldsV1"]["f:spec"]["f:ports"][port].get("f:nodePort").is_some();
        entries.iter().filter(owns).map(|entry| text(&entry["manager"]).to_owned()).collect()
    };
    let made = admin.post(&format!("{SERVICES}?fieldManager=author"), &service(30080.into())).await.expect(201);
    assert_eq!(owners(&made), ["author"]);
    // Who repeats it leaves it where it is.
    let put = async |node_port: Value| admin.put(&format!("{SERVICES}/s?fieldManager=other"), &service(node_port)).await.expect(200);
    assert_eq!(owners(&put(30080.into()).await), ["author"]);
    let left_out = put(Value::Null).await;
    assert_eq!(left_out["spec"]["ports"][0]["nodePort"], 30080);
    assert_eq!(owners(&left_out), Vec::<String>::new());
    // The same once more changes nothing.
    assert_eq!(put(Value::Null).await["metadata"]["resourceVersion"], left_out["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn nobody_owns_what_an_update_cannot_change() {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut request = crate::groups::request("r", "devs");
    request["metadata"]["annotations"] = json!({"x": "y"});
    let made = admin.post(&format!("{REQUESTS}?fieldManager=author"), &request).await.expect(201);
    let mut other = made.clone();
    other["spec"]["usages"] = json!(["server auth"]);
    other["metadata"]["labels"] = json!({"a": "b"});
    let put = admin.put(&format!("{REQUESTS}/r?fieldManager=other"), &other).await.expect(200);
    assert_eq!((&put["spec"], &put["metadata"]["labels"]), (&made["spec"], &json!({"a": "b"})));
    let entries = put["metadata"]["managedFields"].as_array().expect("managers");
    let of = |manager: &str| entries.iter().find(|entry| entry["manager"] == manager).map(|entry| entry["fieldsV1"].clone());
    assert_eq!(of("other"), Some(json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}})));
}

#[tokio::test]
async fn who_updates_an_object_of_unknown_owners_owns_nothing_until_it_is_applied_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{CONFIG_MAPS}/c");
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}})).await.expect(201);
    for reset in [json!([{}]), json!([])] {
        let written = admin.patch(&path, "merge-patch", json!({"metadata": {"managedFields": reset}})).await.expect(200);
        assert_eq!(written["metadata"].get("managedFields"), None);
    }
    let written = admin.patch(&format!("{path}?fieldManager=m"), "merge-patch", json!({"data": {"a": "2"}})).await.expect(200);
    assert_eq!(written["metadata"].get("managedFields"), None, "{written}");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "3"}});
    let (reason, message) = admin.patch(&format!("{path}?fieldManager=n"), "apply", &applied).await.refused(409);
    let expected = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a";
    assert_eq!((&*reason, &*message), ("Conflict", expected));
    let forced = admin.patch(&format!("{path}?fieldManager=n&force=true"), "apply", &applied).await.expect(200);
    let managers: Vec<&str> =
        forced["metadata"]["managedFields"].as_array().expect("managers").iter().map(|entry| text(&entry["manager"])).collect();
    assert_eq!(managers, ["n", "before-first-apply"]);
    let written = admin.patch(&format!("{path}?fieldManager=m"), "merge-patch", json!({"data": {"b": "2"}})).await.expect(200);
    assert_eq!(written["metadata"]["managedFields"].as_array().expect("managers").len(), 3, "{written}");
}

#[tokio::test]
async fn a_scalers_owners_of_either_version_are_asked_in_their_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = |version: &str, manager: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/s?fieldManager={manager}")
    };
    let scaler = |version: &str, more: Value| {
        let mut spec = json!({"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
        spec.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "spec": spec})
    };
    let cpu = |percent: i64| {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]})
    };
    admin.patch(&path("v1", "a"), "apply", scaler("v1", json!({"targetCPUUtilizationPercentage": 50}))).await.expect(201);
    let (_, message) = admin.patch(&path("v2", "b"), "apply", scaler("v2", cpu(80))).await.refused(409);
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"a\": .spec.targetCPUUtilizationPercentage");
    admin.patch(&path("v2", "b"), "apply", scaler("v2", cpu(50))).await.expect(200);
    let still = admin.patch(&path("v2", "a"), "apply", scaler("v2", json!({}))).await.expect(200);
    assert_eq!(still["spec"]["metrics"], cpu(50)["metrics"], "b wants it");
    let gone = admin.patch(&path("v2", "b"), "apply", scaler("v2", json!({}))).await.expect(200);
    assert_eq!(gone["spec"]["metrics"], cpu(80)["metrics"], "nobody wants it, and it has its default again");
}

#[tokio::test]
async fn a_field_that_is_there_twice_in_a_patch_is_told_or_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "c"}, "data": {"a": "0"}})).await.expect(201);
    let twice = r#"{"data":{"a":"1"},"data":{"a":"2"}}"#;
    let operation = r#"[{"op":"replace","path":"/data/a","value":"1","value":"2","why":"so"}]"#;
    let of_operation = r#"json patch duplicate field "[0].value", json patch unknown field "[0].why""#;
    let duplicate = r#"duplicate field "data""#;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    admin.post(deployments, &json!({"metadata": {"name": "d"}, "spec": spec})).await.expect(201);
    let scale = r#"{"spec":{"replicas":2},"spec":{"replicas":3,"more":1}}"#;
    let of_scale = r#"duplicate field "spec", unknown field "spec.more""#;
    let (map, scale_path) = (format!("{CONFIG_MAPS}/c"), format!("{deployments}/d/scale"));
    for (path, kind, body, fault) in [
        (&map, "merge-patch", twice, duplicate),
        (&map, "strategic-merge-patch", twice, duplicate),
        (&map, "json-patch", operation, of_operation),
        (&scale_path, "merge-patch", scale, of_scale),
    ] {
        let before = admin.get(path).await.expect(200);
        let (reason, message) = admin.patch(&format!("{path}?fieldValidation=Strict"), kind, body).await.refused(422);
        assert_eq!(reason, "Invalid");
        // Not what the patch made, as upstream: failures are in the audit log in full, and Secrets never may be.
        assert_eq!(message, format!(r#" "" is invalid: patch: Invalid value: strict decoding error: {fault}"#));
        assert_eq!(admin.get(path).await.expect(200), before);
        let quiet = admin.patch(&format!("{path}?fieldValidation=Ignore&dryRun=All"), kind, body).await;
        quiet.expect(200);
        assert_eq!(quiet.header("warning"), "");
        let told = admin.patch(&format!("{path}?fieldValidation=Warn"), kind, body).await;
        told.expect(200);
        let warnings: Vec<&str> = told.headers.get_all("warning").iter().map(|value| value.to_str().expect("text")).collect();
        let expected: Vec<String> = fault.split(", ").map(|fault| format!("299 - \"{}\"", fault.replace('"', "\\\""))).collect();
        assert_eq!(warnings, expected, "{kind}");
    }
    assert_eq!(admin.get(&map).await.expect(200)["data"]["a"], "2", "the last one counts");
    let (_, message) =
        admin.put(&format!("{scale_path}?fieldValidation=Strict"), &json!({"spec": {"replicas": 1, "more": 1}})).await.refused(400);
    assert!(message.ends_with(r#"strict decoding error: unknown field "spec.more""#), "{message}");
}
