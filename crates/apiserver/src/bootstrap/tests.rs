//! Bootstrap into a real store, again and after changes.

use knarr_store::{Embedded, Options};
use serde_json::json;

use super::*;

fn settings(advertise: &str) -> Settings {
    Settings {
        advertise: advertise.parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        ca_pem: "CA".to_owned(),
        front_proxy_ca_pem: "PROXY".to_owned(),
    }
}

fn get(store: &dyn Store, collection: &str, name: &str) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let snapshot = store.snapshot();
    let entry = snapshot.get(&Key::new(&Collection::new(collection), namespace, name)).unwrap_or_else(|| panic!("{collection} {name}"));
    serde_json::from_slice(&entry.value).unwrap()
}

async fn write(store: &dyn Store, collection: &str, object: Value) {
    let metadata = &object["metadata"];
    let key = Key::new(&Collection::new(collection), metadata["namespace"].as_str().unwrap_or(""), metadata["name"].as_str().unwrap());
    store.commit(vec![put(key, Expect::Any, object.as_object().unwrap().clone())]).await.unwrap();
}

#[tokio::test]
async fn a_new_cluster_has_what_clients_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    run(&store, &settings("192.0.2.1:6443")).await.unwrap();

    let service = get(&store, "core/services", "default/kubernetes");
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    let slice = get(&store, "discovery.k8s.io/endpointslices", "default/kubernetes");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(get(&store, "core/services", "kube-system/kube-dns")["spec"]["clusterIP"], "10.43.0.10");
    assert_eq!(get(&store, "core/configmaps", "kube-system/extension-apiserver-authentication")["data"]["client-ca-file"], "CA");
    assert_eq!(get(&store, "scheduling.k8s.io/priorityclasses", "system-node-critical")["value"], 2_000_001_000);
    let namespace = get(&store, "core/namespaces", "kube-node-lease");
    assert_eq!(namespace["status"]["phase"], "Active");
    assert!(namespace["metadata"]["uid"].as_str().unwrap().len() == 36);

    // view ⊂ edit ⊂ admin, computed from the labelled parts.
    let rules = |role: &str| crate::authz::Rule::list(&get(&store, "rbac.authorization.k8s.io/clusterroles", role));
    let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
    assert!(!view.is_empty());
    assert!(crate::authz::uncovered(&edit, &view).is_empty());
    assert!(crate::authz::uncovered(&admin, &edit).is_empty());
    assert!(!crate::authz::uncovered(&edit, &admin).is_empty());
    // CVE-2021-25740: who may edit may not point Endpoints at others' pods. And view shows no secrets.
    let may = |rules: &[crate::authz::Rule], verb: &str, resource: &str| {
        let user = crate::User::default();
        rules.iter().any(|rule| rule.allows(&crate::authz::Attributes::resource(&user, verb, "", resource)))
    };
    assert!(!may(&admin, "update", "endpoints") && !may(&edit, "create", "endpoints"));
    assert!(!may(&view, "get", "secrets") && may(&edit, "get", "secrets"));
}

#[tokio::test]
async fn the_second_start_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    run(&store, &settings("192.0.2.1:6443")).await.unwrap();
    let revision = store.snapshot().revision;
    run(&store, &settings("192.0.2.1:6443")).await.unwrap();
    assert_eq!(store.snapshot().revision, revision);
}

#[tokio::test]
async fn a_new_address_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    run(&store, &settings("192.0.2.1:6443")).await.unwrap();
    run(&store, &settings("192.0.2.9:7443")).await.unwrap();
    let slice = get(&store, "discovery.k8s.io/endpointslices", "default/kubernetes");
    assert_eq!((&slice["endpoints"][0]["addresses"][0], &slice["ports"][0]["port"]), (&json!("192.0.2.9"), &json!(7443)));
    assert_eq!(get(&store, "core/services", "default/kubernetes")["spec"]["ports"][0]["targetPort"], 7443);
    let endpoints = get(&store, "core/endpoints", "default/kubernetes");
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.9");
}

#[tokio::test]
async fn built_in_roles_are_mended_and_additions_stay() {
    const ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    let settings = settings("192.0.2.1:6443");
    run(&store, &settings).await.unwrap();

    let added = json!({ "verbs": ["get"], "apiGroups": ["example.org"], "resources": ["things"] });
    let original = get(&store, ROLES, "system:discovery");
    let mut changed = original.clone();
    changed["rules"] = json!([added]);
    write(&store, ROLES, changed).await;
    let mut frozen = get(&store, ROLES, "system:basic-user");
    frozen["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    frozen["rules"] = json!([]);
    write(&store, ROLES, frozen).await;
    let mine = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "things", "uid": "x", "labels": { "rbac.authorization.k8s.io/aggregate-to-view": "true" } },
        "rules": [added],
    });
    write(&store, ROLES, mine).await;
    run(&store, &settings).await.unwrap();

    let mended = get(&store, ROLES, "system:discovery");
    assert_eq!(mended["metadata"]["uid"], original["metadata"]["uid"]);
    assert_eq!(mended["rules"], json!([added, original["rules"][0]]));
    assert_eq!(get(&store, ROLES, "system:basic-user")["rules"], json!([]));
    for role in ["view", "edit", "admin"] {
        assert!(get(&store, ROLES, role)["rules"].as_array().unwrap().contains(&added), "{role}");
    }
}

#[test]
fn service_addresses_stay_in_their_range() {
    let at = |range: &str, index| service_address(range.parse().unwrap(), index).map(|address| address.to_string());
    assert_eq!(at("10.43.0.0/16", 10).as_deref(), Some("10.43.0.10"));
    assert_eq!(at("10.43.0.0/29", 10), None);
    assert_eq!(at("10.43.0.0/29", 7), None);
    assert_eq!(at("fd00::/112", 10).as_deref(), Some("fd00::a"));
}
