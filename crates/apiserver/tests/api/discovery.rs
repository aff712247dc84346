//! Discovery, OpenAPI, version, health and metrics.

use serde_json::{Value, json};

use crate::kit::{Client, Cluster, text};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn the_plain_documents() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let versions = admin.get("/api").await.expect(200);
    assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = admin.get("/apis").await.expect(200);
    let apps = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "apps").unwrap();
    assert_eq!(apps["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
    assert_eq!(admin.get("/apis/apps").await.expect(200)["kind"], "APIGroup");
    let list = admin.get("/api/v1").await.expect(200);
    let find =
        |name: &str| list["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == name).cloned().unwrap_or_default();
    let pods = find("pods");
    assert_eq!(
        (&pods["kind"], &pods["namespaced"], &pods["singularName"], &pods["shortNames"]),
        (&json!("Pod"), &json!(true), &json!("pod"), &json!(["po"]))
    );
    assert_eq!(pods["verbs"], json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]));
    assert_eq!((&find("pods/eviction")["kind"], &find("pods/eviction")["group"]), (&json!("Eviction"), &json!("policy")));
    assert_eq!(admin.get("/apis/none").await.code, 404);
    assert_eq!(admin.get("/apis/apps/v9").await.code, 404);
}

/// As a cluster of upstream answers them, too.
#[tokio::test]
async fn each_kind_says_which_version_it_is_stored_in() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (path, resource, hash) in [
        ("/api/v1", "pods", "xPOwRZ+Yhw8="),
        ("/api/v1", "configmaps", "qFsyl6wFWjQ="),
        ("/apis/apps/v1", "deployments", "8aSe+NMegvE="),
        ("/apis/autoscaling/v2", "horizontalpodautoscalers", "qwQve8ut294="),
        ("/apis/autoscaling/v1", "horizontalpodautoscalers", "qwQve8ut294="),
        ("/api/v1", "events", "r2yiGXH7wu8="),
        ("/apis/events.k8s.io/v1", "events", "r2yiGXH7wu8="),
    ] {
        let list = admin.get(path).await.expect(200);
        let found = list["resources"].as_array().unwrap().iter().find(|found| found["name"] == resource).unwrap();
        assert_eq!(found["storageVersionHash"], hash, "{path} {resource}");
    }
}

#[tokio::test]
async fn the_aggregated_document_echoes_its_type_and_has_a_tag() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let accept = format!("{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json");
    let answer = admin.get_as("/apis", &accept).await;
    assert_eq!(answer.header("content-type"), AGGREGATED);
    let list = answer.expect(200);
    assert_eq!((text(&list["kind"]), text(&list["apiVersion"])), ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2"));
    let core = admin.get_as("/api", &accept).await.expect(200);
    let pods =
        core["items"][0]["versions"][0]["resources"].as_array().unwrap().iter().find(|resource| resource["resource"] == "pods").unwrap();
    assert_eq!((text(&pods["scope"]), text(&pods["responseKind"]["kind"])), ("Namespaced", "Pod"));
    let again = admin.ask("GET", "/apis", &[("accept", AGGREGATED), ("if-none-match", answer.header("etag"))], "").await;
    assert_eq!((again.code.as_u16(), again.bytes.len()), (304, 0));
    let plain = admin.get_as("/apis", "application/json").await;
    assert_eq!((plain.header("content-type"), text(&plain.json()["kind"])), ("application/json", "APIGroupList"));
}

#[tokio::test]
async fn openapi_in_both_versions() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let index = admin.get("/openapi/v3").await.expect(200);
    let url = text(&index["paths"]["apis/apps/v1"]["serverRelativeURL"]).to_owned();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{index}");
    let answer = admin.get(&url).await;
    assert!(answer.expect(200)["paths"].get("/apis/apps/v1/namespaces/{namespace}/deployments").is_some());
    assert!(answer.header("cache-control").contains("immutable"));
    let moved = admin.get("/openapi/v3/apis/apps/v1?hash=OLD").await;
    assert_eq!((moved.code.as_u16(), moved.header("location")), (301, url.as_str()));
    let tag = answer.header("etag").to_owned();
    assert_eq!(admin.ask("GET", &url, &[("if-none-match", &tag)], "").await.code, 304);
    let v2 = admin.get_as("/openapi/v2", "application/json").await.expect(200);
    assert_eq!(v2["swagger"], "2.0");
    let gnostic = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = admin.get_as("/openapi/v2", gnostic).await;
    // The answer names the type without the @, which Go's parser of media types refuses.
    assert_eq!((answer.code.as_u16(), answer.header("content-type")), (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"));
    assert_eq!(answer.bytes[0], 0x0a, "the first field is the version");
}

#[tokio::test]
async fn version_and_health() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let version = admin.get("/version").await.expect(200);
    assert!(text(&version["gitVersion"]).starts_with("v1.37.0+knarr"), "{version}");
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = admin.get(path).await;
        assert_eq!((answer.code.as_u16(), &answer.bytes[..]), (200, &b"ok"[..]), "{path}");
    }
    let verbose = admin.get("/readyz?verbose").await;
    assert!(verbose.header("content-type").starts_with("text/plain"));
    assert!(String::from_utf8_lossy(&verbose.bytes).starts_with("[+]ping ok\n"));
}

#[tokio::test]
async fn metrics_count_requests() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.get("/api/v1/namespaces/default/pods").await.expect(200);
    let page = String::from_utf8(admin.get("/metrics").await.bytes.to_vec()).unwrap();
    let line = r#"apiserver_request_total{verb="list",group="",version="v1",resource="pods",subresource="",code="200"} 1"#;
    assert!(page.contains(line), "{page}");
}

#[tokio::test]
async fn who_am_i_and_may_i() {
    let cluster = Cluster::start().await;
    let nobody = cluster.as_user(knarr_apiserver::User::authenticated("nobody", Vec::<String>::new()));
    let ask = async |client: &Client, verb: &str| {
        let review = json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}});
        client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await.expect(201)["status"]["allowed"].clone()
    };
    assert_eq!(ask(&cluster.admin(), "create").await, true);
    assert_eq!(ask(&nobody, "create").await, false);
    let me = nobody.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(me["status"]["userInfo"]["username"], "nobody");
    let (reason, message) = nobody.get("/api/v1/namespaces/default/pods").await.refused(403);
    assert_eq!(reason, "Forbidden");
    assert!(
        message
            .starts_with("pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""),
        "{message}"
    );
    let rules: Value =
        nobody.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &json!({"spec": {"namespace": "default"}})).await.expect(201);
    assert!(rules["status"]["nonResourceRules"].as_array().is_some_and(|rules| !rules.is_empty()), "{rules}");
}
