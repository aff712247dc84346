use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::super::Upstreams;
use super::super::entry::Entry;
use super::super::zone::tests::zone;
use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn core(upstreams: Vec<SocketAddr>) -> Core {
    Core { zone: Arc::new(RwLock::new(zone())), forwarder: Forwarder::new(Upstreams::Fixed(upstreams), &[]), turn: AtomicUsize::new(0) }
}

/// A server on loopback, and how it is reached.
async fn start(upstreams: Vec<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let core = core(upstreams);
    let server = Server::bind(&[LOOPBACK], core.zone, core.forwarder).await.expect("bound");
    let addresses = server.addresses()[0];
    tokio::spawn(server.serve());
    addresses
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

async fn ask_udp(server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind(LOOPBACK).await.expect("a socket");
    socket.connect(server).await.expect("connected");
    socket.send(&message.to_vec().expect("encoded")).await.expect("sent");
    let mut buffer = [0; 4096];
    let received = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.expect("in time").expect("an answer");
    Message::from_vec(&buffer[..received]).expect("decoded")
}

async fn ask_tcp(server: SocketAddr, messages: &[Message]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.expect("connected");
    let mut answers = Vec::new();
    for message in messages {
        let bytes = message.to_vec().expect("encoded");
        stream.write_u16(bytes.len() as u16).await.expect("sent");
        stream.write_all(&bytes).await.expect("sent");
    }
    for _ in messages {
        let length = stream.read_u16().await.expect("a length");
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.expect("an answer");
        answers.push(Message::from_vec(&bytes).expect("decoded"));
    }
    answers
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn cluster_names_are_answered_over_udp_and_tcp() {
    let (udp, tcp) = start(vec![]).await;
    let web = question("web.default.svc.cluster.local.", RecordType::A);
    let answer = ask_udp(udp, &web).await;
    assert_eq!((answer.metadata.id, answer.metadata.authoritative), (4711, true));
    assert_eq!((answer.metadata.recursion_desired, answer.metadata.recursion_available), (true, true));
    assert_eq!(answer.queries, web.queries);
    assert_eq!(addresses(&answer), ["10.43.0.5"]);
    let absent = question("web.nowhere.svc.cluster.local.", RecordType::A);
    let answers = ask_tcp(tcp, &[web, absent]).await;
    assert_eq!(addresses(&answers[0]), ["10.43.0.5"]);
    assert_eq!(answers[1].metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answers[1].authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn aliases_are_followed_inside_and_outside() {
    let upstream = upstream(|query| reply(query, "192.0.2.80", 60)).await;
    let (udp, _) = start(vec![upstream]).await;
    let inner = ask_udp(udp, &question("inner.other.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&inner), ["web.default.svc.cluster.local.", "10.43.0.5"]);
    let outer = ask_udp(udp, &question("outer.other.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(addresses(&outer), ["www.example.com.", "192.0.2.80"]);
    assert_eq!(outer.answers[1].name.to_ascii(), "www.example.com.");
}

#[tokio::test]
async fn a_long_answer_is_cut_for_udp_and_whole_over_tcp() {
    let core = core(vec![]);
    let endpoints: Vec<_> = (0..200).map(|n| serde_json::json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    let slice = serde_json::from_value(serde_json::json!({
        "addressType": "IPv4", "metadata": {}, "endpoints": endpoints, "ports": []}))
    .expect("a slice");
    let headless = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"clusterIP": "None"}})).expect("a Service");
    core.zone.write().set("default", "many", Entry::of(&headless, &[&slice]));
    let server = Server::bind(&[LOOPBACK], core.zone, core.forwarder).await.expect("bound");
    let (udp, tcp) = server.addresses()[0];
    tokio::spawn(server.serve());
    let many = question("many.default.svc.cluster.local.", RecordType::A);
    let cut = ask_udp(udp, &many).await;
    assert_eq!((cut.metadata.truncation, cut.answers.len()), (true, 0));
    assert_eq!(ask_tcp(tcp, &[many]).await[0].answers.len(), 200);
}

#[tokio::test]
async fn edns_is_answered_with_edns() {
    let (udp, _) = start(vec![]).await;
    let mut message = question("web.default.svc.cluster.local.", RecordType::A);
    assert!(ask_udp(udp, &message).await.edns.is_none());
    let mut edns = Edns::new();
    edns.set_max_payload(8_000).set_dnssec_ok(true);
    message.set_edns(edns);
    let own = ask_udp(udp, &message).await.edns.expect("EDNS");
    assert_eq!((own.max_payload(), own.version(), own.flags().dnssec_ok), (1_232, 0, true));
    let mut future = Edns::new();
    future.set_version(1);
    message.set_edns(future);
    // 16 is BADVERS and BADSIG.
    assert_eq!(u16::from(ask_udp(udp, &message).await.metadata.response_code), 16);
}

/// A server that answers every question by `answer`.
async fn upstream(answer: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(LOOPBACK).await.expect("a socket");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((received, client)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..received]).expect("a question");
            for message in answer(&query) {
                socket.send_to(&message.to_vec().expect("encoded"), client).await.expect("sent");
            }
        }
    });
    address
}

fn reply(query: &Message, address: &str, ttl: u32) -> Vec<Message> {
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.queries = query.queries.clone();
    let name = query.queries[0].name().clone();
    message.answers.push(Record::from_rdata(name, ttl, RData::A(A(address.parse().expect("an address")))));
    vec![message]
}

#[tokio::test]
async fn names_outside_are_asked_once_and_remembered() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    let upstream = upstream(move |query| {
        asked.fetch_add(1, Ordering::Relaxed);
        reply(query, "192.0.2.1", 60)
    })
    .await;
    let (udp, _) = start(vec![upstream]).await;
    for _ in 0..3 {
        let answer = ask_udp(udp, &question("www.example.com.", RecordType::A)).await;
        assert_eq!((addresses(&answer), answer.metadata.authoritative, answer.metadata.id), (vec!["192.0.2.1".to_owned()], false, 4711));
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_forged_answer_is_passed_over() {
    let upstream = upstream(|query| {
        let mut wrong_id = reply(query, "192.0.2.66", 60).remove(0);
        wrong_id.metadata.id = wrong_id.metadata.id.wrapping_add(1);
        let mut wrong_name = reply(query, "192.0.2.66", 60).remove(0);
        wrong_name.queries[0].set_name(Name::from_ascii("other.example.").expect("a name"));
        [vec![wrong_id, wrong_name], reply(query, "192.0.2.1", 60)].concat()
    })
    .await;
    let (udp, _) = start(vec![upstream]).await;
    assert_eq!(addresses(&ask_udp(udp, &question("www.example.com.", RecordType::A)).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn the_next_server_is_asked_if_one_fails_or_is_silent() {
    let failing = upstream(|query| vec![Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::ServFail)]).await;
    let silent = upstream(|_| vec![]).await;
    let good = upstream(|query| reply(query, "192.0.2.1", 60)).await;
    let (udp, _) = start(vec![failing, silent, good]).await;
    assert_eq!(addresses(&ask_udp(udp, &question("www.example.com.", RecordType::A)).await), ["192.0.2.1"]);
    let (udp, _) = start(vec![]).await;
    let answer = ask_udp(udp, &question("www.example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "nobody to ask");
}

#[tokio::test]
async fn absence_upstream_is_passed_on_with_its_authority() {
    let upstream = upstream(|query| {
        let mut message = Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::NXDomain);
        message.queries = query.queries.clone();
        let name = |text| Name::from_ascii(text).expect("a name");
        let soa = SOA::new(name("ns.example."), name("h.example."), 1, 1, 1, 1, 60);
        message.authorities.push(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
        vec![message]
    })
    .await;
    let (udp, _) = start(vec![upstream]).await;
    let answer = ask_udp(udp, &question("absent.example.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.authorities.len()), (ResponseCode::NXDomain, 1));
}

fn code(core: &Core, message: &Message) -> Option<ResponseCode> {
    match core.step(&message.to_vec().expect("encoded")) {
        Step::Reply(reply) => Some(reply.metadata.response_code),
        Step::Forward { .. } | Step::Silence => None,
    }
}

#[test]
fn what_is_no_question_is_refused() {
    let core = core(vec![]);
    let name = "web.default.svc.cluster.local.";
    let mut notify = question(name, RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&core, &notify), Some(ResponseCode::NotImp));
    assert_eq!(code(&core, &question("cluster.local.", RecordType::AXFR)), Some(ResponseCode::Refused));
    let mut none = question(name, RecordType::A);
    none.queries.clear();
    assert_eq!(code(&core, &none), Some(ResponseCode::FormErr));
    let mut answer = question(name, RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(code(&core, &answer), None, "an answer gets no answer");
    let mut cut = question(name, RecordType::A).to_vec().expect("encoded");
    cut.truncate(20);
    assert!(matches!(core.step(&cut), Step::Reply(reply) if reply.metadata.response_code == ResponseCode::FormErr));
    assert!(matches!(core.step(&cut[..5]), Step::Silence));
}

#[test]
fn addresses_take_turns() {
    let core = core(vec![]);
    let first = || match core.step(&question("db.default.svc.cluster.local.", RecordType::A).to_vec().expect("encoded")) {
        Step::Reply(reply) => addresses(&reply)[0].clone(),
        _ => String::new(),
    };
    assert_ne!(first(), first());
}

proptest! {
    #[test]
    fn any_datagram_is_survived(bytes: Vec<u8>) {
        let core = core(vec![]);
        core.step(&bytes);
    }

    #[test]
    fn a_damaged_question_is_survived(damage in proptest::collection::vec((0usize..60, any::<u8>()), 1..6), cut in 12usize..80) {
        let core = core(vec![]);
        let mut bytes = question("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV).to_vec().expect("encoded");
        for (at, value) in damage {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        bytes.truncate(cut);
        if let Step::Reply(reply) = core.step(&bytes) {
            prop_assert!(encode(&reply, 512).is_some_and(|bytes| bytes.len() <= 512));
        }
    }
}

#[test]
fn a_shortage_passes_and_a_broken_socket_does_not() {
    let is = |error: Errno| is_shortage(&std::io::Error::from_raw_os_error(error.raw_os_error()));
    assert!(is(Errno::MFILE) && is(Errno::NFILE) && is(Errno::NOBUFS) && is(Errno::NOMEM));
    assert!(!is(Errno::BADF) && !is(Errno::INVAL));
}
