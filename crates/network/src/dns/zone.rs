//! The cluster domain's names, indexed as they are asked for.
//!
//! | name below the domain | answer |
//! |---|---|
//! | `service.namespace.svc` | A: the cluster IP; headless: every ready endpoint; CNAME for ExternalName |
//! | `hostname.service.namespace.svc` | A of that endpoint of a headless Service; the address with dashes where there is no hostname |
//! | `_port._protocol.service.namespace.svc` | SRV: one for a cluster IP, one for each endpoint if headless |
//! | `a-b-c-d.namespace.pod` | A: the address in the name |
//! | `dns-version` | TXT |
//! | an address under in-addr.arpa | PTR of the cluster IP or endpoint |
//!
//! A name that exists without records of the type asked for is answered empty; one that does not exist, with NXDOMAIN; both with
//! the zone's SOA, so that resolvers remember it no longer than [`TTL_SECONDS`].

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::DnsConfig;
use super::entry::{Entry, Port};

/// How long an answer is good for. Short, since endpoints change; CoreDNS has the same default (plugin/kubernetes).
pub(super) const TTL_SECONDS: u32 = 5;
/// Addresses in one answer; 16 bytes each, they fill half of the largest message (65,535 bytes).
const ANSWERS_MAX: usize = 2_000;
/// The version of the specification that this follows, for `dns-version`.
const SPECIFICATION_VERSION: &str = "1.1.0";

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name exists, with other types.
    Empty,
    Absent,
    /// An alias of a name that others know.
    Alias {
        alias: Box<Record>,
        target: Name,
    },
    /// Not a name of this zone.
    Foreign,
    /// The cluster has not been seen yet.
    Unready,
}

pub(super) struct Zone {
    domain: Name,
    labels: Vec<String>,
    own: Option<IpAddr>,
    complete: bool,
    /// By namespace and name.
    services: BTreeMap<(String, String), Entry>,
    /// Names of an address, and how they came.
    reverse: HashMap<IpAddr, BTreeMap<(String, String), Name>>,
}

impl Zone {
    /// `None` if `domain` is not a domain name. `own` is where the server itself answers.
    pub(super) fn new(domain: &str, own: Option<IpAddr>) -> Option<Zone> {
        let mut name = Name::from_ascii(domain.trim_end_matches('.')).ok()?.to_lowercase();
        name.set_fqdn(true);
        let labels = labels(&name)?;
        (!labels.is_empty()).then(|| Zone {
            domain: name,
            labels,
            own,
            complete: false,
            services: BTreeMap::new(),
            reverse: HashMap::new(),
        })
    }

    /// The empty zone of a server.
    pub(super) fn of(config: &DnsConfig) -> Option<Zone> {
        Zone::new(&config.domain, config.listen.first().map(SocketAddr::ip))
    }

    /// From now on what is not known does not exist.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Replaces what is known of one Service; `None` forgets it.
    pub(super) fn set(&mut self, namespace: &str, name: &str, entry: Option<Entry>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(old) = self.services.remove(&key) {
            for (ip, _) in old.hosts() {
                if let Some(names) = self.reverse.get_mut(&ip) {
                    names.remove(&key);
                    if names.is_empty() {
                        self.reverse.remove(&ip);
                    }
                }
            }
        }
        let Some(entry) = entry else { return };
        for (ip, host) in entry.hosts() {
            if let Some(name) = self.name(&[host, Some(name), Some(namespace), Some("svc")]) {
                self.reverse.entry(ip).or_default().insert(key.clone(), name);
            }
        }
        self.services.insert(key, entry);
    }

