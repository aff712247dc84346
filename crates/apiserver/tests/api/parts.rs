//! Subresources: scale, binding, eviction, tokens.

use serde_json::{Value, json};

use crate::kit::{Cluster, PODS, pod, text};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn anything_with_replicas_scales_alike() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment()).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = admin.get(&path).await.expect(200);
    assert_eq!((text(&scale["kind"]), text(&scale["apiVersion"])), ("Scale", "autoscaling/v1"));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("a=b")));
    let mut wish = scale.clone();
    wish["spec"]["replicas"] = 3.into();
    assert_eq!(admin.put(&path, &wish).await.expect(200)["spec"]["replicas"], 3);
    assert_eq!(admin.put(&path, &wish).await.refused(409).0, "Conflict");
    assert_eq!(admin.patch(&path, "merge-patch", json!({"spec": {"replicas": 5}})).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(admin.patch(&path, "merge-patch", json!({"spec": {"replicas": -1}})).await.refused(422).0, "Invalid");
    let live = admin.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((&live["spec"]["replicas"], &live["metadata"]["generation"]), (&json!(5), &json!(3)));
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let binding =
        |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let path = format!("{PODS}/p/binding");
    assert_eq!(admin.post(&path, &binding("n1")).await.expect(201)["status"], "Success");
    let bound = admin.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (reason, message) = admin.post(&path, &binding("n2")).await.refused(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("already assigned to node \"n1\""), "{message}");
}

#[tokio::test]
async fn an_eviction_deletes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    admin.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(201);
    admin.get(&format!("{PODS}/p")).await.refused(404);
}

#[tokio::test]
async fn the_kubelet_writes_a_pods_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let status =
        json!({"status": {"phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}, "metadata": {"labels": {"x": "y"}}});
    let written = admin.patch(&format!("{PODS}/p/status"), "strategic-merge-patch", status).await.expect(200);
    assert_eq!((&written["status"]["phase"], &written["status"]["podIP"]), (&json!("Running"), &json!("10.42.0.5")));
}

#[tokio::test]
async fn a_token_opens_the_door_that_its_account_may_open() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let token = admin.post(path, &request).await.expect(201);
    let token = text(&token["status"]["token"]);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:default");
}
