//! What each part is told, from what the user said.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use knarr_apiserver::{
    ApiServer,
    authn::SecretTokens,
    encryption::Encryption,
    pki::{Certificate, Sans},
};
use knarr_network::{NetConfig, NodeNetwork, dns};
use knarr_runtime::{Runtime, RuntimeConfig};

use super::addresses;
use crate::{config::Config, place::Held, report::Failure};

/// A container's log is rotated at this many bytes, and this many files are kept (upstream: KubeletConfiguration containerLogMaxSize, containerLogMaxFiles).
const LOG_BYTES_MAX: u64 = 10 << 20;
const LOG_FILES: u32 = 5;

/// Where the kubelet's API listens if it can (upstream: KubeletConfiguration.port); another port is reported in the Node.
const KUBELET_PORT: u16 = 10_250;

pub(super) fn api_config(
    config: &Config,
    held: &Held,
    node_ip: IpAddr,
    encryption: &Arc<Encryption>,
) -> Result<knarr_apiserver::Config, Failure> {
    let mut extra_sans = config.tls_san.clone();
    extra_sans.push(config.node_name.clone());
    Ok(knarr_apiserver::Config {
        listen: config.listen.clone(),
        data_dir: held.data_dir.clone(),
        service_cidr: config.service_cidr.into(),
        cluster_domain: config.cluster_domain.clone(),
        node_port_range: 30_000..=32_767,
        advertise: node_ip,
        extra_sans,
        addresses: addresses::at_start(config, node_ip),
        issuers: config.access.issuers(&config.cluster_domain),
        access: config.access.told()?,
        admission: config.admission_control_config_file.clone(),
        audit: audit(config, held),
        encryption: Some(encryption.clone()),
    })
}

fn audit(config: &Config, held: &Held) -> knarr_apiserver::AuditSettings {
    let default = knarr_apiserver::LogSettings::in_data_dir(&held.data_dir);
    let told = &config.audit;
    let log = knarr_apiserver::LogSettings {
        path: told.audit_log_path.clone().unwrap_or(default.path),
        megabytes_max: told.audit_log_maxsize.unwrap_or(default.megabytes_max),
        backups_max: told.audit_log_maxbackup.unwrap_or(default.backups_max),
        days_max: told.audit_log_maxage.unwrap_or(default.days_max),
    };
    knarr_apiserver::AuditSettings {
        policy_file: told.audit_policy_file.clone(),
        log: Some(log),
        webhook_config_file: told.audit_webhook_config_file.clone(),
    }
}

pub(super) fn controllers_config(config: &Config, api: &ApiServer) -> knarr_controllers::Config {
    let pki = api.pki().clone();
    let sign = move |order: &knarr_controllers::Order<'_>| {
        pki.sign_request(order.request, order.usages, order.seconds).map_err(|error| error.to_string())
    };
    knarr_controllers::Config {
        cluster_cidr: config.pod_cidr.to_string(),
        root_ca: api.pki().ca_pem().to_owned(),
        authority: Some(knarr_controllers::Authority(Arc::new(sign))),
        token_signer: Some(knarr_controllers::TokenSigner(Arc::new(Tokens(api.secret_tokens())))),
    }
}

struct Tokens(SecretTokens);

impl knarr_controllers::SecretTokens for Tokens {
    fn sign(&self, order: &knarr_controllers::TokenOrder<'_>) -> Result<String, String> {
        self.0.sign(order.namespace, order.account, order.account_uid, order.secret).map_err(|error| error.to_string())
    }

    fn knows(&self, order: &knarr_controllers::TokenOrder<'_>, token: &str) -> bool {
        self.0.knows(order.namespace, order.account, order.account_uid, order.secret, token)
    }
}

pub(super) fn dns_config(config: &Config) -> dns::DnsConfig {
    dns::DnsConfig {
        listen: vec![SocketAddr::new(config.dns_ip().into(), 53)],
        domain: config.cluster_domain.clone(),
        upstreams: dns::Upstreams::File("/etc/resolv.conf".into()),
    }
}

pub(super) fn dns_place(held: &Held) -> Result<dns::Place, Failure> {
    Ok(dns::Place { run_dir: held.run_dir(), program: std::env::current_exe()? })
}

/// The kubelet's certificate.
pub(super) fn kubelet_certificate(config: &Config, node_ip: IpAddr, api: &ApiServer) -> Result<Arc<Certificate>, Failure> {
    Ok(api.pki().node_serving(&config.node_name, &kubelet_sans(config, &addresses::at_start(config, node_ip)))?)
}

pub(super) fn kubelet_sans(config: &Config, addresses: &BTreeSet<IpAddr>) -> Sans {
    let mut sans = Sans::default();
    sans.add_name(&config.node_name);
    addresses.iter().for_each(|address| sans.add_address(*address));
    sans
}

pub(super) fn kubelet_config(
    config: &Config,
    held: &Held,
    node_ip: IpAddr,
    api: &ApiServer,
    serving: &Arc<Certificate>,
) -> knarr_kubelet::Config {
    knarr_kubelet::Config {
        node_name: config.node_name.clone(),
        node_ips: vec![node_ip],
        data_dir: held.data_dir.clone(),
        cgroup_root: held.cgroup_root(),
        cluster_domain: config.cluster_domain.clone(),
        dns: vec![config.dns_ip().into()],
        listen: SocketAddr::new(node_ip, KUBELET_PORT),
        tls: knarr_kubelet::Tls { certificate: serving.clone(), client_ca: api.pki().ca_pem().as_bytes().to_vec() },
        labels: Default::default(),
        taints: Vec::new(),
        pod_cidr: Some(config.node_pod_cidr().to_string()),
        pods_max: knarr_kubelet::PODS_MAX,
        resolv_conf: "/etc/resolv.conf".into(),
        seccomp_root: held.data_dir.join("seccomp"),
    }
}

pub(crate) fn net_config(config: &Config, held: &Held, node_ip: IpAddr) -> NetConfig {
    NetConfig {
        cluster_id: held.id.clone(),
        pod_cidr: config.node_pod_cidr().into(),
        cluster_cidr: config.pod_cidr.into(),
        service_cidr: config.service_cidr.into(),
        node_ip,
        dns_ip: config.dns_ip().into(),
        mtu: None,
    }
}

pub(super) async fn open_network(config: &Config, held: &Held, node_ip: IpAddr) -> Result<NodeNetwork, Failure> {
    let net = net_config(config, held, node_ip);
    Ok(tokio::task::spawn_blocking(move || NodeNetwork::open(net)).await??)
}

pub(crate) async fn open_runtime(config: &Config, held: &Held) -> Result<Runtime, Failure> {
    let runtime = RuntimeConfig {
        data_dir: held.data_dir.clone(),
        cgroup_root: held.cgroup_root(),
        keeper_exe: std::env::current_exe()?,
        log_max_bytes: LOG_BYTES_MAX,
        log_files: LOG_FILES,
        registries: config.registries(),
    };
    Ok(Runtime::open(runtime).await?)
}

/// The address that others reach this machine by: the one that leads out of it. A machine that is on no network still has its bridge.
pub(crate) fn node_ip(config: &Config) -> IpAddr {
    outward_ip().unwrap_or_else(|| Ipv4Addr::from_bits(config.node_pod_cidr().network().to_bits() + 1).into())
}

/// Asks the kernel which source it would take to a far address (RFC 5737). Nothing is sent: that is what connecting a UDP socket does.
fn outward_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}
