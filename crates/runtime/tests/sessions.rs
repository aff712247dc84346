//! Exec, attach and port forwarding.

mod support;

use std::time::Duration;

use knarr_runtime::{Error, User};
use support::{Node, PATIENCE, on_a_node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What makes a process what it may do; the same for a container's first process and an exec'd one.
const RIGHTS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp):?' /proc/self/status; cat /proc/self/cgroup /proc/self/oom_score_adj; \
    for ns in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$ns; done; cat /proc/self/limits; pwd; env | grep -v _=";

#[test]
fn an_exec_has_the_restrictions_of_its_container() {
    on_a_node("an_exec_has_the_restrictions_of_its_container", async |node: Node| {
        node.sandbox("pod").await;
        for (id, no_new_privileges) in [("plain", false), ("strict", true)] {
            let mut config = node.shell(id, &format!("{RIGHTS}; echo END; exec sleep 60"));
            config.no_new_privileges = no_new_privileges;
            config.oom_score_adj = Some(500);
            config.cwd = "/tmp".to_owned();
            config.env = vec![("A".to_owned(), "b".to_owned())];
            config.user = User { uid: Some(1000), gid: Some(50), supplemental_groups: vec![9], ..User::default() };
            config.rlimits = vec![knarr_runtime::Rlimit { name: "RLIMIT_NOFILE".to_owned(), soft: 512, hard: 1024 }];
            node.start("pod", config).await;
            while node.log(id).last().is_none_or(|line| line != "stdout F END") {
                tokio::task::yield_now().await;
            }
            let log = node.log(id);
            let first: Vec<&str> = log.iter().map(|line| line.trim_start_matches("stdout F ")).take_while(|line| *line != "END").collect();
            let exec = node.exec(id, RIGHTS).await;
            assert_eq!(exec.lines().collect::<Vec<_>>(), first);
            assert!(exec.contains("Seccomp:\t2"), "{exec}");
            assert!(exec.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{exec}");
            assert!(exec.contains("CapBnd:\t00000000a80425fb"), "{exec}");
            assert!(exec.contains("CapInh:\t0000000000000000"), "{exec}");
        }
    });
}

#[test]
fn an_exec_gives_its_output_and_code_within_limits() {
    on_a_node("an_exec_gives_its_output_and_code_within_limits", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "sleep 60")).await;
        let argv = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        let output = node.runtime.exec_sync("c", argv("echo out; echo err >&2; exit 5"), None, 100).await.expect("exec");
        assert_eq!((output.code, output.stdout.as_slice(), output.stderr.as_slice()), (5, &b"out\n"[..], &b"err\n"[..]));
        // What goes on in the background holds the pipes, not the caller.
        let output = node.runtime.exec_sync("c", argv("sleep 30 & echo now"), None, 100).await.expect("exec");
        assert_eq!(output.stdout, b"now\n");
        let output = node.runtime.exec_sync("c", argv("yes | head -c 3000000"), None, 1000).await.expect("exec");
        assert_eq!((output.stdout.len(), output.truncated, output.code), (1000, true, 0));
        let error = node.runtime.exec_sync("c", argv("sleep 30"), Some(Duration::from_millis(50)), 100).await.expect_err("late");
        assert!(matches!(error, Error::ExecTimeout { .. }), "{error}");
        let error = node.runtime.exec_sync("c", vec!["no-such".to_owned()], None, 100).await.expect_err("missing").to_string();
        assert_eq!(error, r#"sandbox pod: exec: "no-such": executable file not found in $PATH"#);
        // Of the two that were to sleep, the one that was too late is gone.
        assert_eq!(node.exec("c", "ps -o args | grep -c '^sleep 30'").await.trim(), "1");
    });
}

#[test]
fn an_exec_is_fed_and_ends_with_its_input() {
    on_a_node("an_exec_is_fed_and_ends_with_its_input", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "sleep 60")).await;
        let mut session = node.runtime.exec("c", vec!["cat".to_owned()], false, true).await.expect("exec");
        let mut stdin = session.stdin.take().expect("stdin");
        let mut stdout = session.stdout.take().expect("stdout");
        let big = vec![b'x'; 1 << 20];
        let expected = big.clone();
        tokio::spawn(async move { stdin.write_all(&big).await.expect("write") });
        let mut got = Vec::new();
        stdout.read_to_end(&mut got).await.expect("read");
        assert!(got == expected, "{} bytes", got.len());
        assert_eq!(session.wait().await.expect("wait").code, 0);

        // One that nobody waits for any more is ended.
        let session = node.runtime.exec("c", vec!["sleep".to_owned(), "77".to_owned()], false, false).await.expect("exec");
        drop(session);
        while node.exec("c", "ps -o args").await.contains("sleep 77") {}
    });
}

