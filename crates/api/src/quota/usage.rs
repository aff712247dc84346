//! What one object uses, under all names that quotas have for it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Amounts;
use crate::object::Object;
use crate::quantity::Quantity;

/// A quota of these asks that every container names them, which upstream calls a mistake and keeps (evaluator/core/pods.go, validationSet).
const REQUIRED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const POD_AMOUNTS: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// Resources that had a count of their own before there was `count/`.
const OLD_COUNTS: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
/// Resources of containers whose limits are counted beside their requests.
const NATIVE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Devices of a class that claims ask for.
const OF_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// Devices of a request for all there are: as many as a claim can have (resource/v1, AllocationResultsMaxSize).
const DEVICES_MAX: i64 = 32;
/// Older than `spec.storageClassName`.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// `count/pods`, `count/deployments.apps`
fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Whether objects of the resource are counted under `name` in a quota.
pub fn counts(group: &str, resource: &str, name: &str) -> bool {
    if name == count_name(group, resource) {
        return true;
    }
    match (group, resource) {
        ("", "pods") => {
            let request = name.strip_prefix("requests.").unwrap_or(name);
            POD_AMOUNTS.contains(&name) || request.starts_with("hugepages-") || (name.starts_with("requests.") && is_extended(request))
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            let of_class = name.split_once(OF_CLASS).is_some_and(|(_, what)| matches!(what, "persistentvolumeclaims" | "requests.storage"));
            of_class || matches!(name, "persistentvolumeclaims" | "requests.storage")
        }
        ("resource.k8s.io", "resourceclaims") => name.strip_suffix(OF_DEVICE_CLASS).is_some_and(|class| !class.is_empty()),
        ("", resource) => OLD_COUNTS.contains(&resource) && name == resource,
        _ => false,
    }
}

/// `example.com/gpu`, not of Kubernetes' own domain.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

/// What the object uses.
pub fn usage(group: &str, resource: &str, object: &Object) -> Amounts {
    let mut used = Amounts::from([(count_name(group, resource), Quantity::from_units(1))]);
    match (group, resource) {
        ("", "pods") => used.extend(pod(object)),
        ("", "services") => used.extend(service(object)),
        ("", "persistentvolumeclaims") => used.extend(claim(object)),
        ("resource.k8s.io", "resourceclaims") => used.extend(devices(object)),
        ("", resource) if OLD_COUNTS.contains(&resource) => drop(used.insert(resource.to_owned(), Quantity::from_units(1))),
        _ => {}
    }
    used
}

fn service(service: &Object) -> Amounts {
    let ports = service.list(&["spec", "ports"]);
    let all = ports.len();
    let (balancers, node_ports) = match service.str(&["spec", "type"]) {
        "NodePort" => (0, all),
        "LoadBalancer" if service.get(&["spec", "allocateLoadBalancerNodePorts"]) == Some(&Value::Bool(false)) => {
            (1, ports.iter().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port != 0)).count())
        }
        "LoadBalancer" => (1, all),
        _ => (0, 0),
    };
    let number = |count: usize| Quantity::from_units(count.try_into().unwrap_or(i64::MAX));
    [("services", 1), ("services.loadbalancers", balancers), ("services.nodeports", node_ports)]
        .map(|(name, count)| (name.to_owned(), number(count)))
        .into()
}

fn claim(claim: &Object) -> Amounts {
    let one = Quantity::from_units(1);
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), one)]);
    let quantity = |path: &[&str]| Quantity::parse(claim.str(path)).ok();
    let mut storage = quantity(&["spec", "resources", "requests", "storage"]);
    // A claim that is being made smaller again has taken what it asked for at most.
    if let Some(allocated) = quantity(&["status", "allocatedResources", "storage"]) {
        storage = Some(storage.map_or(allocated, |storage| storage.max(allocated)));
    }
    let class = claim.annotation(CLASS).unwrap_or(claim.str(&["spec", "storageClassName"]));
    if !class.is_empty() {
        used.insert(format!("{class}{OF_CLASS}persistentvolumeclaims"), one);
    }
    if let Some(storage) = storage {
        used.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            used.insert(format!("{class}{OF_CLASS}requests.storage"), storage);
        }
    }
    used
}

/// The devices that a resource claim may get, by class; of alternatives the most (evaluator/core/resource_claims.go).
fn devices(claim: &Object) -> Amounts {
    let mut used = Amounts::new();
    for request in claim.list(&["spec", "devices", "requests"]) {
        let exactly = request.get("exactly").into_iter();
        let mut worst = Amounts::new();
        for one in exactly.chain(request["firstAvailable"].as_array().into_iter().flatten()) {
            let count = match one["allocationMode"].as_str() {
                Some("All") => DEVICES_MAX,
                _ => one["count"].as_i64().unwrap_or(1),
            };
            let name = format!("{}{OF_DEVICE_CLASS}", one["deviceClassName"].as_str().unwrap_or_default());
            raise(&mut worst, &Amounts::from([(name, Quantity::from_units(count))]));
        }
        add(&mut used, &worst);
    }
    used
}

