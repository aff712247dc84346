//! The nf_tables socket: commits batches, reads back what the table holds.

use super::batch::{NLM_F_ACK, NLM_F_REQUEST, write_nfgenmsg};
use super::{Batch, Data, Element, Family, NftError, Verdict};
use crate::netlink::{Attr, Socket, SocketError, Writer, attrs, be32, text};

/// A dump that met a change is begun again at most this often; each takes well under a millisecond, so that needs a storm.
const DUMP_ATTEMPTS: usize = 20;

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 10 << 8;
const NLM_F_DUMP: u16 = 0x300;
const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETSETELEM: u16 = 13;
/// `struct nfgenmsg` before the attributes.
const NFGENMSG_BYTES: usize = 4;

/// One table of the network namespace in which this was opened.
pub(crate) struct Nft {
    socket: Socket,
    family: Family,
    table: String,
}

impl Nft {
    pub(crate) fn open(family: Family, table: &str) -> Result<Nft, NftError> {
        let socket = Socket::open(NETLINK_NETFILTER)
            .map_err(|source| NftError::Socket { action: "open it".to_owned(), source: Box::new(source) })?;
        Ok(Nft { socket, family, table: table.to_owned() })
    }

    /// The port that the kernel names as the maker of this socket's changes.
    pub(crate) fn port(&self) -> Result<u32, NftError> {
        self.socket.port().map_err(|source| NftError::Socket { action: "ask for its port".to_owned(), source: Box::new(source) })
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.family, &self.table)
    }

    /// All of the batch, or nothing and the message that was refused.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (request, labels, last) = batch.finish();
        self.socket.transact(request.as_bytes(), 1, last).map_err(|error| NftError::of_batch(error, &labels))
    }

    /// Whether the table exists.
    pub(crate) fn exists(&mut self) -> Result<bool, NftError> {
        let table = self.table.clone();
        let found = self.read("look for the table", GETTABLE, NLM_F_ACK, |out| out.attr_text(1, &table), |_| {});
        match found {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Names of the table's chains.
    pub(crate) fn chains(&mut self) -> Result<Vec<String>, NftError> {
        let table = self.table.clone();
        self.retried(|nft| {
            let mut names = Vec::new();
            nft.read(
                "list chains",
                GETCHAIN,
                NLM_F_DUMP,
                |_| {},
                |payload| {
                    // Kernels older than 6.3 ignore a filter by table.
                    let find = |kind| find_text(payload, kind);
                    if find(1) == Some(&table) {
                        names.extend(find(3).map(str::to_owned));
                    }
                },
            )?;
            Ok(names)
        })
    }

    /// All elements of a set or map.
    pub(crate) fn elements(&mut self, set: &str) -> Result<Vec<Element>, NftError> {
        let table = self.table.clone();
        self.retried(|nft| {
            let mut elements = Vec::new();
            let request = |out: &mut Writer| {
                out.attr_text(1, &table);
                out.attr_text(2, set);
            };
            nft.read(&format!("list the elements of {set}"), GETSETELEM, NLM_F_DUMP, request, |payload| {
                let lists = attrs(payload).filter(|attr| attr.kind == 3);
                elements.extend(lists.flat_map(|list| attrs(list.value)).filter_map(|attr| parse_element(attr.value)));
            })?;
            Ok(elements)
        })
    }

    fn retried<T>(&mut self, mut read: impl FnMut(&mut Nft) -> Result<T, NftError>) -> Result<T, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            match read(self) {
                Err(NftError::Unstable { .. }) => {}
                other => return other,
            }
        }
        Err(NftError::Unstable { attempts: DUMP_ATTEMPTS })
    }

    fn read(
        &mut self,
        action: &str,
        kind: u16,
        flags: u16,
        request: impl FnOnce(&mut Writer),
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(), NftError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::new();
        let family = self.family.number();
        writer.message(SUBSYSTEM | kind, NLM_F_REQUEST | flags, sequence, |out| {
            write_nfgenmsg(out, family, 0);
            request(out);
        });
        let result = self.socket.dump(writer.as_bytes(), sequence, |reply| {
            if reply.kind & 0xff00 == SUBSYSTEM {
                visit(reply.payload.get(NFGENMSG_BYTES..).unwrap_or_default());
            }
        });
        result.map_err(|error| match error {
            SocketError::Interrupted => NftError::Unstable { attempts: 1 },
            SocketError::Refused { detail, source, .. } if source.raw_os_error() == Some(libc::EINTR) => {
                tracing::trace!(?detail, "nf_tables changed during a dump");
                NftError::Unstable { attempts: 1 }
            }
            SocketError::Refused { detail, source, .. } => NftError::Refused { action: action.to_owned(), detail, source },
            other => NftError::Socket { action: action.to_owned(), source: Box::new(other) },
        })
    }
}

fn find_text(payload: &[u8], kind: u16) -> Option<&str> {
    attrs(payload).find(|attr| attr.kind == kind).and_then(|attr| text(attr.value))
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|attr| attr.kind == kind).map(|attr| attr.value)
}

/// NFTA_SET_ELEM_KEY, _DATA, each holding NFTA_DATA_VALUE or _VERDICT.
fn parse_element(bytes: &[u8]) -> Option<Element> {
    let key = find(find(bytes, 1)?, 1)?.to_vec();
    let data = match find(bytes, 2).and_then(|data| attrs(data).next()) {
        None => None,
        Some(Attr { kind: 1, value }) => Some(Data::Value(value.to_vec())),
        Some(Attr { value, .. }) => Some(Data::Verdict(parse_verdict(value)?)),
    };
    Some(Element { key, data })
}

fn parse_verdict(bytes: &[u8]) -> Option<Verdict> {
    let code = be32(find(bytes, 1)?)? as i32;
    let chain = || find_text(bytes, 2).map(str::to_owned);
    Some(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}
