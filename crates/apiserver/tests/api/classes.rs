//! What built-in admission gives to objects that name classes, or should: storage, ingress and runtime classes, and the protection of storage.

use serde_json::{Value, json};

use crate::kit::{Cluster, PODS, pod};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

fn claim(name: &str, spec: Value) -> Value {
    let mut claim =
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    spec.as_object().into_iter().flatten().for_each(|(key, value)| claim["spec"][key] = value.clone());
    claim
}

#[tokio::test]
async fn who_names_no_class_gets_the_newest_default_one() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let made = admin.post(CLAIMS, &claim("before", json!({}))).await.expect(201);
    assert_eq!(made["spec"].get("storageClassName"), None);
    let marked = |mark: &str, name: &str, time: &str| json!({"metadata": {"name": name, "annotations": {mark: "true"}, "creationTimestamp": time}, "provisioner": "p", "spec": {"controller": "c.io/c"}});
    // Past the server, which gives its own times.
    for (name, time) in [("old", "2026-01-01T00:00:00Z"), ("b-new", "2026-01-02T00:00:00Z"), ("a-new", "2026-01-02T00:00:00Z")] {
        cluster.write("storage.k8s.io/storageclasses", marked("storageclass.kubernetes.io/is-default-class", name, time)).await;
        cluster.write("networking.k8s.io/ingressclasses", marked("ingressclass.kubernetes.io/is-default-class", name, time)).await;
    }
    let made = admin.post(CLAIMS, &claim("after", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "a-new");
    let made = admin.post(CLAIMS, &claim("none", json!({"storageClassName": ""}))).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "", "the choice of no class");
    let mut old = claim("beta", json!({}));
    old["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-class": "old"});
    assert_eq!(admin.post(CLAIMS, &old).await.expect(201)["spec"].get("storageClassName"), None);
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let ingress = |name: &str, annotations: Value| json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"defaultBackend": backend}});
    let made = admin.post(INGRESSES, &ingress("a", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], "a-new");
    let made = admin.post(INGRESSES, &ingress("b", json!({"kubernetes.io/ingress.class": "x"}))).await.expect(201);
    assert_eq!(made["spec"].get("ingressClassName"), None);
}

#[tokio::test]
async fn pods_get_overhead_and_place_of_their_runtime_class() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}})).await;
    let toleration = json!({"key": "vm", "operator": "Exists", "effect": "NoSchedule"});
    let class = json!({"metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"memory": "64Mi", "cpu": "250m"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [toleration]}});
    admin.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    let with = |name: &str, more: Value| {
        let mut pod = pod(name);
        more.as_object().into_iter().flatten().for_each(|(key, value)| pod["spec"][key] = value.clone());
        pod
    };
    let made = admin.post(PODS, &with("a", json!({"runtimeClassName": "vm", "nodeSelector": {"zone": "z"}}))).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi", "cpu": "250m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"vm": "yes", "zone": "z"}));
    assert!(made["spec"]["tolerations"].as_array().is_some_and(|list| list.contains(&toleration)), "{made}");
    // The same amount in other words is the same.
    admin.post(PODS, &with("b", json!({"runtimeClassName": "vm", "overhead": {"memory": "65536Ki", "cpu": "0.25"}}))).await.expect(201);
    for (name, spec, why) in [
        ("c", json!({"runtimeClassName": "gone"}), "pod rejected: RuntimeClass \"gone\" not found"),
        ("d", json!({"overhead": {"cpu": "1"}}), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (
            "e",
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            "f",
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        let (_, message) = admin.post(PODS, &with(name, spec)).await.refused(403);
        assert_eq!(message, format!("pods \"{name}\" is forbidden: {why}"));
    }
}

#[tokio::test]
async fn claims_grow_when_they_are_bound_and_their_class_allows_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (name, grows) in [("fixed", false), ("elastic", true)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "p", "allowVolumeExpansion": grows});
        admin.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.expect(201);
        let made = admin.post(CLAIMS, &claim(name, json!({"storageClassName": name}))).await.expect(201);
        assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
    let grow = async |name: &str| {
        let path = format!("{CLAIMS}/{name}");
        admin.patch(&path, "merge-patch", json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}})).await
    };
    let bind = async |name: &str| {
        let status = json!({"status": {"phase": "Bound"}});
        admin.patch(&format!("{CLAIMS}/{name}/status"), "merge-patch", status).await.expect(200);
    };
    // Validation comes before the plug-in, which says the same of it.
    let (_, message) = grow("elastic").await.refused(422);
    assert!(message.contains("spec is immutable after creation"), "{message}");
    bind("elastic").await;
    assert_eq!(grow("elastic").await.expect(200)["spec"]["resources"]["requests"]["storage"], "2Gi");
    bind("fixed").await;
    let (_, message) = grow("fixed").await.refused(403);
    assert!(message.ends_with("the storageclass that provisions the pvc must support resize"), "{message}");
    let smaller = json!({"metadata": {"labels": {"a": "b"}}});
    admin.patch(&format!("{CLAIMS}/fixed"), "merge-patch", smaller).await.expect(200);
}
