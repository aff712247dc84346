//! Other API servers behind this one (KEP-free, older than KEPs: kube-aggregator): an APIService names the Service of a server for one version of a
//! group, and requests to that version are passed on to it under the caller's name.
//!
//! [`Aggregator`] follows the APIServices, and of Services and EndpointSlices those that they name. It keeps the APIServices of what this server serves
//! itself (`local`), asks each extension server whether it works (`probe`), writes what it learns into the condition `Available`, and publishes it with
//! the kinds (`remote`), so that requests (`proxy`), discovery and OpenAPI (`merge`) see one state. Whatever it does it decides anew from the store.

mod local;
mod merge;
mod probe;
mod proxy;
mod remote;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use knarr_api::Object;
use knarr_store::{Batch, Collection, CommitError, Expect, HistoryError, Revision, Store, Watch};
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub(crate) use local::{OWN_GROUP, Priorities, priorities};
pub(crate) use merge::openapi_v2;
pub(crate) use proxy::{openapi_v3, serve};
pub(crate) use remote::{Availability, Remote, Remotes};

use crate::{
    callout::{self, Callout},
    custom::Registry,
    pki::Certificate,
};
use local::Priorities as Order;
use remote::{Service, Told};

/// A server that works is asked again after this: nothing tells when one stops working. Upstream's controller has the same.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// One that does not work is asked again after this, and then after twice as long, up to [`PROBE_EVERY`].
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// What is known of one extension server beside what is published.
struct Known {
    remote: Arc<Remote>,
    /// When it is asked next; none while it is being asked.
    due: Option<Instant>,
    failures: u32,
    /// Something changed while it was asked: what comes back is old.
    stale: bool,
}

impl Known {
    fn new(remote: Remote) -> Known {
        Known { remote: Arc::new(remote), due: Some(Instant::now()), failures: 0, stale: false }
    }

    /// Asks as soon as possible.
    fn wake(&mut self) {
        match &mut self.due {
            Some(due) => *due = Instant::now(),
            None => self.stale = true,
        }
        self.failures = 0;
    }

    fn answered(&mut self, availability: Availability, told: Told) {
        let pause = match availability {
            Availability::Available => PROBE_EVERY,
            _ => RETRY_FIRST.saturating_mul(1 << self.failures.min(16)).min(PROBE_EVERY),
        };
        self.failures = if availability == Availability::Available { 0 } else { self.failures.saturating_add(1) };
        let pause = if std::mem::take(&mut self.stale) { Duration::ZERO } else { pause };
        self.due = Some(Instant::now() + pause);
        self.remote = Arc::new(Remote { availability, told, ..Remote::clone(&self.remote) });
    }
}

/// Follows the APIServices until the store closes.
pub(crate) struct Aggregator {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    callout: Callout,
    /// The front proxy's.
    identity: Arc<Certificate>,
    known: BTreeMap<String, Known>,
    probes: JoinSet<(String, Availability, Told)>,
}

/// The collections that are followed.
struct Watches {
    api_services: Watch,
    services: Watch,
    slices: Watch,
}

impl Watches {
    fn open(store: &dyn Store, after: Revision) -> Result<Watches, HistoryError> {
        let watch = |collection: &'static str| store.watch(&Collection::new(collection), after);
        Ok(Watches {
            api_services: watch(local::COLLECTION)?,
            services: watch("core/services")?,
            slices: watch("discovery.k8s.io/endpointslices")?,
        })
    }
}

impl Aggregator {
    pub(crate) fn new(store: Arc<dyn Store>, registry: Arc<Registry>, callout: Callout, identity: Arc<Certificate>) -> Aggregator {
        Aggregator { store, registry, callout, identity, known: BTreeMap::new(), probes: JoinSet::new() }
    }

