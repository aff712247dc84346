//! SPDY/3.1, the part of it that Kubernetes uses (SPDY Protocol draft 3.1; the peer is moby/spdystream).
//!
//! The client opens streams, the server never does. Flow control windows are not used: the peer neither sends nor understands
//! WINDOW_UPDATE. A full stream holds the connection up instead, as it does upstream.

mod connection;
mod frame;
mod streams;
#[cfg(test)]
pub(super) mod testing;

pub(super) use connection::{Connection, Stream, StreamWriter};
pub(super) use streams::remote_streams;
