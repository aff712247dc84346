//! The authorizer over a real store: what is granted, what is not, and that changes are followed.

use std::sync::Arc;

use knarr_store::{Embedded, Expect, Options, Write};
use serde_json::{Value, json};

use super::*;
use crate::auth::GROUP_NODES;

struct Cluster {
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path(), Options::default()).unwrap());
        Cluster { store, _dir: dir }
    }

    async fn put(&self, collection: &str, object: Value) {
        let metadata = &object["metadata"];
        let key = knarr_store::Key::new(
            &Collection::new(collection),
            metadata["namespace"].as_str().unwrap_or(""),
            metadata["name"].as_str().unwrap(),
        );
        let encoded = knarr_api::Object::from_value(object).unwrap().encode();
        let write = Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect: Expect::Any, lazy: false };
        self.store.commit(vec![write]).await.unwrap();
    }

    async fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let key = knarr_store::Key::new(&Collection::new(collection), namespace, name);
        self.store.commit(vec![Write::Delete { key, expect: Expect::Any }]).await.unwrap();
    }
}

fn role(name: &str, namespace: &str, rules: Value) -> Value {
    json!({ "metadata": { "name": name, "namespace": namespace }, "rules": rules })
}

fn binding(name: &str, namespace: &str, role: &str, subject: Value) -> Value {
    let (kind, role) = role.split_once('/').unwrap();
    json!({ "metadata": { "name": name, "namespace": namespace }, "roleRef": { "kind": kind, "name": role }, "subjects": [subject] })
}

/// `user verb group resource[/sub] namespace/name`, `-` for an empty part.
fn decide(authorizer: &Authorizer, user: &User, request: &str) -> Decision {
    let words: Vec<&str> = request.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
    let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
    let (namespace, name) = words[3].split_once('/').unwrap();
    let request = Attributes { subresource, namespace, name, ..Attributes::resource(user, words[0], words[1], resource) };
    futures::executor::block_on(authorizer.decide(&request))
}

#[tokio::test]
async fn bindings_grant_in_their_namespace_to_their_subjects() {
    let cluster = Cluster::new();
    let pods = json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }]);
    cluster.put(rbac::CLUSTER_ROLES, role("pods", "", pods.clone())).await;
    cluster.put(rbac::ROLES, role("pods", "a", pods)).await;
    for binding in [
        binding("by-user", "a", "ClusterRole/pods", json!({ "kind": "User", "name": "ann" })),
        binding("by-account", "a", "Role/pods", json!({ "kind": "ServiceAccount", "name": "robot" })),
        binding("by-foreign-account", "a", "Role/pods", json!({ "kind": "ServiceAccount", "namespace": "b", "name": "robot" })),
        binding("no-role", "a", "Role/gone", json!({ "kind": "User", "name": "eve" })),
    ] {
        cluster.put(rbac::ROLE_BINDINGS, binding).await;
    }
    cluster.put(rbac::CLUSTER_ROLE_BINDINGS, binding("by-group", "", "ClusterRole/pods", json!({ "kind": "Group", "name": "ops" }))).await;
    let (authorizer, _) = Authorizer::open(cluster.store.clone());

    let ann = User::authenticated("ann", [""; 0]);
    let ops = User::authenticated("bob", ["ops"]);
    let master = User::authenticated("root", [GROUP_MASTERS]);
    for (user, request, expected) in [
        (&ann, "get - pods a/x", true),
        (&ann, "get - pods b/x", false),
        (&ann, "list - pods /", false),
        (&ann, "delete - pods a/x", false),
        (&ops, "list - pods /", true),
        (&ops, "get - pods b/x", true),
        (&ops, "get - secrets b/x", false),
        (&User::service_account("a", "robot", ""), "get - pods a/x", true),
        (&User::service_account("b", "robot", ""), "get - pods a/x", true),
        (&User::service_account("c", "robot", ""), "get - pods a/x", false),
        // A user whose name is a group's, and a group whose name is a user's.
        (&User::authenticated("ops", [""; 0]), "list - pods /", false),
        (&User::authenticated("x", ["ann"]), "get - pods a/x", false),
        (&master, "frobnicate x.y z /", true),
        (&User::anonymous(), "get - pods a/x", false),
    ] {
        assert_eq!(decide(&authorizer, user, request).allowed(), expected, "{} {request}", user.name);
    }
    assert_eq!(
        decide(&authorizer, &ops, "list - pods /").reason,
        r#"RBAC: allowed by ClusterRoleBinding "by-group" of ClusterRole "pods" to Group "ops""#
    );
    assert_eq!(
        decide(&authorizer, &ann, "get - pods a/x").reason,
        r#"RBAC: allowed by RoleBinding "by-user/a" of ClusterRole "pods" to User "ann""#
    );
    let eve = User::authenticated("eve", [""; 0]);
    assert_eq!(decide(&authorizer, &eve, "get - pods a/x").reason, r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#);
}

