//! The server over real HTTP connections, driven by a WebSocket client library and by a SPDY client made of this module's own
//! frames. kubectl is the other judge, in the end-to-end tests.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::spdy::testing::{Client as SpdyClient, Event};
use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

/// A process that answers `> ` and what it was sent, line by line, and ends with code 3 at the end of its input.
struct Echo {
    streams: Streams,
    done: oneshot::Receiver<Ended>,
    sizes: Arc<Mutex<Vec<(u16, u16)>>>,
}

impl Session for Echo {
    fn take_streams(&mut self) -> Streams {
        std::mem::take(&mut self.streams)
    }

    async fn resize(&mut self, columns: u16, rows: u16) {
        self.sizes.lock().push((columns, rows));
    }

    async fn wait(&mut self) -> Ended {
        (&mut self.done).await.unwrap_or(Ended::Failed("lost".into()))
    }
}

fn echo(sizes: Arc<Mutex<Vec<(u16, u16)>>>, ended: Ended) -> Echo {
    let (stdin, mut input) = duplex(64);
    let (mut output, stdout) = duplex(64);
    let (mut errors, stderr) = duplex(64);
    let (tell, done) = oneshot::channel();
    tokio::spawn(async move {
        // With a terminal nobody reads it.
        let _ = errors.write_all(b"ready").await;
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = input.read(&mut buffer).await {
            output.write_all(&buffer[..count]).await.unwrap();
        }
        let _ = tell.send(ended);
    });
    let streams = Streams { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: Some(Box::new(stderr)) };
    Echo { streams, done, sizes }
}

/// Serves exec at `/exec`, attach at `/attach`, a failing exec at `/broken` and port-forward to an echo server elsewhere.
struct Server {
    address: SocketAddr,
    sizes: Arc<Mutex<Vec<(u16, u16)>>>,
}

async fn server(wanted: Wanted) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&sizes);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sizes = Arc::clone(&kept);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let sizes = Arc::clone(&sizes);
                async move {
                    Ok::<_, Infallible>(match request.uri().path() {
                        "/exec" => remote_command(request, wanted, move || async move { Ok(echo(sizes, Ended::Code(3))) }),
                        "/attach" => remote_command(request, wanted, move || async move { Ok(echo(sizes, Ended::Done)) }),
                        "/broken" => remote_command(request, wanted, move || async move { Err::<Echo, _>("no such file".to_owned()) }),
                        _ => port_forward(request, vec![80, 81], dial),
                    })
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    Server { address, sizes }
}

/// Port 80 echoes in capitals, 81 refuses.
async fn dial(port: u16) -> Result<DuplexStream, String> {
    if port != 80 {
        return Err("connection refused".to_owned());
    }
    let (ours, theirs) = duplex(1024);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(theirs);
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            buffer[..count].make_ascii_uppercase();
            if write.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    Ok(ours)
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn websocket(server: &Server, path: &str, protocol: &str) -> Socket {
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol.split(',').next().unwrap());
    socket
}

/// Everything that comes until the close, by channel.
async fn collect(socket: &mut Socket) -> HashMap<u8, Vec<u8>> {
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    let all = async {
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Binary(bytes) => channels.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]),
                Message::Text(text) => channels.entry(text.as_bytes()[0]).or_default().extend_from_slice(&text.as_bytes()[1..]),
                Message::Close(_) => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the server closes the connection");
    channels
}

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const EXIT_3: &str = r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit status 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#;

