//! kill -9: of the node process, which its pods survive, and of keepers, which they do not.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use knarr_runtime::{ContainerState, Runtime, RuntimeEvent, SandboxConfig, SandboxState};
use support::{Node, PATIENCE, on_a_node};

#[test]
fn the_death_of_a_keeper_is_the_death_of_its_containers_and_is_told() {
    on_a_node("the_death_of_a_keeper_is_the_death_of_its_containers_and_is_told", async |node: Node| {
        for pod in ["pod", "other"] {
            node.sandbox(pod).await;
        }
        node.start("pod", node.shell("c", "sleep 1000")).await;
        node.start("other", node.shell("d", "sleep 1000")).await;
        let ContainerState::Running { pid } = node.status("c").state else { panic!("it runs") };
        let keeper = node.runtime.list_sandboxes().into_iter().find(|sandbox| sandbox.id == "pod").expect("pod").pid;
        let mut events = node.runtime.events();
        kill(keeper);
        let told = async {
            let mut told = Vec::new();
            while told.len() < 2 {
                told.push(match events.next().await.expect("events") {
                    RuntimeEvent::Exited { container, exit, .. } => format!("{container} {}", exit.code),
                    other => format!("{other:?}"),
                });
            }
            told
        };
        let told = tokio::time::timeout(PATIENCE, told).await.expect("in time");
        assert_eq!(told, ["c 137", r#"SandboxDied { sandbox: "pod" }"#]);
        assert!(!alive(pid));
        assert_eq!(node.status("c").message, "the pod's keeper died and the container with it");
        let states: Vec<(String, SandboxState)> =
            node.runtime.list_sandboxes().into_iter().map(|sandbox| (sandbox.id, sandbox.state)).collect();
        assert_eq!(states, [("other".to_owned(), SandboxState::Ready), ("pod".to_owned(), SandboxState::NotReady)]);
        assert!(matches!(node.status("d").state, ContainerState::Running { .. }));
        node.runtime.remove_sandbox("pod").await.expect("remove");
        node.sandbox("pod").await;
        assert_eq!(node.run("pod", node.shell("c", "echo again")).await.1.last().map(String::as_str), Some("stdout F again"));
    });
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// In the child process of a test: a node that does as its part says until it is killed.
fn play(part: &str, data: &Path, tag: &str) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let runtime = Runtime::open(support::config(data, tag)).await.expect("open");
        let image = runtime.images().list()[0].id.clone();
        let node = Node { runtime, data: data.to_owned(), image };
        println!("ready");
        match part {
            "hold" => {
                node.sandbox("pod").await;
                node.start("pod", node.shell("c", "trap 'echo bye; exit 9' TERM; while :; do echo tick; sleep 0.01; done")).await;
                node.start("pod", node.shell("short", "sleep 0.2; echo over; exit 4")).await;
                println!("running");
                std::future::pending::<()>().await;
            }
            "churn" => {
                for round in 0.. {
                    let (pod, container) = (format!("pod{round}"), format!("c{round}"));
                    let config = SandboxConfig { id: pod.clone(), hostname: pod.clone(), ..SandboxConfig::default() };
                    node.runtime.run_sandbox(config).await.expect("run");
                    node.start(&pod, node.shell(&container, "sleep 1000")).await;
                    node.runtime.remove_sandbox(&pod).await.expect("remove");
                }
            }
            other => panic!("no part {other}"),
        }
    });
}

const PART: &str = "KNARR_TEST_PART";

/// True in the child process, when its part is over.
fn played() -> bool {
    let Ok(part) = std::env::var(PART) else { return false };
    let mut words = part.split_whitespace();
    let (part, data, tag) = (words.next().expect("part"), words.next().expect("data"), words.next().expect("tag"));
    play(part, Path::new(data), tag);
    true
}

fn spawn(test: &str, part: &str, data: &Path, tag: &str) -> (Child, impl FnMut(&str) + use<>) {
    let mut command = Command::new(std::env::current_exe().expect("exe"));
    command.args(["--exact", test, "--nocapture"]).env(PART, format!("{part} {} {tag}", data.display())).stdout(Stdio::piped());
    let mut child = command.spawn().expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let wait_for = move |word: &str| assert!(lines.by_ref().any(|line| line.is_ok_and(|line| line.ends_with(word))), "{word}");
    (child, wait_for)
}

struct Ground {
    directory: tempfile::TempDir,
    tag: String,
    tokio: tokio::runtime::Runtime,
}

impl Ground {
    /// A data directory with an image in it.
    fn prepare() -> Ground {
        let ground = Ground {
            directory: tempfile::tempdir().expect("tempdir"),
            tag: format!("{}-crash", std::process::id()),
            tokio: tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio"),
        };
        let runtime = ground.open();
        support::import(&runtime, &[]);
        ground
    }

