//! Points on which clients break, and the page that lists them: `docs/clients.md`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    custom::define,
    kit::{CONFIG_MAPS, Cluster, PODS, names, pod, text},
};

/// The sources of the tests that the page names.
const SOURCES: &[(&str, &str)] = &[
    ("aggregation", include_str!("aggregation.rs")),
    ("audit", include_str!("audit.rs")),
    ("compat", include_str!("compat.rs")),
    ("conversion", include_str!("conversion.rs")),
    ("cves::floods", include_str!("cves/floods.rs")),
    ("cves::slow", include_str!("cves/slow.rs")),
    ("encryption", include_str!("encryption.rs")),
    ("fairness", include_str!("fairness.rs")),
    ("identity", include_str!("identity.rs")),
    ("custom", include_str!("custom.rs")),
    ("discovery", include_str!("discovery.rs")),
    ("groups", include_str!("groups.rs")),
    ("kubelet", include_str!("kubelet.rs")),
    ("lists", include_str!("lists.rs")),
    ("mutations", include_str!("mutations.rs")),
    ("openapi", include_str!("openapi.rs")),
    ("parts", include_str!("parts.rs")),
    ("permissions", include_str!("permissions.rs")),
    ("policies", include_str!("policies.rs")),
    ("protobuf", include_str!("protobuf.rs")),
    ("transport", include_str!("transport.rs")),
    ("watches", include_str!("watches.rs")),
    ("webhooks", include_str!("webhooks.rs")),
    ("writes", include_str!("writes.rs")),
    ("encode::tests", include_str!("../../../api/src/encode/tests.rs")),
    ("kube_derive", include_str!("../../../knarr/tests/e2e/kube_derive.rs")),
    ("kube_runtime", include_str!("../../../knarr/tests/e2e/kube_runtime.rs")),
    ("kubectl::aggregation", include_str!("../../../knarr/tests/e2e/kubectl/aggregation.rs")),
    ("kubectl::old", include_str!("../../../knarr/tests/e2e/kubectl/old.rs")),
    ("kubectl::kubelet", include_str!("../../../knarr/tests/e2e/kubectl/kubelet.rs")),
    ("kubectl::owners", include_str!("../../../knarr/tests/e2e/kubectl/owners.rs")),
    ("kubectl::running", include_str!("../../../knarr/tests/e2e/kubectl/running.rs")),
    ("kubectl::discovery", include_str!("../../../knarr/tests/e2e/kubectl/discovery.rs")),
    ("kubectl::objects", include_str!("../../../knarr/tests/e2e/kubectl/objects.rs")),
    ("kubectl::rollouts", include_str!("../../../knarr/tests/e2e/kubectl/rollouts.rs")),
    ("kubectl::streams", include_str!("../../../knarr/tests/e2e/kubectl/streams.rs")),
];

#[test]
fn every_test_that_the_page_names_exists() {
    let page = include_str!("../../../../docs/clients.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    for item in 1..=22 {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {item} |"))), "the page has no row of point {item}");
    }
    let tests: Vec<&str> = rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
    assert!(tests.len() > 20, "{tests:?}");
    for test in tests {
        let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} names no module"));
        let source = SOURCES.iter().find(|(known, _)| *known == module).unwrap_or_else(|| panic!("no module {module}")).1;
        assert!(source.contains(&format!("fn {name}(")), "{test} does not exist");
    }
}

#[tokio::test]
async fn failures_have_reason_code_and_details() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.config_map("a", json!({})).await;
    let again = admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(again.refused(409), ("AlreadyExists".into(), "configmaps \"a\" already exists".into()));
    assert_eq!(again.json()["details"], json!({"name": "a", "kind": "configmaps"}));
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
    assert_eq!(admin.put(&format!("{CONFIG_MAPS}/a"), &stale).await.refused(409).0, "Conflict");
    let missing = admin.get("/apis/apps/v1/namespaces/default/deployments/d").await;
    assert_eq!(missing.refused(404), ("NotFound".into(), "deployments.apps \"d\" not found".into()));
    assert_eq!(missing.json()["details"], json!({"name": "d", "group": "apps", "kind": "deployments"}));
    let mut wrong = pod("p");
    wrong["spec"]["restartPolicy"] = "Sometimes".into();
    let invalid = admin.post(PODS, &wrong).await;
    let (reason, message) = invalid.refused(422);
    assert_eq!(reason, "Invalid");
    assert!(message.starts_with("Pod \"p\" is invalid: spec.restartPolicy: Unsupported value: \"Sometimes\""), "{message}");
    let cause = &invalid.json()["details"]["causes"][0];
    assert_eq!((text(&cause["reason"]), text(&cause["field"])), ("FieldValueNotSupported", "spec.restartPolicy"));
}

