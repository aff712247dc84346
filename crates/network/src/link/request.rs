//! The requests, and the list of links.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;

use super::{End, LinkError, Namespace};
use crate::netlink::{Socket, SocketError, Writer, attrs, ne32, text};

const NETLINK_ROUTE: isize = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_EXCL: u16 = 0x200;
const NLM_F_REPLACE: u16 = 0x100;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// An address that comes and goes by itself (privacy extensions); of IPv4, a second one of its network, which is as good as the first.
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// NUD_PERMANENT.
const NEIGHBOUR_PERMANENT: u16 = 0x80;

const IFF_UP: u32 = 1;
pub(super) const RT_TABLE_MAIN: u8 = 254;
/// RTPROT_STATIC.
pub(super) const PROTOCOL_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
pub(super) const RT_SCOPE_LINK: u8 = 253;
pub(super) const RTN_UNICAST: u8 = 1;
/// `struct ifinfomsg`, `struct ifaddrmsg`.
const IFINFOMSG_BYTES: usize = 16;
const IFADDRMSG_BYTES: usize = 8;

/// A dump that met a change is begun again at most this often.
const DUMP_ATTEMPTS: usize = 20;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
}

/// rtnetlink in the namespace that this was opened in.
pub(crate) struct Links {
    socket: Socket,
}

/// Several requests that are sent at once and answered in order.
pub(super) struct Requests {
    writer: Writer,
    first: u32,
    last: u32,
}

impl Links {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Links, LinkError> {
        let socket = Socket::open(NETLINK_ROUTE).map_err(|source| LinkError::Socket { action: "open it", source: Box::new(source) })?;
        Ok(Links { socket })
    }

    /// In another namespace.
    pub(crate) fn open_in(namespace: &Namespace) -> Result<Links, LinkError> {
        namespace.enter(Links::open)?
    }

    /// All links of the namespace.
    pub(crate) fn list(&mut self) -> Result<Vec<LinkState>, LinkError> {
        self.dump(RTM_GETLINK, "list links", parse_link)
    }

