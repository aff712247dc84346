//! The machine's own addresses, and word of their changes: a lease that ends, a cable into another network, a route that leads elsewhere.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::link::{LinkError, Links};
use crate::netlink::{attrs, ne32};

const NETLINK_ROUTE: isize = 0;
/// Groups of linux/rtnetlink.h: RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE.
const GROUPS: [u32; 4] = [5, 7, 9, 11];
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// The kernel tells of one address or route at a time, in less than a page.
const EVENT_BYTES: usize = 16 * 1024;
const HEADER_BYTES: usize = 16;
const AF_INET6: u8 = 10;
/// `struct ifaddrmsg` and `struct rtmsg`, the latter's attributes follow it.
const ADDRESS_SCOPE_AT: usize = 3;
const ROUTE_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;

/// Addresses by which others may know this machine: valid everywhere, in use, and there to stay. Of the calling thread's network namespace.
pub fn addresses() -> Result<BTreeSet<IpAddr>, LinkError> {
    Ok(Links::open()?.lasting_addresses()?.into_iter().collect())
}

/// Listens in the network namespace that it was opened in.
pub struct AddressWatch {
    socket: TokioSocket,
}

impl AddressWatch {
    /// What changes from now on is told by [`changed`](Self::changed). Needs a runtime with I/O.
    pub fn open() -> io::Result<AddressWatch> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        GROUPS.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
        Ok(AddressWatch { socket })
    }

    /// Returns when an address or a route to more than one address changed, but for those of one link alone, or word of it was lost. Nothing is lost if this is dropped.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(EVENT_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer).await {
                Ok(()) if counts(&buffer) => return Ok(()),
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Routes to one address are those of pods, which come and go all the time and lead no one else anywhere. So do the link-local addresses
/// and routes that every one of their links brings.
fn counts(mut bytes: &[u8]) -> bool {
    while let Some(length) = bytes.get(..4).and_then(ne32) {
        let Some(message) = bytes.get(..length as usize).filter(|message| message.len() >= HEADER_BYTES) else { return false };
        let payload = &message[HEADER_BYTES..];
        let counts = match u16::from_ne_bytes([message[4], message[5]]) {
            RTM_NEWADDR | RTM_DELADDR => payload.get(ADDRESS_SCOPE_AT) == Some(&RT_SCOPE_UNIVERSE),
            RTM_NEWROUTE | RTM_DELROUTE => is_wide(payload),
            _ => false,
        };
        if counts {
            return true;
        }
        bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// A route to more than one address, which are not those of one link (fe80::/10) or of a group (ff00::/8).
fn is_wide(route: &[u8]) -> bool {
    let [family, bits, ..] = *route else { return false };
    let Some(parts) = route.get(ROUTE_BYTES..) else { return false };
    let to = attrs(parts).find(|part| part.kind == RTA_DST).map_or(&[][..], |part| part.value);
    match (family, to) {
        (AF_INET6, [0xff, ..]) => false,
        (AF_INET6, [0xfe, second, ..]) if second & 0xc0 == 0x80 => false,
        (AF_INET6, _) => bits < 128,
        _ => bits < 32,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::netlink::Writer;
    use crate::testing::{Host, is_root};

    async fn soon(watch: &AddressWatch) {
        tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.expect("the change is told").expect("the socket works");
    }

    #[test]
    fn routes_and_addresses_of_pods_do_not_count() {
        let route = |family: u8, bits: u8, to: &[u8]| {
            let mut writer = Writer::new();
            writer.message(RTM_NEWROUTE, 0, 1, |out| {
                out.bytes(&[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                if !to.is_empty() {
                    out.attr(RTA_DST, to);
                }
            });
            writer.as_bytes().to_vec()
        };
        let address = |scope: u8| {
            let mut writer = Writer::new();
            writer.message(RTM_DELADDR, 0, 1, |out| out.bytes(&[2, 24, 0, scope, 0, 0, 0, 0]));
            writer.as_bytes().to_vec()
        };
        assert!(!counts(&[route(2, 32, &[10, 42, 0, 2]), route(AF_INET6, 128, &[])].concat()));
        assert!(!counts(&[route(AF_INET6, 64, &[0xfe, 0x80, 0, 0]), route(AF_INET6, 8, &[0xff, 0, 0, 0]), address(253)].concat()));
        assert!(counts(&[route(2, 32, &[]), route(2, 0, &[])].concat()));
        assert!(counts(&route(AF_INET6, 64, &[0x20, 0x01, 0x0d, 0xb8])));
        assert!(counts(&address(0)));
        assert!(!counts(&route(2, 0, &[])[..20]), "cut short");
    }

    #[test]
    fn addresses_that_come_and_go_are_told() {
        if !is_root("addresses_that_come_and_go_are_told") {
            return;
        }
        let host = Host::new();
        host.command("ip link set lo up");
        host.command("ip link add uplink type veth peer name far");
        host.command("ip link set uplink up");
        host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let command = |line: &str| {
                let words: Vec<&str> = line.split(' ').collect();
                assert!(std::process::Command::new(words[0]).args(&words[1..]).status().expect("the program starts").success(), "{line}");
            };
            runtime.block_on(async {
                let watch = AddressWatch::open().expect("a watch");
                assert_eq!(addresses().expect("the list"), BTreeSet::new(), "loopback is nobody else's");
                command("ip address add 192.0.2.7/24 dev uplink");
                soon(&watch).await;
                command("ip address add 2001:db8::7/64 dev uplink nodad");
                command("ip address add 2001:db8::8/64 dev uplink preferred_lft 0 nodad");
                command("ip address add 169.254.1.1/16 scope link dev uplink");
                soon(&watch).await;
                let expected = ["192.0.2.7", "2001:db8::7"].map(|text| text.parse().expect("an address"));
                assert_eq!(addresses().expect("the list"), BTreeSet::from(expected));

                let watch = AddressWatch::open().expect("a watch");
                command("ip route add default via 192.0.2.1 dev uplink");
                soon(&watch).await;
                command("ip address del 192.0.2.7/24 dev uplink");
                soon(&watch).await;
                assert!(!addresses().expect("the list").contains(&expected[0]));
            });
        });
    }
}
