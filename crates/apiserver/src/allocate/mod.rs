//! Cluster addresses and node ports: given to Services as they are written, given back when they go.
//!
//! What is taken is held in memory and rebuilt from the stored Services at start; the store is the truth. A write first gets a [`Hold`] on what
//! its Service needs and, when the commit succeeded, keeps it. A hold that is dropped instead gives everything back. So two creates never
//! share an address, and a failed one costs none.

mod pool;
mod services;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use knarr_api::status::Status;
use knarr_api::{Kind, Object};
use knarr_store::{Collection, Snapshot};
use parking_lot::Mutex;

use pool::Pool;

pub struct Allocator {
    pools: Mutex<Pools>,
    service_cidr: IpNet,
}

/// What is taken in the whole cluster.
struct Pools {
    /// By offset in the service range.
    addresses: Pool,
    /// By port number. A port is taken for all protocols at once, as upstream does.
    node_ports: Pool,
}

/// One thing taken from a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Claim {
    Address(IpAddr),
    NodePort(u16),
}

impl Allocator {
    /// An allocator in which everything that the stored Services have is taken.
    pub fn open(snapshot: &Snapshot, service_cidr: IpNet, node_ports: RangeInclusive<u16>) -> Allocator {
        let allocator = Allocator {
            pools: Mutex::new(Pools { addresses: Pool::of_range(service_cidr), node_ports: Pool::of_ports(node_ports) }),
            service_cidr,
        };
        let services = Collection::new("core/services");
        for entry in snapshot.range(&services, "", None) {
            let Ok(service) = serde_json::from_slice::<Object>(&entry.value) else {
                tracing::error!(service = %entry.key, "stored Service is not JSON; its addresses are taken as free");
                continue;
            };
            for claim in services::claims(&service) {
                // Outside the range (it was changed since), or twice: the Service keeps it, nobody else gets it.
                if !allocator.take(claim) {
                    tracing::warn!(service = %entry.key, ?claim, "stored Service has an address or port that is out of range or taken");
                }
            }
        }
        allocator
    }

    /// Completes a Service that is about to be written (`new`), replaced (both) or deleted (`old` alone): addresses, ports, families. For objects
    /// of other kinds, and for writes of a subresource, it does nothing. Call it after validation and right before the commit.
    pub fn hold(&self, kind: &Kind, new: Option<&mut Object>, old: Option<&Object>) -> Result<Hold<'_>, Status> {
        let mut hold = Hold { allocator: self, taken: Vec::new(), freed: Vec::new() };
        if !kind.group.is_empty() || kind.resource != "services" {
            return Ok(hold);
        }
        let before = old.map(services::claims).unwrap_or_default();
        let after = match new {
            Some(service) => {
                services::complete(&mut hold, service, old)?;
                services::claims(service)
            }
            None => Vec::new(),
        };
        hold.freed = before.into_iter().filter(|claim| !after.contains(claim)).collect();
        Ok(hold)
    }

    fn take(&self, claim: Claim) -> bool {
        let mut pools = self.pools.lock();
        match claim {
            Claim::Address(address) => self.offset(address).is_some_and(|offset| pools.addresses.take(offset)),
            Claim::NodePort(port) => pools.node_ports.take(port.into()),
        }
    }

    fn free(&self, claim: Claim) {
        let mut pools = self.pools.lock();
        match claim {
            Claim::Address(address) => {
                if let Some(offset) = self.offset(address) {
                    pools.addresses.free(offset);
                }
            }
            Claim::NodePort(port) => pools.node_ports.free(port.into()),
        }
    }

    /// Position of an address in the service range.
    fn offset(&self, address: IpAddr) -> Option<u128> {
        match (self.service_cidr, address) {
            (IpNet::V4(range), IpAddr::V4(address)) if range.contains(&address) => {
                Some(u128::from(u32::from(address) - u32::from(range.network())))
            }
            (IpNet::V6(range), IpAddr::V6(address)) if range.contains(&address) => Some(u128::from(address) - u128::from(range.network())),
            _ => None,
        }
    }
}

/// What a write has taken and will give back. Dropped, it undoes itself.
#[must_use = "a hold that is dropped gives back what it took; call keep after the commit"]
pub struct Hold<'a> {
    allocator: &'a Allocator,
    taken: Vec<Claim>,
    freed: Vec<Claim>,
}

impl Hold<'_> {
    /// The commit succeeded: what was taken stays, and what the Service no longer has is free.
    pub fn keep(mut self) {
        self.taken.clear();
        for claim in std::mem::take(&mut self.freed) {
            self.allocator.free(claim);
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        for claim in self.taken.drain(..) {
            self.allocator.free(claim);
        }
    }
}
