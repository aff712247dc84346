//! The ways to the addresses of Services: a route to the bridge for each of their ranges.
//!
//! Translation needs none, but what the node itself sends must have a way before it is translated, and an address that no Service has must lead
//! where it is refused. The kernel's table is the only record of which routes there are.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::{Inner, NetConfig, NodeNetwork};
use crate::address::Pool;
use crate::link::{LinkError, Links, RouteState};

/// Ranges that hold more than a /8 are not led anywhere: they take in what the machine has to reach itself.
const PREFIX_MIN: u8 = 8;

/// Longer ones have only the addresses of the network and of broadcast.
const PREFIX_MAX: u8 = 30;

/// This network, loopback, link-local (which clouds tell their machines about themselves by), multicast and beyond (RFC 6890): the first bytes and the
/// length.
const SPECIAL: [([u8; 2], u8); 4] = [([0, 0], 8), ([127, 0], 8), ([169, 254], 16), ([224, 0], 3)];

/// A range that is not led to the bridge, and why.
pub(crate) type Refused = (IpNet, &'static str);

impl NodeNetwork {
    /// Leads these ranges to the bridge, beside the one that the network was opened with, and no others.
    pub(crate) async fn route_services(&self, ranges: BTreeSet<IpNet>) -> Result<Vec<Refused>, LinkError> {
        self.blocking(move |inner| inner.route_services(&ranges)).await
    }
}

impl Inner {
    pub(super) fn route_services(&self, ranges: &BTreeSet<IpNet>) -> Result<Vec<Refused>, LinkError> {
        let mut links = Links::open()?;
        let routes = links.routes()?;
        let mut refused = Vec::new();
        let mut wanted = BTreeSet::from([self.config.service_cidr.trunc()]);
        for range in ranges {
            match refusal(range, &self.config, &routes, self.bridge.index) {
                Some(why) => refused.push((*range, why)),
                None => drop(wanted.insert(*range)),
            }
        }
        let ours: BTreeSet<IpNet> =
            routes.iter().filter(|route| route.link == self.bridge.index && route.made).map(|route| route.to).collect();
        // One that fails keeps no other from its route.
        let mut failed = None;
        for range in ours.difference(&wanted) {
            failed = links.delete_route(&self.bridge, *range).err().or(failed);
        }
        for range in wanted.difference(&ours) {
            failed = links.add_route(&self.bridge, *range, Pool::gateway(self.pod_net).into()).err().or(failed);
        }
        failed.map_or(Ok(refused), Err)
    }
}

/// Whoever may make a ServiceCIDR must not cut the machine off.
fn refusal(range: &IpNet, config: &NetConfig, routes: &[RouteState], bridge: u32) -> Option<&'static str> {
    let overlaps = |net: &IpNet| net.contains(range) || range.contains(net);
    let IpNet::V4(_) = range else { return Some("Services have IPv4 addresses only, so far") };
    if range.prefix_len() < PREFIX_MIN {
        return Some("it is wider than a /8");
    }
    if overlaps(&config.cluster_cidr) {
        return Some("it overlaps the addresses of pods");
    }
    if range.prefix_len() > PREFIX_MAX {
        return Some("it has no address for a Service");
    }
    let special = |[a, b]: [u8; 2], bits| Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), bits).is_ok_and(|net| overlaps(&net.into()));
    if SPECIAL.into_iter().any(|(start, bits)| special(start, bits)) {
        return Some("its addresses have another meaning");
    }
    if range.contains(&config.node_ip) || routes.iter().any(|route| route.link != bridge && overlaps(&route.to)) {
        return Some("this machine has a route there, which it may need");
    }
    None
}