/// A pod that is over uses nothing but its place in the store.
fn pod(pod: &Object) -> Amounts {
    if matches!(pod.str(&["status", "phase"]), "Succeeded" | "Failed") || is_gone(pod) {
        return Amounts::new();
    }
    let mut used = Amounts::from([("pods".to_owned(), Quantity::from_units(1))]);
    used.extend(named(&whole(pod, "requests"), &whole(pod, "limits")));
    used
}

/// Deleted, and its grace period is over: a node that does not answer holds no quota.
fn is_gone(pod: &Object) -> bool {
    let at = pod.deletion_timestamp().parse::<jiff::Timestamp>();
    at.is_ok_and(|at| at < jiff::Timestamp::now()) && pod.int(&["metadata", "deletionGracePeriodSeconds"]).is_some()
}

/// Requests and limits by the names that quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::new();
    for (name, amount) in requests {
        let native = NATIVE.contains(&name.as_str());
        if native || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
        }
        if native || name.starts_with("hugepages-") || is_extended(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    let limits = limits.iter().filter(|(name, _)| NATIVE.contains(&name.as_str()));
    used.extend(limits.map(|(name, amount)| (format!("limits.{name}"), *amount)));
    used
}

/// What a pod takes, `part` being `requests` or `limits` (component-helpers, resource/helpers.go, PodRequests).
fn whole(pod: &Object, part: &str) -> Amounts {
    let mut total = together(pod, part, &|container| of_container(pod, container, part));
    for (name, amount) in super::amounts(pod.get(&["spec", "overhead"])) {
        // What is not limited stays so.
        if part == "requests" || total.get(&name).is_some_and(|limit| !limit.is_zero()) {
            add(&mut total, &Amounts::from([(name, amount)]));
        }
    }
    total
}

/// What a pod's spec asks for, whatever its containers have and without what its runtime costs (admission/limitranger, podRequests).
pub fn of_spec(pod: &Object, part: &str) -> Amounts {
    together(pod, part, &|container| super::amounts(container["resources"].get(part)))
}

/// What the pod's containers ask for together.
fn together(pod: &Object, part: &str, of_container: &dyn Fn(&Value) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in pod.list(&["spec", "containers"]) {
        add(&mut total, &of_container(container));
    }
    // Init containers run one after the other, beside the sidecars that were started before them.
    let (mut sidecars, mut first) = (Amounts::new(), Amounts::new());
    for container in pod.list(&["spec", "initContainers"]) {
        let mut at_once = of_container(container);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &at_once);
            add(&mut sidecars, &at_once);
            at_once = sidecars.clone();
        } else {
            add(&mut at_once, &sidecars);
        }
        raise(&mut first, &at_once);
    }
    raise(&mut total, &first);
    // What the pod as a whole names stands for its containers.
    let own = super::amounts(pod.get(&["spec", "resources", part]));
    total.extend(own.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-")));
    total
}

/// What a container asks for; while it is being resized, the larger of what it has and what it is to get.
fn of_container(pod: &Object, container: &Value, part: &str) -> Amounts {
    let mut asked = super::amounts(container["resources"].get(part));
    for list in ["containerStatuses", "initContainerStatuses"] {
        let found = pod.list(&["status", list]).iter().find(|status| status["name"] == container["name"]);
        if let Some(status) = found {
            raise(&mut asked, &super::amounts(status["resources"].get(part)));
        }
    }
    asked
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_insert(Quantity::ZERO);
        *sum = *sum + *amount;
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = total.entry(name.clone()).or_insert(*amount);
        *most = (*most).max(*amount);
    }
}

/// Whether each container of a new pod names what a quota counts and must be named.
pub(super) fn require(pod: &Object, counted: &[&String]) -> Result<(), String> {
    let required: Vec<&str> = counted.iter().map(|name| name.as_str()).filter(|name| REQUIRED.contains(name)).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| pod.list(&["spec", list])) {
        let part = |part: &str| super::amounts(container["resources"].get(part));
        let has = named(&part("requests"), &part("limits"));
        for name in required.iter().filter(|name| !has.contains_key(**name)) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let words = missing.iter().map(|(name, containers)| {
        let containers: Vec<&str> = containers.iter().copied().collect();
        format!("{name} for: {}", containers.join(","))
    });
    Err(format!("must specify {}", words.collect::<Vec<_>>().join("; ")))
}
