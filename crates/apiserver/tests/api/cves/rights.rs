//! Rights that someone gave himself.

use knarr_apiserver::User;
use serde_json::{Value, json};

use super::{bind, user_with};
use crate::kit::{Cluster, PODS, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// CVE-2020-8554: whoever may make Services takes over any address, by `externalIPs` or by the status of a load balancer.
#[tokio::test]
async fn services_take_no_addresses_of_others() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let service = |name: &str, rest: Value| {
        let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        for (key, value) in rest.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        service
    };
    let external = json!({"externalIPs": ["8.8.8.8"]});
    admin.post(SERVICES, &service("a", external.clone())).await.refused(403);
    admin.post(SERVICES, &service("a", json!({}))).await.expect(201);
    admin.patch(&format!("{SERVICES}/a"), "merge-patch", json!({"spec": external})).await.refused(403);
    let list = json!([{"op": "add", "path": "/spec/externalIPs", "value": ["8.8.8.8"]}]);
    admin.patch(&format!("{SERVICES}/a"), "json-patch", list).await.refused(403);
    let applied = json!({"apiVersion": "v1", "kind": "Service", "spec": external});
    admin.patch(&format!("{SERVICES}/a?fieldManager=x"), "apply", applied).await.refused(403);
    // Who edits a namespace cannot write the status; and the status written through the Service is dropped.
    bind(&cluster, "bob", "default", "ClusterRole", "edit").await;
    let bob = cluster.as_user(User::authenticated("bob", Vec::<String>::new()));
    while bob.get(SERVICES).await.code != 200 {
        tokio::task::yield_now().await;
    }
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "8.8.8.8"}]}}});
    bob.patch(&format!("{SERVICES}/a/status"), "merge-patch", &status).await.refused(403);
    let made = bob.patch(&format!("{SERVICES}/a"), "merge-patch", &status).await.expect(200);
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
}

/// CVE-2021-25740: Endpoints that point at another tenant's pods; CVE-2021-25737: at the node itself.
#[tokio::test]
async fn endpoints_are_not_for_editors_and_never_at_the_node_itself() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    bind(&cluster, "bob", "default", "ClusterRole", "admin").await;
    let bob = cluster.as_user(User::authenticated("bob", Vec::<String>::new()));
    while bob.get(SERVICES).await.code != 200 {
        tokio::task::yield_now().await;
    }
    let endpoints = |ip: &str| json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]});
    let slice = |ty: &str, ip: &str| {
        json!({"metadata": {"name": "e", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": ty,
            "endpoints": [{"addresses": [ip]}], "ports": [{"port": 80}]})
    };
    let (old, new) = ("/api/v1/namespaces/default/endpoints", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices");
    bob.post(old, &endpoints("10.0.0.1")).await.refused(403);
    bob.post(new, &slice("IPv4", "10.0.0.1")).await.refused(403);
    for (ty, ip) in [
        ("IPv4", "127.0.0.1"),
        ("IPv4", "127.255.0.9"),
        ("IPv4", "169.254.169.254"),
        ("IPv4", "0.0.0.0"),
        ("IPv4", "224.0.0.5"),
        ("IPv6", "::1"),
        ("IPv6", "::"),
        ("IPv6", "fe80::1"),
        ("IPv6", "ff02::1"),
        ("IPv6", "::ffff:127.0.0.1"),
    ] {
        assert_eq!(admin.post(old, &endpoints(ip)).await.refused(422).0, "Invalid", "{ip}");
        assert_eq!(admin.post(new, &slice(ty, ip)).await.refused(422).0, "Invalid", "{ip}");
    }
    admin.post(old, &endpoints("10.0.0.1")).await.expect(201);
    admin.post(new, &slice("IPv4", "10.0.0.1")).await.expect(201);
    let path = format!("{new}/e");
    admin.patch(&path, "merge-patch", json!({"endpoints": [{"addresses": ["127.0.0.1"]}]})).await.refused(422);
}

/// CVE-2023-2727, CVE-2023-2728 and CVE-2024-3177: the check of secrets looked at some containers and some fields only.
#[tokio::test]
async fn an_account_with_few_secrets_has_few_in_every_container() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let account = json!({"metadata": {"name": "few", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "own"}]});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let env = |secret: &str| json!({"name": "x", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]});
    let env_from = |secret: &str| json!({"name": "x", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]});
    let with = |name: &str, field: &str, value: Value| {
        let mut made = pod(name);
        made["spec"]["serviceAccountName"] = "few".into();
        made["spec"][field] = value;
        made
    };
    for (index, (field, value)) in [
        ("containers", json!([env("other")])),
        ("containers", json!([env_from("other")])),
        ("initContainers", json!([env("other")])),
        ("initContainers", json!([env_from("other")])),
        ("imagePullSecrets", json!([{"name": "other"}])),
        ("volumes", json!([{"name": "v", "secret": {"secretName": "other"}}])),
        ("volumes", json!([{"name": "v", "projected": {"sources": [{"secret": {"name": "other"}}]}}])),
    ]
    .into_iter()
    .enumerate()
    {
        admin.post(PODS, &with(&format!("p{index}"), field, value)).await.refused(403);
    }
    admin.post(PODS, &with("p", "initContainers", json!([env_from("own")]))).await.expect(201);
    for container in [env("other"), env_from("other")] {
        let mut container = container;
        container["name"] = "debug".into();
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        admin.patch(&format!("{PODS}/p/ephemeralcontainers"), "strategic-merge-patch", patch).await.refused(403);
    }
}

