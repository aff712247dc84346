//! What a lifecycle hook or a probe does: run a program, ask over HTTP, connect, ask over gRPC, or wait.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_runtime::Runtime;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Bytes of an answer that are read: enough for a message (upstream: maxRespBodyLength, 10 KiB).
const ANSWER_BYTES_MAX: usize = 10 * 1024;
/// Bytes of a program's output that are kept for a message (upstream: maxReadLength, 10 KiB).
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Where a container can be reached.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) container: &'a Container,
    pub(crate) container_id: &'a str,
    pub(crate) pod_ip: Option<IpAddr>,
}

/// The answer was no, or there was none. The text is for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) String);

impl Failed {
    fn from(error: impl std::error::Error) -> Failed {
        Failed(crate::image::chain(&error))
    }
}

/// Runs a postStart or preStop hook.
pub(crate) async fn run(hook: &LifecycleHandler, target: &Target<'_>) -> Result<(), Failed> {
    if let Some(it) = &hook.exec {
        return exec(it, None, target).await;
    }
    if let Some(it) = &hook.http_get {
        return http_get(it, target).await;
    }
    if let Some(it) = &hook.tcp_socket {
        return tcp(it.host.as_deref(), &it.port, target).await;
    }
    if let Some(it) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(it.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

pub(crate) async fn exec(action: &ExecAction, timeout: Option<Duration>, target: &Target<'_>) -> Result<(), Failed> {
    let argv = action.command.clone().unwrap_or_default();
    match target.runtime.exec_sync(target.container_id, argv, timeout, OUTPUT_BYTES_MAX).await {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Err(Failed(text))
        }
        Err(error) => Err(Failed::from(error)),
    }
}

/// The number of a port given by number or by the container's own name for it.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, Failed> {
    let number = match port {
        IntOrString::Int(it) => Some(*it),
        IntOrString::String(name) => (container.ports.iter().flatten())
            .find(|it| it.name.as_deref() == Some(name))
            .map(|it| it.container_port)
            .or_else(|| name.parse().ok()),
    };
    let number = number.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
    number.ok_or_else(|| Failed(format!("invalid port: {port:?}")))
}

async fn connect(host: Option<&str>, port: u16, target: &Target<'_>) -> Result<(TcpStream, String), Failed> {
    let host = match (host.filter(|it| !it.is_empty()), target.pod_ip) {
        (Some(host), _) => host.to_owned(),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => return Err(Failed("the pod has no address yet".into())),
    };
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let stream = stream.map_err(|error| Failed(format!("dial tcp {host}:{port}: {error}")))?;
    // Thousands of probes would else leave their sockets in TIME_WAIT (upstream does the same).
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "probe socket");
    }
    Ok((stream, host))
}

pub(crate) async fn tcp(host: Option<&str>, number: &IntOrString, target: &Target<'_>) -> Result<(), Failed> {
    let number = port(number, target.container)?;
    connect(host, number, target).await.map(|_| ())
}

pub(crate) async fn http_get(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), Failed> {
    let number = port(&action.port, target.container)?;
    let (stream, host) = connect(action.host.as_deref(), number, target).await?;
    let path = match action.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let mut request =
        http::Request::get(&path).header("user-agent", "kube-probe/1.37").header("accept", "*/*").header("connection", "close");
    let mut own_host = false;
    for header in action.http_headers.iter().flatten() {
        own_host |= header.name.eq_ignore_ascii_case("host");
        request = request.header(&header.name, &header.value);
    }
    if !own_host {
        request = request.header("host", format!("{bracketed}:{number}"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(Failed::from)?;
    let (status, body) = if action.scheme.as_deref() == Some("HTTPS") {
        let name = ServerName::try_from(host).map_err(Failed::from)?;
        let stream = tokio_rustls::TlsConnector::from(anyone()).connect(name, stream).await.map_err(Failed::from)?;
        ask(stream, request).await?
    } else {
        ask(stream, request).await?
    };
    // A redirect counts as success, and is not followed: the pod could lead the node anywhere.
    if status.is_success() || status.is_redirection() {
        return Ok(());
    }
    tracing::trace!(%status, ?body, "probe");
    Err(Failed(format!("HTTP probe failed with statuscode: {}", status.as_u16())))
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<(http::StatusCode, Bytes), Failed> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failed::from)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(Failed::from)?;
        let status = response.status();
        // What does not fit is not read; the status alone decides.
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map(|it| it.to_bytes()).unwrap_or_default();
        Ok((status, body))
    };
    driven(connection, exchange).await
}

/// Runs an exchange and the connection under it. A server that closes after its answer ends the connection before the exchange has
/// seen that answer, so the end of the one says nothing: if there was no answer, the exchange itself fails.
async fn driven<T, E>(
    connection: impl Future<Output = Result<(), E>>,
    exchange: impl Future<Output = Result<T, Failed>>,
) -> Result<T, Failed> {
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

/// `grpc.health.v1.Health/Check`, written by hand: the request is one string field, the answer one enumeration.
pub(crate) async fn grpc(action: &GRPCAction, target: &Target<'_>) -> Result<(), Failed> {
    const SERVING: u64 = 1;
    let number = u16::try_from(action.port).map_err(Failed::from)?;
    let (stream, host) = connect(None, number, target).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(Failed::from)?;
    let request = http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", authority(&host, number)))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(health_request(action.service.as_deref().unwrap_or_default())))
        .map_err(Failed::from)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(Failed::from)?;
        let early = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failed(error.to_string()))?;
        let code = early.or_else(|| body.trailers().and_then(|it| it.get("grpc-status").cloned()));
        match code.as_ref().and_then(|it| it.to_str().ok()) {
            Some("0") | None => {}
            Some(code) => return Err(Failed(format!("service unhealthy: gRPC status {code}"))),
        }
        match health_status(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            status => Err(Failed(format!("service unhealthy (responded with {:?})", status.unwrap_or(0)))),
        }
    };
    driven(connection, exchange).await
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A gRPC frame (flag, length) around `HealthCheckRequest{service = 1}`. Names are far below the 127 bytes of a short length;
/// longer ones take the second byte.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// The `status = 1` of a framed `HealthCheckResponse`; unset means 0, unknown.
fn health_status(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, rest @ ..] => {
            let mut value = 0;
            for (index, byte) in rest.iter().take(10).enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * index).min(63);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        }
        _ => None,
    }
}

/// TLS without proof of the other side, as upstream's probes: pods serve self-signed certificates, and nothing secret is sent.
fn anyone() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring offers the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers and closes at once, as nginx does when asked to.
    #[tokio::test]
    async fn an_answer_counts_though_the_connection_is_closed_with_it() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
            }
        });
        for _ in 0..50 {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let request = http::Request::get("/").header("host", "x").header("connection", "close").body(Empty::new()).unwrap();
            assert_eq!(ask(stream, request).await.unwrap().0, http::StatusCode::OK);
        }
    }

    #[test]
    fn ports_go_by_number_or_name() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "web", "ports": [{"name": "http", "containerPort": 8080}]
        }))
        .unwrap();
        assert_eq!(port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(port(&IntOrString::String("http".into()), &container), Ok(8080));
        assert_eq!(port(&IntOrString::String("81".into()), &container), Ok(81));
        assert!(port(&IntOrString::String("no".into()), &container).is_err());
        assert!(port(&IntOrString::Int(70_000), &container).is_err());
    }

    #[test]
    fn health_messages_are_framed_protobuf() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(health_status(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(health_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(health_status(&[0, 0]), None);
    }
}
