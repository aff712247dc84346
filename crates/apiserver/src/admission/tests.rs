//! The chain over a real store: what is added, what is refused.

use std::sync::Arc;

use knarr_api::Kinds;
use knarr_store::{Embedded, Expect, Options, Write};
use serde_json::json;

use super::*;
use crate::auth::GROUP_MASTERS;

struct Cluster {
    chain: Chain,
    store: Arc<dyn Store>,
    kinds: Kinds,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// A cluster with the namespace `a` and its default account.
    async fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&dir.path().join("store"), Options::default()).unwrap());
        let pki = crate::pki::Pki::open(&dir.path().join("pki"), &crate::pki::Sans::default()).unwrap();
        let dialer = crate::connect::Dialer::new(&pki, std::net::Ipv4Addr::LOCALHOST.into()).unwrap();
        let callout = Callout::new(store.clone(), Arc::new(dialer));
        let (authorizer, _) = Authorizer::open(store.clone());
        let cluster = Cluster {
            chain: {
                let (registry, conversions) = (Registry::new(Kinds::builtin()), Conversions::new(callout.clone()));
                Chain::new(store.clone(), authorizer, Arc::new(registry), callout, Arc::new(conversions), Configuration::default())
            },
            store,
            kinds: Kinds::builtin(),
            _dir: dir,
        };
        cluster.put("core/namespaces", json!({ "metadata": { "name": "a" }, "status": { "phase": "Active" } })).await;
        cluster.put("core/serviceaccounts", json!({ "metadata": { "name": "default", "namespace": "a" } })).await;
        cluster
    }

    async fn put(&self, collection: &str, object: Value) {
        let object = Object::from_value(object).unwrap();
        let encoded = object.encode();
        let write = Write::Put {
            key: Key::new(&Collection::new(collection), object.namespace(), object.name()),
            value: encoded.bytes.into(),
            stamp: encoded.stamp,
            meta: None,
            expect: Expect::Any,
            lazy: false,
        };
        self.store.commit(vec![write]).await.unwrap();
    }

    /// Both phases of one write of `group resource[/subresource]`; answers the object as it would be stored.
    fn write(&self, user: &User, operation: Operation, resource: &str, object: &Value, old: Option<&Value>) -> Result<Value, Status> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let kind = self.kinds.iter().find(|kind| kind.resource == resource && kind.group != "events.k8s.io").unwrap().clone();
        let mut object = Object::from_value(object.clone()).unwrap();
        let old = old.map(|old| Object::from_value(old.clone()).unwrap());
        let named = old.as_ref().unwrap_or(&object).clone();
        let mut warnings = Vec::new();
        let mut request = Request {
            user,
            kind: &kind,
            subresource,
            operation,
            patches: false,
            namespace: named.namespace(),
            name: named.name(),
            object: &mut object,
            old: old.as_ref(),
            dry_run: false,
            options: &|| Value::Null,
            warnings: &mut warnings,
            annotations: &mut BTreeMap::new(),
        };
        self.chain.run(&MUTATING, &mut request)?;
        self.chain.run(&VALIDATING, &mut request)?;
        ASKING.iter().filter_map(|ask| ask(&self.chain, &request)).try_for_each(futures::executor::block_on)?;
        Ok(object.into_value())
    }

    fn create(&self, resource: &str, object: &Value) -> Result<Value, Status> {
        self.write(&User::authenticated("ann", [GROUP_MASTERS]), Operation::Create, resource, object, None)
    }
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [{ "name": "c" }] } });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[track_caller]
fn refused(result: Result<Value, Status>, expected: &str) {
    let status = result.expect_err(expected);
    assert!(status.message.contains(expected), "{}", status.message);
}

#[tokio::test]
async fn a_pod_gets_account_token_tolerations_and_priority() {
    let cluster = Cluster::new().await;
    let mut admitted = cluster.create("pods", &pod(json!({ "initContainers": [{ "name": "i" }] }))).unwrap();
    let spec = &mut admitted["spec"];
    let volume = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
    assert!(volume.strip_prefix("kube-api-access-").is_some_and(|rest| rest.len() == 5), "{volume}");
    let mount = json!([{ "name": volume, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true }]);
    let toleration = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 });
    let expected = json!({
        "serviceAccountName": "default", "serviceAccount": "default",
        "containers": [{ "name": "c", "volumeMounts": mount }],
        "initContainers": [{ "name": "i", "volumeMounts": mount }],
        "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")],
        "volumes": [{ "name": volume, "projected": { "defaultMode": 420, "sources": [
            { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
            { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
        ] } }],
    });
    assert_eq!(*spec, expected);
    // Admission again (a retry after a conflict) changes nothing more.
    assert_eq!(cluster.create("pods", &admitted).unwrap(), admitted);
}