    pub(crate) async fn run(mut self) {
        let mut starting = true;
        let mut kinds = self.registry.changes();
        loop {
            let Ok(mut watches) = Watches::open(&*self.store, self.store.snapshot().revision) else { return };
            // Whatever was missed between two sets of watches is seen by looking at everything.
            self.known.values_mut().for_each(Known::wake);
            loop {
                kinds.borrow_and_update();
                starting &= !self.settle(starting).await;
                let due = self.known.values().filter_map(|known| known.due).min();
                let event = tokio::select! {
                    batch = watches.api_services.next() => batch.map(drop),
                    batch = watches.services.next() => batch.map(|batch| self.wake_services(&batch)),
                    batch = watches.slices.next() => batch.map(|batch| self.wake_slices(&batch)),
                    Some(probed) = self.probes.join_next() => { self.learn(probed); Ok(()) }
                    _ = kinds.changed() => Ok(()),
                    () = sleep_until(due) => Ok(()),
                };
                match event {
                    Ok(()) => {}
                    Err(HistoryError::Closed) => return,
                    // Fallen behind.
                    Err(_) => break,
                }
            }
        }
    }

    /// Brings everything to what the store says now. Whether what was to be written is: if not, the next change of anything brings it again.
    async fn settle(&mut self, starting: bool) -> bool {
        let snapshot = self.store.snapshot();
        let kinds = self.registry.now();
        let writes = local::plan(&snapshot, &kinds.kinds, starting, Timestamp::now());
        let kept = writes.is_empty() || self.commit(writes).await;
        self.read(&self.store.snapshot());
        self.ask();
        self.publish();
        self.tell().await;
        kept
    }

    /// Takes the extension servers from the APIServices; those that are not new keep what is known of them.
    fn read(&mut self, snapshot: &knarr_store::Snapshot) {
        let mut found = HashSet::new();
        for entry in snapshot.range(&Collection::new(local::COLLECTION), "", None) {
            let object = local::read(entry);
            let Some(service) = Service::of(&object) else { continue };
            let (group, version) = (object.str(&["spec", "group"]).to_owned(), object.str(&["spec", "version"]).to_owned());
            if group.is_empty() || group == OWN_GROUP {
                continue;
            }
            found.insert(entry.key.name.to_string());
            let number = |key: &str| object.int(&["spec", key]).unwrap_or(0);
            let order = Order { group: number("groupPriorityMinimum"), version: number("versionPriority") };
            match self.known.get_mut(&*entry.key.name) {
                Some(known) if known.remote.service == service => {
                    if known.remote.priorities != order {
                        known.remote = Arc::new(Remote { priorities: order, ..Remote::clone(&known.remote) });
                    }
                }
                _ => {
                    let target = self.target(&service);
                    let (availability, told) = (Availability::Unknown, Told::default());
                    let remote = Remote { group, version, priorities: order, service, target, availability, told };
                    self.known.insert(entry.key.name.to_string(), Known::new(remote));
                }
            }
        }
        self.known.retain(|name, _| found.contains(name));
    }

    fn target(&self, service: &Service) -> Option<Arc<callout::Target>> {
        let bundle = Some(&*service.ca_bundle).filter(|bundle| !bundle.is_empty());
        let trust = callout::Trust { authorities: bundle, insecure: service.insecure, identity: Some(self.identity.clone()) };
        match callout::Target::of_service(&service.namespace, &service.name, service.port, "", trust) {
            Ok(target) => Some(Arc::new(target)),
            Err(error) => {
                tracing::warn!(service = ?service.name, error = &error as &dyn std::error::Error, "an APIService cannot be used");
                None
            }
        }
    }

    /// Asks those whose time has come.
    fn ask(&mut self) {
        let now = Instant::now();
        for (name, known) in &mut self.known {
            if known.due.is_some_and(|due| due <= now) {
                known.due = None;
                let (name, remote, callout) = (name.clone(), known.remote.clone(), self.callout.clone());
                let snapshot = self.store.snapshot();
                self.probes.spawn(async move {
                    let (availability, told) = probe::run(callout, snapshot, remote).await;
                    (name, availability, told)
                });
            }
        }
    }

