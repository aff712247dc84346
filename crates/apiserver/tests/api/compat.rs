//! Points on which clients break, and the page that lists them: `docs/clients.md`.

use serde_json::json;

use crate::kit::{CONFIG_MAPS, Cluster, PODS, names, pod, text};

/// The sources of the tests that the page names.
const SOURCES: [(&str, &str); 8] = [
    ("compat", include_str!("compat.rs")),
    ("discovery", include_str!("discovery.rs")),
    ("groups", include_str!("groups.rs")),
    ("lists", include_str!("lists.rs")),
    ("protobuf", include_str!("protobuf.rs")),
    ("watches", include_str!("watches.rs")),
    ("writes", include_str!("writes.rs")),
    ("encode::tests", include_str!("../../../api/src/encode/tests.rs")),
];

#[test]
fn every_test_that_the_page_names_exists() {
    let page = include_str!("../../../../docs/clients.md");
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let tests: Vec<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
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
