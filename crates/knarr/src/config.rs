//! What `knarr up` was told: command line over file over defaults, checked before anything is touched.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net};
use knarr_runtime::{Registries, Registry};

use crate::{
    access::Access,
    cli::{AuditOptions, UpOptions},
    place::Held,
    report::Failure,
};

pub(crate) const DATA_DIR_DEFAULT: &str = "/var/lib/knarr";
const API_PORT_DEFAULT: u16 = 6443;
const POD_CIDR_DEFAULT: &str = "10.42.0.0/16";
const SERVICE_CIDR_DEFAULT: &str = "10.43.0.0/16";
const CLUSTER_DOMAIN_DEFAULT: &str = "cluster.local";

/// Prefix length of each node's share of the pod addresses: 254 pods (upstream's node-cidr-mask-size).
pub(crate) const NODE_PREFIX: u8 = 24;

/// Smallest range of Services: the API, DNS, and a few more.
const SERVICE_PREFIX_MAX: u8 = 28;

/// Which address of the service range is the cluster's DNS, counted from the network's own.
const DNS_SERVICE_INDEX: u32 = 10;

/// Everything `knarr up` needs to know, valid.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) node_name: String,
    pub(crate) pod_cidr: Ipv4Net,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) cluster_domain: String,
    pub(crate) tls_san: Vec<String>,
    pub(crate) log: String,
    #[serde(default)]
    pub(crate) demo: bool,
    #[serde(default)]
    pub(crate) registry_auth_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) registries: BTreeMap<String, Registry>,
    #[serde(default)]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    #[serde(default)]
    pub(crate) access: Access,
    #[serde(default)]
    pub(crate) admission_control_config_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) audit: AuditOptions,
}

impl Config {
    pub(crate) fn from_options(options: UpOptions) -> Result<Self, Failure> {
        let file = match &options.config {
            Some(path) => read(path)?,
            None => UpOptions::default(),
        };
        let access = Access::from_options(&options, &file);
        let listen = if options.listen.is_empty() { file.listen } else { options.listen };
        let tls_san = if options.tls_san.is_empty() { file.tls_san } else { options.tls_san };
        let pod_cidr = cidr("pod-cidr", options.pod_cidr.or(file.pod_cidr), POD_CIDR_DEFAULT)?;
        let service_cidr = cidr("service-cidr", options.service_cidr.or(file.service_cidr), SERVICE_CIDR_DEFAULT)?;
        let config = Self {
            data_dir: options.data_dir.or(file.data_dir).unwrap_or_else(|| DATA_DIR_DEFAULT.into()),
            listen: if listen.is_empty() { vec![listen_default()] } else { listen },
            node_name: options.node_name.or(file.node_name).unwrap_or_else(host_name),
            pod_cidr,
            service_cidr,
            cluster_domain: options.cluster_domain.or(file.cluster_domain).unwrap_or_else(|| CLUSTER_DOMAIN_DEFAULT.to_owned()),
            tls_san,
            log: options.log.or(file.log).unwrap_or_else(|| "warn".to_owned()),
            demo: options.demo || file.demo,
            access,
            admission_control_config_file: options.admission_control_config_file.or(file.admission_control_config_file),
            audit: options.audit.or(file.audit),
            encryption_provider_config: options.encryption_provider_config.or(file.encryption_provider_config),
            registry_auth_file: options.registry_auth_file.or(file.registry_auth_file),
            registries: if options.registries.is_empty() { file.registries } else { options.registries },
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        let wrong = |message: String| Err(Failure::Usage(message));
        if self.pod_cidr.prefix_len() > NODE_PREFIX {
            return wrong(format!(
                "pod-cidr {}: a node takes a /{NODE_PREFIX} of it; give at least that, such as {POD_CIDR_DEFAULT}",
                self.pod_cidr
            ));
        }
        if self.service_cidr.prefix_len() > SERVICE_PREFIX_MAX {
            return wrong(format!(
                "service-cidr {}: at least a /{SERVICE_PREFIX_MAX} is needed, such as {SERVICE_CIDR_DEFAULT}",
                self.service_cidr
            ));
        }
        if self.pod_cidr.contains(&self.service_cidr) || self.service_cidr.contains(&self.pod_cidr) {
            return wrong(format!("pod-cidr {} and service-cidr {} overlap; give each its own range", self.pod_cidr, self.service_cidr));
        }
        self.registries().check().map_err(|error| Failure::Usage(error.to_string()))?;
        self.access.check()?;
        check_subdomain("node-name", &self.node_name)?;
        check_subdomain("cluster-domain", &self.cluster_domain)
    }

    /// Keeps what this start was told, for `knarr down` to find what was made with it.
    pub(crate) fn save(&self, held: &Held) -> Result<(), Failure> {
        let path = last_path(held);
        let fault = |error: io::Error| Failure::Machine(format!("write {}: {error}", path.display()));
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?).map_err(fault)?;
        fs::rename(&new, &path).map_err(fault)
    }

