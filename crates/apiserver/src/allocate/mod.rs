//! Cluster addresses and node ports: given to Services as they are written, given back when they go.
//!
//! An address is taken as long as its IPAddress is stored, whoever made that. The one of a Service is written, and deleted, in the Service's own
//! commit, which the store refuses if somebody was faster. Node ports have no object: what is taken of them is held in memory and rebuilt from
//! the stored Services at start. A write first gets a [`Hold`] on what its object needs and, when the commit succeeded, keeps it. A hold that
//! is dropped instead gives everything back. So two creates never share an address, and a failed one costs none.
//!
//! `ranges` says which ServiceCIDRs addresses may come from and when one that is deleted may go, `addresses` what IPAddresses should be there, and
//! `keep` sees to both while the server runs. Upstream does that in a controller, which cannot know what is being given at the moment and
//! waits for ten seconds instead; here the allocator knows.

mod addresses;
mod keep;
mod pool;
mod ranges;
mod services;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use knarr_api::status::{self, Status};
use knarr_api::{Kind, Object};
use knarr_store::{Collection, Entry, Snapshot, Store, Write};
use parking_lot::Mutex;
use tokio::sync::Notify;

use addresses::Holder;
pub(crate) use addresses::holder;
pub(crate) use keep::mend;
use pool::Pool;
use ranges::Ready;
pub(crate) use ranges::default_object as default_range;

pub struct Allocator {
    store: Arc<dyn Store>,
    /// The cluster's own range. Its family is that of all Services.
    own: IpNet,
    addresses: Collection,
    ranges: Collection,
    state: Mutex<State>,
    /// Told when a hold ends that [`State::awaited`] is set for.
    released: Notify,
}

struct State {
    /// By port number. A port is taken for all protocols at once, as upstream does.
    node_ports: Pool,
    ready: Ready,
    /// Addresses that commits on their way need.
    held: HashSet<IpAddr>,
    /// Whether a ServiceCIDR waits for one of them.
    awaited: bool,
}

/// One thing that a Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Claim {
    Address(IpAddr),
    NodePort(u16),
}

/// Why an address that was asked for is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NoRange,
    Taken,
}

impl Allocator {
    /// An allocator in which everything that the stored Services have is taken. [`mend`] has run before.
    pub fn open(store: Arc<dyn Store>, own: IpNet, node_ports: RangeInclusive<u16>) -> Allocator {
        let snapshot = store.snapshot();
        let (addresses, ranges) = (Collection::new(addresses::COLLECTION), Collection::new(ranges::COLLECTION));
        let mut node_ports = Pool::of_ports(node_ports);
        let services = Collection::new("core/services");
        for entry in snapshot.range(&services, "", None) {
            let Ok(service) = serde_json::from_slice::<Object>(&entry.value) else {
                tracing::error!(service = %entry.key, "stored Service is not JSON; its node ports are taken as free");
                continue;
            };
            for claim in services::claims(&service) {
                let Claim::NodePort(port) = claim else { continue };
                // Outside the range (it was changed since), or twice: the Service keeps it, nobody else gets it.
                if !node_ports.take(port.into()) {
                    tracing::warn!(service = %entry.key, port, "stored Service has a node port that is out of range or taken");
                }
            }
        }
        let state = State { node_ports, ready: Ready::default(), held: HashSet::new(), awaited: false };
        Allocator { store, own, addresses, ranges, state: Mutex::new(state), released: Notify::new() }
    }

