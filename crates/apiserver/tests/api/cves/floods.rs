//! Many requests, streams and connections: memory stays flat, and others are served.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{PATIENCE, in_time, resident};
use crate::{kit::Cluster, transport::connect};

/// Junk requests. `./x bench junk` sends a million.
const JUNK: u64 = 10_000;
/// What memory may grow by after the first requests have filled what is kept for the next: pools of the allocator, tables of metrics. Only what leaves
/// more than a kilobyte for each is seen.
const DRIFT_BYTES_MAX: i64 = 16 << 20;
/// Connections that send junk at once, and requests on each that wait for answers.
const CONNECTIONS: u64 = 4;
const AT_ONCE: usize = 16;

/// CVE-2020-8552: each odd request left something behind, a series of metrics or a log line's cache.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_requests_leave_memory_flat() {
    let cluster = Cluster::start().await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let warm = JUNK / 4;
    flood(&cluster, &identity, 0..warm).await;
    let before = resident();
    flood(&cluster, &identity, warm..warm + JUNK).await;
    let grown = resident() - before;
    assert!(grown < DRIFT_BYTES_MAX, "{JUNK} junk requests left {grown} bytes");
    let admin = cluster.admin();
    let page = admin.get("/metrics").await;
    let series = String::from_utf8_lossy(&page.bytes).lines().filter(|line| line.starts_with("apiserver_request_total{")).count();
    assert!(series < 200, "{series} series, though all requests are of a few sorts");
    cluster.server.shutdown().await;
}

async fn flood(cluster: &Cluster, identity: &knarr_apiserver::pki::Identity, numbers: std::ops::Range<u64>) {
    use futures::StreamExt;
    let share = (numbers.end - numbers.start) / CONNECTIONS;
    let connections = (0..CONNECTIONS).map(async |index| {
        let stream = connect(cluster, Some(identity), b"h2").await;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let first = numbers.start + index * share;
        futures::stream::iter(first..first + share)
            .for_each_concurrent(AT_ONCE, |number| {
                let mut sender = sender.clone();
                async move {
                    let response = sender.send_request(odd(number)).await.expect("an answer");
                    let status = response.status();
                    assert!(status.is_client_error(), "{number}: {status}");
                    response.into_body().collect().await.expect("a whole answer");
                }
            })
            .await;
        drop(sender);
        connection.await.unwrap().ok();
    });
    futures::future::join_all(connections).await;
}

/// A request that no client means, each another.
fn odd(number: u64) -> Request<Full<Bytes>> {
    let random = fastrand::u64(..);
    let (method, path, media, body) = match number % 10 {
        0 => (Method::GET, format!("/{random:x}/{number}"), "", String::new()),
        1 => (Method::GET, format!("/apis/g{random:x}.example.com/v1/things"), "", String::new()),
        2 => (Method::GET, format!("/api/v1/namespaces/n{random:x}/r{number}/x/sub{random:x}"), "", String::new()),
        3 => (Method::POST, "/api/v1/namespaces/default/configmaps".to_owned(), "application/json", format!("{{\"k{random:x}\": [[[")),
        4 => {
            (Method::POST, format!("/api/v1/namespaces/default/pods?q{random:x}={number}"), "application/yaml", format!("a{random:x}: *b"))
        }
        5 => (Method::GET, format!("/api/v1/pods?labelSelector=k{random:x}+in+({number}"), "", String::new()),
        6 => (Method::GET, format!("/api/v1/pods?fieldSelector=f{random:x}%3D{number}"), "", String::new()),
        7 => (Method::from_bytes(format!("M{random:X}").as_bytes()).unwrap(), format!("/api/v1/pods/{random:x}"), "", String::new()),
        8 => (Method::PATCH, format!("/api/v1/nodes/n{random:x}"), "application/merge-patch+json", "{}".to_owned()),
        _ => (Method::GET, format!("/openapi/v3/apis/g{random:x}/v{number}?hash={random:x}"), "", String::new()),
    };
    let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
    request = request.header("user-agent", format!("agent-{random:x}")).header("audit-id", format!("id-{random:x}"));
    if !media.is_empty() {
        request = request.header("content-type", media);
    }
    request.body(Full::from(body)).unwrap()
}

