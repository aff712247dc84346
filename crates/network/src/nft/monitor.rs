//! Notices that someone else changed the table: `nft flush ruleset`, which a restart of Debian's nftables service does, takes every
//! Service away.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use crate::netlink::{attrs, ne32, text};

const NETLINK_NETFILTER: isize = 12;
/// Every change to nf_tables of the network namespace is told here.
const NFNLGRP_NFTABLES: u32 = 7;
/// The kernel tells of a change in pieces of at most a page (nf_tables_commit_notify).
const EVENT_BYTES: usize = 16 * 1024;
const HEADER_BYTES: usize = 16;
const NFGENMSG_BYTES: usize = 4;

/// Listens in the namespace that it was opened in.
pub(crate) struct Monitor {
    socket: TokioSocket,
    table: String,
    /// The port of the socket that makes our own changes.
    own_port: u32,
}

impl Monitor {
    pub(crate) fn open(table: &str, own_port: u32) -> io::Result<Monitor> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
        Ok(Monitor { socket, table: table.to_owned(), own_port })
    }

    /// Returns when the table was changed through another socket, or events were lost. Nothing is lost if this is dropped.
    pub(crate) async fn foreign_change(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(EVENT_BYTES);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer).await {
                Ok(()) if self.tells_of_others(&buffer) => return Ok(()),
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Every message about tables, chains, rules, sets and elements names its table in the first attribute, and carries the port
    /// of the socket that made the change.
    fn tells_of_others(&self, mut bytes: &[u8]) -> bool {
        while let Some(length) = bytes.get(..4).and_then(ne32) {
            let Some(message) = bytes.get(..length as usize).filter(|message| message.len() >= HEADER_BYTES) else { return false };
            let port = ne32(&message[12..16]);
            let payload = message.get(HEADER_BYTES + NFGENMSG_BYTES..).unwrap_or_default();
            let table = attrs(payload).find(|attr| attr.kind == 1).and_then(|attr| text(attr.value));
            if table == Some(&self.table) && port != Some(self.own_port) {
                return true;
            }
            bytes = bytes.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
        }
        false
    }
}
