//! Watches.

use serde_json::json;

use crate::kit::{CONFIG_MAPS, Cluster, text};

const STREAMING_LIST: &str = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

#[tokio::test]
async fn a_watch_from_nothing_shows_what_is_there_and_then_what_happens() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.word().await, "ADDED a");
    admin.config_map("b", json!({})).await;
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"data": {"n": "1"}})).await.expect(200);
    admin.delete(&format!("{CONFIG_MAPS}/b")).await.expect(200);
    assert_eq!([watch.word().await, watch.word().await, watch.word().await], ["ADDED b", "MODIFIED a", "DELETED b"]);
}

#[tokio::test]
async fn a_watch_from_a_version_shows_what_came_after_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let a = admin.config_map("a", json!({})).await;
    admin.config_map("b", json!({})).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", text(&a["metadata"]["resourceVersion"]))).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((text(&event["type"]), text(&event["object"]["metadata"]["name"])), ("ADDED", "b"));
    assert_eq!(event["object"], admin.get(&format!("{CONFIG_MAPS}/b")).await.expect(200));
}

#[tokio::test]
async fn a_deletion_carries_its_own_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let a = admin.config_map("a", json!({})).await;
    let before: u64 = text(&a["metadata"]["resourceVersion"]).parse().unwrap();
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={before}")).await;
    admin.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "DELETED");
    assert!(text(&event["object"]["metadata"]["resourceVersion"]).parse::<u64>().unwrap() > before);
}

#[tokio::test]
async fn through_a_selector_objects_come_and_go() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({"in": "no"})).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=in%3Dyes")).await;
    let label = async |value: &str| {
        admin.patch(&format!("{CONFIG_MAPS}/a"), "merge-patch", json!({"metadata": {"labels": {"in": value}}})).await.expect(200)
    };
    label("yes").await;
    let out = label("no").await;
    admin.config_map("b", json!({"in": "yes"})).await;
    assert_eq!(watch.word().await, "ADDED a");
    let left = watch.next().await.expect("an event");
    // The state that the watcher knows, under the version at which it left.
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["in"]), (&json!("DELETED"), &json!("yes")));
    assert_eq!(left["object"]["metadata"]["resourceVersion"], out["metadata"]["resourceVersion"]);
    assert_eq!(watch.word().await, "ADDED b");
}

#[tokio::test]
async fn one_object_is_watched_by_a_selector_or_under_the_old_prefix() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    admin.config_map("b", json!({})).await;
    for path in [
        "/api/v1/watch/namespaces/default/configmaps/a".to_owned(),
        "/api/v1/watch/namespaces/default/configmaps/a?fieldSelector=metadata.name%3Da&labelSelector=!x".to_owned(),
        format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Da"),
    ] {
        assert_eq!(
            admin.watch(&format!("{path}{}timeoutSeconds=30", if path.contains('?') { "&" } else { "?" })).await.word().await,
            "ADDED a",
            "{path}"
        );
    }
    let other = "/api/v1/watch/namespaces/default/configmaps/a?fieldSelector=metadata.name%3Db";
    assert_eq!(admin.get(other).await.refused(400).1, "fieldSelector metadata.name doesn't match requested name");
    let unlike = "/api/v1/watch/namespaces/default/configmaps/a?labelSelector=x&timeoutSeconds=1";
    assert_eq!(admin.watch(unlike).await.next().await, None);
    // A path with a name is read, whatever the query says of watching.
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}/a?watch=1")).await.expect(200)["metadata"]["name"], "a");
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_mark() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    admin.config_map("b", json!({})).await;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?{STREAMING_LIST}&resourceVersion=")).await;
    assert_eq!([watch.word().await, watch.word().await], ["ADDED a", "ADDED b"]);
    let mark = watch.next().await.expect("a bookmark");
    assert_eq!((text(&mark["type"]), text(&mark["object"]["kind"]), text(&mark["object"]["apiVersion"])), ("BOOKMARK", "ConfigMap", "v1"));
    assert_eq!(mark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    let version = text(&mark["object"]["metadata"]["resourceVersion"]).to_owned();
    admin.config_map("c", json!({})).await;
    assert_eq!(watch.word().await, "ADDED c");
    assert_eq!(admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await.word().await, "ADDED c");
}

