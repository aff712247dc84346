//! ResourceQuota at admission. The status is written as the controller writes it, which does not run here.

use knarr_store::{Collection, Key, Store};
use serde_json::{Value, json};

use crate::{
    custom::define,
    kit::{CONFIG_MAPS, Client, Cluster, PODS, pod},
};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

async fn quota(admin: &Client, name: &str, spec: Value, used: Value) {
    let mut made = admin.post(QUOTAS, &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    made["status"] = json!({"hard": spec["hard"], "used": used});
    admin.put(&format!("{QUOTAS}/{name}/status"), &made).await.expect(200);
}

async fn used(admin: &Client, name: &str) -> Value {
    admin.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

fn sized(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    pod
}

#[tokio::test]
async fn what_does_not_fit_is_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    quota(&admin, "new", json!({"hard": {"configmaps": "2"}}), json!({})).await;
    let (reason, message) = admin.post(CONFIG_MAPS, &config_map("a")).await.refused(403);
    assert_eq!(reason, "Forbidden");
    assert_eq!(message, "configmaps \"a\" is forbidden: status unknown for quota: new, resources: configmaps");
    admin.delete(&format!("{QUOTAS}/new")).await.expect(200);

    quota(
        &admin,
        "q",
        json!({"hard": {"configmaps": "2", "count/configmaps": "9", "requests.cpu": "1", "pods": "5"}}),
        json!({"configmaps": "1", "count/configmaps": "1", "requests.cpu": "0", "pods": "0"}),
    )
    .await;
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    assert_eq!(used(&admin, "q").await, json!({"configmaps": "2", "count/configmaps": "2", "requests.cpu": "0", "pods": "0"}));
    let (_, message) = admin.post(CONFIG_MAPS, &config_map("b")).await.refused(403);
    assert_eq!(
        message,
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
    );
    let (_, message) = admin.post(PODS, &pod("p")).await.refused(403);
    assert_eq!(message, "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    admin.post(PODS, &sized("p", "600m")).await.expect(201);
    let (_, message) = admin.post(PODS, &sized("r", "600m")).await.refused(403);
    assert_eq!(
        message,
        "pods \"r\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    assert_eq!(used(&admin, "q").await["requests.cpu"], "600m");
    // A LimitRange says what containers ask for that do not.
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "300m"}}]}});
    admin.post("/api/v1/namespaces/default/limitranges", &limits).await.expect(201);
    admin.post(PODS, &pod("filled")).await.expect(201);
    assert_eq!(used(&admin, "q").await["requests.cpu"], "900m");
}

#[tokio::test]
async fn a_charge_is_committed_with_what_it_is_for_or_not_at_all() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    quota(&admin, "q", json!({"hard": {"configmaps": "10"}}), json!({"configmaps": "0"})).await;
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    admin.post(&dry, &config_map("dry")).await.expect(201);
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "Not A Name"}})).await.refused(422);
    assert_eq!(used(&admin, "q").await["configmaps"], "0");
    admin.post(CONFIG_MAPS, &config_map("a")).await.expect(201);
    admin.post(CONFIG_MAPS, &config_map("a")).await.refused(409);
    admin.put(&format!("{CONFIG_MAPS}/a"), &json!({"metadata": {"name": "a"}, "data": {"x": "y"}})).await.expect(200);
    admin
        .patch(
            &format!("{CONFIG_MAPS}/b?fieldManager=me"),
            "apply",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}),
        )
        .await
        .expect(201);
    assert_eq!(used(&admin, "q").await["configmaps"], "2");
    let snapshot = cluster.store.snapshot();
    let revision =
        |collection: &str, name: &str| snapshot.get(&Key::new(&Collection::new(collection), "default", name)).expect("stored").revision;
    assert!(revision("core/resourcequotas", "q") > revision("core/configmaps", "b"), "the same commit, right after");
    assert_eq!(revision("core/resourcequotas", "q").0, revision("core/configmaps", "b").0 + 1);
}

#[tokio::test]
async fn creates_at_once_do_not_overdraw() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    quota(&admin, "q", json!({"hard": {"configmaps": "10"}}), json!({"configmaps": "0"})).await;
    let create = |n: usize| {
        let admin = admin.clone();
        async move { admin.post(CONFIG_MAPS, &config_map(&format!("c-{n}"))).await.code.as_u16() }
    };
    let codes = futures::future::join_all((0..40).map(create)).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 10, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 201 | 403)), "{codes:?}");
    assert_eq!(used(&admin, "q").await["configmaps"], "10");
}

