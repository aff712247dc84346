//! Paths that are not what they seem.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::user_with;
use crate::{
    custom::define,
    kit::{Client, Cluster, text},
    transport::connect,
};

fn definition(scope: &str, plural: &str, kind: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": [{
            "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// CVE-2019-11247: a role in one namespace reached custom objects that are in none.
#[tokio::test]
async fn every_mix_of_scope_and_path_is_not_found() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition("Cluster", "globals", "Global")).await;
    define(&admin, &definition("Namespaced", "locals", "Local")).await;
    let object = json!({"apiVersion": "example.com/v1", "kind": "Global", "metadata": {"name": "x"}});
    admin.post("/apis/example.com/v1/globals", &object).await.expect(201);
    let mut tried = 0;
    for (root, resource, namespaced) in resources(&admin).await {
        let wrong = match namespaced {
            true => vec![format!("{root}/{resource}/x"), format!("{root}/{resource}/x/status")],
            false => {
                let inside = format!("{root}/namespaces/default/{resource}");
                vec![
                    inside.clone(),
                    format!("{inside}/x"),
                    format!("{inside}/x/status"),
                    format!("{root}/watch/namespaces/default/{resource}"),
                ]
            }
        };
        for path in wrong {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let answer = admin.ask(method, &path, &[("content-type", "application/json")], "{}").await;
                assert_eq!(answer.refused(404).0, "NotFound", "{method} {path}");
                tried += 1;
            }
        }
    }
    assert!(tried > 500, "{tried}");
    // The attack itself: every right in a namespace gives none to what is in no namespace.
    let bob = user_with(&cluster, "bob", "default", "example.com", &["*"], &["*"]).await;
    bob.get("/apis/example.com/v1/namespaces/default/locals").await.expect(200);
    assert_eq!(bob.get("/apis/example.com/v1/namespaces/default/globals/x").await.code, 404);
    bob.get("/apis/example.com/v1/globals/x").await.refused(403);
}

/// Every listed resource: its group's path, its name, whether it is in namespaces.
async fn resources(admin: &Client) -> Vec<(String, String, bool)> {
    let groups = admin.get("/apis").await.expect(200);
    let versions = groups["groups"].as_array().into_iter().flatten().flat_map(|group| group["versions"].as_array().into_iter().flatten());
    let mut roots: Vec<String> = versions.map(|version| format!("/apis/{}", text(&version["groupVersion"]))).collect();
    roots.push("/api/v1".to_owned());
    let mut found = Vec::new();
    for root in roots {
        let list = admin.get(&root).await.expect(200);
        let whole = list["resources"].as_array().into_iter().flatten().filter(|resource| !text(&resource["name"]).contains('/'));
        found.extend(whole.map(|resource| (root.clone(), text(&resource["name"]).to_owned(), resource["namespaced"] == true)));
    }
    found
}

