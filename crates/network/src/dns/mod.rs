//! DNS of one node: the cluster's names from the informers, all others from the upstream servers.
//!
//! Watches: Service, EndpointSlice.  Owns: the sockets on the cluster's DNS address.
//! Answers by the Kubernetes DNS specification 1.1.0: `zone` holds the names, `server` the sockets and messages, `forward` asks
//! upstream, `cache` remembers what it said.
//! Never: translates addresses (a question reaches the node's own address); asks upstream for a name of the cluster domain; asks
//! itself; says that a cluster name does not exist before it has seen the cluster.
//!
//! A resolver with `ndots:5` tries a name outside the cluster under each search domain first. Those tries end here, in a lookup
//! without I/O. They are not answered with the final name at once (as CoreDNS's autopath does): that is right only if the
//! asking pod uses exactly the default search list, which its dnsConfig may change.

mod cache;
mod forward;
mod resolv;
mod server;
mod zone;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Change, Cluster, ObjectKey};
use parking_lot::{Mutex, RwLock};

use crate::services::service_of;
use forward::Forwarder;
use server::Server;
use zone::Zone;

/// What the DNS server of one node needs to know.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses to answer on, UDP and TCP; one is the cluster's DNS address.
    pub listen: Vec<SocketAddr>,
    /// The cluster domain without a final dot, `cluster.local`.
    pub domain: String,
    /// Servers for names outside the cluster domain.
    pub upstreams: Upstreams,
}

/// Where names outside the cluster domain are asked.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// The nameservers of this file, read again when it changes. Usually `/etc/resolv.conf`.
    File(PathBuf),
    /// Exactly these.
    Fixed(Vec<SocketAddr>),
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the cluster domain {domain:?} is not a domain name")]
    Domain { domain: String },
    #[error("answer DNS on {protocol} {address}; a DNS server that listens on all addresses of the machine would be in the way")]
    Bind {
        protocol: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("read DNS questions on {address}")]
    Receive {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Answers until dropped. Fails at once if the addresses cannot be bound.
pub async fn run(cluster: Cluster, config: DnsConfig) -> Result<(), DnsError> {
    let index = Arc::new(Index::new(&config)?);
    let forwarder = Forwarder::new(config.upstreams.clone(), &config.listen);
    let server = Server::bind(&config.listen, index.zone.clone(), forwarder).await?;
    let (services, slices) = (cluster.informer::<Service>(), cluster.informer::<EndpointSlice>());
    let follow = async {
        services.ready().await;
        slices.ready().await;
        let (of_services, of_slices) = (index.clone(), index.clone());
        slices.subscribe(move |change| of_slices.slice(change));
        services.subscribe(move |change| of_services.service(change));
        index.zone.write().complete();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = server.serve() => result,
        () = follow => Ok(()),
    }
}

/// Keeps the zone as the informers see the cluster. A change costs what its Service costs.
struct Index {
    zone: Arc<RwLock<Zone>>,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    services: HashMap<ObjectKey, Arc<Service>>,
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
}

impl Index {
    fn new(config: &DnsConfig) -> Result<Index, DnsError> {
        let own = config.listen.first().map(SocketAddr::ip);
        let zone = Zone::new(&config.domain, own).ok_or_else(|| DnsError::Domain { domain: config.domain.clone() })?;
        Ok(Index { zone: Arc::new(RwLock::new(zone)), sources: Mutex::default() })
    }

    fn service(&self, change: &Change<Service>) {
        let key = ObjectKey::of(&**change.object());
        let mut sources = self.sources.lock();
        match change {
            Change::Applied { new, .. } => sources.services.insert(key.clone(), new.clone()),
            Change::Deleted(_) => sources.services.remove(&key),
        };
        self.refresh(&sources, &key);
    }

    fn slice(&self, change: &Change<EndpointSlice>) {
        let mut sources = self.sources.lock();
        let (gone, come) = match change {
            Change::Applied { old, new } => (old.as_ref(), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let mut touched = Vec::new();
        if let Some((slice, key)) = gone.and_then(|slice| Some((slice, service_of(slice)?))) {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            if let Some(slices) = sources.slices.get_mut(&key) {
                slices.remove(name);
                if slices.is_empty() {
                    sources.slices.remove(&key);
                }
            }
            touched.push(key);
        }
        if let Some((slice, key)) = come.and_then(|slice| Some((slice, service_of(slice)?))) {
            let name = slice.metadata.name.clone().unwrap_or_default();
            sources.slices.entry(key.clone()).or_default().insert(name, slice.clone());
            touched.push(key);
        }
        touched.iter().for_each(|key| self.refresh(&sources, key));
    }

    fn refresh(&self, sources: &Sources, key: &ObjectKey) {
        let slices: Vec<_> = sources.slices.get(key).into_iter().flat_map(|slices| slices.values()).map(|slice| &**slice).collect();
        let service = sources.services.get(key).map(|service| &**service);
        self.zone.write().set(&key.namespace, &key.name, service, &slices);
    }
}
