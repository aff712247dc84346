//! What a node is told of registries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All that a node is told of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Registries {
    /// Credentials for every pull of the node, in the form of Docker's `config.json`. Read at each pull: it may be changed or appear
    /// while Knarr runs.
    pub auth_file: Option<PathBuf>,
    /// By host, or host and port, as it stands in references.
    pub hosts: BTreeMap<String, Registry>,
}

/// What is different about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Registry {
    /// Asked first, in this order: `https://mirror.example`, `http://10.0.0.1:5000/docker`; https where no scheme is given.
    pub mirrors: Vec<String>,
    /// No TLS. On the loopback this is found out without being told.
    pub plain_http: bool,
    /// Certificates of the authorities that vouch for this registry, PEM; instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Something in the configuration cannot be.
#[derive(Debug, thiserror::Error)]
#[error("registries.{host:?}: {reason}")]
pub struct RegistryError {
    host: String,
    reason: String,
}

/// Where requests for one registry go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As references name it: its settings and credentials go by this name.
    pub(crate) host: String,
    pub(crate) scheme: Scheme,
    /// Host and port of the URL.
    pub(crate) authority: String,
    /// Before `/v2/`, without a slash at its end.
    pub(crate) prefix: String,
    pub(crate) mirror: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Https,
    Http,
    /// TLS, or plain HTTP where the other side does not speak TLS. For the loopback only: there is nobody in between.
    Either,
}

/// Docker's registry answers under another name than its references have.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

impl Registries {
    /// Finds what cannot be before the first pull does.
    pub fn check(&self) -> Result<(), RegistryError> {
        for (host, registry) in &self.hosts {
            let wrong = |reason: String| Err(RegistryError { host: host.clone(), reason });
            if host.contains('/') || host.is_empty() {
                return wrong("name a host, or host:port, as it stands in image references".to_owned());
            }
            if registry.plain_http && registry.ca_file.is_some() {
                return wrong("plain-http and ca-file exclude each other: without TLS there is no certificate to verify".to_owned());
            }
            for mirror in &registry.mirrors {
                if endpoint_of(mirror).is_none() {
                    return wrong(format!("mirror {mirror:?}: write https://host[:port][/path]"));
                }
            }
            if let Some(path) = &registry.ca_file {
                super::transport::authorities(path).map_err(|reason| RegistryError { host: host.clone(), reason })?;
            }
        }
        Ok(())
    }

    /// `host`: as it stands in references, or as it stands in URLs.
    pub(crate) fn of(&self, host: &str) -> Option<&Registry> {
        let named = if host == DOCKER.1 { self.hosts.get(DOCKER.0) } else { None };
        self.hosts.get(host).or(named)
    }

    /// Mirrors first, the registry itself last.
    pub(crate) fn endpoints(&self, host: &str) -> Vec<Endpoint> {
        let own = self.of(host);
        let mirrors = own.into_iter().flat_map(|registry| &registry.mirrors).filter_map(|mirror| endpoint_of(mirror));
        let mut endpoints: Vec<Endpoint> = mirrors.collect();
        let authority = if host == DOCKER.0 { DOCKER.1 } else { host };
        let scheme = match own {
            Some(Registry { plain_http: true, .. }) => Scheme::Http,
            _ if is_loopback(host) => Scheme::Either,
            _ => Scheme::Https,
        };
        endpoints.push(Endpoint { host: host.to_owned(), scheme, authority: authority.to_owned(), prefix: String::new(), mirror: false });
        endpoints
    }
}

fn endpoint_of(mirror: &str) -> Option<Endpoint> {
    let (scheme, rest) = match mirror.split_once("://") {
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(_) => return None,
        None => (Scheme::Https, mirror),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let parsed: http::uri::Authority = authority.parse().ok()?;
    if parsed.host().is_empty() || authority.contains('@') {
        return None;
    }
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("v2").map_or(path, |path| path.trim_end_matches('/'));
    let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
    Some(Endpoint { host: authority.to_owned(), scheme, authority: authority.to_owned(), prefix, mirror: true })
}

/// Only this machine answers there: a numeric address, or the name that RFC 6761 §6.3 binds to one.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(registries: &Registries, host: &str) -> Vec<String> {
        let one = |it: Endpoint| format!("{:?} {}{}", it.scheme, it.authority, it.prefix);
        registries.endpoints(host).into_iter().map(one).collect()
    }

    #[test]
    fn mirrors_are_asked_first_and_the_loopback_may_be_plain() {
        let mirrors = vec!["https://m.example/docker/v2/".to_owned(), "http://10.0.0.1:5000".to_owned(), "m2".to_owned()];
        let mut registries = Registries::default();
        registries.hosts.insert("docker.io".into(), Registry { mirrors, ..Registry::default() });
        registries.hosts.insert("r.lan".into(), Registry { plain_http: true, ..Registry::default() });
        assert_eq!(
            shown(&registries, "docker.io"),
            ["Https m.example/docker", "Http 10.0.0.1:5000", "Https m2", "Https registry-1.docker.io"]
        );
        assert_eq!(shown(&registries, "r.lan"), ["Http r.lan"]);
        assert!(registries.of("registry-1.docker.io").is_some(), "requests are made by the name of the URL");
        assert_eq!(shown(&registries, "quay.io"), ["Https quay.io"]);
        for host in ["localhost:5000", "127.3.2.1", "[::1]:5000"] {
            assert_eq!(shown(&registries, host), [format!("Either {host}")]);
        }
        assert_eq!(shown(&registries, "localhost.example"), ["Https localhost.example"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |host: &str, registry: Registry| {
            let registries = Registries { auth_file: None, hosts: [(host.to_owned(), registry)].into() };
            registries.check().unwrap_err().to_string()
        };
        let mirror = |mirror: &str| Registry { mirrors: vec![mirror.to_owned()], ..Registry::default() };
        assert!(refused("r/x", Registry::default()).contains("name a host"));
        assert!(refused("r", mirror("ftp://m")).contains("ftp://m"));
        assert!(refused("r", mirror("https://u:p@m")).contains("write https://host"));
        let missing = Registry { ca_file: Some("/nosuch/ca.pem".into()), ..Registry::default() };
        assert!(refused("r", missing.clone()).contains("/nosuch/ca.pem"));
        assert!(refused("r", Registry { plain_http: true, ..missing }).contains("exclude each other"));
    }
}
