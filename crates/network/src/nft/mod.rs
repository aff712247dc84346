//! nf_tables: batches of changes that the kernel takes whole or not at all, and dumps of what is there.
//!
//! The encoding follows linux/netfilter/nf_tables.h. A [`Batch`] collects the changes of one transaction with a label each, so
//! that a refusal names the object; [`Nft`] sends it. Everything belongs to one table, whose name carries the cluster's id.

mod batch;
mod dump;
mod expr;
mod monitor;

pub(crate) use batch::{Batch, ChainKind, Data, Element, Hook, HookPoint, NftError, SetData, SetSpec, Verdict};
pub(crate) use dump::Nft;
pub(crate) use expr::{CmpOp, CtKey, Expr, MetaKey, Reg, RejectWith};
pub(crate) use monitor::Monitor;

/// Data types as the nft program numbers them, six bits each in a concatenation. The kernel ignores them; they make
/// `nft list` print addresses as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// A number in the machine's byte order.
    Mark,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Type::Ipv4 => 7,
            Type::Ipv6 => 8,
            Type::Protocol => 12,
            Type::Port => 13,
            Type::Mark => 19,
        }
    }

    /// Bytes in registers and keys, where each part fills whole 32-bit registers.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Type::Ipv6 => 16,
            Type::Ipv4 | Type::Protocol | Type::Port | Type::Mark => 4,
        }
    }
}

fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, part| number << 6 | part.number())
}

fn type_bytes(types: &[Type]) -> u32 {
    types.iter().map(|part| part.bytes()).sum()
}

/// The address family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    Ipv4,
    /// Checked by a test; the node makes no IPv6 table yet.
    #[cfg_attr(not(test), expect(dead_code, reason = "dual stack comes later"))]
    Ipv6,
}

impl Family {
    /// NFPROTO_IPV4, NFPROTO_IPV6.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        }
    }
}
