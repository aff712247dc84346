//! The Knarr that is measured: one binary, one data directory, ended and removed with the value.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Bench, Outcome, client::Client, process::Process};

pub(crate) struct Cluster {
    knarr: PathBuf,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Cluster {
    /// A place where nothing runs yet.
    pub(crate) fn place(bench: &Bench) -> Outcome<Self> {
        let dir = tempfile::tempdir_in(&bench.dir).map_err(crate::fault("make a directory in", &bench.dir))?;
        Ok(Self { knarr: bench.knarr.clone(), dir, child: None })
    }

    /// A fresh cluster that runs, with the image that pods are made of.
    pub(crate) fn running(bench: &Bench) -> Outcome<Self> {
        let mut cluster = Self::place(bench)?;
        cluster.up()?;
        let archive = knarr_testbed::image::image("busybox").map_err(|error| error.to_string())?;
        cluster.run(&["image", "import", &archive.to_string_lossy()])?;
        Ok(cluster)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.knarr);
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).env_remove("KUBECONFIG");
        command
    }

    /// Starts it; how long it took from the start of the process to the line that says it is ready.
    pub(crate) fn up(&mut self) -> Outcome<Duration> {
        let path = self.dir.path().join("errors");
        let errors = File::create(&path).map_err(crate::fault("create", &path))?;
        let began = Instant::now();
        let mut command = self.command(&["up", "--node-name", "node-1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().map_err(crate::fault("start", &self.knarr))?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
        let ready = lines.any(|line| line.starts_with("ready in "));
        let took = began.elapsed();
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
        if ready {
            Ok(took)
        } else {
            Err(format!("knarr up ended before it was ready: {}", std::fs::read_to_string(path).unwrap_or_default()))
        }
    }

    /// As ctrl-C would.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // SAFETY: kill takes no pointers; the child was not waited for, so its id is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        child.wait().map(drop).map_err(|error| format!("wait for knarr: {error}"))
    }

    fn run(&self, arguments: &[&str]) -> Outcome<()> {
        let output = self.command(arguments).output().map_err(crate::fault("start", &self.knarr))?;
        if output.status.success() { Ok(()) } else { Err(format!("knarr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr))) }
    }

    /// Knarr itself and the keepers of its pods.
    pub(crate) fn processes(&self) -> Vec<Process> {
        Process::naming(&self.data_dir().to_string_lossy())
    }

    /// Knarr itself.
    pub(crate) fn main_process(&self) -> Process {
        Process::new(self.child.as_ref().expect("it runs").id())
    }

    /// As its admin, over HTTPS.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::from_kubeconfig(&self.data_dir().join("admin.kubeconfig"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Pods would outlive it.
        drop(self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status());
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
