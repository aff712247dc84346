//! What a container must not be able to do, each with the fault elsewhere that it guards against (reference/security.md).

mod support;

use std::os::unix::fs::MetadataExt;

use knarr_runtime::{Capabilities, ContainerConfig, Mount, MountKind, Propagation, Seccomp};
use support::{Entry, Node, on_a_node, on_a_node_with};

/// Only the three streams, and the directory being listed (CVE-2024-21626).
#[test]
fn no_descriptor_of_the_host_is_inherited() {
    on_a_node("no_descriptor_of_the_host_is_inherited", async |node: Node| {
        node.sandbox("pod").await;
        let mut config = node.shell("c", "");
        config.argv = ["ls", "/proc/self/fd"].map(str::to_owned).to_vec();
        let (_, log) = node.run("pod", config).await;
        assert_eq!(log, ["0", "1", "2", "3"].map(|fd| format!("stdout F {fd}")));
        node.start("pod", node.shell("d", "sleep 60")).await;
        let output =
            node.runtime.exec_sync("d", ["ls", "/proc/self/fd", "/proc/1/fd"].map(str::to_owned).to_vec(), None, 1000).await.expect("exec");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/proc/1/fd:\n0\n1\n2\n\n/proc/self/fd:\n0\n1\n2\n3\n");
    });
}

/// CVE-2024-21626: a working directory by way of a descriptor of the host.
#[test]
fn a_working_directory_outside_the_root_is_refused() {
    on_a_node("a_working_directory_outside_the_root_is_refused", async |node: Node| {
        node.sandbox("pod").await;
        for fd in 3..20 {
            let id = format!("c{fd}");
            let mut config = node.shell(&id, "pwd; ls ..");
            config.cwd = format!("/proc/self/fd/{fd}");
            node.runtime.create_container("pod", config).await.expect("create");
            if node.runtime.start_container(&id).await.is_ok() {
                node.ended(&id).await;
                assert!(!node.log(&id).iter().any(|line| line.contains("unreachable")), "{:?}", node.log(&id));
                assert!(node.log(&id).first().is_some_and(|line| line == "stdout F /"), "{:?}", node.log(&id));
            }
        }
    });
}

#[test]
fn what_is_masked_and_read_only_stays_so() {
    on_a_node("what_is_masked_and_read_only_stays_so", async |node: Node| {
        node.sandbox("pod").await;
        let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do [ -e $f ] && stat -c %t:%T $f; done; \
            ls -A /sys/firmware; echo 1 > /proc/sys/kernel/hostname; echo 1 > /sys/kernel/profiling; touch /sys/fs/cgroup/x; \
            mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk; unshare -m true; mount -t tmpfs x /tmp; hostname evil; id -u";
        let (_, log) = node.run("pod", node.shell("c", script)).await;
        let text = log.join("\n");
        assert_eq!(
            text.matches("stdout F 1:3").count(),
            ["/proc/kcore", "/proc/keys", "/proc/timer_list"].iter().filter(|path| std::path::Path::new(path).exists()).count(),
            "{text}"
        );
        for refused in [
            "can't create /proc/sys/kernel/hostname: Read-only file system",
            "head: /tmp/disk: Operation not permitted",
            "unshare: unshare(0x20000): Operation not permitted",
            "mount: permission denied",
            "hostname: sethostname: Operation not permitted",
        ] {
            assert!(text.contains(refused), "{refused}\n{text}");
        }
        assert!(text.contains("touch: /sys/fs/cgroup/x: Read-only file system"), "{text}");
        assert!(text.contains("stdout F 0"), "the script goes on to its end: {text}");
    });
}

/// CVE-2019-19921, CVE-2025-52565, CVE-2026-41579: links where the runtime mounts.
#[test]
fn links_in_an_image_do_not_move_mounts() {
    for (path, target) in [("dev", "/tmp"), ("proc", "/tmp"), ("sys", "tmp"), ("dev", "/")] {
        let extra = [Entry::Without(path), Entry::Symlink(path, target)];
        on_a_node_with(
            &format!("links_in_an_image_do_not_move_mounts {path}"),
            |_| {},
            &extra,
            async |node: Node| {
                node.sandbox("pod").await;
                node.runtime.create_container("pod", node.shell("c", "echo ran")).await.expect("create");
                let error = node.runtime.start_container("c").await.expect_err("a link").to_string();
                assert!(error.contains("the image has no plain directory there"), "{error}");
                assert!(!std::path::Path::new("/fd").exists());
            },
        );
    }
}

