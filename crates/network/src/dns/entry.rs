//! What DNS needs to know of one Service. Made from the Service and its slices by whoever follows the cluster, kept in the zone by the
//! process that answers.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

/// One Service, as far as its names go.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Entry {
    Cluster {
        ips: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    Headless {
        endpoints: Vec<Endpoint>,
    },
    External {
        #[serde(with = "text")]
        target: Name,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) number: u16,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) ip: IpAddr,
    pub(super) ports: Vec<Port>,
}

impl Entry {
    pub(super) fn of(service: &Service, slices: &[&EndpointSlice]) -> Option<Entry> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let mut target = Name::from_ascii(spec.external_name.as_deref()?.trim_end_matches('.')).ok()?;
            target.set_fqdn(true);
            return Some(Entry::External { target });
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Some(Entry::Headless { endpoints: slices.iter().flat_map(|slice| endpoints(slice)).collect() });
        }
        let mut ips: Vec<IpAddr> = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
        ips.sort();
        ips.dedup();
        let ports =
            spec.ports.iter().flatten().filter_map(|port| Port::of(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)));
        (!ips.is_empty()).then(|| Entry::Cluster { ips, ports: ports.collect() })
    }

    pub(super) fn ports(&self) -> Box<dyn Iterator<Item = &Port> + '_> {
        match self {
            Entry::Cluster { ports, .. } => Box::new(ports.iter()),
            Entry::Headless { endpoints } => Box::new(endpoints.iter().flat_map(|endpoint| &endpoint.ports)),
            Entry::External { .. } => Box::new(std::iter::empty()),
        }
    }

    /// Addresses that have a name here, with the label before the Service's if there is one.
    pub(super) fn hosts(&self) -> Vec<(IpAddr, Option<&str>)> {
        match self {
            Entry::Cluster { ips, .. } => ips.iter().map(|ip| (*ip, None)).collect(),
            Entry::Headless { endpoints } => endpoints.iter().map(|endpoint| (endpoint.ip, Some(endpoint.host.as_str()))).collect(),
            Entry::External { .. } => Vec::new(),
        }
    }
}

impl Port {
    /// Only named ports have SRV records.
    fn of(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
        let name = name.filter(|name| !name.is_empty())?.to_lowercase();
        let protocol = protocol.unwrap_or("TCP").to_lowercase();
        Some(Port { name, protocol, number: u16::try_from(number?).ok()? })
    }

    /// `protocol` as in a name, `_tcp`.
    pub(super) fn is_of(&self, protocol: &str) -> bool {
        protocol.strip_prefix('_') == Some(&self.protocol)
    }
}

/// The ready endpoints of a slice. (Of a Service that publishes unready addresses, the slice says that all are ready.)
fn endpoints(slice: &EndpointSlice) -> Vec<Endpoint> {
    let ports: Vec<Port> =
        slice.ports.iter().flatten().filter_map(|port| Port::of(port.name.as_deref(), port.protocol.as_deref(), port.port)).collect();
    let ready = |endpoint: &&k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    let mut found = Vec::new();
    for endpoint in slice.endpoints.iter().flatten().filter(ready) {
        for ip in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
            let dashed = || ip.to_string().replace(['.', ':'], "-");
            let host = endpoint.hostname.as_deref().filter(|host| !host.is_empty()).map_or_else(dashed, str::to_lowercase);
            found.push(Endpoint { host, ip, ports: ports.clone() });
        }
    }
    found
}

/// Names as text.
mod text {
    use hickory_proto::rr::Name;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&name.to_ascii())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        Name::from_ascii(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