/// CVE-2022-3162: whoever may list one custom kind of a group read the others; and all that is like it. Sent as bytes, since clients clean paths.
#[tokio::test]
async fn no_spelling_of_a_path_leads_to_what_its_words_do_not_name() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    define(&admin, &definition("Namespaced", "opens", "Open")).await;
    define(&admin, &definition("Namespaced", "closeds", "Closed")).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "HIDDEN"}});
    admin.post("/api/v1/namespaces/kube-system/secrets", &secret).await.expect(201);
    let closed = json!({"apiVersion": "example.com/v1", "kind": "Closed", "metadata": {"name": "c"}, "spec": "HIDDEN"});
    admin.post("/apis/example.com/v1/namespaces/default/closeds", &closed).await.expect(201);
    user_with(&cluster, "bob", "default", "example.com", &["opens"], &["*"]).await;
    let identity = cluster.server.pki().issue_client("bob", None).unwrap();
    const OPENS: &str = "/apis/example.com/v1/namespaces/default/opens";
    let mut paths: Vec<String> = [
        "../closeds",
        "..%2Fcloseds",
        "%2e%2e/closeds",
        "%2E%2E%2Fcloseds",
        "..;/closeds",
        "./../closeds",
        "%252e%252e%252fcloseds",
        "..\\closeds",
        "..%5ccloseds",
        "x/../../closeds/c",
        "..%00/closeds",
        "%c0%ae%c0%ae/closeds",
        "../../../../../../api/v1/namespaces/kube-system/secrets/s",
        "proxy/../../../closeds/c",
        "x/status/../../../closeds/c",
        "?fieldSelector=metadata.name%3D..%2Fcloseds%2Fc",
        "?watch=true&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3D..%2Fcloseds",
        "?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9jbG9zZWRzIn0&limit=5",
    ]
    .map(|tail| if tail.starts_with('?') { format!("{OPENS}{tail}") } else { format!("{OPENS}/{tail}") })
    .into();
    paths.extend(
        [
            "//apis/example.com/v1/namespaces/default/closeds",
            "/apis//example.com/v1/namespaces/default/closeds",
            "/apis/example.com/v1/namespaces/default//closeds",
            "/apis/example.com/v1/namespaces/default/opens%2f..%2fcloseds",
            "/apis/example.com/v1/namespaces%2Fdefault%2Fcloseds",
            "/apis/example.com/v1/namespaces/default%2fcloseds/opens",
            "/apis/example.com/v1/namespaces/*/closeds",
            "/apis/example.com/v1/CLOSEDS",
            "/apis/example.com/v1/watch/namespaces/default/closeds?timeoutSeconds=1",
            "/apis/example.com/../../api/v1/namespaces/kube-system/secrets/s",
            "/api/v1/namespaces/default/../kube-system/secrets/s",
            "/api/v1/namespaces/kube-system/secrets/s#/apis/example.com/v1/namespaces/default/opens",
            "/api/v1/namespaces/kube-system/secrets/s?/apis/example.com/v1/namespaces/default/opens",
            "/healthz/../api/v1/namespaces/kube-system/secrets/s",
            "/version/%2e%2e/api/v1/namespaces/kube-system/secrets/s",
            "https://localhost/api/v1/namespaces/kube-system/secrets/s",
            "http://other/api/v1/namespaces/kube-system/secrets/s",
            "/openapi/v3/apis/example.com/../../../api/v1/namespaces/kube-system/secrets/s",
        ]
        .map(str::to_owned),
    );
    for path in paths {
        let mut stream = connect(&cluster, Some(&identity), b"http/1.1").await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // An end without TLS's farewell is an end, too.
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
        assert!(!answer.contains("HIDDEN"), "{path}: {answer}");
        let code = answer[9..12].parse::<u16>().unwrap();
        // A selector or a token may name what it likes: it selects among the open ones.
        assert!((400..500).contains(&code) || (path.contains('?') && path.starts_with(OPENS)), "{path}: {answer}");
    }
}

/// CVE-2019-11248: the profiler of Go's libraries was open to everyone.
#[tokio::test]
async fn nothing_but_health_and_version_answers_the_nameless() {
    let cluster = Cluster::start().await;
    let mut stream = connect(&cluster, None, b"http/1.1").await;
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v1",
        "/api/v1/secrets",
        "/metrics",
        "/metrics/slis",
        "/debug",
        "/debug/pprof",
        "/debug/pprof/",
        "/debug/pprof/goroutine",
        "/debug/pprof/cmdline",
        "/debug/flags/v",
        "/debug/api_priority_and_fairness/dump_queues",
        "/logs",
        "/logs/",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/.well-known/openid-configuration",
        "/configz",
        "/flagz",
        "/statusz",
        "/swagger.json",
        "/healthz/../metrics",
        "/version/../metrics",
        "/stats",
        "/exec/a/b/c",
        "/run/a/b/c",
        "/pods",
        "/ui",
        "/apis/metrics.k8s.io/v1beta1/nodes",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = whole(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
    }
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(whole(&mut stream).await.starts_with("HTTP/1.1 200 "), "{path}");
    }
}

/// An answer with a Content-Length.
async fn whole(stream: &mut crate::transport::Tls) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("a head in ASCII").to_lowercase().replacen("http/1.1", "HTTP/1.1", 1);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    head + &String::from_utf8_lossy(&body)
}
