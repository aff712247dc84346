//! discovery.k8s.io/v1.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{NOT_AN_IP, Rules, of_no_endpoint};
use super::{by_table, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

static ENDPOINT_SLICE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        addressType required
        addressType enum IPv4 IPv6 FQDN
        endpoints[].addresses required must contain at least 1 address
        endpoints[].nodeName subdomain
        endpoints[].deprecatedTopology labels
        endpoints[].hostname label
        ports[].protocol required
        ports[].protocol enum TCP UDP SCTP
        ports[].port port
        ports[].name label
        ports[].appProtocol qualified
        "#,
    )
});

/// Limits of a slice (upstream's discovery validation).
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;
const ADDRESSES_MAX: usize = 100;
const HINTS_MAX: usize = 8;

pub(in crate::kinds) fn endpoint_slice(object: &Object) -> FieldErrors {
    let (endpoints, ports) = (object.list(&["endpoints"]), object.list(&["ports"]));
    // Nothing else is said of what is too long to be looked at.
    for (path, found, most) in [("ports", ports.len(), PORTS_MAX), ("endpoints", endpoints.len(), ENDPOINTS_MAX)] {
        if found > most {
            return vec![FieldError::too_many(path, found, most)];
        }
    }
    let mut errors = by_table(&ENDPOINT_SLICE, object);
    different(ports, "ports", &mut errors);
    for (index, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{index}]");
        addresses(list(endpoint, "addresses"), object.str(&["addressType"]), &format!("{at}.addresses"), &mut errors);
        if let Some(hints) = endpoint.get("hints") {
            hints_of(hints, &format!("{at}.hints"), &mut errors);
        }
    }
    errors
}

/// Names may not come twice, the empty one neither.
fn different(items: &[Value], path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        if !seen.insert(text(item, "name")) {
            errors.push(FieldError::duplicate(format!("{path}[{index}].name"), &text(item, "name").into()));
        }
    }
}

fn addresses(addresses: &[Value], ty: &str, at: &str, errors: &mut FieldErrors) {
    if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(at, addresses.len(), ADDRESSES_MAX));
    }
    for (index, address) in addresses.iter().enumerate() {
        let (text, item) = (address.as_str().unwrap_or(""), format!("{at}[{index}]"));
        if ty == "FQDN" {
            errors.extend(names::full_domain(text).iter().map(|reason| FieldError::invalid(&item, address, reason)));
        }
        let v4 = match ty {
            "IPv4" => true,
            "IPv6" => false,
            _ => continue,
        };
        let Ok(parsed) = text.parse::<IpAddr>() else {
            errors.push(FieldError::invalid(item, address, NOT_AN_IP));
            continue;
        };
        if parsed.is_ipv4() != v4 {
            errors.push(FieldError::invalid(at, address, &format!("must be an {ty} address")));
        } else if !v4 && parsed.to_string() != text {
            errors.push(FieldError::invalid(&item, address, &format!("must be in canonical form ({:?})", parsed.to_string())));
        }
        errors.extend(of_no_endpoint(text).map(|detail| FieldError::invalid(item, address, &detail)));
    }
}

fn hints_of(hints: &Value, at: &str, errors: &mut FieldErrors) {
    for (key, form) in [("forZones", names::label_value as fn(&str) -> _), ("forNodes", names::dns1123_subdomain)] {
        let (hints, at) = (list(hints, key), format!("{at}.{key}"));
        if hints.len() > HINTS_MAX {
            errors.push(FieldError::too_many(at, hints.len(), HINTS_MAX));
            return;
        }
        different(hints, &at, errors);
        for (index, hint) in hints.iter().enumerate() {
            let name = text(hint, "name");
            errors.extend(form(name).iter().map(|reason| FieldError::invalid(format!("{at}[{index}].name"), &name.into(), reason)));
        }
    }
}

pub(in crate::kinds) fn endpoint_slice_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["addressType"]])
}
