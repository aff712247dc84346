//! A netlink socket: send one buffer, read the answers to it.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket as RawSocket, SocketAddr};

use super::wire::{self, HEADER_BYTES, attrs};

/// Answers arrive in pieces of at most this; the kernel builds dumps in skbs of up to 32 KiB (netlink_dump).
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for answers that wait: one acknowledgement for each message of the largest request.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// The kernel answers before `send` returns, so running into this means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 0x2;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("open a netlink socket of protocol {protocol}")]
    Open {
        protocol: isize,
        #[source]
        source: io::Error,
    },
    #[error("send a netlink request of {bytes} bytes")]
    Send {
        bytes: usize,
        #[source]
        source: io::Error,
    },
    #[error("read a netlink answer")]
    Receive(#[source] io::Error),
    #[error("a netlink answer is cut short")]
    Truncated,
    /// The table changed while it was read; read it again.
    #[error("the kernel's table changed during the dump")]
    Interrupted,
    /// The kernel refused one message.
    #[error("refused by the kernel{}", explain(.detail))]
    Refused {
        sequence: u32,
        detail: Option<String>,
        #[source]
        source: io::Error,
    },
}

fn explain(detail: &Option<String>) -> String {
    detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default()
}

impl SocketError {
    /// The error number, if the kernel gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            SocketError::Open { source, .. } | SocketError::Send { source, .. } | SocketError::Refused { source, .. } => {
                source.raw_os_error()
            }
            SocketError::Receive(source) => source.raw_os_error(),
            SocketError::Truncated | SocketError::Interrupted => None,
        }
    }
}

/// One message of an answer that is neither an acknowledgement nor an error.
pub(crate) struct Reply<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
}

/// A socket bound to the network namespace that it was opened in, wherever it is used later.
pub(crate) struct Socket {
    socket: RawSocket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open(protocol: isize) -> Result<Socket, SocketError> {
        let failed = |source| SocketError::Open { protocol, source };
        let mut socket = RawSocket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        // Older kernels lack these two; then errors carry no text.
        if let Err(error) = socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)) {
            tracing::debug!(%error, "netlink without extended acknowledgements");
        }
        let fd = rustix_fd(&socket);
        rustix::net::sockopt::set_socket_timeout(fd, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|errno| failed(errno.into()))?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER_BYTES).map_err(|errno| failed(errno.into()))?;
        Ok(Socket { socket, buffer: vec![0; RECEIVE_BYTES], sequence: 0 })
    }

    /// The socket's own address.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// A number for the next message.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends `request` and reads until the message `last` is acknowledged or any message is refused. Every message of the
    /// request that carries NLM_F_ACK is acknowledged; the others answer only by errors.
    pub(crate) fn transact(&mut self, request: &[u8], first: u32, last: u32) -> Result<(), SocketError> {
        self.send(request)?;
        let mut failure = None;
        loop {
            let received = self.receive()?;
            for message in messages(&self.buffer[..received]) {
                let message = message?;
                if message.kind != NLMSG_ERROR || !(first..=last).contains(&message.sequence) {
                    continue;
                }
                let errno = message.errno()?;
                if errno != 0 && failure.is_none() {
                    failure = Some(message.refusal(errno));
                }
                // A request that fails as a whole is answered only once, with its first message's number.
                if message.sequence == last || (errno != 0 && message.sequence == first) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends requests that stand each for itself, all with NLM_F_ACK, and reads an answer to each. Returns the first refusal.
    pub(crate) fn transact_each(&mut self, request: &[u8], first: u32, last: u32) -> Result<(), SocketError> {
        self.send(request)?;
        let mut failure = None;
        loop {
            let received = self.receive()?;
            for message in messages(&self.buffer[..received]) {
                let message = message?;
                if message.kind != NLMSG_ERROR || !(first..=last).contains(&message.sequence) {
                    continue;
                }
                let errno = message.errno()?;
                if errno != 0 && failure.is_none() {
                    failure = Some(message.refusal(errno));
                }
                if message.sequence == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends one dump request and hands every object of the answer to `visit`.
    pub(crate) fn dump(&mut self, request: &[u8], sequence: u32, mut visit: impl FnMut(Reply<'_>)) -> Result<(), SocketError> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            let received = self.receive()?;
            for message in messages(&self.buffer[..received]) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE if interrupted => return Err(SocketError::Interrupted),
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = message.errno()?;
                        return if errno == 0 { Ok(()) } else { Err(message.refusal(errno)) };
                    }
                    kind => {
                        visit(Reply { kind, payload: message.payload });
                        if message.flags & NLM_F_MULTI == 0 {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, request: &[u8]) -> Result<(), SocketError> {
        let failed = |source| SocketError::Send { bytes: request.len(), source };
        let fd = rustix_fd(&self.socket);
        // The send buffer must hold the request as one piece, with the kernel's own overhead.
        let wanted = request.len() * 2 + RECEIVE_BYTES;
        let has = rustix::net::sockopt::socket_send_buffer_size(fd).map_err(|errno| failed(errno.into()))?;
        if has < wanted {
            rustix::net::sockopt::set_socket_send_buffer_size_force(fd, wanted).map_err(|errno| failed(errno.into()))?;
        }
        match self.socket.send(request, 0) {
            Ok(sent) if sent == request.len() => Ok(()),
            Ok(_) => Err(SocketError::Truncated),
            Err(source) => Err(failed(source)),
        }
    }

    fn receive(&mut self) -> Result<usize, SocketError> {
        loop {
            let mut target = &mut self.buffer[..];
            match self.socket.recv(&mut target, libc::MSG_TRUNC) {
                Ok(received) if received > RECEIVE_BYTES => return Err(SocketError::Truncated),
                Ok(received) => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SocketError::Receive(error)),
            }
        }
    }
}

fn rustix_fd(socket: &RawSocket) -> rustix::fd::BorrowedFd<'_> {
    use std::os::fd::{AsRawFd, BorrowedFd};
    // SAFETY: the descriptor belongs to `socket`, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Received<'_> {
    fn errno(&self) -> Result<i32, SocketError> {
        let bytes = self.payload.first_chunk::<4>().ok_or(SocketError::Truncated)?;
        Ok(-i32::from_ne_bytes(*bytes))
    }

    /// The refusal, with the kernel's text if it gave one behind the (capped) copy of the request.
    fn refusal(&self, errno: i32) -> SocketError {
        let echoed = self.payload.get(4..8).and_then(wire::ne32).map_or(HEADER_BYTES, |length| length as usize);
        let request = if self.flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { echoed.next_multiple_of(4) };
        let tail = if self.flags & NLM_F_ACK_TLVS != 0 { self.payload.get(4 + request..) } else { None };
        let detail = attrs(tail.unwrap_or_default())
            .find(|attr| attr.kind == NLMSGERR_ATTR_MSG)
            .and_then(|attr| wire::text(attr.value))
            .map(str::to_owned);
        SocketError::Refused { sequence: self.sequence, detail, source: io::Error::from_raw_os_error(errno) }
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Received<'_>, SocketError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = split_message(bytes);
        bytes = message.as_ref().map_or(&[], |(_, rest)| *rest);
        Some(message.map(|(message, _)| message).ok_or(SocketError::Truncated))
    })
}

fn split_message(bytes: &[u8]) -> Option<(Received<'_>, &[u8])> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let length = wire::ne32(&header[..4])? as usize;
    let message = Received {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        sequence: wire::ne32(&header[8..12])?,
        payload: bytes.get(HEADER_BYTES..length)?,
    };
    Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