#[tokio::test]
async fn changes_are_followed_and_revocation_counts() {
    let cluster = Cluster::new();
    let (authorizer, follow) = Authorizer::open(cluster.store.clone());
    let following = tokio::spawn(follow);
    let ann = User::authenticated("ann", [""; 0]);
    let pods = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
    let wait = async |expected: bool| {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        while decide(&authorizer, &ann, "get - pods a/x").allowed() != expected {
            assert!(tokio::time::Instant::now() < deadline, "never became {expected}");
            tokio::task::yield_now().await;
        }
    };
    cluster.put(rbac::ROLES, role("pods", "a", pods)).await;
    cluster.put(rbac::ROLE_BINDINGS, binding("b", "a", "Role/pods", json!({ "kind": "User", "name": "ann" }))).await;
    wait(true).await;
    cluster.put(rbac::ROLE_BINDINGS, binding("b", "a", "Role/pods", json!({ "kind": "User", "name": "bob" }))).await;
    wait(false).await;
    cluster.put(rbac::ROLE_BINDINGS, binding("b", "a", "Role/pods", json!({ "kind": "User", "name": "ann" }))).await;
    wait(true).await;
    cluster.delete(rbac::ROLES, "a", "pods").await;
    wait(false).await;
    following.abort();
}

fn escalation(
    authorizer: &Authorizer,
    user: &User,
    resource: &str,
    namespace: &str,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let old = old.map(|old| old.as_object().unwrap());
    let name = new["metadata"]["name"].as_str().unwrap();
    futures::executor::block_on(authorizer.check_escalation(user, resource, namespace, name, new.as_object().unwrap(), old))
}

#[tokio::test]
async fn nobody_gives_more_than_he_has() {
    let cluster = Cluster::new();
    cluster
        .put(
            rbac::CLUSTER_ROLES,
            role(
                "author",
                "",
                json!([
                    { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] },
                    { "verbs": ["create", "update"], "apiGroups": [escalation::GROUP], "resources": ["roles", "rolebindings"] },
                    { "verbs": ["bind"], "apiGroups": [escalation::GROUP], "resources": ["clusterroles"], "resourceNames": ["admin"] },
                    { "verbs": ["escalate"], "apiGroups": [escalation::GROUP], "resources": ["roles"], "resourceNames": ["free"] },
                ]),
            ),
        )
        .await;
    let secrets = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"] }]);
    cluster.put(rbac::CLUSTER_ROLES, role("admin", "", secrets.clone())).await;
    cluster.put(rbac::CLUSTER_ROLES, role("secrets", "", secrets.clone())).await;
    cluster.put(rbac::ROLE_BINDINGS, binding("b", "a", "ClusterRole/author", json!({ "kind": "User", "name": "ann" }))).await;
    let (authorizer, _) = Authorizer::open(cluster.store.clone());
    let ann = User::authenticated("ann", [""; 0]);
    let check =
        |resource: &str, namespace: &str, new: &Value, old: Option<&Value>| escalation(&authorizer, &ann, resource, namespace, new, old);

    let pods = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
    check("roles", "a", &role("r", "a", pods.clone()), None).unwrap();
    check("roles", "b", &role("r", "b", pods.clone()), None).unwrap_err();
    check("clusterroles", "", &role("r", "", pods), None).unwrap_err();
    // A right by name is one over what is there under it, and makes nothing.
    check("roles", "a", &role("free", "a", secrets.clone()), None).unwrap_err();
    check("roles", "a", &role("free", "a", secrets.clone()), Some(&role("free", "a", json!([])))).unwrap();
    let refused = check("roles", "a", &role("r", "a", secrets.clone()), None).unwrap_err();
    assert_eq!(refused.code, 403);
    let expected = "user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    assert!(refused.message.ends_with(expected), "{}", refused.message);

    // An update that changes no rights passes whoever does it; one that adds does not.
    let old = role("r", "a", secrets.clone());
    let mut relabelled = old.clone();
    relabelled["metadata"]["labels"] = json!({ "a": "b" });
    check("roles", "a", &relabelled, Some(&old)).unwrap();
    check("roles", "a", &old, Some(&role("r", "a", json!([])))).unwrap_err();

    let bind = |role: &str| binding("x", "a", role, json!({ "kind": "User", "name": "eve" }));
    check("rolebindings", "a", &bind("ClusterRole/admin"), None).unwrap();
    check("rolebindings", "a", &bind("ClusterRole/secrets"), None).unwrap_err();
    assert_eq!(check("rolebindings", "a", &bind("ClusterRole/gone"), None).unwrap_err().code, 404);
    check("clusterrolebindings", "", &bind("ClusterRole/secrets"), None).unwrap_err();

    let aggregated = json!({ "metadata": { "name": "r" }, "aggregationRule": { "clusterRoleSelectors": [] } });
    check("clusterroles", "", &aggregated, None).unwrap_err();
    escalation(&authorizer, &User::authenticated("root", [GROUP_MASTERS]), "clusterroles", "", &aggregated, None).unwrap();

    // A rule that stands for billions of rights is refused without comparing them.
    let many: Vec<String> = (0..1000).map(|number| format!("x{number}")).collect();
    let bomb = role("r", "a", json!([{ "verbs": many, "apiGroups": many, "resources": many, "resourceNames": many }]));
    check("roles", "a", &bomb, None).unwrap_err();
}

