//! One node's network: the pods' links, the node's own addresses, the nf_tables table.
//!
//! ```text
//!  pod eth0 10.42.0.5/32 ── kv<id><address>   route 10.42.0.5/32
//!  pod eth0 10.42.0.6/32 ── kv<id><address>   route 10.42.0.6/32
//!                           kn<id>            10.42.0.1/24 (gateway), DNS address/32, routes to Service addresses
//! ```
//!
//! Pods are not bridged but routed, each over its own pair: what a pod sends meets the node's rules whatever else is set on the
//! host (a bridge's packets may or may not, by bridge-nf-call-iptables, which other programs switch), a wrong source address
//! is dropped by the reverse path check, and nobody asks for link addresses. `kn<id>` is a bridge without ports: it only
//! holds addresses, as a dummy link would, which not every kernel has. What is routed into it cannot be delivered.
//!
//! What belongs to which sandbox stands in the alias of its link, so that nothing needs a file: after a crash the links tell,
//! and a link without an alias was half made and goes. Every step of [`NodeNetwork::attach`] is undone if a later one fails.

mod ranges;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::address::Pool;
use crate::conntrack::{Conntrack, ConntrackError};
use crate::link::{End, LinkError, LinkState, Links, Namespace, settle, write_sysctl};
use crate::nft::{Family, Monitor, NftError};
use crate::table::{Delta, Frontend, Layout, Origin, Table, Target};

/// The pod's end of its link.
const POD_LINK: &str = "eth0";
/// MTU where the node's own link is not known: that of Ethernet.
const MTU_DEFAULT: u32 = 1500;

