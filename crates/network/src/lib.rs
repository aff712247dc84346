//! The node's network: links and addresses for pods, Services in nf_tables, cluster DNS.
//!
//! The lower half knows no Kubernetes type: `netlink` is the wire codec and socket, `nft` encodes nf_tables, `table` is the program for Services in it, `link` makes
//! links and routes, `conntrack` deletes stale flows. [`NodeNetwork`] joins them into what a node needs: attach a pod,
//! detach it, release what is dead, tear everything down. The upper half, [`services`] and [`dns`], reads the cluster's informers.
//!
//! Never: starts a program; touches a link, table or address that does not carry the cluster's id.

mod address;
mod conntrack;
mod link;
mod netlink;
mod nft;
mod node;
mod table;

pub use node::{AttachError, HostPort, NetConfig, NodeNetwork, OpenError, PodAddress, Protocol};

pub mod services;

/// The authoritative DNS server of the cluster domain, and forwarder for all others.
pub mod dns {
    use std::net::SocketAddr;

    /// What the DNS server of one node needs to know.
    #[derive(Clone, Debug)]
    pub struct DnsConfig {
        /// Addresses to answer on, UDP and TCP; one is the cluster's DNS address.
        pub listen: Vec<SocketAddr>,
        /// The cluster domain without a final dot, `cluster.local`.
        pub domain: String,
        /// Servers for names outside the cluster domain.
        pub upstreams: Upstreams,
    }

    /// Where names outside the cluster domain are asked.
    #[derive(Clone, Debug)]
    pub enum Upstreams {
        /// The nameservers of this file, read again when it changes. Usually `/etc/resolv.conf`.
        File(std::path::PathBuf),
        /// Exactly these.
        Fixed(Vec<SocketAddr>),
    }
}

#[cfg(test)]
mod testing;
