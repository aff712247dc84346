//! Which slices a Service should have.
//!
//! Endpoints with the same ports share slices (a named port can mean another number in every pod). Slices that are right are left alone, others are
//! rewritten in place before new ones are made, so that a change of one pod is one write.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt as _;

use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::owner;

/// Endpoints of one slice. Upstream's default (maxEndpointsPerSlice): one changed endpoint rewrites at most so many.
const ENDPOINTS_MAX: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) replace: Vec<EndpointSlice>,
    pub(crate) delete: Vec<String>,
}

/// Whether the Service's selector chooses the pod. A Service without a selector chooses none: somebody else makes its slices.
pub(crate) fn chooses(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    service.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value)))
}

/// `pods` are those chosen, `slices` those of this controller for the Service, `zone` that of a node.
pub(super) fn plan(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    zone: impl Fn(&str) -> Option<String>,
) -> Plan {
    let (Some(service), Some(spec)) = (service, service.and_then(served)) else {
        return Plan { delete: slices.iter().map(|slice| slice.name_any()).collect(), ..Plan::default() };
    };
    let mut plan = Plan::default();
    let mut left: Vec<_> = slices.to_vec();
    for family in families(spec) {
        for (ports, endpoints) in groups(service, spec, pods, family, &zone) {
            let kept =
                left.extract_if(.., |slice| slice.address_type == family && slice.ports.as_deref().unwrap_or_default() == ports).collect();
            place(service, family, &ports, endpoints, kept, &mut plan);
        }
    }
    plan.delete.extend(left.iter().map(|slice| slice.name_any()));
    plan
}

/// The spec of a Service whose pods are found by its selector.
fn served(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref().filter(|_| service.metadata.deletion_timestamp.is_none())?;
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    (selects && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

/// Endpoints of the Service's first address family, by the ports that they serve; `None` where they are not ours to make.
pub(crate) fn first_family(service: &Service, pods: &[Arc<Pod>]) -> Option<Vec<(Vec<EndpointPort>, Vec<Endpoint>)>> {
    let spec = served(service)?;
    let family = families(spec).first().copied()?;
    Some(groups(service, spec, pods, family, &|_| None))
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let named = spec.ip_families.iter().flatten().map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" });
    let mut families: Vec<_> = named.collect();
    if families.is_empty() {
        families.push("IPv4");
    }
    families
}

/// Endpoints by the ports that they serve. There is always a group, so that a Service without pods has an empty slice to say so.
fn groups(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    family: &str,
    zone: &impl Fn(&str) -> Option<String>,
) -> Vec<(Vec<EndpointPort>, Vec<Endpoint>)> {
    let mut groups: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    for pod in pods {
        let Some(endpoint) = endpoint(service, spec, pod, family, zone) else { continue };
        let ports = ports(spec, Some(pod));
        match groups.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => groups.push((ports, vec![endpoint])),
        }
    }
    if groups.is_empty() {
        groups.push((ports(spec, None), Vec::new()));
    }
    groups
}

/// The Service's ports as one pod serves them; a named port that the pod does not have is left out.
fn ports(spec: &ServiceSpec, pod: Option<&Pod>) -> Vec<EndpointPort> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let number = match (&port.target_port, pod) {
            (None, _) => Some(port.port),
            (Some(IntOrString::Int(number)), _) => Some(if *number == 0 { port.port } else { *number }),
            (Some(IntOrString::String(name)), Some(pod)) => named_port(pod, name, port.protocol.as_deref().unwrap_or("TCP")),
            (Some(IntOrString::String(_)), None) => None,
        };
        if let Some(number) = number {
            ports.push(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            });
        }
    }
    ports
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    // Sidecars are init containers that stay.
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let named = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.into_iter().find(named).map(|port| port.container_port)
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod, family: &str, zone: &impl Fn(&str) -> Option<String>) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut addresses = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).chain(status.pod_ip.clone());
    let address = addresses.find(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4")))?;
    let is_ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    // A pod's own name counts only under the Service that it says is its own.
    let named = pod.spec.as_ref().filter(|spec| spec.subdomain.is_some() && spec.subdomain == service.metadata.name);
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(is_ready && !terminating || spec.publish_not_ready_addresses == Some(true)),
            serving: Some(is_ready),
            terminating: Some(terminating),
        }),
        hostname: named.and_then(|spec| spec.hostname.clone()),
        zone: node_name.as_deref().and_then(zone),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// Puts `endpoints` into as few slices as they need, leaving those of `kept` alone that hold what they should.
fn place(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    kept: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut wanted: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|endpoint| (endpoint.addresses[0].clone(), endpoint)).collect();
    let mut drafts: Vec<(Arc<EndpointSlice>, Vec<Endpoint>, bool)> = Vec::new();
    for slice in kept {
        let mut changed = !marked(service, &slice);
        let mut stay = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            match endpoint.addresses.first().and_then(|address| wanted.remove(address)) {
                Some(fresh) => {
                    changed |= fresh != *endpoint;
                    stay.push(fresh);
                }
                None => changed = true,
            }
        }
        drafts.push((slice, stay, changed));
    }
    let mut new: VecDeque<Endpoint> = wanted.into_values().collect();
    // The fullest first: fewer slices are touched.
    drafts.sort_by_key(|(_, stay, changed)| (!*changed, std::cmp::Reverse(stay.len())));
    for (_, stay, changed) in &mut drafts {
        while stay.len() < ENDPOINTS_MAX
            && let Some(endpoint) = new.pop_front()
        {
            stay.push(endpoint);
            *changed = true;
        }
    }
    // One slice stays even without endpoints: it says that there are none.
    let mut slices = new.len().div_ceil(ENDPOINTS_MAX) + drafts.iter().filter(|(_, stay, _)| !stay.is_empty()).count();
    if slices == 0 && drafts.is_empty() {
        plan.create.push(slice_of(service, family, ports, Vec::new()));
    }
    for (slice, stay, changed) in drafts {
        if stay.is_empty() && slices > 0 {
            plan.delete.push(slice.name_any());
            continue;
        }
        slices = slices.max(1);
        if changed {
            let mut next = (*slice).clone();
            next.endpoints = Some(stay);
            next.metadata.labels.get_or_insert_default().extend(labels_of(service));
            next.metadata.owner_references = Some(vec![owner::reference(service)]);
            plan.replace.push(next);
        }
    }
    while !new.is_empty() {
        let endpoints: Vec<_> = new.drain(..new.len().min(ENDPOINTS_MAX)).collect();
        plan.create.push(slice_of(service, family, ports, endpoints));
    }
}

fn labels_of(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    labels
}

fn marked(service: &Service, slice: &EndpointSlice) -> bool {
    labels_of(service).iter().all(|(key, value)| slice.labels().get(key) == Some(value)) && owner::controlled_by(&slice.metadata, service)
}

fn slice_of(service: &Service, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels_of(service)),
            owner_references: Some(vec![owner::reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}
