//! What the kubelet is told at its start. Everything else it learns from the API server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

/// The identity, the places and the limits of one node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object; by default the host's name.
    pub node_name: String,
    /// The node's own addresses, the first is `status.hostIP` of its pods.
    pub node_ips: Vec<IpAddr>,
    /// Holds `pods/<uid>/` and `logs/pods/...`.
    pub data_dir: PathBuf,
    /// `knarr-<cluster id>`, the parent of every pod's cgroup, with a leading slash.
    pub cgroup_root: String,
    pub cluster_domain: String,
    /// Address of the cluster's DNS, written into pods' resolv.conf.
    pub dns: Vec<IpAddr>,
    /// Where the HTTPS API listens; the port taken is reported in `status.daemonEndpoints`.
    pub listen: SocketAddr,
    pub tls: Tls,
    /// Labels and taints given to the Node when it is first registered.
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Set where no node lifecycle controller hands out pod ranges: written into `spec.podCIDR` at registration.
    pub pod_cidr: Option<String>,
    /// Most pods this node takes; upstream's default is 110 (KubeletConfiguration.maxPods).
    pub pods_max: u32,
    /// Host files that pods with dnsPolicy Default inherit.
    pub resolv_conf: PathBuf,
    /// `localhostProfile` of a seccomp profile is resolved beneath this directory.
    pub seccomp_root: PathBuf,
}

/// Serving certificate and the authorities that vouch for callers.
#[derive(Clone)]
pub struct Tls {
    /// Resolves the serving certificate at each handshake, so that it can be renewed while running.
    pub certificate: Arc<dyn rustls::server::ResolvesServerCert>,
    /// PEM of the CA that signs client certificates.
    pub client_ca: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Upstream's default of KubeletConfiguration.maxPods.
pub const PODS_MAX: u32 = 110;
