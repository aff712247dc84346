//! Groups whose objects the server itself has a part in: autoscalers in two versions, jobs, signing requests.

use base64::{Engine, engine::general_purpose::STANDARD};
use knarr_apiserver::User;
use serde_json::{Value, json};

use crate::kit::{Client, Cluster, text};

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let [v1, v2] = ["v1", "v2"].map(|version| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers"));
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let old =
        json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 5, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 70}});
    assert_eq!(admin.post(&v1, &old).await.expect(201)["spec"]["targetCPUUtilizationPercentage"], 70);
    let path = format!("{v2}/a");
    let mut new = admin.get(&path).await.expect(200);
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}});
    assert_eq!((text(&new["apiVersion"]), &new["spec"]["metrics"]), ("autoscaling/v2", &json!([cpu])));
    new["spec"]["behavior"] = json!({"scaleDown": {"selectPolicy": "Disabled"}});
    new["spec"]["metrics"] = json!([
        {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "10"}}},
        cpu,
    ]);
    admin.put(&path, &new).await.expect(200);
    let seen = admin.get(&format!("{v1}/a")).await.expect(200);
    assert_eq!((text(&seen["apiVersion"]), &seen["spec"]["targetCPUUtilizationPercentage"]), ("autoscaling/v1", &json!(70)));
    let annotations = &seen["metadata"]["annotations"];
    let metrics: Value = serde_json::from_str(text(&annotations["autoscaling.alpha.kubernetes.io/metrics"])).unwrap();
    assert_eq!(metrics, json!([{"type": "Pods", "pods": {"metricName": "rps", "targetAverageValue": "10"}}]));
    assert!(text(&annotations["autoscaling.alpha.kubernetes.io/behavior"]).contains("Disabled"));
    // What the old version has no field for survives a write through it.
    let mut again = seen.clone();
    again["spec"]["maxReplicas"] = 9.into();
    admin.put(&format!("{v1}/a"), &again).await.expect(200);
    let new = admin.get(&path).await.expect(200);
    assert_eq!((&new["spec"]["maxReplicas"], text(&new["spec"]["behavior"]["scaleDown"]["selectPolicy"])), (&json!(9), "Disabled"));
    assert_eq!(new["spec"]["metrics"].as_array().unwrap().len(), 2);
    let (reason, message) =
        admin.post(&v1, &json!({"metadata": {"name": "b"}, "spec": {"maxReplicas": 0, "scaleTargetRef": target}})).await.refused(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("spec.maxReplicas: Invalid value: 0: must be greater than 0"), "{message}");
    let bare = json!({"metadata": {"name": "z"}, "spec": {"maxReplicas": 2, "scaleTargetRef": target}});
    assert_eq!(admin.post(&v1, &bare).await.expect(201)["spec"]["targetCPUUtilizationPercentage"], 80);
    let mut events = admin.watch(&format!("{v1}?watch=1")).await;
    assert_eq!(events.next().await.unwrap()["object"]["apiVersion"], "autoscaling/v1");
    let table = admin.get_as(&v2, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(cells(&table)[1..5], [json!("Deployment/web"), json!("cpu: <unknown>/70%, <unknown>/10"), json!("1"), json!(9)]);
}

/// Conditions and measurements are annotations in v1, and a part of the status all the same.
#[tokio::test]
async fn an_autoscalers_annotations_change_what_their_writer_may_write() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let [v1, v2] = ["v1", "v2"].map(|version| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers"));
    let forged = |reason: &str| json!([{"type": "AbleToScale", "status": "True", "reason": reason}]).to_string();
    let conditions = "autoscaling.alpha.kubernetes.io/conditions";
    let scaler = json!({
        "metadata": {"name": "a", "annotations": {conditions: forged("Made"), "x": "y"}},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}}});
    admin.post(&v1, &scaler).await.expect(201);
    let reason = async || admin.get(&format!("{v2}/a")).await.expect(200)["status"]["conditions"][0]["reason"].clone();
    assert_eq!(reason().await, Value::Null);
    let patch = |reason: &str| json!({"metadata": {"annotations": {conditions: forged(reason)}}});
    admin.patch(&format!("{v1}/a/status"), "merge-patch", patch("Told")).await.expect(200);
    assert_eq!(reason().await, "Told");
    admin.patch(&format!("{v1}/a"), "merge-patch", patch("Forged")).await.expect(200);
    assert_eq!(reason().await, "Told");
    // Nor by way of the version that has fields for them.
    admin.patch(&format!("{v2}/a"), "merge-patch", patch("Smuggled")).await.expect(200);
    assert_eq!(admin.get(&format!("{v2}/a")).await.expect(200)["metadata"]["annotations"], json!({"x": "y"}));
    admin.patch(&format!("{v1}/a"), "merge-patch", json!({"spec": {"maxReplicas": 4}})).await.expect(200);
    assert_eq!(reason().await, "Told");
    // Who leaves the annotations away takes no status away, and no spec with the status.
    let behavior = json!({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}});
    admin.patch(&format!("{v2}/a"), "merge-patch", behavior).await.expect(200);
    for part in ["", "/status"] {
        let mut bare = admin.get(&format!("{v1}/a")).await.expect(200);
        let kept: Vec<&str> = if part.is_empty() { vec!["autoscaling.alpha.kubernetes.io/behavior"] } else { vec![conditions] };
        bare["metadata"]["annotations"].as_object_mut().unwrap().retain(|key, _| kept.contains(&key.as_str()));
        admin.put(&format!("{v1}/a{part}"), &bare).await.expect(200);
        assert_eq!(reason().await, "Told", "{part}");
        let spec = admin.get(&format!("{v2}/a")).await.expect(200)["spec"].clone();
        assert_eq!(spec["behavior"]["scaleDown"]["selectPolicy"], "Disabled", "{part}");
    }
}

