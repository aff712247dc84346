//! A certificate that this process shows: the API server's, as `apiserver.crt` and `apiserver.key`, or one that lives in memory only.
//!
//! Handshakes take it from an atomic pointer, so that a renewal or a change of names needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authority::{self, Authority, Identity, Life, Usage};
use super::renewal::{Listed, Renewing};
use super::{PkiError, Sans, files};

/// Life of what the process shows. kubeadm's, one year (constants.go, CertificateValidityPeriod); it renews by itself.
const DAYS: i64 = 365;

/// Whose certificate it is.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) used_by: &'static str,
    pub(super) cn: String,
    pub(super) org: Option<&'static str>,
    pub(super) usage: Usage,
    /// Where it is kept from one start to the next, as `<name>.crt` and `<name>.key`.
    pub(super) dir: Option<PathBuf>,
}

pub struct Certificate {
    subject: Subject,
    authority: Arc<Authority>,
    /// Its lock also lets one renewal run at a time.
    wanted: Mutex<Wanted>,
    current: ArcSwap<Current>,
}

struct Wanted {
    /// The names that it must have.
    sans: Sans,
    /// What is shown, but could not be written.
    unkept: Option<Identity>,
}

struct Current {
    key: Arc<CertifiedKey>,
    sans: Sans,
    life: Life,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("name", &self.subject.name).field("life", &self.current.load().life).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Certificate {
    /// Takes the certificate on disk if it is good for `sans` and for now; else issues one.
    pub(super) fn open(subject: Subject, authority: Arc<Authority>, sans: &Sans, now: Timestamp) -> Result<Certificate, PkiError> {
        let kept = match &subject.dir {
            Some(dir) => load(dir, subject.name, &authority)?.filter(|current| current.is_good(sans, now)),
            None => None,
        };
        let (current, issued) = match kept {
            Some(current) => (current, None),
            None => issue(&subject, &authority, sans, now).map(|(current, identity)| (current, Some(identity)))?,
        };
        if let Some(identity) = &issued {
            keep(&subject, identity)?;
        }
        Ok(Certificate {
            subject,
            authority,
            wanted: Mutex::new(Wanted { sans: sans.clone(), unkept: None }),
            current: ArcSwap::from_pointee(current),
        })
    }

    /// Replaces the names that it must have. A certificate that has them all is kept.
    pub fn set_sans(&self, sans: &Sans) -> Result<bool, PkiError> {
        let mut wanted = self.wanted.lock();
        wanted.sans = sans.clone();
        self.refresh(&mut wanted, Timestamp::now(), false)
    }

    /// What is issued is shown even if it cannot be written; that is tried again each time.
    fn refresh(&self, wanted: &mut Wanted, now: Timestamp, at_once: bool) -> Result<bool, PkiError> {
        let is_due = at_once || !self.current.load().is_good(&wanted.sans, now);
        if is_due {
            let (current, identity) = issue(&self.subject, &self.authority, &wanted.sans, now)?;
            self.current.store(Arc::new(current));
            wanted.unkept = Some(identity);
        }
        if let Some(identity) = &wanted.unkept {
            keep(&self.subject, identity).map_err(|error| PkiError::Unkept { source: Box::new(error) })?;
            wanted.unkept = None;
        }
        Ok(is_due)
    }

    #[cfg(test)]
    pub(super) fn shown(&self) -> CertificateDer<'static> {
        self.current.load().key.cert[0].clone()
    }
}

impl Renewing for Certificate {
    fn list(&self) -> Listed {
        let current = self.current.load();
        Listed::of(self.subject.name, self.subject.used_by, Some(current.life.renew_at()), &current.key.cert[0])
    }

    fn renew_at(&self) -> Timestamp {
        match self.wanted.lock().unkept {
            // At the next look.
            Some(_) => Timestamp::MIN,
            None => self.current.load().life.renew_at(),
        }
    }

    fn renew(&self, now: Timestamp, at_once: bool) -> Result<bool, PkiError> {
        self.refresh(&mut self.wanted.lock(), now, at_once)
    }
}

impl Current {
    fn is_good(&self, sans: &Sans, now: Timestamp) -> bool {
        self.life.is_fresh(now) && self.sans.covers(sans)
    }
}

/// What is on disk, or `None` where it is missing, does not belong together or was signed by another authority: the
/// certificate can always be issued again.
fn load(dir: &Path, name: &str, authority: &Authority) -> Result<Option<Current>, PkiError> {
    let [certificate, key] = paths(dir, name);
    let (Some(certificate), Some(key)) = (files::read(&certificate)?, files::read(&key)?) else { return Ok(None) };
    Ok(assemble(&certificate, &key).filter(|current| is_signed_by(&current.key.cert[0], authority)))
}

fn paths(dir: &Path, name: &str) -> [PathBuf; 2] {
    ["crt", "key"].map(|ending| dir.join(format!("{name}.{ending}")))
}

fn is_signed_by(der: &CertificateDer<'_>, authority: &Authority) -> bool {
    let parsed = (x509_parser::parse_x509_certificate(der), x509_parser::parse_x509_certificate(authority.der()));
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

/// The common name of a subject. Of several it is the last, which Go takes (crypto/x509/pkix, FillFromRDNSequence), and with it most who approve requests; none
/// where that is in a text that we do not read.
pub(crate) fn common_name<'a>(subject: &'a x509_parser::x509::X509Name<'_>) -> Option<&'a str> {
    subject.iter_common_name().last()?.as_str().ok()
}

/// The organisations of a subject; none where one of them is in a text that we do not read, as others do and would find another in it.
pub(crate) fn organizations<'a>(subject: &'a x509_parser::x509::X509Name<'_>) -> Option<Vec<&'a str>> {
    subject.iter_organization().map(|organization| organization.as_str().ok()).collect()
}

/// The identifier that a certificate gives its own key.
pub(super) fn subject_key(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn issue(subject: &Subject, authority: &Authority, sans: &Sans, now: Timestamp) -> Result<(Current, Identity), PkiError> {
    let identity = authority.issue(&subject.cn, subject.org, subject.usage, sans, DAYS, now)?;
    let current = assemble(&identity.certificate_pem, &identity.key_pem)
        .ok_or_else(|| PkiError::Tls { reason: "the certificate just issued does not parse".to_owned() })?;
    Ok((current, identity))
}

fn keep(subject: &Subject, identity: &Identity) -> Result<(), PkiError> {
    let Some(dir) = &subject.dir else { return Ok(()) };
    let [certificate, key] = paths(dir, subject.name);
    // A crash between the two files leaves a pair that does not match, which `load` rejects.
    files::write(&key, &identity.key_pem)?;
    files::write(&certificate, &identity.certificate_pem)
}

/// Certificate and key as rustls wants them; `None` where one does not parse or they are not a pair.
fn assemble(certificate_pem: &str, key_pem: &str) -> Option<Current> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).ok()?;
    let (life, sans) = (authority::life_of(&der)?, Sans::of(&der)?);
    // `from_der` checks that the key is the certificate's.
    let key = CertifiedKey::from_der(vec![der], key, &rustls::crypto::ring::default_provider()).ok()?;
    Some(Current { key: Arc::new(key), sans, life })
}