#[tokio::test]
async fn websocket_v5_ends_the_input_and_tells_the_exit_code() {
    let server = server(ALL).await;
    let mut socket = websocket(&server, "/exec", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let channels = collect(&mut socket).await;
    assert_eq!(channels[&1], b"hello");
    assert_eq!(channels[&2], b"ready");
    assert_eq!(String::from_utf8_lossy(&channels[&3]), EXIT_3);
}

#[tokio::test]
async fn more_input_than_any_buffer_flows_through() {
    let server = server(ALL).await;
    let socket = websocket(&server, "/exec", "v5.channel.k8s.io,v4.channel.k8s.io").await;
    let (mut sink, mut stream) = socket.split();
    let sender = tokio::spawn(async move {
        let mut message = vec![b'x'; 100_001];
        message[0] = 0;
        for _ in 0..20 {
            sink.send(Message::binary(message.clone())).await.unwrap();
        }
        sink.send(Message::binary(vec![255, 0])).await.unwrap();
    });
    let mut bytes = 0;
    while let Some(Ok(message)) = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap() {
        if let Message::Binary(message) = message
            && message[0] == 1
        {
            bytes += message.len() - 1;
        }
    }
    sender.await.unwrap();
    assert_eq!(bytes, 2_000_000);
}

#[tokio::test]
async fn websocket_base64_and_text_status() {
    let server = server(ALL).await;
    let mut socket = websocket(&server, "/broken", "v4.base64.channel.k8s.io").await;
    let channels = collect(&mut socket).await;
    assert_eq!(channels[&b'1'], b"", "the first message says that the connection stands");
    use base64::Engine as _;
    let status = base64::engine::general_purpose::STANDARD.decode(&channels[&b'3']).unwrap();
    assert!(String::from_utf8(status).unwrap().contains(r#""message":"no such file""#));
    let mut socket = websocket(&server, "/broken", "channel.k8s.io").await;
    assert_eq!(collect(&mut socket).await[&3], b"no such file");
}

#[tokio::test]
async fn a_terminal_is_resized_and_has_no_stderr() {
    let server = server(Wanted { tty: true, ..ALL }).await;
    let mut socket = websocket(&server, "/attach", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\x04{\"Width\":120,\"Height\":40}".to_vec())).await.unwrap();
    // What a client sends whose own terminal has no size.
    socket.send(Message::binary(b"\x04{\"Width\":0,\"Height\":0}".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\x00x".to_vec())).await.unwrap();
    let echoed = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.into_data().as_ref() == b"\x01x" {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, echoed).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let channels = collect(&mut socket).await;
    assert_eq!(channels[&3], br#"{"metadata":{},"status":"Success"}"#);
    assert!(!channels.contains_key(&2));
    assert_eq!(*server.sizes.lock(), [(120, 40)]);
}

/// The HTTP part of a SPDY request by hand; what follows is frames.
async fn upgrade(server: &Server, path: &str, protocol: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: spdy/3.1") && head.contains(&format!("x-stream-protocol-version: {protocol}")), "{head}");
    stream
}

#[tokio::test]
async fn spdy_exec() {
    let server = server(ALL).await;
    let mut client = SpdyClient::new(upgrade(&server, "/exec", "v4.channel.k8s.io").await);
    let error = client.open(&[("streamtype", "error")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let unasked = client.open(&[("streamtype", "resize")]).await;
    let stderr = client.open(&[("streamtype", "stderr")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    client.data(stdin, b"over spdy", false).await;
    client.data(stdin, b"", true).await;
    client.ping(7).await;
    let seen = tokio::time::timeout(DEADLINE, client.until_end()).await.expect("the server ends the connection");
    assert_eq!(seen.data(stdout), (b"over spdy".to_vec(), true));
    assert_eq!(seen.data(stderr), (b"ready".to_vec(), true));
    assert_eq!(String::from_utf8(seen.data(error).0).unwrap(), EXIT_3);
    assert!(seen.events.contains(&Event::Reset(unasked)));
    assert!(seen.events.contains(&Event::Ping(7)));
    assert!(seen.events.contains(&Event::GoAway));
    for stream in [error, stdout, stderr, stdin] {
        assert!(seen.events.contains(&Event::Reply(stream)));
    }
}

/// Two connections at once, one of them to a port that refuses.
async fn check_forward<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(transport: T) {
    let mut client = SpdyClient::new(transport);
    let mut pair = async |id: &str, port: &str| {
        let error = client.open(&[("streamtype", "error"), ("port", port), ("requestid", id)]).await;
        client.data(error, b"", true).await;
        (error, client.open(&[("streamtype", "data"), ("port", port), ("requestid", id)]).await)
    };
    let (error, data) = pair("0", "80").await;
    let (refused_error, refused_data) = pair("1", "81").await;
    client.data(data, b"hello", true).await;
    client.data(refused_data, b"", true).await;
    let seen =
        tokio::time::timeout(DEADLINE, client.until(|seen| [error, data, refused_error, refused_data].iter().all(|id| seen.data(*id).1)))
            .await
            .expect("all streams end");
    assert_eq!(seen.data(data).0, b"HELLO");
    assert_eq!(seen.data(error).0, b"");
    assert_eq!(seen.data(refused_error).0, b"error forwarding port 81: connection refused");
}

#[tokio::test]
async fn spdy_port_forward() {
    let server = server(ALL).await;
    check_forward(upgrade(&server, "/forward", "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn port_forward_tunnelled_through_a_websocket() {
    let server = server(ALL).await;
    let socket = websocket(&server, "/forward", "SPDY/3.1+portforward.k8s.io").await;
    // The bytes of the messages as one stream, on the client's side.
    let (ours, theirs) = duplex(64 << 10);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1000];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            sink.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            write.write_all(&bytes).await.unwrap();
        }
    });
    check_forward(ours).await;
}

#[tokio::test]
async fn port_forward_by_websocket_channels() {
    let server = server(ALL).await;
    let mut socket = websocket(&server, "/forward", "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\x00abc".to_vec())).await.unwrap();
    let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
    let all = async {
        while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
            channels.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
            if channels.get(&0).is_some_and(|bytes| bytes.len() == 5) && channels.get(&3).is_some_and(|bytes| bytes.len() > 2) {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap();
    assert_eq!(channels[&0], b"\x50\x00ABC");
    assert_eq!(channels[&1], b"\x50\x00");
    assert_eq!(channels[&3], b"\x51\x00error forwarding port 81: connection refused");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_session() {
    struct Watched(Echo, Option<oneshot::Sender<()>>);
    impl Drop for Watched {
        fn drop(&mut self) {
            let _ = self.1.take().map(|sender| sender.send(()));
        }
    }
    impl Session for Watched {
        fn take_streams(&mut self) -> Streams {
            self.0.take_streams()
        }
        async fn resize(&mut self, columns: u16, rows: u16) {
            self.0.resize(columns, rows).await;
        }
        async fn wait(&mut self) -> Ended {
            self.0.wait().await
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dropped, gone) = oneshot::channel();
    let dropped = Arc::new(Mutex::new(Some(dropped)));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let dropped = dropped.lock().take();
            async move {
                let start = move || async move { Ok(Watched(echo(Arc::default(), Ended::Done), dropped)) };
                Ok::<_, Infallible>(remote_command(request, ALL, start))
            }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    });
    let server = Server { address, sizes: Arc::default() };
    let mut socket = websocket(&server, "/exec", "v4.channel.k8s.io").await;
    // The first message: the session has begun or is about to.
    socket.next().await.unwrap().unwrap();
    let ready = async { while !socket.next().await.unwrap().unwrap().into_data().starts_with(b"\x02") {} };
    tokio::time::timeout(DEADLINE, ready).await.unwrap();
    drop(socket);
    tokio::time::timeout(DEADLINE, gone).await.expect("the session is dropped").unwrap();
}

#[tokio::test]
async fn output_held_open_by_a_background_process_does_not_hold_the_client() {
    let (held, stdout) = duplex(64);
    struct Ends(Streams);
    impl Session for Ends {
        fn take_streams(&mut self) -> Streams {
            std::mem::take(&mut self.0)
        }
        async fn resize(&mut self, _: u16, _: u16) {}
        async fn wait(&mut self) -> Ended {
            Ended::Code(0)
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let session = Arc::new(Mutex::new(Some(Ends(Streams { stdin: None, stdout: Some(Box::new(stdout)), stderr: None }))));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let session = session.lock().take().unwrap();
            let start = move || async move { Ok(session) };
            let response = remote_command(request, Wanted { stdout: true, ..Wanted::default() }, start);
            async move { Ok::<_, Infallible>(response) }
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    });
    let server = Server { address, sizes: Arc::default() };
    let mut held = held;
    held.write_all(b"last words").await.unwrap();
    let mut socket = websocket(&server, "/exec", "v4.channel.k8s.io").await;
    let channels = collect(&mut socket).await;
    assert_eq!(channels[&1], b"last words");
    assert_eq!(channels[&3], br#"{"metadata":{},"status":"Success"}"#);
    drop(held);
}
