//! A node of its own for a test: a data directory, a cgroup root, an image made of busybox, and at the end a look at what is left.

#![allow(dead_code, reason = "each test file uses its part")]

use std::future::Future;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_runtime::{ContainerConfig, ContainerState, ContainerStatus, Exit, Registries, Runtime, RuntimeConfig, SandboxConfig};
use sha2::{Digest, Sha256};

pub(crate) const IMAGE: &str = "docker.io/library/busybox:test";

/// Waits of a test; a container of busybox starts in milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) data: PathBuf,
    pub(crate) image: String,
}

/// The settings of a test's node; `tag` keeps apart what several of them have in one process.
pub(crate) fn config(data: &Path, tag: &str) -> RuntimeConfig {
    RuntimeConfig {
        data_dir: data.to_owned(),
        cgroup_root: format!("/knarr-test-{tag}"),
        keeper_exe: env!("CARGO_BIN_EXE_knarr-keeper-for-tests").into(),
        log_max_bytes: 10 << 20,
        log_files: 3,
        registries: Registries::default(),
    }
}

/// Runs a test on a node of its own, and checks that its teardown leaves nothing.
pub(crate) fn on_a_node<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Node) -> F) {
    on_a_node_with(name, |_| {}, &[], test);
}

pub(crate) fn on_a_node_with<F: Future<Output = ()>>(
    name: &str,
    change: impl FnOnce(&mut RuntimeConfig),
    extra: &[Entry<'_>],
    test: impl FnOnce(Node) -> F,
) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {name}: needs root");
        return;
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let mut config = config(directory.path(), &std::process::id().to_string());
    change(&mut config);
    let cgroup = config.cgroup_root.clone();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    let runtime = tokio.block_on(Runtime::open(config)).expect("open");
    let image = import(&runtime, extra);
    let node = Node { runtime: runtime.clone(), data: directory.path().to_owned(), image };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tokio.block_on(async { test(node).await })));
    let torn_down = tokio.block_on(runtime.teardown());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    torn_down.expect("teardown");
    assert_eq!(left_over(directory.path(), &cgroup), Vec::<String>::new());
}

/// Mounts and processes' groups that a node has left.
pub(crate) fn left_over(data: &Path, cgroup: &str) -> Vec<String> {
    let mut left: Vec<String> = mounts_below(data).into_iter().filter(|mount| !mount.contains("/images/")).collect();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let group = hierarchy.path().join(cgroup.trim_start_matches('/'));
        if group.exists() {
            left.push(group.display().to_string());
        }
    }
    for entry in std::fs::read_dir(data.join("sandboxes")).into_iter().flatten().flatten() {
        left.push(entry.path().display().to_string());
    }
    left
}

pub(crate) fn mounts_below(directory: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mounts = table.lines().filter_map(|line| line.split(' ').nth(4));
    mounts.filter(|mount| Path::new(mount).starts_with(directory)).map(str::to_owned).collect()
}

/// One more member of the image's only layer.
pub(crate) enum Entry<'a> {
    Symlink(&'a str, &'a str),
    File(&'a str, u32, &'a [u8]),
    /// Leave out a directory that the image would have.
    Without(&'a str),
}

pub(crate) fn import(runtime: &Runtime, extra: &[Entry<'_>]) -> String {
    let layer = layer(extra);
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(&layer)
    );
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = format!(r#"[{{"Config":"{name}","RepoTags":["{IMAGE}"],"Layers":["layer.tar"]}}]"#);
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in [("layer.tar", layer.as_slice()), (name.as_str(), config.as_bytes()), ("manifest.json", manifest.as_bytes())] {
        file(&mut archive, path, 0o644, bytes);
    }
    let archive = archive.into_inner().expect("archive");
    let images = runtime.images().import(Cursor::new(archive), &|_| {}).expect("import");
    images[0].id.clone()
}

fn layer(extra: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        if extra.iter().any(|entry| matches!(entry, Entry::Without(path) if *path == directory)) {
            continue;
        }
        let mut header = header();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if directory == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty()).expect("directory");
    }
    file(&mut tar, "bin/busybox", 0o755, &std::fs::read("/bin/busybox").expect("busybox-static is installed"));
    for applet in [
        "sh", "cat", "echo", "ls", "sleep", "tail", "id", "stty", "tty", "nc", "ps", "grep", "hostname", "mount", "touch", "head", "yes",
        "true", "env", "pwd", "unshare", "mknod", "readlink", "stat", "kill", "seq", "dd", "wc", "chmod",
    ] {
        symlink(&mut tar, &format!("bin/{applet}"), "busybox");
    }
    file(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n");
    file(&mut tar, "etc/group", 0o644, b"root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n");
    for entry in extra {
        match entry {
            Entry::Symlink(path, target) => symlink(&mut tar, path, target),
            Entry::File(path, mode, bytes) => file(&mut tar, path, *mode, bytes),
            Entry::Without(_) => {}
        }
    }
    tar.into_inner().expect("layer")
}

fn header() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) {
    let mut header = header();
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes).expect("file");
}

fn symlink(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = header();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, path, target).expect("symlink");
}

impl Node {
    pub(crate) async fn sandbox(&self, id: &str) {
        self.sandbox_with(id, |_| {}).await;
    }

    pub(crate) async fn sandbox_with(&self, id: &str, change: impl FnOnce(&mut SandboxConfig)) {
        let mut config = SandboxConfig { id: id.to_owned(), hostname: format!("host-{id}"), ..SandboxConfig::default() };
        change(&mut config);
        self.runtime.run_sandbox(config).await.expect("run sandbox");
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.data.join("logs").join(id).join("0.log")
    }

    /// The log without times: what stdout got, then what stderr got. They are two pipes; which of them is read first is chance.
    pub(crate) fn log(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log_path(id)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(|line| line.split_once(' ').map_or("", |(_, rest)| rest).to_owned()).collect();
        lines.sort_by_key(|line| line.starts_with("stderr"));
        lines
    }

    pub(crate) fn shell(&self, id: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            id: id.to_owned(),
            name: id.to_owned(),
            image: self.image.clone(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: Some(self.log_path(id)),
            ..ContainerConfig::default()
        }
    }

    pub(crate) async fn start(&self, sandbox: &str, config: ContainerConfig) {
        let id = config.id.clone();
        self.runtime.create_container(sandbox, config).await.expect("create");
        self.runtime.start_container(&id).await.expect("start");
    }

    /// Runs a script to its end.
    pub(crate) async fn run(&self, sandbox: &str, config: ContainerConfig) -> (Exit, Vec<String>) {
        let id = config.id.clone();
        self.start(sandbox, config).await;
        let exit = self.ended(&id).await;
        (exit, self.log(&id))
    }

    pub(crate) fn status(&self, id: &str) -> ContainerStatus {
        self.runtime.status(id).expect("status")
    }

    pub(crate) async fn ended(&self, id: &str) -> Exit {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                if let ContainerState::Exited(exit) = self.status(id).state {
                    return exit;
                }
                events.next().await.expect("events");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container ends in time")
    }

    /// Runs a command by exec and gives what it said.
    pub(crate) async fn exec(&self, id: &str, script: &str) -> String {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let output = self.runtime.exec_sync(id, argv, Some(PATIENCE), 64 << 10).await.expect("exec");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}
