//! The serving certificate of the moment, as `apiserver.crt` and `apiserver.key`.
//!
//! Handshakes take it from an atomic pointer, so that a renewal or a change of names needs no restart.

use std::path::Path;
use std::sync::Arc;

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

pub(super) struct Serving {
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
    pub(super) fn open(dir: &Path, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<Serving, PkiError> {
        let kept = load(dir, ca)?.filter(|current| current.is_good(sans, now));
        let current = match kept {
            Some(current) => current,
            None => issue(dir, ca, sans, now)?,
        };
        Ok(Serving { current: ArcSwap::from_pointee(current) })
    }

    /// Replaces the certificate if it lacks a name or is near its end.
    pub(super) fn refresh(&self, dir: &Path, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<(), PkiError> {
        if !self.current.load().is_good(sans, now) {
            self.current.store(Arc::new(issue(dir, ca, sans, now)?));
        }
        Ok(())
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

fn subject_key(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn issue(dir: &Path, ca: &Authority, sans: &Sans, now: Timestamp) -> Result<Current, PkiError> {
    let identity = ca.issue("kube-apiserver", None, Usage::Server, sans, SERVING_DAYS, now)?;
    // A crash between the two files leaves a pair that does not match, which `load` rejects.
    files::write(&dir.join(KEY), &identity.key_pem)?;
    files::write(&dir.join(CERTIFICATE), &identity.certificate_pem)?;
    assemble(&identity.certificate_pem, &identity.key_pem)
        .ok_or_else(|| PkiError::Tls { reason: "the certificate just issued does not parse".to_owned() })
}

/// Always the one certificate of `identity`.
pub(super) fn resolver(identity: &authority::Identity) -> Result<Arc<dyn ResolvesServerCert>, PkiError> {
    let current = assemble(&identity.certificate_pem, &identity.key_pem)
        .ok_or_else(|| PkiError::Tls { reason: "the certificate just issued does not parse".to_owned() })?;
    Ok(Arc::new(rustls::sign::SingleCertAndKey::from((*current.key).clone())))
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