/// CVE-2021-30465 and its kin: a link in a volume or an image leads nowhere outside.
#[test]
fn links_in_targets_are_resolved_within_the_root() {
    let extra = [
        Entry::Symlink("escape", "/../../../../../../../../../tmp"),
        Entry::Symlink("etc/hosts", "/../../../../../../../../../etc/knarr-hosts"),
    ];
    on_a_node_with(
        "links_in_targets_are_resolved_within_the_root",
        |_| {},
        &extra,
        async |node: Node| {
            node.sandbox_with("pod", |config| config.hosts = Some("1.2.3.4 pod\n".to_owned())).await;
            let volume = node.data.join("volume");
            std::fs::create_dir(&volume).expect("volume");
            std::fs::write(volume.join("inside"), "").expect("file");
            let mut config = node.shell("c", "ls /tmp/volume; cat /etc/hosts");
            config.mounts = vec![Mount {
                kind: MountKind::Bind { source: volume },
                target: "/escape/volume".into(),
                readonly: false,
                recursive_readonly: false,
                propagation: Propagation::Private,
            }];
            let (_, log) = node.run("pod", config).await;
            assert_eq!(log, ["stdout F inside", "stdout F 1.2.3.4 pod"]);
            assert!(!std::path::Path::new("/etc/knarr-hosts").exists());
            assert!(!std::path::Path::new("/tmp/volume").exists());
        },
    );
}

/// CVE-2025-31133: masking by way of a /dev/null that is something else. `/dev` of the image is covered by ours, so the way is a
/// volume on `/dev`.
#[test]
fn a_false_null_device_is_refused() {
    on_a_node("a_false_null_device_is_refused", async |node: Node| {
        let dev = node.data.join("dev");
        std::fs::create_dir(&dev).expect("dev");
        std::fs::write(dev.join("null"), "precious").expect("null");
        node.sandbox("pod").await;
        let mut config = node.shell("c", "echo ran");
        config.mounts = vec![Mount {
            kind: MountKind::Bind { source: dev.clone() },
            target: "/dev".into(),
            readonly: false,
            recursive_readonly: false,
            propagation: Propagation::Private,
        }];
        for dir in ["pts", "shm", "mqueue"] {
            std::fs::create_dir(dev.join(dir)).expect("dir");
        }
        node.runtime.create_container("pod", config).await.expect("create");
        let error = node.runtime.start_container("c").await.expect_err("no null device").to_string();
        assert!(error.contains("is not the null device"), "{error}");
    });
}

