//! Pod Security over the real server, and the configuration of admission.

use std::{fs, path::PathBuf};

use knarr_apiserver::{AuditSettings, LogSettings, User};
use knarr_store::Options;
use serde_json::{Value, json};

use crate::{
    kit::{Client, Cluster, pod},
    rights::{allow, rule, user},
};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// A cluster whose admission is configured so.
async fn configured(plug_ins: Value) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admission.yaml");
    fs::write(&file, configuration(plug_ins).to_string()).unwrap();
    Cluster::start_as(dir, Options::default(), |config| config.admission = Some(file)).await
}

fn configuration(plug_ins: Value) -> Value {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plug_ins})
}

async fn namespace(admin: &Client, name: &str, labels: Value) {
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}})).await.expect(201);
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    admin.post(&accounts, &json!({"metadata": {"name": "default"}})).await.expect(201);
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn host_pod(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["hostNetwork"] = true.into();
    pod
}

#[tokio::test]
async fn a_namespace_names_level_and_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (key, value, detail) in [
        ("enforce", "strict", "must be one of privileged, baseline, restricted"),
        ("warn-version", "1.30", "must be \"latest\" or \"v1.x\""),
        ("audit-version", "v1.030", "must be \"latest\" or \"v1.x\""),
    ] {
        let key = format!("pod-security.kubernetes.io/{key}");
        let (reason, message) =
            admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "x", "labels": {key.as_str(): value}}})).await.refused(422);
        let why = format!("metadata.labels[{key}]: Invalid value: {value:?}: {detail}");
        assert_eq!((reason.as_str(), message.contains(&why)), ("Invalid", true), "{message}");
    }
    let labels = json!({ENFORCE: "baseline", "pod-security.kubernetes.io/enforce-version": "v1.26"});
    namespace(&admin, "old", labels).await;
    namespace(&admin, "new", json!({ENFORCE: "baseline"})).await;
    let mut quiet = pod("p");
    quiet["spec"]["securityContext"] = json!({"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports", "value": "8080"}]});
    let (_, message) = admin.post(&pods("old"), &quiet).await.refused(403);
    let why = "violates PodSecurity \"baseline:v1.26\": forbidden sysctls (net.ipv4.ip_local_reserved_ports)";
    assert!(message.ends_with(why), "{message}");
    admin.post(&pods("new"), &quiet).await.expect(201);
}

#[tokio::test]
async fn a_namespace_that_is_tightened_tells_of_its_pods() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    namespace(&admin, "a", json!({"pod-security.kubernetes.io/warn": "privileged"})).await;
    for name in ["b", "c"] {
        admin.post(&pods("a"), &host_pod(name)).await.expect(201);
    }
    let mut privileged = pod("d");
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    admin.post(&pods("a"), &privileged).await.expect(201);
    let enforce = |level: &str| json!({"metadata": {"labels": {ENFORCE: level}}});
    let told = async |level: &str| {
        let answer = admin.patch("/api/v1/namespaces/a", "merge-patch", enforce(level)).await;
        assert_eq!(answer.code, 200);
        answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        told("baseline").await,
        [
            r#"299 - "existing pods in namespace \"a\" violate the new PodSecurity enforce level \"baseline:latest\"""#,
            r#"299 - "b (and 1 other pod): host namespaces""#,
            r#"299 - "d: privileged""#,
        ]
    );
    assert_eq!(told("baseline").await, [""; 0], "nothing changed");
    assert_eq!(told("privileged").await, [""; 0]);
    // Who is there already may change what is no matter of the standards.
    told("baseline").await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    admin.patch(&format!("{}/b", pods("a")), "merge-patch", label).await.expect(200);
    let image = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "j"}]);
    admin.patch(&format!("{}/b", pods("a")), "json-patch", image).await.refused(403);
}

