//! The IPAddress of each address of a Service, and what is wrong with those that are stored.
//!
//! An IPAddress is written in the commit of its Service. Those that lack one come from builds that knew none, or from whoever changed the object
//! afterwards; [`plan`] and [`mend`] put that right. What somebody else made is his: it keeps its address from Services and is never touched.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use knarr_api::{Object, time};
use knarr_store::{Collection, Entry, Expect, Key, Snapshot, Write};
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) const COLLECTION: &str = "networking.k8s.io/ipaddresses";
const SERVICES: &str = "core/services";

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Upstream's name of the allocator (ipallocator.go), by which clients know the IPAddresses of Services.
const MANAGER: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// A Service, as IPAddresses name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Holder {
    pub(super) fn of(service: &Object) -> Holder {
        Holder { namespace: service.namespace().to_owned(), name: service.name().to_owned() }
    }

    fn of_entry(service: &Entry) -> Option<Holder> {
        let (namespace, name) = service.key.name.split_once('/')?;
        Some(Holder { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The Service, if it has the address.
    fn has(&self, snapshot: &Snapshot, address: IpAddr) -> bool {
        let service = snapshot.get(&Key::new(&Collection::new(SERVICES), &self.namespace, &self.name));
        service.is_some_and(|service| cluster_ips(service).contains(&address))
    }
}

/// A stored IPAddress, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stored<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow)]
    finalizers: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    parent_ref: Parent<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parent<'a> {
    #[serde(borrow)]
    group: Cow<'a, str>,
    #[serde(borrow)]
    resource: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Stored<'_> {
    fn read(entry: &Entry) -> Stored<'_> {
        // Nothing but the API server writes there, after validation.
        serde_json::from_slice(&entry.value).unwrap_or_default()
    }

    /// Whether it is one of those that Services' addresses have.
    fn is_managed(&self) -> bool {
        self.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
    }

    fn has_labels(&self, address: IpAddr) -> bool {
        self.is_managed() && self.metadata.labels.get(FAMILY).is_some_and(|label| label == family(address))
    }

    fn parent(&self) -> Option<Holder> {
        let Parent { group, resource, namespace, name } = &self.spec.parent_ref;
        (group.is_empty() && resource == "services").then(|| Holder { namespace: namespace.to_string(), name: name.to_string() })
    }
}

pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) fn key(collection: &Collection, address: IpAddr) -> Key {
    Key::new(collection, "", &address.to_string())
}

/// The IPAddress of a Service's address, new.
pub(super) fn put(collection: &Collection, address: IpAddr, holder: &Holder, now: Timestamp) -> Write {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": time::format(now),
            "labels": { FAMILY: family(address), MANAGED_BY: MANAGER },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": holder.namespace, "name": holder.name } },
    });
    write(key(collection, address), &Object::from_value(object).unwrap_or_default(), Expect::Absent)
}

/// Takes away the IPAddress of a Service that gives its address back. One that somebody holds by a finalizer goes when he lets it.
pub(super) fn release(collection: &Collection, snapshot: &Snapshot, address: IpAddr, holder: &Holder, now: Timestamp) -> Option<Write> {
    let entry = snapshot.get(&key(collection, address))?;
    let stored = Stored::read(entry);
    if stored.parent().as_ref() != Some(holder) || stored.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(remove(entry, &stored, now))
}

/// What the deletion of an IPAddress writes beside: the IPAddress again, if its Service still has the address.
pub(super) fn remake(collection: &Collection, snapshot: &Snapshot, deleted: &Entry, now: Timestamp) -> Option<Write> {
    let address = deleted.key.name.parse().ok()?;
    let holder = Stored::read(deleted).parent()?;
    holder.has(snapshot, address).then(|| put(collection, address, &holder, now))
}

/// Whether a stored IPAddress is that of a Service.
/// Whether the IPAddress is one that the server made, or that somebody took the labels from.
pub(super) fn is_of_service(snapshot: &Snapshot, entry: &Entry, address: IpAddr) -> bool {
    let stored = Stored::read(entry);
    stored.is_managed() || stored.parent().is_some_and(|holder| holder.has(snapshot, address))
}

/// Who has the address that a Service, which is not stored, is to have.
pub(crate) fn holder(snapshot: &Snapshot, service: &Map<String, Value>) -> Option<String> {
    let address = service.get("spec")?.get("clusterIP")?.as_str()?.parse().ok()?;
    let entry = snapshot.get(&key(&Collection::new(COLLECTION), address))?;
    let Parent { group, resource, namespace, name } = Stored::read(entry).spec.parent_ref;
    let own = |field: &str| service.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or("");
    let is_own = resource == "services" && *namespace == *own("namespace") && *name == *own("name");
    (!is_own).then(|| format!("{resource}.{group} {namespace}/{name}"))
}

