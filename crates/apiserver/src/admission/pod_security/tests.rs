//! The checks, one by one and by version.

use serde_json::json;

use super::*;

fn standard(text: &str) -> Standard {
    let (level, version) = text.split_once(':').unwrap_or((text, "latest"));
    Standard { level: Level::parse(level).unwrap(), version: Version::parse(version).unwrap() }
}

/// The faults of a pod with one good container, changed by `spec` and by `context` of its container.
fn faults_of(text: &str, spec: &Value, context: &Value) -> Vec<String> {
    let mut pod = json!({ "containers": [{ "name": "c", "securityContext": context }] });
    let mut annotations = Value::Null;
    for (key, value) in spec.as_object().unwrap() {
        match key.as_str() {
            "annotations" => annotations = value.clone(),
            key => pod[key] = value.clone(),
        }
    }
    let pod = Pod { spec: &pod, annotations: Some(&annotations) };
    faults(&pod, standard(text)).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(text: &str, spec: Value, context: Value, expected: &[&str]) {
    assert_eq!(faults_of(text, &spec, &context), expected, "{text}");
}

#[test]
fn baseline_keeps_pods_off_the_node() {
    let check = |spec: Value, context: Value, expected: &[&str]| {
        super::tests::check("privileged", spec.clone(), context.clone(), &[]);
        super::tests::check("baseline", spec, context, expected);
    };
    check(json!({}), json!({}), &[]);
    check(json!({ "hostNetwork": true, "hostPID": true }), json!({}), &["host namespaces (hostNetwork=true, hostPID=true)"]);
    check(json!({}), json!({ "privileged": true }), &["privileged (container \"c\" must not set securityContext.privileged=true)"]);
    check(
        json!({}),
        json!({ "capabilities": { "add": ["CHOWN", "SYS_ADMIN"] } }),
        &["non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)"],
    );
    check(
        json!({ "volumes": [{ "name": "v", "hostPath": {} }, { "name": "w", "emptyDir": {} }] }),
        json!({}),
        &["hostPath volumes (volume \"v\")"],
    );
    let ports = json!([{ "name": "a", "ports": [{ "hostPort": 80 }] }, { "name": "b", "ports": [{ "hostPort": 81 }] }]);
    check(json!({ "containers": ports }), json!({}), &["hostPort (containers \"a\", \"b\" use hostPorts 80, 81)"]);
    check(
        json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
        json!({}),
        &["seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"],
    );
    check(json!({ "securityContext": { "sysctls": [{ "name": "kernel.msgmax" }] } }), json!({}), &["forbidden sysctls (kernel.msgmax)"]);
    check(
        json!({}),
        json!({ "procMount": "Unmasked" }),
        &["procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")"],
    );
    check(
        json!({ "securityContext": { "seLinuxOptions": { "user": "root" } } }),
        json!({ "seLinuxOptions": { "type": "spc_t" } }),
        &["seLinuxOptions (pod and container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)"],
    );
    check(
        json!({ "annotations": { "container.apparmor.security.beta.kubernetes.io/c": "unconfined" } }),
        json!({ "appArmorProfile": { "type": "Unconfined" } }),
        &[
            "forbidden AppArmor profiles (container \"c\" and annotation must not set AppArmor profile type to \"Unconfined\", \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ],
    );
    check(
        json!({ "securityContext": { "windowsOptions": { "hostProcess": true } } }),
        json!({}),
        &["hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"],
    );
    // Ephemeral and init containers count (CVE-2023-2728's kind of gap).
    for list in ["initContainers", "ephemeralContainers"] {
        let mut spec = json!({});
        spec[list] = json!([{ "name": "x", "securityContext": { "privileged": true } }]);
        check(spec, json!({}), &["privileged (container \"x\" must not set securityContext.privileged=true)"]);
    }
    let probe = json!([{ "name": "c", "livenessProbe": { "httpGet": { "host": "10.0.0.1" } } }]);
    check(
        json!({ "containers": probe }),
        json!({}),
        &["probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")"],
    );
}

/// A container and a pod that restricted has nothing against.
fn good() -> (Value, Value) {
    (
        json!({ "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } } }),
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true }),
    )
}

#[test]
fn restricted_wants_four_things_said() {
    check(
        "restricted",
        json!({}),
        json!({}),
        &[
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
            "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
            "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ],
    );
    let (pod, good) = good();
    check("restricted", pod.clone(), good.clone(), &[]);
    let mut root = good.clone();
    root["runAsUser"] = 0.into();
    check("restricted", pod.clone(), root, &["runAsUser=0 (container \"c\" must not set runAsUser=0)"]);
    let mut volumes = pod.clone();
    volumes["volumes"] = json!([{ "name": "v", "hostPath": {} }]);
    check("restricted", volumes, good.clone(), &["restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"]);
    // What the pod says counts, though its containers say otherwise.
    let mut said = pod;
    said["securityContext"] = json!({ "seccompProfile": { "type": "Unconfined" }, "runAsNonRoot": false });
    let mut own = good;
    own["seccompProfile"] = json!({ "type": "Localhost" });
    check(
        "restricted",
        said,
        own,
        &[
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ],
    );
}

/// In which versions a pod is beyond a level: the first and the last, `-` for none.
#[track_caller]
fn refused_in(level: &str, spec: Value, context: Value, expected: &str) {
    let refused: Vec<u32> = (0..=37).filter(|minor| !faults_of(&format!("{level}:v1.{minor}"), &spec, &context).is_empty()).collect();
    let shown = match refused[..] {
        [] => "-".to_owned(),
        [first, .., last] => format!("{first}..{last}"),
        [only] => only.to_string(),
    };
    assert_eq!(shown, expected, "{level} {spec} {context}");
    if let (Some(first), Some(last)) = (refused.first(), refused.last()) {
        assert_eq!(refused.len(), (last - first + 1) as usize, "{refused:?}");
    }
    let newest = !faults_of(level, &spec, &context).is_empty();
    assert_eq!(newest, refused.last() == Some(&37), "the latest is the newest");
}

#[test]
fn every_version_has_its_own_checks() {
    let (pod, context) = good();
    let pod_with = |change: Value| {
        let mut pod = pod.clone();
        change.as_object().unwrap().iter().for_each(|(key, value)| pod[key] = value.clone());
        pod
    };
    let with = |key: &str, value: Value| {
        let mut context = context.clone();
        context[key] = value;
        context
    };
    let sysctl = |name: &str| json!({ "securityContext": { "sysctls": [{ "name": name }] } });
    refused_in("restricted", pod.clone(), context.clone(), "-");
    refused_in("restricted", pod.clone(), with("allowPrivilegeEscalation", Value::Null), "8..37");
    refused_in("restricted", pod.clone(), with("capabilities", json!({ "drop": [] })), "22..37");
    refused_in("restricted", pod.clone(), with("capabilities", json!({ "drop": ["ALL"], "add": ["CHOWN"] })), "22..37");
    refused_in("restricted", pod.clone(), with("capabilities", json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] })), "0..37");
    refused_in("restricted", pod.clone(), with("runAsUser", 0.into()), "23..37");
    refused_in("restricted", json!({}), context.clone(), "19..37");
    refused_in("baseline", sysctl("net.ipv4.tcp_syncookies"), json!({}), "-");
    refused_in("baseline", sysctl("net.ipv4.ip_local_reserved_ports"), json!({}), "0..26");
    refused_in("baseline", sysctl("net.ipv4.tcp_fin_timeout"), json!({}), "0..28");
    refused_in("baseline", sysctl("net.ipv4.tcp_rmem"), json!({}), "0..31");
    refused_in("baseline", json!({}), json!({ "seLinuxOptions": { "type": "container_engine_t" } }), "0..30");
    refused_in("baseline", json!({}), json!({ "seccompProfile": { "type": "Unconfined" } }), "19..37");
    for key in ["pod", "c"] {
        let prefix = if key == "pod" { "" } else { "container." };
        let annotations = json!({ format!("{prefix}seccomp.security.alpha.kubernetes.io/{key}"): "unconfined" });
        refused_in("baseline", json!({ "annotations": annotations }), json!({}), "0..18");
    }
    let probe = json!([{ "name": "c", "readinessProbe": { "tcpSocket": { "host": "10.0.0.1" } } }]);
    refused_in("baseline", json!({ "containers": probe }), json!({}), "34..37");
    // Windows has nothing of what these are about, and their root is nobody's where the pod has users of its own.
    let windows = pod_with(json!({ "os": { "name": "windows" }, "securityContext": {} }));
    refused_in("restricted", windows, json!({ "runAsNonRoot": true }), "8..24");
    let own_users = pod_with(json!({ "hostUsers": false }));
    refused_in("restricted", own_users.clone(), with("runAsNonRoot", false.into()), "0..34");
    refused_in("restricted", own_users.clone(), with("runAsUser", 0.into()), "23..34");
    refused_in("baseline", own_users.clone(), json!({ "procMount": "Unmasked" }), "0..34");
    refused_in("restricted", own_users, with("procMount", "Unmasked".into()), "0..37");
    assert_eq!(faults_of("baseline:v1.99999", &json!({ "hostPID": true }), &json!({})), ["host namespaces (hostPID=true)"]);
}