    fn learn(&mut self, probed: Result<(String, Availability, Told), tokio::task::JoinError>) {
        match probed {
            Ok((name, availability, told)) => {
                if let Some(known) = self.known.get_mut(&name).filter(|known| known.due.is_none()) {
                    known.answered(availability, told);
                }
            }
            Err(error) => {
                tracing::error!(%error, "ask an extension server");
                // Which one it was is not told: all that are being asked are asked again.
                self.known
                    .values_mut()
                    .filter(|known| known.due.is_none())
                    .for_each(|known| known.due = Some(Instant::now() + PROBE_EVERY));
            }
        }
    }

    fn publish(&self) {
        let now = self.registry.now();
        let remotes: BTreeMap<_, _> =
            self.known.values().map(|known| ((known.remote.group.clone(), known.remote.version.clone()), known.remote.clone())).collect();
        let same = remotes.len() == now.remotes.0.len()
            && remotes.iter().all(|(key, remote)| now.remotes.0.get(key).is_some_and(|published| published.same(remote)));
        if !same {
            self.registry.publish_remotes(Remotes(remotes));
        }
    }

    /// Writes the conditions that do not say what is known.
    async fn tell(&mut self) {
        let snapshot = self.store.snapshot();
        let mut writes = Vec::new();
        for entry in snapshot.range(&Collection::new(local::COLLECTION), "", None) {
            let mut object = local::read(entry);
            let (status, reason, message) = match self.known.get(&*entry.key.name).map(|known| &known.remote.availability) {
                Some(Availability::Unknown) => continue,
                Some(Availability::Available) => ("True", "Passed", "all checks passed"),
                Some(Availability::Unavailable { reason, message }) => ("False", *reason, message.as_str()),
                None if Service::of(&object).is_none() => ("True", "Local", "Local APIServices are always available"),
                None => continue,
            };
            if set_condition(&mut object, status, reason, message, Timestamp::now()) {
                writes.push(local::put(entry.key.clone(), Expect::Revision(entry.revision), object));
            }
        }
        if !writes.is_empty() {
            self.commit(writes).await;
        }
    }

    /// Whether it was written. If not because someone was faster, that change is on its way here.
    async fn commit(&self, writes: Vec<knarr_store::Write>) -> bool {
        match self.store.commit(writes).await {
            Ok(_) => true,
            Err(CommitError::Conflict { .. } | CommitError::Closed) => false,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "write the APIServices");
                false
            }
        }
    }

    fn wake_services(&mut self, batch: &Batch) {
        let changed: HashSet<String> = batch.events.iter().map(|event| event.entry.key.name.to_string()).collect();
        self.wake(&changed);
    }

    fn wake_slices(&mut self, batch: &Batch) {
        if self.known.is_empty() {
            return;
        }
        let service = |event: &Arc<knarr_store::Event>| {
            let object = local::read(&event.entry);
            Some(format!("{}/{}", object.namespace(), object.label("kubernetes.io/service-name")?))
        };
        let changed: HashSet<String> = batch.events.iter().filter_map(service).collect();
        self.wake(&changed);
    }

    /// `services` are `namespace/name`.
    fn wake(&mut self, services: &HashSet<String>) {
        for known in self.known.values_mut() {
            let Service { namespace, name, .. } = &known.remote.service;
            if services.contains(&format!("{namespace}/{name}")) {
                known.wake();
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Sets the condition `Available`; false if it says so already. Its time is that of the last change of its status.
fn set_condition(object: &mut Object, status: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let old =
        object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == "Available").cloned().unwrap_or(Value::Null);
    if (old["status"].as_str(), old["reason"].as_str(), old["message"].as_str()) == (Some(status), Some(reason), Some(message)) {
        return false;
    }
    let time = match old["status"] == status {
        true => old["lastTransitionTime"].clone(),
        false => now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
    };
    let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": time});
    object.set(&["status", "conditions"], json!([condition]));
    true
}
