//! OpenAPI documents: what clients are generated from.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::kit::Cluster;

/// Where `./x test` installs the Python client.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-clients/python/bin/python");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/openapi.py");

#[tokio::test]
async fn each_call_of_the_generated_python_client_is_described_as_upstream_describes_it() {
    if !Path::new(PYTHON).exists() {
        return knarr_testbed::skipped("needs the Python client in target/test-clients, which `./x test` installs");
    }
    let cluster = Cluster::start().await;
    let document = cluster.admin().get_as("/openapi/v2", "application/json").await;
    let path = cluster.dir.path().join("openapi.json");
    std::fs::write(&path, &document.bytes).expect("a file for the document");
    let output = Command::new(PYTHON).arg(SCRIPT).arg(&path).output().expect("Python runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.ends_with("operations agree\n"), "{told}");
}

/// What a DELETE answers is what the document says that it answers.
#[tokio::test]
async fn deletions_answer_what_is_described() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let document = admin.get_as("/openapi/v2", "application/json").await.expect(200);
    let core = "/api/v1/namespaces/default";
    for (resource, object) in [
        ("serviceaccounts", json!({"metadata": {"name": "x"}})),
        ("configmaps", json!({"metadata": {"name": "x"}})),
        ("podtemplates", json!({"metadata": {"name": "x"}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}})),
        ("secrets", json!({"metadata": {"name": "x"}})),
        ("resourcequotas", json!({"metadata": {"name": "x"}, "spec": {}})),
    ] {
        admin.post(&format!("{core}/{resource}"), &object).await.expect(201);
        let answered = admin.delete(&format!("{core}/{resource}/x")).await.expect(200);
        let described = &document["paths"][format!("/api/v1/namespaces/{{namespace}}/{resource}/{{name}}")]["delete"]["responses"];
        for code in ["200", "202"] {
            let definition = described[code]["schema"]["$ref"].as_str().expect("a reference").rsplit('.').next();
            assert_eq!(answered["kind"].as_str(), definition, "{resource}");
        }
    }
}

#[tokio::test]
async fn the_old_form_of_watches_is_described() {
    let cluster = Cluster::start().await;
    let document = cluster.admin().get_as("/openapi/v2", "application/json").await.expect(200);
    for (path, id, action) in [
        ("/api/v1/watch/pods", "watchCoreV1PodListForAllNamespaces", "watchlist"),
        ("/api/v1/watch/namespaces/{namespace}/pods", "watchCoreV1NamespacedPodList", "watchlist"),
        ("/api/v1/watch/namespaces/{namespace}/pods/{name}", "watchCoreV1NamespacedPod", "watch"),
        ("/api/v1/watch/nodes", "watchCoreV1NodeList", "watchlist"),
    ] {
        let operation = &document["paths"][path]["get"];
        assert_eq!((&operation["operationId"], &operation["x-kubernetes-action"]), (&json!(id), &json!(action)));
        let answer = &operation["responses"]["200"]["schema"]["$ref"];
        assert_eq!(answer, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent");
    }
}

#[tokio::test]
async fn definitions_name_the_fields_that_selectors_know() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"color": {"type": "string"}, "size": {"type": "integer"}}}}}});
    let definition = |fields: &[&str]| {
        let fields: Vec<Value> = fields.iter().map(|field| json!({"jsonPath": field})).collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "shirts.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "shirts", "kind": "Shirt"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "selectableFields": fields}]}})
    };
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let told = async |v2: bool| {
        let document =
            if v2 { admin.get_as("/openapi/v2", "application/json").await } else { admin.get("/openapi/v3/apis/example.com/v1").await };
        let document = if document.code == 404 { json!({}) } else { document.expect(200) };
        let shirts = if v2 { &document["definitions"] } else { &document["components"]["schemas"] };
        shirts["com.example.v1.Shirt"]["x-kubernetes-selectable-fields"].clone()
    };
    admin.post(path, &definition(&[".spec.color"])).await.expect(201);
    for (fields, expected) in [
        (&[".spec.color"][..], json!([{"fieldPath": "spec.color"}])),
        (&[".spec.color", ".spec.size"][..], json!([{"fieldPath": "spec.color"}, {"fieldPath": "spec.size"}])),
    ] {
        admin.patch(&format!("{path}/shirts.example.com"), "merge-patch", definition(fields)).await.expect(200);
        let begun = std::time::Instant::now();
        while (told(true).await, told(false).await) != (expected.clone(), expected.clone()) {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{} {}", told(true).await, told(false).await);
            tokio::task::yield_now().await;
        }
    }
}
