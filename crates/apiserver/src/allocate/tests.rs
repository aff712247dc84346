//! Services through the allocator, as the verbs call it.

use knarr_api::Kinds;
use knarr_store::{Embedded, Expect, Key, Options};
use serde_json::{Value, json};

use super::*;
use crate::verbs::write::put;

/// An allocator, and the store in which its Services are.
struct World {
    allocator: Allocator,
    store: Arc<Embedded>,
    _dir: tempfile::TempDir,
}

fn kind(group: &str, resource: &str) -> Arc<Kind> {
    Kinds::builtin().resource(group, "v1", resource).unwrap()
}

async fn world(range: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path(), Options { reserve_bytes: 0, ..Options::default() }).unwrap());
    let own: IpNet = range.parse().unwrap();
    let world = World { allocator: Allocator::open(store.clone(), own, 30000..=30099), store, _dir: dir };
    world.range(default_range(own, Timestamp::now())).await;
    world
}

impl World {
    /// Stores a ServiceCIDR.
    async fn range(&self, object: Value) {
        let object = Object::from_value(object).unwrap();
        let key = Key::new(&Collection::new(ranges::COLLECTION), "", object.name());
        self.store.commit(vec![addresses::write(key, &object, Expect::Any)]).await.unwrap();
    }

    async fn commit(&self, kind: &Kind, mut new: Option<Object>, old: Option<&Object>) -> Result<(), Status> {
        let named = new.as_ref().or(old).unwrap();
        let key = Key::new(&Collection::new(&kind.collection), named.namespace(), named.name());
        let entry = self.store.snapshot().get(&key).cloned();
        let mut hold = self.allocator.hold(kind, new.as_mut(), old, entry.as_deref())?;
        let write = match new {
            Some(new) => put(kind, key, new, Expect::Any),
            None => Write::Delete { key, expect: Expect::Any },
        };
        let mut writes = vec![write];
        writes.extend(hold.beside());
        self.store.commit(writes).await.unwrap();
        hold.keep();
        Ok(())
    }

    /// Writes and commits; answers the Service as stored.
    async fn write(&self, spec: Value, old: Option<&Object>) -> Result<Object, Status> {
        let name = old.map_or_else(|| format!("s{}", self.store.snapshot().revision), |old| old.name().to_owned());
        let service = service(&name, spec);
        self.commit(&kind("", "services"), Some(service), old).await?;
        let key = Key::new(&Collection::new(services::COLLECTION), "a", &name);
        Ok(serde_json::from_slice(&self.store.snapshot().get(&key).unwrap().value).unwrap())
    }

    async fn delete(&self, service: &Object) {
        self.commit(&kind("", "services"), None, Some(service)).await.unwrap();
    }

    /// A write whose commit fails.
    fn lose(&self, new: Option<Value>, old: Option<&Object>) {
        let mut new = new.map(|spec| service("lost", spec));
        drop(self.allocator.hold(&kind("", "services"), new.as_mut(), old, None).unwrap());
    }

    /// How many addresses and node ports are taken. Those of the Services are exactly those of the IPAddresses.
    fn taken(&self) -> (usize, usize) {
        let state = self.allocator.state.lock();
        assert!(state.held.is_empty(), "{:?}", state.held);
        let snapshot = self.store.snapshot();
        assert!(addresses::plan(&self.allocator.addresses, &snapshot, Timestamp::now()).is_empty());
        (snapshot.len(&self.allocator.addresses), state.node_ports.len())
    }

    fn address(&self, address: &str) -> Option<Value> {
        let snapshot = self.store.snapshot();
        let entry = snapshot.get(&Key::new(&self.allocator.addresses, "", address))?;
        serde_json::from_slice(&entry.value).ok()
    }
}

fn service(name: &str, spec: Value) -> Object {
    Object::from_value(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "a" }, "spec": spec }))
        .unwrap()
}

