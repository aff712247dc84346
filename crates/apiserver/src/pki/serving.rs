//! The serving certificate of the moment: the API server's, as `apiserver.crt` and `apiserver.key`, or a kubelet's, in memory only.
//!
//! Handshakes take it from an atomic pointer, so that a renewal or a change of names needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{self, Authority, Life, Usage};
use super::{PkiError, Sans, files};

/// Life of the serving certificate. kubeadm's, one year (constants.go, CertificateValidityPeriod); it renews by itself.
const SERVING_DAYS: i64 = 365;
const CERTIFICATE: &str = "apiserver.crt";
const KEY: &str = "apiserver.key";

/// Between attempts to renew a certificate that cannot be renewed now (a full disk, say).
const RENEW_EVERY_MIN: Duration = Duration::from_secs(60);

/// Whose certificate it is.
pub(super) struct Subject {
    pub(super) cn: String,
    pub(super) org: Option<&'static str>,
    /// Where it is kept from one start to the next.
    pub(super) dir: Option<PathBuf>,
}

pub(super) struct Serving {
    subject: Subject,
    current: ArcSwap<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    sans: Sans,
    life: Life,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("life", &self.current.load().life).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl Serving {
    /// Takes the certificate on disk if it is good for `sans` and for now; else issues one.
    pub(super) fn open(subject: Subject, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<Serving, PkiError> {
        let kept = match &subject.dir {
            Some(dir) => load(dir, ca)?.filter(|current| current.is_good(sans, now)),
            None => None,
        };
        let current = match kept {
            Some(current) => current,
            None => issue(&subject, ca, sans, now)?,
        };
        Ok(Serving { subject, current: ArcSwap::from_pointee(current) })
    }

    /// Replaces the certificate if it lacks a name or is near its end.
    pub(super) fn refresh(&self, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<(), PkiError> {
        if !self.current.load().is_good(sans, now) {
            self.current.store(Arc::new(issue(&self.subject, ca, sans, now)?));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn resolve_now(&self) -> Arc<CertifiedKey> {
        self.current.load().key.clone()
    }

    pub(super) fn renew_at(&self) -> Timestamp {
        self.current.load().life.renew_at()
    }
}

impl Current {
    fn is_good(&self, sans: &Sans, now: Timestamp) -> bool {
        self.life.from <= now && now < self.life.renew_at() && self.sans.covers(sans)
    }
}

/// What is on disk, or `None` where it is missing, does not belong together or was signed by another authority: the
/// certificate can always be issued again.
fn load(dir: &Path, ca: &Authority) -> Result<Option<Current>, PkiError> {
    let (Some(certificate), Some(key)) = (files::read(&dir.join(CERTIFICATE))?, files::read(&dir.join(KEY))?) else {
        return Ok(None);
    };
    Ok(assemble(&certificate, &key).filter(|current| is_signed_by(&current.key.cert[0], ca)))
}

fn is_signed_by(der: &CertificateDer<'_>, ca: &Authority) -> bool {
    let parsed = (x509_parser::parse_x509_certificate(der), x509_parser::parse_x509_certificate(ca.der()));
    match parsed {
        (Ok((_, certificate)), Ok((_, authority))) => {
            certificate.issuer() == authority.subject() && authority_key(&certificate) == subject_key(&authority)
        }
        _ => false,
    }
}

fn authority_key<'a>(certificate: &x509_parser::certificate::X509Certificate<'a>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })
}

/// The identifier that a certificate gives its own key.
pub(super) fn subject_key(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn issue(subject: &Subject, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<Current, PkiError> {
    let identity = ca.issue(&subject.cn, subject.org, Usage::Server, sans, SERVING_DAYS, now)?;
    if let Some(dir) = &subject.dir {
        // A crash between the two files leaves a pair that does not match, which `load` rejects.
        files::write(&dir.join(KEY), &identity.key_pem)?;
        files::write(&dir.join(CERTIFICATE), &identity.certificate_pem)?;
    }
    assemble(&identity.certificate_pem, &identity.key_pem)
        .ok_or_else(|| PkiError::Tls { reason: "the certificate just issued does not parse".to_owned() })
}

/// Renews each time that a third of a certificate's life is left, by its own dates. Ends only when dropped.
pub(super) async fn keep(what: &str, renew_at: impl Fn() -> Timestamp, renew: impl Fn(Timestamp) -> Result<(), PkiError>) {
    loop {
        let left = renew_at().duration_since(Timestamp::now());
        tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        match renew(Timestamp::now()) {
            Ok(()) => tracing::info!(what, until = %renew_at(), "renewed a serving certificate"),
            Err(error) => tracing::error!(what, error = &error as &dyn std::error::Error, "renew a serving certificate"),
        }
        if renew_at() <= Timestamp::now() {
            tokio::time::sleep(RENEW_EVERY_MIN).await;
        }
    }
}

/// Certificate and key as rustls wants them; `None` where one does not parse or they are not a pair.
fn assemble(certificate_pem: &str, key_pem: &str) -> Option<Current> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()?;
    let (life, sans) = (authority::life_of(&der)?, names_of(&der)?);
    // `from_der` checks that the key is the certificate's.
    let key = CertifiedKey::from_der(vec![der], key, &rustls::crypto::ring::default_provider()).ok()?;
    Some(Current { key: Arc::new(key), sans, life })
}

fn names_of(der: &CertificateDer<'_>) -> Option<Sans> {
    use x509_parser::extensions::GeneralName;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let mut sans = Sans::default();
    for name in certificate.subject_alternative_name().ok()?.map(|names| &names.value.general_names).into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => sans.add_name(name),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => sans.add_address(v4.into()),
                Err(_) => sans.add_address(<[u8; 16]>::try_from(*bytes).ok()?.into()),
            },
            _ => {}
        }
    }
    Some(sans)
}
