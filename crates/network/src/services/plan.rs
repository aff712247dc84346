//! What one Service means for one node: its frontends, and where each leads.
//!
//! | frontend | connections from | endpoints |
//! |---|---|---|
//! | cluster IP | anywhere | all, or those of this node (internalTrafficPolicy Local) |
//! | node port, external IP, load balancer IP | the cluster | all |
//! | the same | outside | all, or those of this node (externalTrafficPolicy Local) |
//!
//! Of the endpoints, the ready ones; if there are none, those that still serve while they terminate (KEP-1669). Without any
//! the Service refuses; where only this node has none, the connection is dropped, so that a load balancer notices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::node::Protocol;
use crate::table::{ENDPOINTS_MAX, Frontend, Origin, Target};

/// Another program serves Services with this label.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_DEFAULT: Duration = Duration::from_secs(10_800);

/// Where the plan is for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) zone: Option<String>,
    /// Served by the node itself, whatever a Service says.
    pub(super) dns_ip: IpAddr,
}

/// Every frontend of the Service and where it leads.
pub(super) fn plan(service: &Service, slices: &[Arc<EndpointSlice>], place: &Place) -> BTreeMap<Frontend, Target> {
    let mut frontends = BTreeMap::new();
    let Some(spec) = &service.spec else { return frontends };
    let labels = service.metadata.labels.as_ref();
    if spec.type_.as_deref() == Some("ExternalName") || labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)) {
        return frontends;
    }
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty() {
        return frontends;
    }
    let external_ips = external_ips(service, spec);
    for port in spec.ports.as_deref().unwrap_or_default() {
        let Some(protocol) = Protocol::of_name(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let endpoints = Endpoints::of(port, protocol, slices, place);
        let frontend = |address, port, origin| Frontend { address, protocol, port, origin };
        let sticky = sticky(spec);
        let internal = endpoints.target(is_local(spec.internal_traffic_policy.as_deref()), sticky);
        for ip in cluster_ips.iter().filter(|ip| **ip != place.dns_ip) {
            frontends.insert(frontend(Some(*ip), number, Origin::Anyone), internal.clone());
        }
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let outer = external_ips.iter().map(|ip| (Some(*ip), number)).chain(node_port.map(|port| (None, port)));
        for (address, port) in outer {
            frontends.insert(frontend(address, port, Origin::Anyone), endpoints.target(false, sticky));
            if is_local(spec.external_traffic_policy.as_deref()) && !endpoints.all.addresses.is_empty() {
                frontends.insert(frontend(address, port, Origin::Outside), endpoints.target(true, sticky));
            }
        }
    }
    frontends
}

/// The endpoints of one port that shall be used.
struct Endpoints {
    all: Usable,
    local: Usable,
}

#[derive(Clone)]
struct Usable {
    addresses: BTreeSet<SocketAddr>,
    /// None is ready; these still serve while they terminate.
    draining: bool,
}

impl Endpoints {
    fn of(port: &ServicePort, protocol: Protocol, slices: &[Arc<EndpointSlice>], place: &Place) -> Endpoints {
        let candidates: Vec<Candidate<'_>> = slices.iter().flat_map(|slice| candidates(slice, port, protocol)).collect();
        let local: Vec<Candidate<'_>> =
            candidates.iter().filter(|candidate| candidate.endpoint.node_name.as_deref() == Some(&place.node)).copied().collect();
        let mut all = usable(&candidates);
        let near: Vec<Candidate<'_>> = candidates.iter().filter(|candidate| candidate.is_ready()).copied().collect();
        if let Some(hinted) = hinted(&near, place) {
            all = Usable { addresses: hinted, draining: false };
        }
        Endpoints { all, local: usable(&local) }
    }

    fn target(&self, local: bool, sticky: Option<Duration>) -> Target {
        let usable = if local { &self.local } else { &self.all };
        match (self.all.addresses.is_empty(), usable.addresses.is_empty()) {
            (true, _) => Target::Reject,
            (false, true) => Target::Drop,
            (false, false) => Target::Endpoints { endpoints: usable.addresses.clone(), sticky, draining: usable.draining },
        }
    }
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    fn is_ready(&self) -> bool {
        self.endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    }