/// What is to be written so that one IPAddress is as it should be.
pub(super) fn mend(collection: &Collection, snapshot: &Snapshot, name: &str, now: Timestamp) -> Vec<Write> {
    let Some(entry) = snapshot.get(&Key::new(collection, "", name)) else { return Vec::new() };
    let Ok(address) = name.parse() else { return Vec::new() };
    let holder = Stored::read(entry).parent().filter(|holder| holder.has(snapshot, address));
    mended(collection, entry, address, holder.as_ref(), now)
}

/// What is to be written so that every address of a Service has its IPAddress, and each of those its Service.
pub(super) fn plan(collection: &Collection, snapshot: &Snapshot, now: Timestamp) -> Vec<Write> {
    let holders = holders(snapshot);
    let mut writes = Vec::new();
    for (address, holder) in &holders {
        if snapshot.get(&key(collection, *address)).is_none() {
            writes.push(put(collection, *address, holder, now));
        }
    }
    for entry in snapshot.range(collection, "", None) {
        let Ok(address) = entry.key.name.parse() else { continue };
        writes.extend(mended(collection, entry, address, holders.get(&address), now));
    }
    writes
}

/// Who has which address. Of two that have the same, the first by name.
fn holders(snapshot: &Snapshot) -> BTreeMap<IpAddr, Holder> {
    let mut holders = BTreeMap::new();
    for service in snapshot.range(&Collection::new(SERVICES), "", None) {
        let Some(holder) = Holder::of_entry(service) else { continue };
        for address in cluster_ips(service) {
            if let Some(first) = holders.get(&address) {
                tracing::warn!(%address, service = %service.key, ?first, "two Services have one address; delete one of them and make it anew");
                continue;
            }
            holders.insert(address, holder.clone());
        }
    }
    holders
}

fn mended(collection: &Collection, entry: &Arc<Entry>, address: IpAddr, holder: Option<&Holder>, now: Timestamp) -> Vec<Write> {
    let stored = Stored::read(entry);
    let parent = stored.parent();
    let going = stored.metadata.deletion_timestamp.is_some();
    match holder {
        Some(holder) if parent.as_ref() == Some(holder) => {
            if stored.has_labels(address) {
                Vec::new()
            } else {
                vec![labelled(entry, address)]
            }
        }
        Some(holder) if stored.is_managed() && !going => {
            let mut writes = vec![remove(entry, &stored, now)];
            if stored.metadata.finalizers.is_empty() {
                writes.push(put(collection, address, holder, now));
            }
            writes
        }
        Some(holder) => {
            tracing::warn!(%address, ?holder, parent = ?stored.spec.parent_ref, "the IPAddress of a Service's address names something else");
            Vec::new()
        }
        // A Service's own commit would have taken it away.
        None if stored.is_managed() && !going => vec![remove(entry, &stored, now)],
        None => Vec::new(),
    }
}

fn labelled(entry: &Entry, address: IpAddr) -> Write {
    let mut object: Object = serde_json::from_slice(&entry.value).unwrap_or_default();
    object.set(&["metadata", "labels", FAMILY], family(address).into());
    object.set(&["metadata", "labels", MANAGED_BY], MANAGER.into());
    write(entry.key.clone(), &object, Expect::Revision(entry.revision))
}

fn remove(entry: &Entry, stored: &Stored<'_>, now: Timestamp) -> Write {
    let (key, expect) = (entry.key.clone(), Expect::Revision(entry.revision));
    if stored.metadata.finalizers.is_empty() {
        return Write::Delete { key, expect };
    }
    let mut object: Object = serde_json::from_slice(&entry.value).unwrap_or_default();
    object.set(&["metadata", "deletionTimestamp"], time::format(now).into());
    object.set(&["metadata", "deletionGracePeriodSeconds"], 0.into());
    write(key, &object, expect)
}

pub(super) fn write(key: Key, object: &Object, expect: Expect) -> Write {
    let mut object = object.clone();
    object.remove(&["metadata", "resourceVersion"]);
    let encoded = object.encode();
    Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect, lazy: false }
}

