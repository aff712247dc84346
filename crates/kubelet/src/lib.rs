//! Runs the pods of one node.
//!
//! A pod worker per pod compares what the API wants with what the runtime shows, and acts on the difference:
//! `plan` is pure, `act` is idempotent. Nothing that matters lives only in this process: after a restart the workers
//! plan again from the runtime and the API, adopt what runs, and restart nothing.

mod config;
mod pod;
mod resources;

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
    #[error("listen on {address} for the node's API")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// Makes the Node object, or brings it up to date, and returns once it has a range for its pods: given by
/// [`Config::pod_cidr`], or by the node lifecycle controller. The network is opened with it, and then [`run`].
pub async fn register(_cluster: &Cluster, _config: &Config) -> Result<Registered, StartError> {
    todo!()
}

/// Runs the node's pods until the future is dropped. Pods go on without it.
pub async fn run(_parts: Parts, _config: Config) -> Result<(), StartError> {
    todo!()
}