#[tokio::test]
async fn a_job_selects_its_pods_by_its_uid() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let pod = json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let made = admin.post(jobs, &json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": pod}}})).await.expect(201);
    let uid = text(&made["metadata"]["uid"]);
    assert_eq!(text(&made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"]), uid);
    assert_eq!(text(&made["spec"]["template"]["metadata"]["labels"]["job-name"]), "a");
    let (reason, message) = admin.patch(&format!("{jobs}/a"), "merge-patch", json!({"spec": {"completions": 7}})).await.refused(422);
    assert_eq!((reason.as_str(), message.contains("field is immutable")), ("Invalid", true), "{message}");
    let table = admin.get_as(jobs, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(cells(&table)[1..3], [json!("Running"), json!("0/1")]);
}

/// Of the first row.
fn cells(table: &Value) -> &[Value] {
    table["rows"][0]["cells"].as_array().map_or(&[], Vec::as_slice)
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A request for a client certificate of these organizations.
pub(crate) fn request(name: &str, organization: &str) -> Value {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem), "usages": ["client auth"],
        "signerName": "kubernetes.io/kube-apiserver-client", "username": "somebody-else", "groups": ["system:masters"]}})
}

/// Lets `user` do all with signing requests; answers once the server knows.
async fn allow_requests(admin: &Client, user: &str, client: &Client) {
    let rule = |resource: &str| json!({"apiGroups": ["certificates.k8s.io"], "resources": [resource], "verbs": ["*"]});
    let resources = ["certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"];
    let role = json!({"metadata": {"name": "requests"}, "rules": resources.map(rule)});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.expect(201);
    let binding = json!({"metadata": {"name": "requests"}, "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "requests"}});
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.expect(201);
    let allowed = async {
        while client.get(REQUESTS).await.code == 403 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), allowed).await.expect("the binding is in force");
}

#[tokio::test]
async fn signing_requests_tell_who_asks_and_need_rights_on_the_signer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let alice = cluster.as_user(User::authenticated("alice", ["devs"]));
    allow_requests(&admin, "alice", &alice).await;
    let made = alice.post(REQUESTS, &request("a", "devs")).await.expect(201);
    assert_eq!((text(&made["spec"]["username"]), &made["spec"]["groups"]), ("alice", &json!(["devs", "system:authenticated"])));
    let (_, message) = alice.post(REQUESTS, &request("b", "system:masters")).await.refused(403);
    assert!(message.contains("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"), "{message}");

    // The signature of another request's key.
    let der = |body: &Value| STANDARD.decode(text(&body["spec"]["request"])).unwrap();
    let mut forged = request("c", "devs");
    let stolen = String::from_utf8(der(&forged)).unwrap();
    let swapped = stolen.replacen('A', "B", 8);
    forged["spec"]["request"] = STANDARD.encode(swapped).into();
    let (_, message) = alice.post(REQUESTS, &forged).await.refused(422);
    assert!(message.contains("spec.request: Invalid value"), "{message}");

    let mut approved = made.clone();
    approved["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Test"}]);
    let (_, message) = alice.put(&format!("{REQUESTS}/a/approval"), &approved).await.refused(403);
    assert!(
        message.contains("user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\""),
        "{message}"
    );
    let (_, message) = admin.put(&format!("{REQUESTS}/a/status"), &approved).await.refused(422);
    assert!(message.contains("updates may not add a condition of type \"Approved\""), "{message}");
    approved["spec"]["username"] = "mallory".into();
    let mut decided = admin.put(&format!("{REQUESTS}/a/approval"), &approved).await.expect(200);
    assert_eq!((text(&decided["spec"]["username"]), text(&decided["status"]["conditions"][0]["type"])), ("alice", "Approved"));

    let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    decided["status"]["certificate"] = STANDARD.encode(pem).into();
    let (_, message) = alice.put(&format!("{REQUESTS}/a/status"), &decided).await.refused(403);
    assert!(message.contains("user not permitted to sign requests"), "{message}");
    admin.put(&format!("{REQUESTS}/a/status"), &decided).await.expect(200);
    let table = admin.get_as(REQUESTS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][5], "Approved,Issued");
}

#[tokio::test]
async fn every_listed_resource_can_be_listed_in_every_form() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for kind in knarr_api::Kinds::builtin().iter().filter(|kind| kind.verbs.contains(knarr_api::Verb::List)) {
        let prefix = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let path = format!("{prefix}/{}/{}", kind.version, kind.resource);
        let list = admin.get(&path).await.expect(200);
        assert_eq!((text(&list["kind"]), text(&list["apiVersion"])), (&*kind.list_kind, kind.api_version().as_str()));
        let protobuf = admin.get_as(&path, "application/vnd.kubernetes.protobuf").await;
        let same = knarr_api::decode::value_from_protobuf(&protobuf.bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
        let count = |list: &Value| list["items"].as_array().map_or(0, Vec::len);
        assert_eq!((&same["kind"], count(&same)), (&list["kind"], count(&list)), "{path}");
        // What is measured has no columns.
        if kind.virtual_ {
            continue;
        }
        let table = admin.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
        assert_eq!(table["rows"].as_array().map_or(0, Vec::len), count(&list), "{path}");
    }
}
