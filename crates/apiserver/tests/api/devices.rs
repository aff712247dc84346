//! Devices that pods claim: access to those of others is for namespaces that an administrator chose.

use serde_json::{Value, json};

use crate::kit::Cluster;

const GROUP: &str = "/apis/resource.k8s.io/v1/namespaces";
const REFUSAL: &str =
    "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace";

fn spec(admin: bool) -> Value {
    let plain = json!({"name": "a", "exactly": {"deviceClassName": "gpu"}});
    let mut wanted = json!({"name": "b", "exactly": {"deviceClassName": "gpu"}});
    if admin {
        wanted["exactly"]["adminAccess"] = true.into();
    }
    json!({"devices": {"requests": [plain, wanted]}})
}

#[tokio::test]
async fn admin_access_to_devices_needs_a_labelled_namespace() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let labelled = json!({"metadata": {"name": "trusted", "labels": {"resource.kubernetes.io/admin-access": "true"}}});
    admin.post("/api/v1/namespaces", &labelled).await.expect(201);
    for (resource, object) in [
        ("resourceclaims", json!({"metadata": {"name": "x"}, "spec": spec(true)})),
        ("resourceclaimtemplates", json!({"metadata": {"name": "x"}, "spec": {"spec": spec(true)}})),
    ] {
        let (reason, message) = admin.post(&format!("{GROUP}/default/{resource}"), &object).await.refused(422);
        assert_eq!(reason, "Invalid");
        assert!(message.contains(&format!("spec.devices.requests[1].adminAccess: {REFUSAL}")), "{message}");
        admin.post(&format!("{GROUP}/trusted/{resource}"), &object).await.expect(201);
    }
    let plain = json!({"metadata": {"name": "plain"}, "spec": spec(false)});
    let allocated = |admin: bool| {
        json!({"status": {"allocation": {"devices": {"results": [
            {"request": "a", "driver": "d.example.com", "pool": "p", "device": "d0", "adminAccess": admin}]}}}})
    };
    for (namespace, refused) in [("default", true), ("trusted", false)] {
        admin.post(&format!("{GROUP}/{namespace}/resourceclaims"), &plain).await.expect(201);
        let status = format!("{GROUP}/{namespace}/resourceclaims/plain/status");
        let answer = admin.patch(&status, "merge-patch", allocated(true)).await;
        if refused {
            let message = answer.refused(422).1;
            assert!(message.contains(&format!("status.allocation.devices.results[0].adminAccess: {REFUSAL}")), "{message}");
            admin.patch(&status, "merge-patch", allocated(false)).await.expect(200);
        } else {
            answer.expect(200);
        }
    }
}
