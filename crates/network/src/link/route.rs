//! Routes that come and go, and those of others.

use std::net::IpAddr;

use ipnet::IpNet;

use super::LinkError;
use super::request::{
    LinkState, Links, NLM_F_CREATE, NLM_F_EXCL, PROTOCOL_STATIC, RT_TABLE_MAIN, RTA_DST, RTA_OIF, RTA_PRIORITY, RTM_NEWROUTE, RTN_UNICAST,
    address, write_route,
};
use crate::netlink::{attrs, ne32};

/// Every route that an administrator or a program makes for the same destination goes before one of ours: theirs have metrics below 10,000
/// (NetworkManager, networkd, dhclient: 100 to 2,048).
const METRIC: u32 = 1 << 20;

const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// `struct rtmsg`.
const RTMSG_BYTES: usize = 12;

/// A route of the main table to machines, as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RouteState {
    pub(crate) to: IpNet,
    /// Index of the link.
    pub(crate) link: u32,
    /// Made by an administrator or a program, not by the kernel.
    pub(crate) made: bool,
}

impl Links {
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteState>, LinkError> {
        self.dump(RTM_GETROUTE, "list routes", parse_route)
    }

    /// As [`Links::ensure_route`], but behind any other route to the same destination.
    pub(crate) fn add_route(&mut self, link: &LinkState, destination: IpNet, source: IpAddr) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |out| {
            write_route(out, Some(destination), link.index, None, Some(source));
            out.attr_ne32(RTA_PRIORITY, METRIC);
        });
        self.send(requests, "add a route to", &link.name)
    }

    /// Takes a route of the link away. Without effect if it is not there.
    pub(crate) fn delete_route(&mut self, link: &LinkState, destination: IpNet) -> Result<(), LinkError> {
        let mut requests = self.requests();
        self.add(&mut requests, RTM_DELROUTE, 0, |out| write_route(out, Some(destination), link.index, None, None));
        match self.send(requests, "delete a route to", &link.name) {
            Err(error) if error.errno() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }
}

fn parse_route(payload: &[u8]) -> Option<RouteState> {
    let (bits, table, protocol, kind) = (*payload.get(1)?, *payload.get(4)?, *payload.get(5)?, *payload.get(7)?);
    if table != RT_TABLE_MAIN || kind != RTN_UNICAST {
        return None;
    }
    let value = |wanted: u16| attrs(payload.get(RTMSG_BYTES..)?).find(|attr| attr.kind == wanted).map(|attr| attr.value);
    let to = IpNet::new(address(value(RTA_DST)?)?, bits).ok()?;
    Some(RouteState { to, link: ne32(value(RTA_OIF)?)?, made: protocol == PROTOCOL_STATIC })
}
