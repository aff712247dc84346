//! Services through the allocator, as the verbs call it.

use std::sync::Arc;

use knarr_api::Kinds;
use serde_json::{Value, json};

use super::*;

fn kind() -> Arc<Kind> {
    Kinds::builtin().resource("", "v1", "services").unwrap()
}

fn allocator(range: &str) -> Allocator {
    Allocator::open(&Snapshot::default(), range.parse().unwrap(), 30000..=30099)
}

fn service(spec: Value) -> Object {
    Object::from_value(json!({ "metadata": { "name": "s", "namespace": "a" }, "spec": spec })).unwrap()
}

/// Writes and commits; answers the Service as stored.
fn write(allocator: &Allocator, spec: Value, old: Option<&Object>) -> Result<Object, Status> {
    let mut new = service(spec);
    allocator.hold(&kind(), Some(&mut new), old)?.keep();
    Ok(new)
}

fn taken(allocator: &Allocator) -> (usize, usize) {
    let pools = allocator.pools.lock();
    (pools.addresses.len(), pools.node_ports.len())
}

#[test]
fn a_service_gets_an_address_and_keeps_it() {
    let all = allocator("10.43.0.0/16");
    let made = write(&all, json!({ "ports": [{ "port": 80 }] }), None).unwrap();
    let address = made.str(&["spec", "clusterIP"]).to_owned();
    assert!(address.starts_with("10.43."));
    assert_eq!(made.list(&["spec", "clusterIPs"]), [Value::from(address.as_str())]);
    assert_eq!(made.list(&["spec", "ipFamilies"]), ["IPv4"]);
    assert_eq!(made.str(&["spec", "ipFamilyPolicy"]), "SingleStack");

    let updated = write(&all, json!({ "ports": [{ "port": 81 }] }), Some(&made)).unwrap();
    assert_eq!(updated.str(&["spec", "clusterIP"]), address);
    assert_eq!(taken(&all), (1, 0));

    all.hold(&kind(), None, Some(&updated)).unwrap().keep();
    assert_eq!(taken(&all), (0, 0));
}

#[test]
fn two_services_never_share_and_a_failed_one_costs_nothing() {
    let all = allocator("10.43.0.0/16");
    let first = write(&all, json!({ "clusterIP": "10.43.0.77" }), None).unwrap();
    let refused = write(&all, json!({ "clusterIP": "10.43.0.77" }), None).unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("failed to allocate IP 10.43.0.77: provided IP is already allocated"), "{}", refused.message);
    let outside = write(&all, json!({ "clusterIP": "10.44.0.1" }), None).unwrap_err();
    assert!(outside.message.contains("The range of valid IPs is 10.43.0.0/16"), "{}", outside.message);

    // The commit failed: the hold is dropped.
    let mut lost = service(json!({ "clusterIP": "10.43.0.78", "type": "NodePort", "ports": [{ "port": 80 }, { "port": 81 }] }));
    drop(all.hold(&kind(), Some(&mut lost), None).unwrap());
    assert_eq!(taken(&all), (1, 0));

    // The deletion failed: the address stays taken.
    drop(all.hold(&kind(), None, Some(&first)).unwrap());
    assert_eq!(taken(&all), (1, 0));

    // The second port is taken: the first one is given back.
    write(&all, json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30001 }] }), None).unwrap();
    let before = taken(&all);
    let half = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30002 }, { "port": 81, "nodePort": 30001 }] });
    assert!(write(&all, half, None).unwrap_err().message.contains("provided port is already allocated"));
    assert_eq!(taken(&all), before);
}