#[tokio::test]
async fn aggregated_discovery_comes_in_the_first_form_that_is_known() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let form = |version: &str, rest: &str| format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList{rest}");
    for (accept, kind) in [
        (form("v2", ""), "APIGroupDiscoveryList"),
        (form("v2", ";profile=nopeer"), "APIGroupDiscoveryList"),
        (format!("{},application/json", form("v9", "")), "APIGroupList"),
        ("application/json".to_owned(), "APIGroupList"),
    ] {
        let answer = admin.get_as("/apis", &accept).await;
        assert_eq!(text(&answer.expect(200)["kind"]), kind, "{accept}");
        let echoed = answer.header("content-type").contains("as=APIGroupDiscoveryList");
        assert_eq!(echoed, kind == "APIGroupDiscoveryList", "{accept}: {}", answer.header("content-type"));
    }
}

#[tokio::test]
async fn duplicate_fields_count_in_json_and_yaml() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let json = r#"{"metadata": {"name": "NAME"}, "data": {"a": "1"}, "data": {"a": "2"}}"#;
    let yaml = "metadata: {name: NAME}\ndata: {a: '1'}\ndata: {a: '2'}\n";
    for (media, body) in [("application/json", json), ("application/yaml", yaml)] {
        let name = media.rsplit('/').next().unwrap_or_default();
        let headers = [("content-type", media)];
        let strict = admin.ask("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), &headers, body.replace("NAME", name)).await;
        assert_eq!(strict.code, 400, "{media}");
        let warned = admin.ask("POST", CONFIG_MAPS, &headers, body.replace("NAME", name)).await;
        assert_eq!(warned.code, 201, "{media}");
        assert!(warned.header("warning").contains("data"), "{media}: {:?}", warned.headers);
    }
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let events = "/api/v1/namespaces/default/events";
    for (name, about, ty) in [("a", "p", "Normal"), ("b", "p", "Warning"), ("c", "q", "Normal")] {
        let event = json!({"metadata": {"name": name}, "type": ty, "reason": "R",
            "involvedObject": {"kind": "Pod", "name": about, "namespace": "default", "uid": format!("uid-{about}")}});
        admin.post(events, &event).await.expect(201);
    }
    for (selector, expected) in [
        ("involvedObject.name%3Dp", vec!["a", "b"]),
        ("involvedObject.uid%3Duid-q", vec!["c"]),
        ("involvedObject.name%3Dp,type%3DWarning", vec!["b"]),
        ("type!%3DNormal", vec!["b"]),
    ] {
        let list = admin.get(&format!("{events}?fieldSelector={selector}")).await.expect(200);
        assert_eq!(names(&list), expected, "{selector}");
    }
    assert_eq!(admin.get(&format!("{events}?fieldSelector=message%3Dx")).await.refused(400).0, "BadRequest");
}

const CBOR: &str = "application/cbor";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// client-go tries CBOR where it is told to, and pins itself to JSON on a 415.
#[tokio::test]
async fn cbor_is_refused_so_that_clients_fall_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = "\u{0}";
    let path = format!("{CONFIG_MAPS}/a");
    for (method, path, media) in
        [("POST", CONFIG_MAPS, CBOR), ("PUT", &path, CBOR), ("DELETE", &path, CBOR), ("PATCH", &path, "application/apply-patch+cbor")]
    {
        let refused = admin.ask(method, path, &[("content-type", media)], body).await;
        let (reason, message) = refused.refused(415);
        assert_eq!(reason, "UnsupportedMediaType", "{method}: {message}");
    }
    assert_eq!(admin.get_as(CONFIG_MAPS, CBOR).await.refused(406).0, "NotAcceptable");
    let list = admin.get_as(CONFIG_MAPS, "application/cbor,application/json;q=0.9").await;
    assert_eq!((list.code.as_u16(), list.header("content-type")), (200, "application/json"));
    let watch = admin.watch_as(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1"), "application/cbor-seq,application/json").await;
    assert!(watch.content_type.starts_with("application/json"), "{}", watch.content_type);
}

