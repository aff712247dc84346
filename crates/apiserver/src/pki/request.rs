//! Certificates for keys that others hold: a PKCS #10 request in, a certificate out.
//!
//! The subject, the key and the alternative names are taken over byte for byte, so that nothing that the approver saw is read differently here;
//! everything else of the certificate is the signer's. What may be in a request is decided by whoever calls. Written in DER by hand, because
//! `rcgen` holds one value of each part of a name, and a user may be in several groups.

use jiff::{SignedDuration, Timestamp};
use rcgen::SigningKey;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::X509Extension;
use x509_parser::prelude::FromDer;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{DERWriter, Tag};

use super::PkiError;
use super::authority::{Authority, BACKDATE, Life, serial};

/// Longest life given, and the one where none is asked for (kube-controller-manager, --cluster-signing-duration).
const LIFE_MAX: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Shortest life given (controller/certificates/signer, duration).
const LIFE_MIN: SignedDuration = SignedDuration::from_mins(10);
/// From this life on, the time before now for clocks that are behind is part of the life (there, PermissiveSigningPolicy.Short).
const LONG_LIFE: SignedDuration = SignedDuration::from_hours(8);

const BLOCK: &str = "CERTIFICATE REQUEST";

const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

/// What a usage is in a certificate.
enum Mark {
    /// A bit of the key usage (RFC 5280, 4.2.1.3).
    Key(u8),
    /// An extended key usage (4.2.1.12).
    Extended(&'static [u64]),
}

/// The usages that the built-in signers give.
const USAGES: [(&str, Mark); 4] = [
    ("digital signature", Mark::Key(0)),
    ("key encipherment", Mark::Key(2)),
    ("server auth", Mark::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 1])),
    ("client auth", Mark::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 2])),
];

/// Why a request is none, for the one who made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("PEM block type must be {BLOCK}")]
    Pem,
    #[error("the {BLOCK} is not a PKCS #10 request in DER")]
    Der,
    #[error("the request's signature is not valid for its own key")]
    Signature,
    #[error("the request asks for the same extension twice")]
    Twice,
}

/// The DER of a request in PEM. Only the first block counts.
pub(crate) fn from_pem(pem: &[u8]) -> Result<Vec<u8>, RequestError> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| RequestError::Pem)?;
    match block.label == BLOCK {
        true => Ok(block.contents),
        false => Err(RequestError::Pem),
    }
}

/// Reads a request whose sender holds the key that it is for.
pub(crate) fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, RequestError> {
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Der)?;
    if !rest.is_empty() {
        return Err(RequestError::Der);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    Ok(request)
}

impl Authority {
    /// Signs a request in PEM for `usages`, for so many seconds (a year where none are given, which is also the most).
    pub(super) fn sign_request(&self, pem: &[u8], usages: &[&str], seconds: Option<i64>, now: Timestamp) -> Result<String, PkiError> {
        let refuse = |reason: String| PkiError::Request { reason };
        let der = from_pem(pem).map_err(|error| refuse(error.to_string()))?;
        let request = parse(&der).map_err(|error| refuse(error.to_string()))?;
        let names = alternative_names(&request).map_err(|error| refuse(error.to_string()))?;
        let marks = marks(usages).map_err(refuse)?;
        let life = self.bound(life(seconds, now), now)?;
        let serial = serial()?;
        let (_, authority) = x509_parser::parse_x509_certificate(self.der()).map_err(|error| refuse(error.to_string()))?;
        let info = &request.certification_request_info;
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                // Version 3 (RFC 5280, 4.1.2.1).
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(serial.as_ref(), true);
                write_algorithm(writer.next());
                writer.next().write_der(authority.subject().as_raw());
                writer.next().write_sequence(|writer| {
                    write_time(writer.next(), life.from);
                    write_time(writer.next(), life.until);
                });
                writer.next().write_der(info.subject.as_raw());
                writer.next().write_der(info.subject_pki.raw);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| {
                        if let Some(id) = super::certificate::subject_key(&authority) {
                            write_extension(writer.next(), AUTHORITY_KEY, false, &authority_key(&id));
                        }
                        write_extension(
                            writer.next(),
                            BASIC_CONSTRAINTS,
                            true,
                            &yasna::construct_der(|writer| writer.write_sequence(|_| ())),
                        );
                        if marks.key != 0 {
                            // The highest bit is the first of the string; trailing zeros are not written.
                            let length = 8 - marks.key.trailing_zeros() as usize;
                            let bits = yasna::construct_der(|writer| writer.write_bitvec_bytes(&[marks.key], length));
                            write_extension(writer.next(), KEY_USAGE, true, &bits);
                        }
                        if !marks.extended.is_empty() {
                            write_extension(writer.next(), EXTENDED_KEY_USAGE, false, &oids(&marks.extended));
                        }
                        if let Some(names) = names {
                            write_extension(writer.next(), ALTERNATIVE_NAMES, false, names);
                        }
                    });
                });
            });
        });
        let signature = self.key().sign(&body).map_err(|source| PkiError::Issue { subject: info.subject.to_string(), source })?;
        let certificate = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                write_algorithm(writer.next());
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(to_pem(&certificate))
    }
}