    /// Completes what is about to be written (`new`), replaced (both) or deleted (`old` alone, which is stored as `entry`): a Service's addresses,
    /// ports and families, what a ServiceCIDR begins with. For objects of other kinds it does nothing. Call it after validation and right
    /// before the commit.
    pub fn hold(&self, kind: &Kind, new: Option<&mut Object>, old: Option<&Object>, entry: Option<&Entry>) -> Result<Hold<'_>, Status> {
        let mut hold = Hold { allocator: self, taken: Vec::new(), freed: Vec::new(), beside: Vec::new() };
        match &*kind.collection {
            services::COLLECTION => hold.service(new, old)?,
            addresses::COLLECTION => hold.address(kind, new, old, entry)?,
            ranges::COLLECTION => {
                if let (Some(range), None) = (new, old) {
                    ranges::complete(range, Timestamp::now());
                }
            }
            _ => {}
        }
        Ok(hold)
    }

    /// Whether writes of the kind write other objects too, which somebody else may write at the same time.
    pub(crate) fn writes_beside(kind: &Kind) -> bool {
        kind.collection == services::COLLECTION
    }

    /// The family of all Services.
    fn family(&self) -> &'static str {
        addresses::family(self.own.addr())
    }

    /// Holds an address that nobody has; none where every range is full.
    fn hold_any(&self) -> Option<IpAddr> {
        loop {
            // Taken under the lock: what is no longer held is stored.
            let (snapshot, ranges, held) = {
                let mut state = self.state.lock();
                let snapshot = self.store.snapshot();
                let ranges = state.ready.of(&snapshot, &self.ranges).to_vec();
                (snapshot, ranges, state.held.clone())
            };
            // Without it: in ranges that are nearly full this takes long, and every write needs the lock.
            let address = ranges::any(&ranges, self.own.addr().is_ipv4(), |address| self.is_free(&snapshot, &held, *address))?;
            match self.hold_address(address) {
                Ok(()) => return Some(address),
                // Somebody was faster, or the range is closed by now.
                Err(Refusal::Taken | Refusal::NoRange) => {}
            }
        }
    }

    /// Holds this address.
    fn hold_address(&self, address: IpAddr) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let State { ready, held, .. } = &mut *state;
        let snapshot = self.store.snapshot();
        if !ready.of(&snapshot, &self.ranges).iter().any(|range| range.contains(address)) {
            return Err(Refusal::NoRange);
        }
        if !self.is_free(&snapshot, held, address) {
            return Err(Refusal::Taken);
        }
        held.insert(address);
        Ok(())
    }

    fn is_free(&self, snapshot: &Snapshot, held: &HashSet<IpAddr>, address: IpAddr) -> bool {
        !held.contains(&address) && snapshot.get(&addresses::key(&self.addresses, address)).is_none()
    }

    /// The ranges that are in use, for people, if there are any.
    fn ranges_text(&self) -> Option<String> {
        let mut state = self.state.lock();
        let ranges = state.ready.of(&self.store.snapshot(), &self.ranges);
        (!ranges.is_empty()).then(|| ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// What a write has taken and will give back. Dropped, it undoes itself.
#[must_use = "a hold that is dropped gives back what it took; call keep after the commit"]
pub struct Hold<'a> {
    allocator: &'a Allocator,
    taken: Vec<Claim>,
    freed: Vec<Claim>,
    beside: Vec<Write>,
}

impl Hold<'_> {
    /// What must be in the same commit, behind the object itself.
    pub(crate) fn beside(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.beside)
    }

    /// The commit succeeded: what was taken stays, and what the Service no longer has is free.
    pub fn keep(mut self) {
        // The IPAddress, which is stored now, keeps an address.
        let ports = |claim: &Claim| matches!(claim, Claim::NodePort(_));
        self.taken.retain(|claim| !ports(claim));
        self.freed.retain(ports);
        let freed = std::mem::take(&mut self.freed);
        self.release(freed);
    }

    fn service(&mut self, new: Option<&mut Object>, old: Option<&Object>) -> Result<(), Status> {
        let before = old.map(services::claims).unwrap_or_default();
        let holder = new.as_deref().or(old).map(Holder::of);
        let after = match new {
            Some(service) => {
                services::complete(self, service, old)?;
                services::claims(service)
            }
            None => Vec::new(),
        };
        self.freed = before.into_iter().filter(|claim| !after.contains(claim)).collect();
        let Some(holder) = holder else { return Ok(()) };
        let (collection, now) = (&self.allocator.addresses, Timestamp::now());
        let addresses = |claims: &[Claim]| -> Vec<IpAddr> {
            claims.iter().filter_map(|claim| if let Claim::Address(address) = claim { Some(*address) } else { None }).collect()
        };
        let taken = addresses(&self.taken).into_iter().map(|address| addresses::put(collection, address, &holder, now));
        self.beside.extend(taken);
        let freed = addresses(&self.freed);
        if !freed.is_empty() {
            let snapshot = self.allocator.store.snapshot();
            let released = freed.into_iter().filter_map(|address| addresses::release(collection, &snapshot, address, &holder, now));
            self.beside.extend(released);
        }
        Ok(())
    }

    /// An IPAddress keeps its address from Services while it is being written; one of a Service is written again when it is deleted.
    fn address(&mut self, kind: &Kind, new: Option<&mut Object>, old: Option<&Object>, entry: Option<&Entry>) -> Result<(), Status> {
        let allocator = self.allocator;
        match (new, old, entry) {
            (Some(new), None, _) => {
                let Ok(address) = new.name().parse() else { return Ok(()) };
                if !allocator.state.lock().held.insert(address) {
                    return Err(status::already_exists(&kind.group, &kind.resource, new.name()));
                }
                self.taken.push(Claim::Address(address));
            }
            (None, _, Some(deleted)) => {
                let snapshot = allocator.store.snapshot();
                self.beside.extend(addresses::remake(&allocator.addresses, &snapshot, deleted, Timestamp::now()));
            }
            _ => {}
        }
        Ok(())
    }

    fn release(&self, claims: Vec<Claim>) {
        // Most writes are of other kinds.
        if claims.is_empty() {
            return;
        }
        let mut state = self.allocator.state.lock();
        for claim in claims {
            match claim {
                Claim::Address(address) => {
                    state.held.remove(&address);
                    if std::mem::take(&mut state.awaited) {
                        self.allocator.released.notify_one();
                    }
                }
                Claim::NodePort(port) => state.node_ports.free(port.into()),
            }
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.release(taken);
    }
}