#[test]
fn versions_are_written_one_way() {
    for (text, good) in [
        ("latest", true),
        ("v1.0", true),
        ("v1.37", true),
        ("v1.037", false),
        ("1.30", false),
        ("v1", false),
        ("v2.1", false),
        ("v1.x", false),
        ("v1.+3", false),
    ] {
        assert_eq!(Version::parse(text).is_some(), good, "{text}");
    }
}

#[test]
fn an_update_is_looked_at_where_the_standards_look() {
    let pod = |change: fn(&mut Value)| {
        let mut pod = json!({ "metadata": { "name": "p", "annotations": {} }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
        change(&mut pod);
        Object::from_value(pod).unwrap()
    };
    let old = pod(|_| {});
    for (change, significant) in [
        ((|pod| pod["spec"]["tolerations"] = json!([{ "key": "k" }])) as fn(&mut Value), false),
        (|pod| pod["spec"]["activeDeadlineSeconds"] = 5.into(), false),
        (|pod| pod["spec"]["containers"][0]["image"] = "j".into(), true),
        (|pod| pod["spec"]["ephemeralContainers"] = json!([{ "name": "e" }]), true),
        (|pod| pod["metadata"]["annotations"][SECCOMP_ANNOTATION] = "unconfined".into(), true),
    ] {
        assert_eq!(is_significant(&pod(change), &old), significant);
    }
}
