//! The fixed part of the table: sets, base chains, rules. It is the same for one pod and for ten thousand Services; only set
//! elements change afterwards, and the small chains that spread connections over a number of endpoints ([`spread_chain`]).
//!
//! The way of a new connection to a Service:
//!
//! ```text
//! prerouting -300  drop what came from a pod's link from or to 127/8
//!            -110  frontend in @unserved                       → reject
//!            -100  frontend → @services (or @outside)          → goto to-<n>: slot = random below n
//!                  slot, frontend → @endpoints                 → dnat
//! postrouting 100  pod to itself, loopback to pod → gateway's address; pod to the world → masquerade; all else keeps its source
//! ```
//!
//! A frontend is `address . protocol . port`; a port of the node itself has the address zero. Adding an endpoint adds one element
//! and changes one verdict, whatever the number of Services; a packet meets the same few hash lookups. Replies and later packets
//! of a connection are translated by connection tracking and meet no rule of the nat chains.

use std::net::IpAddr;

use ipnet::IpNet;

use super::frontend::Spread;
use crate::nft::{
    Batch, ChainKind, CmpOp, CtKey, Expr, Family, Hook, HookPoint, MetaKey, Reg, RejectWith, SetData, SetSpec, Type, Verdict,
};

/// Remembered clients of Services with session affinity. Beyond it new clients are spread without memory.
const STICKY_CLIENTS_MAX: u32 = 65_536;

/// Number of the first slot of endpoints for connections from outside the cluster. More endpoints than this in one Service are
/// cut off by the plan (`ENDPOINTS_MAX`).
pub(super) const OUTSIDE_SLOT_BASE: u32 = 1 << 16;

/// Raised whenever anything in this file changes the kernel's content, so that a table of another version is replaced.
const VERSION: u32 = 2;

pub(super) const SERVICES: &str = "services";
pub(super) const OUTSIDE: &str = "outside";
pub(super) const UNSERVED: &str = "unserved";
pub(super) const ENDPOINTS: &str = "endpoints";
pub(super) const HOST_PORTS: &str = "host-ports";
pub(super) const HAIRPIN: &str = "hairpin";
pub(super) const STICKY: &str = "sticky";

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
/// ICMP_REDIRECT.
const ICMP_REDIRECT: u8 = 5;
/// RTN_UNICAST and RTN_LOCAL, as `fib daddr type` gives them.
const RTN_UNICAST: u32 = 1;
const RTN_LOCAL: u32 = 2;
/// NF_CT_STATE bits.
const STATE_INVALID: u32 = 1;
const STATE_NEW: u32 = 8;
/// IPS_DST_NAT.
const STATUS_DNAT: u32 = 1 << 5;

/// What the fixed rules depend on.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) family: Family,
    /// What the names of the pods' links begin with.
    pub(crate) pod_links: String,
    /// The link that leads nowhere: Service addresses and unused pod addresses are routed there.
    pub(crate) sink: String,
    /// The node's address towards its pods.
    pub(crate) gateway: IpAddr,
    pub(crate) pod_cidr: IpNet,
    pub(crate) cluster_cidr: IpNet,
}

/// Where the parts of a lookup stand, in 32-bit registers, for addresses of `words` registers.
#[derive(Clone, Copy)]
struct Registers {
    words: u8,
}

impl Registers {
    fn source(self) -> Reg {
        Reg(0)
    }
    /// The register before the frontend. The source is not needed while this holds the slot.
    fn slot(self) -> Reg {
        Reg(self.words - 1)
    }
    fn frontend(self) -> Reg {
        Reg(self.words)
    }
    fn protocol(self) -> Reg {
        Reg(2 * self.words)
    }
    fn port(self) -> Reg {
        self.protocol().after(1)
    }
    fn endpoint(self) -> Reg {
        self.protocol().after(2)
    }
    fn endpoint_port(self) -> Reg {
        self.endpoint().after(self.words)
    }
}

fn registers(family: Family) -> Registers {
    Registers { words: if family == Family::Ipv4 { 1 } else { 4 } }
}

