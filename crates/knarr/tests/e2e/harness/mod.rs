//! A Knarr for one test: the real binary in a network namespace and a data directory of its own. Ended and removed with the value.

pub(crate) mod load;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a state that a test waits for may take to come, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pause between two looks at a state that nothing announces to a test.
const PAUSE: Duration = Duration::from_millis(50);

/// Two replicas of a web server that answers with its pod's name, and their Service.
pub(crate) const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1
        command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

pub(crate) struct Knarr {
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// Its data directory is a disk of its own.
    disk: bool,
    /// The kubectl to use: that of the path, unless a test sets another.
    pub(crate) kubectl: PathBuf,
}

impl Knarr {
    /// A place where nothing runs yet. The calling thread must be in a network namespace of its own.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), child: None, disk: false, kubectl: "kubectl".into() }
    }

    /// As [`Knarr::new`], with a disk of its own of this size. It takes room only as far as it is written to.
    pub(crate) fn with_disk(bytes: u64) -> Self {
        let mut knarr = Self::new();
        let image = knarr.dir.path().join("disk");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(knarr.data_dir()).unwrap();
        output(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-O", "^has_journal"]).arg(&image));
        output(Command::new("mount").args(["-o", "loop"]).args([&image, &knarr.data_dir()]));
        knarr.disk = true;
        knarr
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).env_remove("KUBECONFIG");
        command
    }

    /// Starts it and waits until it says that it is ready.
    pub(crate) fn up(&mut self) {
        self.up_until(&[], "ready in ");
    }

    /// Starts it with further arguments and waits for a line that begins with `start`, which is returned.
    pub(crate) fn up_until(&mut self, arguments: &[&str], start: &str) -> String {
        assert!(self.child.is_none(), "one at a time");
        let errors = std::fs::File::create(self.dir.path().join("errors")).unwrap();
        let arguments = [&["up", "--node-name", "node-1"], arguments].concat();
        let mut child = self.command(&arguments).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let found = lines.find(|line| line.starts_with(start));
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        found.unwrap_or_else(|| panic!("knarr up ended before it said {start:?}: {}", self.errors()))
    }

    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs another command of the binary; its output, which must be a success.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        output(&mut self.command(arguments))
    }

    /// Runs a shell script in a container: its output, standard error last.
    pub(crate) fn shell(&self, pod: &str, container: &str, script: &str) -> String {
        let data_dir = self.data_dir();
        let mut command = Command::new(env!("CARGO_BIN_EXE_knarr"));
        command.arg("exec").arg("--data-dir").arg(data_dir).args([pod, "-c", container, "--", "sh", "-c", script]);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    pub(crate) fn apply(&self, manifests: &str) {
        let file = self.write("manifests.yaml", manifests);
        self.run(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// The pod as soon as `holds` of it, which must come within a time that is enough on a loaded machine.
    pub(crate) fn pod(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.command(&["get", &format!("pod/{name}"), "-o", "json"]).output().unwrap();
            let pod: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if holds(&pod) {
                return pod;
            }
            std::thread::sleep(PAUSE);
            let events = || String::from_utf8_lossy(&self.command(&["get", "events"]).output().unwrap().stdout).into_owned();
            assert!(Instant::now() < deadline, "{name} never was {what}: {pod:#}\n{}\n{}", events(), self.errors());
        }
    }

    /// Waits until there is no such pod.
    pub(crate) fn gone(&self, name: &str) {
        self.pod(name, "gone", Value::is_null);
    }

    /// Begins a deletion and does not wait for its end.
    pub(crate) fn delete(&self, pod: &str) {
        self.run(&["delete", &format!("pod/{pod}"), "--no-wait"]);
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// kubectl as this cluster's administrator, with a home of its own for what it caches.
    pub(crate) fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments).env("HOME", self.dir.path());
        command
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments).output().unwrap()
    }

    pub(crate) fn must_kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.errors());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until `holds`.
    pub(crate) fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{}", self.errors());
            std::thread::sleep(PAUSE);
        }
    }

    pub(crate) fn import(&self, image: &str) {
        let archive = knarr_testbed::image::image(image).expect("the test kit makes the image");
        self.run(&["image", "import", archive.to_str().unwrap()]);
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The cluster's id, which everything it makes on the host carries.
    pub(crate) fn id(&self) -> String {
        let uid = std::fs::read_to_string(self.data_dir().join("pki/cluster-uid")).unwrap();
        uid.chars().filter(char::is_ascii_hexdigit).take(8).collect()
    }
}

