//! Subresources: scale, binding, eviction, tokens.

use serde_json::{Value, json};

use crate::kit::{Cluster, PODS, pod, text};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn anything_with_replicas_scales_alike() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment()).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = admin.get(&path).await.expect(200);
    assert_eq!((text(&scale["kind"]), text(&scale["apiVersion"])), ("Scale", "autoscaling/v1"));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("a=b")));
    let mut wish = scale.clone();
    wish["spec"]["replicas"] = 3.into();
    assert_eq!(admin.put(&path, &wish).await.expect(200)["spec"]["replicas"], 3);
    assert_eq!(admin.put(&path, &wish).await.refused(409).0, "Conflict");
    assert_eq!(admin.patch(&path, "merge-patch", json!({"spec": {"replicas": 5}})).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(admin.patch(&path, "merge-patch", json!({"spec": {"replicas": -1}})).await.refused(422).0, "Invalid");
    wish["metadata"] = json!({"name": "d", "uid": "another"});
    let (reason, message) = admin.put(&path, &wish).await.refused(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("Precondition failed: UID in precondition: another, UID in object meta: "), "{message}");
    let live = admin.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((&live["spec"]["replicas"], &live["metadata"]["generation"]), (&json!(5), &json!(3)));
}

/// Who owns the field of the spec, each as `manager operation subresource`.
fn owners_of(object: &Value, field: &str) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().expect("managers");
    let owners = entries.iter().filter(|entry| entry["fieldsV1"]["f:spec"].get(format!("f:{field}")).is_some());
    let mut named: Vec<String> = owners
        .map(|entry| ["manager", "operation", "apiVersion", "subresource"].map(|key| entry[key].as_str().unwrap_or("")).join(" "))
        .collect();
    named.sort();
    named
}

#[tokio::test]
async fn a_scale_is_applied_and_its_managers_own_the_replicas() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut whole = deployment();
    (whole["apiVersion"], whole["kind"]) = ("apps/v1".into(), "Deployment".into());
    admin.patch(&format!("{DEPLOYMENTS}/d?fieldManager=author"), "apply", &whole).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = |replicas: i32| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": replicas}});
    let (reason, message) = admin.patch(&format!("{path}?fieldManager=scaler"), "apply", scale(4)).await.refused(409);
    assert_eq!(reason, "Conflict");
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"author\": .spec.replicas");
    let applied = admin.patch(&format!("{path}?fieldManager=scaler&force=true"), "apply", scale(4)).await.expect(200);
    assert_eq!((&applied["kind"], &applied["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let live = || async { admin.get(&format!("{DEPLOYMENTS}/d")).await.expect(200) };
    let now = live().await;
    assert_eq!(now["spec"]["replicas"], 4);
    assert_eq!(owners_of(&now, "replicas"), ["scaler Apply apps/v1 scale"]);
    assert_eq!(owners_of(&now, "selector"), ["author Apply apps/v1 "]);
    // What changes nothing leaves no trace.
    let again = admin.patch(&format!("{path}?fieldManager=scaler"), "apply", scale(4)).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
    // The author's next apply conflicts with the scaler until it leaves the replicas out.
    let (_, message) = admin.patch(&format!("{DEPLOYMENTS}/d?fieldManager=author"), "apply", &whole).await.refused(409);
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\": .spec.replicas");
    admin.patch(&format!("{path}?fieldManager=kubectl"), "merge-patch", json!({"spec": {"replicas": 2}})).await.expect(200);
    assert_eq!(owners_of(&live().await, "replicas"), ["kubectl Update apps/v1 scale"]);
    let (_, message) = admin.patch(&format!("{path}?fieldManager=scaler"), "apply", scale(5)).await.refused(409);
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using autoscaling/v1: .spec.replicas"
    );
}