/// The sets, with keys for the family.
fn sets(family: Family) -> [SetSpec; 7] {
    use Type::{Ipv4, Ipv6, Mark, Port, Protocol};
    let v4 = family == Family::Ipv4;
    let pick = |four: &'static [Type], six: &'static [Type]| if v4 { four } else { six };
    let frontend = pick(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]);
    let endpoint = pick(&[Ipv4, Port], &[Ipv6, Port]);
    let plain = |name, key, data| SetSpec { name, key, data, dynamic_size: None };
    [
        plain(SERVICES, frontend, SetData::Verdict),
        plain(OUTSIDE, frontend, SetData::Verdict),
        plain(UNSERVED, frontend, SetData::None),
        plain(ENDPOINTS, pick(&[Mark, Ipv4, Protocol, Port], &[Mark, Ipv6, Protocol, Port]), SetData::Value(endpoint)),
        plain(HOST_PORTS, frontend, SetData::Value(endpoint)),
        plain(HAIRPIN, pick(&[Ipv4, Ipv4], &[Ipv6, Ipv6]), SetData::None),
        SetSpec {
            name: STICKY,
            key: pick(&[Ipv4, Ipv4, Protocol, Port], &[Ipv6, Ipv6, Protocol, Port]),
            data: SetData::Value(endpoint),
            dynamic_size: Some(STICKY_CLIENTS_MAX),
        },
    ]
}

impl Layout {
    /// A chain of this name shows that the table was made by this version with these settings.
    pub(super) fn marker(&self) -> String {
        let text = format!("{VERSION} {self:?}");
        // FNV-1a, 64 bits: settings are told apart, nobody is kept out.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("layout-{hash:016x}")
    }

    /// Replaces the table, if there is one, by a fresh one with no elements.
    pub(super) fn create(&self, batch: &mut Batch) {
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        sets(self.family).iter().for_each(|set| batch.add_set(set));
        batch.add_chain(&self.marker(), None);
        for name in ["refused", "refuse", "local-ports"] {
            batch.add_chain(name, None);
        }
        let filter = |point, priority| Some(Hook { kind: ChainKind::Filter, point, priority });
        let nat = |point, priority| Some(Hook { kind: ChainKind::Nat, point, priority });
        batch.add_chain("guard", filter(HookPoint::Prerouting, -300));
        batch.add_chain("refuse-prerouting", filter(HookPoint::Prerouting, -110));
        batch.add_chain("refuse-output", filter(HookPoint::Output, -110));
        batch.add_chain("nat-prerouting", nat(HookPoint::Prerouting, -100));
        batch.add_chain("nat-output", nat(HookPoint::Output, -100));
        batch.add_chain("filter-forward", filter(HookPoint::Forward, 0));
        batch.add_chain("filter-output", filter(HookPoint::Output, 0));
        batch.add_chain("nat-postrouting", nat(HookPoint::Postrouting, 100));
        self.filter_rules(batch);
        self.nat_rules(batch);
        self.postrouting_rules(batch);
    }