#[tokio::test]
async fn a_service_gets_an_address_and_keeps_it() {
    let all = world("10.43.0.0/16").await;
    let made = all.write(json!({ "ports": [{ "port": 80 }] }), None).await.unwrap();
    let address = made.str(&["spec", "clusterIP"]).to_owned();
    assert!(address.starts_with("10.43."));
    assert_eq!(made.list(&["spec", "clusterIPs"]), [Value::from(address.as_str())]);
    assert_eq!(made.list(&["spec", "ipFamilies"]), ["IPv4"]);
    assert_eq!(made.str(&["spec", "ipFamilyPolicy"]), "SingleStack");

    let updated = all.write(json!({ "ports": [{ "port": 81 }] }), Some(&made)).await.unwrap();
    assert_eq!(updated.str(&["spec", "clusterIP"]), address);
    assert_eq!(all.taken(), (1, 0));

    all.delete(&updated).await;
    assert_eq!(all.taken(), (0, 0));
}

#[tokio::test]
async fn two_services_never_share_and_a_failed_one_costs_nothing() {
    let all = world("10.43.0.0/16").await;
    let first = all.write(json!({ "clusterIP": "10.43.0.77" }), None).await.unwrap();
    let refused = all.write(json!({ "clusterIP": "10.43.0.77" }), None).await.unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("failed to allocate IP 10.43.0.77: provided IP is already allocated"), "{}", refused.message);
    let outside = all.write(json!({ "clusterIP": "10.44.0.1" }), None).await.unwrap_err();
    let why = "the provided network does not match the current range (ready ServiceCIDRs: 10.43.0.0/16)";
    assert!(outside.message.contains(why), "{}", outside.message);

    // The commit failed: the hold is dropped.
    all.lose(Some(json!({ "clusterIP": "10.43.0.78", "type": "NodePort", "ports": [{ "port": 80 }, { "port": 81 }] })), None);
    assert_eq!(all.taken(), (1, 0));

    // The deletion failed: the address stays taken.
    all.lose(None, Some(&first));
    assert_eq!(all.taken(), (1, 0));

    // The second port is taken: the first one is given back.
    all.write(json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30001 }] }), None).await.unwrap();
    let before = all.taken();
    let half = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30002 }, { "port": 81, "nodePort": 30001 }] });
    assert!(all.write(half, None).await.unwrap_err().message.contains("provided port is already allocated"));
    assert_eq!(all.taken(), before);
}

#[tokio::test]
async fn types_come_and_go() {
    let all = world("10.43.0.0/16").await;
    let headless = all.write(json!({ "clusterIP": "None" }), None).await.unwrap();
    assert_eq!(headless.list(&["spec", "clusterIPs"]), ["None"]);
    let named = all.write(json!({ "type": "ExternalName", "externalName": "x.org" }), None).await.unwrap();
    assert_eq!((named.get(&["spec", "clusterIP"]), all.taken()), (None, (0, 0)));

    let cluster_ip = all.write(json!({ "type": "ClusterIP", "ports": [{ "port": 80 }] }), Some(&named)).await.unwrap();
    assert_eq!(all.taken(), (1, 0));
    let node_port = all.write(json!({ "type": "NodePort", "ports": [{ "port": 80 }] }), Some(&cluster_ip)).await.unwrap();
    let number = node_port.list(&["spec", "ports"])[0]["nodePort"].as_u64().unwrap();
    assert!((30000..30100).contains(&number));
    assert_eq!(node_port.str(&["spec", "clusterIP"]), cluster_ip.str(&["spec", "clusterIP"]));
    assert_eq!(all.taken(), (1, 1));

    // A client that leaves the number out keeps it; one that goes back to ClusterIP and still sends it loses it.
    let same = all.write(json!({ "type": "NodePort", "ports": [{ "port": 80 }] }), Some(&node_port)).await.unwrap();
    assert_eq!(same.list(&["spec", "ports"])[0]["nodePort"], number);
    let back = all.write(json!({ "type": "ClusterIP", "ports": [{ "port": 80, "nodePort": number }] }), Some(&same)).await.unwrap();
    assert_eq!(back.list(&["spec", "ports"])[0].get("nodePort"), None);
    assert_eq!(all.taken(), (1, 0));

    // kubectl sends the old address along when it makes an ExternalName of it.
    let address = back.str(&["spec", "clusterIP"]);
    let named = all.write(json!({ "type": "ExternalName", "externalName": "x.org", "clusterIP": address }), Some(&back)).await.unwrap();
    assert_eq!((named.get(&["spec", "clusterIP"]), all.taken()), (None, (0, 0)));
}

