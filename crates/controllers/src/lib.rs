//! The controllers, and what runs them.
//!
//! A controller is one module: it subscribes to informers, which queue keys; a worker takes a key, plans from the informers' snapshots (`plan`,
//! pure) and makes it so (`apply`, idempotent). No controller knows what woke it, nor of any other controller.

mod bootstrap_tokens;
mod certificates;
mod cluster_roles;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod expectations;
mod garbage;
mod migration;
mod mirror;
mod namespace;
mod namespace_defaults;
mod node;
mod owner;
mod policy_types;
mod protection;
mod quota;
mod replicaset;
mod runner;
mod secret_tokens;
mod world;

pub use certificates::{Authority, Order, Sign};
use knarr_client::Cluster;
use runner::Runner;
pub use secret_tokens::{SecretTokens, TokenOrder, TokenSigner};
use world::World;

/// What the controllers must be told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Addresses of all pods, as `10.42.0.0/16`; nodes get their shares of it. Empty: somebody else gives nodes their addresses.
    pub cluster_cidr: String,
    /// PEM of the authority that signs the API server's certificate, for pods to trust.
    pub root_ca: String,
    /// Signs the certificates that are requested and approved; none: somebody else does.
    pub authority: Option<Authority>,
    /// Signs the tokens of Secrets that ask for one; none: somebody else fills them.
    pub token_signer: Option<TokenSigner>,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("a worker panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error("the pods' addresses {cidr:?} are not a network like 10.42.0.0/16")]
    ClusterCidr {
        cidr: String,
        #[source]
        source: ipnet::AddrParseError,
    },
}

/// Runs every controller until the future is dropped.
pub async fn run(cluster: Cluster, config: Config) -> Result<(), RunError> {
    let cluster_cidr = match config.cluster_cidr.as_str() {
        "" => None,
        cidr => Some(cidr.parse().map_err(|source| RunError::ClusterCidr { cidr: cidr.to_owned(), source })?),
    };
    let mut runner = Runner::default();
    replicaset::start(&cluster, &mut runner);
    deployment::start(&cluster, &mut runner);
    endpointslice::start(&cluster, &mut runner);
    endpoints::start(&cluster, &mut runner);
    mirror::start(&cluster, &mut runner);
    namespace_defaults::start(&cluster, &mut runner, &config.root_ca);
    node::start(&cluster, &mut runner, cluster_cidr);
    cluster_roles::start(&cluster, &mut runner);
    protection::start(&cluster, &mut runner);
    bootstrap_tokens::start(&cluster, &mut runner);
    certificates::start(&cluster, &mut runner, config.authority);
    if let Some(signer) = config.token_signer {
        secret_tokens::start(&cluster, &mut runner, signer, &config.root_ca);
    }
    let world = World::discover(&cluster).await;
    namespace::start(&cluster, &world, &mut runner);
    disruption::start(&cluster, &world, &mut runner);
    policy_types::start(&cluster, &world, &mut runner);
    migration::start(&cluster, &world, &mut runner);
    garbage::start(&cluster, &world, &mut runner);
    quota::start(&cluster, &world, &mut runner);
    runner.also(world.follow());
    runner.run().await
}