    /// Addresses of the namespace, with the index of their link.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, LinkError> {
        self.dump(RTM_GETADDR, "list addresses", parse_address)
    }

    /// Addresses that others may know this namespace by: valid everywhere, in use, and there to stay.
    pub(crate) fn lasting_addresses(&mut self) -> Result<Vec<IpAddr>, LinkError> {
        self.dump(RTM_GETADDR, "list addresses", parse_lasting_address)
    }

    pub(crate) fn find(&mut self, name: &str) -> Result<Option<LinkState>, LinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::new();
        writer.message(RTM_GETLINK, NLM_F_REQUEST, sequence, |out| {
            write_ifinfo(out, 0, 0);
            out.attr_text(IFLA_IFNAME, name);
        });
        let mut found = None;
        match self.socket.dump(writer.as_bytes(), sequence, |reply| found = parse_link(reply.payload)) {
            Ok(()) => Ok(found),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(LinkError::of("find", name, error)),
        }
    }

    /// Makes the bridge `name`, unless it is there, and sets it up.
    pub(crate) fn ensure_bridge(&mut self, name: &str, mtu: u32, mac: [u8; 6]) -> Result<LinkState, LinkError> {
        if self.find(name)?.is_none() {
            let mut requests = self.requests();
            self.add(&mut requests, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |out| {
                write_ifinfo(out, 0, IFF_UP);
                out.attr_text(IFLA_IFNAME, name);
                out.attr_ne32(IFLA_MTU, mtu);
                // A bridge without an address of its own takes its lowest port's, and changes it as pods come and go.
                out.attr(IFLA_ADDRESS, &mac);
                out.nest(IFLA_LINKINFO, |nest| nest.attr_text(IFLA_INFO_KIND, "bridge"));
            });
            self.send(requests, "make", name)?;
        }
        let link = self.find(name)?.ok_or_else(|| LinkError::Missing(name.to_owned()))?;
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWLINK, 0, |out| write_ifinfo(out, link.index, IFF_UP));
        self.send(requests, "set up", name)?;
        Ok(link)
    }

    /// Adds an address of one host (/32, /128), unless it is there.
    pub(crate) fn ensure_address(&mut self, link: &LinkState, address: IpNet) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |out| write_address(out, link.index, address));
        self.send(requests, "add an address to", &link.name)
    }

    /// Leads `destination` to the link, with `source` as the sender of what the node itself sends there.
    pub(crate) fn ensure_route(&mut self, link: &LinkState, destination: IpNet, source: IpAddr) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |out| {
            write_route(out, Some(destination), link.index, None, Some(source));
        });
        self.send(requests, "add a route to", &link.name)
    }

    /// Makes a pair whose one end is `near.name` here, and whose other end is `far.name` in `namespace`. Both are down.
    pub(crate) fn add_pair(
        &mut self,
        near: &End<'_>,
        far: &End<'_>,
        alias: &str,
        mtu: u32,
        namespace: &Namespace,
    ) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |out| {
            write_ifinfo(out, 0, 0);
            write_end(out, near, mtu);
            out.nest(IFLA_LINKINFO, |nest| {
                nest.attr_text(IFLA_INFO_KIND, "veth");
                nest.nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |end| {
                        write_ifinfo(end, 0, 0);
                        write_end(end, far, mtu);
                        end.attr(IFLA_NET_NS_FD, &namespace.fd().as_raw_fd().to_ne_bytes());
                    });
                });
            });
        });
        self.add(&mut requests, RTM_NEWLINK, 0, |out| {
            write_ifinfo(out, 0, 0);
            out.attr_text(IFLA_IFNAME, near.name);
            out.attr_text(IFLA_IFALIAS, alias);
        });
        self.send(requests, "make", near.name)
    }

    /// Sets up the node's end of a pair: the way to `far`, without asking for its link address.
    pub(crate) fn configure_node_end(&mut self, name: &str, far: &End<'_>, source: IpAddr) -> Result<(), LinkError> {
        let index = self.find(name)?.ok_or_else(|| LinkError::Missing(name.to_owned()))?.index;
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWLINK, 0, |out| write_ifinfo(out, index, IFF_UP));
        self.add(&mut requests, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |out| write_neighbour(out, index, far));
        self.add(&mut requests, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |out| {
            write_route(out, Some(IpNet::from(far.address)), index, None, Some(source));
        });
        self.send(requests, "configure", name)
    }

    /// Sets up a pod's end: loopback, address, routes. The address stands alone (/32), so that every packet goes to the gateway.
    pub(crate) fn configure_pod_end(&mut self, end: &End<'_>, gateway: &End<'_>) -> Result<(), LinkError> {
        let index = self.find(end.name)?.ok_or_else(|| LinkError::Missing(end.name.to_owned()))?.index;
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWLINK, 0, |out| {
            write_ifinfo(out, 0, IFF_UP);
            out.attr_text(IFLA_IFNAME, "lo");
        });
        self.add(&mut requests, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |out| {
            write_address(out, index, IpNet::from(end.address));
        });
        self.add(&mut requests, RTM_NEWLINK, 0, |out| write_ifinfo(out, index, IFF_UP));
        self.add(&mut requests, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, |out| write_neighbour(out, index, gateway));
        self.add(&mut requests, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |out| {
            write_route(out, Some(IpNet::from(gateway.address)), index, None, None);
        });
        self.add(&mut requests, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, |out| {
            write_route(out, None, index, Some(gateway.address), None);
        });
        self.send(requests, "configure", end.name)
    }

    /// Deletes a link. Without effect if there is none of that name.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_DELLINK, 0, |out| {
            write_ifinfo(out, 0, 0);
            out.attr_text(IFLA_IFNAME, name);
        });
        match self.send(requests, "delete", name) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    pub(super) fn requests(&mut self) -> Requests {
        Requests { writer: Writer::new(), first: 0, last: 0 }
    }

    pub(super) fn add(&mut self, requests: &mut Requests, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        let sequence = self.socket.next_sequence();
        if requests.first == 0 {
            requests.first = sequence;
        }
        requests.last = sequence;
        requests.writer.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, body);
    }

    /// Later requests are carried out even if an earlier one is refused; the first refusal is returned.
    pub(super) fn send(&mut self, requests: Requests, action: &'static str, link: &str) -> Result<(), LinkError> {
        let Requests { writer, first, last } = requests;
        self.socket.transact_each(writer.as_bytes(), first, last).map_err(|error| LinkError::of(action, link, error))
    }

    pub(super) fn dump<T>(&mut self, kind: u16, action: &'static str, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, LinkError> {
        let mut last = SocketError::Interrupted;
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.socket.next_sequence();
            let mut writer = Writer::new();
            writer.message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, |out| write_ifinfo(out, 0, 0));
            let mut found = Vec::new();
            match self.socket.dump(writer.as_bytes(), sequence, |reply| found.extend(parse(reply.payload))) {
                Ok(()) => return Ok(found),
                Err(SocketError::Interrupted) => last = SocketError::Interrupted,
                Err(error) => {
                    return Err(LinkError::Socket { action, source: Box::new(error) });
                }
            }
        }
        Err(LinkError::Socket { action, source: Box::new(last) })
    }
}

