//! Frontends and where they lead: what is wanted ([`Target`]), what is installed ([`Installed`]), and the few set elements
//! between the two ([`Delta`]).
//!
//! Each endpoint of a frontend has a slot, numbered from zero without gaps. A new endpoint takes the next slot; when one goes,
//! the last takes its place. So a change costs elements in proportion to the endpoints that changed, and one verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::layout::{self, OUTSIDE_SLOT_BASE, octets};
use crate::nft::{Element, Verdict};
use crate::node::Protocol;

/// Endpoints of one frontend that are used; the upstream controller caps a Service at 1,000 endpoints in Endpoints and 100 in
/// a slice, but not the number of slices. Slots above belong to connections from outside.
pub(crate) const ENDPOINTS_MAX: usize = OUTSIDE_SLOT_BASE as usize;

/// Whose connections an entry decides. An entry for the outside goes before one for anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Origin {
    Anyone,
    /// Sources that are not in the cluster's pod range.
    Outside,
}

/// An address and port that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Frontend {
    /// `None` is every address of the node.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) origin: Origin,
}

/// Where connections to a frontend shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Endpoints {
        endpoints: BTreeSet<SocketAddr>,
        /// A client comes back to the same endpoint within this time.
        sticky: Option<Duration>,
        /// All of them are about to end, and are used only for want of others.
        draining: bool,
    },
    /// TCP reset, or port unreachable. Only for [`Origin::Anyone`].
    Reject,
    Drop,
}

/// Where they go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    Endpoints { slots: Vec<SocketAddr>, sticky: Option<Duration> },
    Reject,
    Drop,
}

/// A way to spread connections; frontends that agree in it share one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spread {
    pub(crate) any_address: bool,
    pub(crate) origin: Origin,
    pub(crate) count: u32,
    pub(crate) sticky: Option<Duration>,
}

impl Spread {
    pub(super) fn chain(&self) -> String {
        let place = if self.any_address { "-node" } else { "" };
        let origin = if self.origin == Origin::Outside { "-outside" } else { "" };
        let sticky = self.sticky.map(|timeout| format!("-sticky-{}", timeout.as_secs())).unwrap_or_default();
        format!("to{place}{origin}-{}{sticky}", self.count)
    }

    /// The inverse of [`Spread::chain`].
    pub(super) fn of_chain(name: &str) -> Option<Spread> {
        let rest = name.strip_prefix("to")?;
        let (any_address, rest) = strip(rest, "-node");
        let (outside, rest) = strip(rest, "-outside");
        let (count, sticky) = match rest.split_once("-sticky-") {
            Some((count, seconds)) => (count, Some(Duration::from_secs(seconds.parse().ok()?))),
            None => (rest, None),
        };
        let origin = if outside { Origin::Outside } else { Origin::Anyone };
        Some(Spread { any_address, origin, count: count.strip_prefix('-')?.parse().ok()?, sticky })
    }

    pub(super) fn first_slot(&self) -> u32 {
        first_slot(self.origin)
    }
}

fn strip<'a>(text: &'a str, prefix: &str) -> (bool, &'a str) {
    text.strip_prefix(prefix).map_or((false, text), |rest| (true, rest))
}

fn first_slot(origin: Origin) -> u32 {
    if origin == Origin::Outside { OUTSIDE_SLOT_BASE } else { 0 }
}

/// Set elements to delete, then to add; and what that leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(super) delete: BTreeMap<&'static str, Vec<Element>>,
    pub(super) add: BTreeMap<&'static str, Vec<Element>>,
    /// Uses of spreading chains that end and begin, one for each frontend.
    pub(super) released: Vec<Spread>,
    pub(super) acquired: Vec<Spread>,
    /// Endpoints that a frontend no longer leads to. Connection tracking may still.
    pub(crate) gone: Vec<(Frontend, SocketAddr)>,
    /// Some of them had session affinity.
    forgets: bool,
}

impl Delta {
    /// Brings `frontend` from `old` to `new` and returns what is installed then.
    pub(super) fn change(&mut self, frontend: &Frontend, old: Option<&Installed>, new: Option<&Target>) -> Option<Installed> {
        let key = frontend.key();
        let installed = new.map(|target| install(target, frontend.origin, old));
        let empty: &[SocketAddr] = &[];
        let before = old.map_or(empty, Installed::slots);
        let after = installed.as_ref().map_or(empty, Installed::slots);
        for slot in 0..before.len().max(after.len()) {
            if before.get(slot) == after.get(slot) {
                continue;
            }
            let slot_key = frontend.slot_key(slot);
            if before.get(slot).is_some() {
                self.delete(layout::ENDPOINTS, Element::key(slot_key.clone()));
            }
            if let Some(endpoint) = after.get(slot) {
                self.add(layout::ENDPOINTS, Element::value(slot_key, endpoint_bytes(endpoint)));
            }
        }
        self.change_verdict(frontend, &key, old, installed.as_ref());
        let gone_before = self.gone.len();
        let kept: BTreeSet<_> = after.iter().collect();
        self.gone.extend(before.iter().filter(|endpoint| !kept.contains(endpoint)).map(|endpoint| (*frontend, *endpoint)));
        let sticky = matches!(old, Some(Installed::Endpoints { sticky: Some(_), .. }));
        self.forgets |= sticky && self.gone.len() > gone_before;
        installed
    }

