//! One transaction's changes, in order.

use std::io;

use super::{Expr, Family, Type, type_bytes, type_number};
use crate::netlink::{SocketError, Writer};

/// Elements go in messages of at most this many bytes, half of what the length field of their list can say.
const ELEMENTS_BYTES_MAX: usize = 32 * 1024;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the kernel refused to {action}{}", detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Refused {
        action: String,
        detail: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("talk to nf_tables to {action}")]
    Socket {
        action: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("nf_tables kept changing while it was read, {attempts} times")]
    Unstable { attempts: usize },
}

impl NftError {
    /// The table, set or chain is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.is(libc::ENOENT)
    }

    /// The element, set or chain is there already, or in use.
    pub(crate) fn is_present(&self) -> bool {
        self.is(libc::EEXIST) || self.is(libc::EBUSY)
    }

    fn is(&self, errno: i32) -> bool {
        matches!(self, NftError::Refused { source, .. } if source.raw_os_error() == Some(errno))
    }
}

/// The point in a packet's way where a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookPoint {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainKind {
    Filter,
    Nat,
}

/// Makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: ChainKind,
    pub(crate) point: HookPoint,
    pub(crate) priority: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// What a map holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Value(Vec<u8>),
    Verdict(Verdict),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) data: Option<Data>,
}

/// A set, map or verdict map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetSpec {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Type],
    pub(crate) data: SetData,
    /// Rules may add elements, at most `size`, which vanish after their time.
    pub(crate) dynamic_size: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum SetData {
    None,
    Value(&'static [Type]),
    Verdict,
}

/// Changes to one table. Message numbers count from one, so that the number of a refusal finds its label.
pub(crate) struct Batch {
    family: Family,
    table: String,
    writer: Writer,
    labels: Vec<String>,
    last_at: usize,
    set_id: u32,
}

impl Batch {
    pub(crate) fn new(family: Family, table: &str) -> Batch {
        let mut batch = Batch { family, table: table.to_owned(), writer: Writer::new(), labels: Vec::new(), last_at: 0, set_id: 0 };
        batch.raw(NFNL_MSG_BATCH_BEGIN, 0, "begin a transaction".to_owned(), |_| {});
        batch
    }

    /// No change was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.len() == 1
    }

    pub(crate) fn add_table(&mut self) {
        let table = self.table.clone();
        self.message(NEWTABLE, NLM_F_CREATE, format!("add table {table}"), |out| out.attr_text(1, &table));
    }

    pub(crate) fn delete_table(&mut self) {
        let table = self.table.clone();
        self.message(DELTABLE, 0, format!("delete table {table}"), |out| out.attr_text(1, &table));
    }

    /// NFTA_CHAIN_TABLE, _NAME, _HOOK { HOOKNUM, PRIORITY }, _POLICY (accept), _TYPE.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let table = self.table.clone();
        self.message(NEWCHAIN, NLM_F_CREATE, format!("add chain {name}"), |out| {
            out.attr_text(1, &table);
            out.attr_text(3, name);
            let Some(hook) = hook else { return };
            out.nest(4, |nest| {
                nest.attr_be32(1, hook.point.number());
                nest.attr(2, &hook.priority.to_be_bytes());
            });
            out.attr_be32(5, 1);
            out.attr_text(7, if hook.kind == ChainKind::Nat { "nat" } else { "filter" });
        });
    }

    pub(crate) fn delete_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.message(DELCHAIN, 0, format!("delete chain {name}"), |out| {
            out.attr_text(1, &table);
            out.attr_text(3, name);
        });
    }

    /// NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN, _DESC { SIZE }, _ID.
    pub(crate) fn add_set(&mut self, set: &SetSpec) {
        let table = self.table.clone();
        self.set_id += 1;
        let id = self.set_id;
        let map = if matches!(set.data, SetData::None) { 0 } else { NFT_SET_MAP };
        let dynamic = if set.dynamic_size.is_some() { NFT_SET_EVAL | NFT_SET_TIMEOUT } else { 0 };
        self.message(NEWSET, NLM_F_CREATE, format!("add set {}", set.name), |out| {
            out.attr_text(1, &table);
            out.attr_text(2, set.name);
            out.attr_be32(3, map | dynamic);
            out.attr_be32(4, type_number(set.key));
            out.attr_be32(5, type_bytes(set.key));
            match set.data {
                SetData::None => {}
                SetData::Value(types) => {
                    out.attr_be32(6, type_number(types));
                    out.attr_be32(7, type_bytes(types));
                }
                SetData::Verdict => {
                    out.attr_be32(6, NFT_DATA_VERDICT);
                    out.attr_be32(7, 0);
                }
            }
            if let Some(size) = set.dynamic_size {
                out.nest(9, |desc| desc.attr_be32(1, size));
            }
            out.attr_be32(10, id);
        });
    }

    /// NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: &[Expr]) {
        let table = self.table.clone();
        let label = format!("add a rule to chain {chain}");
        self.message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, label, |out| {
            out.attr_text(1, &table);
            out.attr_text(2, chain);
            out.nest(4, |list| expressions.iter().for_each(|expression| expression.write(list)));
        });
    }

    /// Fails if an element is there.
    pub(crate) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEWSETELEM, NLM_F_CREATE | NLM_F_EXCL, "add", set, elements);
    }

    /// Fails if an element is not there.
    pub(crate) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELSETELEM, 0, "delete", set, elements);
    }

    /// Ends the transaction: the buffer to send, the label of each message, and the number whose acknowledgement is the last.
    pub(super) fn finish(mut self) -> (Writer, Vec<String>, u32) {
        let last = self.labels.len() as u32;
        self.writer.add_flags(self.last_at, NLM_F_ACK);
        self.raw(NFNL_MSG_BATCH_END, 0, "commit the transaction".to_owned(), |_| {});
        (self.writer, self.labels, last)
    }

    /// NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS.
    fn elements(&mut self, kind: u16, flags: u16, verb: &str, set: &str, elements: &[Element]) {
        let table = self.table.clone();
        let mut rest = elements;
        while let Some(first) = rest.first() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|element| {
                bytes += element.bytes_max();
                bytes <= ELEMENTS_BYTES_MAX
            });
            let count = fits.count().max(1);
            let (now, later) = rest.split_at(count);
            let label = format!("{verb} {count} elements of set {set} from {}", hexadecimal(&first.key));
            self.message(kind, flags, label, |out| {
                out.attr_text(1, &table);
                out.attr_text(2, set);
                out.nest(3, |list| now.iter().for_each(|element| element.write(list)));
            });
            rest = later;
        }
    }

    fn message(&mut self, kind: u16, flags: u16, label: String, body: impl FnOnce(&mut Writer)) {
        self.raw(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, label, body);
    }

    fn raw(&mut self, kind: u16, flags: u16, label: String, body: impl FnOnce(&mut Writer)) {
        self.labels.push(label);
        self.last_at = self.writer.len();
        let control = kind == NFNL_MSG_BATCH_BEGIN || kind == NFNL_MSG_BATCH_END;
        let family = if control { 0 } else { self.family.number() };
        let resource = if control { NFNL_SUBSYS_NFTABLES } else { 0 };
        self.writer.message(kind, NLM_F_REQUEST | flags, self.labels.len() as u32, |out| {
            write_nfgenmsg(out, family, resource);
            body(out);
        });
    }
}

