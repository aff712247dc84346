//! A certificate authority: one P-256 key and its self-signed certificate, on disk as `<file>.crt` and `<file>.key`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::renewal::Listed;
use super::{PkiError, Sans, files};

/// Life of an authority. Ten years, as kubeadm gives (constants.go, CACertificateValidityPeriod).
const CA_DAYS: i64 = 3650;
/// Certificates are valid from a little before now, so that a peer whose clock is behind accepts them. kubeadm and
/// client-go's csr code allow the same five minutes.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
    pub not_after: Timestamp,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Life {
    fn days(days: i64, now: Timestamp) -> Life {
        Life { from: now - BACKDATE, until: now + SignedDuration::from_hours(24 * days) }
    }

    /// Whether it is valid, and more than a third of it is left.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.renew_at()
    }

    /// The moment when one third of the life is left.
    pub(super) fn renew_at(&self) -> Timestamp {
        self.until - self.until.duration_since(self.from) / 3
    }
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    path: PathBuf,
    life: Life,
}

impl Authority {
    /// Opens the authority `<file>` in `dir`, or makes one named `cn`. The key is written first: a crash between the two
    /// leaves a key without certificate, which the next start completes.
    pub(super) fn open(dir: &Path, file: &str, cn: &str, now: Timestamp) -> Result<Authority, PkiError> {
        let (key_path, certificate_path) = (dir.join(format!("{file}.key")), dir.join(format!("{file}.crt")));
        let parse = |reason: String| PkiError::Parse { path: certificate_path.clone(), reason };
        let key = match (files::read(&key_path)?, certificate_path.exists()) {
            (Some(pem), _) => parse_key(&key_path, &pem)?,
            (None, true) => {
                return Err(PkiError::Half { path: key_path, other: certificate_path });
            }
            (None, false) => {
                let key = new_key()?;
                files::write(&key_path, &key.serialize_pem())?;
                key
            }
        };
        let pem = match files::read(&certificate_path)? {
            Some(pem) => pem,
            None => {
                let pem = self_sign(cn, &key, now)?;
                files::write(&certificate_path, &pem)?;
                pem
            }
        };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| parse(error.to_string()))?;
        let life = life_of(&der).ok_or_else(|| parse("not an X.509 certificate".to_owned()))?;
        if !is_of_key(&der, &key) {
            return Err(parse(format!("it does not belong to the key {}", key_path.display())));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| parse(error.to_string()))?;
        Ok(Authority { issuer, pem, der, path: certificate_path, life })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(super) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// The life within the authority's own. Refused when the authority has ended; a clock that is behind is no reason not to start.
    pub(super) fn bound(&self, life: Life, now: Timestamp) -> Result<Life, PkiError> {
        let Life { from, until } = self.life;
        match now < until {
            true => Ok(Life { until: life.until.min(until), ..life }),
            false => Err(PkiError::Ended { path: self.path.clone(), from, until }),
        }
    }

    /// For people: `name` is that of its files.
    pub(super) fn list(&self, (name, used_by): (&str, &str)) -> Listed {
        Listed::of(name, used_by, None, &self.der)
    }

    /// Issues a certificate with a new key. It never outlives the authority, which must not have ended. One organisation at most: rcgen's names hold
    /// one value of a type.
    pub(super) fn issue(
        &self,
        cn: &str,
        org: Option<&str>,
        usage: Usage,
        sans: &Sans,
        days: i64,
        now: Timestamp,
    ) -> Result<Identity, PkiError> {
        let fail = |source| PkiError::Issue { subject: cn.to_owned(), source };
        let life = self.bound(Life::days(days, now), now)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(cn, org);
        params.serial_number = Some(serial()?);
        set_life(&mut params, life);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = match usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        for name in &sans.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(fail)?));
        }
        params.subject_alt_names.extend(sans.addresses.iter().copied().map(SanType::IpAddress));
        let key = new_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        // The parsed times have whole seconds; what is reported must be what the certificate says.
        let not_after = Timestamp::from_second(life.until.as_second()).unwrap_or(life.until);
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), not_after })
    }
}

fn self_sign(cn: &str, key: &KeyPair, now: Timestamp) -> Result<String, PkiError> {
    let life = Life::days(CA_DAYS, now);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(cn, None);
    params.serial_number = Some(serial()?);
    set_life(&mut params, life);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key).map_err(|source| PkiError::Issue { subject: cn.to_owned(), source })?;
    Ok(certificate.pem())
}

pub(super) fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| PkiError::Generate)
}

pub(super) fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|error| PkiError::Parse { path: path.to_owned(), reason: error.to_string() })
}

fn subject(cn: &str, org: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(org) = org {
        subject.push(DnType::OrganizationName, org);
    }
    subject.push(DnType::CommonName, cn);
    subject
}

/// 127 random bits: unique for all that one authority will ever issue (RFC 5280, 4.1.2.2 asks for at most 20 bytes, positive).
pub(super) fn serial() -> Result<SerialNumber, PkiError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Generate)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

/// rcgen takes times of a crate that nothing else here uses; its epoch plus the seconds names none of its types.
fn set_life(params: &mut CertificateParams, life: Life) {
    let at = |time: Timestamp| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.as_second().max(0).unsigned_abs());
    (params.not_before, params.not_after) = (at(life.from), at(life.until));
}

#[cfg(test)]
pub(super) fn life_of_pem(pem: &str) -> Option<Life> {
    life_of(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
}

pub(super) fn life_of(der: &CertificateDer<'_>) -> Option<Life> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some(Life {
        from: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        until: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
    })
}

pub(super) fn is_of_key(der: &CertificateDer<'_>, key: &KeyPair) -> bool {
    match x509_parser::parse_x509_certificate(der) {
        Ok((_, certificate)) => certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw(),
        Err(_) => false,
    }
}
