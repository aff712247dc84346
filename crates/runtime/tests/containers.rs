//! Containers on the real kernel: they run, speak, end, and are held within their limits.

mod support;

use std::time::Duration;

use knarr_runtime::{ContainerState, Mount, MountKind, Propagation, Resources, Runtime, SandboxState, User};
use support::{Node, on_a_node, on_a_node_with};

#[test]
fn a_container_speaks_and_ends() {
    on_a_node("a_container_speaks_and_ends", async |node: Node| {
        node.sandbox("pod").await;
        let (exit, log) = node.run("pod", node.shell("c", "echo out; echo err >&2; echo -n rest; exit 3")).await;
        assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
        assert_eq!(log, ["stdout F out", "stdout F rest", "stderr F err"]);
        let status = node.status("c");
        assert_eq!(status.reason, "Error");
        assert!(status.started_at_ns.expect("started") <= exit.finished_at_ns);
    });
}

#[test]
fn its_surroundings_are_as_asked() {
    on_a_node("its_surroundings_are_as_asked", async |node: Node| {
        node.sandbox_with("pod", |config| {
            config.hosts = Some("10.9.8.7 friend\n".to_owned());
            config.resolv_conf = Some("nameserver 10.43.0.10\n".to_owned());
            config.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into();
        })
        .await;
        let mut config = node.shell(
            "c",
            "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; pwd; id; echo $HOME $HOSTNAME $A; \
             cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo pid $$; ls /proc/self/fd | wc -l",
        );
        config.cwd = "/work/deep".to_owned();
        config.env = vec![("A".to_owned(), "1".to_owned())];
        config.user = User { image_user: "alice".to_owned(), supplemental_groups: vec![77], ..User::default() };
        let (exit, log) = node.run("pod", config).await;
        let expected = [
            "host-pod",
            "host-pod",
            "10.9.8.7 friend",
            "nameserver 10.43.0.10",
            "/work/deep",
            "uid=1000(alice) gid=1000(alice) groups=50(staff),77,1000(alice)",
            "/home/alice host-pod 1",
            "0",
            "pid 1",
            // 0, 1, 2, and the directory being listed.
            "4",
        ];
        assert_eq!(log, expected.map(|line| format!("stdout F {line}")));
        assert_eq!(exit.code, 0);
    });
}

#[test]
fn containers_of_a_pod_share_memory_and_network_but_not_processes() {
    on_a_node("containers_of_a_pod_share_memory_and_network_but_not_processes", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("server", "echo hello > /dev/shm/note; nc -l -p 8080 -e echo hi there; sleep 60")).await;
        let (_, log) =
            node.run("pod", node.shell("client", "while ! cat /dev/shm/note; do :; done 2>/dev/null; ps -o args | grep -c '^sleep'")).await;
        assert_eq!(log, ["stdout F hello", "stdout F 0"]);
    });
}

#[test]
fn a_shared_pid_namespace_outlives_its_first_container() {
    on_a_node("a_shared_pid_namespace_outlives_its_first_container", async |node: Node| {
        node.sandbox_with("pod", |config| config.share_pid = true).await;
        // It leaves a process behind, which must go with it.
        let (exit, _) = node.run("pod", node.shell("first", "sleep 1000 & exit 0")).await;
        assert_eq!(exit.code, 0);
        node.start("pod", node.shell("second", "exec sleep 2000")).await;
        let processes = node.exec("second", "ps -o args").await;
        assert!(processes.contains("sleep 2000"), "{processes}");
        assert!(!processes.contains("sleep 1000"), "{processes}");
        assert_ne!(node.exec("second", "echo $$").await.trim(), "1");
    });
}

#[test]
fn a_process_over_its_memory_limit_is_oom_killed() {
    on_a_node("a_process_over_its_memory_limit_is_oom_killed", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "exec tail /dev/zero");
        config.resources = Resources { memory_bytes: Some(16 << 20), ..Resources::default() };
        let (exit, _) = node.run("pod", config).await;
        assert_eq!((exit.code, exit.oom_killed), (137, true));
        assert_eq!(node.status("c").reason, "OOMKilled");
    });
}

#[test]
fn processes_and_processor_time_are_limited() {
    on_a_node("processes_and_processor_time_are_limited", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "sleep 60 & sleep 60 & sleep 60 & sleep 60 & wait");
        config.resources = Resources {
            pids: Some(3),
            cpu_quota_us: Some(20_000),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(512),
            ..Resources::default()
        };
        let (_, log) = node.run("pod", config).await;
        assert!(log.iter().any(|line| line.contains("can't fork")), "{log:?}");
    });
}