/// `struct ifinfomsg` with its change mask.
fn write_ifinfo(out: &mut Writer, index: u32, flags: u32) {
    out.bytes(&[0; 4]);
    out.bytes(&index.to_ne_bytes());
    out.bytes(&flags.to_ne_bytes());
    out.bytes(&flags.to_ne_bytes());
}

fn write_end(out: &mut Writer, end: &End<'_>, mtu: u32) {
    out.attr_text(IFLA_IFNAME, end.name);
    out.attr_ne32(IFLA_MTU, mtu);
    out.attr(IFLA_ADDRESS, &end.mac);
}

/// `struct ndmsg`, the neighbour.
fn write_neighbour(out: &mut Writer, link: u32, neighbour: &End<'_>) {
    out.bytes(&[family(neighbour.address), 0, 0, 0]);
    out.bytes(&link.to_ne_bytes());
    out.bytes(&NEIGHBOUR_PERMANENT.to_ne_bytes());
    out.bytes(&[0, 0]);
    out.attr_ip(NDA_DST, neighbour.address);
    out.attr(NDA_LLADDR, &neighbour.mac);
}

/// `struct ifaddrmsg`, the address.
fn write_address(out: &mut Writer, index: u32, address: IpNet) {
    out.bytes(&[family(address.addr()), address.prefix_len(), 0, RT_SCOPE_UNIVERSE]);
    out.bytes(&index.to_ne_bytes());
    out.attr_ip(IFA_LOCAL, address.addr());
    out.attr_ip(IFA_ADDRESS, address.addr());
}

/// `struct rtmsg`, the route.
pub(super) fn write_route(out: &mut Writer, to: Option<IpNet>, link: u32, gateway: Option<IpAddr>, source: Option<IpAddr>) {
    let any = to.map(|net| net.addr()).or(gateway).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    let bits = to.map_or(0, |net| net.prefix_len());
    out.bytes(&[family(any), bits, 0, 0, RT_TABLE_MAIN, PROTOCOL_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]);
    if let Some(net) = to {
        out.attr_ip(RTA_DST, net.network());
    }
    if let Some(gateway) = gateway {
        out.attr_ip(RTA_GATEWAY, gateway);
    }
    if let Some(source) = source {
        out.attr_ip(RTA_PREFSRC, source);
    }
    out.attr_ne32(RTA_OIF, link);
}

/// AF_INET, AF_INET6.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

fn parse_link(payload: &[u8]) -> Option<LinkState> {
    let index = ne32(payload.get(4..8)?)?;
    let mut link = LinkState { index, ..LinkState::default() };
    for attr in attrs(payload.get(IFINFOMSG_BYTES..)?) {
        match attr.kind {
            IFLA_IFNAME => link.name = text(attr.value)?.to_owned(),
            IFLA_IFALIAS => link.alias = text(attr.value).map(str::to_owned),
            IFLA_MTU => link.mtu = ne32(attr.value)?,
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = ne32(payload.get(4..8)?)?;
    Some((index, address(attribute(payload, IFA_LOCAL)?)?))
}

fn parse_lasting_address(payload: &[u8]) -> Option<IpAddr> {
    // Outside of point-to-point links, addresses of IPv6 have no IFA_LOCAL.
    let address = address(attribute(payload, IFA_LOCAL).or_else(|| attribute(payload, IFA_ADDRESS))?)?;
    let flags = attribute(payload, IFA_FLAGS).and_then(ne32).unwrap_or_else(|| u32::from(payload[2]));
    let temporary = if address.is_ipv6() { IFA_F_TEMPORARY } else { 0 };
    let lasts = flags & (temporary | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE) == 0;
    (payload[3] == RT_SCOPE_UNIVERSE && lasts).then_some(address)
}

/// Of a message about an address.
fn attribute(payload: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(payload.get(IFADDRMSG_BYTES..)?).find(|attr| attr.kind == kind).map(|attr| attr.value)
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}
