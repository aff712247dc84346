//! EndpointSlice mirroring controller.
//! Watches: Endpoints, Service, EndpointSlice (those that carry its label).  Owns: these slices.  Writes: EndpointSlice.
//! Converges: Endpoints that someone made for a Service without a selector are in slices too, from which alone traffic and names are led.
//! Never: mirrors what the slices of pods say already; Endpoints that ask not to be mirrored; locks that are kept in Endpoints.
//! Wakes: on change.  Plan: [`plan`].  Act: [`endpointslice::apply`].

#![allow(deprecated, reason = "Endpoints are deprecated in favour of slices, and are still part of the API")]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use knarr_client::{Cluster, Informer, ObjectKey, WorkQueue};
use kube::ResourceExt as _;

use crate::{
    endpointslice::{self, MANAGED_BY, Plan, SERVICE_NAME},
    owner,
    runner::{Activation, Controller, Runner, StepError},
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On Endpoints that are a lock (client-go, resourcelock).
const LOCK: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say something of the Endpoints and not of their addresses.
const OWN_ANNOTATIONS: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Addresses of one slice; more are not mirrored. Upstream's --mirroring-max-endpoints-per-subset, and what a slice holds.
const ADDRESSES_MAX: usize = 1_000;

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let (services, endpoints, slices) =
        (cluster.informer::<Service>(), cluster.informer::<Endpoints>(), cluster.informer::<EndpointSlice>());
    let queue = Arc::new(WorkQueue::default());
    services.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    endpoints.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    endpointslice::follow_slices(&slices, MANAGER, &queue);
    let synced = (services.clone(), endpoints.clone(), slices.clone());
    runner.start(Mirror { cluster: cluster.clone(), services, endpoints, slices }, queue, async move {
        synced.0.ready().await;
        synced.1.ready().await;
        synced.2.ready().await;
    });
}

struct Mirror {
    cluster: Cluster,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

impl Controller for Mirror {
    type Key = ObjectKey;

    const NAME: &'static str = "endpointslicemirroring";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let slices = endpointslice::slices_of(&self.slices, MANAGER, key);
        let service = self.services.get(&key.namespace, &key.name);
        let endpoints = self.endpoints.get(&key.namespace, &key.name);
        endpointslice::apply(&self.cluster, &key.namespace, plan(service.as_deref(), endpoints.as_deref(), &slices)).await
    }
}

/// `slices` are the mirrors that there are.
fn plan(service: Option<&Service>, endpoints: Option<&Endpoints>, slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut left = slices.to_vec();
    let mirrored = endpoints.filter(|endpoints| service.is_some_and(|service| is_mirrored(service, endpoints)));
    for wanted in mirrored.map(mirrors).unwrap_or_default() {
        // An empty list is none when it comes back from the store.
        let ports = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
        let alike = |slice: &Arc<EndpointSlice>| slice.address_type == wanted.address_type && ports(slice) == ports(&wanted);
        match left.iter().position(alike).map(|index| left.swap_remove(index)) {
            None => plan.create.push(wanted),
            Some(slice) if says(&slice, &wanted) => {}
            Some(slice) => {
                let metadata = ObjectMeta {
                    labels: wanted.metadata.labels,
                    annotations: wanted.metadata.annotations,
                    owner_references: wanted.metadata.owner_references,
                    ..slice.metadata.clone()
                };
                plan.replace.push(EndpointSlice { metadata, ..wanted });
            }
        }
    }
    plan.delete.extend(left.iter().map(|slice| slice.name_any()));
    plan
}

/// Whether the slice says all that `wanted` does.
fn says(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let parts = |slice: &EndpointSlice| {
        let ObjectMeta { labels, annotations, owner_references, .. } = slice.metadata.clone();
        (labels.unwrap_or_default(), annotations.unwrap_or_default(), owner_references, slice.endpoints.clone())
    };
    parts(slice) == parts(wanted)
}

fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let selects = service.spec.as_ref().is_some_and(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()));
    let skipped = endpoints.labels().get(SKIP).is_some_and(|value| value == "true") || endpoints.annotations().contains_key(LOCK);
    !selects && !skipped && service.metadata.deletion_timestamp.is_none() && endpoints.metadata.deletion_timestamp.is_none()
}

/// The slices that say what the Endpoints say: one for the addresses of each family that have the same ports.
fn mirrors(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices: Vec<EndpointSlice> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(others) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let known = slices.iter_mut().find(|slice| slice.address_type == family && slice.ports.as_deref() == Some(&*ports));
            let slice = match known {
                Some(slice) => slice,
                None => {
                    slices.push(EndpointSlice {
                        metadata: metadata(endpoints),
                        address_type: family.to_owned(),
                        endpoints: Some(Vec::new()),
                        ports: Some(ports.clone()),
                    });
                    let Some(slice) = slices.last_mut() else { continue };
                    slice
                }
            };
            let endpoints = slice.endpoints.get_or_insert_default();
            let text = ip.to_string();
            if endpoints.len() < ADDRESSES_MAX && !endpoints.iter().any(|known| known.addresses[0] == text) {
                endpoints.push(endpoint(address, text, ready));
            }
        }
    }
    slices
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

