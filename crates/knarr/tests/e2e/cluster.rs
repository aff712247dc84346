//! The whole thread: the real binary, real containers behind a real Service, driven from outside.

use std::{net::IpAddr, process::Command};

use crate::harness::{Knarr, WEB, alone, containers, get, load::Load, traces};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_deployment_serves_behind_its_service_through_kill_9_and_leaves_nothing() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let mut knarr = Knarr::new();
        knarr.up();
        let address = serve_web(&knarr);
        let before = containers(&knarr);
        let answer = get(address).expect("the Service answers");
        assert!(before.iter().any(|(name, ..)| *name == answer.trim()), "{answer:?} is the name of a pod");

        let customers = Load::start(1, address, || ());
        customers.serve(1);
        knarr.kill();
        customers.serve(20);
        knarr.up();
        assert_eq!(customers.stop().0, Vec::<String>::new(), "no request fails");
        assert_eq!(containers(&knarr), before, "every pod is adopted, no container restarted");

        knarr.run(&["down"]);
        assert_eq!(traces(&knarr), Vec::<String>::new());
        knarr.run(&["down"]);
    });
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let mut knarr = Knarr::new();
        let refused = |command: &mut Command, code: i32, hint: &str| {
            let output = command.output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{message}");
            assert!(message.contains(hint), "{message}");
        };
        refused(&mut knarr.command(&["get", "pods"]), 5, "Start it with `knarr up`");
        refused(&mut knarr.command(&["up", "--pod-cidr", "10.42.0.1/16"]), 2, "did you mean 10.42.0.0/16?");
        let taken = std::net::TcpListener::bind("[::]:6443").or_else(|_| std::net::TcpListener::bind("0.0.0.0:6443")).unwrap();
        refused(&mut knarr.command(&["up", "--node-name", "n"]), 3, "choose another with --listen");
        drop(taken);
        knarr.up();
        refused(&mut knarr.command(&["up", "--node-name", "n", "--listen", "127.0.0.1:7443"]), 4, "is in use by process");
        refused(&mut knarr.command(&["get", "nosuchthings"]), 2, "the server has no resource \"nosuchthings\"");
        refused(&mut knarr.command(&["get", "pod/nosuch"]), 5, "pods \"nosuch\" not found");
        let status = knarr.run(&["status"]);
        assert!(status.contains("node-1") && status.contains("Nothing is wrong"), "{status}");
    });
}

#[test]
fn kubectl_creates_reads_changes_and_deletes() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    alone(&["busybox"], || {
        let mut knarr = Knarr::new();
        knarr.up();
        knarr.import("busybox");
        let file = knarr.write("web.yaml", WEB);
        let file = file.to_str().unwrap();
        assert_eq!(knarr.must_kubectl(&["apply", "-f", file]), "deployment.apps/web created\nservice/web created\n");
        assert_eq!(knarr.must_kubectl(&["apply", "-f", file]), "deployment.apps/web unchanged\nservice/web unchanged\n");
        knarr.must_kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let pods = knarr.must_kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        assert_eq!(pods.lines().filter(|line| line.split_whitespace().nth(1) == Some("1/1")).count(), 2, "{pods}");
        knarr.must_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]);
        knarr.must_kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]);
        knarr.must_kubectl(&["patch", "configmap", "settings", "-p", r#"{"data":{"colour":"red"}}"#]);
        assert_eq!(knarr.must_kubectl(&["get", "configmap", "settings", "-o", "jsonpath={.data.colour}"]), "red");
        knarr.must_kubectl(&["label", "configmap", "settings", "tier=web"]);
        assert!(knarr.must_kubectl(&["get", "cm", "-l", "tier=web", "-o", "name"]).contains("configmap/settings"));
        assert_eq!(knarr.must_kubectl(&["auth", "can-i", "delete", "nodes"]), "yes\n");
        let missing = knarr.kubectl(&["get", "pod", "nosuch"]);
        assert_eq!(String::from_utf8_lossy(&missing.stderr), "Error from server (NotFound): pods \"nosuch\" not found\n");
        knarr.must_kubectl(&["scale", "deployment/web", "--replicas=1"]);
        knarr.must_kubectl(&["wait", "deployment/web", "--for=jsonpath={.status.replicas}=1", "--timeout=60s"]);
        knarr.must_kubectl(&["delete", "-f", file, "--timeout=60s"]);
        knarr.must_kubectl(&["wait", "pod", "-l", "app=web", "--for=delete", "--timeout=60s"]);
        assert_eq!(knarr.must_kubectl(&["get", "replicasets,pods", "-l", "app=web", "-o", "name"]), "");
    });
}

/// Starts the web server of [`WEB`] and returns the address of its Service.
fn serve_web(knarr: &Knarr) -> (IpAddr, u16) {
    knarr.import("busybox");
    let file = knarr.write("web.yaml", WEB);
    knarr.run(&["apply", "-f", file.to_str().unwrap()]);
    knarr.run(&["wait", "deployment/web", "--for", "condition=Available", "--timeout", "60s"]);
    let service = json(&knarr.run(&["get", "service/web", "-o", "json"]));
    (service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap(), 80)
}

#[test]
fn two_clusters_live_side_by_side_and_one_goes_without_the_other() {
    knarr_testbed::require_root!();
    alone(&["busybox"], || {
        let (mut one, mut two) = (Knarr::new(), Knarr::new());
        one.up();
        two.up_until(&["--listen", "127.0.0.1:7443", "--pod-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16"], "ready in ");
        let (first, second) = (serve_web(&one), serve_web(&two));
        let names = |knarr: &Knarr| containers(knarr).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
        for (knarr, address) in [(&one, first), (&two, second)] {
            let answer = get(address).expect("each Service answers");
            assert!(names(knarr).iter().any(|name| name == answer.trim()), "{answer:?} is the name of a pod of its own cluster");
        }
        let before = containers(&two);
        one.run(&["down"]);
        assert!(get(first).is_err(), "the first is gone");
        get(second).expect("the second answers");
        assert_eq!(containers(&two), before);
        let foreign = format!("knarr-{}", one.id());
        assert!(!traces(&one).iter().any(|trace| trace.contains(&foreign)), "{:?}", traces(&one));
        two.run(&["down"]);
        assert_eq!(traces(&two), Vec::<String>::new());
    });
}
