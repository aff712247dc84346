//! Sockets and messages: a question in, an answer out.
//!
//! Answers of the zone are made where the question is read; only what must go upstream becomes a task. Whatever arrives is
//! answered or dropped: a message that cannot be read gets FORMERR, an answer (QR) nothing at all, so that two servers cannot
//! keep each other busy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use parking_lot::RwLock;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::DnsError;
use super::forward::Forwarder;
use super::wire::Protocol;
use super::zone::{Answer, Zone};

/// The largest question read; a question with options has some hundred bytes.
const QUESTION_BYTES_MAX: usize = 4_096;
/// The most that a datagram carries without EDNS (RFC 1035), and the most that we send with it (DNS flag day 2020).
const UDP_BYTES_PLAIN: u16 = 512;
const UDP_BYTES_MAX: u16 = 1_232;
/// TCP connections at a time, and how long one may be silent (RFC 7766 asks for some seconds).
const CONNECTIONS_MAX: usize = 128;
const CONNECTION_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Before a connection is taken again when there was no room for it.
pub(super) const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
/// Datagrams that wait for an upstream answer; the forwarder has its own, smaller limit on questions.
const WAITING_MAX: usize = 1_024;
/// Aliases followed within the cluster.
const ALIASES_MAX: usize = 8;

/// The bound sockets.
pub(super) struct Server {
    sockets: Vec<(UdpSocket, TcpListener)>,
    core: Arc<Core>,
}

/// What every socket and task shares.
struct Core {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    /// Where the next list of addresses begins, so that clients who take the first are spread.
    turn: AtomicUsize,
}

/// How a question goes on.
enum Step {
    Reply(Box<Message>),
    /// To be completed with the upstream answer to this question.
    Forward {
        reply: Box<Message>,
        query: Query,
        signatures: bool,
    },
    /// Nothing is said.
    Silence,
}

impl Server {
    pub(super) async fn bind(addresses: &[SocketAddr], zone: Arc<RwLock<Zone>>, forwarder: Forwarder) -> Result<Server, DnsError> {
        let mut sockets = Vec::new();
        for address in addresses {
            let failed = |protocol| move |source| DnsError::Bind { protocol, address: *address, source };
            let udp = UdpSocket::bind(address).await.map_err(failed(Protocol::Udp))?;
            let tcp = TcpListener::bind(address).await.map_err(failed(Protocol::Tcp))?;
            sockets.push((udp, tcp));
        }
        Ok(Server { sockets, core: Arc::new(Core { zone, forwarder, turn: AtomicUsize::new(0) }) })
    }

    /// The addresses in use, with the ports that the kernel chose.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let address = |(udp, tcp): &(UdpSocket, TcpListener)| (udp.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
        self.sockets.iter().map(address).collect()
    }

    /// Answers until dropped.
    pub(super) async fn serve(self) -> Result<(), DnsError> {
        let mut parts = JoinSet::new();
        for (udp, tcp) in self.sockets {
            parts.spawn(serve_udp(Arc::new(udp), self.core.clone()));
            parts.spawn(serve_tcp(tcp, self.core.clone()));
        }
        match parts.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => Ok(()),
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, core: Arc<Core>) -> Result<(), DnsError> {
    let address = socket.local_addr().map_err(|source| DnsError::Receive { address: ([0, 0, 0, 0], 0).into(), source })?;
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    let mut waiting = JoinSet::new();
    loop {
        while waiting.try_join_next().is_some() {}
        let (received, client) = match socket.recv_from(&mut buffer).await {
            Ok(datagram) => datagram,
            // A client that closed its port before an earlier answer came.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(source) => return Err(DnsError::Receive { address, source }),
        };
        match core.step(&buffer[..received]) {
            Step::Silence => {}
            Step::Reply(reply) => send(&socket, client, &reply).await,
            Step::Forward { reply, query, signatures } if waiting.len() < WAITING_MAX => {
                let (socket, core) = (socket.clone(), core.clone());
                waiting.spawn(async move {
                    let reply = core.forward(*reply, &query, signatures, client.ip()).await;
                    send(&socket, client, &reply).await;
                });
            }
            Step::Forward { mut reply, .. } => {
                reply.metadata.response_code = ResponseCode::ServFail;
                send(&socket, client, &reply).await;
            }
        }
    }
}

/// A datagram that cannot be sent is lost, as any datagram may be; the client asks again.
async fn send(socket: &UdpSocket, client: SocketAddr, reply: &Message) {
    let Some(bytes) = encode(reply, udp_limit(reply)) else { return };
    if let Err(error) = socket.send_to(&bytes, client).await {
        tracing::debug!(%client, %error, "a DNS answer was not sent");
    }
}

/// What the client takes in one datagram: the reply's own EDNS record holds what was agreed.
fn udp_limit(reply: &Message) -> usize {
    reply.edns.as_ref().map_or(UDP_BYTES_PLAIN, Edns::max_payload).into()
}

fn encode(reply: &Message, limit: usize) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    whole.or_else(|| reply.truncate().to_vec().ok().filter(|bytes| bytes.len() <= limit))
}