/// Frames of HTTP/2 as bytes (RFC 9113): a client library would not send these.
mod frames {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// GET https://localhost`path`, without Huffman codes (RFC 7541): indexed method and scheme, literal path and authority.
    pub(super) fn get(path: &str) -> Vec<u8> {
        let literal = |index: u8, text: &str| [&[index, text.len() as u8], text.as_bytes()].concat();
        [vec![0x82, 0x87], literal(4, path), literal(1, "localhost")].concat()
    }
}

/// Requests that are being served now, as the metrics tell.
async fn in_flight(cluster: &Cluster) -> i64 {
    let page = cluster.admin().get("/metrics").await;
    let page = String::from_utf8_lossy(&page.bytes).into_owned();
    let line = page.lines().find_map(|line| line.strip_prefix("apiserver_current_inflight_requests ")).expect("the gauge");
    line.parse().expect("a number")
}

/// CVE-2023-44487: streams opened and reset at once cost the server a request each, and the client nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_reset_at_once_end_the_connection_and_leave_nothing() {
    let cluster = Cluster::start().await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let before = resident();
    let mut closed = 0;
    for _ in 0..20 {
        let mut stream = connect(&cluster, Some(&identity), b"h2").await;
        stream.write_all(&[frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let mut burst = Vec::new();
        for number in 0..10_000_u32 {
            let id = number * 2 + 1;
            let open = frames::END_STREAM | frames::END_HEADERS;
            burst.extend(frames::frame(frames::HEADERS, open, id, &frames::get("/api/v1/pods?watch=true")));
            burst.extend(frames::frame(frames::RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        }
        // The server may close while this is still being written: that is what it shall do.
        let written = stream.write_all(&burst).await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        closed += usize::from(written.is_err() || read.is_ok());
    }
    assert_eq!(closed, 20, "connections that were closed");
    let begun = Instant::now();
    cluster.admin().get("/api/v1/namespaces").await.expect(200);
    in_time(begun, "another client's request");
    while in_flight(&cluster).await > 1 {
        in_time(begun, "the end of the requests that were reset");
        tokio::task::yield_now().await;
    }
    let grown = resident() - before;
    assert!(grown < DRIFT_BYTES_MAX * 4, "200,000 streams left {grown} bytes");
}

/// The same class (CVE-2024-27316 and others): headers that never end, and pings whose answers are never read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_and_unread_pings_end_the_connection() {
    let cluster = Cluster::start().await;
    let before = resident();
    let mut stream = connect(&cluster, None, b"h2").await;
    stream.write_all(&[frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream.write_all(&frames::frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get("/version"))).await.unwrap();
    let literal = [&[0, 1, b'x', 127, 0x81, 0x7d][..], &[b'y'; 16_000]].concat();
    let more = frames::frame(frames::CONTINUATION, 0, 1, &literal);
    let begun = Instant::now();
    while stream.write_all(&more).await.is_ok() {
        in_time(begun, "closing a connection whose headers never end");
    }
    let mut stream = connect(&cluster, None, b"h2").await;
    stream.write_all(&[frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let pings = frames::frame(frames::PING, 0, 0, &[7; 8]).repeat(1000);
    // Either it closes or it reads no more while its answers are not taken.
    let _ = tokio::time::timeout(Duration::from_secs(2), async { while stream.write_all(&pings).await.is_ok() {} }).await;
    let grown = resident() - before;
    assert!(grown < DRIFT_BYTES_MAX * 4, "{grown} bytes");
    cluster.admin().get("/version").await.expect(200);
}

/// Requests that are dropped while they run are not counted as running for ever.
#[tokio::test]
async fn a_client_that_leaves_is_no_request_in_flight() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // A kubelet that takes connections and says nothing: whoever asks for logs waits.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    crate::kubelet::node_and_pod(&admin, silent.local_addr().unwrap()).await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let stream = connect(&cluster, Some(&identity), b"h2").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("https://localhost/api/v1/namespaces/default/pods/p/log").body(Full::<Bytes>::default()).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    let (_held, _) = silent.accept().await.unwrap();
    assert_eq!(in_flight(&cluster).await, 2, "this question, and the one that waits");
    answer.abort();
    connection.abort();
    let begun = Instant::now();
    while in_flight(&cluster).await > 1 {
        in_time(begun, "forgetting a client that left");
        tokio::task::yield_now().await;
    }
}
