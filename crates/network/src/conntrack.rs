//! Deletes connection tracking entries that lead to an endpoint that is no more.
//!
//! A TCP connection to a dead endpoint ends by itself; UDP has no end, so a client that keeps its port would be led to the dead
//! address for as long as it keeps sending (kubernetes/kubernetes issue 48370 and its many successors). Only entries whose
//! translation is known to be gone are deleted, never all.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::netlink::{Socket, SocketError, Writer, attrs, be16};
use crate::node::Protocol;
use crate::table::Frontend;

/// Deletions sent at once; each is under 100 bytes.
const DELETIONS_AT_ONCE: usize = 500;
/// A dump that met a change is begun again at most this often.
const DUMP_ATTEMPTS: usize = 20;

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = 1;
const CT_DELETE: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ZONE: u16 = 18;
const NFGENMSG_BYTES: usize = 4;
const AF_INET: u8 = 2;

#[derive(Debug, thiserror::Error)]
#[error("{action} connection tracking entries")]
pub struct ConntrackError {
    action: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ConntrackError {
    fn of(action: &'static str) -> impl Fn(SocketError) -> ConntrackError {
        move |source| ConntrackError { action, source: Box::new(source) }
    }
}

/// Connection tracking of the namespace that this was opened in.
pub(crate) struct Conntrack {
    socket: Socket,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

struct Flow {
    original: Tuple,
    reply: Tuple,
    /// The attributes that name this flow in a deletion.
    name: Vec<u8>,
}

impl Conntrack {
    pub(crate) fn open() -> Result<Conntrack, ConntrackError> {
        Ok(Conntrack { socket: Socket::open(NETLINK_NETFILTER).map_err(ConntrackError::of("open the list of"))? })
    }

    /// Deletes UDP flows from a frontend to an endpoint that it no longer leads to. Returns how many there were.
    pub(crate) fn forget_endpoints(&mut self, gone: &[(Frontend, SocketAddr)]) -> Result<usize, ConntrackError> {
        let udp = gone.iter().filter(|(frontend, _)| frontend.protocol == Protocol::Udp);
        let gone: HashSet<(Option<IpAddr>, u16, SocketAddr)> =
            udp.map(|(frontend, endpoint)| (frontend.address, frontend.port, *endpoint)).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        self.delete_where(|flow| {
            let endpoint = SocketAddr::new(flow.reply.source, flow.reply.source_port);
            let port = flow.original.destination_port;
            flow.original.protocol == Protocol::Udp.number()
                && (gone.contains(&(Some(flow.original.destination), port, endpoint)) || gone.contains(&(None, port, endpoint)))
        })
    }

    /// Deletes every flow of an address that is given back, before someone else gets it.
    pub(crate) fn forget_address(&mut self, address: IpAddr) -> Result<usize, ConntrackError> {
        self.delete_where(|flow| {
            [flow.original.source, flow.original.destination, flow.reply.source, flow.reply.destination].contains(&address)
        })
    }

    fn delete_where(&mut self, wanted: impl Fn(&Flow) -> bool) -> Result<usize, ConntrackError> {
        let names = self.find(wanted)?;
        for some in names.chunks(DELETIONS_AT_ONCE) {
            self.delete(some)?;
        }
        Ok(names.len())
    }

    fn find(&mut self, wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Vec<u8>>, ConntrackError> {
        let mut last = SocketError::Interrupted;
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.socket.next_sequence();
            let mut writer = Writer::new();
            writer.message(SUBSYSTEM | CT_GET, NLM_F_REQUEST | NLM_F_DUMP, sequence, |out| out.bytes(&[AF_INET, 0, 0, 0]));
            let mut names = Vec::new();
            let result = self.socket.dump(writer.as_bytes(), sequence, |reply| {
                let payload = reply.payload.get(NFGENMSG_BYTES..).unwrap_or_default();
                names.extend(parse_flow(payload).filter(&wanted).map(|flow| flow.name));
            });
            match result {
                Ok(()) => return Ok(names),
                Err(SocketError::Interrupted) => last = SocketError::Interrupted,
                Err(error) => return Err(ConntrackError::of("list")(error)),
            }
        }
        Err(ConntrackError::of("list")(last))
    }

    /// A flow that ended meanwhile is no error. The kernel takes a deletion without a tuple for "all"; `names` are never empty.
    fn delete(&mut self, names: &[Vec<u8>]) -> Result<(), ConntrackError> {
        let mut writer = Writer::new();
        let mut first = 0;
        let mut last = 0;
        for name in names {
            last = self.socket.next_sequence();
            if first == 0 {
                first = last;
            }
            writer.message(SUBSYSTEM | CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, last, |out| {
                out.bytes(&[AF_INET, 0, 0, 0]);
                out.bytes(name);
            });
        }
        match self.socket.transact_each(writer.as_bytes(), first, last) {
            Err(error) if error.errno() != Some(libc::ENOENT) => Err(ConntrackError::of("delete")(error)),
            _ => Ok(()),
        }
    }
}

fn parse_flow(payload: &[u8]) -> Option<Flow> {
    let find = |kind| attrs(payload).find(|attr| attr.kind == kind).map(|attr| attr.value);
    let original = find(CTA_TUPLE_ORIG)?;
    let mut name = Writer::new();
    name.nest(CTA_TUPLE_ORIG, |nest| nest.bytes(original));
    if let Some(zone) = find(CTA_ZONE) {
        name.attr(CTA_ZONE, zone);
    }
    let reply = parse_tuple(find(CTA_TUPLE_REPLY)?)?;
    Some(Flow { original: parse_tuple(original)?, reply, name: name.as_bytes().to_vec() })
}

/// CTA_TUPLE_IP { V4_SRC, V4_DST }, CTA_TUPLE_PROTO { NUM, SRC_PORT, DST_PORT }; protocols without ports have zero.
fn parse_tuple(bytes: &[u8]) -> Option<Tuple> {
    let inner = |outer, kind| {
        let nest = attrs(bytes).find(|attr| attr.kind == outer)?.value;
        attrs(nest).find(|attr| attr.kind == kind).map(|attr| attr.value)
    };
    let address = |kind| <[u8; 4]>::try_from(inner(1, kind)?).ok().map(IpAddr::from);
    let port = |kind| inner(2, kind).and_then(be16).unwrap_or(0);
    Some(Tuple {
        source: address(1)?,
        destination: address(2)?,
        protocol: *inner(2, 1)?.first()?,
        source_port: port(2),
        destination_port: port(3),
    })
}