/// CVE-2019-5736: the keeper's program is reached over /proc/<pid>/exe by who gets that far; its mount is read-only.
#[test]
fn the_keeper_s_program_is_on_a_read_only_mount_and_hidden() {
    on_a_node("the_keeper_s_program_is_on_a_read_only_mount_and_hidden", async |node: Node| {
        node.sandbox("pod").await;
        let pid = node.runtime.list_sandboxes()[0].pid;
        let mount = rustix::fs::statvfs(format!("/proc/{pid}/exe")).expect("statvfs");
        assert!(mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        let socket = std::fs::metadata(node.data.join("sandboxes/pod/keeper.sock")).expect("socket");
        assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
        let directory = std::fs::metadata(node.data.join("sandboxes/pod")).expect("directory");
        assert_eq!(directory.mode() & 0o777, 0o700);
        // A container whose program is the keeper's own, as a link of the image may say.
        let mut config = node.shell("c", "");
        config.argv = vec!["/proc/self/exe".to_owned(), "keeper".to_owned(), "/".to_owned()];
        node.runtime.create_container("pod", config).await.expect("create");
        if node.runtime.start_container("c").await.is_ok() {
            assert_ne!(node.ended("c").await.code, 0);
        }
    });
}

#[test]
fn capabilities_and_filters_are_those_asked_for() {
    on_a_node("capabilities_and_filters_are_those_asked_for", async |node: Node| {
        node.sandbox("pod").await;
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let status = "grep -E '^(CapEff|Seccomp):' /proc/self/status; chmod 600 /tmp && echo may";
        let check = async |id: &str, change: &dyn Fn(&mut ContainerConfig), expected: &[&str]| {
            let mut config = node.shell(id, status);
            change(&mut config);
            let (_, log) = node.run("pod", config).await;
            assert_eq!(log, expected, "{id}");
        };
        check(
            "none",
            &|config| config.capabilities = Capabilities { drop: list(&["ALL"]), ..Default::default() },
            &["stdout F CapEff:\t0000000000000000", "stdout F Seccomp:\t2", "stdout F may"],
        )
        .await;
        check(
            "one",
            &|config| config.capabilities = Capabilities { add: list(&["NET_ADMIN"]), drop: list(&["ALL"]) },
            &["stdout F CapEff:\t0000000000001000", "stdout F Seccomp:\t2", "stdout F may"],
        )
        .await;
        check(
            "open",
            &|config| config.seccomp = Seccomp::Unconfined,
            &["stdout F CapEff:\t00000000a80425fb", "stdout F Seccomp:\t0", "stdout F may"],
        )
        .await;
        let profile = node.data.join("profile.json");
        std::fs::write(
            &profile,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO"}]}"#,
        )
        .expect("profile");
        check(
            "own",
            &|config| config.seccomp = Seccomp::Localhost(profile.clone()),
            &["stdout F CapEff:\t00000000a80425fb", "stdout F Seccomp:\t2", "stderr F chmod: /tmp: Operation not permitted"],
        )
        .await;
    });
}

#[test]
fn a_privileged_container_has_the_node_s_rights_and_devices() {
    on_a_node("a_privileged_container_has_the_node_s_rights_and_devices", async |node: Node| {
        node.sandbox("pod").await;
        let mut config =
            node.shell("c", "grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted; [ -c /dev/kmsg ] && echo kmsg");
        config.privileged = true;
        let (_, log) = node.run("pod", config).await;
        let own = std::fs::read_to_string("/proc/self/status").expect("status");
        let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd").trim().to_owned();
        assert_eq!(log, [format!("stdout F CapEff:\t{bounding}"), "stdout F mounted".to_owned(), "stdout F kmsg".to_owned()]);
    });
}

/// What is mounted on the host below a HostToContainer volume arrives; what a container mounts below a Bidirectional one does too.
#[test]
fn mounts_propagate_as_asked_and_no_further() {
    on_a_node("mounts_propagate_as_asked_and_no_further", async |node: Node| {
        let shared = node.data.join("shared");
        std::fs::create_dir(&shared).expect("dir");
        rustix::mount::mount_bind(&shared, &shared).expect("bind");
        rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED).expect("share");
        node.sandbox("pod").await;
        let mount = |propagation| Mount {
            kind: MountKind::Bind { source: shared.clone() },
            target: "/volume".into(),
            readonly: false,
            recursive_readonly: false,
            propagation,
        };
        for (id, propagation) in
            [("private", Propagation::Private), ("slave", Propagation::HostToContainer), ("shared", Propagation::Bidirectional)]
        {
            let mut config = node.shell(id, "sleep 60");
            config.privileged = true;
            config.mounts = vec![mount(propagation)];
            node.start("pod", config).await;
        }
        for name in ["host", "c"] {
            std::fs::create_dir(shared.join(name)).expect("dir");
        }
        rustix::mount::mount("tmpfs", shared.join("host"), "tmpfs", rustix::mount::MountFlags::empty(), None).expect("mount");
        let mut seen = Vec::new();
        for id in ["private", "slave", "shared"] {
            seen.push(node.exec(id, "grep -c ' /volume/host ' /proc/self/mounts").await.trim().to_owned());
        }
        assert_eq!(seen, ["0", "1", "1"]);
        for id in ["private", "slave"] {
            node.exec(id, "mount -t tmpfs x /volume/c").await;
            assert!(!support::mounts_below(&shared).iter().any(|mount| mount.ends_with("/c")), "{id}");
        }
        node.exec("shared", "mount -t tmpfs x /volume/c").await;
        assert!(support::mounts_below(&shared).iter().any(|mount| mount.ends_with("/c")));
        for name in ["host", "c"] {
            rustix::mount::unmount(shared.join(name), rustix::mount::UnmountFlags::DETACH).expect("unmount");
        }
        rustix::mount::unmount(&shared, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    });
}