/// CVE-2025-5187: a node that gives itself an owner which does not exist is collected, and comes back with other labels and taints.
/// CVE-2025-4563: a mirror pod that names a resource claim gets the device.
#[tokio::test]
async fn a_node_owns_itself_and_mirrors_nothing_of_others() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let node = cluster.as_user(User::node("n"));
    let made = node.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "5d6e7f80-0000-4000-8000-000000000000"});
    let owned = json!({"metadata": {"ownerReferences": [owner]}});
    for path in ["/api/v1/nodes/n", "/api/v1/nodes/n/status"] {
        let list = json!([{"op": "add", "path": "/metadata/ownerReferences", "value": [owner]}]);
        let mut whole = made.clone();
        whole["metadata"]["ownerReferences"] = json!([owner]);
        for answer in [
            node.patch(path, "merge-patch", &owned).await,
            node.patch(path, "strategic-merge-patch", &owned).await,
            node.patch(path, "json-patch", list).await,
            node.put(path, &whole).await,
        ] {
            // The status is written without what comes with it.
            assert!(answer.code == 403 || path.ends_with("/status"), "{path}: {}", answer.code);
            let now = admin.get("/api/v1/nodes/n").await.expect(200);
            assert_eq!(now["metadata"].get("ownerReferences"), None, "{path}");
        }
    }
    let now = admin.get("/api/v1/nodes/n").await.expect(200);
    let mirror = |claims: Value| {
        let mut mirror = pod("m");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": now["metadata"]["uid"], "controller": true}]);
        mirror["spec"]["nodeName"] = "n".into();
        mirror["spec"]["resourceClaims"] = claims;
        mirror
    };
    for claims in [json!([{"name": "c", "resourceClaimName": "theirs"}]), json!([{"name": "c", "resourceClaimTemplateName": "theirs"}])] {
        let (_, message) = node.post(PODS, &mirror(claims)).await.refused(403);
        assert!(message.contains("resourceclaim"), "{message}");
    }
    node.post(PODS, &mirror(Value::Null)).await.expect(201);
    let status = json!({"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "theirs"}]}});
    // Of a pod without claims it is false as well, whoever says it.
    node.patch(&format!("{PODS}/m/status"), "merge-patch", &status).await.refused(422);
    let mut claiming = pod("claiming");
    claiming["spec"]["nodeName"] = "n".into();
    claiming["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimTemplateName": "ours"}]);
    admin.post(PODS, &claiming).await.expect(201);
    node.patch(&format!("{PODS}/claiming/status"), "merge-patch", &status).await.refused(403);
}