#[tokio::test]
async fn an_apply_of_a_scale_says_what_it_is_and_by_whom() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(DEPLOYMENTS, &deployment()).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 1}});
    let with = |key: &str, value: Value| {
        let mut changed = scale.clone();
        changed[key] = value;
        changed
    };
    let metadata = |key: &str, value: &str| with("metadata", json!({"name": "d", key: value}));
    for (query, body, code, why) in [
        ("", scale.clone(), 422, "fieldManager: Required value: is required for apply patch"),
        ("?fieldManager=m", with("kind", "Deployment".into()), 400, "Deployment in version \"v1\" cannot be handled as a Scale"),
        ("?fieldManager=m&fieldValidation=Strict", with("nothing", 1.into()), 400, "unknown field \"nothing\""),
        ("?fieldManager=m", metadata("resourceVersion", "1"), 409, "the object has been modified"),
        ("?fieldManager=m", metadata("uid", "other"), 409, "Precondition failed: UID in precondition: other"),
        ("?fieldManager=m", with("metadata", json!({"name": "e"})), 400, "does not match the name on the URL"),
        ("?fieldManager=m&force=true", with("spec", json!({"replicas": -1})), 422, "must be greater than or equal to 0"),
    ] {
        let (_, message) = admin.patch(&format!("{path}{query}"), "apply", &body).await.refused(code);
        assert!(message.contains(why), "{body}: {message}");
    }
    let none = format!("{DEPLOYMENTS}/none/scale?fieldManager=m");
    assert_eq!(admin.patch(&none, "apply", &scale).await.refused(404).0, "NotFound");
    let (_, message) = admin.patch(&format!("{path}?force=true"), "merge-patch", json!({})).await.refused(422);
    assert!(message.contains("force: Forbidden"), "{message}");
    // Acts are made, not patched.
    admin.post(PODS, &pod("p")).await.expect(201);
    for act in ["binding", "eviction"] {
        let answer = admin.patch(&format!("{PODS}/p/{act}?fieldManager=m"), "apply", json!({})).await;
        assert_eq!(answer.refused(405).0, "MethodNotAllowed");
    }
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let binding =
        |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let path = format!("{PODS}/p/binding");
    assert_eq!(admin.post(&path, &binding("n1")).await.expect(201)["status"], "Success");
    let bound = admin.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (reason, message) = admin.post(&path, &binding("n2")).await.refused(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("already assigned to node \"n1\""), "{message}");
}

#[tokio::test]
async fn a_binding_is_created_by_itself() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    const BINDINGS: &str = "/api/v1/namespaces/default/bindings";
    admin.post(PODS, &pod("p")).await.expect(201);
    let binding = |name: &str, node: &str| json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    assert_eq!(admin.post(&format!("{BINDINGS}?dryRun=All"), &binding("p", "n1")).await.expect(201)["status"], "Success");
    assert_eq!(admin.get(&format!("{PODS}/p")).await.expect(200)["spec"].get("nodeName"), None);
    let answer = admin.post(BINDINGS, &binding("p", "n1")).await.expect(201);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(admin.get(&format!("{PODS}/p")).await.expect(200)["spec"]["nodeName"], "n1");
    let (_, message) = admin.post(BINDINGS, &binding("p", "n2")).await.refused(409);
    assert!(message.contains("pod p is already assigned to node \"n1\""), "{message}");
    assert_eq!(admin.post(BINDINGS, &binding("none", "n1")).await.refused(404).1, "pods \"none\" not found");
    assert_eq!(admin.post(BINDINGS, &binding("p", "")).await.refused(422).0, "Invalid");
}

