//! An unmodified kubectl: what people type at a cluster, and that its answers are upstream's.

mod access;
mod aggregation;
mod custom;
mod deleting;
mod discovery;
mod kubelet;
mod nodes;
mod objects;
mod old;
mod owners;
mod rollouts;
mod running;
mod streams;

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use crate::harness::{Knarr, WEB};

/// Runs `test` against a cluster in a network namespace of its own.
fn cluster(test: fn(&Kubectl<'_>)) {
    knarr_testbed::require_program!("kubectl");
    cluster_with("kubectl".into(), test);
}

/// The same with another kubectl.
fn cluster_with(program: PathBuf, test: fn(&Kubectl<'_>)) {
    knarr_testbed::require_root!();
    knarr_testbed::image::image("busybox").expect("the test kit makes the image");
    let run = move || {
        let mut knarr = Knarr::new();
        knarr.kubectl = program;
        knarr.up();
        knarr.import("busybox");
        test(&Kubectl { knarr: &knarr });
    };
    knarr_testbed::netns::run(run).expect("a network namespace can be made");
}

struct Kubectl<'a> {
    knarr: &'a Knarr,
}

/// The words of a command line. What has spaces within stands in `'`.
fn words(line: &str) -> Vec<&str> {
    let quoted = line.split('\'').enumerate();
    quoted.flat_map(|(index, part)| if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect()
}

impl Kubectl<'_> {
    /// A command that must succeed; its standard output.
    fn ok(&self, line: &str) -> String {
        self.knarr.must_kubectl(&words(line))
    }

    fn output(&self, line: &str) -> Output {
        self.knarr.kubectl(&words(line))
    }

    /// A command that must fail with this code; what it says on standard error.
    #[track_caller]
    fn fails(&self, code: i32, line: &str) -> String {
        let output = self.output(line);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {}{message}", text(&output.stdout));
        message
    }

    /// A command that must succeed on this input; its standard output.
    fn fed(&self, line: &str, input: &[u8]) -> String {
        let output = fed(&mut self.knarr.kubectl_command(&words(line)), input);
        assert!(output.status.success(), "{line}: {}\n{}", text(&output.stderr), self.knarr.errors());
        text(&output.stdout)
    }

    /// A command that goes on until the value is dropped; its standard output is a pipe.
    fn start(&self, line: &str) -> Running {
        Running(self.knarr.kubectl_command(&words(line)).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Runs a command under a pseudo-terminal, at which `input` is typed; what the terminal showed.
    fn on_a_terminal(&self, line: &str, input: &str) -> String {
        let command = self.knarr.kubectl_command(&words(line));
        let quote = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let shell: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &shell.join(" "), "/dev/null"]);
        let output = fed(&mut script, input.as_bytes());
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{line}: {shown}");
        shown
    }

    fn apply(&self, manifest: &str) -> String {
        self.fed("apply -f -", manifest.as_bytes())
    }

    fn file(&self, name: &str, contents: &str) -> String {
        self.knarr.write(name, contents).to_str().expect("test paths are text").to_owned()
    }

    /// A pod of one container that does not restart, ready.
    fn pod(&self, name: &str, script: &str) {
        self.ok(&format!("run {name} --image=busybox:1 --restart=Never -- sh -c '{script}'"));
        self.ok(&format!("wait pod/{name} --for=condition=Ready --timeout=60s"));
    }

    /// The web servers, ready.
    fn web(&self) {
        self.apply(WEB);
        self.ok("rollout status deployment/web --timeout=60s");
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fed(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that ends without reading all of it tells why by itself.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The lines of a table as words, without its head.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

/// Asserts that each of `parts` stands in `text`, in this order.
#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => panic!("{part:?} is missing (in this order) in:\n{text}"),
        }
    }
}