impl NftError {
    /// Names the message that the kernel refused.
    pub(super) fn of_batch(error: SocketError, labels: &[String]) -> NftError {
        match error {
            SocketError::Refused { sequence, detail, source } => {
                let label = (sequence as usize).checked_sub(1).and_then(|index| labels.get(index));
                NftError::Refused { action: label.cloned().unwrap_or_else(|| format!("do message {sequence}")), detail, source }
            }
            other => NftError::Socket { action: "commit a transaction".to_owned(), source: Box::new(other) },
        }
    }
}

/// `struct nfgenmsg`: family, version, resource.
pub(super) fn write_nfgenmsg(out: &mut Writer, family: u8, resource: u16) {
    out.bytes(&[family, 0]);
    out.bytes(&resource.to_be_bytes());
}

impl HookPoint {
    /// NF_INET_PRE_ROUTING and so on.
    fn number(self) -> u32 {
        match self {
            HookPoint::Prerouting => 0,
            HookPoint::Forward => 2,
            HookPoint::Output => 3,
            HookPoint::Postrouting => 4,
        }
    }
}

impl Element {
    pub(crate) fn key(key: Vec<u8>) -> Element {
        Element { key, data: None }
    }

    pub(crate) fn value(key: Vec<u8>, value: Vec<u8>) -> Element {
        Element { key, data: Some(Data::Value(value)) }
    }

    /// NFTA_SET_ELEM_KEY, _DATA.
    fn write(&self, list: &mut Writer) {
        list.nest(1, |element| {
            element.nest(1, |key| key.attr(1, &self.key));
            match &self.data {
                None => {}
                Some(Data::Value(value)) => element.nest(2, |data| data.attr(1, value)),
                Some(Data::Verdict(verdict)) => {
                    element.nest(2, |data| data.nest(2, |nest| write_verdict(nest, verdict)));
                }
            }
        });
    }

    /// An upper bound of what [`Element::write`] appends.
    fn bytes_max(&self) -> usize {
        let data = match &self.data {
            None => 0,
            Some(Data::Value(value)) => value.len() + 8,
            Some(Data::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) => chain.len() + 32,
            Some(Data::Verdict(_)) => 32,
        };
        self.key.len() + data + 24
    }
}

/// NFTA_VERDICT_CODE, _CHAIN.
pub(super) fn write_verdict(out: &mut Writer, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    out.attr(1, &code.to_be_bytes());
    if let Some(chain) = chain {
        out.attr_text(2, chain);
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
