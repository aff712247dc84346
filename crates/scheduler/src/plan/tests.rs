//! Clusters in text, and where the next pod goes.

use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

/// One object a line: `node n cpu=2 memory=4Gi zone=a taint=k=v:NoSchedule cordoned`, `pod p on n cpu=1 app=web port=80`. The last line is the pod to place;
/// words with `{` are JSON merged into its spec.
fn check(cluster: &str, expected: Expect) {
    let mut cache = Cache::default();
    let mut pending = None;
    for line in cluster.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["node", name, ref rest @ ..] => cache.set_node(Arc::new(serde_json::from_value(node(name, rest)).unwrap())),
            ["pod", name, "on", node, ref rest @ ..] => cache.set_pod(&Arc::new(serde_json::from_value(pod(name, node, rest)).unwrap())),
            ["place", ref rest @ ..] => pending = Some(PodInfo::new(Arc::new(serde_json::from_value(pod("new", "", rest)).unwrap()))),
            _ => panic!("{line:?}"),
        }
    }
    cache.namespaces.insert("other".to_owned(), [("team".to_owned(), "x".to_owned())].into());
    let text = match plan(&cache, &pending.unwrap(), &mut 0) {
        Plan::Bind { node } => node,
        Plan::Wait(misfit) => misfit.message,
    };
    expected.assert_eq(&text);
}

fn node(name: &str, words: &[&str]) -> Value {
    let mut node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "taints": [] },
        "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" } },
    });
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("cordoned", _) => node["spec"]["unschedulable"] = true.into(),
            ("taint", taint) => {
                let (key, rest) = taint.split_once('=').unwrap();
                let (value, effect) = rest.split_once(':').unwrap();
                node["spec"]["taints"].as_array_mut().unwrap().push(json!({ "key": key, "value": value, "effect": effect }));
            }
            (resource @ ("cpu" | "memory" | "pods" | "example.org/gpu"), amount) => node["status"]["allocatable"][resource] = amount.into(),
            ("image", image) => node["status"]["images"] = json!([{ "names": [image], "sizeBytes": 900 << 20 }]),
            (label, value) => node["metadata"]["labels"][label] = value.into(),
        }
    }
    node
}

fn pod(name: &str, node: &str, words: &[&str]) -> Value {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "a", "uid": name, "labels": {} },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "app:1", "resources": { "requests": {} } }] },
        "status": { "phase": "Pending" },
    });
    for word in words {
        if word.starts_with('{') {
            let more: Value = serde_json::from_str(word).unwrap();
            for (key, value) in more.as_object().unwrap() {
                pod["spec"][key] = value.clone();
            }
            continue;
        }
        match word.split_once('=').unwrap() {
            (resource @ ("cpu" | "memory" | "example.org/gpu"), amount) => {
                pod["spec"]["containers"][0]["resources"]["requests"][resource] = amount.into();
            }
            ("port", port) => {
                pod["spec"]["containers"][0]["ports"] = json!([{ "hostPort": port.parse::<i32>().unwrap(), "protocol": "TCP" }])
            }
            ("phase", phase) => pod["status"]["phase"] = phase.into(),
            ("namespace", namespace) => pod["metadata"]["namespace"] = namespace.into(),
            (label, value) => pod["metadata"]["labels"][label] = value.into(),
        }
    }
    pod
}

#[test]
fn the_emptiest_node_is_best() {
    check("node a\nnode b\npod p on a cpu=2\nplace cpu=1", expect!["b"]);
    // Ended pods take no room.
    check("node a\nnode b\npod p on a cpu=2 phase=Succeeded\npod q on b cpu=1\nplace cpu=1", expect!["a"]);
    // Pods that ask for nothing are spread too.
    check("node a\nnode b\npod p on a\nplace", expect!["b"]);
}