#[tokio::test]
async fn writers_of_a_status_annotate_as_far_as_the_kind_lets_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let namespaced = |group: &str, resource: &str| format!("/apis/{group}/namespaces/default/{resource}");
    let template = deployment()["spec"]["template"].clone();
    let mut job = json!({"template": template});
    job["template"]["spec"]["restartPolicy"] = "Never".into();
    let service = json!({"ports": [{"port": 80}], "selector": {"a": "b"}});
    let backend = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
    let cron = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}});
    let budget = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}});
    let attachment = json!({"attacher": "a.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}});
    let flow = json!({"priorityLevelConfiguration": {"name": "exempt"}});
    let api = json!({"group": "x.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "insecureSkipTLSVerify": true, "service": {"name": "s", "namespace": "default"}});
    // The annotation, and the label, where they are kept.
    for (path, name, spec, kept) in [
        ("/api/v1/namespaces/default/services".to_owned(), "s", service, (true, true)),
        (namespaced("networking.k8s.io/v1", "ingresses"), "i", backend, (true, true)),
        (namespaced("batch/v1", "jobs"), "j", job, (true, true)),
        (namespaced("batch/v1", "cronjobs"), "c", cron, (true, true)),
        (namespaced("policy/v1", "poddisruptionbudgets"), "b", budget, (true, true)),
        ("/api/v1/namespaces/default/resourcequotas".to_owned(), "q", json!({"hard": {"pods": "9"}}), (true, true)),
        ("/api/v1/namespaces".to_owned(), "team", json!({}), (true, true)),
        (namespaced("apps/v1", "replicasets"), "r", deployment()["spec"].clone(), (true, true)),
        (DEPLOYMENTS.to_owned(), "d", deployment()["spec"].clone(), (true, false)),
        ("/apis/storage.k8s.io/v1/volumeattachments".to_owned(), "a", attachment, (false, false)),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas".to_owned(), "f", flow, (false, false)),
        ("/apis/apiregistration.k8s.io/v1/apiservices".to_owned(), "v1.x.example.com", api, (false, false)),
    ] {
        let made = admin.post(&path, &json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}, "labels": {"by": "status"}}});
        let query = "fieldManager=writer";
        let patched = admin.patch(&format!("{path}/{name}/status?{query}"), "merge-patch", patch).await.expect(200);
        let found = |at: &str| patched.pointer(at).is_some();
        assert_eq!((found("/metadata/annotations/patchedstatus"), found("/metadata/labels/by")), kept, "{patched}");
        assert_eq!(patched["metadata"].get("generation"), made["metadata"].get("generation"), "{path}");
        let entries = patched["metadata"]["managedFields"].as_array().expect("managers");
        let written = entries.iter().find(|entry| entry["manager"] == "writer").map(|entry| &entry["fieldsV1"]["f:metadata"]);
        let owned = |key: &str| written.is_some_and(|fields| fields.get(key).is_some());
        assert_eq!((owned("f:annotations"), owned("f:labels")), kept, "{entries:?}");
    }
}

#[tokio::test]
async fn an_approval_and_a_finalization_annotate_as_well() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    let path = "/api/v1/namespaces/team/finalize";
    let mut namespace = admin.get("/api/v1/namespaces/team").await.expect(200);
    namespace["metadata"]["annotations"] = json!({"a": "b"});
    namespace["spec"]["finalizers"] = json!([]);
    let written = admin.put(path, &namespace).await.expect(200);
    assert_eq!((&written["metadata"]["annotations"]["a"], written["spec"].get("finalizers")), (&json!("b"), None), "{written}");
    // A part of a pod is no way to its annotations.
    admin.post(PODS, &pod("p")).await.expect(201);
    let patch = json!({"metadata": {"annotations": {"a": "b"}}});
    for part in ["ephemeralcontainers", "resize"] {
        let written = admin.patch(&format!("{PODS}/p/{part}"), "merge-patch", &patch).await.expect(200);
        assert_eq!(written["metadata"].get("annotations"), None, "{part}");
    }
}

#[tokio::test]
async fn a_deployments_annotations_and_a_slices_labels_count_as_generations() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    admin.post(DEPLOYMENTS, &deployment()).await.expect(201);
    admin.post(SLICES, &json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": []})).await.expect(201);
    let mark = |key: &str, value: Value| json!({"metadata": {key: {"a": value}}});
    for (path, key, value, generation) in [
        (format!("{DEPLOYMENTS}/d"), "annotations", json!("b"), 2),
        (format!("{DEPLOYMENTS}/d"), "annotations", json!("b"), 2),
        (format!("{DEPLOYMENTS}/d"), "labels", json!("b"), 2),
        (format!("{DEPLOYMENTS}/d/status"), "annotations", json!("c"), 2),
        (format!("{DEPLOYMENTS}/d"), "annotations", Value::Null, 3),
        (format!("{SLICES}/e"), "annotations", json!("b"), 1),
        (format!("{SLICES}/e"), "labels", json!("b"), 2),
    ] {
        let written = admin.patch(&path, "merge-patch", mark(key, value)).await.expect(200);
        assert_eq!(written["metadata"]["generation"], generation, "{path} {key}");
    }
}

