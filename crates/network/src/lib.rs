//! The node's network: links and addresses for pods, Services in nf_tables, cluster DNS.
//!
//! The lower half knows no Kubernetes type: `netlink` is the wire codec and socket, `nft` encodes nf_tables, `table` is the
//! program for Services in it, `link` makes links and routes, `conntrack` deletes stale flows. [`NodeNetwork`] joins them into what a node needs: attach a pod,
//! detach it, release what is dead, tear everything down. `host` tells of the machine's own addresses. The upper half, [`services`] and [`dns`], reads the cluster's informers.
//!
//! Never: starts a program; touches a link, table or address that does not carry the cluster's id.

mod address;
mod conntrack;
mod host;
mod link;
mod netlink;
mod nft;
mod node;
mod table;

pub use host::{AddressWatch, addresses};
pub use link::LinkError;
pub use node::{AttachError, HostPort, NetConfig, NodeNetwork, OpenError, PodAddress, Protocol};

pub mod dns;
pub mod services;

#[cfg(test)]
mod testing;
