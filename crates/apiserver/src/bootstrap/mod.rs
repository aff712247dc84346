//! What a cluster has before anyone asks: namespaces, roles and bindings, priority classes, the range of Services' addresses, the Services
//! `kubernetes` and `kube-dns`, and the endpoints behind the first.
//!
//! Runs at every start, before the listeners open. `plan` compares what is stored with what must be there and says what to write;
//! `run` writes it in one durable commit. What an administrator added to a built-in role stays; what was taken away comes back.

mod flow;
mod objects;
mod roles;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use knarr_store::{Collection, CommitError, Expect, Key, Snapshot, Store, Write};
use serde_json::Value;

use crate::{allocate, pki::Pki};
pub(crate) use roles::built_in_rules;
use roles::{Object, Reconciled};

/// Times that a start plans again because another writer was faster. With one server there is none.
const ATTEMPTS_MAX: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("the service range {range} has no room for the address of {service}")]
    Range { range: IpNet, service: &'static str },
    #[error("write the built-in objects")]
    Commit {
        #[source]
        source: CommitError,
    },
    #[error("write the built-in objects: another server changed them {ATTEMPTS_MAX} times meanwhile")]
    Contended,
}

/// What the built-in objects say of this cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where pods and nodes reach the API server.
    pub advertise: SocketAddr,
    pub service_cidr: IpNet,
    pub ca_pem: String,
    pub front_proxy_ca_pem: String,
}

impl Settings {
    pub fn new(config: &crate::Config, advertise: SocketAddr, pki: &Pki) -> Settings {
        Settings {
            advertise,
            service_cidr: config.service_cidr,
            ca_pem: pki.ca_pem().to_owned(),
            front_proxy_ca_pem: pki.front_proxy_ca_pem().to_owned(),
        }
    }
}

/// Address number `index` of a range: the API service has the first, DNS the tenth.
pub(crate) fn service_address(range: IpNet, index: u128) -> Option<IpAddr> {
    let address = match range {
        IpNet::V4(range) => u32::try_from(index)
            .ok()
            .and_then(|index| u32::from(range.network()).checked_add(index))
            .map(|bits| IpAddr::from(bits.to_be_bytes())),
        IpNet::V6(range) => u128::from(range.network()).checked_add(index).map(|bits| IpAddr::from(bits.to_be_bytes())),
    };
    address.filter(|address| range.contains(address) && range.broadcast() != *address)
}

/// Makes every built-in object that is missing, and mends those that lack something.
pub async fn run(store: &dyn Store, settings: &Settings) -> Result<(), BootstrapError> {
    let wanted = objects::wanted(settings)?;
    for _ in 0..ATTEMPTS_MAX {
        let writes = plan(&store.snapshot(), &wanted, Timestamp::now());
        if writes.is_empty() {
            return Ok(());
        }
        match store.commit(writes).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict { .. }) => {}
            Err(source) => return Err(BootstrapError::Commit { source }),
        }
    }
    Err(BootstrapError::Contended)
}

/// The flow schemas and priority levels that the server cannot be without, with their collections: `exempt` and `catch-all`.
pub(crate) fn mandatory_flow() -> impl Iterator<Item = (&'static str, Value)> {
    let levels = flow::levels().map(|level| (objects::PRIORITY_LEVELS, level));
    let all = levels.chain(flow::schemas().map(|schema| (objects::FLOW_SCHEMAS, schema)));
    all.filter(|(_, value)| ["exempt", "catch-all"].iter().any(|name| value["metadata"]["name"] == *name))
}

/// What of that is not stored, to be written.
pub(crate) fn missing_flow(snapshot: &Snapshot) -> Vec<Write> {
    let missing = mandatory_flow().filter(|(collection, value)| {
        let key = Key::new(&Collection::new(collection), "", value["metadata"]["name"].as_str().unwrap_or_default());
        snapshot.get(&key).is_none()
    });
    let wanted: Vec<Wanted> = missing.map(|(collection, value)| objects::wanted_as(Keep::AsIs, collection, value)).collect();
    plan(snapshot, &wanted, Timestamp::now())
}

/// An object that must be there.
struct Wanted {
    collection: &'static str,
    object: Object,
    keep: Keep,
}

/// What to do when the object is stored already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// Leave it.
    AsIs,
    /// Its `data`, `subsets`, `endpoints` and `ports` (of a Service those in the spec) follow this server's settings.
    Content,
    /// Add what is missing, see [`roles::reconcile`].
    Rights,
}