impl Drop for Knarr {
    fn drop(&mut self) {
        // Whatever the test left: pods would outlive it.
        let _ = self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.disk {
            let _ = Command::new("umount").arg("--lazy").arg(self.data_dir()).status();
        }
    }
}

/// Name, container id and restarts of each pod.
pub(crate) fn containers(knarr: &Knarr) -> Vec<(String, String, i64)> {
    let pods: Value = serde_json::from_str(&knarr.run(&["get", "pods", "-o", "json"])).unwrap();
    let field = |pod: &Value, pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
    let mut containers: Vec<_> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let name = field(pod, "/metadata/name").as_str().unwrap().to_owned();
            let id = field(pod, "/status/containerStatuses/0/containerID").as_str().unwrap_or_default().to_owned();
            (name, id, field(pod, "/status/containerStatuses/0/restartCount").as_i64().unwrap_or(-1))
        })
        .collect();
    containers.sort();
    containers
}

/// Runs `test` on a thread in a network namespace of its own, from which the packages that images are made of could not be fetched.
pub(crate) fn alone(images: &[&str], test: fn()) {
    for image in images {
        knarr_testbed::image::image(image).expect("the test kit makes the image");
    }
    knarr_testbed::netns::run(test).expect("a network namespace can be made");
}

pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How long a request may take. Longer than the 5 s that the servers of the tests wait for each other: their answer tells who was slow.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);

/// One HTTP request on a connection of its own: the body of a 200.
pub(crate) fn get(address: (IpAddr, u16)) -> Result<String, String> {
    fetch(address.into(), "/")
}

/// As [`get`], of a path.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> Result<String, String> {
    let fault = |step: &str, error: std::io::Error| format!("{step}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, REQUEST_TIME_MAX).map_err(|error| fault("connect", error))?;
    stream.set_read_timeout(Some(REQUEST_TIME_MAX)).map_err(|error| fault("timeout", error))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).map_err(|error| fault("send", error))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| fault("receive", error))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {answer:?}"))?;
    if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(head.to_owned()) }
}

/// Everything of the host that carries the cluster's id or lies in its data directory.
pub(crate) fn traces(knarr: &Knarr) -> Vec<String> {
    let id = knarr.id();
    let data_dir = knarr.data_dir().to_string_lossy().into_owned();
    let mut traces = Vec::new();
    for line in std::fs::read_to_string("/proc/self/mounts").unwrap().lines().filter(|line| line.contains(&data_dir) || line.contains(&id))
    {
        traces.push(format!("mount {line}"));
    }
    for link in std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2) {
        let name = link.split(':').next().unwrap_or_default().trim();
        // The cable to the host that the test drives it from is the test kit's.
        if name != "lo" && name != "uplink" {
            traces.push(format!("link {name}"));
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&data_dir) || line.contains(&id) {
            traces.push(format!("process {line}"));
        }
    }
    cgroups(Path::new("/sys/fs/cgroup"), &format!("knarr-{id}"), 2, &mut traces);
    traces
}

fn cgroups(dir: &Path, name: &str, depth: usize, traces: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy() == name {
            traces.push(format!("cgroup {}", entry.path().display()));
        } else if depth > 0 {
            cgroups(&entry.path(), name, depth - 1, traces);
        }
    }
}