    /// What the last start was told, if there was one.
    pub(crate) fn last(held: &Held) -> Result<Option<Self>, Failure> {
        match fs::read(last_path(held)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::Machine(format!("read {}: {error}", last_path(held).display()))),
        }
    }

    /// Where images are pulled from, and how.
    pub(crate) fn registries(&self) -> Registries {
        let auth_file = self.registry_auth_file.clone().unwrap_or_else(|| self.data_dir.join("registry-auth.json"));
        Registries { auth_file: Some(auth_file), hosts: self.registries.clone() }
    }

    /// The address of the cluster's DNS.
    pub(crate) fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.service_cidr.network().to_bits() + DNS_SERVICE_INDEX)
    }

    /// The pod addresses of the first node, which is this one.
    pub(crate) fn node_pod_cidr(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.pod_cidr.network(), NODE_PREFIX)
    }
}

fn last_path(held: &Held) -> PathBuf {
    held.data_dir.join("last-start.json")
}

fn read(path: &PathBuf) -> Result<UpOptions, Failure> {
    let text =
        fs::read_to_string(path).map_err(|error| Failure::Usage(format!("read the configuration file {}: {error}", path.display())))?;
    toml::from_str(&text)
        .map_err(|error| Failure::Usage(format!("the configuration file {}: {}", path.display(), error.to_string().trim())))
}

fn cidr(option: &str, given: Option<IpNet>, default: &str) -> Result<Ipv4Net, Failure> {
    match given.unwrap_or_else(|| default.parse().expect("the defaults are valid")) {
        IpNet::V4(net) if net.network() == net.addr() => Ok(net),
        IpNet::V4(net) => Err(Failure::Usage(format!("{option} {net} has bits set behind its prefix; did you mean {}?", net.trunc()))),
        IpNet::V6(net) => {
            Err(Failure::Usage(format!("{option} {net}: IPv6 ranges are not supported yet; give an IPv4 range such as {default}")))
        }
    }
}

/// All addresses. A dual-stack socket where IPv6 is on.
fn listen_default() -> SocketAddr {
    let ipv6_off = !std::path::Path::new("/proc/net/if_inet6").exists();
    let ip: IpAddr = if ipv6_off { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, API_PORT_DEFAULT)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

fn check_subdomain(option: &str, name: &str) -> Result<(), Failure> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{option} {name:?}: use lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> UpOptions {
        toml::from_str(text).expect("the case is valid TOML")
    }

    fn message(text: &str) -> String {
        Config::from_options(options(text)).expect_err("the case is wrong").to_string()
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = Config::from_options(options("node-name = 'n'")).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/knarr"));
        assert_eq!(config.dns_ip(), Ipv4Addr::new(10, 43, 0, 10));
        assert_eq!(config.node_pod_cidr().to_string(), "10.42.0.0/24");
    }

    #[test]
    fn wrong_values_are_named_with_the_mend() {
        for (text, expected) in [
            ("pod-cidr = '10.42.0.1/16'", "did you mean 10.42.0.0/16?"),
            ("pod-cidr = '10.42.0.0/25'", "a node takes a /24"),
            ("service-cidr = '10.43.0.0/30'", "at least a /28"),
            ("pod-cidr = '10.43.0.0/24'", "overlap"),
            ("pod-cidr = 'fd00::/48'", "IPv6 ranges are not supported yet"),
            ("node-name = 'My_Node'", "node-name \"My_Node\": use lower-case letters"),
        ] {
            let text = if text.starts_with("node-name") { text.to_owned() } else { format!("node-name = 'n'\n{text}") };
            let message = message(&text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn registries_have_sections_and_mistakes_in_them_are_named() {
        let text =
            "node-name = 'n'\n[registries.'docker.io']\nmirrors = ['http://10.0.0.1:5000']\n[registries.'r.lan']\nplain-http = true\n";
        let registries = Config::from_options(options(text)).unwrap().registries();
        assert_eq!(registries.hosts["docker.io"].mirrors, ["http://10.0.0.1:5000"]);
        assert!(registries.hosts["r.lan"].plain_http);
        assert_eq!(registries.auth_file, Some("/var/lib/knarr/registry-auth.json".into()));
        let wrong = message("node-name = 'n'\n[registries.'r']\nca-file = '/nosuch.pem'");
        assert!(wrong.contains("registries.\"r\"") && wrong.contains("/nosuch.pem"), "{wrong}");
        assert!(toml::from_str::<UpOptions>("[registries.'r']\ninsecure = true").is_err());
    }

    #[test]
    fn an_unknown_option_in_the_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("knarr.toml");
        fs::write(&file, "pod-cdr = '10.0.0.0/16'\n").unwrap();
        let refused = Config::from_options(UpOptions { config: Some(file), ..UpOptions::default() }).unwrap_err().to_string();
        assert!(refused.contains("unknown field `pod-cdr`"), "{refused}");
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("knarr.toml");
        fs::write(&file, "node-name = 'file'\ncluster-domain = 'file.local'\n").unwrap();
        let told = UpOptions { config: Some(file), node_name: Some("line".to_owned()), ..UpOptions::default() };
        let config = Config::from_options(told).unwrap();
        assert_eq!((&*config.node_name, &*config.cluster_domain), ("line", "file.local"));
    }
}