#[tokio::test]
async fn pod_and_account_decide_about_the_token() {
    let cluster = Cluster::new().await;
    let account = json!({
        "metadata": { "name": "quiet", "namespace": "a" }, "automountServiceAccountToken": false, "imagePullSecrets": [{ "name": "pull" }],
    });
    cluster.put("core/serviceaccounts", account).await;
    let volumes = |spec: Value| cluster.create("pods", &pod(spec)).unwrap()["spec"].get("volumes").is_some();
    assert!(!volumes(json!({ "automountServiceAccountToken": false })));
    assert!(!volumes(json!({ "serviceAccountName": "quiet" })));
    assert!(volumes(json!({ "serviceAccountName": "quiet", "automountServiceAccountToken": true })));
    let own = json!([{ "name": "c", "volumeMounts": [{ "name": "x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }] }]);
    assert!(!volumes(json!({ "containers": own })));
    let quiet = cluster.create("pods", &pod(json!({ "serviceAccountName": "quiet" }))).unwrap();
    assert_eq!(quiet["spec"]["imagePullSecrets"], json!([{ "name": "pull" }]));
    refused(
        cluster.create("pods", &pod(json!({ "serviceAccountName": "gone" }))),
        r#"pods "p" is forbidden: error looking up service account a/gone: serviceaccount "gone" not found"#,
    );
}

#[tokio::test]
async fn secrets_of_limited_accounts_are_checked_everywhere() {
    let cluster = Cluster::new().await;
    let account = json!({
        "metadata": { "name": "strict", "namespace": "a", "annotations": { "kubernetes.io/enforce-mountable-secrets": "true" } },
        "secrets": [{ "name": "mine" }],
    });
    cluster.put("core/serviceaccounts", account).await;
    let with = |mut spec: Value| {
        spec["serviceAccountName"] = "strict".into();
        pod(spec)
    };
    let env_from = |name: &str| json!([{ "name": "x", "envFrom": [{ "secretRef": { "name": name } }] }]);
    cluster.create("pods", &with(json!({ "containers": env_from("mine") }))).unwrap();
    for part in ["containers", "initContainers"] {
        let mut spec = json!({});
        spec[part] = env_from("other");
        refused(cluster.create("pods", &with(spec)), "other");
    }
    refused(cluster.create("pods", &with(json!({ "volumes": [{ "name": "v", "secret": { "secretName": "other" } }] }))), "other");
    refused(cluster.create("pods", &with(json!({ "imagePullSecrets": [{ "name": "mine" }] }))), "mine");
    let old = with(json!({}));
    let new = with(json!({ "ephemeralContainers": env_from("other") }));
    let user = User::authenticated("ann", [GROUP_MASTERS]);
    refused(cluster.write(&user, Operation::Update, "pods/ephemeralcontainers", &new, Some(&old)), "other");
}

#[tokio::test]
async fn namespaces_must_exist_and_stay() {
    let cluster = Cluster::new().await;
    cluster.put("core/namespaces", json!({ "metadata": { "name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z" } })).await;
    let map = |namespace: &str| json!({ "metadata": { "name": "m", "namespace": namespace } });
    cluster.create("configmaps", &map("a")).unwrap();
    assert_eq!(cluster.create("configmaps", &map("none")).unwrap_err().code, 404);
    let status = cluster.create("configmaps", &map("going")).unwrap_err();
    assert_eq!(
        status.message,
        r#"configmaps "m" is forbidden: unable to create new content in namespace going because it is being terminated"#
    );
    assert_eq!(status.details.unwrap().causes[0].reason, "NamespaceTerminating");
    let user = User::authenticated("ann", [GROUP_MASTERS]);
    cluster.write(&user, Operation::Update, "configmaps", &map("going"), Some(&map("going"))).unwrap();
    for (name, free) in [("default", false), ("kube-system", false), ("kube-public", false), ("a", true)] {
        let namespace = json!({ "metadata": { "name": name } });
        let deleted = cluster.write(&user, Operation::Delete, "namespaces", &namespace, Some(&namespace));
        assert_eq!(deleted.is_ok(), free, "{name}");
    }
}

#[tokio::test]
async fn priority_is_the_classes_word() {
    let cluster = Cluster::new().await;
    let class = |name: &str, value: i64, default: bool| json!({ "metadata": { "name": name }, "value": value, "globalDefault": default, "preemptionPolicy": "Never" });
    cluster.put("scheduling.k8s.io/priorityclasses", class("high", 1000, false)).await;
    let priority = |spec: Value| {
        let admitted = cluster.create("pods", &pod(spec))?;
        Ok::<_, Status>((admitted["spec"]["priority"].clone(), admitted["spec"]["priorityClassName"].clone()))
    };
    assert_eq!(priority(json!({ "priorityClassName": "high" })).unwrap(), (1000.into(), "high".into()));
    assert_eq!(priority(json!({ "priorityClassName": "gone" })).unwrap_err().code, 403);
    assert_eq!(priority(json!({ "priority": 7 })).unwrap_err().code, 403);
    cluster.put("scheduling.k8s.io/priorityclasses", class("usual", 10, true)).await;
    assert_eq!(priority(json!({})).unwrap(), (10.into(), "usual".into()));
    refused(cluster.create("priorityclasses", &class("second", 1, true)), "usual is already marked as default");
    cluster.create("priorityclasses", &class("second", 1, false)).unwrap();
}

#[tokio::test]
async fn limit_ranges_fill_and_bound() {
    let cluster = Cluster::new().await;
    let limits = json!([
        { "type": "Container", "default": { "cpu": "1" }, "defaultRequest": { "cpu": "100m" }, "max": { "memory": "1Gi" } },
        { "type": "PersistentVolumeClaim", "max": { "storage": "1Gi" } },
    ]);
    cluster.put("core/limitranges", json!({ "metadata": { "name": "l", "namespace": "a" }, "spec": { "limits": limits } })).await;
    let admitted = cluster.create("pods", &pod(json!({}))).unwrap();
    let expected = json!({ "requests": { "cpu": "100m", "memory": "1Gi" }, "limits": { "cpu": "1", "memory": "1Gi" } });
    assert_eq!(admitted["spec"]["containers"][0]["resources"], expected);
    assert_eq!(
        admitted["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    let large = json!([{ "name": "c", "resources": { "requests": { "memory": "2Gi" }, "limits": { "memory": "2Gi" } } }]);
    refused(cluster.create("pods", &pod(json!({ "containers": large }))), "maximum memory usage per Container is 1Gi, but limit is 2Gi");
    let claim = |storage: &str| json!({ "metadata": { "name": "c", "namespace": "a" }, "spec": { "resources": { "requests": { "storage": storage } } } });
    cluster.create("persistentvolumeclaims", &claim("1Gi")).unwrap();
    refused(cluster.create("persistentvolumeclaims", &claim("2Gi")), "maximum storage usage per PersistentVolumeClaim is 1Gi");
}

#[tokio::test]
async fn new_nodes_are_tainted_and_foreign_addresses_refused() {
    let cluster = Cluster::new().await;
    let node = cluster.create("nodes", &json!({ "metadata": { "name": "n" } })).unwrap();
    assert_eq!(node["spec"]["taints"], json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }]));

    // CVE-2020-8554
    let service = |addresses: Value| json!({ "metadata": { "name": "s", "namespace": "a" }, "spec": { "externalIPs": addresses } });
    refused(cluster.create("services", &service(json!(["192.0.2.1"]))), "external IPs");
    let user = User::authenticated("ann", [GROUP_MASTERS]);
    let old = service(json!(["192.0.2.1"]));
    cluster.write(&user, Operation::Update, "services", &old, Some(&old)).unwrap();
    refused(cluster.write(&user, Operation::Update, "services", &service(json!(["192.0.2.1", "192.0.2.2"])), Some(&old)), "external IPs");
}

#[tokio::test]
async fn roles_pass_through_the_escalation_check() {
    let cluster = Cluster::new().await;
    let role =
        json!({ "metadata": { "name": "r", "namespace": "a" }, "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] });
    cluster.create("roles", &role).unwrap();
    let ann = User::authenticated("ann", [""; 0]);
    refused(cluster.write(&ann, Operation::Create, "roles", &role, None), "attempting to grant RBAC permissions not currently held");
}

#[tokio::test]
async fn namespaces_choose_their_pod_security() {
    let cluster = Cluster::new().await;
    let labels = json!({ "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30" });
    cluster.put("core/namespaces", json!({ "metadata": { "name": "a", "labels": labels } })).await;
    let host = || pod(json!({ "hostNetwork": true }));
    refused(
        cluster.create("pods", &host()),
        r#"pods "p" is forbidden: violates PodSecurity "baseline:v1.30": host namespaces (hostNetwork=true)"#,
    );
    cluster.create("pods", &pod(json!({}))).unwrap();
    // A template is only warned of, and labels may change on a pod that is there already.
    let template = json!({ "metadata": { "name": "d", "namespace": "a" }, "spec": { "template": host() } });
    cluster.create("deployments", &template).unwrap();
    let user = User::authenticated("ann", [GROUP_MASTERS]);
    let old = host();
    let mut new = host();
    new["metadata"]["labels"] = json!({ "x": "y" });
    cluster.write(&user, Operation::Update, "pods/status", &new, Some(&old)).unwrap();
    let wrong = json!({ "metadata": { "name": "b", "labels": { "pod-security.kubernetes.io/warn": "strict" } } });
    refused(cluster.create("namespaces", &wrong), "must be one of privileged, baseline, restricted");
}

/// A cluster with the nodes n1 and n2, the pod `a/mine` on the first and `a/other` on the second.
async fn nodes() -> Cluster {
    let cluster = Cluster::new().await;
    for name in ["n1", "n2"] {
        cluster.put("core/nodes", json!({ "metadata": { "name": name, "uid": format!("uid-{name}") } })).await;
    }
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        cluster.put("core/pods", on(name, node)).await;
    }
    cluster
}

fn on(name: &str, node: &str) -> Value {
    let token = json!([{ "name": "t", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } }]);
    json!({ "metadata": { "name": name, "namespace": "a", "uid": format!("uid-{name}") },
        "spec": { "nodeName": node, "serviceAccountName": "default", "volumes": token }, "status": {} })
}

#[tokio::test]
async fn kubelets_write_their_own_node_only() {
    let cluster = nodes().await;
    let kubelet = User::node("n1");
    let node = |name: &str, more: Value| {
        let mut node = json!({ "metadata": { "name": name, "labels": {} }, "spec": {} });
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "taints" => node["spec"]["taints"] = value.clone(),
                key => node["metadata"][key] = value.clone(),
            }
        }
        node
    };
    let update = |new: Value, old: Value| cluster.write(&kubelet, Operation::Update, "nodes", &new, Some(&old));
    cluster
        .write(
            &kubelet,
            Operation::Create,
            "nodes",
            &node("n1", json!({ "labels": { "kubernetes.io/hostname": "n1", "mine": "x" } })),
            None,
        )
        .unwrap();
    refused(cluster.write(&kubelet, Operation::Create, "nodes", &node("n2", json!({})), None), r#"not allowed to modify node "n2""#);
    let plain = || node("n1", json!({}));
    update(plain(), plain()).unwrap();
    refused(update(node("n2", json!({})), node("n2", json!({}))), r#"not allowed to modify node "n2""#);
    refused(update(node("n1", json!({ "taints": [] })), plain()), "taints");
    // CVE-2025-5187
    refused(update(node("n1", json!({ "ownerReferences": [{ "name": "gone" }] })), plain()), "owner references");
    for (label, free) in [
        ("node-role.kubernetes.io/control-plane", false),
        ("node-restriction.kubernetes.io/secure", false),
        ("team.k8s.io/x", false),
        ("kubernetes.io/other", false),
        ("kubernetes.io/os", true),
        ("topology.kubernetes.io/zone", true),
        ("x.node.kubernetes.io/y", true),
        ("notkubernetes.io/z", true),
        ("plain", true),
    ] {
        assert_eq!(update(node("n1", json!({ "labels": { label: "x" } })), plain()).is_ok(), free, "add {label}");
        assert_eq!(update(plain(), node("n1", json!({ "labels": { label: "x" } }))).is_ok(), free, "remove {label}");
    }
}

#[tokio::test]
async fn kubelets_write_their_own_pods_only() {
    let cluster = nodes().await;
    let kubelet = User::node("n1");
    let write = |operation, resource: &str, object: &Value, old: Option<&Value>| cluster.write(&kubelet, operation, resource, object, old);
    let (mine, other) = (on("mine", "n1"), on("other", "n2"));
    write(Operation::Update, "pods/status", &mine, Some(&mine)).unwrap();
    refused(write(Operation::Update, "pods/status", &other, Some(&other)), "spec.nodeName set to itself");
    let mut labelled = mine.clone();
    labelled["metadata"]["labels"] = json!({ "app": "web" });
    refused(write(Operation::Update, "pods/status", &labelled, Some(&mine)), "labels through pod status");
    write(Operation::Delete, "pods", &mine, Some(&mine)).unwrap();
    refused(write(Operation::Delete, "pods", &other, Some(&other)), "spec.nodeName set to itself");
    write(Operation::Create, "pods/eviction", &mine, None).unwrap();
    refused(write(Operation::Create, "pods/eviction", &other, None), "spec.nodeName set to itself");
    refused(write(Operation::Create, "pods/binding", &mine, None), "cannot write this part of pods");

    let mirror = |more: Value| {
        let owner = json!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1", "controller": true }]);
        let mut pod = json!({
            "metadata": { "name": "m", "namespace": "a", "annotations": { "kubernetes.io/config.mirror": "x" }, "ownerReferences": owner },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c" }] },
        });
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "annotations" | "ownerReferences" => pod["metadata"][key] = value.clone(),
                key => pod["spec"][key] = value.clone(),
            }
        }
        pod
    };
    let create = |more: Value| write(Operation::Create, "pods", &mirror(more), None);
    create(json!({})).unwrap();
    refused(create(json!({ "annotations": {} })), "can only create mirror pods");
    refused(create(json!({ "nodeName": "n2" })), "spec.nodeName set to itself");
    refused(create(json!({ "ownerReferences": [] })), "owner reference to node");
    refused(create(json!({ "serviceAccountName": "default" })), "serviceaccounts");
    refused(create(json!({ "volumes": [{ "name": "v", "configMap": { "name": "m" } }] })), "reference configmaps");
    // CVE-2025-4563
    refused(create(json!({ "resourceClaims": [{ "name": "gpu", "resourceClaimName": "foreign" }] })), "resourceclaim");
}

#[tokio::test]
async fn kubelets_get_tokens_for_their_pods_only() {
    let cluster = nodes().await;
    let kubelet = User::node("n1");
    let token = |account: &str, reference: Value| {
        let object = json!({ "metadata": { "name": account, "namespace": "a" }, "spec": { "boundObjectRef": reference } });
        cluster.write(&kubelet, Operation::Create, "serviceaccounts/token", &object, None)
    };
    let pod = |name: &str, uid: &str| json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid });
    token("default", pod("mine", "uid-mine")).unwrap();
    refused(token("default", json!(null)), "not bound to a pod");
    refused(token("default", pod("mine", "")), "without a uid");
    refused(token("default", pod("mine", "uid-old")), "does not match the UID in record");
    refused(token("default", pod("other", "uid-other")), "different node");
    refused(token("default", pod("gone", "x")), "not found");
    refused(token("robot", pod("mine", "uid-mine")), "does not run as");
}

