//! How a server is set up.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::{authn::Proxy, encryption::Encryption};

#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. Port 0 takes any free port, which [`crate::ApiServer::addresses`] tells.
    pub listen: Vec<SocketAddr>,
    /// The data directory; keys and certificates are in its `pki/`.
    pub data_dir: PathBuf,
    /// The addresses of Services; the first is the API server's own.
    pub service_cidr: IpNet,
    pub cluster_domain: String,
    pub node_port_range: RangeInclusive<u16>,
    /// Where nodes and pods reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: IpAddr,
    /// Further names and addresses for the serving certificate.
    pub extra_sans: Vec<String>,
    /// The machine's addresses now, for the serving certificate too; [`crate::ApiServer::set_addresses`] tells of later ones.
    pub addresses: BTreeSet<IpAddr>,
    /// The issuers of service account tokens, URLs: the first is named in new ones, those of the others are accepted too.
    pub issuers: Vec<String>,
    /// What is recorded of requests, and where that goes.
    pub audit: crate::AuditSettings,
    pub access: Access,
    /// A file with an AdmissionConfiguration, which is read at the start.
    pub admission: Option<PathBuf>,
    /// What the store seals with; its key services count for the server's health.
    pub encryption: Option<Arc<Encryption>>,
}

impl Config {
    /// One server with its data below `data_dir`, upstream's usual ranges, no audit, and nobody else asked about callers.
    pub fn new(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            listen: vec![listen],
            data_dir,
            service_cidr: IpNet::new_assert(Ipv4Addr::new(10, 43, 0, 0).into(), 16),
            cluster_domain: "cluster.local".to_owned(),
            node_port_range: 30_000..=32_767,
            advertise: listen.ip(),
            extra_sans: Vec::new(),
            addresses: BTreeSet::new(),
            issuers: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            audit: crate::AuditSettings::default(),
            access: Access::default(),
            admission: None,
            encryption: None,
        }
    }
}

/// Who is let in, beside those whom the cluster itself knows, and who else decides what they may do.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A file with an AuthenticationConfiguration, which is followed as it changes.
    pub authentication: Option<PathBuf>,
    /// A file with an AuthorizationConfiguration, which is followed as it changes; without it, Node and RBAC decide.
    pub authorization: Option<PathBuf>,
    /// A service that knows tokens.
    pub token_webhook: Option<TokenWebhook>,
    pub proxy: Proxy,
}

#[derive(Clone, Debug)]
pub struct TokenWebhook {
    /// Where it is, and how it is spoken to.
    pub kubeconfig: PathBuf,
    /// How long its answers are remembered.
    pub remember: Duration,
}
