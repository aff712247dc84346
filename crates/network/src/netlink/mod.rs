//! Netlink: the message codec and a synchronous socket, shared by routes, nf_tables and connection tracking.
//!
//! A request is written into one buffer, often several messages of it, sent with one call, and answered message by message; an
//! error names the message it belongs to. The kernel handles these requests before `send` returns, so nothing here waits.

mod socket;
mod wire;

pub(crate) use socket::{Socket, SocketError};
pub(crate) use wire::{Attr, Writer, attrs, be16, be32, ne32, text};