#[tokio::test]
async fn one_port_under_two_protocols_has_one_node_port() {
    let all = world("10.43.0.0/16").await;
    let ports = json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }, { "port": 80, "protocol": "TCP" }]);
    let made = all.write(json!({ "type": "NodePort", "ports": ports }), None).await.unwrap();
    let numbers: Vec<&Value> = made.list(&["spec", "ports"]).iter().map(|port| &port["nodePort"]).collect();
    assert!(numbers[0] == numbers[1] && numbers[1] != numbers[2]);
    assert_eq!(all.taken(), (1, 2));
}

#[tokio::test]
async fn local_load_balancers_have_a_health_port() {
    let all = world("10.43.0.0/16").await;
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }] });
    let made = all.write(spec, None).await.unwrap();
    assert!(made.int(&["spec", "healthCheckNodePort"]).is_some());
    assert_eq!(all.taken(), (1, 2));
    let cluster = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "ports": [{ "port": 80 }], "healthCheckNodePort": made.int(&["spec", "healthCheckNodePort"]) });
    let changed = all.write(cluster, Some(&made)).await.unwrap();
    assert_eq!((changed.get(&["spec", "healthCheckNodePort"]), all.taken()), (None, (1, 1)));
}

#[tokio::test]
async fn a_full_range_says_so() {
    let all = world("10.43.0.0/29").await;
    for _ in 0..6 {
        all.write(json!({}), None).await.unwrap();
    }
    assert!(all.write(json!({}), None).await.unwrap_err().message.contains("range is full"));
}

#[tokio::test]
async fn other_families_are_refused_and_other_kinds_left_alone() {
    let all = world("10.43.0.0/16").await;
    assert_eq!(all.write(json!({ "ipFamilies": ["IPv6"] }), None).await.unwrap_err().code, 422);
    assert_eq!(all.write(json!({ "ipFamilyPolicy": "RequireDualStack" }), None).await.unwrap_err().code, 422);
    let mut pod = service("p", json!({}));
    all.allocator.hold(&kind("", "pods"), Some(&mut pod), None, None).unwrap().keep();
    assert_eq!(pod, service("p", json!({})));
}

#[tokio::test]
async fn an_address_has_its_object_as_long_as_its_service_has_the_address() {
    let all = world("10.43.0.0/16").await;
    let made = all.write(json!({ "clusterIP": "10.43.0.7" }), None).await.unwrap();
    let address = all.address("10.43.0.7").unwrap();
    assert_eq!(address["spec"]["parentRef"], json!({ "resource": "services", "namespace": "a", "name": made.name() }));
    let labels = json!({ "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" });
    assert_eq!(address["metadata"]["labels"], labels);
    let named = all.write(json!({ "type": "ExternalName", "externalName": "x.org" }), Some(&made)).await.unwrap();
    assert_eq!(all.address("10.43.0.7"), None);
    let again = all.write(json!({ "type": "ClusterIP", "clusterIP": "10.43.0.8" }), Some(&named)).await.unwrap();
    assert!(all.address("10.43.0.8").is_some());
    all.delete(&again).await;
    assert_eq!(all.taken(), (0, 0));
}

/// An IPAddress as a client makes it.
fn of_a_gateway(address: &str) -> Object {
    let spec = json!({ "parentRef": { "group": "gateway.networking.k8s.io", "resource": "gateways", "namespace": "a", "name": "g" } });
    let meta = json!({ "name": address, "finalizers": [] });
    Object::from_value(json!({ "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": meta, "spec": spec })).unwrap()
}

