//! What the node process and a keeper say to each other over the sandbox's socket.
//!
//! A seqpacket socket: one JSON message per packet, descriptors ride along (SCM_RIGHTS). A keeper may be older or newer than the
//! node that adopts it, so fields are only ever added, unknown fields are ignored, and what a keeper cannot read it answers with
//! an error. Bulky things (what to execute, the mounts) are in files or memory files that only the new process reads, so that the
//! keeper's own memory stays small.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::spec::status::Exit;

/// Raised only if an old keeper could misunderstand a new node.
pub(crate) const VERSION: u32 = 1;

/// Bytes of one request to a keeper. The longest holds a log path and a few dozen short paths; the keeper's buffer is on its stack.
pub(crate) const REQUEST_MAX: usize = 16 << 10;

/// Bytes of one message from a keeper. The longest is the greeting: some 200 bytes per container of the pod. Below the
/// kernel's default socket buffer (net.core.wmem_default, 212,992).
pub(crate) const MESSAGE_MAX: usize = 128 << 10;

/// Descriptors with one message: a memory file and three streams.
pub(crate) const FDS_MAX: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Start(Start),
    /// Descriptors: the process as JSON in a memory file, then either a console socket (tty) or stdin, stdout, stderr.
    Exec {
        container: String,
        exec: u64,
        tty: bool,
    },
    /// To the container's first process.
    Signal {
        container: String,
        signal: i32,
    },
    /// SIGKILL to every process of the container.
    Kill {
        container: String,
    },
    ExecKill {
        exec: u64,
    },
    /// Descriptors: where its output shall also go: stdout, stderr (one only for a tty). The reply carries the writing end of
    /// its standard input, or the terminal.
    Attach {
        container: String,
        stdin: bool,
    },
    ReopenLog {
        container: String,
    },
    /// The container has ended and its record is no longer wanted.
    Forget {
        container: String,
    },
    /// Kill everything and end.
    Quit,
}

/// What the keeper itself must know of a container; the rest is in `<sandbox>/containers/<id>/launch.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) container: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) log: Option<Log>,
    /// File with a line `oom_kill <count>`: memory.oom_control or memory.events.
    pub(crate) oom_file: Option<String>,
    /// Directories whose cgroup.procs name every process of the container; one is enough to kill them.
    pub(crate) kill_cgroup: Option<String>,
    /// A PID namespace of its own; otherwise it shares the sandbox's or the host's.
    pub(crate) own_pid: bool,
    /// The container whose PID namespace it joins.
    #[serde(default)]
    pub(crate) processes_of: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Log {
    pub(crate) path: String,
    pub(crate) bytes_max: u64,
    pub(crate) files: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Hello { version: u32, pid: u32, containers: Vec<Known> },
    Reply { id: u64, error: Option<String>, pid: Option<u32>, at_ns: Option<i128> },
    Exited { container: String, exit: Exit },
    ExecExited { exec: u64, code: i32, signal: Option<i32> },
}

/// A container that the keeper remembers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) container: String,
    pub(crate) pid: u32,
    pub(crate) started_at_ns: i128,
    pub(crate) exit: Option<Exit>,
}

/// Sends one packet. On a non-blocking socket that is full: `WouldBlock`.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let sent = rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    if sent != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "packet cut short"));
    }
    Ok(())
}

/// Receives one packet into `buffer`; its length (0: the other side is gone) and its descriptors, close-on-exec.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::io::retry_on_intr(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet longer than its limit"));
    }
    Ok((received.bytes, fds))
}

/// True if the other end of a Unix socket was opened by root.
pub(crate) fn peer_is_root(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_a_newer_node_is_read_without_its_unknown_fields() {
        let text = r#"{"id":7,"novel":1,"call":{"Signal":{"container":"a","signal":15,"later":true}}}"#;
        let request: Request = serde_json::from_str(text).expect("known call");
        assert!(matches!(request.call, Call::Signal { signal: 15, .. }));
        assert!(serde_json::from_str::<Request>(r#"{"id":8,"call":{"Levitate":{}}}"#).is_err());
    }

    #[test]
    fn descriptors_ride_with_a_packet_and_long_packets_are_refused() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        send(a.as_fd(), b"take this", &[write.as_fd()]).expect("send");
        drop(write);
        let mut buffer = [0; 32];
        let (n, fds) = receive(b.as_fd(), &mut buffer).expect("receive");
        assert_eq!(&buffer[..n], b"take this");
        rustix::io::write(&fds[0], b"x").expect("the writing end works");
        let mut one = [0];
        rustix::io::read(&read, &mut one).expect("read");
        assert_eq!(one, *b"x");

        send(a.as_fd(), &[0; 64], &[]).expect("send");
        assert_eq!(receive(b.as_fd(), &mut buffer).expect_err("cut").kind(), io::ErrorKind::InvalidData);
    }
}