/// CVE-2021-25735: the check of an update saw an old object that the update had changed already.
#[tokio::test]
async fn a_policy_compares_with_what_is_stored() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut node = admin
        .post(
            "/api/v1/nodes",
            &json!({"metadata": {"name": "n", "labels": {"tier": "low"}}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        )
        .await
        .expect(201);
    const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
    let same = |what: &str| json!({"expression": format!("object.{what} == oldObject.{what}"), "message": what});
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes", "nodes/status"]}]},
        "validations": [same("metadata.labels"), same("spec.taints")]}});
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    admin.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    let path = "/api/v1/nodes/n";
    let labels = json!({"metadata": {"labels": {"tier": "high"}}});
    for kind in ["merge-patch", "strategic-merge-patch"] {
        admin.patch(path, kind, &labels).await.refused(422);
        admin.patch(path, kind, json!({"spec": {"taints": null}})).await.refused(422);
        admin.patch(&format!("{path}/status"), kind, &labels).await.refused(422);
    }
    let applied = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"labels": {"tier": "high"}}});
    admin.patch(&format!("{path}?fieldManager=x&force=true"), "apply", applied).await.refused(422);
    node["metadata"]["annotations"] = json!({"a": "b"});
    let mut node = admin.put(path, &node).await.expect(200);
    node["metadata"]["labels"]["tier"] = "high".into();
    admin.put(path, &node).await.refused(422);
    assert_eq!(admin.get(path).await.expect(200)["metadata"]["labels"]["tier"], "low");
}

/// Whoever may do one thing to a kind in one namespace may do only that: the subresources are of others.
#[tokio::test]
async fn a_right_to_a_kind_is_no_right_to_its_parts() {
    let cluster = Cluster::start().await;
    cluster.admin().post(PODS, &pod("p")).await.expect(201);
    let bob = user_with(&cluster, "bob", "default", "", &["pods"], &["*"]).await;
    bob.get(&format!("{PODS}/p")).await.expect(200);
    for part in [
        "status",
        "log",
        "exec?command=id",
        "attach",
        "portforward",
        "proxy",
        "proxy/x",
        "eviction",
        "binding",
        "ephemeralcontainers",
        "resize",
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = bob.ask(method, &format!("{PODS}/p/{part}"), &[("content-type", "application/json")], "{}").await;
            assert_eq!(answer.code, 403, "{method} {part}");
        }
    }
}

/// An apply, and a PUT of the kinds for which upstream allows it, make what is not there: that needs the right to create.
#[tokio::test]
async fn who_may_change_may_not_create() {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let cluster = Cluster::start().await;
    let rules = [("", &["configmaps", "services"][..]), ("rbac.authorization.k8s.io", &["rolebindings"])];
    for (n, (group, resources)) in rules.into_iter().enumerate() {
        let verbs = ["patch", "update", "get"];
        let eve = user_with(&cluster, &format!("eve{n}"), "default", group, resources, &verbs).await;
        for resource in resources {
            let (prefix, version, kind) = match *resource {
                "configmaps" => (crate::kit::CONFIG_MAPS, "v1", "ConfigMap"),
                "services" => (SERVICES, "v1", "Service"),
                _ => (RBAC, "rbac.authorization.k8s.io/v1", "RoleBinding"),
            };
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "new"}});
            for path in [format!("{prefix}/new?fieldManager=x"), format!("{prefix}/new?fieldManager=x&dryRun=All")] {
                let (_, message) = eve.patch(&path, "apply", &object).await.refused(403);
                assert!(message.contains(&format!("cannot create resource {resource:?}")), "{message}");
            }
            if *resource != "configmaps" {
                let (_, message) = eve.put(&format!("{prefix}/new"), &object).await.refused(403);
                assert!(message.contains(&format!("cannot create resource {resource:?}")), "{message}");
            }
            cluster.admin().get(&format!("{prefix}/new")).await.refused(404);
        }
    }
    cluster.admin().config_map("old", json!({})).await;
    let eve = user_with(&cluster, "bob", "default", "", &["configmaps"], &["patch"]).await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old"}, "data": {"a": "b"}});
    eve.patch(&format!("{}/old?fieldManager=x", crate::kit::CONFIG_MAPS), "apply", &object).await.expect(200);
}