    /// The SOA record for negative answers.
    pub(super) fn authority(&self) -> Record {
        let below = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| self.domain.clone());
        let server = below("dns").prepend_label("ns").unwrap_or_else(|_| below("dns"));
        let soa = SOA::new(server, below("hostmaster"), 1, 7_200, 1_800, 86_400, TTL_SECONDS);
        Record::from_rdata(self.domain.clone(), TTL_SECONDS, RData::SOA(soa))
    }

    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(asked) = labels(name) else {
            return if self.domain.zone_of(name) { Answer::Absent } else { Answer::Foreign };
        };
        let own = asked.len() >= self.labels.len() && asked[asked.len() - self.labels.len()..] == self.labels;
        if !own {
            return self.reverse_answer(name, kind);
        }
        let relative: Vec<&str> = asked[..asked.len() - self.labels.len()].iter().map(String::as_str).collect();
        match relative[..] {
            [] => self.apex(name, kind),
            ["dns"] | ["svc"] | ["pod"] => Answer::Empty,
            ["dns-version"] => {
                let text = RData::TXT(TXT::new(vec![SPECIFICATION_VERSION.to_owned()]));
                only(kind == RecordType::TXT, vec![record(name, text)])
            }
            ["ns", "dns"] => addresses(name, kind, self.own),
            _ if !self.complete => Answer::Unready,
            [namespace, "svc"] => self.namespace(namespace),
            [namespace, "pod"] => self.namespace(namespace),
            [address, _, "pod"] => match address.replace('-', ".").parse::<Ipv4Addr>() {
                Ok(ip) => addresses(name, kind, [IpAddr::V4(ip)]),
                Err(_) => Answer::Absent,
            },
            [ref below @ .., service, namespace, "svc"] => match self.services.get(&(namespace.to_owned(), service.to_owned())) {
                Some(entry) => self.of_service(entry, below, name, kind),
                None => Answer::Absent,
            },
            _ => Answer::Absent,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        let authority = self.authority();
        match (kind, &authority.data) {
            (RecordType::SOA, _) => found(vec![authority]),
            (RecordType::NS, RData::SOA(soa)) => found(vec![record(name, RData::NS(NS(soa.mname.clone())))]),
            _ => Answer::Empty,
        }
    }

    fn namespace(&self, namespace: &str) -> Answer {
        let from = (namespace.to_owned(), String::new());
        let exists = self.services.range(from..).next().is_some_and(|((first, _), _)| first == namespace);
        if exists { Answer::Empty } else { Answer::Absent }
    }

    fn of_service(&self, entry: &Entry, below: &[&str], name: &Name, kind: RecordType) -> Answer {
        match (below, entry) {
            ([], Entry::Cluster { ips, .. }) => addresses(name, kind, ips.iter().copied()),
            ([], Entry::Headless { endpoints }) => addresses(name, kind, endpoints.iter().map(|endpoint| endpoint.ip)),
            ([], Entry::External { target }) => {
                Answer::Alias { alias: Box::new(record(name, RData::CNAME(CNAME(target.clone())))), target: target.clone() }
            }
            ([host], Entry::Headless { endpoints }) if endpoints.iter().any(|endpoint| endpoint.host == *host) => {
                addresses(name, kind, endpoints.iter().filter(|endpoint| endpoint.host == *host).map(|endpoint| endpoint.ip))
            }
            ([protocol], _) if protocol.starts_with('_') => {
                let known = entry.ports().any(|port| port.is_of(protocol));
                if known { Answer::Empty } else { Answer::Absent }
            }
            ([port, protocol], _) if port.starts_with('_') => self.srv(entry, port, protocol, name, kind),
            _ => Answer::Absent,
        }
    }

    /// RFC 2782. Targets' addresses come along.
    fn srv(&self, entry: &Entry, port: &str, protocol: &str, name: &Name, kind: RecordType) -> Answer {
        let wanted = |candidate: &&Port| candidate.is_of(protocol) && candidate.name == port[1..];
        let base = name.trim_to(usize::from(name.num_labels()).saturating_sub(2)).to_lowercase();
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        let mut add = |target: Name, port: &Port, ips: &[IpAddr]| {
            answers.push(record(name, RData::SRV(SRV::new(0, 100, port.number, target.clone()))));
            additionals.extend(ips.iter().map(|ip| record(&target, address(*ip))));
        };
        match entry {
            Entry::Cluster { ips, ports } => ports.iter().filter(wanted).for_each(|port| add(base.clone(), port, ips)),
            Entry::Headless { endpoints } => {
                for endpoint in endpoints.iter().take(ANSWERS_MAX) {
                    let Ok(target) = base.prepend_label(endpoint.host.as_str()) else { continue };
                    endpoint.ports.iter().filter(wanted).for_each(|port| add(target.clone(), port, &[endpoint.ip]));
                }
            }
            Entry::External { .. } => {}
        }
        if answers.is_empty() {
            return Answer::Absent;
        }
        if kind == RecordType::SRV { Answer::Found { answers, additionals } } else { Answer::Empty }
    }

    fn reverse_answer(&self, name: &Name, kind: RecordType) -> Answer {
        let full_length = name.num_labels() == 6 || name.num_labels() == 34;
        let Some(ip) = name.parse_arpa_name().ok().filter(|_| full_length).map(|net| net.addr()) else {
            return Answer::Foreign;
        };
        match self.reverse.get(&ip) {
            Some(names) if kind == RecordType::PTR => {
                found(names.values().take(ANSWERS_MAX).map(|target| record(name, RData::PTR(PTR(target.clone())))).collect())
            }
            Some(_) => Answer::Empty,
            None => Answer::Foreign,
        }
    }

    /// The name of the labels that are there, below the domain.
    fn name(&self, labels: &[Option<&str>]) -> Option<Name> {
        let mut name = self.domain.clone();
        for label in labels.iter().rev().flatten() {
            name = name.prepend_label(*label).ok()?;
        }
        Some(name)
    }
}

/// Lower case labels; `None` if one is not text, which no name of the zone is.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())).collect()
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn addresses(name: &Name, kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
    let wanted = |ip: &IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let answers: Vec<Record> = ips.into_iter().filter(wanted).take(ANSWERS_MAX).map(|ip| record(name, address(ip))).collect();
    only(!answers.is_empty(), answers)
}

fn only(some: bool, answers: Vec<Record>) -> Answer {
    if some { found(answers) } else { Answer::Empty }
}

fn found(answers: Vec<Record>) -> Answer {
    Answer::Found { answers, additionals: Vec::new() }
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(super) mod tests;