    fn change_verdict(&mut self, frontend: &Frontend, key: &[u8], old: Option<&Installed>, new: Option<&Installed>) {
        let before = old.map(|state| frontend.entry(state));
        let after = new.map(|state| frontend.entry(state));
        if before == after {
            return;
        }
        if let Some(entry) = before {
            self.delete(entry.set, Element::key(key.to_vec()));
            self.released.extend(entry.spread);
        }
        if let Some(entry) = after {
            self.add(entry.set, Element { key: key.to_vec(), data: entry.verdict.map(crate::nft::Data::Verdict) });
            self.acquired.extend(entry.spread);
        }
    }

    /// Endpoints have gone that clients may be bound to.
    pub(super) fn had_memory(&self) -> bool {
        self.forgets
    }

    fn delete(&mut self, set: &'static str, element: Element) {
        self.delete.entry(set).or_default().push(element);
    }

    fn add(&mut self, set: &'static str, element: Element) {
        self.add.entry(set).or_default().push(element);
    }
}

/// What stands for `target`, with endpoints that stay in their slots wherever that leaves no gap.
fn install(target: &Target, origin: Origin, old: Option<&Installed>) -> Installed {
    let (wanted, sticky) = match target {
        Target::Reject if origin == Origin::Anyone => return Installed::Reject,
        Target::Endpoints { endpoints, .. } if endpoints.is_empty() && origin == Origin::Anyone => return Installed::Reject,
        Target::Reject | Target::Drop => return Installed::Drop,
        Target::Endpoints { endpoints, .. } if endpoints.is_empty() => return Installed::Drop,
        Target::Endpoints { endpoints, sticky, .. } => (endpoints, *sticky),
    };
    let mut slots: Vec<SocketAddr> = old.map(Installed::slots).unwrap_or_default().to_vec();
    let mut slot = 0;
    while slot < slots.len() {
        if wanted.contains(&slots[slot]) {
            slot += 1;
        } else {
            slots.swap_remove(slot);
        }
    }
    let present: BTreeSet<SocketAddr> = slots.iter().copied().collect();
    slots.extend(wanted.difference(&present).take(ENDPOINTS_MAX - slots.len()));
    Installed::Endpoints { slots, sticky }
}

/// The element that says where a frontend leads.
#[derive(PartialEq, Eq)]
struct Entry {
    set: &'static str,
    verdict: Option<Verdict>,
    spread: Option<Spread>,
}

impl Installed {
    pub(crate) fn slots(&self) -> &[SocketAddr] {
        match self {
            Installed::Endpoints { slots, .. } => slots,
            Installed::Reject | Installed::Drop => &[],
        }
    }
}

impl Frontend {
    fn entry(&self, state: &Installed) -> Entry {
        let set = if self.origin == Origin::Outside { layout::OUTSIDE } else { layout::SERVICES };
        match state {
            Installed::Reject => Entry { set: layout::UNSERVED, verdict: None, spread: None },
            Installed::Drop => Entry { set, verdict: Some(Verdict::Drop), spread: None },
            Installed::Endpoints { slots, sticky } => {
                let count = slots.len() as u32;
                let spread = Spread { any_address: self.address.is_none(), origin: self.origin, count, sticky: *sticky };
                Entry { set, verdict: Some(Verdict::Goto(spread.chain())), spread: Some(spread) }
            }
        }
    }

    /// `address . protocol . port` as registers hold it: each part fills words of four bytes, numbers in network order.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = octets(self.address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()));
        key.extend_from_slice(&[self.protocol.number(), 0, 0, 0]);
        key.extend_from_slice(&self.port.to_be_bytes());
        key.extend_from_slice(&[0, 0]);
        key
    }

    /// The slot's number stands before the key in the machine's byte order, as numgen writes it.
    fn slot_key(&self, slot: usize) -> Vec<u8> {
        let number = first_slot(self.origin) + slot as u32;
        [&number.to_ne_bytes()[..], &self.key()].concat()
    }

    /// The inverse of [`Frontend::key`], for IPv4.
    pub(super) fn of_key(key: &[u8], origin: Origin) -> Option<Frontend> {
        let [a, b, c, d, protocol, _, _, _, high, low, _, _] = *<&[u8; 12]>::try_from(key).ok()?;
        let address = std::net::Ipv4Addr::new(a, b, c, d);
        Some(Frontend {
            address: (!address.is_unspecified()).then_some(address.into()),
            protocol: Protocol::of_number(protocol)?,
            port: u16::from_be_bytes([high, low]),
            origin,
        })
    }

    /// The frontend in a key of remembered clients, which begins with the client's address. For IPv4.
    pub(super) fn of_client_key(key: &[u8], origin: Origin) -> Option<Frontend> {
        Frontend::of_key(key.get(4..)?, origin)
    }

    /// The inverse of [`Frontend::slot_key`].
    pub(super) fn of_slot_key(key: &[u8]) -> Option<(Frontend, usize)> {
        let (slot, key) = key.split_first_chunk()?;
        let slot = u32::from_ne_bytes(*slot);
        let (origin, slot) = match slot.checked_sub(OUTSIDE_SLOT_BASE) {
            Some(slot) => (Origin::Outside, slot),
            None => (Origin::Anyone, slot),
        };
        Some((Frontend::of_key(key, origin)?, slot as usize))
    }
}

/// `address . port`.
pub(super) fn endpoint_bytes(endpoint: &SocketAddr) -> Vec<u8> {
    let mut bytes = octets(endpoint.ip());
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// The inverse of [`endpoint_bytes`], for IPv4.
pub(super) fn endpoint_of(bytes: &[u8]) -> Option<SocketAddr> {
    let [a, b, c, d, high, low, _, _] = *<&[u8; 8]>::try_from(bytes).ok()?;
    Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))
}
