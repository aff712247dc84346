//! Nodes: cordon, drain, taints, and what they use.

use super::{cluster, holds, rows};

#[test]
fn a_node_is_cordoned_drained_and_comes_back() {
    cluster(|kubectl| {
        kubectl.web();
        assert_eq!(kubectl.ok("cordon node-1"), "node/node-1 cordoned\n");
        assert_eq!(rows(&kubectl.ok("get node node-1"))[0][1], "Ready,SchedulingDisabled");
        kubectl.ok("run bare --image=busybox:1 -- sleep 1000");
        kubectl.ok("wait pod/bare --for=jsonpath={.status.conditions[0].reason}=Unschedulable --timeout=60s");
        holds(&kubectl.ok("describe pod bare"), &["FailedScheduling", "0/1 nodes are available"]);
        assert_eq!(kubectl.ok("uncordon node-1"), "node/node-1 uncordoned\n");
        kubectl.ok("wait pod/bare --for=condition=Ready --timeout=60s");

        let refused = kubectl.fails(1, "drain node-1 --timeout=60s");
        holds(&refused, &["cannot delete", "declare no controller", "default/bare"]);
        kubectl.ok("delete pod bare --now");
        let drained = kubectl.ok("drain node-1 --timeout=60s");
        holds(&drained, &["evicting pod default/web-", "evicted", "node/node-1 drained"]);
        kubectl.knarr.eventually("the pods wait for a node", |_| {
            let pods = kubectl.ok("get pods");
            rows(&pods).len() == 2 && rows(&pods).iter().all(|row| row[2] == "Pending")
        });
        kubectl.ok("uncordon node-1");
        kubectl.ok("rollout status deployment/web --timeout=60s");
    });
}

#[test]
fn a_disruption_budget_lets_go_one_pod_at_a_time() {
    cluster(|kubectl| {
        kubectl.web();
        kubectl.ok("create poddisruptionbudget web --selector=app=web --max-unavailable=1");
        kubectl.ok("wait pdb/web --for=jsonpath={.status.disruptionsAllowed}=1 --timeout=60s");
        assert_eq!(rows(&kubectl.ok("get pdb web"))[0][..4], ["web", "N/A", "1", "1"]);
        let allowed = kubectl.ok("get pdb web -o jsonpath={.status.expectedPods},{.status.desiredHealthy},{.status.currentHealthy}");
        assert_eq!(allowed, "2,1,2");

        // On the only node nothing can take the place of the first, so that the second stays.
        let refused = kubectl.fails(1, "drain node-1 --timeout=8s");
        holds(&refused, &["will retry after 5s", "Cannot evict pod as it would violate the pod's disruption budget"]);
        let pods = kubectl.ok("get pods -l app=web");
        assert_eq!(rows(&pods).iter().filter(|row| row[2] == "Running").count(), 1, "{pods}");
        assert_eq!(rows(&pods).iter().filter(|row| row[2] == "Pending").count(), 1, "{pods}");
        assert_eq!(kubectl.ok("get pdb web -o jsonpath={.status.disruptionsAllowed}"), "0");

        kubectl.ok("uncordon node-1");
        kubectl.ok("wait pdb/web --for=jsonpath={.status.disruptionsAllowed}=1 --timeout=60s");
        kubectl.ok("patch pdb web --type=merge -p '{\"spec\":{\"maxUnavailable\":\"100%\"}}'");
        kubectl.ok("wait pdb/web --for=jsonpath={.status.disruptionsAllowed}=2 --timeout=60s");
        holds(&kubectl.ok("drain node-1 --timeout=60s"), &["evicted", "node/node-1 drained"]);
    });
}