/// The addresses of a stored Service, without reading all of it.
fn cluster_ips(service: &Entry) -> Vec<IpAddr> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Service<'a> {
        #[serde(borrow)]
        spec: Spec<'a>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Spec<'a> {
        #[serde(borrow, rename = "clusterIP")]
        cluster_ip: Cow<'a, str>,
        #[serde(borrow, rename = "clusterIPs")]
        cluster_ips: Vec<Cow<'a, str>>,
    }
    let Service { spec } = serde_json::from_slice(&service.value).unwrap_or_default();
    let all = spec.cluster_ips.iter().chain([&spec.cluster_ip]);
    let mut addresses: Vec<IpAddr> = all.filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use knarr_store::{Embedded, Options, Store};

    use super::*;

    fn object(collection: &str, value: Value) -> Write {
        let object = Object::from_value(value).unwrap();
        let key = Key::new(&Collection::new(collection), object.namespace(), object.name());
        write(key, &object, Expect::Any)
    }

    /// `default/web 10.43.0.5`
    fn service(text: &str) -> Write {
        let (name, addresses) = text.split_once(' ').unwrap();
        let (namespace, name) = name.split_once('/').unwrap();
        let addresses: Vec<&str> = addresses.split(' ').collect();
        let spec = json!({"clusterIP": addresses[0], "clusterIPs": addresses});
        object(SERVICES, json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
    }

    /// `10.43.0.5 services default/web ours`
    fn address(text: &str) -> Write {
        let words: Vec<&str> = text.split(' ').collect();
        let (namespace, name) = words[2].split_once('/').unwrap();
        let mut value = json!({
            "metadata": {"name": words[0], "labels": {"x": "y"}},
            "spec": {"parentRef": {"resource": words[1], "namespace": namespace, "name": name}},
        });
        for word in &words[3..] {
            match *word {
                "ours" => value["metadata"]["labels"] = json!({FAMILY: "IPv4", MANAGED_BY: MANAGER}),
                "half" => value["metadata"]["labels"] = json!({MANAGED_BY: MANAGER}),
                "held" => value["metadata"]["finalizers"] = json!(["a/b"]),
                other => panic!("{other}"),
            }
        }
        object(COLLECTION, value)
    }

    /// `+10.43.0.5 default/web`, `-10.43.0.5`, `~10.43.0.5` for one that is relabelled or marked.
    fn told(write: &Write) -> String {
        match write {
            Write::Delete { key, .. } => format!("-{}", key.name),
            Write::Put { key, expect: Expect::Absent, value, .. } => {
                let parent = &serde_json::from_slice::<Value>(value).unwrap()["spec"]["parentRef"];
                format!("+{} {}/{}", key.name, parent["namespace"].as_str().unwrap(), parent["name"].as_str().unwrap())
            }
            Write::Put { key, value, .. } => {
                let value: Value = serde_json::from_slice(value).unwrap();
                let going = value["metadata"]["deletionTimestamp"].is_string();
                format!("~{} {}", key.name, if going { "going" } else { "labels" })
            }
        }
    }

    async fn check(writes: Vec<Write>, expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
        store.commit(writes).await.unwrap();
        let collection = Collection::new(COLLECTION);
        let plan = |store: &Embedded| plan(&collection, &store.snapshot(), Timestamp::UNIX_EPOCH);
        let writes = plan(&store);
        assert_eq!(writes.iter().map(told).collect::<Vec<_>>(), expected);
        store.commit(writes).await.unwrap();
        assert_eq!(plan(&store).iter().map(told).collect::<Vec<_>>(), [""; 0], "what was put right is right");
    }

    #[tokio::test]
    async fn every_address_of_a_service_has_its_object_and_each_object_its_service() {
        let two = "default/two 10.43.0.6 fd00::6";
        check(
            vec![service("default/web 10.43.0.5"), service(two), service("default/headless None")],
            &["+10.43.0.5 default/web", "+10.43.0.6 default/two", "+fd00::6 default/two"],
        )
        .await;
        check(vec![service("a/web 10.43.0.5"), address("10.43.0.5 services a/web ours")], &[]).await;
        // Whoever changed the labels, or took them away.
        check(vec![service("a/web 10.43.0.5"), address("10.43.0.5 services a/web half")], &["~10.43.0.5 labels"]).await;
        check(vec![service("a/web 10.43.0.5"), address("10.43.0.5 services a/web")], &["~10.43.0.5 labels"]).await;
        // Of Services that are gone, or have other addresses.
        check(vec![address("10.43.0.5 services a/web ours")], &["-10.43.0.5"]).await;
        check(vec![address("10.43.0.5 gateways a/web ours")], &["-10.43.0.5"]).await;
        check(vec![address("10.43.0.5 services a/web ours held")], &["~10.43.0.5 going"]).await;
        check(
            vec![service("a/web 10.43.0.6"), address("10.43.0.5 services a/web ours"), address("10.43.0.6 services a/web ours")],
            &["-10.43.0.5"],
        )
        .await;
        check(vec![service("a/web 10.43.0.5"), address("10.43.0.5 services a/other ours")], &["-10.43.0.5", "+10.43.0.5 a/web"]).await;
        // Of two with one address the first has it.
        check(vec![service("a/b 10.43.0.5"), service("a/a 10.43.0.5")], &["+10.43.0.5 a/a"]).await;
    }

    #[tokio::test]
    async fn what_somebody_else_made_is_his() {
        check(vec![address("10.43.0.5 gateways a/web")], &[]).await;
        check(vec![address("10.43.0.5 services a/web")], &[]).await;
        check(vec![service("a/web 10.43.0.5"), address("10.43.0.5 gateways a/web")], &[]).await;
    }
}
