//! What Go's typed clients send and want: protobuf in both directions.

use knarr_api::{decode, encode};
use prost::Message;
use serde_json::{Value, json};

use crate::kit::{Answer, CONFIG_MAPS, Client, Cluster, PODS, pod, text};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// As client-go asks.
const EITHER: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Sends a protobuf body, and expects a protobuf answer.
async fn ask(client: &Client, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let bytes = body.map(|body| encode::value(body).expect("a known kind")).unwrap_or_default();
    let answer = client.ask(method, path, &[("accept", EITHER), ("content-type", PROTOBUF)], bytes).await;
    (answer.code.as_u16(), read(&answer))
}

#[track_caller]
fn read(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), PROTOBUF, "{}", String::from_utf8_lossy(&answer.bytes));
    decode::value_from_protobuf(&answer.bytes).expect("protobuf of a known kind")
}

/// The raw message in an envelope.
fn raw<M: Message + Default>(envelope: &[u8]) -> M {
    let unknown = k8s_pb::apimachinery::pkg::runtime::Unknown::decode(envelope.strip_prefix(b"k8s\0").expect("the prefix")).unwrap();
    M::decode(unknown.raw()).expect("a message")
}

#[tokio::test]
async fn an_object_lives_its_life_in_protobuf() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"x": "y"}}, "binaryData": {"b": "AP8="}});
    let (code, made) = ask(&admin, "POST", CONFIG_MAPS, Some(&map)).await;
    assert_eq!((code, text(&made["kind"]), text(&made["metadata"]["namespace"])), (201, "ConfigMap", "default"));
    assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"]["f:binaryData"]["f:b"], json!({}));
    map["data"] = json!({"k": "v"});
    let path = format!("{CONFIG_MAPS}/a");
    let (code, changed) = ask(&admin, "PUT", &path, Some(&map)).await;
    assert_eq!((code, &changed["data"], &changed["metadata"]["uid"]), (200, &json!({"k": "v"}), &made["metadata"]["uid"]));
    // The same object as JSON tells it.
    assert_eq!(ask(&admin, "GET", &path, None).await.1, admin.get(&path).await.expect(200));
    let list = ask(&admin, "GET", &format!("{CONFIG_MAPS}?labelSelector=x"), None).await.1;
    let mut item = changed.clone();
    // Items of a list have no type of their own in protobuf.
    item.as_object_mut().unwrap().retain(|key, _| !["apiVersion", "kind"].contains(&key.as_str()));
    assert_eq!((text(&list["kind"]), &list["items"]), ("ConfigMapList", &json!([item])));
    assert_eq!(list["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    let patch = admin.ask("PATCH", &path, &[("accept", EITHER), ("content-type", "application/merge-patch+json")], r#"{"data":{"k":"w"}}"#);
    assert_eq!(read(&patch.await)["data"]["k"], "w");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let (code, refused) = ask(&admin, "DELETE", &path, Some(&options)).await;
    assert_eq!((code, text(&refused["kind"]), text(&refused["reason"])), (409, "Status", "Conflict"));
    let (code, gone) = ask(&admin, "DELETE", &path, None).await;
    assert_eq!((code, text(&gone["status"]), text(&gone["details"]["name"])), (200, "Success", "a"));
    let (code, missing) = ask(&admin, "GET", &path, None).await;
    assert_eq!((code, text(&missing["reason"]), &missing["code"]), (404, "NotFound", &json!(404)));
}

#[tokio::test]
async fn watches_come_in_frames() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({"x": "y"})).await;
    let query = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=x";
    let mut whole =
        admin.watch_as(&format!("{CONFIG_MAPS}{query}"), "application/vnd.kubernetes.protobuf;stream=watch,application/json").await;
    assert_eq!(whole.content_type, "application/vnd.kubernetes.protobuf;stream=watch");
    let mut metadata = admin.watch_as(&format!("{CONFIG_MAPS}{query}"), METADATA).await;
    // Who watches in JSON meanwhile has frames of its own.
    let mut plain = admin.watch(&format!("{CONFIG_MAPS}{query}")).await;
    type ConfigMap = k8s_pb::api::core::v1::ConfigMap;
    type Partial = k8s_pb::apimachinery::pkg::apis::meta::v1::PartialObjectMetadata;
    let (word, object) = whole.next_frame().await;
    assert_eq!((word.as_str(), &raw::<ConfigMap>(&object).data["key"]), ("ADDED", &"value".to_owned()));
    let (word, object) = metadata.next_frame().await;
    assert_eq!((word.as_str(), raw::<Partial>(&object).metadata.unwrap().name()), ("ADDED", "a"));
    for stream in [&mut whole, &mut metadata] {
        let (word, object) = stream.next_frame().await;
        let bookmark = raw::<ConfigMap>(&object).metadata.unwrap();
        assert_eq!((word.as_str(), bookmark.annotations["k8s.io/initial-events-end"].as_str()), ("BOOKMARK", "true"));
    }
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"key": "new"}})).await.expect(200);
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"metadata": {"labels": null}})).await.expect(200);
    for (expected, value) in [("MODIFIED", "new"), ("DELETED", "new")] {
        let (word, object) = whole.next_frame().await;
        assert_eq!((word.as_str(), raw::<ConfigMap>(&object).data["key"].as_str()), (expected, value));
        let (word, object) = metadata.next_frame().await;
        assert_eq!((word.as_str(), raw::<Partial>(&object).metadata.unwrap().name()), (expected, "a"));
    }
    for expected in ["ADDED a", "BOOKMARK", "MODIFIED a", "DELETED a"] {
        assert_eq!(plain.word().await, expected);
    }
    // Of another set of stored objects, each taken through its conversion.
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reason": "r", "type": "Normal",
        "action": "a", "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "x.io/c", "reportingInstance": "i"});
    let mut events = admin.watch_as("/apis/events.k8s.io/v1/events?watch=1", PROTOBUF).await;
    admin.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.expect(201);
    let (_, object) = events.next_frame().await;
    assert_eq!(raw::<k8s_pb::api::events::v1::Event>(&object).note(), "n");
}

