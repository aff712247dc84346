//! The registry that others run, for tests: Debian's `docker-registry` on the loopback, and skopeo to push into it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// User `u` with the password `right`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "u:$2b$04$DsVr3CPAxn9RJwmT7LLj6eBdFfR.Z5KZ8e9XDlDqd9Q/Rqa2t8F7W\n";

/// A `docker-registry` on port 5000 of the thread's network namespace; ended with the value.
pub struct DockerRegistry {
    dir: tempfile::TempDir,
    child: Child,
}

/// The section of its configuration that asks for the password `right` of the user `u`.
pub const WITH_PASSWORD: &str = "auth: {htpasswd: {realm: here, path: DIR/htpasswd}}\n";

impl DockerRegistry {
    /// `extra` goes on with its configuration after `http.addr`; `DIR` in it is its directory. Returns once it listens.
    pub fn start(extra: &str) -> DockerRegistry {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {dir}/store}}}}\nhttp:\n  addr: 127.0.0.1:5000\n{}",
            extra.replace("DIR", &dir.path().display().to_string()),
            dir = dir.path().display()
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let listens = lines.by_ref().inspect(|line| said.push(line.clone())).any(|line| line.contains("listening on"));
        assert!(listens, "docker-registry: {said:?}");
        std::thread::spawn(move || lines.for_each(drop));
        DockerRegistry { dir, child }
    }

    /// Pushes the busybox image of the test kit with skopeo, with further arguments for its `copy`.
    pub fn push(&self, name: &str, arguments: &[&str]) {
        let archive = crate::image::image("busybox").expect("the test kit makes the image");
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").arg("copy").arg("--dest-tls-verify=false").args(arguments);
        command.arg(format!("docker-archive:{}:busybox:1", archive.display())).arg(format!("docker://127.0.0.1:5000/{name}"));
        let output = command.env("HOME", self.dir.path()).output().unwrap();
        assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("the registry can be ended");
    }
}