async fn serve_tcp(listener: TcpListener, core: Arc<Core>) -> Result<(), DnsError> {
    let address = listener.local_addr().map_err(|source| DnsError::Receive { address: ([0, 0, 0, 0], 0).into(), source })?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(seat) = room.clone().acquire_owned().await else { return Ok(()) };
        let (stream, client) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) if is_shortage(&error) => {
                tracing::warn!(%error, "DNS connections wait");
                tokio::time::sleep(SHORTAGE_PAUSE).await;
                continue;
            }
            Err(source) => return Err(DnsError::Receive { address, source }),
        };
        let core = core.clone();
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, client.ip(), &core).await {
                tracing::trace!(%error, "a DNS connection ended");
            }
            drop(seat);
        });
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Out of descriptors or of memory (accept(2)): what others hold comes back, and until then datagrams are answered.
pub(super) fn is_shortage(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// One question after another, each with its length before it.
async fn serve_connection(mut stream: TcpStream, client: IpAddr, core: &Core) -> std::io::Result<()> {
    loop {
        let length = usize::from(timeout(CONNECTION_SILENCE_MAX, stream.read_u16()).await??);
        if length > QUESTION_BYTES_MAX {
            return Ok(());
        }
        let mut question = vec![0; length];
        timeout(CONNECTION_SILENCE_MAX, stream.read_exact(&mut question)).await??;
        let reply = match core.step(&question) {
            Step::Silence => return Ok(()),
            Step::Reply(reply) => *reply,
            Step::Forward { reply, query, signatures } => core.forward(*reply, &query, signatures, client).await,
        };
        let Some(bytes) = encode(&reply, usize::from(u16::MAX)) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        timeout(CONNECTION_SILENCE_MAX, stream.write_all(&framed)).await??;
    }
}

impl Core {
    fn step(&self, bytes: &[u8]) -> Step {
        let request = match Message::from_vec(bytes) {
            Ok(request) => request,
            Err(_) => return unreadable(bytes),
        };
        if request.metadata.message_type == MessageType::Response {
            return Step::Silence;
        }
        let mut reply = Box::new(blank_reply(&request));
        let query = match refusal(&request) {
            Err(code) => {
                reply.metadata.response_code = code;
                return Step::Reply(reply);
            }
            Ok(query) => query.clone(),
        };
        let signatures = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        self.resolve(reply, query, signatures)
    }

    /// Follows the zone's aliases; what is outside of it is forwarded.
    fn resolve(&self, mut reply: Box<Message>, mut query: Query, signatures: bool) -> Step {
        let zone = self.zone.read();
        for _ in 0..ALIASES_MAX {
            match zone.answer(query.name(), query.query_type()) {
                Answer::Found { mut answers, additionals } => {
                    reply.metadata.authoritative = true;
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                    answers.rotate_left(turn);
                    reply.answers.extend(answers);
                    reply.additionals.extend(additionals);
                    return Step::Reply(reply);
                }
                answer @ (Answer::Empty | Answer::Absent) => {
                    reply.metadata.authoritative = true;
                    // RFC 2308: of an alias whose target is absent, NXDOMAIN.
                    if answer == Answer::Absent {
                        reply.metadata.response_code = ResponseCode::NXDomain;
                    }
                    reply.authorities.push(zone.authority());
                    return Step::Reply(reply);
                }
                Answer::Alias { alias, target } => {
                    reply.metadata.authoritative = true;
                    reply.answers.push(*alias);
                    if query.query_type() == RecordType::CNAME {
                        return Step::Reply(reply);
                    }
                    query.set_name(target);
                }
                Answer::Unready => {
                    reply.metadata.response_code = ResponseCode::ServFail;
                    return Step::Reply(reply);
                }
                Answer::Foreign => {
                    return match self.forwarder.remembered(&query, signatures) {
                        Some(answer) => Step::Reply(Box::new(completed(*reply, answer))),
                        None => Step::Forward { reply, query, signatures },
                    };
                }
            }
        }
        reply.metadata.response_code = ResponseCode::ServFail;
        Step::Reply(reply)
    }

    async fn forward(&self, reply: Message, query: &Query, signatures: bool, client: IpAddr) -> Message {
        completed(reply, self.forwarder.ask(query, signatures, client).await)
    }
}

/// The reply with what upstream said.
fn completed(mut reply: Message, answer: Message) -> Message {
    reply.metadata.response_code = answer.metadata.response_code;
    reply.metadata.authentic_data = answer.metadata.authentic_data;
    reply.answers.extend(answer.answers);
    reply.authorities.extend(answer.authorities);
    reply.additionals.extend(answer.additionals);
    reply
}

/// An empty answer to the request, with EDNS if it had it.
fn blank_reply(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = request.metadata.checking_disabled;
    reply.add_queries(request.queries.iter().take(1).cloned());
    if let Some(edns) = &request.edns {
        let mut own = Edns::new();
        own.set_max_payload(edns.max_payload().clamp(UDP_BYTES_PLAIN, UDP_BYTES_MAX)).set_dnssec_ok(edns.flags().dnssec_ok);
        reply.set_edns(own);
    }
    reply
}

/// The one question that is answered, or why none is.
fn refusal(request: &Message) -> Result<&Query, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [query] = &request.queries[..] else { return Err(ResponseCode::FormErr) };
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if transfer || query.query_class() != DNSClass::IN {
        return Err(ResponseCode::Refused);
    }
    Ok(query)
}

/// FORMERR to what at least has a header that asks.
fn unreadable(bytes: &[u8]) -> Step {
    /// The header's length, and the bit that tells an answer (RFC 1035, 4.1.1).
    const HEADER_BYTES: usize = 12;
    const ANSWER_BIT: u8 = 0x80;
    match bytes {
        [high, low, flags, ..] if bytes.len() >= HEADER_BYTES && flags & ANSWER_BIT == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            Step::Reply(Box::new(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)))
        }
        _ => Step::Silence,
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