/// What the node's network is made from.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Eight hexadecimal digits that every link and table name carries.
    pub cluster_id: String,
    /// Addresses of this node's pods. The first one is the node's own on the bridge.
    pub pod_cidr: IpNet,
    /// Addresses of all pods of the cluster. Traffic to them keeps its source.
    pub cluster_cidr: IpNet,
    /// Addresses of Services: the range that the cluster is configured with. Others come and go.
    pub service_cidr: IpNet,
    /// The node's address, as in node.status.addresses.
    pub node_ip: IpAddr,
    /// Where DNS answers: bound to the bridge, reached without translation.
    pub dns_ip: IpAddr,
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
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }

    /// As in `spec.ports[].protocol`; absent is TCP.
    pub(crate) fn of_name(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
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
pub enum OpenError {
    #[error("{0} is not an IPv4 network; pods and Services have IPv4 addresses only, so far")]
    NotIpv4(IpNet),
    #[error("the cluster id {0:?} is not 1 to 8 hexadecimal digits")]
    ClusterId(String),
    #[error("the pod range {cidr} is in use: {link} has {address}; choose another with --pod-cidr")]
    CidrInUse { cidr: IpNet, link: String, address: IpAddr },
    #[error("make the bridge")]
    Bridge(#[from] LinkError),
    #[error("make the nf_tables table")]
    Table(#[from] NftError),
    #[error("open connection tracking")]
    Conntrack(#[from] ConntrackError),
}

/// A pod could not be given its network, and everything begun was undone; or what it had could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("no free address in {cidr}")]
    Exhausted { cidr: IpNet },
    #[error("host port {port} is taken by the pod with address {pod}")]
    HostPortTaken { port: u16, pod: IpAddr },
    #[error("connect sandbox {sandbox}")]
    Link {
        sandbox: String,
        #[source]
        source: LinkError,
    },
    #[error("open the ports of sandbox {sandbox}")]
    Ports {
        sandbox: String,
        #[source]
        source: NftError,
    },
    #[error("forget the connections of {address}")]
    Connections {
        address: IpAddr,
        #[source]
        source: ConntrackError,
    },
    #[error("remove {what}")]
    Teardown {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The network of this node. Clones share one.
#[derive(Clone)]
pub struct NodeNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetConfig,
    pod_net: Ipv4Net,
    bridge: LinkState,
    conntrack: Mutex<Conntrack>,
    state: Mutex<State>,
    /// Told after every change to where Services lead.
    changed: watch::Sender<()>,
}

struct State {
    pool: Pool,
    /// Address by sandbox.
    pods: HashMap<String, Ipv4Addr>,
    table: Table,
}

impl NodeNetwork {
    /// Makes the bridge and the nf_tables table, or adopts those that a former process left. Existing pods, Services and
    /// connections are not disturbed. Blocks for a few milliseconds.
    pub fn open(config: NetConfig) -> Result<NodeNetwork, OpenError> {
        let id = &config.cluster_id;
        if id.is_empty() || id.len() > 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(OpenError::ClusterId(id.clone()));
        }
        let pod_net = ipv4(config.pod_cidr)?;
        ipv4(config.service_cidr)?;
        let mut links = Links::open()?;
        let bridge = make_bridge(&mut links, &config, pod_net)?;
        let layout = Layout {
            family: Family::Ipv4,
            pod_links: link_prefix(id),
            sink: bridge.name.clone(),
            gateway: Pool::gateway(pod_net).into(),
            pod_cidr: config.pod_cidr,
            cluster_cidr: config.cluster_cidr,
        };
        let mut table = Table::open(&table_name(id), layout)?;
        say_refused("net/ipv4/ip_forward", "1", "pods reach nothing outside their own addresses");
        let (pool, pods) = adopt_pods(&mut links, &config, pod_net, &mut table)?;
        let state = Mutex::new(State { pool, pods, table });
        let conntrack = Mutex::new(Conntrack::open()?);
        Ok(NodeNetwork { inner: Arc::new(Inner { config, pod_net, bridge, conntrack, state, changed: watch::Sender::new(()) }) })
    }

    /// Gives the network namespace at `netns` a link `eth0` with an address of the node's pod CIDR, and opens its host ports.
    /// Repeating it for the same sandbox gives the same address. Calls for one sandbox must not overlap.
    pub async fn attach(&self, sandbox_id: &str, netns: &Path, host_ports: &[HostPort]) -> Result<PodAddress, AttachError> {
        let (sandbox, netns, ports) = (sandbox_id.to_owned(), netns.to_owned(), host_ports.to_vec());
        self.blocking(move |inner| inner.attach(&sandbox, &netns, &ports)).await
    }

    /// Takes away what [`NodeNetwork::attach`] gave. Without effect if nothing is there.
    pub async fn detach(&self, sandbox_id: &str) -> Result<(), AttachError> {
        let sandbox = sandbox_id.to_owned();
        self.blocking(move |inner| inner.detach(&sandbox)).await
    }

    /// Detaches every sandbox that is not in `live`.
    pub async fn retain(&self, live: &HashSet<String>) -> Result<(), AttachError> {
        let live = live.clone();
        self.blocking(move |inner| {
            let dead: Vec<String> = inner.state.lock().pods.keys().filter(|sandbox| !live.contains(*sandbox)).cloned().collect();
            dead.iter().try_for_each(|sandbox| inner.detach(sandbox))
        })
        .await
    }

    /// Removes everything that this cluster's network made on the host: every pod's link, its own link, the table. IP forwarding
    /// stays on, since others may have come to need it.
    pub async fn teardown(&self) -> Result<(), AttachError> {
        self.blocking(|inner| NodeNetwork::remove(&inner.config.cluster_id)).await
    }

    /// [`NodeNetwork::teardown`] for a cluster that is not open. Without effect if nothing is there. Blocks.
    pub fn remove(cluster_id: &str) -> Result<(), AttachError> {
        let name = bridge_name(cluster_id);
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source: LinkError| AttachError::Teardown { what, source: Box::new(source) }
        };
        let mut links = Links::open().map_err(failed(&name))?;
        let all = links.list().map_err(failed(&name))?;
        for link in all.iter().filter(|link| link.name == name || is_pod_link(link, cluster_id)) {
            links.delete(&link.name).map_err(failed(&link.name))?;
        }
        let what = table_name(cluster_id);
        Table::remove(Family::Ipv4, &what).map_err(|source| AttachError::Teardown { what, source: Box::new(source) })
    }

    /// Returns once no Service of this node leads to the pod with this address any more. A pod that is told to end after that loses
    /// no new connection. It returns only when the pod's endpoints have been withdrawn, so the caller sets the limit.
    pub async fn withdrawn(&self, address: IpAddr) {
        let mut changed = self.inner.changed.subscribe();
        while self.inner.state.lock().table.leads_to(address) {
            // The sender lives in `inner`, which `self` holds.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// The name of the link that holds the node's own addresses.
    pub fn bridge(&self) -> &str {
        &self.inner.bridge.name
    }

    /// The configuration that this was opened with.
    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }

    /// What is installed for Services now.
    pub(crate) fn installed_frontends(&self) -> Vec<Frontend> {
        self.inner.state.lock().table.frontends().map(|(frontend, _)| *frontend).collect()
    }

    /// Brings frontends to their targets (`None` removes one) and deletes UDP flows to endpoints that went. Blocks.
    pub(crate) fn apply(&self, changes: &[(Frontend, Option<Target>)]) -> Result<Delta, NftError> {
        let delta = {
            let mut state = self.inner.state.lock();
            state.table.apply(changes.iter().map(|(frontend, target)| (frontend, target.as_ref())))?
        };
        self.inner.changed.send_replace(());
        if let Err(error) = self.inner.conntrack.lock().forget_endpoints(&delta.gone) {
            tracing::warn!(error = &error as &dyn std::error::Error, "flows to endpoints that are gone stay until they time out");
        }
        Ok(delta)
    }

    /// Tells of changes to the table by others. Within an asynchronous runtime only.
    pub(crate) fn monitor(&self) -> Result<Monitor, NftError> {
        self.inner.state.lock().table.monitor()
    }

    /// Makes the table again. Blocks.
    pub(crate) fn restore(&self) -> Result<(), NftError> {
        self.inner.state.lock().table.restore()
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Inner {
    fn attach(&self, sandbox: &str, netns: &Path, host_ports: &[HostPort]) -> Result<PodAddress, AttachError> {
        let address = self.reserve(sandbox, host_ports)?;
        let result = self.connect(sandbox, netns, address).and_then(|()| self.open_ports(sandbox, address, host_ports));
        match result {
            Ok(()) => Ok(PodAddress { ips: vec![address.into()], gateway: Pool::gateway(self.pod_net).into() }),
            Err(error) => {
                if let Err(undo) = self.detach(sandbox) {
                    tracing::warn!(error = &undo as &dyn std::error::Error, sandbox, "undo a failed attach");
                }
                Err(error)
            }
        }
    }

    fn reserve(&self, sandbox: &str, host_ports: &[HostPort]) -> Result<Ipv4Addr, AttachError> {
        let mut state = self.state.lock();
        let own = state.pods.get(sandbox).copied();
        let taken: HashMap<&Frontend, &SocketAddr> = state.table.host_ports().collect();
        for port in host_ports {
            if let Some(pod) = taken.get(&port.frontend()).filter(|pod| Some(pod.ip()) != own.map(IpAddr::from)) {
                return Err(AttachError::HostPortTaken { port: port.host_port, pod: pod.ip() });
            }
        }
        if let Some(address) = own {
            return Ok(address);
        }
        let address = state.pool.take().ok_or(AttachError::Exhausted { cidr: self.config.pod_cidr })?;
        state.pods.insert(sandbox.to_owned(), address);
        Ok(address)
    }

    fn connect(&self, sandbox: &str, netns: &Path, address: Ipv4Addr) -> Result<(), AttachError> {
        self.connect_link(sandbox, netns, address).map_err(|source| AttachError::Link { sandbox: sandbox.to_owned(), source })
    }

    fn connect_link(&self, sandbox: &str, netns: &Path, address: Ipv4Addr) -> Result<(), LinkError> {
        let namespace = Namespace::open(netns)?;
        let mut inside = Links::open_in(&namespace)?;
        let name = self.link_name(address);
        let gateway = Pool::gateway(self.pod_net);
        let pod = End { name: POD_LINK, address: address.into(), mac: mac(address) };
        let node = End { name: &name, address: gateway.into(), mac: mac(gateway) };
        // A socket of its own: the kernel takes its time over links, and others need not wait for it.
        let mut links = Links::open()?;
        if let Some(link) = inside.find(POD_LINK)? {
            let here = inside.addresses()?.contains(&(link.index, pod.address));
            if here && links.find(&name)?.is_some() {
                return Ok(());
            }
            inside.delete(POD_LINK)?;
        }
        // Left by a sandbox whose namespace is another.
        links.delete(&name)?;
        links.add_pair(&node, &pod, &alias(&self.config.cluster_id, address, sandbox), self.bridge.mtu, &namespace)?;
        write_link_settings(&name);
        links.configure_node_end(&name, &pod, gateway.into())?;
        inside.configure_pod_end(&pod, &node)?;
        settle(&name).map(|carrier| tracing::debug!(sandbox, link = name, %address, carrier, "attached"))
    }

    fn open_ports(&self, sandbox: &str, address: Ipv4Addr, host_ports: &[HostPort]) -> Result<(), AttachError> {
        let ports: Vec<(Frontend, SocketAddr)> =
            host_ports.iter().map(|port| (port.frontend(), SocketAddr::new(address.into(), port.container_port))).collect();
        let mut state = self.state.lock();
        let result = state.table.add_pod(address.into(), &ports);
        result.map_err(|source| AttachError::Ports { sandbox: sandbox.to_owned(), source })
    }

    /// The address is free again only after its link, its ports and its flows are gone.
    fn detach(&self, sandbox: &str) -> Result<(), AttachError> {
        let Some(address) = self.state.lock().pods.get(sandbox).copied() else {
            return Ok(());
        };
        let ports = |source| AttachError::Ports { sandbox: sandbox.to_owned(), source };
        self.state.lock().table.remove_pod(address.into()).map_err(ports)?;
        let link = |source| AttachError::Link { sandbox: sandbox.to_owned(), source };
        let mut links = Links::open().map_err(link)?;
        links.delete(&self.link_name(address)).map_err(link)?;
        let forgotten = self.conntrack.lock().forget_address(address.into());
        forgotten.map_err(|source| AttachError::Connections { address: address.into(), source })?;
        let mut state = self.state.lock();
        state.pods.remove(sandbox);
        state.pool.release(address);
        Ok(())
    }

    fn link_name(&self, address: Ipv4Addr) -> String {
        link_name(&self.config.cluster_id, address)
    }
}

impl HostPort {
    fn frontend(&self) -> Frontend {
        // 0.0.0.0 means every address, as an absent one does.
        let address = self.host_ip.filter(|address| !address.is_unspecified());
        Frontend { address, protocol: self.protocol, port: self.host_port, origin: Origin::Anyone }
    }
}

fn ipv4(net: IpNet) -> Result<Ipv4Net, OpenError> {
    match net {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(OpenError::NotIpv4(net)),
    }
}

fn bridge_name(cluster_id: &str) -> String {
    format!("kn{cluster_id}")
}

fn table_name(cluster_id: &str) -> String {
    format!("knarr_{cluster_id}")
}

/// What the names of the pods' links begin with, by which rules know them.
fn link_prefix(cluster_id: &str) -> String {
    format!("kv{}", &cluster_id[..cluster_id.len().min(6)])
}

/// The prefix and the last three bytes of the pod's address: at most fourteen bytes of the fifteen that a name may have.
fn link_name(cluster_id: &str, address: Ipv4Addr) -> String {
    format!("{}{:06x}", link_prefix(cluster_id), u32::from(address) & 0xff_ffff)
}

fn is_pod_link(link: &LinkState, cluster_id: &str) -> bool {
    let owned = link.alias.as_deref().is_some_and(|alias| parse_alias(cluster_id, alias).is_some());
    owned || (link.alias.is_none() && link.name.starts_with(&link_prefix(cluster_id)))
}

fn alias(cluster_id: &str, address: Ipv4Addr, sandbox: &str) -> String {
    format!("knarr {cluster_id} {address} {sandbox}")
}

/// The inverse of [`alias`].
fn parse_alias(cluster_id: &str, text: &str) -> Option<(Ipv4Addr, String)> {
    let rest = text.strip_prefix("knarr ")?.strip_prefix(cluster_id)?.strip_prefix(' ')?;
    let (address, sandbox) = rest.split_once(' ')?;
    Some((address.parse().ok()?, sandbox.to_owned()))
}

/// A locally administered address made from the IP address, so that neighbours' caches stay right when it is given again.
fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn make_bridge(links: &mut Links, config: &NetConfig, pod_net: Ipv4Net) -> Result<LinkState, OpenError> {
    let name = bridge_name(&config.cluster_id);
    let all = links.list()?;
    let name_of = |index| all.iter().find(|link| link.index == index);
    let addresses = links.addresses()?;
    for (index, address) in &addresses {
        if let Some(link) = name_of(*index)
            && link.name != name
            && config.pod_cidr.contains(address)
        {
            return Err(OpenError::CidrInUse { cidr: config.pod_cidr, link: link.name.clone(), address: *address });
        }
    }
    let uplink = addresses.iter().find(|(_, address)| *address == config.node_ip).and_then(|(index, _)| name_of(*index));
    let mtu = config.mtu.or(uplink.filter(|link| link.name != "lo").map(|link| link.mtu)).unwrap_or(MTU_DEFAULT);
    let gateway = Pool::gateway(pod_net);
    let bridge = links.ensure_bridge(&name, mtu, mac(gateway))?;
    let on_link = Ipv4Net::new_assert(gateway, pod_net.prefix_len());
    links.ensure_address(&bridge, IpNet::V4(on_link))?;
    links.ensure_address(&bridge, IpNet::from(config.dns_ip))?;
    // Without a way to Service addresses the node's own connections fail before they meet the output hook.
    links.ensure_route(&bridge, config.service_cidr, gateway.into())?;
    Ok(bridge)
}

/// Node ports answer on 127.0.0.1 (the table lets nothing else of loopback through), and a pod's packets carry its address.
fn write_link_settings(link: &str) {
    let setting = |name| format!("net/ipv4/conf/{link}/{name}");
    say_refused(&setting("route_localnet"), "1", "node ports do not answer on 127.0.0.1");
    say_refused(&setting("rp_filter"), "1", "pods can send under other addresses");
    say_refused(&setting("forwarding"), "1", "pods reach nothing outside their own addresses");
}

/// A refused setting does not stop the node; what it costs is said.
fn say_refused(name: &str, value: &str, loss: &str) {
    if let Err(error) = write_sysctl(name, value) {
        tracing::warn!(error = &error as &dyn std::error::Error, value, loss, "a kernel setting was refused");
    }
}

/// Reads from the links which sandboxes have which addresses, removes what was half made, and lets the table agree.
fn adopt_pods(
    links: &mut Links,
    config: &NetConfig,
    pod_net: Ipv4Net,
    table: &mut Table,
) -> Result<(Pool, HashMap<String, Ipv4Addr>), OpenError> {
    let mut pool = Pool::new(pod_net);
    let mut pods = HashMap::new();
    for link in links.list()?.iter().filter(|link| is_pod_link(link, &config.cluster_id)) {
        let owner = link.alias.as_deref().and_then(|alias| parse_alias(&config.cluster_id, alias));
        match owner.filter(|(address, _)| pool.claim(*address)) {
            Some((address, sandbox)) => {
                pods.insert(sandbox, address);
            }
            None => links.delete(&link.name)?,
        }
    }
    let live: HashSet<IpAddr> = pods.values().map(|address| IpAddr::from(*address)).collect();
    let dead: Vec<IpAddr> = table.pods().difference(&live.iter().copied().collect()).copied().collect();
    dead.into_iter().try_for_each(|address| table.remove_pod(address))?;
    live.into_iter().try_for_each(|address| table.add_pod(address, &[]))?;
    pool.rotate(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u32);
    Ok((pool, pods))
}

#[cfg(test)]
mod tests;
