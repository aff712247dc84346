//! Lists: selectors, pages, versions, shapes.

use serde_json::{Value, json};

use crate::kit::{CONFIG_MAPS, Client, Cluster, PODS, names, pod, text};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn five(admin: &Client) {
    for name in ["a", "b", "c", "d", "e"] {
        admin.config_map(name, json!({"odd": (["a", "c", "e"].contains(&name)).to_string()})).await;
    }
}

#[tokio::test]
async fn a_list_says_its_kind_and_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let list = admin.get(CONFIG_MAPS).await.expect(200);
    assert_eq!((text(&list["kind"]), text(&list["apiVersion"])), ("ConfigMapList", "v1"));
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    let version: u64 = text(&list["metadata"]["resourceVersion"]).parse().unwrap();
    let newest = list["items"].as_array().unwrap().iter().map(|item| text(&item["metadata"]["resourceVersion"]).parse().unwrap()).max();
    assert!(Some(version) >= newest);
    assert_eq!(admin.get("/api/v1/namespaces/kube-public/configmaps?labelSelector=none").await.expect(200)["items"], json!([]));
    assert!(names(&admin.get("/api/v1/configmaps").await.expect(200)).len() >= 5);
}

#[tokio::test]
async fn selectors() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let check = async |query: &str, expected: &[&str]| {
        let list = admin.get(&format!("{CONFIG_MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    };
    check("labelSelector=odd%3Dtrue", &["a", "c", "e"]).await;
    check("labelSelector=odd+notin+(true)", &["b", "d"]).await;
    check("labelSelector=!odd", &[]).await;
    check("fieldSelector=metadata.name%3Db", &["b"]).await;
    check("fieldSelector=metadata.name!%3Db&labelSelector=odd%3Dfalse", &["d"]).await;
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?fieldSelector=data.key%3Dx")).await.refused(400).0, "BadRequest");
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?labelSelector=a+in+b")).await.refused(400).0, "BadRequest");
}

#[tokio::test]
async fn pods_are_found_by_node_and_phase() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n1".into();
    admin.post(PODS, &bound).await.expect(201);
    admin.post(PODS, &pod("free")).await.expect(201);
    let check = async |selector: &str, expected: &[&str]| {
        let list = admin.get(&format!("/api/v1/pods?fieldSelector={selector}")).await.expect(200);
        assert_eq!(names(&list), expected, "{selector}");
    };
    check("spec.nodeName%3Dn1", &["bound"]).await;
    check("spec.nodeName%3D", &["free"]).await;
    check("status.phase%3DPending", &["bound", "free"]).await;
    check("status.phase!%3DPending", &[]).await;
}

#[tokio::test]
async fn pages_show_one_revision() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // What happens meanwhile is not seen.
    admin.delete(&format!("{CONFIG_MAPS}/d")).await.expect(200);
    admin.config_map("c1", json!({})).await;
    let second = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", text(&first["metadata"]["continue"]))).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let third = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", text(&second["metadata"]["continue"]))).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert_eq!(third["metadata"].get("continue"), None);
    assert_eq!(admin.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.refused(400).0, "BadRequest");
}

#[tokio::test]
async fn a_collection_is_deleted_by_pages() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let first = admin.delete(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert_eq!(names(&admin.get(CONFIG_MAPS).await.expect(200)), ["c", "d", "e"]);
    let second = admin.delete(&format!("{CONFIG_MAPS}?limit=2&continue={}", text(&first["metadata"]["continue"]))).await.expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    let rest = admin.delete(CONFIG_MAPS).await.expect(200);
    assert_eq!((names(&rest), rest["metadata"].get("continue")), (vec!["e"], None));
    assert_eq!(admin.delete(&format!("{CONFIG_MAPS}?continue=nonsense")).await.refused(400).0, "BadRequest");
}

/// A page shows the state of the first one, which may be long past.
#[tokio::test]
async fn a_page_deletes_nothing_that_has_left_the_selection_or_was_made_anew() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["a", "b", "c", "d"] {
        admin.config_map(name, json!({"for": "now"})).await;
    }
    let first = admin.delete(&format!("{CONFIG_MAPS}?labelSelector=for%3Dnow&limit=1")).await.expect(200);
    assert_eq!(names(&first), ["a"]);
    admin.patch(&format!("{CONFIG_MAPS}/b"), "merge-patch", json!({"metadata": {"labels": {"for": "ever"}}})).await.expect(200);
    admin.delete(&format!("{CONFIG_MAPS}/c")).await.expect(200);
    admin.config_map("c", json!({"for": "now"})).await;
    let next = format!("{CONFIG_MAPS}?labelSelector=for%3Dnow&limit=9&continue={}", text(&first["metadata"]["continue"]));
    assert_eq!(names(&admin.delete(&next).await.expect(200)), ["d"]);
    assert_eq!(names(&admin.get(CONFIG_MAPS).await.expect(200)), ["b", "c"]);
}

#[tokio::test]
async fn a_list_of_any_state_knows_no_limit() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let list = admin.get(&format!("{CONFIG_MAPS}?limit=2&resourceVersion=0")).await.expect(200);
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    assert_eq!((list["metadata"].get("continue"), list["metadata"].get("remainingItemCount")), (None, None));
}