    fn filter_rules(&self, batch: &mut Batch) {
        let goto_refused = || vec![Expr::Verdict(Verdict::Goto("refused".into()))];
        let drop = || vec![Expr::Verdict(Verdict::Drop)];
        let mut rule = |chain: &str, parts: &[Vec<Expr>]| batch.add_rule(chain, &parts.concat());
        let unserved = || vec![Expr::InSet { set: UNSERVED, key: registers(self.family).frontend(), invert: false }];

        rule("refused", &[protocol_is(IPPROTO_TCP), vec![Expr::Reject(RejectWith::TcpReset)]]);
        rule("refused", &[vec![Expr::Reject(RejectWith::PortUnreachable(self.family))]]);
        rule("refuse", &[self.load_frontend(false), unserved(), goto_refused()]);
        rule("refuse", &[destination_is_local(), self.load_frontend(true), unserved(), goto_refused()]);
        // With route_localnet on pods' links (loopback reaches node ports) nobody there may reach loopback.
        let loopback = loopback_net(self.family);
        rule("guard", &[self.input_is_pod(), self.source_in(loopback), drop()]);
        rule("guard", &[self.input_is_pod(), self.destination_in(loopback), drop()]);
        let refuse = || vec![Expr::Verdict(Verdict::Jump("refuse".into()))];
        rule("refuse-prerouting", &[state_has(STATE_NEW), refuse()]);
        rule("refuse-output", &[state_has(STATE_NEW), refuse()]);
        // A segment outside its connection's window is not translated; let through, it would tell the peer of a Service to
        // reset a connection that is alive.
        rule("filter-forward", &[self.input_is_pod(), state_has(STATE_INVALID), drop()]);
        rule("filter-forward", &[self.output_is_pod(), state_has(STATE_INVALID), drop()]);
        // Nothing is behind the sink: a Service without this port, or a pod that is no more. The sender learns it at once.
        rule("filter-forward", &[link_is(MetaKey::OutputName, &self.sink), goto_refused()]);
        // For what the node sends itself the sink is chosen before translation; what is not translated matched nothing. Which ranges Services
        // have addresses of is known to the routes alone.
        let unknown =
            [state_has(STATE_NEW), link_is(MetaKey::OutputName, &self.sink), status_has_not(STATUS_DNAT), destination_is_unicast()];
        rule("filter-output", &[unknown.concat(), goto_refused()]);
        // The detour through the node is meant.
        let redirect = [
            protocol_is(IPPROTO_ICMP),
            vec![
                Expr::Transport { offset: 0, bytes: 1, to: Reg(0) },
                Expr::Cmp { from: Reg(0), op: CmpOp::Equal, value: vec![ICMP_REDIRECT] },
            ],
        ];
        rule("filter-output", &[self.output_is_pod(), redirect.concat(), drop()]);
    }

    fn nat_rules(&self, batch: &mut Batch) {
        let frontend = registers(self.family).frontend();
        let mut rule = |chain: &str, parts: &[Vec<Expr>]| batch.add_rule(chain, &parts.concat());
        let verdict = |map| vec![Expr::VerdictMap { map, key: frontend }];
        let local_ports = || vec![Expr::Verdict(Verdict::Jump("local-ports".into()))];
        let outside = || self.source_not_in(self.cluster_cidr);

        rule("nat-prerouting", &[outside(), self.load_frontend(false), verdict(OUTSIDE)]);
        rule("nat-prerouting", &[self.load_frontend(false), verdict(SERVICES)]);
        rule("nat-prerouting", &[outside(), destination_is_local(), self.load_frontend(true), verdict(OUTSIDE)]);
        rule("nat-prerouting", &[destination_is_local(), local_ports()]);
        rule("nat-output", &[self.load_frontend(false), verdict(SERVICES)]);
        rule("nat-output", &[destination_is_local(), local_ports()]);
        for any_address in [false, true] {
            rule("local-ports", &[self.load_frontend(any_address), self.map_and_dnat(HOST_PORTS, frontend)]);
        }
        rule("local-ports", &[self.load_frontend(true), verdict(SERVICES)]);
    }

    fn postrouting_rules(&self, batch: &mut Batch) {
        let mut rule = |parts: &[Vec<Expr>]| batch.add_rule("nat-postrouting", &parts.concat());
        let done = || vec![Expr::Verdict(Verdict::Return)];
        let masquerade = || vec![Expr::Masquerade];
        rule(&[link_is(MetaKey::OutputName, "lo"), done()]);
        let pair = vec![
            self.load_source(Reg(0)),
            self.load_destination(Reg(registers(self.family).words)),
            Expr::InSet { set: HAIRPIN, key: Reg(0), invert: false },
        ];
        rule(&[pair, self.translate_to_gateway()]);
        rule(&[self.output_is_pod(), self.source_in(loopback_net(self.family)), self.translate_to_gateway()]);
        rule(&[self.output_is_pod(), done()]);
        rule(&[self.source_in(self.cluster_cidr), self.destination_in(self.cluster_cidr), done()]);
        rule(&[self.source_in(self.pod_cidr), self.destination_in(multicast_net(self.family)), done()]);
        rule(&[self.source_in(self.pod_cidr), masquerade()]);
        // From outside through this node to a pod of another: the answer must come back through here. Translations that are
        // not ours lead elsewhere.
        rule(&[status_has(STATUS_DNAT), self.destination_in(self.cluster_cidr), masquerade()]);
    }

