//! `run`, `expose`, `wait`, `events` and `debug`, endpoints made by hand, and further ranges of Services.

use super::{cluster, holds, rows, text};
use crate::harness::get;

#[test]
fn a_command_runs_in_a_pod_of_its_own() {
    cluster(|kubectl| {
        holds(&kubectl.fed("run once --image=busybox:1 --restart=Never --rm -i -- cat", b"typed\n"), &["typed\n", "pod \"once\" deleted"]);
        assert_eq!(kubectl.ok("get pods -o name"), "");
        let failed = kubectl.output("run bad --image=busybox:1 --restart=Never -i -- sh -c 'sleep 1; exit 4'");
        assert_eq!(failed.status.code(), Some(4), "{}", text(&failed.stderr));
        assert_eq!(rows(&kubectl.ok("get pod bad"))[0][..4], ["bad", "0/1", "Error", "0"]);
        kubectl.ok("run done --image=busybox:1 --restart=Never -- true");
        kubectl.ok("wait pod/done --for=jsonpath={.status.phase}=Succeeded --timeout=60s");
        assert_eq!(rows(&kubectl.ok("get pod done"))[0][..4], ["done", "0/1", "Completed", "0"]);
        let dry = kubectl.ok("run dry --image=busybox:1 --dry-run=server -o jsonpath={.spec.containers[0].imagePullPolicy}");
        assert_eq!(dry, "IfNotPresent");
        let shown = kubectl.on_a_terminal("run shell --image=busybox:1 --restart=Never --rm -it -- sh", "tty\nexit\n");
        holds(&shown, &["/dev/", "pod \"shell\" deleted"]);
    });
}

#[test]
fn what_is_exposed_answers_and_waits_end_when_they_are_told_to() {
    cluster(|kubectl| {
        kubectl.web();
        assert_eq!(kubectl.ok("expose deployment web --name=again --port=81 --target-port=8080"), "service/again exposed\n");
        let address = kubectl.ok("get service again -o jsonpath={.spec.clusterIP}:{.spec.ports[0].port}").parse().unwrap();
        kubectl
            .knarr
            .eventually("the new Service answers", |_| crate::harness::fetch(address, "/").is_ok_and(|name| name.starts_with("web-")));

        kubectl.ok("create configmap settings");
        kubectl.ok("wait configmap/settings --for=create --timeout=5s");
        let late = "error: timed out waiting for the condition on configmaps/settings\n";
        assert_eq!(kubectl.fails(1, "wait configmap/settings --for=delete --timeout=1s"), late);
        let mut waiting = kubectl.start("wait configmap/settings --for=delete --timeout=60s");
        kubectl.ok("delete configmap settings");
        assert!(waiting.0.wait().unwrap().success());
        let not = "error: timed out waiting for the condition on deployments/web\n";
        assert_eq!(kubectl.fails(1, "wait deployment/web --for=condition=Available=false --timeout=1s"), not);
    });
}

#[test]
fn events_tell_what_happened_to_an_object() {
    cluster(|kubectl| {
        kubectl.pod("box", "exec sleep 1000");
        let reasons = |table: &str| rows(table).iter().map(|row| row[2].to_owned()).collect::<Vec<_>>().join(" ");
        kubectl.knarr.eventually("the events of a start", |_| {
            let events = reasons(&kubectl.ok("events --for pod/box"));
            ["Scheduled", "Pulled", "Created", "Started"].iter().all(|reason| events.contains(reason))
        });
        assert_eq!(kubectl.ok("events --for pod/box --types=Warning"), "");
        let field = "get events --field-selector=involvedObject.name=box,reason=Scheduled";
        assert_eq!(reasons(&kubectl.ok(field)), "Scheduled");
        assert_eq!(reasons(&kubectl.ok("get events.v1.events.k8s.io --field-selector=regarding.name=box,reason=Scheduled")), "Scheduled");
    });
}

