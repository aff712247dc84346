//! Clients that take their time: each costs a bounded time and a bounded memory, and others are served.
//!
//! The clock is stopped once a client does nothing more: it then jumps to whatever ends the wait.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_apiserver::pki::Identity;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::resident;
use crate::{
    kit::{CONFIG_MAPS, Cluster},
    transport::connect,
};

/// More than the server gives anyone: headers have half a minute, a request a minute, and an answer that is not taken one more, or three
/// over HTTP/2.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(250);

fn administrator(cluster: &Cluster) -> Identity {
    cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap()
}

/// Sends the bytes and nothing more: what is answered until the server closes.
async fn answer_to(cluster: &Cluster, protocol: &[u8], bytes: &[u8]) -> String {
    let mut stream = connect(cluster, Some(&administrator(cluster)), protocol).await;
    stream.write_all(bytes).await.unwrap();
    tokio::time::pause();
    let begun = Instant::now();
    let mut answer = Vec::new();
    // A connection that is cut ends with an error of TLS.
    let read = tokio::time::timeout(GIVEN_UP_AFTER, stream.read_to_end(&mut answer)).await;
    let took = begun.elapsed();
    tokio::time::resume();
    assert!(read.is_ok(), "the connection was still open after {took:?}");
    cluster.admin().get("/version").await.expect(200);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_asks_nothing_is_hung_up_on() {
    let cluster = Cluster::start().await;
    assert_eq!(answer_to(&cluster, b"http/1.1", b"").await, "");
    answer_to(&cluster, b"h2", b"").await;
    answer_to(&cluster, b"h2", b"PRI * HTTP/2.0\r\n").await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let cluster = Cluster::start().await;
    answer_to(&cluster, b"http/1.1", b"GET /version HTTP/1.1\r\nhost: localhost\r\nx-more: ").await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let cluster = Cluster::start().await;
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{\"metadata\":"
    );
    let answer = answer_to(&cluster, b"http/1.1", head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
}

/// Objects so large, and so many, that no socket takes them all.
const OBJECT_BYTES: usize = 256 << 10;
const OBJECTS: usize = 160;

async fn large_objects(cluster: &Cluster) {
    let admin = cluster.admin();
    for index in 0..OBJECTS {
        let object = json!({"metadata": {"name": format!("large-{index}")}, "data": {"x": "x".repeat(OBJECT_BYTES)}});
        admin.post(CONFIG_MAPS, &object).await.expect(201);
    }
}

#[tokio::test]
async fn a_list_that_is_not_taken_is_given_up() {
    let cluster = Cluster::start().await;
    large_objects(&cluster).await;
    let identity = administrator(&cluster);
    let before = resident();
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&cluster, Some(&identity), b"http/1.1").await;
        stream.write_all(format!("GET {CONFIG_MAPS} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        // The answer has begun.
        stream.read_exact(&mut [0; 1]).await.unwrap();
        streams.push(stream);
    }
    cluster.admin().get("/version").await.expect(200);
    let grown = resident() - before;
    assert!(grown < (OBJECT_BYTES * OBJECTS) as i64, "ten lists that nobody reads hold {grown} bytes");
    tokio::time::pause();
    tokio::time::sleep(GIVEN_UP_AFTER).await;
    tokio::time::resume();
    for mut stream in streams {
        let mut rest = Vec::new();
        let _cut = stream.read_to_end(&mut rest).await;
        assert!(rest.len() < OBJECT_BYTES * OBJECTS, "the whole list was kept for its reader");
    }
}

/// HTTP/2 has windows of its own: who gives none, or a small one, may read and answer pings for ever.
#[tokio::test]
async fn answers_without_a_window_are_given_up_though_pings_are_answered() {
    let cluster = Cluster::start().await;
    cluster.admin().config_map("small", json!({})).await;
    let small = format!("{CONFIG_MAPS}/small");
    large_objects(&cluster).await;
    let large = format!("{CONFIG_MAPS}/large-0");
    let watch = format!("{CONFIG_MAPS}?watch=1");
    let quiet = format!(
        "{watch}&fieldSelector=metadata.name%3Dnone&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    for (window, path, cut) in [
        (0, &*small, true),
        (0, CONFIG_MAPS, true),
        (1, &*large, true),
        (1, CONFIG_MAPS, true),
        (100_000, CONFIG_MAPS, true),
        (100_000, &*watch, true),
        // Nothing is on its way here.
        (100_000, &*quiet, false),
    ] {
        let stream = connect(&cluster, Some(&administrator(&cluster)), b"h2").await;
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = client.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get(format!("https://localhost{path}")).body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        tokio::time::pause();
        let over = tokio::time::timeout(GIVEN_UP_AFTER, connection).await.is_ok();
        tokio::time::resume();
        assert_eq!(over, cut, "{path} with a window of {window}");
        drop(answer);
    }
}

/// Twenty watches over two protocols, of which nothing is read, while everything that they would show is written.
#[tokio::test]
async fn watches_that_are_not_taken_cost_no_more_than_their_sockets() {
    let cluster = Cluster::start().await;
    let identity = administrator(&cluster);
    let path = format!("{CONFIG_MAPS}?watch=true");
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&cluster, Some(&identity), b"http/1.1").await;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
        held.push(stream);
    }
    let stream = connect(&cluster, Some(&identity), b"h2").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..10 {
        let request = Request::get(format!("https://localhost{path}")).body(Full::<Bytes>::default()).unwrap();
        unread.push(sender.send_request(request).await.unwrap());
    }
    let before = resident();
    large_objects(&cluster).await;
    cluster.admin().get("/version").await.expect(200);
    let grown = resident() - before;
    // The store holds each object, and its history each event; twenty copies of them would be 800 MiB.
    assert!(grown < 8 * (OBJECT_BYTES * OBJECTS) as i64, "twenty watches that nobody reads hold {grown} bytes");
    drop((held, unread));
}
