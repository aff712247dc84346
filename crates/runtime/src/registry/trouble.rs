//! Why a registry did not give what was asked, in classes that callers act on and words that people can.

use std::error::Error;
use std::io;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry wants other credentials (401), or these may not read it (403).
    Denied,
    /// There is no such thing there (404).
    Missing,
    /// The range that was asked for is not there (416).
    Range,
    /// The other side does not speak TLS.
    NotTls,
    /// The other side's certificate was not accepted.
    Certificate,
    /// Its name leads nowhere, or nothing answers there: looked for long enough already.
    Unreachable,
    /// Another attempt may succeed, not before this pause if one is given.
    Transient(Option<Duration>),
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

impl Trouble {
    pub(crate) fn new(kind: Kind, reason: impl Into<String>) -> Trouble {
        Trouble { kind, reason: reason.into() }
    }

    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.kind, Kind::Transient(_))
    }

    /// What broke below HTTP.
    pub(crate) fn of_connection(error: &(dyn Error + 'static), host: &str) -> Trouble {
        let mut next = Some(error);
        let mut deepest = error.to_string();
        let mut found = None;
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return of_tls(tls, host);
            }
            let inner = error.downcast_ref::<io::Error>();
            if let Some(io) = inner {
                found = found.or(match io.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        Some((Kind::Transient(None), "the connection was refused; is a registry running there?"))
                    }
                    io::ErrorKind::TimedOut => Some((Kind::Unreachable, "it did not answer in time; is it reachable from this node?")),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                        Some((Kind::Unreachable, "there is no route to it from this node"))
                    }
                    _ => None,
                });
            }
            deepest = error.to_string();
            // An io::Error's source is that of the error it carries, not that error.
            next = match inner.and_then(io::Error::get_ref) {
                Some(carried) => Some(carried as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        match found {
            Some((kind, reason)) => Trouble::new(kind, reason),
            None if deepest.contains("failed to lookup address") => {
                Trouble::new(Kind::Unreachable, format!("its name cannot be resolved on this node ({deepest}); is it spelled right?"))
            }
            None => Trouble::new(Kind::Transient(None), deepest),
        }
    }
}

fn of_tls(error: &rustls::Error, host: &str) -> Trouble {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => Trouble::new(
            Kind::Certificate,
            format!(
                "its certificate was signed by an unknown authority; name the authority's certificate as `ca-file` in the section \
                 [registries.\"{host}\"] of the file that `knarr up --config` reads"
            ),
        ),
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            Trouble::new(Kind::Certificate, "its certificate has expired; renew it there, or look at this node's clock")
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            Trouble::new(Kind::Certificate, format!("its certificate is for other names than {host}"))
        }
        rustls::Error::InvalidCertificate(bad) => Trouble::new(Kind::Certificate, format!("its certificate was not accepted: {bad}")),
        rustls::Error::InvalidMessage(_) => Trouble::new(
            Kind::NotTls,
            format!("it does not speak TLS; if it is meant to be plain HTTP, say `plain-http = true` in [registries.\"{host}\"]"),
        ),
        other => Trouble::new(Kind::Transient(None), format!("TLS: {other}")),
    }
}
