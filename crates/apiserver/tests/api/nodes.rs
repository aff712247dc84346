//! What kubelets may do: for the pods of their own node only.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_apiserver::User;
use serde_json::{Value, json};

use crate::{
    kit::{Client, Cluster, PODS, pod, text},
    rights::{allow, rule, user},
};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const POD_REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A cluster with the nodes n and m, their kubelets, and the service account of the pods.
async fn cluster() -> (Cluster, Client, Client) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["n", "m"] {
        admin.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let account = json!({"metadata": {"name": "robot"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let [n, m] = ["n", "m"].map(|name| cluster.as_user(User::node(name)));
    (cluster, n, m)
}

/// A pod of the node n with these volumes, as it was made.
async fn bound(admin: &Client, name: &str, volumes: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = "n".into();
    pod["spec"]["serviceAccountName"] = "robot".into();
    pod["spec"]["volumes"] = volumes;
    admin.post(PODS, &pod).await.expect(201)
}

#[tokio::test]
async fn a_kubelet_gets_tokens_for_the_audiences_of_its_pods() {
    let (cluster, kubelet, _) = cluster().await;
    let admin = cluster.admin();
    let token = async |pod: &Value, audiences: Value| {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
        kubelet.post(path, &json!({"spec": {"audiences": audiences, "boundObjectRef": bound}})).await
    };
    let plain = bound(&admin, "plain", json!([])).await;
    let refusal = |audience: &str| {
        format!("audience {audience:?} not found in pod spec volume, system:node:n is not authorized to request tokens for this audience")
    };
    for (audiences, why) in [
        (json!([]), refusal("")),
        (json!(["vault"]), refusal("vault")),
        (json!(["a", "b"]), "node may only request 0 or 1 audiences".to_owned()),
    ] {
        let (reason, message) = token(&plain, audiences).await.refused(403);
        assert_eq!((reason.as_str(), message.contains(&why)), ("Forbidden", true), "{message}");
    }
    let projected = json!([{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "a"}}, {"serviceAccountToken": {"path": "b", "audience": "vault"}}]}}]);
    let projected = bound(&admin, "projected", projected).await;
    token(&projected, json!([])).await.expect(201);
    token(&projected, json!(["vault"])).await.expect(201);
    token(&projected, json!(["bank"])).await.refused(403);
    // Drivers of volumes ask for tokens too: of the pod's own volume, and behind its claims.
    let driver = |name: &str, audience: &str| json!({"metadata": {"name": name}, "spec": {"tokenRequests": [{"audience": audience}]}});
    for (name, audience) in [("own.csi", "own"), ("far.csi", "far"), ("file.csi.azure.com", "azure")] {
        admin.post("/apis/storage.k8s.io/v1/csidrivers", &driver(name, audience)).await.expect(201);
    }
    let volume = |claim: &str, source: Value| {
        let mut volume = json!({"metadata": {"name": claim}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": claim}}});
        source.as_object().into_iter().flatten().for_each(|(key, value)| volume["spec"][key] = value.clone());
        volume
    };
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"volumeName": name, "storageClassName": "", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    for name in ["far", "csi-e"] {
        let csi = json!({"csi": {"driver": "far.csi", "volumeHandle": name}});
        admin.post("/api/v1/persistentvolumes", &volume(name, csi)).await.expect(201);
        admin.post(CLAIMS, &claim(name)).await.expect(201);
    }
    for (name, source, audience) in [
        ("inline", json!({"csi": {"driver": "own.csi"}}), "own"),
        ("claimed", json!({"persistentVolumeClaim": {"claimName": "far"}}), "far"),
        (
            "csi",
            json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
            "far",
        ),
        ("old", json!({"azureFile": {"secretName": "s", "shareName": "x"}}), "azure"),
    ] {
        let mut mounted = source;
        mounted["name"] = "e".into();
        let pod = bound(&admin, name, json!([mounted])).await;
        token(&pod, json!([audience])).await.expect(201);
        token(&pod, json!(["bank"])).await.refused(403);
    }
    let missing = bound(&admin, "missing", json!([{"name": "e", "persistentVolumeClaim": {"claimName": "gone"}}])).await;
    let (_, message) = token(&missing, json!(["bank"])).await.refused(403);
    assert!(message.contains(r#"error validating audience "bank": persistentvolumeclaim "gone" not found"#), "{message}");
    // An administrator may give more.
    let verb = "request-serviceaccounts-token-audience";
    allow(&admin, "bank", user("system:node:n"), json!([rule("", "bank", &[verb], &["robot"])])).await;
    token(&plain, json!(["bank"])).await.expect(201);
    token(&plain, json!(["vault"])).await.refused(403);
}

#[tokio::test]
async fn a_kubelet_asks_for_certificates_of_its_own_node() {
    let (_cluster, kubelet, _) = cluster().await;
    let request = |name: &str, signer: &str, usage: &str, node: &str| {
        let mut params = rcgen::CertificateParams::new(vec!["n.test".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, node);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem), "usages": ["digital signature", usage], "signerName": signer}})
    };
    for (name, signer, usage) in [
        ("client", "kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        ("serving", "kubernetes.io/kubelet-serving", "server auth"),
    ] {
        let (_, message) = kubelet.post(REQUESTS, &request(name, signer, usage, "system:node:m")).await.refused(403);
        assert!(message.ends_with("is forbidden: can only create a node CSR with CN=system:node:n"), "{message}");
        kubelet.post(REQUESTS, &request(name, signer, usage, "system:node:n")).await.expect(201);
    }
    kubelet.post(REQUESTS, &request("other", "example.com/s", "client auth", "anybody")).await.expect(201);
}

#[tokio::test]
async fn a_kubelet_writes_of_a_claim_what_a_resize_needs() {
    let (cluster, kubelet, _) = cluster().await;
    let admin = cluster.admin();
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}});
    admin.post(CLAIMS, &json!({"metadata": {"name": "c"}, "spec": spec})).await.expect(201);
    bound(&admin, "p", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])).await;
    let status = format!("{CLAIMS}/c/status");
    let resized = json!({"status": {"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "1Gi"},
        "allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [{"type": "Resizing", "status": "True"}]}});
    kubelet.patch(&status, "merge-patch", &resized).await.expect(200);
    for (change, field) in [
        (json!({"status": {"phase": "Lost"}}), "status.phase"),
        (json!({"status": {"accessModes": ["ReadWriteMany"]}}), "status.accessModes"),
    ] {
        let (_, message) = kubelet.patch(&status, "merge-patch", &change).await.refused(403);
        let why = format!("node \"n\" is not allowed to update fields other than status.quantity and status.conditions: {field}");
        assert!(message.ends_with(&why), "{message}");
    }
    // A status carries metadata, which is not the kubelet's to change.
    let labelled = json!({"metadata": {"labels": {"a": "b"}, "finalizers": []}});
    let (_, message) = kubelet.patch(&status, "merge-patch", &labelled).await.refused(403);
    assert!(message.ends_with("metadata.finalizers, metadata.labels"), "{message}");
    kubelet.patch(&format!("{CLAIMS}/c"), "merge-patch", labelled).await.refused(403);
}

#[tokio::test]
async fn a_mirror_pod_refers_to_nothing() {
    let (cluster, kubelet, _) = cluster().await;
    let node = cluster.admin().get("/api/v1/nodes/n").await.expect(200);
    let mirror = |field: &str, value: Value| {
        let mut mirror = pod("m");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": node["metadata"]["uid"], "controller": true}]);
        mirror["spec"]["nodeName"] = "n".into();
        mirror["spec"][field] = value;
        mirror
    };
    let projected = |source: Value| json!([{"name": "v", "projected": {"sources": [source]}}]);
    let volume = |key: &str, source: Value| json!([{"name": "v", key: source}]);
    for (field, value, what) in [
        ("imagePullSecrets", json!([{"name": "s"}]), "secrets"),
        ("volumes", projected(json!({"clusterTrustBundle": {"name": "b", "path": "b"}})), "clustertrustbundles"),
        (
            "volumes",
            projected(json!({"podCertificate": {"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "c"}})),
            "podcertificates",
        ),
        ("volumes", volume("csi", json!({"driver": "d"})), "csidrivers (via CSI volumes)"),
        ("volumes", volume("configMap", json!({"name": "c"})), "configmaps"),
        ("volumes", volume("persistentVolumeClaim", json!({"claimName": "c"})), "persistentvolumeclaims"),
        ("resourceClaims", json!([{"name": "c", "resourceClaimName": "c"}]), "resourceclaims"),
        ("serviceAccountName", json!("robot"), "serviceaccounts"),
    ] {
        let (_, message) = kubelet.post(PODS, &mirror(field, value)).await.refused(403);
        assert!(message.ends_with(&format!("node \"n\" can not create pods that reference {what}")), "{message}");
    }
    kubelet.post(PODS, &mirror("volumes", volume("hostPath", json!({"path": "/x"})))).await.expect(201);
}

#[tokio::test]
async fn a_kubelet_asks_for_certificates_of_its_pods() {
    let (cluster, kubelet, other) = cluster().await;
    let admin = cluster.admin();
    let uid = async |path: &str| text(&admin.get(path).await.expect(200)["metadata"]["uid"]).to_owned();
    let (node, account) = (uid("/api/v1/nodes/n").await, uid("/api/v1/namespaces/default/serviceaccounts/robot").await);
    let certificate = json!([{"name": "c", "projected": {"sources": [
        {"podCertificate": {"signerName": "example.com/s", "keyType": "ED25519", "credentialBundlePath": "c"}}]}}]);
    let pod = bound(&admin, "p", certificate).await;
    let request = |change: Value| {
        let mut spec = json!({"signerName": "example.com/s", "podName": "p", "podUID": pod["metadata"]["uid"],
            "serviceAccountName": "robot", "serviceAccountUID": account, "nodeName": "n", "nodeUID": node, "stubPKCS10Request": "AAAA"});
        change.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
        json!({"metadata": {"name": "r"}, "spec": spec})
    };
    // Whether a retry may help is seen from the code.
    for (change, code, why) in [
        (json!({"nodeName": "m"}), 403, r#"PodCertificateRequest.Spec.NodeName="m", which is not the requesting node "n""#),
        (json!({"nodeUID": "x"}), 500, r#"names node UID "x", inconsistent with the running node"#),
        (json!({"podName": "q"}), 500, r#"while retrieving pod "default/q" named in the PodCertificateRequest"#),
        (json!({"podUID": "x"}), 500, r#"contains pod UID ("x") which differs from running pod"#),
        (
            json!({"serviceAccountName": "default"}),
            403,
            r#"contains serviceAccountName ("default") that differs from running pod ("robot")"#,
        ),
        (json!({"serviceAccountUID": "x"}), 500, r#"names service account UID "x", which differs from the running service account"#),
        (json!({"signerName": "example.com/t"}), 403, r#"example.com/t"#),
    ] {
        let (_, message) = kubelet.post(POD_REQUESTS, &request(change)).await.refused(code);
        assert!(message.contains(why), "{message}");
    }
    other.post(POD_REQUESTS, &request(json!({}))).await.refused(403);
    kubelet.post(POD_REQUESTS, &request(json!({}))).await.expect(201);
    // It follows its own requests, and ends none.
    let path = format!("{POD_REQUESTS}/r");
    kubelet.get(&path).await.expect(200);
    assert!(other.get(&path).await.refused(403).1.contains("no relationship found between node 'm' and this object"));
    let selected = "/apis/certificates.k8s.io/v1/podcertificaterequests?fieldSelector=spec.nodeName%3Dn";
    assert_eq!(kubelet.get(selected).await.expect(200)["items"].as_array().map(Vec::len), Some(1));
    other.get(selected).await.refused(403);
    kubelet.get(POD_REQUESTS).await.refused(403);
    kubelet.patch(&format!("{path}/status"), "merge-patch", json!({"status": {}})).await.refused(403);
    kubelet.delete(&path).await.refused(403);
}

#[tokio::test]
async fn a_kubelet_reads_the_account_and_the_volumes_secrets_of_its_pods() {
    let (cluster, kubelet, other) = cluster().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "vault"}})).await.expect(201);
    for name in ["publish", "stage", "expand", "control", "provision"] {
        admin.post("/api/v1/namespaces/vault/secrets", &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let reference = |name: &str| json!({"namespace": "vault", "name": name});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "claimRef": {"namespace": "default", "name": "c"}, "csi": {"driver": "d.csi", "volumeHandle": "h",
            "nodePublishSecretRef": reference("publish"), "nodeStageSecretRef": reference("stage"), "nodeExpandSecretRef": reference("expand"),
            "controllerPublishSecretRef": reference("control")}}});
    admin.post("/api/v1/persistentvolumes", &volume).await.expect(201);
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    admin.post(CLAIMS, &claim).await.expect(201);
    let secret = |name: &str| format!("/api/v1/namespaces/vault/secrets/{name}");
    let account = "/api/v1/namespaces/default/serviceaccounts/robot";
    kubelet.get(&secret("publish")).await.refused(403);
    kubelet.get(account).await.refused(403);
    bound(&admin, "p", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])).await;
    for name in ["publish", "stage", "expand"] {
        kubelet.get(&secret(name)).await.expect(200);
        other.get(&secret(name)).await.refused(403);
    }
    // Those of controllers are none of its business.
    for name in ["control", "provision"] {
        kubelet.get(&secret(name)).await.refused(403);
    }
    kubelet.get(account).await.expect(200);
    other.get(account).await.refused(403);
    kubelet.get("/api/v1/namespaces/default/serviceaccounts").await.refused(403);
    kubelet.get("/api/v1/namespaces/default/serviceaccounts/default").await.refused(403);
}