#[test]
fn what_is_short_is_told() {
    check("place cpu=1", expect!["no nodes available to schedule pods"]);
    check("node a\nplace cpu=5", expect!["0/1 nodes are available: 1 Insufficient cpu."]);
    check(
        "node a\nnode b memory=1Gi\nplace cpu=5 memory=2Gi",
        expect!["0/2 nodes are available: 1 Insufficient memory, 2 Insufficient cpu."],
    );
    check("node a pods=1\npod p on a\nplace", expect!["0/1 nodes are available: 1 Too many pods."]);
    check("node a\nplace example.org/gpu=1", expect!["0/1 nodes are available: 1 Insufficient example.org/gpu."]);
    check("node a example.org/gpu=1\nnode b\nplace example.org/gpu=1", expect!["a"]);
    check(
        "node a cordoned\nnode b taint=k=v:NoSchedule\nnode c disk=hdd\nplace {\"nodeSelector\":{\"disk\":\"ssd\"}}",
        expect![
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable."
        ],
    );
}

#[test]
fn taints_keep_out_who_does_not_tolerate_them() {
    check(
        "node a taint=node.kubernetes.io/not-ready=:NoSchedule\nplace",
        expect!["0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."],
    );
    check(
        r#"node a taint=k=v:NoSchedule
        place {"tolerations":[{"key":"k","value":"v","effect":"NoSchedule"}]}"#,
        expect!["a"],
    );
    check(
        r#"node a taint=k=v:NoExecute
        place {"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}]}"#,
        expect!["0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."],
    );
    check(
        r#"node a cordoned
        place {"tolerations":[{"operator":"Exists"}]}"#,
        expect!["a"],
    );
    // PreferNoSchedule weighs more than an emptier node.
    check("node a taint=k=v:PreferNoSchedule\nnode b\npod p on b cpu=1\nplace cpu=1", expect!["b"]);
}

#[test]
fn affinity_to_nodes_is_required_or_preferred() {
    let required = r#"{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"zone","operator":"In","values":["y","z"]}]}]}}}}"#;
    check(&format!("node a zone=x\nnode b zone=y\npod p on b cpu=3\nplace cpu=1 {required}"), expect!["b"]);
    let preferred = r#"{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":10,"preference":{"matchExpressions":[{"key":"zone","operator":"In","values":["y"]}]}}]}}}"#;
    check(&format!("node a zone=x\nnode b zone=y\npod p on b cpu=2\nplace cpu=1 {preferred}"), expect!["b"]);
    let field = r#"{"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["b"]}]}]}}}}"#;
    check(&format!("node a\nnode b\nplace {field}"), expect!["b"]);
}

#[test]
fn host_ports_are_taken_once() {
    check(
        "node a\npod p on a port=80\nplace port=80",
        expect!["0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."],
    );
    check("node a\nnode b\npod p on a port=80\nplace port=80", expect!["b"]);
    check("node a\npod p on a port=80\nplace port=81", expect!["a"]);
}

#[test]
fn images_draw_pods_to_them() {
    check("node a\nnode b image=app:1\nplace", expect!["b"]);
}

#[test]
fn pods_keep_near_and_away() {
    let term = |extra: &str| format!(r#"{{"labelSelector":{{"matchLabels":{{"app":"web"}}}},"topologyKey":"zone"{extra}}}"#);
    let affinity = |kind: &str, extra: &str| {
        format!(r#"{{"affinity":{{"{kind}":{{"requiredDuringSchedulingIgnoredDuringExecution":[{}]}}}}}}"#, term(extra))
    };
    let nodes = "node a zone=x\nnode b zone=y\nnode c zone=y\n";
    let near = affinity("podAffinity", "");
    check(&format!("{nodes}pod p on b app=web cpu=3\nplace cpu=2 {near}"), expect!["c"]);
    check(&format!("{nodes}place {near}"), expect!["0/3 nodes are available: 3 node(s) didn't match pod affinity rules."]);
    // The first of a group that wants to be near its own kind.
    check(&format!("node n zone=x\nplace app=web {near}"), expect!["n"]);

    let away = affinity("podAntiAffinity", "");
    check(&format!("{nodes}pod p on b app=web\nplace {away}"), expect!["a"]);
    check(
        &format!("{nodes}pod p on b app=web\npod q on a app=web\nplace {away}"),
        expect!["0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."],
    );
    // Who is there may keep the new one away.
    check(
        &format!("node n zone=x\npod p on n app=web {away}\nplace app=web"),
        expect!["0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."],
    );
    check(&format!("node n zone=x\npod p on n app=web {away}\nplace app=db"), expect!["n"]);
    // Other namespaces count only when the term says so.
    check(&format!("node n zone=x\npod p on n app=web namespace=other\nplace {away}"), expect!["n"]);
    let everywhere = affinity("podAntiAffinity", r#","namespaceSelector":{"matchLabels":{"team":"x"}}"#);
    check(
        &format!("node n zone=x\npod p on n app=web namespace=other\nplace {everywhere}"),
        expect!["0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."],
    );

    let prefer = format!(
        r#"{{"affinity":{{"podAffinity":{{"preferredDuringSchedulingIgnoredDuringExecution":[{{"weight":50,"podAffinityTerm":{}}}]}}}}}}"#,
        term("")
    );
    check(&format!("node a zone=x\nnode b zone=y\npod p on b app=web cpu=1\nplace cpu=1 {prefer}"), expect!["b"]);
}

#[test]
fn pods_spread_over_zones() {
    let spread = |when: &str| {
        format!(
            r#"{{"topologySpreadConstraints":[{{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"{when}","labelSelector":{{"matchLabels":{{"app":"web"}}}}}}]}}"#
        )
    };
    let (hard, soft) = (spread("DoNotSchedule"), spread("ScheduleAnyway"));
    let nodes = "node a zone=x\nnode b zone=y\n";
    check(&format!("{nodes}pod p on a app=web\npod q on b cpu=3\nplace app=web {hard}"), expect!["b"]);
    check(
        &format!("{nodes}pod p on a app=web\npod q on b cpu=3\nplace app=web cpu=2 {hard}"),
        expect!["0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints."],
    );
    check(
        &format!("node a\nplace app=web {hard}"),
        expect!["0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."],
    );
    check(&format!("{nodes}pod p on a app=web\npod q on b cpu=1\nplace app=web {soft}"), expect!["b"]);
}

#[test]
fn large_clusters_are_looked_at_in_part_and_in_turn() {
    let mut cache = Cache::default();
    for number in 0..1000 {
        cache.set_node(Arc::new(serde_json::from_value(node(&format!("n{number}"), &[])).unwrap()));
    }
    assert_eq!(enough_nodes(1000), 420);
    assert_eq!(enough_nodes(5000), 500);
    assert_eq!(enough_nodes(100), 100);
    let (mut start, pending) = (0, PodInfo::new(Arc::new(serde_json::from_value(pod("new", "", &[])).unwrap())));
    plan(&cache, &pending, &mut start);
    assert_eq!(start, 420);
    plan(&cache, &pending, &mut start);
    plan(&cache, &pending, &mut start);
    assert_eq!(start, 260);
}

#[test]
fn placed_pods_count_at_once_and_failed_bindings_no_more() {
    let mut cache = Cache::default();
    cache.set_node(Arc::new(serde_json::from_value(node("a", &["cpu=2"])).unwrap()));
    let unbound: Arc<k8s_openapi::api::core::v1::Pod> = Arc::new(serde_json::from_value(pod("p", "", &["cpu=2"])).unwrap());
    let pending = Arc::new(PodInfo::new(unbound.clone()));
    cache.assume(pending.clone(), "a");
    // A late word of the pod before its binding does not undo it.
    cache.set_pod(&unbound);
    let next = PodInfo::new(Arc::new(serde_json::from_value(pod("new", "", &["cpu=1"])).unwrap()));
    assert!(matches!(plan(&cache, &next, &mut 0), Plan::Wait(_)));
    cache.forget(&pending.key);
    assert_eq!(plan(&cache, &next, &mut 0), Plan::Bind { node: "a".to_owned() });
    // A binding that was seen is not forgotten.
    cache.assume(pending.clone(), "a");
    cache.set_pod(&Arc::new(serde_json::from_value(pod("p", "a", &["cpu=2"])).unwrap()));
    cache.forget(&pending.key);
    assert!(matches!(plan(&cache, &next, &mut 0), Plan::Wait(_)));
}