#[tokio::test]
async fn a_pod_is_told_the_zone_and_region_of_its_node() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let [zone, region] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];
    admin.post("/api/v1/nodes", &json!({"metadata": {"name": "n", "labels": {zone: "z", region: "r", "other": "o"}}})).await.expect(201);
    admin.post("/api/v1/nodes", &json!({"metadata": {"name": "bare"}})).await.expect(201);
    let labels = async |name: &str| admin.get(&format!("{PODS}/{name}")).await.expect(200)["metadata"]["labels"].clone();
    let make = async |name: &str, node: &str, labels: Value| {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = labels;
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        admin.post(PODS, &pod).await.expect(201);
    };
    let bind = async |name: &str, node: &str| {
        let binding = json!({"metadata": {"name": name, "labels": {"by": "binding"}}, "target": {"kind": "Node", "name": node}});
        admin.post(&format!("{PODS}/{name}/binding"), &binding).await.expect(201);
    };
    make("bound", "", json!({"a": "b", zone: "elsewhere"})).await;
    assert_eq!(labels("bound").await, json!({"a": "b", zone: "elsewhere"}));
    bind("bound", "n").await;
    assert_eq!(labels("bound").await, json!({"a": "b", "by": "binding", zone: "z", region: "r"}));
    make("placed", "n", json!({zone: "elsewhere"})).await;
    assert_eq!(labels("placed").await, json!({zone: "z", region: "r"}));
    for (name, node) in [("homeless", "bare"), ("early", "none")] {
        make(name, "", Value::Null).await;
        bind(name, node).await;
        assert_eq!(labels(name).await, json!({"by": "binding"}));
    }
}

#[tokio::test]
async fn an_eviction_deletes() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    admin.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(201);
    admin.get(&format!("{PODS}/p")).await.refused(404);
}

#[tokio::test]
async fn the_kubelet_writes_a_pods_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(PODS, &pod("p")).await.expect(201);
    let status =
        json!({"status": {"phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}, "metadata": {"labels": {"x": "y"}}});
    let written = admin.patch(&format!("{PODS}/p/status"), "strategic-merge-patch", status).await.expect(200);
    assert_eq!((&written["status"]["phase"], &written["status"]["podIP"]), (&json!("Running"), &json!("10.42.0.5")));
}

#[tokio::test]
async fn a_token_opens_the_door_that_its_account_may_open() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let token = admin.post(path, &request).await.expect(201);
    let token = text(&token["status"]["token"]);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:default");
}

#[tokio::test]
async fn a_namespace_that_ends_takes_no_acts_either() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "ends"}})).await.expect(201);
    let within = |rest: &str| format!("/api/v1/namespaces/ends/{rest}");
    admin.post(&within("serviceaccounts"), &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let mut pod = pod("p");
    pod["spec"]["serviceAccountName"] = "robot".into();
    admin.post(&within("pods"), &pod).await.expect(201);
    admin.delete("/api/v1/namespaces/ends").await.expect(200);
    for (path, body) in [
        ("serviceaccounts/robot/token", json!({"spec": {"audiences": []}})),
        ("pods/p/binding", json!({"target": {"kind": "Node", "name": "n"}})),
        ("pods/p/eviction", json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}})),
    ] {
        let refused = admin.post(&within(path), &body).await.expect(403);
        assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating", "{path}: {refused}");
    }
    // What is there may still be written, so that it can end.
    let status = json!({"status": {"phase": "Failed"}});
    admin.patch(&within("pods/p/status"), "merge-patch", status).await.expect(200);
}

#[tokio::test]
async fn what_has_ended_for_good_does_not_run_again_by_its_status() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let ended = |code: i32| json!({"terminated": {"exitCode": code, "startedAt": null, "finishedAt": null}});
    let status = |state: Value| json!({"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state});
    let forbidden = "Forbidden: may not be transitioned to non-terminated state";
    let always = json!({"restartPolicy": "Always"});
    let on_seven =
        json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [7]}}]});
    // The policy of the pod, what else its container says, where its status is told, its exit code, whether it may run again.
    for (index, (policy, more, key, code, again)) in [
        ("Always", json!({}), "containerStatuses", 0, true),
        ("OnFailure", json!({}), "containerStatuses", 0, false),
        ("OnFailure", json!({}), "containerStatuses", 1, true),
        ("Never", json!({}), "containerStatuses", 1, false),
        ("Never", on_seven.clone(), "containerStatuses", 7, true),
        ("Never", on_seven, "containerStatuses", 1, false),
        ("Never", json!({}), "initContainerStatuses", 1, false),
        ("Never", always, "initContainerStatuses", 1, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut made = pod(&format!("p{index}"));
        made["spec"]["restartPolicy"] = policy.into();
        let mut container = json!({"name": "c", "image": "i"});
        container.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        match key {
            "initContainerStatuses" => {
                made["spec"]["initContainers"] = json!([container]);
                made["spec"]["containers"][0]["name"] = "main".into();
            }
            _ => made["spec"]["containers"] = json!([container]),
        }
        admin.post(PODS, &made).await.expect(201);
        let path = format!("{PODS}/p{index}/status");
        admin.patch(&path, "merge-patch", json!({"status": {key: [status(ended(code))]}})).await.expect(200);
        let answer = admin.patch(&path, "merge-patch", json!({"status": {key: [status(json!({"waiting": {}}))]}})).await;
        if again {
            answer.expect(200);
        } else {
            let (_, message) = answer.refused(422);
            assert!(message.contains(&format!("status.{key}[0].state: {forbidden}")), "{index}: {message}");
        }
    }
}