#[tokio::test]
async fn custom_kinds_have_no_protobuf() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    define(&admin, &definition).await;
    const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";
    let refused = admin.ask("POST", THINGS, &[("content-type", PROTOBUF)], "k8s\u{0}").await;
    assert_eq!(refused.refused(415).0, "UnsupportedMediaType");
    assert_eq!(admin.get_as(THINGS, PROTOBUF).await.code, 406);
    let list = admin.get_as(THINGS, &format!("{PROTOBUF},application/json")).await;
    assert_eq!((list.code.as_u16(), list.header("content-type")), (200, "application/json"));
    // Deletion has options of a kind of its own, which has a protobuf form everywhere.
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}});
    admin.post(THINGS, &thing).await.expect(201);
    let strategic = admin.patch(&format!("{THINGS}/a"), "strategic-merge-patch", "{}").await;
    assert_eq!(strategic.refused(415).0, "UnsupportedMediaType");
}

#[tokio::test]
async fn what_may_be_tried_again_says_when() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let future = admin.get(&format!("{CONFIG_MAPS}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan")).await;
    let (reason, _) = future.refused(504);
    let details = future.json()["details"].clone();
    assert_eq!((reason.as_str(), text(&details["causes"][0]["reason"])), ("Timeout", "ResourceVersionTooLarge"));
    assert!(details["retryAfterSeconds"].as_u64().is_some_and(|seconds| seconds > 0), "{details}");
    let service = json!({"metadata": {"name": "v1.none.example.com"}, "spec": {"group": "none.example.com", "version": "v1",
        "groupPriorityMinimum": 1, "versionPriority": 1, "service": {"namespace": "default", "name": "none"}}});
    admin.post("/apis/apiregistration.k8s.io/v1/apiservices", &service).await.expect(201);
    let answer = loop {
        let answer = admin.get("/apis/none.example.com/v1/things").await;
        if answer.code != 404 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((answer.refused(503).0.as_str(), answer.header("retry-after")), ("ServiceUnavailable", "1"));
}

#[tokio::test]
async fn a_cluster_starts_with_what_clients_look_for() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let service = admin.get("/api/v1/namespaces/default/services/kubernetes").await.expect(200);
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]), (&json!("10.43.0.1"), &json!(443)));
    let port = cluster.server.addresses()[0].port();
    let slice = admin.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.expect(200);
    assert_eq!((&slice["endpoints"][0]["addresses"], &slice["ports"][0]["port"]), (&json!(["127.0.0.1"]), &json!(port)));
    let trust = admin.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.expect(200);
    assert!(text(&trust["data"]["requestheader-client-ca-file"]).starts_with("-----BEGIN CERTIFICATE-----"), "{trust}");
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/kube-public",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles/extension-apiserver-authentication-reader",
    ] {
        admin.get(path).await.expect(200);
    }
}

/// Load balancers look at readyz and send no more; livez must not have the server killed while it lets requests end.
#[tokio::test]
async fn a_server_that_stops_is_alive_and_not_ready() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    assert_eq!(admin.get("/readyz").await.code, 200);
    cluster.server.shutdown().await;
    let answer = admin.get("/readyz").await;
    let page = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert_eq!((answer.code.as_u16(), page.contains("[-]shutdown failed")), (500, true), "{page}");
    assert_eq!(admin.get("/livez").await.code, 200);
}

/// By whichever of its names a client calls the server in TLS (SNI), the certificate is good for it; by others it is still told whose it is.
#[tokio::test]
async fn every_name_of_the_server_finds_its_certificate() {
    let cluster = Cluster::start().await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.server.pki().ca_der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for (name, good) in [
        ("localhost", true),
        ("kubernetes", true),
        ("kubernetes.default", true),
        ("kubernetes.default.svc", true),
        ("kubernetes.default.svc.cluster.local", true),
        ("127.0.0.1", true),
        ("10.43.0.1", true),
        ("elsewhere.example.com", false),
    ] {
        let tcp = tokio::net::TcpStream::connect(cluster.server.addresses()[0]).await.unwrap();
        let connected = connector.connect(rustls_pki_types::ServerName::try_from(name).unwrap(), tcp).await;
        assert_eq!(connected.is_ok(), good, "{name}: {:?}", connected.err());
    }
}

/// What the models of generated clients, and those who wrote for older servers, rely on.
#[tokio::test]
async fn deletions_answer_what_is_declared_and_leave_what_they_always_left() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let service = "/api/v1/namespaces/default/services";
    admin.post(service, &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})).await.expect(201);
    assert_eq!(admin.delete(&format!("{service}/s")).await.expect(200)["kind"], "Service");
    let class = "/apis/storage.k8s.io/v1/storageclasses";
    admin.post(class, &json!({"metadata": {"name": "c"}, "provisioner": "example.com/x"})).await.expect(201);
    assert_eq!(admin.delete(&format!("{class}/c")).await.expect(200)["kind"], "StorageClass");

    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let containers = json!([{"name": "c", "image": "i"}]);
    let job = |name: &str| json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": containers}}}});
    for name in ["kept", "collected"] {
        admin.post(jobs, &job(name)).await.expect(201);
    }
    assert_eq!(admin.delete(&format!("{jobs}/kept")).await.expect(200)["metadata"]["finalizers"], json!(["orphan"]));
    assert_eq!(admin.delete(&format!("{jobs}/collected?propagationPolicy=Background")).await.expect(200)["kind"], "Status");
}

