//! Sockets: accept, TLS, HTTP/1.1 and HTTP/2, and an orderly end.
//!
//! A connection costs something before anyone is authenticated, so everything about it is bounded: how many there are, how long the
//! handshake and the headers may take, how large headers are, how many streams it carries and how many of them may be reset (CVE-2023-44487).

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    stall::{Answering, Answers, Patience, Stalling},
};

/// Connections at once. Each costs two sockets' worth of kernel memory and about 50 KiB for TLS and HTTP state.
const CONNECTIONS_MAX: usize = 10_000;
/// From accept to the end of the TLS handshake. Go's server, which upstream uses, gives 10 s too (net/http, tlsHandshakeTimeout by default).
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// For all headers of an HTTP/1 request, and until the first request of a connection, whatever its protocol: upstream's ReadHeaderTimeout
/// (server/secure_serving.go).
const HEADER_TIME_MAX: Duration = Duration::from_secs(32);
/// Bytes of an HTTP/1 head or an HTTP/2 header list: Go's DefaultMaxHeaderBytes.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Requests that one HTTP/2 connection may have open: upstream's default (server/options/serving.go).
const STREAMS_MAX: u32 = 100;
/// HTTP/2 streams that a client may open and reset before any was answered; after that the connection is closed.
const RESETS_MAX: usize = 100;
/// Bytes in flight on one HTTP/2 connection towards us: upstream's window for uploads (secure_serving.go).
const WINDOW_BYTES: u32 = 256 << 10;
/// A connection whose peer does not answer a ping is dead. Watches would otherwise stay for ever on it.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIME_MAX: Duration = Duration::from_secs(15);
/// Stopping waits this long for requests to end.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Where a request came from: goes with each as an extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

impl PeerAddress {
    /// None for a component of this process.
    pub(crate) fn of(extensions: &http::Extensions) -> Option<IpAddr> {
        extensions.get().map(|PeerAddress(address)| address.ip())
    }
}

/// What answers requests.
pub(crate) trait Serve: Clone + Send + Sync + 'static {
    /// What is known of a client from its connection.
    type Peer: Clone + Send + Sync + 'static;

    /// `chain` is what the client showed in the TLS handshake, the leaf first; nothing of it has been verified but that the client has the key.
    fn peer(&self, chain: &[CertificateDer<'_>]) -> Self::Peer;

    fn serve(&self, request: Request<Incoming>, peer: Self::Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// Lets clients with any certificate in, as long as they have its key. Who they are is decided afterwards.
#[derive(Debug)]
pub(crate) struct AnyClient(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// One bound socket.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves `listener` until `stop`, and then until its connections are done or the time for that is over.
pub(crate) async fn run(listener: TcpListener, tls: Arc<rustls::ServerConfig>, serve: impl Serve, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer left already. The next accept waits for a socket, and so does not spin on the latter.
                tracing::warn!(%error, "accept a connection");
                tokio::task::yield_now().await;
                continue;
            }
        };
        connections.spawn(connect(acceptor.clone(), stream, address, place, serve.clone(), stop.clone()));
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIME_MAX, ended).await.is_err() {
        tracing::info!(open = connections.len(), "closing connections that are still open");
        connections.shutdown().await;
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // The peer of a tunnel or a quiet watch may vanish without a word, and HTTP/1 has no pings.
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, PING_EVERY)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, PING_TIME_MAX)?;
    Ok((stream, address, place))
}

async fn connect(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    serve: impl Serve,
    stop: CancellationToken,
) {
    let patience = Patience::default();
    let stream = Stalling::new(stream, place, patience.clone());
    let stream = match tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "TLS handshake");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    let peer = serve.peer(stream.get_ref().1.peer_certificates().unwrap_or_default());
    let (asked, answers) = (CancellationToken::new(), Answers::default());
    let (first, tracked) = (asked.clone(), answers.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let (serve, peer, patience) = (serve.clone(), peer.clone(), patience.clone());
        first.cancel();
        request.extensions_mut().insert(PeerAddress(address));
        // HTTP/2 has the host in its :authority.
        if let Some(host) = request.uri().authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok()) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        let tracked = (request.version() == Version::HTTP_2).then(|| tracked.clone());
        async move {
            let answer = serve.serve(request, peer).await;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                patience.without_end();
            }
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, tracked)))
        }
    });
    let mut rare = rarely(stop, asked, answers);
    let builder = http();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let done = tokio::select! {
        biased;
        done = connection.as_mut() => done,
        Some(rare) = rare.next() => match rare {
            Rare::Stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            Rare::Silent => {
                tracing::debug!(%address, "nothing was asked for {HEADER_TIME_MAX:?}");
                return;
            }
            Rare::Stalled => {
                tracing::debug!(%address, "a piece of an answer was on its way for too long");
                return;
            }
        },
    };
    if let Err(error) = done {
        tracing::debug!(%address, %error, "connection");
    }
}

/// What ends a connection from our side.
enum Rare {
    Stop,
    Silent,
    Stalled,
}

/// In a set of its own, which looks at it only when it is woken: a connection is polled for each request, and would each time take the locks
/// behind these, one of which all connections share.
fn rarely(stop: CancellationToken, asked: CancellationToken, answers: Answers) -> FuturesUnordered<impl Future<Output = Rare>> {
    FuturesUnordered::from_iter([async move {
        tokio::select! {
            () = stop.cancelled() => Rare::Stop,
            () = silence(&asked) => Rare::Silent,
            () = answers.stalled() => Rare::Stalled,
        }
    }])
}

/// Ends when a connection has been there too long without a request: the protocols' own limits begin with what shows which of them it is.
async fn silence(asked: &CancellationToken) {
    if tokio::time::timeout(HEADER_TIME_MAX, asked.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME_MAX).max_buf_size(HEADER_BYTES_MAX).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME_MAX);
    builder
}