    /// The chain that spreads new connections over `spread.count` endpoints.
    pub(super) fn spread_chain(&self, batch: &mut Batch, spread: &Spread) {
        let name = spread.chain();
        batch.add_chain(&name, None);
        if let Some(timeout) = spread.sticky {
            self.sticky_rules(batch, &name, spread, timeout);
        }
        batch.add_rule(&name, &[self.choose(spread), self.dnat()].concat());
    }

    /// A client that is remembered goes where it went; another is spread and remembered. The last rule, added by the caller,
    /// serves when the memory is full: a dynset that cannot add ends its rule. Who remembers an endpoint that has gone is
    /// deleted from the map by [`super::Table::apply`]. (The nft program of Debian 12 aborts when it lists a rule that remembers
    /// what a map gave; newer ones print it.)
    fn sticky_rules(&self, batch: &mut Batch, chain: &str, spread: &Spread, timeout: std::time::Duration) {
        let at = registers(self.family);
        let remember = vec![Expr::Update { map: STICKY, key: at.source(), data: at.endpoint(), timeout }];
        let client = [vec![self.load_source(at.source())], self.load_frontend(spread.any_address)].concat();
        let recall = vec![Expr::Map { map: STICKY, key: at.source(), to: at.endpoint() }];
        batch.add_rule(chain, &[client, recall, remember.clone(), self.dnat()].concat());
        let source_again = vec![self.load_source(at.source())];
        batch.add_rule(chain, &[self.choose(spread), source_again, remember, self.dnat()].concat());
    }

    /// Loads the frontend, draws a slot, looks up the endpoint.
    fn choose(&self, spread: &Spread) -> Vec<Expr> {
        let at = registers(self.family);
        let mut rule = self.load_frontend(spread.any_address);
        rule.push(Expr::Random { to: at.slot(), modulus: spread.count, offset: spread.first_slot() });
        rule.push(Expr::Map { map: ENDPOINTS, key: at.slot(), to: at.endpoint() });
        rule
    }

    fn dnat(&self) -> Vec<Expr> {
        let at = registers(self.family);
        vec![Expr::Dnat { family: self.family, address: at.endpoint(), port: at.endpoint_port() }]
    }

    /// Source becomes the gateway.
    fn translate_to_gateway(&self) -> Vec<Expr> {
        vec![Expr::Immediate { to: Reg(0), value: octets(self.gateway) }, Expr::Snat { family: self.family, address: Reg(0) }]
    }

    fn input_is_pod(&self) -> Vec<Expr> {
        link_begins(MetaKey::InputName, &self.pod_links)
    }

    fn output_is_pod(&self) -> Vec<Expr> {
        link_begins(MetaKey::OutputName, &self.pod_links)
    }

    fn map_and_dnat(&self, map: &'static str, key: Reg) -> Vec<Expr> {
        let lookup = Expr::Map { map, key, to: registers(self.family).endpoint() };
        [vec![lookup], self.dnat()].concat()
    }

    /// Destination address (zero for `any_address`), protocol and destination port into consecutive registers.
    fn load_frontend(&self, any_address: bool) -> Vec<Expr> {
        let at = registers(self.family);
        let address = if any_address {
            Expr::Immediate { to: at.frontend(), value: vec![0; usize::from(at.words) * 4] }
        } else {
            self.load_destination(at.frontend())
        };
        let protocol = Expr::Meta { key: MetaKey::L4Protocol, to: at.protocol() };
        vec![address, protocol, Expr::Transport { offset: 2, bytes: 2, to: at.port() }]
    }

