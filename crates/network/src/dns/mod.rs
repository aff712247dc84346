//! DNS of one node: the cluster's names as the informers see them, all others from the upstream servers.
//!
//! Watches: Service, EndpointSlice.  Owns: the DNS process, and through it the sockets on the cluster's DNS address.
//! Names must be resolved while Knarr restarts, or a crash of it is one of every pod that looks a name up. So a small process of its own
//! answers ([`keeper`]); here it is found or started ([`process`]) and fed what changes ([`wire`]).
//! Answers by the Kubernetes DNS specification 1.1.0: `zone` holds the names, `server` the sockets and messages, `forward` asks
//! upstream, `cache` remembers what it said.
//! Never: translates addresses (a question reaches the node's own address); asks upstream for a name of the cluster domain; asks
//! itself; says that a cluster name does not exist before it has seen the cluster.
//!
//! A resolver with `ndots:5` tries a name outside the cluster under each search domain first. Those tries end here, in a lookup
//! without I/O. They are not answered with the final name at once (as CoreDNS's autopath does): that is right only if the
//! asking pod uses exactly the default search list, which its dnsConfig may change.

mod cache;
mod entry;
mod forward;
mod keeper;
mod process;
mod resolv;
mod server;
mod wire;
mod zone;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_client::{Change, Cluster, ObjectKey};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::services::service_of;
use entry::Entry;
use wire::{Line, Order, Report};
use zone::Zone;

pub use keeper::keeper_main;
pub use process::{KEEPER_VERB, Place, end};
pub use wire::Protocol;

/// Before the DNS process is started again after it was lost and could not be had at once. Long enough to keep a program that cannot run from
/// filling the log, short against the 5 s that a resolver waits.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What the DNS server of one node needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses to answer on, UDP and TCP; one is the cluster's DNS address.
    pub listen: Vec<SocketAddr>,
    /// The cluster domain without a final dot, `cluster.local`.
    pub domain: String,
    /// Servers for names outside the cluster domain.
    pub upstreams: Upstreams,
}

/// Where names outside the cluster domain are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
        protocol: Protocol,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("run the DNS process of {run_dir}")]
    Process {
        run_dir: PathBuf,
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

/// Where the DNS process of a node is spoken to.
fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("dns.sock")
}

/// Has the cluster's names answered, and keeps them true until dropped; they are answered on after that. Fails at once if the addresses
/// cannot be bound.
pub async fn run(cluster: Cluster, config: DnsConfig, place: Place) -> Result<(), DnsError> {
    if Zone::of(&config).is_none() {
        return Err(DnsError::Domain { domain: config.domain });
    }
    let mut line = place.find_or_start(&config).await?;
    let (services, slices) = (cluster.informer::<Service>(), cluster.informer::<EndpointSlice>());
    services.ready().await;
    slices.ready().await;
    let index = Arc::new(Index::default());
    let (of_services, of_slices) = (index.clone(), index.clone());
    slices.subscribe(move |change| of_slices.slice(change));
    services.subscribe(move |change| of_services.service(change));
    loop {
        let error = match index.feed(&mut line).await {
            Ok(()) => "it ended".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, run_dir = %place.run_dir.display(), "the DNS process is lost; another is started");
        line = loop {
            match place.find_or_start(&config).await {
                Ok(line) => break line,
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "start the DNS process"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        };
    }
}

/// What the informers say, by Service, and which Services the DNS process has yet to hear of.
#[derive(Default)]
struct Index {
    sources: Mutex<Sources>,
    changed: Notify,
}

#[derive(Default)]
struct Sources {
    services: HashMap<ObjectKey, Arc<Service>>,
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
    untold: BTreeSet<ObjectKey>,
}

impl Index {
    /// Tells all there is, and then what changes. Returns when the other end is gone.
    async fn feed(&self, line: &mut Line) -> io::Result<()> {
        {
            let mut sources = self.sources.lock();
            sources.untold = sources.services.keys().cloned().collect();
        }
        self.tell(line).await?;
        line.send(&Order::Complete).await?;
        loop {
            tokio::select! {
                () = self.changed.notified() => self.tell(line).await?,
                report = line.receive::<Report>() => return report.map(drop),
            }
        }
    }

    async fn tell(&self, line: &mut Line) -> io::Result<()> {
        while let Some((key, entry)) = self.next() {
            let (namespace, name) = (key.namespace.clone(), key.name.clone());
            match line.feed(&Order::Set { namespace, name, entry }).await {
                // The others are told nevertheless: asking for a new process would end at the same place.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::error!(
                        namespace = key.namespace,
                        service = key.name,
                        "it has too many endpoints and ports for DNS: its name is not answered"
                    );
                    line.feed(&Order::Set { namespace: key.namespace, name: key.name, entry: None }).await?;
                }
                result => result?,
            }
        }
        line.flush().await
    }

    fn next(&self) -> Option<(ObjectKey, Option<Entry>)> {
        let mut sources = self.sources.lock();
        let key = sources.untold.pop_first()?;
        let slices: Vec<_> = sources.slices.get(&key).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice).collect();
        let entry = sources.services.get(&key).and_then(|service| Entry::of(service, &slices));
        Some((key, entry))
    }

    fn service(&self, change: &Change<Service>) {
        let key = ObjectKey::of(&**change.object());
        let mut sources = self.sources.lock();
        match change {
            Change::Applied { new, .. } => sources.services.insert(key.clone(), new.clone()),
            Change::Deleted(_) => sources.services.remove(&key),
        };
        sources.untold.insert(key);
        self.changed.notify_one();
    }

    fn slice(&self, change: &Change<EndpointSlice>) {
        let mut sources = self.sources.lock();
        let (gone, come) = match change {
            Change::Applied { old, new } => (old.as_ref(), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        if let Some((slice, key)) = gone.and_then(|slice| Some((slice, service_of(slice)?))) {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            if let Some(slices) = sources.slices.get_mut(&key) {
                slices.remove(name);
                if slices.is_empty() {
                    sources.slices.remove(&key);
                }
            }
            sources.untold.insert(key);
        }
        if let Some((slice, key)) = come.and_then(|slice| Some((slice, service_of(slice)?))) {
            let name = slice.metadata.name.clone().unwrap_or_default();
            sources.slices.entry(key.clone()).or_default().insert(name, slice.clone());
            sources.untold.insert(key);
        }
        self.changed.notify_one();
    }
}