    fn open(&self) -> Runtime {
        self.tokio.block_on(Runtime::open(support::config(self.directory.path(), &self.tag))).expect("open")
    }

    fn finish(self, runtime: Runtime) {
        self.tokio.block_on(runtime.teardown()).expect("teardown");
        assert_eq!(support::left_over(self.directory.path(), &format!("/knarr-test-{}", self.tag)), Vec::<String>::new());
    }
}

#[test]
fn pods_survive_the_node_process_and_are_adopted() {
    const TEST: &str = "pods_survive_the_node_process_and_are_adopted";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {TEST}: needs root");
        return;
    }
    if played() {
        return;
    }
    let ground = Ground::prepare();
    let (mut child, mut wait_for) = spawn(TEST, "hold", ground.directory.path(), &ground.tag);
    wait_for("running");
    child.kill().expect("kill");
    child.wait().expect("wait");

    // Nobody is there; the keeper notes the end of `short` alone.
    let record = ground.directory.path().join("sandboxes/pod/containers/short/exit.json");
    while !record.exists() {
        std::thread::yield_now();
    }
    let runtime = ground.open();
    let image = runtime.images().list()[0].id.clone();
    let node = Node { runtime: runtime.clone(), data: ground.directory.path().to_owned(), image };
    ground.tokio.block_on(async {
        assert_eq!(node.ended("short").await.code, 4);
        assert_eq!(node.log("short"), ["stdout F over"]);
        let ContainerState::Running { pid } = node.status("c").state else { panic!("{:?}", node.status("c")) };
        assert!(alive(pid));
        assert_eq!(runtime.list_sandboxes()[0].state, SandboxState::Ready);
        assert_eq!(node.exec("c", "hostname").await.trim(), "host-pod");
        runtime.stop_container("c", PATIENCE).await.expect("stop");
        assert_eq!(node.ended("c").await.code, 9);
        assert_eq!(node.log("c").last().map(String::as_str), Some("stdout F bye"));
        assert_eq!(node.run("pod", node.shell("new", "echo new")).await.1, ["stdout F new"]);
    });
    ground.finish(runtime);
}

#[test]
fn a_node_killed_at_any_step_leaves_nothing_after_its_next_start() {
    const TEST: &str = "a_node_killed_at_any_step_leaves_nothing_after_its_next_start";
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {TEST}: needs root");
        return;
    }
    if played() {
        return;
    }
    let ground = Ground::prepare();
    for step in 0..14 {
        let (mut child, mut wait_for) = spawn(TEST, "churn", ground.directory.path(), &ground.tag);
        wait_for("ready");
        std::thread::sleep(Duration::from_micros(step * 7_300));
        child.kill().expect("kill");
        child.wait().expect("wait");
        let runtime = ground.open();
        // What is listed is whole, what is not listed is not there.
        let listed: Vec<String> = runtime.list_sandboxes().into_iter().map(|sandbox| sandbox.id).collect();
        let mut found: Vec<String> = std::fs::read_dir(ground.directory.path().join("sandboxes"))
            .expect("sandboxes")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        found.sort();
        assert_eq!(found, listed, "step {step}");
        let groups: Vec<String> = std::fs::read_dir(format!("/sys/fs/cgroup/memory/knarr-test-{}", ground.tag))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "keepers" && !listed.contains(name))
            .collect();
        assert_eq!(groups, Vec::<String>::new(), "step {step}");
        ground.tokio.block_on(async {
            for id in &listed {
                runtime.remove_sandbox(id).await.expect("remove");
            }
        });
        assert_eq!(support::mounts_below(ground.directory.path()), Vec::<String>::new(), "step {step}");
        assert_eq!(keepers_of(ground.directory.path()), Vec::<String>::new(), "step {step}");
    }
    let runtime = ground.open();
    ground.finish(runtime);
}

/// Keepers whose sandbox is below a directory.
fn keepers_of(data: &Path) -> Vec<String> {
    let mut list = Vec::new();
    for process in std::fs::read_dir("/proc").expect("proc").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command).replace('\0', " ");
        if text.starts_with("knarr keeper ") && text.contains(&*data.to_string_lossy()) {
            list.push(text);
        }
    }
    list
}

/// The budget of the product: at most 0.5 MB private memory per pod outside its containers.
#[test]
fn a_keeper_is_small() {
    on_a_node("a_keeper_is_small", async |node: Node| {
        node.sandbox("pod").await;
        node.start("pod", node.shell("c", "echo one; sleep 1000")).await;
        node.exec("c", "echo two").await;
        let keeper = node.runtime.list_sandboxes()[0].pid;
        let rollup = std::fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).expect("smaps_rollup");
        let private: u64 = rollup
            .lines()
            // Clean pages are the program's: they count as private only while nobody else runs it, and the kernel can take them back.
            .filter(|line| line.starts_with("Private_Dirty"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        println!("{rollup}");
        assert!(private <= 500, "{private} kB private\n{rollup}");
    });
}