    fn load_source(&self, to: Reg) -> Expr {
        match self.family {
            Family::Ipv4 => Expr::Network { offset: 12, bytes: 4, to },
            Family::Ipv6 => Expr::Network { offset: 8, bytes: 16, to },
        }
    }

    fn load_destination(&self, to: Reg) -> Expr {
        match self.family {
            Family::Ipv4 => Expr::Network { offset: 16, bytes: 4, to },
            Family::Ipv6 => Expr::Network { offset: 24, bytes: 16, to },
        }
    }

    fn source_in(&self, net: IpNet) -> Vec<Expr> {
        [vec![self.load_source(Reg(0))], masked(net, CmpOp::Equal)].concat()
    }

    fn source_not_in(&self, net: IpNet) -> Vec<Expr> {
        [vec![self.load_source(Reg(0))], masked(net, CmpOp::NotEqual)].concat()
    }

    fn destination_in(&self, net: IpNet) -> Vec<Expr> {
        [vec![self.load_destination(Reg(0))], masked(net, CmpOp::Equal)].concat()
    }
}

/// The address's bytes in network order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn masked(net: IpNet, op: CmpOp) -> Vec<Expr> {
    vec![Expr::Mask { from: Reg(0), to: Reg(0), mask: octets(net.netmask()) }, Expr::Cmp { from: Reg(0), op, value: octets(net.network()) }]
}

fn loopback_net(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::new_assert([127, 0, 0, 0].into(), 8),
        Family::Ipv6 => IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
    }
}

fn multicast_net(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::new_assert([224, 0, 0, 0].into(), 4),
        Family::Ipv6 => IpNet::new_assert(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    }
}

fn protocol_is(protocol: u8) -> Vec<Expr> {
    vec![Expr::Meta { key: MetaKey::L4Protocol, to: Reg(0) }, Expr::Cmp { from: Reg(0), op: CmpOp::Equal, value: vec![protocol] }]
}

fn destination_is_local() -> Vec<Expr> {
    destination_is_of(RTN_LOCAL)
}

/// Of one machine, not of a group or of all.
fn destination_is_unicast() -> Vec<Expr> {
    destination_is_of(RTN_UNICAST)
}

fn destination_is_of(kind: u32) -> Vec<Expr> {
    vec![Expr::DestinationKind { to: Reg(0) }, Expr::Cmp { from: Reg(0), op: CmpOp::Equal, value: kind.to_ne_bytes().to_vec() }]
}

/// Any of the bits, or with `CmpOp::Equal` none.
fn has_bits(load: Expr, bits: u32, op: CmpOp) -> Vec<Expr> {
    vec![
        load,
        Expr::Mask { from: Reg(0), to: Reg(0), mask: bits.to_ne_bytes().to_vec() },
        Expr::Cmp { from: Reg(0), op, value: vec![0; 4] },
    ]
}

fn state_has(bits: u32) -> Vec<Expr> {
    has_bits(Expr::Ct { key: CtKey::State, to: Reg(0) }, bits, CmpOp::NotEqual)
}

fn status_has(bits: u32) -> Vec<Expr> {
    has_bits(Expr::Ct { key: CtKey::Status, to: Reg(0) }, bits, CmpOp::NotEqual)
}

fn status_has_not(bits: u32) -> Vec<Expr> {
    has_bits(Expr::Ct { key: CtKey::Status, to: Reg(0) }, bits, CmpOp::Equal)
}

fn link_is(key: MetaKey, link: &str) -> Vec<Expr> {
    // IFNAMSIZ bytes, filled with zeros.
    let mut name = vec![0; 16];
    name[..link.len()].copy_from_slice(link.as_bytes());
    vec![Expr::Meta { key, to: Reg(0) }, Expr::Cmp { from: Reg(0), op: CmpOp::Equal, value: name }]
}

fn link_begins(key: MetaKey, prefix: &str) -> Vec<Expr> {
    vec![Expr::Meta { key, to: Reg(0) }, Expr::Cmp { from: Reg(0), op: CmpOp::Equal, value: prefix.as_bytes().to_vec() }]
}