struct Marks {
    /// The first byte of the key usage's bits, the first bit highest.
    key: u8,
    extended: Vec<&'static [u64]>,
}

fn marks(usages: &[&str]) -> Result<Marks, String> {
    let mut marks = Marks { key: 0, extended: Vec::new() };
    for usage in usages {
        match USAGES.iter().find(|(name, _)| name == usage) {
            Some((_, Mark::Key(bit))) => marks.key |= 0x80 >> bit,
            Some((_, Mark::Extended(oid))) => marks.extended.push(*oid),
            None => return Err(format!("the usage {usage:?} is none that the built-in signers give")),
        }
    }
    Ok(marks)
}

fn life(seconds: Option<i64>, now: Timestamp) -> Life {
    let asked = seconds.map_or(LIFE_MAX, SignedDuration::from_secs).clamp(LIFE_MIN, LIFE_MAX);
    let from = now - BACKDATE;
    Life { from, until: if asked < LONG_LIFE { now + asked } else { from + asked } }
}

/// The contents of the extension subjectAltName that the request asks for.
fn alternative_names<'a>(request: &'a X509CertificationRequest<'a>) -> Result<Option<&'a [u8]>, RequestError> {
    let attributes = request.certification_request_info.iter_attributes();
    let lists = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(list) => Some(&list.extensions),
        _ => None,
    });
    let mut extensions: Vec<&X509Extension<'_>> = lists.flatten().collect();
    extensions.sort_by_key(|extension| extension.oid.as_bytes().to_vec());
    if extensions.windows(2).any(|pair| pair[0].oid == pair[1].oid) {
        return Err(RequestError::Twice);
    }
    let names = extensions.into_iter().find(|extension| extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME);
    Ok(names.map(|extension| extension.value))
}

fn write_extension(writer: DERWriter<'_>, oid: &[u64], critical: bool, value: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

fn write_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| writer.next().write_oid(&ObjectIdentifier::from_slice(ECDSA_WITH_SHA256)));
}

/// Two digits of the year until 2049, four from 2050 on (RFC 5280, 4.1.2.5).
fn write_time(writer: DERWriter<'_>, time: Timestamp) {
    let year = time.to_zoned(jiff::tz::TimeZone::UTC).year();
    let (tag, format) = if (1950..2050).contains(&year) { (TAG_UTCTIME, "%y%m%d%H%M%SZ") } else { (TAG_GENERALIZEDTIME, "%Y%m%d%H%M%SZ") };
    let text = time.strftime(format).to_string();
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

/// AuthorityKeyIdentifier with the key's identifier alone (4.2.1.1).
fn authority_key(id: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(id)));
    })
}

fn oids(oids: &[&[u64]]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| oids.iter().for_each(|oid| writer.next().write_oid(&ObjectIdentifier::from_slice(oid))));
    })
}

fn to_pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