#[test]
fn limits_change_while_it_runs_and_use_is_counted() {
    on_a_node("limits_change_while_it_runs_and_use_is_counted", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "echo data > /written; exec sleep 60");
        config.resources = Resources { memory_bytes: Some(64 << 20), ..Resources::default() };
        node.start("pod", config).await;
        let changed = Resources { memory_bytes: Some(32 << 20), ..Resources::default() };
        node.runtime.update_resources("c", changed).await.expect("update");
        let stats = node.runtime.container_stats("c").await.expect("stats");
        assert_eq!(stats.memory_limit_bytes, Some(32 << 20));
        assert!(stats.memory_usage_bytes > 0 && stats.cpu_usage_ns > 0 && stats.pids == 1, "{stats:?}");
        let written = node.runtime.container_usage("c").await.expect("usage");
        assert!(written.bytes >= 5, "{written:?}");
        let pod = node.runtime.sandbox_stats("pod").await.expect("stats");
        assert!(pod.total.pids >= 1, "{pod:?}");
    });
}

#[test]
fn limits_of_a_pod_change_one_at_a_time_and_not_once_it_is_stopped() {
    on_a_node("limits_of_a_pod_change_one_at_a_time_and_not_once_it_is_stopped", async |node: Node| {
        node.sandbox("pod").await;
        let limited = |mib: u64| Resources { memory_bytes: Some(mib << 20), ..Resources::default() };
        let set = |mib: u64| {
            let runtime = node.runtime.clone();
            tokio::spawn(async move { runtime.update_sandbox_resources("pod", limited(mib)).await })
        };
        let changes: Vec<_> = (32..132).map(set).collect();
        for change in changes {
            change.await.expect("join").expect("update");
        }
        let record = node.data.join("sandboxes/pod/sandbox.json");
        let recorded = || {
            let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).expect("record")).expect("json");
            record["config"]["resources"]["memory_bytes"].as_u64()
        };
        let known = || node.runtime.list_sandboxes()[0].resources.memory_bytes;
        let held = node.runtime.sandbox_stats("pod").await.expect("stats").total.memory_limit_bytes;
        assert!(held.is_some_and(|it| it >= 32 << 20));
        assert_eq!((recorded(), known()), (held, held));

        node.runtime.stop_sandbox("pod").await.expect("stop");
        let refused = node.runtime.update_sandbox_resources("pod", limited(16)).await.expect_err("a stopped sandbox").to_string();
        assert!(refused.contains("it is being stopped"), "{refused}");
        assert_eq!((recorded(), known()), (held, held));
    });
}

#[test]
fn a_stop_is_a_signal_and_then_a_kill() {
    on_a_node("a_stop_is_a_signal_and_then_a_kill", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("polite", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")).await;
        let mut quitter = node.shell("quitter", "trap 'exit 8' QUIT; trap '' TERM; echo ready; while :; do sleep 0.01; done");
        quitter.stop_signal = libc::SIGQUIT;
        node.start("pod", quitter).await;
        node.start("pod", node.shell("deaf", "trap '' TERM; echo ready; while :; do sleep 0.01; done")).await;
        for id in ["polite", "quitter", "deaf"] {
            while node.log(id).is_empty() {
                tokio::task::yield_now().await;
            }
        }
        node.runtime.stop_container("polite", support::PATIENCE).await.expect("stop");
        node.runtime.stop_container("quitter", support::PATIENCE).await.expect("stop");
        node.runtime.stop_container("deaf", Duration::from_millis(50)).await.expect("stop");
        assert_eq!((node.ended("polite").await.code, node.ended("quitter").await.code, node.ended("deaf").await.code), (7, 8, 137));
        node.runtime.stop_container("deaf", Duration::ZERO).await.expect("again");
    });
}

#[test]
fn what_cannot_start_says_why() {
    on_a_node("what_cannot_start_says_why", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "");
        config.argv = vec!["no-such-program".to_owned()];
        node.runtime.create_container("pod", config).await.expect("create");
        let error = node.runtime.start_container("c").await.expect_err("no program").to_string();
        assert_eq!(error, r#"sandbox pod: exec: "no-such-program": executable file not found in $PATH"#);
        let status = node.status("c");
        assert!(matches!(status.state, ContainerState::Exited(exit) if exit.code == 128), "{status:?}");
        assert_eq!(status.reason, "StartError");
        node.runtime.remove_container("c").await.expect("remove");

        let mut config = node.shell("d", "");
        config.argv = vec!["/etc".to_owned()];
        node.runtime.create_container("pod", config).await.expect("create");
        let error = node.runtime.start_container("d").await.expect_err("a directory").to_string();
        assert!(error.contains("Permission denied"), "{error}");

        let mut config = node.shell("e", "true");
        config.user.image_user = "nobody-here".to_owned();
        assert!(node.runtime.create_container("pod", config).await.is_err());
        assert!(node.runtime.status("e").is_err());
    });
}