#[tokio::test]
async fn a_large_streaming_list_is_compressed_and_what_follows_is_seen_at_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for n in 0..4 {
        let body = json!({"metadata": {"name": format!("big{n}")}, "data": {"k": "x".repeat(60_000)}});
        admin.post(CONFIG_MAPS, &body).await.expect(201);
    }
    let mut watch = admin.watch_packed(&format!("{CONFIG_MAPS}?{STREAMING_LIST}&timeoutSeconds=2")).await;
    for n in 0..4 {
        assert_eq!(watch.word().await, format!("ADDED big{n}"));
    }
    assert_eq!(watch.next().await.expect("a bookmark")["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(watch.received < 20_000, "{} bytes", watch.received);
    for name in ["small", "large"] {
        let body = json!({"metadata": {"name": name}, "data": {"k": "x".repeat(name.len() * name.len() * 5_000)}});
        admin.post(CONFIG_MAPS, &body).await.expect(201);
        assert_eq!(watch.word().await, format!("ADDED {name}"));
    }
    assert_eq!(watch.word().await, "BOOKMARK");
    assert_eq!(watch.word().await, "end");
    watch.packed.expect("it was compressed").finish().expect("one gzip member, with its check sum");

    let mut uncompressed = admin.watch(&format!("{CONFIG_MAPS}?{STREAMING_LIST}")).await;
    assert!(uncompressed.packed.is_none());
    assert_eq!(uncompressed.word().await, "ADDED big0");
    let after = admin.watch_packed(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion=1&timeoutSeconds=1")).await;
    assert!(after.packed.is_none(), "changes alone are not compressed");
}

#[tokio::test]
async fn an_empty_streaming_list_has_its_mark_too() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.admin().watch(&format!("{CONFIG_MAPS}?{STREAMING_LIST}")).await;
    assert_eq!(watch.next().await.expect("a bookmark")["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1")).await;
    // Another kind's change moves the version on.
    let other = admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], other["metadata"]["resourceVersion"]);
    assert_eq!(watch.word().await, "end");
}

#[tokio::test]
async fn a_version_that_is_gone_is_expired() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=99999999")).await.refused(410).0, "Expired");
    for n in 0..10 {
        let body = json!({"metadata": {"name": format!("big{n}")}, "data": {"k": "x".repeat(1_000_000)}});
        admin.post(CONFIG_MAPS, &body).await.expect(201);
        admin.patch(&format!("{CONFIG_MAPS}/big{n}"), "merge-patch", json!({"data": {"l": "m"}})).await.expect(200);
    }
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await.refused(410).0, "Expired");
}

#[tokio::test]
async fn tables_and_metadata_can_be_watched() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    for (accept, kind) in [("Table", "Table"), ("PartialObjectMetadata", "PartialObjectMetadata")] {
        let accept = format!("application/json;as={accept};v=v1;g=meta.k8s.io");
        let answer = admin.get_as(&format!("{CONFIG_MAPS}?{STREAMING_LIST}&timeoutSeconds=1"), &accept).await;
        let events: Vec<serde_json::Value> = answer
            .bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(events.iter().map(|event| text(&event["type"])).collect::<Vec<_>>(), ["ADDED", "BOOKMARK", "BOOKMARK"]);
        assert!(events.iter().all(|event| event["object"]["kind"] == kind), "{events:?}");
        assert!(events[1].to_string().contains("k8s.io/initial-events-end"), "{events:?}");
    }
}

#[tokio::test]
async fn stopping_the_server_ends_watches() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.admin().watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    cluster.server.shutdown().await;
    assert_eq!(watch.word().await, "end");
}

#[tokio::test]
async fn events_are_seen_in_both_their_groups() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "Because", "message": "m", "type": "Normal",
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1, "source": {"component": "c"}});
    admin.post("/api/v1/namespaces/default/events", &body).await.expect(201);
    let event = admin.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!((text(&event["apiVersion"]), text(&event["note"]), text(&event["regarding"]["name"])), ("events.k8s.io/v1", "m", "p"));
    let mut watch = admin.watch("/apis/events.k8s.io/v1/events?watch=1&fieldSelector=regarding.name%3Dp").await;
    assert_eq!(watch.next().await.expect("an event")["object"]["note"], "m");
    let list = admin.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp,type%3DNormal").await.expect(200);
    assert_eq!(list["items"][0]["message"], "m");
    assert_eq!(admin.get("/apis/events.k8s.io/v1/events").await.expect(200)["items"][0]["note"], "m");
}