#[test]
fn a_taint_keeps_pods_away_or_sends_them_off() {
    cluster(|kubectl| {
        kubectl.web();
        assert_eq!(kubectl.ok("taint nodes node-1 kind=big:NoSchedule"), "node/node-1 tainted\n");
        holds(&kubectl.ok("describe node node-1"), &["Taints:             kind=big:NoSchedule"]);
        kubectl.ok("scale deployment web --replicas=3");
        kubectl.ok("wait deployment/web --for=jsonpath={.status.replicas}=3 --timeout=60s");
        let phases = || kubectl.ok("get pods -l app=web -o jsonpath={.items[*].status.phase}");
        assert_eq!(phases().matches("Pending").count(), 1, "{}", phases());
        assert_eq!(kubectl.ok("taint nodes node-1 kind-"), "node/node-1 untainted\n");
        kubectl.ok("rollout status deployment/web --timeout=60s");
        let before = kubectl.ok("get pods -l app=web -o name");
        kubectl.ok("taint nodes node-1 kind=big:NoExecute");
        kubectl.knarr.eventually("no pod stays", |_| {
            let now = kubectl.ok("get pods -l app=web -o name");
            before.lines().all(|pod| !now.contains(pod))
        });
        kubectl.ok("taint nodes node-1 kind-");
        kubectl.ok("rollout status deployment/web --timeout=60s");
    });
}

#[test]
fn what_nodes_and_pods_use_is_told() {
    cluster(|kubectl| {
        kubectl.ok("run busy --image=busybox:1 --labels=is=busy -- sh -c 'while :; do :; done'");
        kubectl.ok("run idle --image=busybox:1 -- sleep 1000");
        kubectl.ok("wait pod/busy pod/idle --for=condition=Ready --timeout=60s");
        kubectl.knarr.eventually("both were looked at twice", |knarr| {
            // Pods of which nothing is known yet make kubectl complain.
            let table = knarr.kubectl(&["top", "pods"]);
            table.status.success() && rows(&String::from_utf8_lossy(&table.stdout)).len() == 2
        });
        let pods = kubectl.ok("top pods");
        let cores = |row: &[&str]| -> u64 { row[1].strip_suffix('m').and_then(|text| text.parse().ok()).expect("millicores") };
        let [busy, idle] = &rows(&pods)[..] else { panic!("{pods}") };
        assert!(busy[0] == "busy" && idle[0] == "idle" && cores(busy) > 10 * cores(idle) && cores(busy) >= 50, "{pods}");
        assert!(idle[2].ends_with("Mi"), "{pods}");
        assert_eq!(rows(&kubectl.ok("top pods -l is=busy --containers")).len(), 1);
        let nodes = kubectl.ok("top nodes");
        assert!(rows(&nodes)[0][0] == "node-1" && cores(&rows(&nodes)[0]) >= 50, "{nodes}");
        // What is used is shown in columns, too.
        for (asked, name) in [("podmetrics idle", "idle"), ("nodes.metrics.k8s.io", "node-1")] {
            let table = kubectl.ok(&format!("get {asked}"));
            assert!(table.lines().next().is_some_and(|head| head.split_whitespace().eq(["NAME", "CPU", "MEMORY", "WINDOW"])), "{table}");
            let [row] = &rows(&table)[..] else { panic!("{table}") };
            assert!(row[0] == name && row[3].ends_with('s'), "{table}");
        }

        let path = "/apis/metrics.k8s.io/v1beta1";
        let one: serde_json::Value = serde_json::from_str(&kubectl.ok(&format!("get --raw {path}/namespaces/default/pods/busy"))).unwrap();
        assert_eq!((&one["kind"], &one["containers"][0]["name"]), (&"PodMetrics".into(), &"busy".into()), "{one}");
        holds(&kubectl.fails(1, &format!("get --raw {path}/namespaces/default/pods/none")), &["NotFound"]);
        holds(&kubectl.fails(1, "delete pods.metrics.k8s.io busy"), &["MethodNotAllowed"]);
        // Whoever may view a namespace may see what its pods use, and not what nodes do.
        kubectl.ok("create rolebinding look --clusterrole=view --user=ann");
        assert_eq!(kubectl.ok("auth can-i list pods.metrics.k8s.io --as=ann"), "yes\n");
        holds(&kubectl.fails(1, "top nodes --as=ann"), &["forbidden"]);
    });
}