#[test]
fn a_sandbox_that_cannot_start_leaves_nothing() {
    on_a_node("a_sandbox_that_cannot_start_leaves_nothing", async |node: Node| {
        let config = knarr_runtime::SandboxConfig {
            id: "pod".to_owned(),
            sysctls: [("net.ipv4.no_such_setting".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let error = node.runtime.run_sandbox(config).await.expect_err("no such setting").to_string();
        assert!(error.contains("no_such_setting"), "{error}");
        assert!(node.runtime.list_sandboxes().is_empty());
        assert!(!node.data.join("sandboxes/pod").exists());
        assert_eq!(support::mounts_below(&node.data.join("sandboxes")), Vec::<String>::new());
        node.sandbox("pod").await;
    });
}

#[test]
fn volumes_are_mounted_as_asked() {
    on_a_node("volumes_are_mounted_as_asked", async |node: Node| {
        let volume = node.data.join("volume");
        std::fs::create_dir_all(volume.join("sub")).expect("volume");
        std::fs::write(volume.join("file"), "content\n").expect("file");
        node.sandbox("pod").await;
        let bind = |source: std::path::PathBuf, target: &str, readonly| Mount {
            kind: MountKind::Bind { source },
            target: target.into(),
            readonly,
            recursive_readonly: false,
            propagation: Propagation::Private,
        };
        let mut config = node.shell(
            "c",
            "cat /data/file /etc/one; echo no > /ro/x; echo yes > /data/written; echo rooted > /x; stat -f -c %T /cache; touch /cache/a && echo ok",
        );
        config.mounts = vec![
            bind(volume.clone(), "/data", false),
            bind(volume.clone(), "/ro", true),
            bind(volume.join("file"), "/etc/one", true),
            Mount {
                kind: MountKind::Tmpfs { size_bytes: Some(1 << 20), mode: 0o777 },
                target: "/cache".into(),
                readonly: false,
                recursive_readonly: false,
                propagation: Propagation::Private,
            },
        ];
        config.readonly_rootfs = true;
        let (_, log) = node.run("pod", config).await;
        assert_eq!(
            log,
            [
                "stdout F content",
                "stdout F content",
                "stdout F tmpfs",
                "stdout F ok",
                "stderr F sh: can't create /ro/x: Read-only file system",
                "stderr F sh: can't create /x: Read-only file system"
            ]
        );
        assert_eq!(std::fs::read_to_string(volume.join("written")).expect("written"), "yes\n");
    });
}

#[test]
fn logs_are_rotated_at_their_limit_as_they_are_written() {
    let small = |config: &mut knarr_runtime::RuntimeConfig| config.log_max_bytes = 64 << 10;
    on_a_node_with("logs_are_rotated_at_their_limit_as_they_are_written", small, &[], async |node: Node| {
        node.sandbox("pod").await;
        let (exit, _) = node.run("pod", node.shell("c", "seq 1 20000; head -c 40000 /dev/zero")).await;
        assert_eq!(exit.code, 0);
        let directory = node.data.join("logs/c");
        let mut names: Vec<String> =
            std::fs::read_dir(&directory).expect("logs").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        for name in &names {
            let length = std::fs::metadata(directory.join(name)).expect("log").len();
            assert!(length <= 64 << 10, "{name}: {length}");
        }
        let tags: Vec<String> = node.log("c").iter().filter(|line| line.contains('\0')).map(|line| line[..8].to_owned()).collect();
        assert_eq!(tags, ["stdout P", "stdout P", "stdout F"]);
    });
}

#[test]
fn a_removed_sandbox_is_gone_and_a_stopped_one_is_not_ready() {
    on_a_node("a_removed_sandbox_is_gone_and_a_stopped_one_is_not_ready", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "sleep 60")).await;
        let keeper = node.runtime.list_sandboxes()[0].pid;
        node.runtime.stop_sandbox("pod").await.expect("stop");
        assert_eq!(node.ended("c").await.code, 137);
        assert_eq!(node.runtime.list_sandboxes()[0].state, SandboxState::NotReady);
        // Its socket is closed; the kernel is about to free the rest.
        while !is_dead(keeper) {
            tokio::task::yield_now().await;
        }
        assert!(node.runtime.create_container("pod", node.shell("d", "true")).await.is_err());
        node.runtime.remove_sandbox("pod").await.expect("remove");
        node.runtime.remove_sandbox("pod").await.expect("again");
        assert!(node.runtime.list_containers().is_empty());
        assert!(!node.data.join("sandboxes/pod").exists());
        // The log is the caller's.
        assert!(node.log_path("c").exists());
    });
}

fn is_dead(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn many_pods_at_once() {
    on_a_node("many_pods_at_once", async |node: Node| {
        let node = std::sync::Arc::new(node);
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..12 {
            let node = std::sync::Arc::clone(&node);
            tasks.spawn(async move {
                let (pod, container) = (format!("pod{n}"), format!("c{n}"));
                node.sandbox(&pod).await;
                let (exit, log) = node.run(&pod, node.shell(&container, &format!("echo {n}"))).await;
                assert_eq!((exit.code, log), (0, vec![format!("stdout F {n}")]));
            });
        }
        tasks.join_all().await;
        let _: &Runtime = &node.runtime;
    });
}