#[tokio::test]
async fn the_audit_log_tells_what_a_standard_would_have_refused_and_who_is_exempt() {
    let dir = tempfile::tempdir().unwrap();
    let (log, file) = (dir.path().join("audit.log"), dir.path().join("admission.yaml"));
    let security = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline", "enforce-version": "latest", "audit": "restricted", "warn": "privileged"},
        "exemptions": {"usernames": ["robot"], "runtimeClasses": ["vm"], "namespaces": ["free"]}});
    fs::write(dir.path().join("security.yaml"), security.to_string()).unwrap();
    fs::write(&file, configuration(json!([{"name": "PodSecurity", "path": "security.yaml"}])).to_string()).unwrap();
    let settings =
        AuditSettings { log: Some(LogSettings { path: log.clone(), ..LogSettings::in_data_dir(dir.path()) }), ..AuditSettings::default() };
    let cluster = Cluster::start_as(dir, Options::default(), |config| {
        config.audit = settings;
        config.admission = Some(file);
    })
    .await;
    let admin = cluster.admin();
    namespace(&admin, "free", json!({})).await;
    namespace(&admin, "bound", json!({})).await;
    let class = json!({"metadata": {"name": "vm"}, "handler": "vm"});
    admin.post("/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect(201);
    allow(&admin, "robot", user("robot"), json!([rule("", "pods", &["create"], &[])])).await;
    let robot = cluster.as_user(User::authenticated("robot", [""; 0]));
    let (_, message) = admin.post(&pods("bound"), &host_pod("refused")).await.refused(403);
    assert!(message.ends_with("violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)"), "{message}");
    let plain = admin.post(&pods("bound"), &pod("plain")).await;
    assert_eq!((plain.code.as_u16(), plain.header("warning")), (201, ""));
    admin.post(&pods("free"), &host_pod("free")).await.expect(201);
    robot.post(&pods("bound"), &host_pod("robot")).await.expect(201);
    let mut in_vm = host_pod("vm");
    in_vm["spec"]["runtimeClassName"] = "vm".into();
    admin.post(&pods("bound"), &in_vm).await.expect(201);
    let _dir = cluster.stop().await;
    let noted = |pod: &str, key: &str| {
        let text = fs::read_to_string(&log).unwrap();
        let mut events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let event = events.find(|event| event["objectRef"]["resource"] == "pods" && event["objectRef"]["name"] == pod);
        let event = event.unwrap_or_else(|| panic!("{pod} in {text}"));
        event["annotations"][format!("pod-security.kubernetes.io/{key}")].clone()
    };
    assert_eq!(noted("plain", "enforce-policy"), "baseline:latest");
    let violations = noted("plain", "audit-violations");
    assert!(violations.as_str().unwrap().starts_with("would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"));
    assert_eq!(
        (noted("free", "exempt"), noted("robot", "exempt"), noted("vm", "exempt")),
        ("namespace".into(), "user".into(), "runtimeClass".into())
    );
    assert!(noted("refused", "audit-violations").as_str().unwrap().contains("host namespaces"));
}

#[tokio::test]
async fn a_pod_with_extended_resources_tolerates_their_taints_where_that_is_switched_on() {
    let mut wants = pod("p");
    wants["spec"]["containers"][0]["resources"] = json!({"limits": {"example.com/gpu": "1", "cpu": "1"}});
    let tolerated = |made: &Value| {
        let all = made["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|one| !one["key"].as_str().unwrap().starts_with("node.kubernetes.io/")).collect::<Vec<_>>()
    };
    let usual = Cluster::start().await;
    let made = usual.admin().post(&pods("default"), &wants).await.expect(201);
    assert_eq!(tolerated(&made), [Value::Null; 0]);
    let cluster = configured(json!([{"name": "ExtendedResourceToleration"}])).await;
    let made = cluster.admin().post(&pods("default"), &wants).await.expect(201);
    assert_eq!(tolerated(&made), [json!({"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"})]);
    // A write that changes nothing adds nothing.
    let path = format!("{}/p", pods("default"));
    let again = cluster.admin().put(&path, &made).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_configuration_that_nobody_understands_starts_no_server() {
    let security = |change: Value| {
        let mut own = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration"});
        change.as_object().unwrap().iter().for_each(|(key, value)| own[key] = value.clone());
        json!([{"name": "PodSecurity", "configuration": own}])
    };
    for (plug_ins, why) in [
        (
            json!([{"name": "AlwaysPullImages"}]),
            r#"plugins[0].name: Unsupported value: "AlwaysPullImages": supported values: "ExtendedResourceToleration", "PodSecurity""#,
        ),
        (
            security(json!({"defaults": {"enforce": "strict"}})),
            r#"plugins[0].configuration.defaults.enforce: Invalid value: "strict": must be one of"#,
        ),
        (security(json!({"defaults": {"enforces": "baseline"}})), "plugins[0].configuration.defaults.enforces"),
        (
            security(json!({"exemptions": {"namespaces": ["A"]}})),
            r#"plugins[0].configuration.exemptions.namespaces[0]: Invalid value: "A""#,
        ),
        (security(json!({"exemptions": {"usernames": "robot"}})), "plugins[0].configuration.exemptions.usernames"),
        (security(json!({"kind": "Pod"})), "plugins[0].configuration.kind"),
        (json!([{"name": "ExtendedResourceToleration", "configuration": {"x": 1}}]), "plugins[0].configuration.x"),
        (json!([{"name": "PodSecurity"}, {"name": "PodSecurity"}]), "plugins[1].name: Duplicate value"),
        (json!([{"name": "PodSecurity", "path": "none.yaml"}]), "none.yaml"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("admission.yaml");
        fs::write(&file, configuration(plug_ins).to_string()).unwrap();
        let error = Cluster::try_start_as(dir, |config| config.admission = Some(file)).await.err().expect(why);
        let told = [error.to_string(), std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()].join(": ");
        assert!(told.starts_with("set up admission: ") && told.contains(why), "{told}");
    }
}
