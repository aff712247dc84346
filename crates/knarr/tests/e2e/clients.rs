//! The official Python and JavaScript clients, unmodified: `tests/clients/` says what they do. `./x test` installs them.

use std::{path::Path, process::Command};

use crate::harness::Knarr;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

/// Where `./x test` installs them.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-clients");

/// Runs a script against a cluster: its arguments are the kubeconfig, the image of its pods, and `more`.
fn drive(program: &Path, script: &str, more: &[String]) {
    knarr_testbed::image::image("busybox").expect("the test kit makes the image");
    let (program, script, more) = (program.to_owned(), format!("{SCRIPTS}/{script}"), more.to_owned());
    let run = move || {
        let mut knarr = Knarr::new();
        knarr.up();
        knarr.import("busybox");
        let mut command = Command::new(&program);
        let output = command.arg(&script).arg(knarr.kubeconfig()).arg("busybox:1").args(&more).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && told.contains("\ndone\n"), "{script}:\n{told}\n{}", knarr.errors());
    };
    knarr_testbed::netns::run(run).expect("a network namespace can be made");
}

#[test]
fn the_python_client_creates_watches_patches_executes_follows_and_deletes() {
    knarr_testbed::require_root!();
    let python = Path::new(INSTALLED).join("python/bin/python");
    if !python.exists() {
        return knarr_testbed::skipped("needs the Python client in target/test-clients, which `./x test` installs");
    }
    drive(&python, "client.py", &[]);
}

#[test]
fn the_javascript_client_creates_watches_patches_executes_follows_and_deletes() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("node");
    let module = Path::new(INSTALLED).join("node/node_modules/@kubernetes/client-node/dist/index.js");
    if !module.exists() {
        return knarr_testbed::skipped("needs the JavaScript client in target/test-clients, which `./x test` installs");
    }
    drive(Path::new("node"), "client.mjs", &[module.to_str().expect("a path of text").to_owned()]);
}
