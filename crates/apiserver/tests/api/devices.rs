//! Devices that pods claim: access to those of others is for namespaces that an administrator chose.

use serde_json::{Value, json};

use knarr_apiserver::User;

use crate::{
    kit::{Client, Cluster, text},
    rights::{allow, rule},
};

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

/// A service account whose token is bound to a pod on `node`, if one is named.
fn account(cluster: &Cluster, name: &str, node: Option<&str>) -> Client {
    let extra = node.map(|node| ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]));
    cluster.as_user(User { extra: extra.into_iter().collect(), ..User::service_account("default", name, "u") })
}

#[tokio::test]
async fn each_part_of_a_claims_status_needs_a_right_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let status_rule = || rule("resource.k8s.io", "resourceclaims/status", &["update", "patch"], &[]);
    let part = |name: &str, verbs: &[&str], names: &[&str]| rule("resource.k8s.io", name, verbs, names);
    for (name, own) in [
        ("nobody", None),
        ("binder", Some(part("resourceclaims/binding", &["update"], &[]))),
        ("local", Some(part("resourceclaims/driver", &["associated-node:patch"], &["d.example.com"]))),
        ("central", Some(part("resourceclaims/driver", &["arbitrary-node:patch"], &["d.example.com"]))),
    ] {
        let plain = rule("resource.k8s.io", "resourceclaims", &["get"], &[]);
        let rules: Vec<Value> = [plain, status_rule()].into_iter().chain(own).collect();
        allow(&admin, name, json!({"kind": "ServiceAccount", "namespace": "default", "name": name}), rules.into()).await;
    }
    let claims = format!("{GROUP}/default/resourceclaims");
    let status = format!("{claims}/c/status");
    admin.post(&claims, &json!({"metadata": {"name": "c"}, "spec": spec(false)})).await.expect(201);
    let result = |driver: &str| json!({"request": "a", "driver": driver, "pool": "p", "device": "d0"});
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]});
    let allocation = json!({"devices": {"results": [result("d.example.com"), result("e.example.com")]}, "nodeSelector": selector});
    let mut allocated = admin.get(&format!("{claims}/c")).await.expect(200);
    allocated["status"] = json!({"allocation": allocation});
    let at = |answer: crate::kit::Answer| {
        let refused = answer.expect(422);
        let causes = refused["details"]["causes"].as_array().cloned().unwrap_or_default();
        causes.iter().map(|cause| format!("{} {}", text(&cause["field"]), text(&cause["message"]))).collect::<Vec<_>>().join("\n")
    };
    let needs = "requires resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is forbidden: \
                 User \"system:serviceaccount:default:nobody\" cannot update resource \"resourceclaims/binding\" in API group \
                 \"resource.k8s.io\" at the cluster scope";
    let told = at(account(&cluster, "nobody", None).put(&status, &allocated).await);
    assert!(told.starts_with(&format!("status Forbidden: changing status.allocation or status.reservedFor {needs}")), "{told}");
    // The right to update is none to patch.
    let patch = json!({"status": {"allocation": allocation}});
    let told = at(account(&cluster, "binder", None).patch(&status, "merge-patch", &patch).await);
    assert!(told.contains("verb=\"patch\""), "{told}");
    account(&cluster, "binder", None).put(&status, &allocated).await.expect(200);

    let devices = |driver: &str, ready: &str| {
        let conditions =
            json!([{"type": "Ready", "status": ready, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        json!({"status": {"devices": [{"driver": driver, "pool": "p", "device": "d0", "conditions": conditions}]}})
    };
    let own = |ready: &str| devices("d.example.com", ready);
    for (name, node, verbs) in [
        ("nobody", None, "[arbitrary-node:patch]"),
        ("local", None, "[arbitrary-node:patch]"),
        ("local", Some("n2"), "[arbitrary-node:patch]"),
        ("nobody", Some("n1"), "[associated-node:patch arbitrary-node:patch]"),
    ] {
        let told = at(account(&cluster, name, node).patch(&status, "merge-patch", own("True")).await);
        let expected = format!("changing status.devices requires resource=\"resourceclaims/driver\", verb=\"{verbs}\" permission: ");
        assert!(told.starts_with(&format!("status.devices Forbidden: {expected}")), "{name} {node:?}: {told}");
    }
    account(&cluster, "local", Some("n1")).patch(&status, "merge-patch", own("True")).await.expect(200);
    account(&cluster, "central", None).patch(&status, "merge-patch", own("False")).await.expect(200);
    // To take the word of one driver away and give it to another is to speak for both.
    let told = at(account(&cluster, "central", None).patch(&status, "merge-patch", devices("e.example.com", "True")).await);
    assert!(told.contains("\"e.example.com\"") && !told.contains("\"d.example.com\""), "{told}");
    // Who changes nothing needs no right.
    account(&cluster, "nobody", None).patch(&status, "merge-patch", own("False")).await.expect(200);
}

#[tokio::test]
async fn device_taints_are_dated_when_they_are_made() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let given = "2020-01-01T00:00:00Z";
    let taint = |added: Option<&str>| {
        let mut taint = json!({"key": "example.com/broken", "effect": "NoSchedule"});
        if let Some(added) = added {
            taint["timeAdded"] = added.into();
        }
        taint
    };
    let pool = json!({"name": "p", "resourceSliceCount": 1, "generation": 1});
    let devices = json!([{"name": "d0", "taints": [taint(None), {"key": "b", "effect": "NoExecute", "timeAdded": given}]}]);
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example.com", "pool": pool, "allNodes": true, "devices": devices}});
    let taints = admin.post(slices, &slice).await.expect(201)["spec"]["devices"][0]["taints"].clone();
    assert!(text(&taints[0]["timeAdded"]) > given && taints[1]["timeAdded"] == given, "{taints}");
    let rules = "/apis/resource.k8s.io/v1/devicetaintrules";
    let rule = |name: &str, taint: Value| json!({"metadata": {"name": name}, "spec": {"taint": taint}});
    let made = admin.post(rules, &rule("r", taint(None))).await.expect(201);
    assert!(text(&made["spec"]["taint"]["timeAdded"]) > given, "{made}");
    assert_eq!(admin.post(rules, &rule("q", taint(Some(given)))).await.expect(201)["spec"]["taint"]["timeAdded"], given);
}