#[test]
fn a_pod_and_a_node_are_debugged() {
    cluster(|kubectl| {
        kubectl.pod("box", "exec sleep 1000");
        kubectl.ok("debug box --image=busybox:1 --target=box --container=look --profile=general -- sh -c 'ps; echo looked'");
        let look = "wait pod/box --for=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}=0 --timeout=60s";
        kubectl.ok(look);
        holds(&kubectl.ok("logs box -c look"), &["sleep 1000", "looked"]);
        kubectl.ok("debug box --image=busybox:1 --copy-to=copy --container=side --profile=general --share-processes -- sleep 1000");
        kubectl.ok("wait pod/copy --for=condition=Ready --timeout=60s");
        assert_eq!(rows(&kubectl.ok("get pod copy"))[0][1], "2/2");
        let node = kubectl.ok("debug node/node-1 --image=busybox:1 --profile=general -- cat /host/proc/sys/kernel/ostype");
        let pod = node.split_whitespace().find(|word| word.starts_with("node-debugger-")).expect("its name is told");
        kubectl.ok(&format!("wait pod/{pod} --for=jsonpath={{.status.phase}}=Succeeded --timeout=60s"));
        assert_eq!(kubectl.ok(&format!("logs {pod}")), "Linux\n");
    });
}

#[test]
fn endpoints_made_by_hand_lead_to_where_they_say() {
    cluster(|kubectl| {
        kubectl.web();
        let pod = kubectl.ok("get pods -l app=web -o 'jsonpath={.items[0].metadata.name} {.items[0].status.podIP}'");
        let (name, ip) = pod.split_once(' ').expect("a name and an address");
        let port = "{port: 8080}";
        kubectl.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: by-hand}}\nspec: {{ports: [{{port: 80, targetPort: 8080}}]}}\n---\n\
             apiVersion: v1\nkind: Endpoints\nmetadata: {{name: by-hand}}\nsubsets: [{{addresses: [{{ip: {ip}}}], ports: [{port}]}}]\n"
        ));
        let address = kubectl.ok("get service by-hand -o jsonpath={.spec.clusterIP}");
        kubectl.knarr.eventually("the pod answers", |_| get((address.parse().unwrap(), 80)).is_ok_and(|answer| answer.trim() == name));
        let slices = kubectl.ok("get endpointslices -l kubernetes.io/service-name=by-hand");
        assert!(rows(&slices).len() == 1 && slices.contains(ip), "{slices}");
        kubectl.ok("delete endpoints by-hand");
        kubectl.knarr.eventually("the slice goes with the endpoints", |_| get((address.parse().unwrap(), 80)).is_err());
    });
}

/// Upstream's test that Services are served on different ServiceCIDRs (test/e2e/network/service_cidrs.go), and what kubectl shows of both kinds.
#[test]
fn services_of_another_range_serve_the_node_and_its_pods() {
    cluster(|kubectl| {
        kubectl.web();
        assert_eq!(rows(&kubectl.ok("get servicecidr kubernetes"))[0][..2], ["kubernetes", "10.43.0.0/16"]);
        kubectl.apply("apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [203.0.113.0/24]}\n");
        kubectl.ok("wait servicecidr/more --for=condition=Ready --timeout=60s");
        kubectl.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: there}\n\
             spec: {clusterIP: 203.0.113.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n",
        );
        assert_eq!(rows(&kubectl.ok("get ip 203.0.113.10"))[0][..2], ["203.0.113.10", "services/default/there"]);
        let serves = || get(("203.0.113.10".parse().unwrap(), 80)).is_ok_and(|name| name.starts_with("web-"));
        kubectl.knarr.eventually("the node reaches it", |_| serves());
        kubectl.pod("client", "exec sleep 1000");
        let answer = kubectl.knarr.shell("client", "client", "wget -q -O- http://there.default.svc.cluster.local/");
        assert!(answer.starts_with("web-"), "{answer}");

        // kubectl waits for the end of the one it deleted; its Service has another.
        kubectl.ok("delete ip 203.0.113.10 --timeout=60s");
        assert_eq!(rows(&kubectl.ok("get ip 203.0.113.10"))[0][1], "services/default/there");
        kubectl.ok("delete servicecidr more --wait=false");
        kubectl.ok("wait servicecidr/more --for=jsonpath={.status.conditions[0].reason}=Terminating --timeout=60s");
        assert!(serves(), "it serves until its Service goes");
        kubectl.ok("delete service there");
        kubectl.ok("wait servicecidr/more --for=delete --timeout=60s");
        assert_eq!(kubectl.ok("get ip -l ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io -o name").matches("203.0.113").count(), 0);
    });
}
