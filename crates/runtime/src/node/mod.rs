//! The runtime as the node process sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::spec::container::ContainerConfig;
use crate::spec::sandbox::SandboxConfig;
use crate::spec::status::{ContainerStats, ContainerStatus, ExecOutput, Exit, Sandbox, SandboxStats, SandboxStatus};
use crate::{Images, Result};

#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// `/var/lib/knarr`: holds `sandboxes/` and `images/`.
    pub data_dir: PathBuf,
    /// Short path for the sockets (a Unix socket's path has at most 107 bytes).
    pub run_dir: PathBuf,
    /// As `/knarr-<id>`; made where it is missing in each hierarchy.
    pub cgroup_root: String,
    /// Started as `<keeper_exe> keeper <sandbox directory>`.
    pub keeper_exe: PathBuf,
    pub log_max_bytes: u64,
    /// How many files a container's log may have, the current one included; at least 1.
    pub log_files: u32,
}

/// Handle to all sandboxes and containers of the node; cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    _inner: Arc<()>,
}

/// Something changed without being asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    Exited {
        sandbox: String,
        container: String,
        exit: Exit,
    },
    /// The keeper died; its containers were killed with it and are reported by `Exited` before this.
    SandboxDied {
        sandbox: String,
    },
    /// Events were lost because this subscriber was too slow: list again.
    Missed,
}

/// Subscription to [`RuntimeEvent`]s.
pub struct Events {
    _private: (),
}

impl Events {
    /// Cancel-safe; `None` once the runtime is gone.
    pub async fn next(&mut self) -> Option<RuntimeEvent> {
        todo!()
    }
}

/// The streams of an exec or an attach. Dropping it detaches; an exec'd process that still runs is ended.
pub struct Session {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// With a terminal, everything comes here.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl Session {
    pub async fn resize(&self, _columns: u16, _rows: u16) -> Result<()> {
        todo!()
    }

    /// Ends when the process (for attach: the container) has ended. Cancel-safe.
    pub async fn wait(&mut self) -> Result<Exit> {
        todo!()
    }
}

impl Runtime {
    /// Adopts every live keeper; removes what is dead or half made.
    pub async fn open(_config: RuntimeConfig) -> Result<Runtime> {
        todo!()
    }

    pub fn images(&self) -> &Arc<Images> {
        todo!()
    }

    pub fn events(&self) -> Events {
        todo!()
    }

    pub async fn run_sandbox(&self, _config: SandboxConfig) -> Result<Sandbox> {
        todo!()
    }

    /// Replaces the pod's `/etc/hosts`, in place: running containers see it.
    pub async fn set_hosts(&self, _sandbox: &str, _text: &str) -> Result<()> {
        todo!()
    }

    /// Kills what still runs in it, ends the keeper, leaves the records. Idempotent.
    pub async fn stop_sandbox(&self, _id: &str) -> Result<()> {
        todo!()
    }

    /// Stops it and removes everything that it left: containers, mounts, cgroups, directories. Idempotent.
    pub async fn remove_sandbox(&self, _id: &str) -> Result<()> {
        todo!()
    }

    pub fn list_sandboxes(&self) -> Vec<SandboxStatus> {
        todo!()
    }

    pub async fn create_container(&self, _sandbox: &str, _config: ContainerConfig) -> Result<()> {
        todo!()
    }

    pub async fn start_container(&self, _id: &str) -> Result<()> {
        todo!()
    }

    /// Sends the container's stop signal, and SIGKILL after `grace`. Returns when it has ended. Idempotent.
    pub async fn stop_container(&self, _id: &str, _grace: Duration) -> Result<()> {
        todo!()
    }

    /// Kills it if it runs, removes its root file system and record; the log stays. Idempotent.
    pub async fn remove_container(&self, _id: &str) -> Result<()> {
        todo!()
    }

    pub fn status(&self, _id: &str) -> Result<ContainerStatus> {
        todo!()
    }

    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        todo!()
    }

    pub async fn exec(&self, _id: &str, _argv: Vec<String>, _tty: bool, _stdin: bool) -> Result<Session> {
        todo!()
    }

    /// Output of each stream beyond `output_max` bytes is dropped.
    pub async fn exec_sync(&self, _id: &str, _argv: Vec<String>, _timeout: Option<Duration>, _output_max: usize) -> Result<ExecOutput> {
        todo!()
    }

    pub async fn attach(&self, _id: &str, _stdin: bool) -> Result<Session> {
        todo!()
    }

    /// A connection to `port` on the pod's loopback.
    pub async fn port_forward(&self, _sandbox: &str, _port: u16) -> Result<TcpStream> {
        todo!()
    }

    /// Changes the limits of a running container.
    pub async fn update_resources(&self, _id: &str, _resources: crate::Resources) -> Result<()> {
        todo!()
    }

    /// Starts the container's log anew at its path (after an outside rotation).
    pub async fn reopen_log(&self, _id: &str) -> Result<()> {
        todo!()
    }

    pub async fn container_stats(&self, _id: &str) -> Result<ContainerStats> {
        todo!()
    }

    pub async fn sandbox_stats(&self, _id: &str) -> Result<SandboxStats> {
        todo!()
    }

    /// Stops and removes every sandbox, then the cgroup root: nothing of this runtime is left.
    pub async fn teardown(&self) -> Result<()> {
        todo!()
    }
}
