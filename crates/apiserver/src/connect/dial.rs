//! Connections to kubelets, pods and service endpoints: who may be dialled, and proof that it is who it should be.
//!
//! A node's addresses come from its status, which its kubelet writes, and a pod's likewise. Whoever controls one could point the API server, and
//! the credentials with which it calls kubelets, at itself or at the host's own services (CVE-2020-8562, CVE-2022-3294). Against that:
//! only literal addresses are dialled, never names; never loopback, link-local, multicast or unspecified ones, unless it is the address that this
//! server was told to advertise; and a kubelet must show a serving certificate of the cluster's authority whose subject is that very node, which
//! the certificate of the API server itself, or of another node, is not.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    body,
    callout::trust,
    pki::{Pki, PkiError},
};

/// For the TCP and TLS handshakes together. A kubelet is one or two round trips away; upstream dials with 30 s.
pub(crate) const DIAL_TIME_MAX: Duration = Duration::from_secs(10);

/// The name under which the API server calls kubelets; the bootstrap roles bind it to `system:kubelet-api-admin`.
const CLIENT_NAME: &str = "system:apiserver";

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{address} is not an address that the API server connects to")]
    Refused { address: IpAddr },
    #[error("connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("connect to {address}: no answer within {DIAL_TIME_MAX:?}")]
    TimedOut { address: SocketAddr },
    #[error("TLS with {address}")]
    Tls { address: SocketAddr, source: io::Error },
    #[error("{address} has a certificate for {found}, which is not node {node}")]
    WrongNode { address: SocketAddr, node: String, found: String },
    #[error("HTTP with {address}")]
    Http { address: SocketAddr, source: hyper::Error },
}

/// What all connections to the inside of the cluster share.
pub(crate) struct Dialer {
    kubelets: TlsConnector,
    unverified: TlsConnector,
    /// Loopback or link-local is dialled when it is this.
    advertised: IpAddr,
}

impl Dialer {
    pub(crate) fn new(pki: &Pki, advertised: IpAddr) -> Result<Self, PkiError> {
        let identity = pki.kubelet_client(CLIENT_NAME)?;
        let tls = |reason: String| PkiError::Tls { reason };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pki.ca_der().clone()).map_err(|error| tls(error.to_string()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_cert_resolver(identity);
        let unverified = trust::unverified().map_err(|error| tls(error.to_string()))?;
        Ok(Self { kubelets: TlsConnector::from(Arc::new(config)), unverified: TlsConnector::from(Arc::new(unverified)), advertised })
    }

    /// Sends one request to the kubelet of `node` on a connection of its own.
    ///
    /// The connection ends with the answer, or goes over to the tunnel if the kubelet agrees to the upgrade: no second request can follow a
    /// refused upgrade on it (CVE-2018-1002105).
    pub(crate) async fn kubelet(
        &self,
        node: &str,
        address: SocketAddr,
        request: Request<body::Incoming>,
    ) -> Result<Response<Incoming>, DialError> {
        // Boxed as `callout`'s are.
        let connected = Box::pin(async {
            let tcp = self.tcp(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            self.kubelets.connect(name, tcp).await.map_err(|source| DialError::Tls { address, source })
        });
        let stream = tokio::time::timeout(DIAL_TIME_MAX, connected).await.map_err(|_| DialError::TimedOut { address })??;
        let found = stream.get_ref().1.peer_certificates().and_then(|chain| common_name(chain.first()?)).unwrap_or_default();
        if found != format!("system:node:{node}") {
            return Err(DialError::WrongNode { address, node: node.to_owned(), found });
        }
        Box::pin(send(stream, address, request)).await
    }

    /// Sends one request to a pod over TLS, on a connection of its own. Pods have certificates for whatever they like, or none that anyone knows:
    /// nothing secret goes this way, and upstream looks at none either (kubelet/client, proxyTransport).
    pub(crate) async fn unverified(&self, address: SocketAddr, request: Request<body::Incoming>) -> Result<Response<Incoming>, DialError> {
        let connected = Box::pin(async {
            let tcp = self.tcp(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            self.unverified.connect(name, tcp).await.map_err(|source| DialError::Tls { address, source })
        });
        let stream = tokio::time::timeout(DIAL_TIME_MAX, connected).await.map_err(|_| DialError::TimedOut { address })??;
        Box::pin(send(stream, address, request)).await
    }

    /// Sends one request to a pod in plain HTTP, on a connection of its own.
    pub(crate) async fn plain(&self, address: SocketAddr, request: Request<body::Incoming>) -> Result<Response<Incoming>, DialError> {
        let stream = tokio::time::timeout(DIAL_TIME_MAX, self.tcp(address)).await.map_err(|_| DialError::TimedOut { address })??;
        Box::pin(send(stream, address, request)).await
    }

    /// A connection to an address that an object of the cluster gave.
    pub(crate) async fn tcp(&self, address: SocketAddr) -> Result<TcpStream, DialError> {
        if !may_dial(address.ip(), self.advertised) {
            return Err(DialError::Refused { address: address.ip() });
        }
        tcp(address).await
    }
}

/// A connection to an address that the operator gave.
pub(crate) async fn tcp(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect(address).await.map_err(|source| DialError::Connect { address, source })?;
    stream.set_nodelay(true).map_err(|source| DialError::Connect { address, source })?;
    Ok(stream)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    request: Request<body::Incoming>,
) -> Result<Response<Incoming>, DialError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|source| DialError::Http { address, source })?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%address, %error, "proxied connection");
        }
    });
    sender.send_request(request).await.map_err(|source| DialError::Http { address, source })
}

fn may_dial(address: IpAddr, advertised: IpAddr) -> bool {
    let address = address.to_canonical();
    if address == advertised {
        return !address.is_unspecified();
    }
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    crate::pki::common_name(certificate.subject()).map(str::to_owned)
}

/// An error with its sources in one line, for the Status that the client gets.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        // Some libraries repeat the source in their own message.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, advertised: &str, expected: bool) {
        assert_eq!(may_dial(address.parse().unwrap(), advertised.parse().unwrap()), expected, "{address} while advertising {advertised}");
    }

    #[test]
    fn the_hosts_own_addresses_are_not_dialled() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            check(address, "10.0.0.1", false);
        }
        for address in ["10.0.0.2", "192.168.1.1", "2001:db8::1", "8.8.8.8"] {
            check(address, "10.0.0.1", true);
        }
    }

    #[test]
    fn unless_it_is_the_advertised_one() {
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.2", "127.0.0.1", false);
        check("0.0.0.0", "0.0.0.0", false);
    }
}