#[tokio::test]
async fn a_status_keeps_to_what_the_pod_is() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut made = pod("p");
    made["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
    admin.post(PODS, &made).await.expect(201);
    let path = format!("{PODS}/p/status");
    let claim = |name: &str| json!({"name": name, "resourceClaimName": "p-gpu-1"});
    for (status, fault) in [
        (json!({"qosClass": "Guaranteed"}), "status.qosClass: Invalid value: \"Guaranteed\": field is immutable"),
        (json!({"nominatedNodeName": "A_B"}), "status.nominatedNodeName: Invalid value: \"A_B\""),
        (json!({"conditions": [{"type": "a b", "status": "True"}]}), "status.conditions[0].type: Invalid value: \"a b\""),
        (
            json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            "may specify no more than one IP for each IP family",
        ),
        (
            json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}),
            "status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`",
        ),
        (json!({"resourceClaimStatuses": [claim("cpu")]}), "must match the name of an entry in `spec.resourceClaims`"),
    ] {
        let (_, message) = admin.patch(&path, "merge-patch", json!({"status": status})).await.refused(422);
        assert!(message.contains(fault), "{message}");
    }
    let (_, message) =
        admin.patch(&path, "merge-patch", json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}})).await.refused(422);
    assert!(message.contains("may not add mirror pod annotation"), "{message}");
    let addresses = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    let well = json!({"podIP": "10.0.0.1", "podIPs": addresses, "nominatedNodeName": "n", "resourceClaimStatuses": [claim("gpu")],
        "observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]});
    admin.patch(&path, "merge-patch", json!({"status": well})).await.expect(200);
    // What was seen stays seen.
    let mut whole = admin.get(&format!("{PODS}/p")).await.expect(200);
    whole["status"].as_object_mut().expect("a status").remove("observedGeneration");
    whole["status"]["qosClass"] = "".into();
    whole["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    let kept = admin.put(&path, &whole).await.expect(200)["status"].clone();
    assert_eq!((&kept["observedGeneration"], &kept["qosClass"]), (&json!(1), &json!("BestEffort")));
    assert_eq!((&kept["conditions"][0]["status"], &kept["conditions"][0]["observedGeneration"]), (&json!("False"), &json!(1)));
}

#[tokio::test]
async fn a_pod_is_resized_as_a_whole_and_part_by_part() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mut made = pod("p");
    made["spec"]["resources"] = json!({"requests": {"cpu": "1"}});
    made["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    admin.post(PODS, &made).await.expect(201);
    let path = format!("{PODS}/p/resize");
    let whole = |requests: Value| json!({"spec": {"resources": {"requests": requests}}});
    let grown = admin.patch(&path, "strategic-merge-patch", whole(json!({"cpu": "2"}))).await.expect(200);
    assert_eq!((&grown["spec"]["resources"]["requests"]["cpu"], &grown["metadata"]["generation"]), (&json!("2"), &json!(2)));
    admin.patch(&path, "strategic-merge-patch", whole(json!({"cpu": "1", "memory": "64Mi"}))).await.expect(200);
    for (requests, why) in [
        (json!({"memory": null}), "spec.resources.requests: Forbidden: resource requests cannot be removed"),
        (json!({"hugepages-2Mi": "4Mi"}), "spec: Forbidden: only cpu and memory of pod-level resources are mutable"),
    ] {
        let (_, message) = admin.patch(&path, "strategic-merge-patch", whole(requests)).await.refused(422);
        assert!(message.contains(why), "{message}");
    }
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "200m"}}}]}});
    let resized = admin.patch(&path, "strategic-merge-patch", patch).await.expect(200);
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m");
    assert_eq!(resized["spec"]["resources"]["requests"]["cpu"], "1");
}
