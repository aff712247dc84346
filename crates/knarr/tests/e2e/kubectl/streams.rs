//! Logs, exec, attach, port-forward, cp and the proxy: what flows between a terminal and a container.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use super::{Kubectl, Running, cluster, fed, holds, text, words};
use crate::harness::fetch;

/// Two containers that say something, and one that said something before them.
const TALKERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talkers, labels: {app: talkers}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: busybox:1, command: [echo, from first]}
  containers:
  - {name: a, image: busybox:1, command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; exec sleep 1000"]}
  - {name: b, image: busybox:1, command: [sh, -c, "echo from b; exec sleep 1000"]}
"#;

#[test]
fn logs_of_one_container_or_all_from_the_start_or_the_end() {
    cluster(|kubectl| {
        kubectl.apply(TALKERS);
        kubectl.ok("wait pod/talkers --for=condition=Ready --timeout=60s");
        let all = "line 1\nline 2\nline 3\nline 4\nline 5\n";
        kubectl.knarr.eventually("the first container wrote all", |_| kubectl.ok("logs talkers -c a") == all);
        let chosen = kubectl.output("logs talkers");
        assert_eq!(text(&chosen.stderr), "Defaulted container \"a\" out of: a, b, first (init)\n");
        assert_eq!(text(&chosen.stdout), all);
        assert_eq!(kubectl.ok("logs talkers -c first"), "from first\n");
        assert_eq!(kubectl.ok("logs talkers -c a --tail=2"), "line 4\nline 5\n");
        assert_eq!(kubectl.ok("logs talkers -c a --since=1h --limit-bytes=7"), "line 1\n");
        assert_eq!(kubectl.ok("logs talkers -c a --since-time=2100-01-01T00:00:00Z"), "");
        let stamped = kubectl.ok("logs talkers -c b --timestamps");
        assert!(stamped.starts_with("20") && stamped.ends_with("Z from b\n"), "{stamped}");
        let all = kubectl.ok("logs talkers --all-containers --tail=1");
        assert!(["from first\n", "line 5\n", "from b\n"].iter().all(|line| all.contains(line)), "{all}");
        let prefixed = kubectl.ok("logs -l app=talkers --all-containers --prefix --tail=1");
        let mut prefixed: Vec<_> = prefixed.lines().collect();
        prefixed.sort_unstable();
        assert_eq!(prefixed, ["[pod/talkers/a] line 5", "[pod/talkers/b] from b", "[pod/talkers/first] from first"]);
        holds(&kubectl.fails(1, "logs talkers -c nosuch"), &["container nosuch is not valid for pod talkers"]);
        holds(&kubectl.fails(1, "logs talkers -c a --previous"), &["previous terminated container \"a\" in pod \"talkers\" not found"]);
    });
}

#[test]
fn logs_are_followed_to_the_end_and_remembered_after_a_restart() {
    cluster(|kubectl| {
        kubectl.pod("counter", "while ! test -e /go; do sleep 0.1; done; echo last");
        let mut follow = kubectl.start("logs -f counter");
        kubectl.ok("exec counter -- touch /go");
        let lines: Vec<_> = BufReader::new(follow.0.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
        assert_eq!(lines, ["last"], "it ends with the container");
        assert!(follow.0.wait().unwrap().success());

        kubectl.ok("run crash --image=busybox:1 -- sh -c 'echo run; exit 3'");
        kubectl.ok("wait pod/crash --for=jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}=3 --timeout=60s");
        assert_eq!(kubectl.ok("logs crash --previous"), "run\n");
        holds(&kubectl.ok("describe pod crash"), &["Last State:     Terminated", "Reason:       Error", "Exit Code:    3"]);

        kubectl.ok("run bad --image=nosuch.invalid/image:1");
        kubectl.ok("wait pod/bad --for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff --timeout=60s");
        let refused =
            "Error from server (BadRequest): container \"bad\" in pod \"bad\" is waiting to start: trying and failing to pull image\n";
        assert_eq!(kubectl.fails(1, "logs bad"), refused);
        assert_eq!(kubectl.fails(1, "exec bad -- true"), "error: unable to upgrade connection: container not found (\"bad\")\n");
    });
}

#[test]
fn exec_carries_input_output_errors_exit_codes_and_terminals() {
    cluster(|kubectl| {
        kubectl.pod("box", "exec sleep 1000");
        assert_eq!(kubectl.ok("exec box -- echo 'a  b'"), "a  b\n");
        let both = kubectl.output("exec box -- sh -c 'echo out; echo err >&2; exit 7'");
        assert_eq!((text(&both.stdout), both.status.code()), ("out\n".to_owned(), Some(7)));
        assert_eq!(text(&both.stderr), "err\ncommand terminated with exit code 7\n");
        assert_eq!(kubectl.fed("exec -i box -- cat", b"hello\n"), "hello\n");

        let large = vec![b'x'; 8 << 20];
        let mut through = kubectl.knarr.kubectl_command(&words("exec -i box -- cat"));
        assert!(fed(&mut through, &large).stdout == large, "eight megabytes go in and come out");

        let shown = kubectl.on_a_terminal("exec -it box -- sh -c 'tty; read line; echo got $line'", "hello\n");
        holds(&shown, &["/dev/pts/", "got hello"]);
        let size = kubectl.on_a_terminal("exec -it box -- sh -c 'stty rows 33 cols 77; stty size'", "");
        holds(&size, &["33 77"]);

        holds(&kubectl.fails(1, "exec nosuch -- true"), &["Error from server (NotFound): pods \"nosuch\" not found"]);
        holds(&kubectl.fails(1, "exec box -c nosuch -- true"), &["container nosuch is not valid for pod box"]);
        let missing = kubectl.output("exec box -- /nosuch");
        assert!(!missing.status.success() && text(&missing.stderr).contains("/nosuch"), "{}", text(&missing.stderr));
    });
}

#[test]
fn attach_joins_the_process_that_runs() {
    cluster(|kubectl| {
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
        kubectl.ok("wait pod/echo --for=jsonpath={.status.phase}=Succeeded --timeout=60s");
        assert_eq!(kubectl.ok("logs echo"), "got one\ngot two\nbye\n");
        assert_eq!(kubectl.fails(1, "attach echo"), "error: cannot attach a container in a completed pod; current phase is Succeeded\n");
    });
}

#[test]
fn ports_are_forwarded_to_pods_and_services() {
    cluster(|kubectl| {
        kubectl.web();
        leads_to_the_web(kubectl, "deployment/web :8080");
        leads_to_the_web(kubectl, "service/web :80");
    });
}

#[test]
fn the_proxy_leads_to_the_api_to_pods_and_to_services() {
    cluster(|kubectl| {
        kubectl.web();
        let mut proxy = kubectl.start("proxy --port=0");
        let address = first_line(&mut proxy, "Starting to serve on ").parse().unwrap();
        let fetch = |path: &str| fetch(address, path).unwrap();
        holds(&fetch("/version"), &["v1.37"]);
        let pod = kubectl.ok("get pods -l app=web -o jsonpath={.items[0].metadata.name}");
        assert_eq!(fetch(&format!("/api/v1/namespaces/default/pods/{pod}:8080/proxy/")), format!("{pod}\n"));
        holds(&fetch("/api/v1/namespaces/default/services/web:80/proxy/"), &["web-"]);
        assert_eq!(fetch("/api/v1/nodes/node-1/proxy/healthz"), "ok");
        assert_eq!(kubectl.ok("get --raw /api/v1/namespaces/default/services/http:web:80/proxy/").matches("web-").count(), 1);
    });
}

/// Forwards a port to `target`, behind which the web servers answer more than once.
pub(super) fn leads_to_the_web(kubectl: &Kubectl<'_>, target: &str) {
    let pods = kubectl.ok("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
    let mut forward = kubectl.start(&format!("port-forward {target}"));
    let address = first_line(&mut forward, "Forwarding from ");
    let address = address.split(' ').next().unwrap().parse().unwrap();
    for _ in 0..3 {
        let answer = fetch(address, "/").unwrap();
        assert!(pods.contains(answer.trim()), "{answer} is one of {pods}");
    }
}

/// What follows `start` in the first line that a command prints. The pipe stays open, for the lines that it prints later.
fn first_line(running: &mut Running, start: &str) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, running.0.stdout.as_mut().expect("it is a pipe")).read_line(&mut line).unwrap();
    line.trim().strip_prefix(start).unwrap_or_else(|| panic!("{line:?} does not begin with {start:?}")).to_owned()
}

#[test]
fn files_and_directories_are_copied_both_ways() {
    cluster(|kubectl| {
        kubectl.pod("box", "exec sleep 1000");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let back = kubectl.file("back", "");
        std::fs::remove_file(&back).unwrap();
        kubectl.ok(&format!("cp {source} box:/tmp/copy"));
        kubectl.ok(&format!("cp box:/tmp/copy {back}"));
        let same = std::process::Command::new("diff").args(["-r", source, &back]).stdout(Stdio::null()).status().unwrap();
        assert!(same.success(), "what came back is what was sent");
        let file = kubectl.file("file", "hello\n");
        kubectl.ok(&format!("cp {file} box:/tmp/file"));
        assert_eq!(kubectl.ok("exec box -- cat /tmp/file"), "hello\n");
        kubectl.ok(&format!("cp box:/tmp/file {file}.back"));
        assert_eq!(std::fs::read_to_string(format!("{file}.back")).unwrap(), "hello\n");
    });
}