#[tokio::test]
async fn filtered_pages_do_not_count_what_is_left() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let page = admin.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=odd%3Dtrue")).await.expect(200);
    assert!(!text(&page["metadata"]["continue"]).is_empty());
    assert_eq!(page["metadata"].get("remainingItemCount"), None);
}

#[tokio::test]
async fn a_page_that_is_too_old_comes_with_a_way_on() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    // A token of a revision before this server's history, as a client has it after a restart.
    let token = base64_url(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"default/b"}"#);
    cluster.server.shutdown().await;
    cluster.store.close();
    let store =
        knarr_store::Embedded::open(&cluster.dir.path().join("store"), knarr_store::Options { reserve_bytes: 0, ..Default::default() })
            .unwrap();
    let config = crate::kit::config(&cluster.dir);
    let server = knarr_apiserver::ApiServer::start(config, std::sync::Arc::new(store)).await.unwrap();
    let admin = Client::new(server.service_for(crate::kit::admin_user()));
    let answer = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!(answer.refused(410).0, "Expired");
    let status = answer.json();
    let page = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={}", text(&status["metadata"]["continue"]))).await.expect(200);
    assert_eq!(names(&page), ["c", "d"]);
}

fn base64_url(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn versions_of_lists() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let then = admin.get(CONFIG_MAPS).await.expect(200);
    let version = text(&then["metadata"]["resourceVersion"]).to_owned();
    admin.config_map("f", json!({})).await;
    let exact = admin.get(&format!("{CONFIG_MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    assert_eq!(exact["metadata"]["resourceVersion"], version.as_str());
    for query in [
        format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan"),
        "resourceVersion=0".to_owned(),
        format!("resourceVersion={version}"),
    ] {
        let list = admin.get(&format!("{CONFIG_MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list).len(), 6, "{query}");
    }
    let future = admin.get(&format!("{CONFIG_MAPS}?resourceVersion=99999999")).await;
    assert_eq!(future.refused(504).0, "Timeout");
    assert_eq!(future.json()["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    admin.get(&format!("{CONFIG_MAPS}?resourceVersion=x")).await.refused(400);
}

#[tokio::test]
async fn tables_and_metadata_alone() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    five(&admin).await;
    let table = admin.get_as(CONFIG_MAPS, TABLE).await.expect(200);
    assert_eq!((text(&table["kind"]), text(&table["apiVersion"])), ("Table", "meta.k8s.io/v1"));
    assert_eq!(text(&table["columnDefinitions"][0]["name"]), "Name");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(!text(&table["metadata"]["resourceVersion"]).is_empty());
    let bare = admin.get_as(&format!("{CONFIG_MAPS}/a?includeObject=None"), TABLE).await.expect(200);
    assert!(bare["rows"][0]["object"].is_null(), "{bare}");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = admin.get_as(CONFIG_MAPS, partial).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&list).len(), &list["items"][0]["data"]), (5, &Value::Null));
    let one = admin.get_as(&format!("{CONFIG_MAPS}/a"), "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!((text(&one["kind"]), text(&one["metadata"]["name"])), ("PartialObjectMetadata", "a"));
}

#[tokio::test]
async fn what_cannot_be_given_is_not_acceptable() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get_as(CONFIG_MAPS, "application/cbor").await.refused(406).0, "NotAcceptable");
    admin.get_as(CONFIG_MAPS, "application/cbor,application/json").await.expect(200);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    admin.ask("POST", reviews, &headers, review.to_string()).await.refused(406);
}

#[tokio::test]
async fn large_lists_are_compressed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for n in 0..4 {
        let body = json!({"metadata": {"name": format!("big{n}")}, "data": {"k": "x".repeat(60_000)}});
        admin.post(CONFIG_MAPS, &body).await.expect(201);
    }
    let answer = admin.ask("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.bytes[..]), &mut text).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(names(&list), ["big0", "big1", "big2", "big3"]);
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (path, code) in [
        ("/api/v1/nothing", 404),
        ("/apis/none.example.com/v1/things", 404),
        ("/api/v1/namespaces/default/nodes", 404),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles/cluster-admin", 404),
        ("/api/v1/pods/a", 404),
        ("/api/v1/namespaces/default/configmaps/a/status", 404),
        ("/api/v1/namespaces/default/pods/a/log/b", 404),
        ("/api/v1/namespaces/default%2Fsecrets/a/b", 400),
        ("/api/v1/namespaces/default/../kube-system/secrets", 400),
        ("/nothing", 404),
    ] {
        assert_eq!(admin.get(path).await.code, code, "{path}");
    }
    assert_eq!(admin.post(&format!("{CONFIG_MAPS}/a"), &json!({})).await.refused(405).0, "MethodNotAllowed");
    assert_eq!(admin.put(CONFIG_MAPS, &json!({})).await.refused(405).0, "MethodNotAllowed");
    assert_eq!(admin.post("/api/v1/configmaps", &json!({})).await.refused(405).0, "MethodNotAllowed");
    assert_eq!(admin.post("/api/v1/watch/namespaces/default/configmaps", &json!({})).await.refused(405).0, "MethodNotAllowed");
}