#[tokio::test]
async fn an_address_that_somebody_else_has_is_not_given() {
    let all = world("10.43.0.0/29").await;
    let kind = kind("networking.k8s.io", "ipaddresses");
    let theirs = of_a_gateway("10.43.0.3");
    all.commit(&kind, Some(theirs.clone()), None).await.unwrap();
    let refused = all.write(json!({ "clusterIP": "10.43.0.3" }), None).await.unwrap_err();
    assert!(refused.message.contains("provided IP is already allocated"), "{}", refused.message);
    for _ in 0..5 {
        all.write(json!({}), None).await.unwrap();
    }
    assert!(all.write(json!({}), None).await.unwrap_err().message.contains("range is full"));
    all.commit(&kind, None, Some(&theirs)).await.unwrap();
    assert_eq!(all.write(json!({}), None).await.unwrap().str(&["spec", "clusterIP"]), "10.43.0.3");
    // While either is on its way the other waits for nothing and gets nothing.
    let other = world("10.43.0.0/30").await;
    let (mut theirs, mut ours) = (of_a_gateway("10.43.0.1"), service("s", json!({ "clusterIP": "10.43.0.2" })));
    let holds = (
        other.allocator.hold(&kind, Some(&mut theirs), None, None).unwrap(),
        other.allocator.hold(&self::kind("", "services"), Some(&mut ours), None, None).unwrap(),
    );
    assert!(other.write(json!({}), None).await.is_err());
    assert_eq!(other.commit(&kind, Some(of_a_gateway("10.43.0.2")), None).await.unwrap_err().reason, "AlreadyExists");
    drop(holds);
    other.write(json!({}), None).await.unwrap();
}

#[tokio::test]
async fn the_object_of_a_service_is_made_again_when_somebody_deletes_it() {
    let all = world("10.43.0.0/16").await;
    let kind = kind("networking.k8s.io", "ipaddresses");
    let made = all.write(json!({ "clusterIP": "10.43.0.7" }), None).await.unwrap();
    let before = all.address("10.43.0.7").unwrap();
    all.commit(&kind, None, Some(&Object::from_value(before.clone()).unwrap())).await.unwrap();
    let after = all.address("10.43.0.7").unwrap();
    assert_eq!(after["spec"], before["spec"]);
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    all.delete(&made).await;
    assert_eq!(all.address("10.43.0.7"), None);
}

#[tokio::test]
async fn another_range_is_open_at_once_and_one_that_goes_is_closed_at_once() {
    let all = world("10.43.0.0/30").await;
    let other = |deleted: bool, ready: &str| {
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "more" },
            "spec": { "cidrs": ["10.9.0.0/24", "fd00::/112"] },
        });
        if deleted {
            object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        if !ready.is_empty() {
            object["status"]["conditions"] = json!([{ "type": "Ready", "status": ready }]);
        }
        object
    };
    for _ in 0..2 {
        all.write(json!({}), None).await.unwrap();
    }
    assert!(all.write(json!({}), None).await.unwrap_err().message.contains("range is full"));
    let cases = [(false, "", true), (true, "", false), (false, "True", true), (false, "False", false), (true, "True", false)];
    for (index, (deleted, ready, open)) in cases.into_iter().enumerate() {
        all.range(other(deleted, ready)).await;
        match all.write(json!({}), None).await {
            Ok(made) => assert!(open && made.str(&["spec", "clusterIP"]).starts_with("10.9.0."), "{made:?}"),
            Err(refused) => assert!(!open && refused.message.contains("range is full"), "{}", refused.message),
        }
        // Of the band, from which nobody was given one yet.
        assert_eq!(all.write(json!({ "clusterIP": format!("10.9.0.{}", index + 1) }), None).await.is_ok(), open);
    }
}

#[tokio::test]
async fn a_range_waits_for_what_is_being_given() {
    let all = world("10.43.0.0/30").await;
    let mut object = default_range(all.allocator.own, Timestamp::now());
    let mut on_its_way = service("s", json!({ "clusterIP": "10.43.0.2" }));
    let hold = all.allocator.hold(&kind("", "services"), Some(&mut on_its_way), None, None).unwrap();
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    all.range(object).await;
    assert!(all.allocator.plan().iter().all(|write| matches!(write, Write::Put { .. })), "it stays");
    let released = all.allocator.released.notified();
    drop(hold);
    released.await;
    assert!(all.allocator.plan().iter().any(|write| matches!(write, Write::Delete { .. })), "it goes");
}