#[test]
fn an_exec_on_a_terminal_knows_its_size() {
    on_a_node("an_exec_on_a_terminal_knows_its_size", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "sleep 60")).await;
        let script = "tty; stty -echo; echo ready; read go; stty size; echo $TERM; exit 4";
        let mut session = node.runtime.exec("c", ["sh", "-c", script].map(str::to_owned).to_vec(), true, true).await.expect("exec");
        session.resize(91, 33).await.expect("resize");
        let mut stdout = session.stdout.take().expect("stdout");
        let mut text = String::new();
        while !text.contains("ready") {
            text.push(char::from(stdout.read_u8().await.expect("read")));
        }
        session.stdin.as_mut().expect("stdin").write_all(b"\n").await.expect("write");
        stdout.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "/dev/pts/0\r\nready\r\n33 91\r\nxterm\r\n");
        assert_eq!(session.wait().await.expect("wait").code, 4);
    });
}

#[test]
fn attached_clients_see_what_is_logged() {
    on_a_node("attached_clients_see_what_is_logged", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "while read line; do echo got $line; done; echo end >&2");
        config.stdin = true;
        config.stdin_once = true;
        node.start("pod", config).await;
        let mut watcher = node.runtime.attach("c", false).await.expect("attach");
        let mut session = node.runtime.attach("c", true).await.expect("attach");
        let mut stdin = session.stdin.take().expect("stdin");
        stdin.write_all(b"one\ntwo\n").await.expect("write");
        drop(stdin);
        for session in [&mut watcher, &mut session] {
            let (mut out, mut err) = (String::new(), String::new());
            session.stdout.take().expect("stdout").read_to_string(&mut out).await.expect("read");
            session.stderr.take().expect("stderr").read_to_string(&mut err).await.expect("read");
            assert_eq!((out.as_str(), err.as_str()), ("got one\ngot two\n", "end\n"));
        }
        assert_eq!(session.wait().await.expect("wait").code, 0);
        assert_eq!(node.log("c"), ["stdout F got one", "stdout F got two", "stderr F end"]);
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    on_a_node("a_client_that_does_not_read_holds_up_nobody", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "read go; yes $(seq 1 200) | head -n 12000; echo done");
        config.stdin = true;
        node.start("pod", config).await;
        let idle = node.runtime.attach("c", false).await.expect("attach");
        let mut session = node.runtime.attach("c", true).await.expect("attach");
        session.stdout = None;
        session.stdin.as_mut().expect("stdin").write_all(b"\n").await.expect("write");
        assert_eq!(node.ended("c").await.code, 0);
        assert_eq!(node.log("c").last().map(String::as_str), Some("stdout F done"));
        drop(idle);
    });
}

#[test]
fn a_terminal_is_the_container_s_own() {
    on_a_node("a_terminal_is_the_container_s_own", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "tty; stat -c %t:%T /dev/console; read line; stty size; echo said $line");
        config.tty = true;
        config.stdin = true;
        node.start("pod", config).await;
        let mut session = node.runtime.attach("c", true).await.expect("attach");
        session.resize(100, 40).await.expect("resize");
        while node.log("c").len() < 2 {
            tokio::task::yield_now().await;
        }
        session.stdin.as_mut().expect("stdin").write_all(b"words\n").await.expect("write");
        assert_eq!(node.ended("c").await.code, 0);
        let log: Vec<String> = node.log("c").iter().map(|line| line.trim_end_matches('\r').to_owned()).collect();
        assert_eq!(log, ["/dev/pts/0", "88:0", "words", "40 100", "said words"].map(|line| format!("stdout F {line}")));
    });
}

#[test]
fn a_port_of_the_pod_is_reached_from_the_node() {
    on_a_node("a_port_of_the_pod_is_reached_from_the_node", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "nc -l -p 8080 -e echo hello")).await;
        let connect = async {
            loop {
                match node.runtime.port_forward("pod", 8080).await {
                    Ok(stream) => return stream,
                    // It does not listen yet.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let mut stream = tokio::time::timeout(PATIENCE, connect).await.unwrap_or_else(|_| panic!("{:?}", node.log("c")));
        let mut text = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("in time").expect("read");
        assert_eq!(text, "hello\n");
        assert!(node.runtime.port_forward("pod", 9).await.is_err());
    });
}