/// `ip` is the address as slices have it, in its one canonical form.
fn endpoint(address: &EndpointAddress, ip: String, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn metadata(endpoints: &Endpoints) -> ObjectMeta {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let annotations: BTreeMap<_, _> =
        endpoints.annotations().clone().into_iter().filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str())).collect();
    ObjectMeta {
        generate_name: Some(format!("{}-", endpoints.name_any())),
        namespace: endpoints.namespace(),
        labels: Some(labels),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        owner_references: Some(vec![owner::reference(endpoints)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a"}, "spec": spec})).unwrap()
    }

    fn endpoints(subsets: Value) -> Endpoints {
        let metadata = json!({
            "name": "db", "namespace": "a", "uid": "u", "labels": {"team": "a"},
            "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        serde_json::from_value(json!({"metadata": metadata, "subsets": subsets})).unwrap()
    }

    fn two() -> Endpoints {
        endpoints(json!([{
            "addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2", "hostname": "second"}],
            "ports": [{"name": "sql", "port": 5432}]}]))
    }

    /// As the store would have them.
    fn named(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let name = |(index, mut slice): (usize, EndpointSlice)| {
            slice.metadata.name = Some(format!("db-{index}"));
            Arc::new(slice)
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    #[test]
    fn addresses_of_each_family_are_in_a_slice_of_their_own() {
        let plan = plan(Some(&service(json!({}))), Some(&two()), &[]);
        let shown: Vec<_> = plan
            .create
            .iter()
            .map(|slice| {
                let endpoints = slice.endpoints.iter().flatten();
                let endpoints: Vec<_> = endpoints
                    .map(|it| (it.addresses[0].clone(), it.conditions.as_ref().and_then(|it| it.ready), it.hostname.clone()))
                    .collect();
                (slice.address_type.as_str(), endpoints)
            })
            .collect();
        let second = ("192.0.2.2".to_owned(), Some(false), Some("second".to_owned()));
        let v4 = vec![("192.0.2.1".to_owned(), Some(true), None), second];
        assert_eq!(shown, [("IPv4", v4), ("IPv6", vec![("2001:db8::1".to_owned(), Some(true), None)])]);
        let slice = &plan.create[0];
        assert_eq!(slice.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
        let labels: Vec<_> = slice.labels().iter().map(|(key, value)| format!("{key}={value}")).collect();
        let expected =
            ["endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io", "kubernetes.io/service-name=db", "team=a"];
        assert_eq!((labels, slice.annotations().len()), (expected.map(str::to_owned).to_vec(), 1));
    }

    #[test]
    fn what_the_store_makes_of_a_slice_is_not_written_again() {
        let none = endpoints(json!([{"addresses": [{"ip": "2001:DB8::1"}]}]));
        let mut slices = plan(Some(&service(json!({}))), Some(&none), &[]).create;
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].addresses, ["2001:db8::1"]);
        // Empty lists are not kept.
        slices[0].ports = None;
        let again = plan(Some(&service(json!({}))), Some(&none), &named(slices));
        assert!(again.create.is_empty() && again.replace.is_empty() && again.delete.is_empty(), "{again:?}");
    }

    #[test]
    fn a_slice_holds_so_many_addresses_and_each_once() {
        let addresses =
            |from: u32, to: u32| -> Value { (from..to).map(|n| json!({"ip": std::net::Ipv4Addr::from_bits(n).to_string()})).collect() };
        let many = endpoints(
            json!([{"addresses": addresses(1 << 24, (1 << 24) + 600)}, {"addresses": addresses((1 << 24) + 500, (1 << 24) + 1200)}]),
        );
        let plan = plan(Some(&service(json!({}))), Some(&many), &[]);
        let mut held: Vec<_> = plan.create[0].endpoints.iter().flatten().map(|it| it.addresses[0].clone()).collect();
        held.sort();
        held.dedup();
        assert_eq!((plan.create.len(), held.len()), (1, ADDRESSES_MAX));
    }

    #[test]
    fn what_is_right_stays_and_what_is_not_is_written_in_place() {
        let service = service(json!({}));
        let slices = named(plan(Some(&service), Some(&two()), &[]).create);
        let same = plan(Some(&service), Some(&two()), &slices);
        assert!(same.create.is_empty() && same.replace.is_empty() && same.delete.is_empty(), "{same:?}");
        let fewer = endpoints(json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "sql", "port": 5432}]}]));
        let changed = plan(Some(&service), Some(&fewer), &slices);
        assert_eq!((changed.create.len(), changed.replace[0].name_any(), changed.delete), (0, "db-0".to_owned(), vec!["db-1".to_owned()]));
    }

    #[test]
    fn what_others_say_already_or_nobody_wants_is_not_mirrored() {
        let slices = named(plan(Some(&service(json!({}))), Some(&two()), &[]).create);
        let gone = |service: Option<&Service>, endpoints: Option<&Endpoints>| {
            let plan = plan(service, endpoints, &slices);
            assert_eq!((plan.create.len(), plan.replace.len(), plan.delete.len()), (0, 0, 2));
        };
        gone(Some(&service(json!({"selector": {"app": "db"}}))), Some(&two()));
        gone(None, Some(&two()));
        gone(Some(&service(json!({}))), None);
        let mut skipped = two();
        skipped.metadata.labels.get_or_insert_default().insert(SKIP.to_owned(), "true".to_owned());
        gone(Some(&service(json!({}))), Some(&skipped));
    }
}