#[tokio::test]
async fn kubelets_read_what_their_pods_refer_to() {
    let cluster = Cluster::new();
    let pod = |name: &str, node: &str, extra: Value| {
        let mut pod =
            json!({ "metadata": { "name": name, "namespace": "a" }, "spec": { "nodeName": node, "serviceAccountName": "robot" } });
        for (key, value) in extra.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    cluster
        .put(
            "core/pods",
            pod(
                "p1",
                "n1",
                json!({
                    "imagePullSecrets": [{ "name": "pull" }],
                    "initContainers": [{ "envFrom": [{ "secretRef": { "name": "init" } }] }],
                    "ephemeralContainers": [{ "env": [{ "valueFrom": { "secretKeyRef": { "name": "ephemeral" } } }] }],
                    "containers": [{ "env": [{ "valueFrom": { "configMapKeyRef": { "name": "settings" } } }] }],
                    "volumes": [
                        { "name": "s", "secret": { "secretName": "volume" } },
                        { "name": "p", "projected": { "sources": [{ "configMap": { "name": "kube-root-ca.crt" } }] } },
                        { "name": "c", "persistentVolumeClaim": { "claimName": "claim" } },
                        { "name": "e", "ephemeral": {} },
                    ],
                }),
            ),
        )
        .await;
    cluster.put("core/pods", pod("p2", "n2", json!({ "imagePullSecrets": [{ "name": "other" }] }))).await;
    let mut mirror = pod("mirror", "n1", json!({ "imagePullSecrets": [{ "name": "wished" }] }));
    mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    cluster.put("core/pods", mirror).await;
    cluster
        .put("core/persistentvolumeclaims", json!({ "metadata": { "name": "claim", "namespace": "a" }, "spec": { "volumeName": "pv" } }))
        .await;
    for (name, claim) in [("pv", "claim"), ("pretender", "claim"), ("loose", "none")] {
        let volume = json!({ "metadata": { "name": name }, "spec": { "claimRef": { "namespace": "a", "name": claim } } });
        cluster.put("core/persistentvolumes", volume).await;
    }
    for (name, node) in [("mine", json!("n1")), ("other", json!("n2")), ("shared", json!(null))] {
        cluster.put("resource.k8s.io/resourceslices", json!({ "metadata": { "name": name }, "spec": { "nodeName": node } })).await;
    }
    let (authorizer, _) = Authorizer::open(cluster.store.clone());
    let node = User::node("n1");
    for (request, expected) in [
        ("get resource.k8s.io resourceslices /mine", true),
        ("patch resource.k8s.io resourceslices /mine", true),
        ("delete resource.k8s.io resourceslices /mine", true),
        ("get resource.k8s.io resourceslices /other", false),
        ("update resource.k8s.io resourceslices /other", false),
        ("delete resource.k8s.io resourceslices /shared", false),
        ("get resource.k8s.io resourceslices /none", false),
        ("list resource.k8s.io resourceslices /", false),
        ("create resource.k8s.io resourceslices /", true),
        ("update resource.k8s.io resourceslices/status /mine", false),
        ("get - secrets a/pull", true),
        ("get - secrets a/init", true),
        ("get - secrets a/ephemeral", true),
        ("watch - secrets a/volume", true),
        ("get - secrets a/other", false),
        ("get - secrets a/wished", false),
        ("get - secrets b/pull", false),
        ("list - secrets a/", false),
        ("list - secrets /", false),
        ("update - secrets a/pull", false),
        ("delete - secrets a/pull", false),
        ("get - configmaps a/settings", true),
        ("get - configmaps a/kube-root-ca.crt", true),
        ("get - configmaps a/pull", false),
        ("get - persistentvolumeclaims a/claim", true),
        ("get - persistentvolumeclaims a/p1-e", true),
        ("get - persistentvolumeclaims a/x", false),
        ("get - persistentvolumes /pv", true),
        ("get - persistentvolumes /pretender", false),
        ("get - persistentvolumes /loose", false),
        ("create - serviceaccounts/token a/robot", true),
        ("create - serviceaccounts/token a/default", false),
        ("create - serviceaccounts/token b/robot", false),
        ("get - serviceaccounts a/robot", true),
        ("get - serviceaccounts a/default", false),
        ("list - serviceaccounts a/", false),
        ("get - pods a/p1", true),
        ("get - pods a/p2", false),
        ("list - pods /", false),
        ("list - pods a/", false),
        ("watch - pods /", false),
        ("watch - pods a/p1", true),
        ("list - pods a/p2", false),
        ("patch - pods/status a/p1", true),
        ("create - pods a/", true),
        ("update - pods a/p1", false),
        ("get - nodes /n1", true),
        ("get - nodes /n2", false),
        ("list - nodes /", false),
        ("watch - nodes /", false),
        ("watch - nodes /n1", true),
        ("list - nodes /n2", false),
        ("patch - nodes/status /n1", true),
        ("update coordination.k8s.io leases kube-node-lease/n1", true),
        ("create coordination.k8s.io leases kube-node-lease/", true),
        ("update coordination.k8s.io leases kube-node-lease/n2", false),
        ("update coordination.k8s.io leases default/n1", false),
        ("list coordination.k8s.io leases kube-node-lease/", false),
        ("create - events a/", true),
        ("list - services /", true),
        ("get apps deployments a/x", false),
    ] {
        let decision = decide(&authorizer, &node, request);
        assert_eq!(decision.allowed(), expected, "{request}: {}", decision.reason);
    }
    // Lists and watches of pods are of the node's own.
    for (verb, fields, expected) in [
        ("list", "spec.nodeName=n1", true),
        ("watch", "status.phase!=Failed,spec.nodeName=n1", true),
        ("list", "spec.nodeName=n2", false),
        ("list", "spec.nodeName!=n1", false),
        ("list", "metadata.namespace=a", false),
        ("deletecollection", "spec.nodeName=n1", false),
    ] {
        let selectors = Selectors::of_texts(fields, "");
        let request = Attributes { selectors: &selectors, ..Attributes::resource(&node, verb, "", "pods") };
        let decision = futures::executor::block_on(authorizer.decide(&request));
        assert_eq!(decision.allowed(), expected, "{verb} {fields}: {}", decision.reason);
    }
    for (verb, fields, expected) in [
        ("list", "spec.nodeName=n1", true),
        ("watch", "spec.driver=gpu.example.com,spec.nodeName=n1", true),
        ("deletecollection", "spec.nodeName=n1", true),
        ("deletecollection", "spec.nodeName=n2", false),
        ("list", "spec.driver=gpu.example.com", false),
    ] {
        let selectors = Selectors::of_texts(fields, "");
        let slices = Attributes::resource(&node, verb, "resource.k8s.io", "resourceslices");
        let request = Attributes { selectors: &selectors, ..slices };
        let decision = futures::executor::block_on(authorizer.decide(&request));
        assert_eq!(decision.allowed(), expected, "{verb} slices {fields}: {}", decision.reason);
    }
    // The name without the group, and the group without the name, are no kubelet.
    for user in [User::authenticated("system:node:n1", [""; 0]), User::authenticated("n1", [GROUP_NODES])] {
        assert!(!decide(&authorizer, &user, "get - secrets a/pull").allowed());
    }
    // A right ends with the pod.
    cluster.delete("core/pods", "a", "p1").await;
    assert!(!decide(&authorizer, &node, "get - secrets a/pull").allowed());
}