    fn is_serving(&self) -> bool {
        self.endpoint.conditions.as_ref().and_then(|conditions| conditions.serving).unwrap_or_else(|| self.is_ready())
    }

    fn is_terminating(&self) -> bool {
        self.endpoint.conditions.as_ref().and_then(|conditions| conditions.terminating).unwrap_or(false)
    }
}

/// The addresses of a slice for the Service's port, which the slice names alike.
fn candidates<'a>(slice: &'a EndpointSlice, port: &ServicePort, protocol: Protocol) -> Vec<Candidate<'a>> {
    let number = slice.ports.iter().flatten().find_map(|candidate| {
        let same_name = candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default();
        let same_protocol = Protocol::of_name(candidate.protocol.as_deref()) == Some(protocol);
        candidate.port.filter(|_| same_name && same_protocol).and_then(|number| u16::try_from(number).ok())
    });
    let Some(number) = number.filter(|_| slice.address_type == "IPv4") else { return Vec::new() };
    // Consumers use the first address of an endpoint; the API allows more and gives them no meaning.
    let candidate = |endpoint: &'a Endpoint| {
        let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        ip.is_ipv4().then_some(Candidate { address: SocketAddr::new(ip, number), endpoint })
    };
    slice.endpoints.iter().flatten().filter_map(candidate).collect()
}

fn usable(candidates: &[Candidate<'_>]) -> Usable {
    let pick = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> BTreeSet<SocketAddr> {
        candidates.iter().filter(|candidate| wanted(candidate)).map(|candidate| candidate.address).take(ENDPOINTS_MAX).collect()
    };
    let ready = pick(&|candidate| candidate.is_ready());
    if !ready.is_empty() {
        return Usable { addresses: ready, draining: false };
    }
    Usable { addresses: pick(&|candidate| candidate.is_serving() && candidate.is_terminating()), draining: true }
}

/// Topology hints count only if every ready endpoint has some and at least one is for here (KEP-2433, KEP-4444).
fn hinted(ready: &[Candidate<'_>], place: &Place) -> Option<BTreeSet<SocketAddr>> {
    let by_node = |candidate: &Candidate<'_>| {
        let nodes = candidate.endpoint.hints.as_ref()?.for_nodes.as_ref().filter(|nodes| !nodes.is_empty())?;
        Some(nodes.iter().any(|node| node.name == place.node))
    };
    let by_zone = |candidate: &Candidate<'_>| {
        let zones = candidate.endpoint.hints.as_ref()?.for_zones.as_ref().filter(|zones| !zones.is_empty())?;
        Some(zones.iter().any(|zone| Some(&zone.name) == place.zone.as_ref()))
    };
    let choose = |here: &dyn Fn(&Candidate<'_>) -> Option<bool>| -> Option<BTreeSet<SocketAddr>> {
        let flags: Vec<bool> = ready.iter().map(here).collect::<Option<_>>()?;
        let chosen: BTreeSet<SocketAddr> =
            ready.iter().zip(flags).filter(|(_, here)| *here).map(|(candidate, _)| candidate.address).collect();
        (!chosen.is_empty()).then_some(chosen)
    };
    choose(&by_node).or_else(|| choose(&by_zone))
}

fn is_local(policy: Option<&str>) -> bool {
    policy == Some("Local")
}

fn sticky(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let seconds = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    Some(seconds.map_or(AFFINITY_DEFAULT, Duration::from_secs))
}

/// None for a headless Service, and for one that has no address yet.
fn cluster_ips(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    parse_ipv4(all.map(String::as_str))
}

/// `spec.externalIPs`, and what a load balancer gave, unless it delivers to node ports itself (ipMode Proxy).
fn external_ips(service: &Service, spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let ingress = balancer.into_iter().flatten().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let external = spec.external_ips.iter().flatten();
    parse_ipv4(external.map(String::as_str).chain(ingress.filter_map(|ingress| ingress.ip.as_deref())))
}

fn parse_ipv4<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).filter(IpAddr::is_ipv4).collect()
}