#[test]
fn types_come_and_go() {
    let all = allocator("10.43.0.0/16");
    let headless = write(&all, json!({ "clusterIP": "None" }), None).unwrap();
    assert_eq!(headless.list(&["spec", "clusterIPs"]), ["None"]);
    let named = write(&all, json!({ "type": "ExternalName", "externalName": "x.org" }), None).unwrap();
    assert_eq!((named.get(&["spec", "clusterIP"]), taken(&all)), (None, (0, 0)));

    let cluster_ip = write(&all, json!({ "type": "ClusterIP", "ports": [{ "port": 80 }] }), Some(&named)).unwrap();
    assert_eq!(taken(&all), (1, 0));
    let node_port = write(&all, json!({ "type": "NodePort", "ports": [{ "port": 80 }] }), Some(&cluster_ip)).unwrap();
    let number = node_port.list(&["spec", "ports"])[0]["nodePort"].as_u64().unwrap();
    assert!((30000..30100).contains(&number));
    assert_eq!(node_port.str(&["spec", "clusterIP"]), cluster_ip.str(&["spec", "clusterIP"]));
    assert_eq!(taken(&all), (1, 1));

    // A client that leaves the number out keeps it; one that goes back to ClusterIP and still sends it loses it.
    let same = write(&all, json!({ "type": "NodePort", "ports": [{ "port": 80 }] }), Some(&node_port)).unwrap();
    assert_eq!(same.list(&["spec", "ports"])[0]["nodePort"], number);
    let back = write(&all, json!({ "type": "ClusterIP", "ports": [{ "port": 80, "nodePort": number }] }), Some(&same)).unwrap();
    assert_eq!(back.list(&["spec", "ports"])[0].get("nodePort"), None);
    assert_eq!(taken(&all), (1, 0));

    // kubectl sends the old address along when it makes an ExternalName of it.
    let address = back.str(&["spec", "clusterIP"]);
    let named = write(&all, json!({ "type": "ExternalName", "externalName": "x.org", "clusterIP": address }), Some(&back)).unwrap();
    assert_eq!((named.get(&["spec", "clusterIP"]), taken(&all)), (None, (0, 0)));
}

#[test]
fn one_port_under_two_protocols_has_one_node_port() {
    let all = allocator("10.43.0.0/16");
    let ports = json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }, { "port": 80, "protocol": "TCP" }]);
    let made = write(&all, json!({ "type": "NodePort", "ports": ports }), None).unwrap();
    let numbers: Vec<&Value> = made.list(&["spec", "ports"]).iter().map(|port| &port["nodePort"]).collect();
    assert!(numbers[0] == numbers[1] && numbers[1] != numbers[2]);
    assert_eq!(taken(&all), (1, 2));
}

#[test]
fn local_load_balancers_have_a_health_port() {
    let all = allocator("10.43.0.0/16");
    let spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80 }] });
    let made = write(&all, spec, None).unwrap();
    assert!(made.int(&["spec", "healthCheckNodePort"]).is_some());
    assert_eq!(taken(&all), (1, 2));
    let cluster = json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "ports": [{ "port": 80 }], "healthCheckNodePort": made.int(&["spec", "healthCheckNodePort"]) });
    let changed = write(&all, cluster, Some(&made)).unwrap();
    assert_eq!((changed.get(&["spec", "healthCheckNodePort"]), taken(&all)), (None, (1, 1)));
}

#[test]
fn a_full_range_says_so() {
    let all = allocator("10.43.0.0/29");
    for _ in 0..6 {
        write(&all, json!({}), None).unwrap();
    }
    assert!(write(&all, json!({}), None).unwrap_err().message.contains("range is full"));
}

#[test]
fn other_families_are_refused_and_other_kinds_left_alone() {
    let all = allocator("10.43.0.0/16");
    assert_eq!(write(&all, json!({ "ipFamilies": ["IPv6"] }), None).unwrap_err().code, 422);
    assert_eq!(write(&all, json!({ "ipFamilyPolicy": "RequireDualStack" }), None).unwrap_err().code, 422);
    let pods = Kinds::builtin().resource("", "v1", "pods").unwrap();
    let mut pod = service(json!({}));
    all.hold(&pods, Some(&mut pod), None).unwrap().keep();
    assert_eq!(pod, service(json!({})));
}