#[tokio::test]
async fn metadata_alone_comes_in_protobuf_and_tables_do_not() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let one = read(&admin.get_as(&format!("{CONFIG_MAPS}/a"), METADATA).await);
    assert_eq!((text(&one["apiVersion"]), text(&one["metadata"]["name"]), one.get("data")), ("meta.k8s.io/v1", "a", None));
    let list = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = read(&admin.get_as(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name=a"), list).await);
    assert_eq!((text(&list["kind"]), text(&list["items"][0]["metadata"]["name"])), ("PartialObjectMetadataList", "a"));
    let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
    let refused = admin.get_as(CONFIG_MAPS, table).await;
    assert_eq!((refused.code.as_u16(), text(&refused.json()["reason"])), (406, "NotAcceptable"));
    let fallback = admin.get_as(CONFIG_MAPS, &format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1")).await;
    assert_eq!(fallback.expect(200)["kind"], "Table");
}

#[tokio::test]
async fn subresources_and_reviews_speak_protobuf() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(ask(&admin, "POST", deployments, Some(&deployment)).await.0, 201);
    let path = format!("{deployments}/d/scale");
    let (_, mut scale) = ask(&admin, "GET", &path, None).await;
    assert_eq!((text(&scale["apiVersion"]), text(&scale["kind"]), &scale["spec"]["replicas"]), ("autoscaling/v1", "Scale", &json!(2)));
    scale["spec"]["replicas"] = 3.into();
    assert_eq!(ask(&admin, "PUT", &path, Some(&scale)).await.1["spec"]["replicas"], 3);

    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "sa"}})).await.expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let (code, token) = ask(&admin, "POST", "/api/v1/namespaces/default/serviceaccounts/sa/token", Some(&request)).await;
    assert_eq!((code, text(&token["status"]["token"]).split('.').count()), (201, 3));

    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) = ask(&admin, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Some(&review)).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));

    for name in ["bound", "evicted"] {
        admin.post(PODS, &pod(name)).await.expect(201);
    }
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "n"}});
    let (code, bound) = ask(&admin, "POST", &format!("{PODS}/bound/binding"), Some(&binding)).await;
    assert_eq!((code, text(&bound["status"])), (201, "Success"));
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}});
    let (code, evicted) = ask(&admin, "POST", &format!("{PODS}/evicted/eviction"), Some(&eviction)).await;
    assert_eq!((code, text(&evicted["status"])), (201, "Success"));
    let status = ask(&admin, "GET", &format!("{PODS}/bound/status"), None).await.1;
    assert_eq!((text(&status["spec"]["nodeName"]), text(&status["status"]["phase"])), ("n", "Pending"));
}

#[tokio::test]
async fn discovery_failures_and_large_lists() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(read(&admin.get_as("/apis", PROTOBUF).await)["kind"], "APIGroupList");
    let resources = read(&admin.get_as("/apis/apps/v1", PROTOBUF).await);
    assert!(resources["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == "deployments/scale"));

    let wrong = admin.ask("POST", CONFIG_MAPS, &[("content-type", PROTOBUF)], "k8s\0nonsense").await;
    assert_eq!(wrong.code, 400);
    let cbor = admin.ask("POST", CONFIG_MAPS, &[("content-type", "application/cbor")], "x").await;
    assert_eq!(cbor.refused(415).0, "UnsupportedMediaType");

    let big = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(200 << 10)}});
    admin.post(CONFIG_MAPS, &big).await.expect(201);
    let answer = admin.ask("GET", CONFIG_MAPS, &[("accept", PROTOBUF), ("accept-encoding", "gzip")], "").await;
    assert_eq!((answer.header("content-encoding"), answer.header("content-type")), ("gzip", PROTOBUF));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&answer.bytes[..]), &mut plain).unwrap();
    assert_eq!(raw::<k8s_pb::api::core::v1::ConfigMapList>(&plain).items.len(), 1);
}
