//! The controllers, and what runs them.
//!
//! A controller is one module: it subscribes to informers, which queue keys; a worker takes a key, plans from the informers' snapshots (`plan`,
//! pure) and makes it so (`apply`, idempotent). No controller knows what woke it, nor of any other controller.

mod deployment;
mod endpointslice;
mod expectations;
mod namespace_defaults;
mod owner;
mod replicaset;
mod runner;

use knarr_client::Cluster;
use runner::Runner;

/// What the controllers must be told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Addresses of all pods; nodes get their shares of it.
    pub cluster_cidr: String,
    /// PEM of the authority that signs the API server's certificate, for pods to trust.
    pub root_ca: String,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("a worker panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs every controller until the future is dropped.
pub async fn run(cluster: Cluster, config: Config) -> Result<(), RunError> {
    let mut runner = Runner::default();
    replicaset::start(&cluster, &mut runner);
    deployment::start(&cluster, &mut runner);
    endpointslice::start(&cluster, &mut runner);
    namespace_defaults::start(&cluster, &mut runner, &config.root_ca);
    runner.run().await
}