#[tokio::test]
async fn scopes_services_and_custom_resources_are_counted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    define(&admin, &json!({"metadata": {"name": "toys.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"}, "versions": [version]}})).await;
    quota(&admin, "toys", json!({"hard": {"count/toys.example.com": "1"}}), json!({"count/toys.example.com": "0"})).await;
    let toys = "/apis/example.com/v1/namespaces/default/toys";
    let toy = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Toy", "metadata": {"name": name}});
    admin.post(toys, &toy("a")).await.expect(201);
    let (_, message) = admin.post(toys, &toy("b")).await.refused(403);
    assert_eq!(
        message,
        "toys.example.com \"b\" is forbidden: exceeded quota: toys, requested: count/toys.example.com=1, used: count/toys.example.com=1, limited: count/toys.example.com=1"
    );

    quota(
        &admin,
        "ports",
        json!({"hard": {"services.nodeports": "1", "services": "5"}}),
        json!({"services.nodeports": "0", "services": "0"}),
    )
    .await;
    let services = "/api/v1/namespaces/default/services";
    let service = admin
        .post(services, &json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}}))
        .await
        .expect(201);
    let exposed = |ports: usize| {
        let mut service = service.clone();
        service["spec"]["type"] = "NodePort".into();
        service["spec"]["ports"].as_array_mut().expect("ports").truncate(ports);
        service
    };
    let (_, message) = admin.put(&format!("{services}/s"), &exposed(2)).await.refused(403);
    assert!(
        message
            .ends_with("exceeded quota: ports, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1"),
        "{message}"
    );
    admin.put(&format!("{services}/s"), &exposed(1)).await.expect(200);
    assert_eq!(used(&admin, "ports").await, json!({"services.nodeports": "1", "services": "1"}));

    quota(&admin, "best", json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}), json!({"pods": "0"})).await;
    admin.post(PODS, &sized("burstable", "1")).await.expect(201);
    admin.post(PODS, &pod("one")).await.expect(201);
    let (_, message) = admin.post(PODS, &pod("two")).await.refused(403);
    assert!(message.ends_with("exceeded quota: best, requested: pods=1, used: pods=1, limited: pods=1"), "{message}");
}

#[tokio::test]
async fn claims_are_counted_by_the_class_of_their_attributes() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let scope = |operator: &str, values: &[&str]| {
        let mut expression = json!({"scopeName": "VolumeAttributesClass", "operator": operator});
        if !values.is_empty() {
            expression["values"] = json!(values);
        }
        json!({"hard": {"persistentvolumeclaims": "2"}, "scopeSelector": {"matchExpressions": [expression]}})
    };
    let none = json!({"persistentvolumeclaims": "0"});
    for (name, spec) in [
        ("gold", scope("In", &["gold"])),
        ("not-gold", scope("NotIn", &["gold"])),
        ("any", scope("Exists", &[])),
        ("without", scope("DoesNotExist", &[])),
    ] {
        quota(&admin, name, spec, none.clone()).await;
    }
    let claim = |name: &str, class: &str| {
        let mut claim =
            json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        if !class.is_empty() {
            claim["spec"]["volumeAttributesClassName"] = class.into();
        }
        claim
    };
    let counted = async || {
        let mut all = Vec::new();
        for name in ["gold", "not-gold", "any", "without"] {
            all.push(used(&admin, name).await["persistentvolumeclaims"].as_str().expect("an amount").to_owned());
        }
        all.join(" ")
    };
    admin.post(CLAIMS, &claim("a", "gold")).await.expect(201);
    assert_eq!(counted().await, "1 0 1 0");
    admin.post(CLAIMS, &claim("b", "")).await.expect(201);
    assert_eq!(counted().await, "1 1 1 1");
    admin.post(CLAIMS, &claim("c", "silver")).await.expect(201);
    assert_eq!(counted().await, "1 2 2 1");
    let (_, message) = admin.post(CLAIMS, &claim("d", "silver")).await.refused(403);
    assert!(message.contains("exceeded quota: "), "{message}");
    // What a volume has while it changes counts, too, when its status tells it.
    let mut changing = admin.get(&format!("{CLAIMS}/c")).await.expect(200);
    changing["status"]["modifyVolumeStatus"] = json!({"targetVolumeAttributesClassName": "gold", "status": "Pending"});
    admin.put(&format!("{CLAIMS}/c/status"), &changing).await.expect(200);
    assert_eq!(counted().await, "2 2 2 1");
}

#[tokio::test]
async fn a_range_of_pods_counts_sidecars_and_what_the_pod_names_for_itself() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Pod", "max": {"cpu": "1"}, "maxLimitRequestRatio": {"memory": "8E"}}]}});
    admin.post("/api/v1/namespaces/default/limitranges", &limits).await.expect(201);
    let asks = |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "7E"}, "requests": {"cpu": cpu, "memory": "1"}});
    let container = |name: &str, cpu: &str, policy: Option<&str>| {
        let mut container = json!({"name": name, "image": "i", "resources": asks(cpu)});
        if let Some(policy) = policy {
            container["restartPolicy"] = policy.into();
        }
        container
    };
    let make = |name: &str, main: &str, first: Vec<Value>| {
        let mut pod = pod(name);
        pod["spec"]["containers"] = json!([container("main", main, None)]);
        pod["spec"]["initContainers"] = first.into();
        pod
    };
    let sidecar = || container("side", "400m", Some("Always"));
    let over = |cpu: &str| format!("maximum cpu usage per Pod is 1, but limit is {cpu}");
    let refused = async |pod: Value, cpu: &str| {
        let (_, message) = admin.post(PODS, &pod).await.refused(403);
        assert!(message.contains(&over(cpu)), "{message}");
    };
    admin.post(PODS, &make("a", "600m", vec![sidecar()])).await.expect(201);
    refused(make("b", "700m", vec![sidecar()]), "1100m").await;
    // An init container runs beside the sidecars before it, and not beside those after.
    refused(make("c", "100m", vec![sidecar(), container("first", "700m", None)]), "1100m").await;
    admin.post(PODS, &make("d", "100m", vec![container("first", "700m", None), sidecar()])).await.expect(201);
    // What the pod names for itself stands for its containers.
    let mut whole = make("e", "100m", Vec::new());
    whole["spec"]["resources"] = asks("2");
    refused(whole, "2").await;
}
