//! Where a Service leads: the ready endpoints of its EndpointSlices, dialled directly, because the server may run where Services are not routed.

use std::net::SocketAddr;

use knarr_api::{Status, status};
use knarr_store::{Collection, Key, Snapshot};
use serde_json::Value;

/// A ready endpoint of the service, any of them. The port is a number or a name; empty for the only one.
pub(crate) fn of_service(snapshot: &Snapshot, namespace: &str, name: &str, wanted: &str) -> Result<SocketAddr, Status> {
    let service = read(snapshot, "core/services", namespace, name)?;
    let ports: Vec<_> = items(&service, "/spec/ports").collect();
    let fits = |port: &&&Value| {
        let named = port.get("name").and_then(Value::as_str) == Some(wanted);
        named || port_number(port, "port").is_some_and(|number| number.to_string() == wanted)
    };
    let port = match (wanted, &ports[..]) {
        ("", [only]) => Some(only),
        _ => ports.iter().find(fits),
    };
    let port = port.ok_or_else(|| unavailable(&format!("no service port \"{wanted}\" found for service \"{name}\"")))?;
    let port_name = port.get("name").and_then(Value::as_str).unwrap_or_default();
    let endpoints: Vec<SocketAddr> =
        slices(snapshot, namespace, name)?.iter().flat_map(|slice| ready_endpoints(slice, port_name)).collect();
    match endpoints.get(fastrand::usize(..endpoints.len().max(1))) {
        Some(address) => Ok(*address),
        None => Err(unavailable(&format!("no endpoints available for service \"{name}\""))),
    }
}

/// The EndpointSlices of a service.
pub(crate) fn slices(snapshot: &Snapshot, namespace: &str, name: &str) -> Result<Vec<Value>, Status> {
    let prefix = format!("{namespace}/");
    let mut found = Vec::new();
    for entry in snapshot.range(&Collection::new("discovery.k8s.io/endpointslices"), &prefix, None) {
        let slice: Value =
            serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {}: {error}", entry.key)))?;
        if slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str) == Some(name) {
            found.push(slice);
        }
    }
    Ok(found)
}

/// The addresses in a slice that are ready, with the port of that name.
pub(crate) fn ready_endpoints(slice: &Value, port_name: &str) -> Vec<SocketAddr> {
    let mut ports = items(slice, "/ports");
    let Some(port) = ports
        .find(|port| port.get("name").and_then(Value::as_str).unwrap_or_default() == port_name)
        .and_then(|port| port_number(port, "port"))
    else {
        return Vec::new();
    };
    let ready = items(slice, "/endpoints").filter(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false));
    let addresses = ready.flat_map(|endpoint| items(endpoint, "/addresses")).filter_map(Value::as_str);
    addresses.filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port))).collect()
}

fn unavailable(message: &str) -> Status {
    Status::new(503, "ServiceUnavailable", message)
}

pub(crate) fn read(snapshot: &Snapshot, collection: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let (group, resource) = collection.split_once('/').unwrap_or(("", collection));
    let group = if group == "core" { "" } else { group };
    let key = Key::new(&Collection::new(collection), namespace, name);
    let entry = snapshot.get(&key).ok_or_else(|| status::not_found(group, resource, name))?;
    serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {key}: {error}")))
}

pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

pub(crate) fn port_number(port: &Value, field: &str) -> Option<u16> {
    u16::try_from(port.get(field)?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_of_the_port() {
        let slice = json!({
        "ports": [{"name": "metrics", "port": 9}, {"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.42.0.5"], "conditions": {"ready": true}},
            {"addresses": ["10.42.0.6"], "conditions": {"ready": false}},
            {"addresses": ["10.42.0.7"]},
        ]});
        assert_eq!(ready_endpoints(&slice, "http"), ["10.42.0.5:8080".parse().unwrap(), "10.42.0.7:8080".parse().unwrap()]);
        assert!(ready_endpoints(&slice, "other").is_empty());
    }
}