#[tokio::test]
async fn kubelets_write_their_own_lease_only() {
    let cluster = nodes().await;
    cluster.put("core/namespaces", json!({ "metadata": { "name": "kube-node-lease" } })).await;
    let lease = |namespace: &str, name: &str| {
        let object = json!({ "metadata": { "name": name, "namespace": namespace } });
        cluster.write(&User::node("n1"), Operation::Create, "leases", &object, None)
    };
    lease("kube-node-lease", "n1").unwrap();
    refused(lease("kube-node-lease", "n2"), "same name as the requesting node");
    refused(lease("a", "n1"), "kube-node-lease");
}

#[tokio::test]
async fn only_bound_claims_grow_and_only_if_their_class_allows_it() {
    let cluster = Cluster::new().await;
    for (name, grows) in [("fixed", false), ("elastic", true)] {
        let class = json!({ "metadata": { "name": name }, "allowVolumeExpansion": grows });
        cluster.put("storage.k8s.io/storageclasses", class).await;
    }
    let claim = |class: &str, phase: &str, size: &str| {
        json!({ "metadata": { "name": "c", "namespace": "a" }, "status": { "phase": phase },
            "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } } })
    };
    let grow = |class: &str, phase: &str, size: &str| {
        let user = User::authenticated("ann", [GROUP_MASTERS]);
        let (new, old) = (claim(class, phase, size), claim(class, phase, "1Gi"));
        cluster.write(&user, Operation::Update, "persistentvolumeclaims", &new, Some(&old))
    };
    let words = |why: &str| format!("persistentvolumeclaims \"c\" is forbidden: {why}");
    let unbound = words("Only bound persistent volume claims can be expanded");
    let fixed = words("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize");
    for (class, phase, why) in
        [("elastic", "Pending", &unbound), ("fixed", "Bound", &fixed), ("", "Bound", &fixed), ("gone", "Bound", &fixed)]
    {
        assert_eq!(grow(class, phase, "2Gi").expect_err(why).message, *why);
        grow(class, phase, "1Gi").unwrap();
    }
    grow("elastic", "Bound", "2Gi").unwrap();
}
