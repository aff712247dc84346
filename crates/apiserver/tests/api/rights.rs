//! What callers may do, through the sockets: acting as others, giving rights away, tokens that die with what they are bound to.

use knarr_apiserver::{AuditSettings, LogSettings, User};
use knarr_store::Options;
use serde_json::{Value, json};

use crate::{
    kit::{CONFIG_MAPS, Client, Cluster, PODS, pod, text},
    transport::{connect, get, post},
};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

pub(crate) fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs, "resourceNames": names})
}

/// Gives `subject` these rules everywhere, and returns once that is in force.
pub(crate) async fn allow(admin: &Client, name: &str, subject: Value, rules: Value) {
    admin.post(&format!("{RBAC}/clusterroles"), &json!({"metadata": {"name": name}, "rules": rules})).await.expect(201);
    let binding =
        json!({"metadata": {"name": name}, "subjects": [subject], "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}});
    admin.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
    let (first, spec) = (&rules[0], &subject);
    let user = match text(&spec["kind"]) {
        "User" => json!({"user": spec["name"]}),
        _ => json!({"user": format!("system:serviceaccount:{}:{}", text(&spec["namespace"]), text(&spec["name"]))}),
    };
    let asked = json!({"group": first["apiGroups"][0], "resource": first["resources"][0], "verb": first["verbs"][0], "name": first["resourceNames"][0]});
    let mut review = json!({"spec": user});
    review["spec"]["resourceAttributes"] = asked;
    while admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.expect(201)["status"]["allowed"] != true {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn user(name: &str) -> Value {
    json!({"kind": "User", "apiGroup": GROUP, "name": name})
}

/// Callers with client certificates, as `knarr_apiserver` takes impersonation from outside only.
struct Caller<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl Caller<'_> {
    /// Code and message of a list of `path` as another.
    async fn list(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let identity = self.cluster.server.pki().issue_client(self.name, None).unwrap();
        let answer = get(connect(self.cluster, Some(&identity), b"http/1.1").await, path, headers).await;
        let code = answer.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        (code, text(&serde_json::from_slice::<Value>(&bytes).unwrap()["message"]).to_owned())
    }

    async fn who(&self, headers: &[(&str, &str)]) -> (u16, Value) {
        let identity = self.cluster.server.pki().issue_client(self.name, None).unwrap();
        post(connect(self.cluster, Some(&identity), b"http/1.1").await, WHO, headers, &json!({})).await
    }
}

#[tokio::test]
async fn every_part_of_another_is_a_right_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let authentication = "authentication.k8s.io";
    let rules = json!([
        rule("", "users", &["impersonate"], &["ann"]),
        rule("", "groups", &["impersonate"], &["devs"]),
        rule(authentication, "uids", &["impersonate"], &["7"]),
        rule(authentication, "userextras/acme.org/team", &["impersonate"], &["red"]),
        rule("", "serviceaccounts", &["impersonate"], &["robot"]),
    ]);
    allow(&admin, "actor", user("eve"), rules).await;
    let eve = Caller { cluster: &cluster, name: "eve" };
    let whole = [
        ("impersonate-user", "ann"),
        ("impersonate-group", "devs"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.org%2fteam", "red"),
    ];
    let (code, who) = eve.who(&whole).await;
    let expected = json!({"username": "ann", "uid": "7", "groups": ["devs", "system:authenticated"], "extra": {"acme.org/team": ["red"]}});
    assert_eq!((code, &who["status"]["userInfo"]), (201, &expected));
    let (_, who) = eve.who(&[("impersonate-user", "system:serviceaccount:default:robot")]).await;
    assert_eq!(
        who["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    for (at, wrong) in [(0, "bob"), (1, "system:masters"), (2, "8"), (3, "blue")] {
        let mut headers = whole;
        headers[at].1 = wrong;
        assert_eq!(eve.who(&headers).await.0, 403, "{wrong}");
    }
    assert_eq!(eve.who(&[("impersonate-user", "system:node:n")]).await.0, 403);
    assert_eq!(eve.who(&[("impersonate-group", "devs")]).await.0, 400);
    // Ann may not act as anyone, so neither may eve as ann.
    assert_eq!((Caller { cluster: &cluster, name: "ann" }).who(&whole).await.0, 403);
}

/// KEP-5284: as another, but only for what one may do as another.
#[tokio::test]
async fn constrained_impersonation_is_for_named_requests_and_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.log");
    let settings =
        AuditSettings { log: Some(LogSettings { path: log.clone(), ..LogSettings::in_data_dir(dir.path()) }), ..AuditSettings::default() };
    let cluster = Cluster::start_as(dir, Options::default(), |config| config.audit = settings).await;
    let admin = cluster.admin();
    let authentication = "authentication.k8s.io";
    allow(&admin, "ann", user("ann"), json!([rule("", "configmaps", &["list"], &[]), rule("", "pods", &["list"], &[])])).await;
    let rules = json!([
        rule(authentication, "users", &["impersonate:user-info"], &["ann"]),
        rule(authentication, "groups", &["impersonate:user-info"], &[]),
        rule(
            "",
            "configmaps",
            &["impersonate-on:user-info:list", "impersonate-on:arbitrary-node:list", "impersonate-on:serviceaccount:list"],
            &[]
        ),
    ]);
    allow(&admin, "actor", user("eve"), rules).await;
    let eve = Caller { cluster: &cluster, name: "eve" };
    let ann = [("impersonate-user", "ann")];
    assert_eq!(eve.list(CONFIG_MAPS, &ann).await, (200, String::new()));
    let (code, message) = eve.list(PODS, &ann).await;
    assert_eq!(code, 403, "ann may list pods, eve may not as ann");
    assert!(message.contains(r#"User "eve" cannot impersonate-on:user-info:list resource "pods""#), "{message}");
    assert_eq!(eve.list(CONFIG_MAPS, &[]).await.0, 403, "nor for herself");
    assert_eq!(eve.list(CONFIG_MAPS, &[("impersonate-user", "bob")]).await.0, 403);
    assert_eq!(eve.list(CONFIG_MAPS, &[ann[0], ("impersonate-group", "devs")]).await.0, 200);
    let (code, message) = eve.list(CONFIG_MAPS, &[ann[0], ("impersonate-group", "system:masters")]).await;
    assert!(code == 403 && message.contains("impersonating the system:masters group is not allowed"), "{message}");
    for other in ["system:node:n", "system:serviceaccount:default:robot"] {
        assert_eq!(eve.list(CONFIG_MAPS, &[("impersonate-user", other)]).await.0, 403, "{other}");
    }
    let _dir = cluster.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    let of = |uri: &str| {
        log.lines().filter(|line| line.contains(uri) && line.contains(r#""impersonatedUser":{"username":"ann""#)).collect::<Vec<_>>()
    };
    let told = r#""authenticationMetadata":{"impersonationConstraint":"impersonate:user-info"}"#;
    assert!(!of(CONFIG_MAPS).is_empty() && of(CONFIG_MAPS).iter().all(|line| line.contains(told)), "{log}");
}

#[tokio::test]
async fn an_account_may_act_as_the_node_that_it_is_on_and_as_no_other() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(ACCOUNTS, &json!({"metadata": {"name": "agent"}})).await.expect(201);
    for name in ["n1", "n2"] {
        admin.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let mut placed = pod("agent");
    placed["spec"]["serviceAccountName"] = "agent".into();
    placed["spec"]["nodeName"] = "n1".into();
    admin.post(PODS, &placed).await.expect(201);
    let rules = json!([
        rule("authentication.k8s.io", "nodes", &["impersonate:associated-node"], &[]),
        rule("authentication.k8s.io", "selfsubjectreviews", &["impersonate-on:associated-node:create"], &[]),
    ]);
    allow(&admin, "agents", json!({"kind": "ServiceAccount", "namespace": "default", "name": "agent"}), rules).await;
    let bound = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "agent"}}});
    let token = admin.post(&format!("{ACCOUNTS}/agent/token"), &bound).await.expect(201);
    let bearer = format!("Bearer {}", text(&token["status"]["token"]));
    let who = async |node: &str| {
        let headers = [("authorization", bearer.as_str()), ("impersonate-user", node)];
        post(connect(&cluster, None, b"http/1.1").await, WHO, &headers, &json!({})).await
    };
    let (code, own) = who("system:node:n1").await;
    let expected = json!({"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]});
    assert_eq!((code, &own["status"]["userInfo"]), (201, &expected));
    assert_eq!(who("system:node:n2").await.0, 403);
}

#[tokio::test]
async fn tokens_die_with_the_pod_secret_or_node_that_they_are_bound_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(ACCOUNTS, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let mut made = pod("p");
    made["spec"]["serviceAccountName"] = "robot".into();
    let secrets = "/api/v1/namespaces/default/secrets";
    for (kind, path, object) in [
        ("Pod", PODS, made),
        ("Secret", secrets, json!({"metadata": {"name": "p"}})),
        ("Node", "/api/v1/nodes", json!({"metadata": {"name": "p"}})),
    ] {
        admin.post(path, &object).await.expect(201);
        let request = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": "p"}}});
        let token = admin.post(&format!("{ACCOUNTS}/robot/token"), &request).await.expect(201);
        let bearer = format!("Bearer {}", text(&token["status"]["token"]));
        let code = async || post(connect(&cluster, None, b"http/1.1").await, WHO, &[("authorization", &bearer)], &json!({})).await.0;
        assert_eq!(code().await, 201, "{kind}");
        admin.delete(&format!("{path}/p?gracePeriodSeconds=0")).await.expect(200);
        assert_eq!(code().await, 401, "{kind}");
        // Another of the name is another.
        admin.post(path, &object).await.expect(201);
        assert_eq!(code().await, 401, "{kind}");
    }
}

#[tokio::test]
async fn rights_are_given_by_those_who_have_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let rules = json!([
        rule(GROUP, "roles", &["create", "update", "patch"], &[]),
        rule(GROUP, "rolebindings", &["create", "update", "patch"], &[]),
        rule(GROUP, "clusterroles", &["create"], &[]),
        rule(GROUP, "clusterroles", &["bind"], &["view"]),
        rule("", "pods", &["get"], &[]),
    ]);
    allow(&admin, "author", user("bob"), rules).await;
    let bob = cluster.as_user(User::authenticated("bob", [""; 0]));
    let role = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [rule("", resource, &["get"], &[])]});
    bob.post(&roles, &role("pods", "pods")).await.expect(201);
    let (_, message) = bob.post(&roles, &role("secrets", "secrets")).await.refused(403);
    assert!(message.contains("is attempting to grant RBAC permissions not currently held"), "{message}");
    let more = json!({"rules": [rule("", "secrets", &["get"], &[])]});
    bob.patch(&format!("{roles}/pods"), "merge-patch", &more).await.refused(403);
    let applied = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Role", "rules": more["rules"]});
    bob.patch(&format!("{roles}/pods?fieldManager=x&force=true"), "apply", applied).await.refused(403);
    // A change that gives nothing passes.
    admin.post(&roles, &role("secrets", "secrets")).await.expect(201);
    bob.patch(&format!("{roles}/secrets"), "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    let aggregated = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    bob.post(&format!("{RBAC}/clusterroles"), &aggregated).await.refused(403);
    let binding = |name: &str, kind: &str, role: &str| json!({"metadata": {"name": name}, "subjects": [user("carl")], "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}});
    bob.post(&bindings, &binding("a", "Role", "pods")).await.expect(201);
    bob.post(&bindings, &binding("b", "ClusterRole", "view")).await.expect(201);
    bob.post(&bindings, &binding("c", "ClusterRole", "edit")).await.refused(403);
    bob.post(&bindings, &binding("c", "Role", "secrets")).await.refused(403);
    // What a binding is of stays, whoever asks.
    let (_, message) = admin.put(&format!("{bindings}/a"), &binding("a", "ClusterRole", "edit")).await.refused(422);
    assert!(message.contains("cannot change roleRef"), "{message}");
}

#[tokio::test]
async fn a_right_to_one_name_is_none_to_make_or_list_without_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let all = ["get", "list", "watch", "create", "update", "delete", "deletecollection"];
    allow(&admin, "one", user("bob"), json!([rule("", "configmaps", &all, &["mine"])])).await;
    let bob = cluster.as_user(User::authenticated("bob", [""; 0]));
    let named = |name: &str| json!({"metadata": {"name": name}});
    bob.post(CONFIG_MAPS, &named("mine")).await.refused(403);
    admin.post(CONFIG_MAPS, &named("mine")).await.expect(201);
    admin.post(CONFIG_MAPS, &named("theirs")).await.expect(201);
    bob.get(&format!("{CONFIG_MAPS}/mine")).await.expect(200);
    bob.get(&format!("{CONFIG_MAPS}/theirs")).await.refused(403);
    bob.get(CONFIG_MAPS).await.refused(403);
    let selected = |name: &str| format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3D{name}");
    let listed = bob.get(&selected("mine")).await.expect(200);
    assert_eq!(crate::kit::names(&listed), ["mine"]);
    bob.get(&selected("theirs")).await.refused(403);
    bob.delete(CONFIG_MAPS).await.refused(403);
    bob.delete(&format!("{CONFIG_MAPS}/theirs")).await.refused(403);
    bob.delete(&format!("{CONFIG_MAPS}/mine")).await.expect(200);
}

#[tokio::test]
async fn a_kubelet_reads_and_writes_the_slices_of_its_own_devices_only() {
    const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
    let cluster = Cluster::start().await;
    let (admin, kubelet) = (cluster.admin(), cluster.as_user(User::node("n1")));
    let slice = |name: &str, node: &str| {
        let pool = json!({"name": node, "resourceSliceCount": 1, "generation": 1});
        json!({"metadata": {"name": name}, "spec": {"driver": "gpu.example.com", "pool": pool, "nodeName": node}})
    };
    let at = |name: &str| format!("{SLICES}/{name}");
    let why = |answer: crate::kit::Answer| answer.refused(403).1;
    let all_nodes = {
        let mut shared = slice("shared", "shared");
        shared["spec"].as_object_mut().unwrap().remove("nodeName");
        shared["spec"]["allNodes"] = json!(true);
        shared
    };
    admin.post(SLICES, &slice("other", "n2")).await.expect(201);
    admin.post(SLICES, &all_nodes).await.expect(201);
    let mut mine = kubelet.post(SLICES, &slice("mine", "n1")).await.expect(201);
    let foreign = "can only create ResourceSlice with the same NodeName as the requesting node";
    assert!(why(kubelet.post(SLICES, &slice("forged", "n2")).await).contains(foreign));
    let shared = json!({"metadata": {"name": "forged"}, "spec": all_nodes["spec"]});
    assert!(why(kubelet.post(SLICES, &shared).await).contains(foreign));
    kubelet.get(&at("mine")).await.expect(200);
    mine["spec"]["pool"]["generation"] = json!(2);
    kubelet.put(&at("mine"), &mine).await.expect(200);
    for name in ["other", "shared"] {
        for answer in [
            kubelet.get(&at(name)).await,
            kubelet.patch(&at(name), "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await,
            kubelet.delete(&at(name)).await,
        ] {
            assert!(why(answer).contains("no relationship found between node 'n1' and this object"), "{name}");
        }
    }
    for query in ["", "?watch=true", "?fieldSelector=spec.nodeName%3Dn2", "?fieldSelector=spec.driver%3Dgpu.example.com"] {
        let told = why(kubelet.get(&format!("{SLICES}{query}")).await);
        assert!(told.contains("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"), "{query}: {told}");
        why(kubelet.delete(&format!("{SLICES}{query}")).await);
    }
    let own = format!("{SLICES}?fieldSelector=spec.nodeName%3Dn1");
    assert_eq!(crate::kit::names(&kubelet.get(&own).await.expect(200)), ["mine"]);
    kubelet.delete(&own).await.expect(200);
    assert_eq!(crate::kit::names(&admin.get(SLICES).await.expect(200)), ["other", "shared"]);
}
