//! The kubectl of Debian 12, version 1.20: SPDY, discovery group by group, OpenAPI version 2. Many scripts have one of that age.

use super::{Kubectl, cluster_with, fed, holds, rows, streams::leads_to_the_web, text, words};

fn old(test: fn(&Kubectl<'_>)) {
    let program = knarr_testbed::program("kubernetes-client", "usr/bin/kubectl").expect("Debian's kubectl");
    cluster_with(program, test);
}

#[test]
fn kubectl_1_20_reads_and_writes() {
    old(|kubectl| {
        holds(
            &kubectl.ok("version -o json"),
            &["\"clientVersion\"", "\"gitVersion\": \"v1.20", "\"serverVersion\"", "\"gitVersion\": \"v1.37."],
        );
        let resources = kubectl.ok("api-resources");
        for row in [["pods", "po", "v1", "true", "Pod"], ["deployments", "deploy", "apps/v1", "true", "Deployment"]] {
            assert!(rows(&resources).iter().any(|found| found[..] == row), "{row:?} in {resources}");
        }
        holds(
            &kubectl.ok("explain pod.spec.containers.image"),
            &["KIND:     Pod", "VERSION:  v1", "FIELD:    image <string>", "Container image name"],
        );
        let map = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {data}\n");
        assert_eq!(kubectl.apply(&map("{a: '1'}")), "configmap/settings created\n");
        assert_eq!(kubectl.apply(&map("{a: '1'}")), "configmap/settings unchanged\n");
        assert_eq!(kubectl.apply(&map("{a: '2'}")), "configmap/settings configured\n");
        let served = kubectl.fed("apply --server-side --force-conflicts -f -", map("{a: '3'}").as_bytes());
        assert_eq!(served, "configmap/settings serverside-applied\n");
        assert_eq!(kubectl.ok("get configmap settings -o jsonpath={.data.a}"), "3");
        let dry = kubectl.fed("apply --dry-run=server -f -", map("{a: '4'}").as_bytes());
        assert_eq!(dry, "configmap/settings configured (server dry run)\n");
        // Its own check of fields, by the server's OpenAPI document.
        let wrong = fed(&mut kubectl.knarr.kubectl_command(&words("create -f -")), map("{a: '1'}\nnosuch: 1").as_bytes());
        assert!(!wrong.status.success());
        holds(&text(&wrong.stderr), &["unknown field \"nosuch\" in io.k8s.api.core.v1.ConfigMap"]);
        kubectl.web();
        assert_eq!(kubectl.ok("scale deployment web --replicas=1"), "deployment.apps/web scaled\n");
        kubectl.ok("rollout status deployment/web --timeout=60s");
        holds(&kubectl.ok("get all"), &["pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"]);
        holds(&kubectl.ok("describe deployment web"), &["Name:", "web", "Replicas:"]);
        assert_eq!(kubectl.ok("delete configmap settings"), "configmap \"settings\" deleted\n");
        holds(&kubectl.fails(1, "get configmap settings"), &["Error from server (NotFound): configmaps \"settings\" not found"]);
    });
}

#[test]
fn kubectl_1_20_execs_logs_and_forwards_over_spdy() {
    old(|kubectl| {
        kubectl.ok("run box --image=busybox:1 --restart=Never -- sh -c 'echo said; exec sleep 1000'");
        kubectl.ok("wait pod/box --for=condition=Ready --timeout=60s");
        assert_eq!(kubectl.ok("logs box"), "said\n");
        assert_eq!(kubectl.ok("exec box -- echo 'a  b'"), "a  b\n");
        assert_eq!(kubectl.fed("exec -i box -- cat", b"typed\n"), "typed\n");
        let failed = kubectl.output("exec box -- sh -c 'echo bad >&2; exit 3'");
        assert_eq!(failed.status.code(), Some(3));
        holds(&text(&failed.stderr), &["bad\n", "command terminated with exit code 3"]);
        // More than a window of SPDY, both ways.
        let much = vec![b'x'; 1 << 20];
        assert_eq!(kubectl.fed("exec -i box -- cat", &much).len(), much.len());
        holds(&kubectl.on_a_terminal("exec -it box -- sh", "tty\nexit\n"), &["/dev/"]);
        kubectl.web();
        leads_to_the_web(kubectl, "service/web :80");
    });
}

#[test]
fn kubectl_1_20_attaches_and_copies() {
    old(|kubectl| {
        let echo = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: busybox:1, stdin: true, stdinOnce: true, command: [sh, -c, "while read line; do echo got $line; done; echo bye"]}
"#;
        kubectl.apply(echo);
        kubectl.ok("wait pod/echo --for=condition=Ready --timeout=60s");
        holds(&kubectl.fed("attach -i echo", b"one\ntwo\n"), &["got one\n", "got two\n", "bye\n"]);
        kubectl.pod("box", "exec sleep 1000");
        let file = kubectl.file("file", "hello\n");
        kubectl.ok(&format!("cp {file} box:/tmp/file"));
        assert_eq!(kubectl.ok("exec box -- cat /tmp/file"), "hello\n");
        kubectl.ok(&format!("cp box:/tmp/file {file}.back"));
        assert_eq!(std::fs::read_to_string(format!("{file}.back")).unwrap(), "hello\n");
    });
}
