//! One node's network: the bridge, the pods on it, the nf_tables table.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

/// What the node's network is made from.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Eight hexadecimal digits that every link and table name carries.
    pub cluster_id: String,
    /// Addresses of this node's pods. The first one is the node's own on the bridge.
    pub pod_cidr: IpNet,
    /// Addresses of all pods of the cluster. Traffic to them keeps its source.
    pub cluster_cidr: IpNet,
    /// Addresses of Services.
    pub service_cidr: IpNet,
    /// The node's address, as in node.status.addresses.
    pub node_ip: IpAddr,
    /// Where DNS answers: bound to the bridge, reached without translation.
    pub dns_ip: IpAddr,
    /// Folder for state that outlives the process.
    pub state_dir: PathBuf,
    /// MTU of pod links; `None` takes that of the link which holds `node_ip`, or 1500.
    pub mtu: Option<u32>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub(crate) fn of_number(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

/// A port of the node that leads to a port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Only connections to this address; `None` is every address of the node.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// One address per family; the first is the primary one.
    pub ips: Vec<IpAddr>,
    pub gateway: IpAddr,
}

/// The network could not be made or adopted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {}

/// A pod could not be given its network; everything begun was undone.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {}

/// The network of this node. Clones share one.
#[derive(Clone)]
pub struct NodeNetwork {
    _inner: Arc<()>,
}

impl NodeNetwork {
    /// Makes the bridge and the nf_tables table, or adopts those that a former process left. Existing pods, Services and
    /// connections are not disturbed. Blocks for a few milliseconds.
    pub fn open(_config: NetConfig) -> Result<NodeNetwork, OpenError> {
        todo!()
    }

    /// Gives the network namespace at `netns` a link `eth0` with an address of the node's pod CIDR, and opens its host ports.
    /// Repeating it for the same sandbox gives the same address.
    pub async fn attach(&self, _sandbox_id: &str, _netns: &Path, _host_ports: &[HostPort]) -> Result<PodAddress, AttachError> {
        todo!()
    }

    /// Takes away what [`NodeNetwork::attach`] gave. Without effect if nothing is there.
    pub async fn detach(&self, _sandbox_id: &str) -> Result<(), AttachError> {
        todo!()
    }

    /// Detaches every sandbox that is not in `live`.
    pub async fn retain(&self, _live: &HashSet<String>) -> Result<(), AttachError> {
        todo!()
    }

    /// Removes everything that this cluster's network made on the host.
    pub async fn teardown(&self) -> Result<(), AttachError> {
        todo!()
    }
}