/// The fields that [`Keep::Content`] follows.
const CONTENT: [&str; 4] = ["data", "subsets", "endpoints", "ports"];

fn plan(snapshot: &Snapshot, wanted: &[Wanted], now: Timestamp) -> Vec<Write> {
    let mut decided: Vec<(Key, Expect, Object, bool)> = Vec::with_capacity(wanted.len());
    for item in wanted {
        let metadata = &item.object["metadata"];
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or("");
        let key = Key::new(&Collection::new(item.collection), text("namespace"), text("name"));
        let Some(entry) = snapshot.get(&key) else {
            if let Some(holder) = allocate::holder(snapshot, &item.object) {
                tracing::error!(
                    service = %key, %holder,
                    "the Service is missing, and somebody else has its address: it is made anew at the first start at which the IPAddress of that is gone"
                );
                continue;
            }
            decided.push((key, Expect::Absent, born(item.object.clone(), now), true));
            continue;
        };
        // What cannot be read cannot be mended either; it is replaced.
        let stored: Object = serde_json::from_slice(&entry.value).unwrap_or_default();
        let expect = Expect::Revision(entry.revision);
        match reconcile(item, &stored) {
            Reconciled::Keep => decided.push((key, expect, stored, false)),
            Reconciled::Update(object) => decided.push((key, expect, object, true)),
            Reconciled::Replace => decided.push((key, expect, born(item.object.clone(), now), true)),
        }
    }
    fill_aggregated(snapshot, &mut decided);
    decided.into_iter().filter(|(_, _, _, write)| *write).map(|(key, expect, object, _)| put(key, expect, object)).collect()
}

fn reconcile(item: &Wanted, stored: &Object) -> Reconciled {
    if !stored.get("metadata").is_some_and(Value::is_object) {
        return Reconciled::Replace;
    }
    match item.keep {
        Keep::AsIs => Reconciled::Keep,
        Keep::Rights => roles::reconcile(stored, &item.object),
        Keep::Content => {
            let mut merged = stored.clone();
            for field in CONTENT {
                if let Some(value) = item.object.get(field) {
                    merged.insert(field.to_owned(), value.clone());
                }
            }
            // Of a Service only the ports: its address is its own.
            if let (Some(ports), Some(spec)) = (item.object.get("spec").and_then(|spec| spec.get("ports")), merged.get_mut("spec")) {
                spec["ports"] = ports.clone();
            }
            match merged == *stored {
                true => Reconciled::Keep,
                false => Reconciled::Update(merged),
            }
        }
    }
}

/// Computes the rules of the built-in aggregated roles from all cluster roles, stored and about to be. Roles that collect from
/// aggregated ones (admin from edit from view) settle in as many rounds as the chain is long.
fn fill_aggregated(snapshot: &Snapshot, decided: &mut [(Key, Expect, Object, bool)]) {
    let cluster_roles = Collection::new("rbac.authorization.k8s.io/clusterroles");
    let mut all: BTreeMap<String, Object> = snapshot
        .range(&cluster_roles, "", None)
        .filter_map(|entry| Some((entry.key.name.to_string(), serde_json::from_slice(&entry.value).ok()?)))
        .collect();
    for (key, _, object, _) in decided.iter().filter(|(key, ..)| key.collection == cluster_roles) {
        all.insert(key.name.to_string(), object.clone());
    }
    loop {
        let mut changed = false;
        for (key, _, object, write) in decided.iter_mut() {
            if key.collection != cluster_roles || !object.get("aggregationRule").is_some_and(Value::is_object) {
                continue;
            }
            let view: BTreeMap<String, &Object> = all.iter().map(|(name, role)| (name.clone(), role)).collect();
            let rules = roles::aggregate(object, &view);
            if object.get("rules") != Some(&rules) {
                object.insert("rules".to_owned(), rules);
                all.insert(key.name.to_string(), object.clone());
                (*write, changed) = (true, true);
            }
        }
        if !changed {
            return;
        }
    }
}

/// Gives a new object its uid and time of creation.
fn born(mut object: Object, now: Timestamp) -> Object {
    let metadata = &mut object["metadata"];
    metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
    metadata["creationTimestamp"] = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    object
}

fn put(key: Key, expect: Expect, mut object: Object) -> Write {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    let encoded = knarr_api::Object(object).encode();
    Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false }
}
