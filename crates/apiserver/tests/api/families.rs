//! The families of Services' addresses, and what a Service loses with its type.

use serde_json::{Value, json};

use crate::kit::Cluster;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: &Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

#[tokio::test]
async fn a_cluster_of_one_family_gives_no_two() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let both = json!(["IPv4", "IPv6"]);
    for (spec, why) in [
        (
            json!({"ipFamilies": both}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            json!({"ipFamilies": both, "ipFamilyPolicy": "PreferDualStack"}),
            "spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (json!({"clusterIP": "fd00::1"}), "IPv6 is not configured on this cluster"),
    ] {
        let (_, message) = admin.post(SERVICES, &service("s", &spec)).await.refused(422);
        assert!(message.contains(why), "{spec}: {message}");
    }
    for (name, spec, policy) in
        [("one", json!({}), "SingleStack"), ("rather", json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack")]
    {
        let made = admin.post(SERVICES, &service(name, &spec)).await.expect(201);
        assert_eq!((&made["spec"]["ipFamilyPolicy"], &made["spec"]["ipFamilies"]), (&json!(policy), &json!(["IPv4"])));
    }
}

#[tokio::test]
async fn whoever_writes_the_endpoints_of_a_headless_service_may_know_both_families() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let by_hand = service("s", &json!({"selector": null, "clusterIP": "None"}));
    let made = admin.post(SERVICES, &by_hand).await.expect(201);
    assert_eq!(
        (&made["spec"]["ipFamilyPolicy"], &made["spec"]["ipFamilies"], &made["spec"]["clusterIPs"]),
        (&json!("RequireDualStack"), &json!(["IPv4", "IPv6"]), &json!(["None"]))
    );
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let again = admin.patch(&format!("{SERVICES}/s"), "merge-patch", label).await.expect(200);
    assert_eq!(again["spec"], made["spec"]);
    // With a selector the endpoints are the cluster's pods, who have one.
    let (_, message) = admin.patch(&format!("{SERVICES}/s"), "merge-patch", json!({"spec": {"selector": {"a": "b"}}})).await.refused(422);
    assert!(message.contains("this cluster is not configured for dual-stack services"), "{message}");
    let single = json!({"spec": {"selector": {"a": "b"}, "ipFamilyPolicy": "SingleStack"}});
    let single = admin.patch(&format!("{SERVICES}/s"), "merge-patch", single).await.expect(200);
    assert_eq!(single["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn a_service_that_is_no_load_balancer_any_more_has_no_address_of_one() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(SERVICES, &service("s", &json!({"type": "LoadBalancer"}))).await.expect(201);
    let (path, status) = (format!("{SERVICES}/s"), format!("{SERVICES}/s/status"));
    let balanced = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    admin.patch(&status, "merge-patch", balanced).await.expect(200);
    let plain = admin.patch(&path, "merge-patch", json!({"spec": {"type": "ClusterIP"}})).await.expect(200);
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    let condition =
        json!({"type": "Checked", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    admin.patch(&status, "merge-patch", json!({"status": {"conditions": [condition]}})).await.expect(200);
}
