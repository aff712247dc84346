//! Whose certificate is accepted: one of the authorities', or one that is itself among them.
//!
//! Go takes a certificate of the bundle for trusted wherever it stands in a chain, and many webhooks are configured with their own self-signed
//! certificate, marked as an authority, for a bundle. webpki accepts no authority as a server, so that this case is looked at here.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::target::{ConfigError, Trust, field};

/// HTTP/1.1 only, as upstream: over one HTTP/2 connection all calls would go to the same endpoint of a service (kubernetes issue 75791).
const PROTOCOL: &[u8] = b"http/1.1";

pub(super) fn client_config(trust: Trust<'_>) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Known::new(&trust, provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| field("tls", error))?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match trust.identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    if config.client_auth_cert_resolver.has_certs() {
        // A session that is taken up again is under the certificate that it began with, and ours may be renewed.
        config.resumption = Resumption::disabled();
    }
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// For those whom nobody vouches for.
pub(crate) fn unverified() -> Result<ClientConfig, ConfigError> {
    client_config(Trust { insecure: true, ..Trust::default() })
}

#[derive(Debug)]
struct Known {
    authorities: Vec<CertificateDer<'static>>,
    /// None if there is no authority at all.
    chains: Option<Arc<WebPkiServerVerifier>>,
    insecure: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Known {
    fn new(trust: &Trust<'_>, provider: Arc<CryptoProvider>) -> Result<Self, ConfigError> {
        let authorities = match trust.authorities {
            Some(pem) => parse(pem)?,
            // Reading those of the machine takes long, and nobody looks at them.
            None if trust.insecure => Vec::new(),
            None => machine().to_vec(),
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        let algorithms = provider.signature_verification_algorithms;
        let chains = match roots.is_empty() {
            true => None,
            false => {
                let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
                Some(built.map_err(|error| field("caBundle", error))?)
            }
        };
        Ok(Self { authorities, chains, insecure: trust.insecure, algorithms })
    }

    /// For a certificate that is trusted as it stands.
    fn verify_itself(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        match now {
            now if now < validity.not_before.timestamp() => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
            now if now > validity.not_after.timestamp() => Err(Error::InvalidCertificate(CertificateError::Expired)),
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        if self.authorities.iter().any(|authority| authority == end_entity) {
            return self.verify_itself(end_entity, server_name, now).map(|()| ServerCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_server_cert(end_entity, intermediates, server_name, ocsp, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether `pem` holds certificates, and nothing that is none.
pub(crate) fn is_bundle(pem: &[u8]) -> bool {
    parse(pem).is_ok()
}

fn parse(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| field("caBundle", error))?;
    if found.is_empty() { Err(field("caBundle", "holds no certificate (PEM is expected)")) } else { Ok(found) }
}

/// The authorities that this machine trusts, as they were when they were first needed.
fn machine() -> &'static [CertificateDer<'static>] {
    static MACHINE: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    MACHINE.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}
