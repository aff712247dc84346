//! Questions about names outside the cluster domain, asked of the upstream servers.
//!
//! Each question goes out with a random id from a fresh socket, whose port the kernel chooses at random, and an answer counts only
//! if address, port, id and question agree (RFC 5452). One server after another is asked; a truncated answer again by TCP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::Upstreams;
use super::cache::{Cache, Question};
use super::resolv::Resolvers;

/// Questions under way. Beyond it the answer is SERVFAIL at once: each holds a socket.
const QUESTIONS_MAX: usize = 512;
/// Those of one client: whoever asks without end, or for names that nobody answers, leaves room for the others.
const CLIENT_QUESTIONS_MAX: usize = QUESTIONS_MAX / 4;
/// For one server to answer. Resolvers in pods wait 5 s in all (resolv.conf(5)), in which both rounds must fit.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1_200);
/// How often the list of servers is gone through.
const ROUNDS: usize = 2;
/// For all servers together.
const TOTAL_TIMEOUT: Duration = Duration::from_millis(4_500);
/// What is asked for and read in one datagram (DNS flag day 2020).
const UDP_BYTES: u16 = 1_232;

pub(super) struct Forwarder {
    resolvers: Resolvers,
    cache: Mutex<Cache>,
    room: Semaphore,
    /// Who asks how much.
    clients: Mutex<HashMap<IpAddr, usize>>,
}

/// The place of a question under way.
struct Seat<'a> {
    forwarder: &'a Forwarder,
    client: IpAddr,
    _room: SemaphorePermit<'a>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut clients = self.forwarder.clients.lock();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams, own: &[SocketAddr]) -> Forwarder {
        Forwarder {
            resolvers: Resolvers::new(upstreams, own),
            cache: Mutex::new(Cache::new()),
            room: Semaphore::new(QUESTIONS_MAX),
            clients: Mutex::default(),
        }
    }

    /// What is remembered of the question.
    pub(super) fn remembered(&self, query: &Query, signatures: bool) -> Option<Message> {
        self.cache.lock().get(&question(query, signatures), Instant::now())
    }

    /// The upstream answer, or one that says SERVFAIL. Its id and question are not those of the client.
    pub(super) async fn ask(&self, query: &Query, signatures: bool, client: IpAddr) -> Message {
        let Some(_seat) = self.seat(client) else { return failure() };
        match timeout(TOTAL_TIMEOUT, self.ask_all(query, signatures)).await {
            Ok(Some(answer)) => {
                self.cache.lock().put(question(query, signatures), answer.clone(), Instant::now());
                answer
            }
            Ok(None) | Err(_) => failure(),
        }
    }

    fn seat(&self, client: IpAddr) -> Option<Seat<'_>> {
        let room = self.room.try_acquire().ok()?;
        let mut clients = self.clients.lock();
        let count = clients.entry(client).or_insert(0);
        if *count >= CLIENT_QUESTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(Seat { forwarder: self, client, _room: room })
    }

    async fn ask_all(&self, query: &Query, signatures: bool) -> Option<Message> {
        let servers = self.resolvers.servers();
        for server in std::iter::repeat_n(&servers, ROUNDS).flatten() {
            match timeout(SERVER_TIMEOUT, ask_one(*server, query, signatures)).await {
                Ok(Ok(answer)) if is_final(&answer) => return Some(answer),
                Ok(Ok(answer)) => tracing::debug!(%server, code = %answer.metadata.response_code, "upstream DNS"),
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream DNS"),
                Err(_) => tracing::debug!(%server, "upstream DNS does not answer"),
            }
        }
        None
    }
}

fn question(query: &Query, signatures: bool) -> Question {
    (query.name().to_lowercase(), query.query_type(), signatures)
}

fn failure() -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = ResponseCode::ServFail;
    message
}

/// Another server might know better otherwise.
fn is_final(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

async fn ask_one(server: SocketAddr, query: &Query, signatures: bool) -> io::Result<Message> {
    let request = request(query, signatures);
    let bytes = request.to_vec().map_err(io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = [0; UDP_BYTES as usize];
    loop {
        let received = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..received]) {
            Ok(answer) if answers(&answer, &request) && answer.metadata.truncation => {
                return ask_by_tcp(server, &request, &bytes).await;
            }
            Ok(answer) if answers(&answer, &request) => return Ok(answer),
            // Not for us, or forged: the true one may follow.
            _ => {}
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
    if answers(&answer, request) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn request(query: &Query, signatures: bool) -> Message {
    let mut message = Message::new(random_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES).set_dnssec_ok(signatures);
    message.set_edns(edns);
    message
}

/// Unpredictable: the key of the standard library's hash comes from the kernel's random numbers, once for each thread.
fn random_id() -> u16 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) as u16
}

fn answers(answer: &Message, request: &Message) -> bool {
    let same = |(one, other): (&Query, &Query)| {
        one.name() == other.name() && one.query_type() == other.query_type() && one.query_class() == other.query_class()
    };
    answer.metadata.id == request.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.len() == 1
        && answer.queries.iter().zip(&request.queries).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_room_for_the_others() {
        let forwarder = Forwarder::new(Upstreams::Fixed(Vec::new()), &[]);
        let of = |last| IpAddr::from([10, 42, 0, last]);
        let mut greedy: Vec<_> = std::iter::repeat_with(|| forwarder.seat(of(1))).map_while(|seat| seat).collect();
        assert_eq!(greedy.len(), CLIENT_QUESTIONS_MAX);
        assert!(forwarder.seat(of(2)).is_some());
        greedy.pop();
        assert!(forwarder.seat(of(1)).is_some(), "what was answered makes room");
        greedy.clear();
        assert!(forwarder.clients.lock().is_empty(), "nobody is remembered who asks nothing");
    }
}
