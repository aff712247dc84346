//! Rule expressions. A rule is a list of them, run in order over sixteen 32-bit registers; one that does not match ends the rule.

use std::time::Duration;

use super::batch::{Verdict, write_verdict};
use crate::netlink::Writer;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
/// NFT_REG32_00.
const FIRST_REGISTER: u32 = 8;
const NFT_REG_VERDICT: u32 = 0;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY: two flows that start at once on two processors do not choose the same port, which would drop
/// one of them.
const PORT_RANDOM_FULLY: u32 = 1 << 4;

/// One of the sixteen 32-bit registers. Values longer than four bytes continue in the following ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub(crate) u8);

impl Reg {
    fn number(self) -> u32 {
        FIRST_REGISTER + u32::from(self.0)
    }

    /// The register `words` further on.
    pub(crate) fn after(self, words: u8) -> Reg {
        Reg(self.0 + words)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaKey {
    InputName,
    OutputName,
    L4Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CtKey {
    State,
    Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Equal,
    NotEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectWith {
    TcpReset,
    PortUnreachable(super::Family),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta {
        key: MetaKey,
        to: Reg,
    },
    /// Bytes of the network header.
    Network {
        offset: u32,
        bytes: u32,
        to: Reg,
    },
    /// Bytes of the transport header.
    Transport {
        offset: u32,
        bytes: u32,
        to: Reg,
    },
    Cmp {
        from: Reg,
        op: CmpOp,
        value: Vec<u8>,
    },
    /// `to = from & mask`.
    Mask {
        from: Reg,
        to: Reg,
        mask: Vec<u8>,
    },
    Ct {
        key: CtKey,
        to: Reg,
    },
    /// Ends the rule unless the key is in the set (with `invert`: if it is).
    InSet {
        set: &'static str,
        key: Reg,
        invert: bool,
    },
    /// Puts the map's value for the key into `to`; ends the rule if there is none.
    Map {
        map: &'static str,
        key: Reg,
        to: Reg,
    },
    /// Follows the map's verdict for the key; ends the rule if there is none.
    VerdictMap {
        map: &'static str,
        key: Reg,
    },
    Immediate {
        to: Reg,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// A random number below `modulus`, plus `offset`, in the machine's byte order.
    Random {
        to: Reg,
        modulus: u32,
        offset: u32,
    },
    /// Adds an element to a dynamic map, or restarts its time if it is there.
    Update {
        map: &'static str,
        key: Reg,
        data: Reg,
        timeout: Duration,
    },
    /// The kind of address that the destination is (RTN_LOCAL = 2, ...).
    DestinationKind {
        to: Reg,
    },
    Dnat {
        family: super::Family,
        address: Reg,
        port: Reg,
    },
    Snat {
        family: super::Family,
        address: Reg,
    },
    /// Source becomes the outgoing link's address, its port random.
    Masquerade,
    Reject(RejectWith),
}

impl Expr {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.nest(NFTA_LIST_ELEM, |element| {
            element.attr_text(NFTA_EXPR_NAME, self.name());
            element.nest(NFTA_EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Meta { .. } => "meta",
            Expr::Network { .. } | Expr::Transport { .. } => "payload",
            Expr::Cmp { .. } => "cmp",
            Expr::Mask { .. } => "bitwise",
            Expr::Ct { .. } => "ct",
            Expr::InSet { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Random { .. } => "numgen",
            Expr::Update { .. } => "dynset",
            Expr::DestinationKind { .. } => "fib",
            Expr::Dnat { .. } | Expr::Snat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::Reject(_) => "reject",
        }
    }

    /// The attribute numbers are those of the expression's `NFTA_*` list, named beside each.
    fn write_data(&self, out: &mut Writer) {
        match self {
            // NFTA_META_DREG, _KEY
            Expr::Meta { key, to } => {
                out.attr_be32(2, meta_key(*key));
                out.attr_be32(1, to.number());
            }
            Expr::Network { offset, bytes, to } => write_payload(out, 1, *offset, *bytes, *to),
            Expr::Transport { offset, bytes, to } => write_payload(out, 2, *offset, *bytes, *to),
            // NFTA_CMP_SREG, _OP, _DATA
            Expr::Cmp { from, op, value } => {
                out.attr_be32(1, from.number());
                out.attr_be32(2, if *op == CmpOp::Equal { 0 } else { 1 });
                write_value(out, 3, value);
            }
            // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
            Expr::Mask { from, to, mask } => {
                out.attr_be32(1, from.number());
                out.attr_be32(2, to.number());
                out.attr_be32(3, mask.len() as u32);
                write_value(out, 4, mask);
                write_value(out, 5, &vec![0; mask.len()]);
            }
            // NFTA_CT_DREG, _KEY: NFT_CT_STATE, NFT_CT_STATUS
            Expr::Ct { key, to } => {
                out.attr_be32(2, if *key == CtKey::State { 0 } else { 2 });
                out.attr_be32(1, to.number());
            }
            Expr::InSet { set, key, invert } => write_lookup(out, set, *key, None, *invert),
            Expr::Map { map, key, to } => write_lookup(out, map, *key, Some(to.number()), false),
            Expr::VerdictMap { map, key } => write_lookup(out, map, *key, Some(NFT_REG_VERDICT), false),
            // NFTA_IMMEDIATE_DREG, _DATA
            Expr::Immediate { to, value } => {
                out.attr_be32(1, to.number());
                write_value(out, 2, value);
            }
            Expr::Verdict(verdict) => {
                out.attr_be32(1, NFT_REG_VERDICT);
                out.nest(2, |data| data.nest(NFTA_DATA_VERDICT, |nest| write_verdict(nest, verdict)));
            }
            // NFTA_NG_DREG, _MODULUS, _TYPE (NFT_NG_RANDOM), _OFFSET
            Expr::Random { to, modulus, offset } => {
                out.attr_be32(1, to.number());
                out.attr_be32(2, *modulus);
                out.attr_be32(3, 1);
                out.attr_be32(4, *offset);
            }
            // NFTA_DYNSET_SET_NAME, _OP (UPDATE), _SREG_KEY, _SREG_DATA, _TIMEOUT
            Expr::Update { map, key, data, timeout } => {
                out.attr_text(1, map);
                out.attr_be32(3, 1);
                out.attr_be32(4, key.number());
                out.attr_be32(5, data.number());
                out.attr_be64(6, timeout.as_millis() as u64);
            }
            // NFTA_FIB_DREG, _RESULT (ADDRTYPE), _FLAGS (DADDR)
            Expr::DestinationKind { to } => {
                out.attr_be32(1, to.number());
                out.attr_be32(2, 3);
                out.attr_be32(3, 2);
            }
            // NFTA_NAT_TYPE (DNAT), _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN
            Expr::Dnat { family, address, port } => {
                out.attr_be32(1, 1);
                out.attr_be32(2, u32::from(family.number()));
                out.attr_be32(3, address.number());
                out.attr_be32(5, port.number());
            }
            // NFTA_NAT_TYPE (SNAT), _FAMILY, _REG_ADDR_MIN, _FLAGS
            Expr::Snat { family, address } => {
                out.attr_be32(1, 0);
                out.attr_be32(2, u32::from(family.number()));
                out.attr_be32(3, address.number());
                out.attr_be32(7, PORT_RANDOM_FULLY);
            }
            // NFTA_MASQ_FLAGS
            Expr::Masquerade => out.attr_be32(1, PORT_RANDOM_FULLY),
            // NFTA_REJECT_TYPE, _ICMP_CODE
            Expr::Reject(RejectWith::TcpReset) => {
                out.attr_be32(1, 1);
                out.attr_u8(2, 0);
            }
            // ICMP_PORT_UNREACH, ICMPV6_PORT_UNREACH.
            Expr::Reject(RejectWith::PortUnreachable(family)) => {
                out.attr_be32(1, 0);
                out.attr_u8(2, if *family == super::Family::Ipv4 { 3 } else { 4 });
            }
        }
    }
}

fn meta_key(key: MetaKey) -> u32 {
    match key {
        MetaKey::InputName => 6,
        MetaKey::OutputName => 7,
        MetaKey::L4Protocol => 16,
    }
}

/// NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
fn write_payload(out: &mut Writer, base: u32, offset: u32, bytes: u32, to: Reg) {
    out.attr_be32(1, to.number());
    out.attr_be32(2, base);
    out.attr_be32(3, offset);
    out.attr_be32(4, bytes);
}

/// NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS.
fn write_lookup(out: &mut Writer, set: &str, key: Reg, to: Option<u32>, invert: bool) {
    out.attr_text(1, set);
    out.attr_be32(2, key.number());
    if let Some(to) = to {
        out.attr_be32(3, to);
    }
    out.attr_be32(5, u32::from(invert));
}

fn write_value(out: &mut Writer, kind: u16, value: &[u8]) {
    out.nest(kind, |data| data.attr(NFTA_DATA_VALUE, value));
}
