//! What Knarr and its DNS process say to each other: JSON messages, each with its length before it, over a Unix socket.
//!
//! The process begins with [`Report::Hello`]. One that does not serve yet waits for [`Order::Serve`] and answers it. Then it is fed: every
//! Service there is, [`Order::Complete`], and from then on what changes.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use futures::{SinkExt, StreamExt as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::DnsConfig;
use super::entry::Entry;

/// One message. The largest is a headless Service: 100,000 endpoints of some 100 bytes each, more than a cluster may have pods.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    Serve(DnsConfig),
    /// All that is known of one Service; none forgets it.
    Set {
        namespace: String,
        name: String,
        entry: Option<Entry>,
    },
    /// What was set on this connection is the whole cluster; what was known before is forgotten.
    Complete,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    Hello {
        program: Program,
        serving: Option<DnsConfig>,
    },
    Serving,
    /// It does not serve: the address cannot be bound. The process ends.
    Refused {
        protocol: Protocol,
        address: SocketAddr,
        errno: i32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        })
    }
}

/// Which program a process runs: one that was upgraded since is another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Program {
    device: u64,
    inode: u64,
    changed_ns: i128,
}

impl Program {
    pub(super) fn own() -> io::Result<Program> {
        // The link leads to the file that was started, also after it was replaced.
        Program::at("/proc/self/exe".as_ref())
    }

    pub(super) fn at(path: &std::path::Path) -> io::Result<Program> {
        let file = std::fs::metadata(path)?;
        let changed_ns = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
        Ok(Program { device: file.dev(), inode: file.ino(), changed_ns })
    }
}

/// One end of a connection.
pub(super) struct Line(Framed<UnixStream, LengthDelimitedCodec>);

impl Line {
    pub(super) fn new(stream: UnixStream) -> Line {
        Line(LengthDelimitedCodec::builder().max_frame_length(MESSAGE_BYTES_MAX).new_framed(stream))
    }

    /// Queues a message; [`flush`](Self::flush) sees to it that it arrives. One that is too large is `InvalidInput`, and nothing of it is sent.
    pub(super) async fn feed(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.0.feed(Bytes::from(serde_json::to_vec(message)?)).await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        SinkExt::<Bytes>::flush(&mut self.0).await
    }

    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.feed(message).await?;
        self.flush().await
    }

    /// The next message; none when the other end is gone. May be dropped and called again.
    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        match self.0.next().await {
            Some(frame) => Ok(Some(serde_json::from_slice(&frame?)?)),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_is_too_large_is_refused_and_the_next_arrives() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut line, mut end) = (Line::new(one), Line::new(other));
        let large = Order::Set { namespace: "n".repeat(MESSAGE_BYTES_MAX), name: String::new(), entry: None };
        assert_eq!(line.feed(&large).await.expect_err("too large").kind(), io::ErrorKind::InvalidInput);
        line.send(&Order::Complete).await.expect("sent");
        assert_eq!(end.receive::<Order>().await.expect("received"), Some(Order::Complete));
    }
}
