//! What a Service has, and what it is to be given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use serde_json::{Map, Value};

use super::{Claim, Hold, Refusal};

pub(super) const COLLECTION: &str = "core/services";

const NONE: &str = "None";

const SINGLE: &str = "SingleStack";
const PREFER_DUAL: &str = "PreferDualStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// The addresses and node ports that a Service has, each once.
pub(super) fn claims(service: &Object) -> Vec<Claim> {
    let mut claims = BTreeSet::new();
    let addresses = service.list(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    for address in addresses.chain([service.str(&["spec", "clusterIP"])]) {
        if let Ok(address) = address.parse() {
            claims.insert(Claim::Address(address));
        }
    }
    let ports = service.list(&["spec", "ports"]).iter().map(|port| &port["nodePort"]);
    for port in ports.chain(service.get(&["spec", "healthCheckNodePort"])) {
        if let Some(port) = port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0) {
            claims.insert(Claim::NodePort(port));
        }
    }
    claims.into_iter().collect()
}

/// Gives a new or changed Service what its type needs, and takes from it what its type does not have.
pub(super) fn complete(hold: &mut Hold<'_>, service: &mut Object, old: Option<&Object>) -> Result<(), Status> {
    let had = old.map(claims).unwrap_or_default();
    let ty = match service.str(&["spec", "type"]) {
        "" => "ClusterIP".to_owned(),
        ty => ty.to_owned(),
    };
    addresses(hold, service, old, &ty, &had)?;
    ports(hold, service, old, &ty, &had)?;
    health_check_port(hold, service, old, &ty, &had)
}

fn addresses(hold: &mut Hold<'_>, service: &mut Object, old: Option<&Object>, ty: &str, had: &[Claim]) -> Result<(), Status> {
    if ty == "ExternalName" {
        // A name has no address; one that the Service had before is given back.
        let kept_from_old = |field: &str| old.is_some_and(|old| old.get(&["spec", field]) == service.get(&["spec", field]));
        if service.str(&["spec", "clusterIP"]).is_empty() || kept_from_old("clusterIP") {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
                service.remove(&["spec", field]);
            }
        }
        return Ok(());
    }
    let chosen = chosen_address(service, old);
    families(service, old, &chosen, hold.allocator.family())?;
    let address = match chosen.as_str() {
        NONE => NONE.to_owned(),
        "" => take_any_address(hold, service)?,
        text => take_address(hold, service, text, had)?,
    };
    service.set(&["spec", "clusterIP"], address.as_str().into());
    service.set(&["spec", "clusterIPs"], vec![Value::from(address)].into());
    Ok(())
}

/// Decides the policy and the families of a Service's addresses; this cluster has addresses of `family` only (registry/core/service/storage,
/// initIPFamilyFields).
fn families(service: &mut Object, old: Option<&Object>, address: &str, family: &str) -> Result<(), Status> {
    let headless_by_hand = address == NONE && service.get(&["spec", "selector"]).and_then(Value::as_object).is_none_or(Map::is_empty);
    if service.str(&["spec", "ipFamilyPolicy"]).is_empty() {
        let policy = match old.map_or("", |old| old.str(&["spec", "ipFamilyPolicy"])) {
            // Its endpoints are written by somebody who knows more families than this cluster does.
            "" if headless_by_hand => REQUIRE_DUAL,
            "" => SINGLE,
            before => before,
        };
        service.set(&["spec", "ipFamilyPolicy"], policy.into());
    }
    let policy = service.str(&["spec", "ipFamilyPolicy"]).to_owned();
    let same = |field: &str| old.is_some_and(|old| old.list(&["spec", field]) == service.list(&["spec", field]));
    if policy == PREFER_DUAL
        && old.is_some_and(|old| old.str(&["spec", "ipFamilyPolicy"]) == policy)
        && same("ipFamilies")
        && same("clusterIPs")
    {
        return Ok(());
    }
    let mut families = service.list(&["spec", "ipFamilies"]).to_vec();
    let mut errors = Vec::new();
    if policy == SINGLE {
        if same("ipFamilies") {
            families.truncate(1);
        }
        let mut wants_dual = |count: usize, what: &str| {
            if count > 1 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.push(FieldError::invalid("spec.ipFamilyPolicy", &policy.as_str().into(), &why));
            }
        };
        wants_dual(service.list(&["spec", "clusterIPs"]).len(), "cluster IPs");
        wants_dual(families.len(), "IP families");
    }
    let addresses = match service.list(&["spec", "clusterIPs"]) {
        [] => &[Value::from(address)][..],
        several => several,
    };
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        let Some(address) = address.as_str().and_then(|address| address.parse::<IpAddr>().ok()) else { continue };
        let other = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if other != family {
            let why = format!("{other} is not configured on this cluster");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), &addresses.to_vec().into(), &why));
        }
    }
    refuse(service, &errors)?;
    if families.is_empty() {
        families.push(family.into());
    }
    if headless_by_hand {
        if families.len() == 1 && policy != SINGLE {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
        }
    } else {
        if policy == REQUIRE_DUAL {
            let why = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", &policy.as_str().into(), why));
        }
        for (index, wanted) in families.iter().enumerate().filter(|(_, wanted)| *wanted != family) {
            errors.push(FieldError::invalid(format!("spec.ipFamilies[{index}]"), wanted, "not configured on this cluster"));
        }
        refuse(service, &errors)?;
    }
    service.set(&["spec", "ipFamilies"], families.into());
    Ok(())
}

