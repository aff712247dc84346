//! Addresses for pods: each free address of the range in turn, so that one that was released rests as long as possible.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The node's pod range. The first address is the gateway; network and broadcast addresses are not given out.
pub(crate) struct Pool {
    net: Ipv4Net,
    used: BTreeSet<u32>,
    /// Where the search for a free address goes on, as an offset from the network's address.
    next: u32,
}

impl Pool {
    pub(crate) fn new(net: Ipv4Net) -> Pool {
        Pool { net, used: BTreeSet::new(), next: 2 }
    }

    pub(crate) fn gateway(net: Ipv4Net) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(net.network()).saturating_add(1))
    }

    /// Starts the search somewhere else. After a restart nobody knows which addresses were released last.
    pub(crate) fn rotate(&mut self, seed: u32) {
        let span = self.last().saturating_sub(1).max(1);
        self.next = 2 + seed % span;
    }

    /// Marks an address that is in use already; false if it is not in the range.
    pub(crate) fn claim(&mut self, address: Ipv4Addr) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        self.used.insert(offset);
        true
    }

    /// The next free address.
    pub(crate) fn take(&mut self) -> Option<Ipv4Addr> {
        let last = self.last();
        let offset = (self.next..=last).chain(2..self.next.min(last + 1)).find(|offset| !self.used.contains(offset))?;
        self.used.insert(offset);
        self.next = if offset >= last { 2 } else { offset + 1 };
        Some(Ipv4Addr::from(u32::from(self.net.network()) + offset))
    }

    pub(crate) fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address) {
            self.used.remove(&offset);
        }
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(u32::from(self.net.network()))?;
        (2..=self.last()).contains(&offset).then_some(offset)
    }

    /// The offset of the last address that may be given out.
    fn last(&self) -> u32 {
        (u32::from(self.net.broadcast()) - u32::from(self.net.network())).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(net: &str) -> Pool {
        Pool::new(net.parse().expect("a network"))
    }

    fn taken(pool: &mut Pool, count: usize) -> Vec<String> {
        (0..count).filter_map(|_| pool.take()).map(|address| address.to_string()).collect()
    }

    #[test]
    fn a_released_address_is_the_last_to_come_back() {
        let mut pool = pool("10.42.0.0/29");
        assert_eq!(taken(&mut pool, 2), ["10.42.0.2", "10.42.0.3"]);
        pool.release([10, 42, 0, 2].into());
        assert_eq!(taken(&mut pool, 5), ["10.42.0.4", "10.42.0.5", "10.42.0.6", "10.42.0.2"]);
    }

    #[test]
    fn addresses_found_in_use_are_left_out() {
        let mut pool = pool("10.42.0.0/29");
        assert!(pool.claim([10, 42, 0, 3].into()));
        assert!(!pool.claim([10, 42, 0, 1].into()), "the gateway is nobody's");
        assert!(!pool.claim([10, 43, 0, 3].into()));
        assert_eq!(taken(&mut pool, 9), ["10.42.0.2", "10.42.0.4", "10.42.0.5", "10.42.0.6"]);
    }

    #[test]
    fn the_smallest_ranges_hold_few_or_none() {
        assert_eq!(taken(&mut pool("10.42.0.0/30"), 9), ["10.42.0.2"]);
        assert_eq!(taken(&mut pool("10.42.0.0/31"), 9), Vec::<String>::new());
        assert_eq!(taken(&mut pool("10.42.0.0/32"), 9), Vec::<String>::new());
    }

    proptest::proptest! {
        #[test]
        fn no_address_is_given_twice(seed: u32, releases in proptest::collection::vec(0usize..20, 0..60)) {
            let mut pool = pool("10.42.0.0/28");
            pool.rotate(seed);
            let mut held = Vec::new();
            for release in releases {
                match pool.take() {
                    Some(address) => {
                        proptest::prop_assert!(!held.contains(&address));
                        held.push(address);
                    }
                    None => proptest::prop_assert_eq!(held.len(), 13),
                }
                if release < held.len() {
                    pool.release(held.swap_remove(release));
                }
            }
        }
    }
}