/// By what they do, not by where they run.
#[tokio::test]
async fn components_are_well_while_they_watch() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = "/api/v1/componentstatuses";
    let states = async |query: &str| {
        let list = admin.get(&format!("{path}{query}")).await.expect(200);
        let state = |item: &Value| {
            let condition = &item["conditions"][0];
            let told = text(&condition["message"]).to_owned() + text(&condition["error"]);
            format!("{} {} {} {told}", text(&item["metadata"]["name"]), text(&condition["type"]), text(&condition["status"]))
        };
        list["items"].as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    let idle = "controller-manager Healthy False nobody watches the API as system:kube-controller-manager";
    assert_eq!(
        states("").await,
        [idle, "etcd-0 Healthy True ok", "scheduler Healthy False nobody watches the API as system:kube-scheduler"]
    );
    let scheduler = cluster.as_user(knarr_apiserver::User::authenticated("system:kube-scheduler", [""; 0]));
    let watch = scheduler.watch("/api/v1/pods?watch=true").await;
    assert_eq!(states("").await, [idle, "etcd-0 Healthy True ok", "scheduler Healthy True ok"]);
    assert_eq!(states("?fieldSelector=metadata.name%3Dscheduler").await, ["scheduler Healthy True ok"]);
    assert_eq!(states("?labelSelector=a").await, [""; 0]);
    drop(watch);
    let one = async || admin.get(&format!("{path}/scheduler")).await.expect(200)["conditions"][0]["status"].clone();
    let begun = std::time::Instant::now();
    while one().await != "False" {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
    let table = admin.get_as(path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][1]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    admin.get(&format!("{path}/nothing")).await.refused(404);
    admin.post(path, &json!({"metadata": {"name": "x"}})).await.refused(405);
}

#[tokio::test]
async fn whoever_deletes_a_job_and_leaves_its_pods_unawares_is_told() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let told = "299 - \"child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set \
                propagationPolicy=Orphan to suppress this warning\"";
    for (path, warned) in [
        (format!("{jobs}/j?dryRun=All"), told),
        (format!("{jobs}?dryRun=All"), told),
        (format!("{jobs}/j?dryRun=All&propagationPolicy=Orphan"), ""),
        (format!("{jobs}/j?dryRun=All&orphanDependents=false"), ""),
        (format!("{CONFIG_MAPS}?dryRun=All"), ""),
    ] {
        admin.post(jobs, &job).await;
        assert_eq!(admin.delete(&path).await.header("warning"), warned, "{path}");
    }
}

#[tokio::test]
async fn people_get_indented_answers_and_warnings_of_what_is_old() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let indented = async |agent: &str, query: &str| {
        let answer = admin.ask("GET", &format!("/api/v1/namespaces/default{query}"), &[("user-agent", agent)], "").await;
        answer.bytes.starts_with(b"{\n  ")
    };
    assert!(indented("curl/8.1", "").await && indented("Mozilla/5.0 (X11)", "").await && indented("x", "?pretty=true").await);
    assert!(!indented("curl/8.1", "?pretty=false").await && !indented("kubectl/v1.32", "").await);
    let endpoints = admin.get("/api/v1/namespaces/default/endpoints").await;
    assert!(endpoints.header("warning").contains("v1 Endpoints is deprecated in v1.33+"), "{}", endpoints.header("warning"));

    admin.config_map("a", json!({})).await;
    let mut object = admin.get(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    object["metadata"]["resourceVersion"] = "0".into();
    admin.put(&format!("{CONFIG_MAPS}/a"), &object).await.expect(200);

    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "test-controller",
        "reportingInstance": "x", "action": "Do", "reason": "Test", "type": "Normal", "regarding": {"namespace": "default", "name": "p"},
    });
    admin.post(events, &event).await.expect(201);
    for (selector, found) in [("reportingController=test-controller", 1), ("reportingController=other", 0), ("regarding.fieldPath=x", 0)] {
        let list = admin.get(&format!("{events}?fieldSelector={selector}")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), found, "{selector}");
    }
}