fn refuse(service: &Object, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(status::invalid("", "Service", service.name(), errors)) }
}

/// The address that the client asks for; an update that leaves it out keeps the old one.
fn chosen_address(service: &Object, old: Option<&Object>) -> String {
    let of = |service: &Object| match service.str(&["spec", "clusterIP"]) {
        "" => service.list(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_owned(),
        address => address.to_owned(),
    };
    match (of(service), old) {
        (address, Some(old)) if address.is_empty() => of(old),
        (address, _) => address,
    }
}

fn take_any_address(hold: &mut Hold<'_>, service: &Object) -> Result<String, Status> {
    let Some(address) = hold.allocator.hold_any() else {
        let why = match hold.allocator.ranges_text() {
            Some(_) => "range is full",
            None => "no ServiceCIDR is ready; make one",
        };
        return Err(status::internal(format!("failed to allocate a serviceIP for service {}: {why}", service.name())));
    };
    hold.taken.push(Claim::Address(address));
    Ok(address.to_string())
}

fn take_address(hold: &mut Hold<'_>, service: &Object, text: &str, had: &[Claim]) -> Result<String, Status> {
    let fail = |why: &str| {
        let why = format!("failed to allocate IP {text}: {why}");
        Err(invalid(service, FieldError::invalid("spec.clusterIPs", &vec![Value::from(text)].into(), &why)))
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return fail("not an IP address");
    };
    let claim = Claim::Address(address);
    // One that lies outside because the range has gone stays with its Service.
    if had.contains(&claim) {
        return Ok(text.to_owned());
    }
    match hold.allocator.hold_address(address) {
        Ok(()) => hold.taken.push(claim),
        Err(Refusal::Taken) => return fail("provided IP is already allocated"),
        Err(Refusal::NoRange) => {
            let ready = hold.allocator.ranges_text().unwrap_or_else(|| "none".to_owned());
            // Upstream's words, and what would have been right.
            return fail(&format!("the provided network does not match the current range (ready ServiceCIDRs: {ready})"));
        }
    }
    Ok(text.to_owned())
}

fn ports(hold: &mut Hold<'_>, service: &mut Object, old: Option<&Object>, ty: &str, had: &[Claim]) -> Result<(), Status> {
    let wants =
        ty == "NodePort" || (ty == "LoadBalancer" && service.get(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&false.into()));
    let mut ports = service.list(&["spec", "ports"]).to_vec();
    // A Service that stops having node ports and did not ask for new ones loses them.
    let drops = !matches!(ty, "NodePort" | "LoadBalancer");
    // One port under two protocols has one node port.
    let mut by_port: BTreeMap<u64, u16> = BTreeMap::new();
    for port in &ports {
        if let (Some(port), Some(number)) = (port["port"].as_u64(), port["nodePort"].as_u64().and_then(|number| u16::try_from(number).ok()))
        {
            by_port.insert(port, number);
        }
    }
    by_port.retain(|_, number| *number != 0);
    for (index, port) in ports.iter_mut().enumerate() {
        let given = port["nodePort"].as_u64().unwrap_or(0);
        let kept = old.filter(|_| given == 0 && wants).and_then(|old| node_port_of(old, port));
        let Some(map) = port.as_object_mut() else { continue };
        if drops {
            let was = u16::try_from(given).is_ok_and(|given| had.contains(&Claim::NodePort(given)));
            if given == 0 || was {
                map.remove("nodePort");
            }
            continue;
        }
        let number = match (given, kept) {
            (0, None) if !wants => continue,
            (0, Some(kept)) => kept,
            (0, None) => match by_port.get(&map["port"].as_u64().unwrap_or(0)) {
                Some(number) => *number,
                None => take_any_port(hold, service)?,
            },
            (given, _) => {
                take_port(hold, service, &format!("spec.ports[{index}].nodePort"), given, had)?;
                continue;
            }
        };
        by_port.insert(map["port"].as_u64().unwrap_or(0), number);
        map.insert("nodePort".to_owned(), number.into());
    }
    if !ports.is_empty() {
        service.set(&["spec", "ports"], ports.into());
    }
    Ok(())
}

/// The node port that the same port (by number and protocol) has in the old Service.
fn node_port_of(old: &Object, port: &Value) -> Option<u16> {
    let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
    let same = |other: &&Value| other["port"] == port["port"] && protocol(other) == protocol(port);
    let number = old.list(&["spec", "ports"]).iter().find(same)?["nodePort"].as_u64()?;
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn take_any_port(hold: &mut Hold<'_>, service: &Object) -> Result<u16, Status> {
    let number = hold.allocator.state.lock().node_ports.take_any().and_then(|number| u16::try_from(number).ok());
    let Some(number) = number else {
        return Err(status::internal(format!("failed to allocate a nodePort for service {}: range is full", service.name())));
    };
    hold.taken.push(Claim::NodePort(number));
    Ok(number)
}

fn take_port(hold: &mut Hold<'_>, service: &Object, field: &str, number: u64, had: &[Claim]) -> Result<(), Status> {
    let claim = Claim::NodePort(u16::try_from(number).unwrap_or(0));
    // The same number under another protocol, or one that the Service has already.
    if had.contains(&claim) || hold.taken.contains(&claim) {
        return Ok(());
    }
    let (inside, taken) = {
        let ports = &mut hold.allocator.state.lock().node_ports;
        (ports.contains(number.into()), ports.take(number.into()))
    };
    if !inside {
        let why = "provided port is not in the valid range";
        return Err(invalid(service, FieldError::invalid(field, &number.into(), why)));
    }
    if !taken {
        return Err(invalid(service, FieldError::invalid(field, &number.into(), "provided port is already allocated")));
    }
    hold.taken.push(claim);
    Ok(())
}

/// A load balancer with local traffic policy asks each node on this port whether it has endpoints.
fn health_check_port(hold: &mut Hold<'_>, service: &mut Object, old: Option<&Object>, ty: &str, had: &[Claim]) -> Result<(), Status> {
    let needs = |service: &Object, ty: &str| ty == "LoadBalancer" && service.str(&["spec", "externalTrafficPolicy"]) == "Local";
    let path = &["spec", "healthCheckNodePort"];
    let given = service.int(path).filter(|port| *port != 0).and_then(|port| u64::try_from(port).ok());
    if !needs(service, ty) {
        let was = old.and_then(|old| old.int(path));
        if given.is_none() || given == was.and_then(|port| u64::try_from(port).ok()) {
            service.remove(path);
        }
        return Ok(());
    }
    if let Some(given) = given {
        return take_port(hold, service, "spec.healthCheckNodePort", given, had);
    }
    let number = match old.and_then(|old| old.int(path)).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0) {
        Some(number) => number,
        None => take_any_port(hold, service)?,
    };
    service.set(path, number.into());
    Ok(())
}

fn invalid(service: &Object, error: FieldError) -> Status {
    status::invalid("", "Service", service.name(), &[error])
}
