//! Runs the pods of one node.
//!
//! A pod worker per pod compares what the API wants with what the runtime shows, and acts on the difference:
//! `plan` is pure, `act` is idempotent. Nothing that matters lives only in this process: after a restart the workers
//! plan again from the runtime and the API, adopt what runs, and restart nothing.

mod api;
mod config;
mod env;
mod evict;
mod hook;
mod hosts;
mod image;
mod image_gc;
mod kubelet;
mod node;
mod pod;
mod register;
mod resources;
mod security;
mod sources;
mod streaming;
mod volume;

pub use config::{Config, PODS_MAX, Tls};

use knarr_client::Cluster;
use knarr_network::NodeNetwork;
use knarr_runtime::Runtime;

/// What the kubelet works with, opened by the binary.
#[derive(Clone)]
pub struct Parts {
    /// Under the identity `system:node:<name>`.
    pub cluster: Cluster,
    pub runtime: Runtime,
    pub network: NodeNetwork,
}

/// What [`register`] learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The range of this node's pods.
    pub pod_cidr: String,
}

/// The kubelet could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("register the node {node}")]
    Register {
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("node {node} was given no range for its pods")]
    NoPodRange { node: String },
    #[error("listen on {address} for the node's API")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// Makes the Node object, or brings it up to date, and returns once it has a range for its pods: given by
/// [`Config::pod_cidr`], or by the node lifecycle controller. The network is opened with it, and then [`run`].
pub async fn register(cluster: &Cluster, config: &Config) -> Result<Registered, StartError> {
    register::register(cluster, config).await
}

/// Runs the node's pods until the future is dropped. Pods go on without it.
pub async fn run(parts: Parts, config: Config) -> Result<(), StartError> {
    kubelet::run(parts, config).await
}

/// Unmounts and removes what pods have on disk below `data_dir`: volumes and logs. For `knarr down`, after the runtime and the
/// network were torn down; may be repeated.
pub fn tear_down(data_dir: &std::path::Path) -> Result<(), TearDownError> {
    volume::tear_down_all(data_dir).map_err(|source| TearDownError::Files { path: data_dir.to_owned(), source: Box::new(source) })
}

/// Something of a pod is left on the node.
#[derive(Debug, thiserror::Error)]
pub enum TearDownError {
    #[error("remove the pods' files below {path}")]
    Files {
        path: std::path::PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
