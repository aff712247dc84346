//! Lists of resources: which names may stand where, and what amounts (pkg/apis/core/helper).

use std::collections::HashSet;

use serde_json::Value;

use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::quantity::Quantity;

/// What is counted: quotas limit it, and a fraction of it is nonsense.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// What is measured in quotas, beside what is counted.
const MEASURED: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Where a list stands decides what it may name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Container,
    /// The resources of a pod as a whole.
    Pod,
    Quota,
    /// Limits of what is neither a pod nor a container.
    Other,
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Of Kubernetes itself, rather than of some device.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub(super) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub(super) fn is_standard_in_quota(name: &str) -> bool {
    COUNTED.contains(&name) || MEASURED.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

fn is_standard(name: &str) -> bool {
    name == "storage" || is_standard_in_quota(name)
}

/// `path` is that of the entry, key included.
pub(super) fn check_name(name: &str, path: &str, place: Place, errors: &mut FieldErrors) {
    let value = Value::from(name);
    let faults = names::qualified_name(name);
    let mut push = |why: &str| errors.push(FieldError::invalid(path, &value, why));
    faults.iter().for_each(|reason| push(reason));
    let plain = !name.contains('/');
    let unknown = faults.is_empty() && plain && !is_standard(name);
    if unknown {
        push("must be a standard resource type or fully qualified");
    }
    match place {
        Place::Container if plain && !["cpu", "memory", "ephemeral-storage"].contains(&name) && !is_huge_page(name) => {
            push("must be a standard resource for containers");
        }
        Place::Container if !plain && !is_native(name) && !is_extended(name) => push("doesn't follow extended resource name standard"),
        Place::Quota if plain && !is_standard_in_quota(name) => push("must be a standard resource for quota"),
        Place::Pod if faults.is_empty() && !unknown && !["cpu", "memory"].contains(&name) && !is_huge_page(name) => {
            errors.push(FieldError::not_supported(path, &value, &["cpu", "hugepages-", "memory"]));
        }
        _ => {}
    }
}

pub(super) fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| Quantity::parse(text).ok())
}

/// Not negative, and whole where a part means nothing.
pub(super) fn check_amount(name: &str, value: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(quantity) = amount(value) else { return };
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && !quantity.is_whole() {
        errors.push(FieldError::invalid(path, value, "must be an integer"));
    }
}

/// All names and amounts of a list.
pub(super) fn check_list(value: Option<&Value>, path: &str, place: Place, errors: &mut FieldErrors) {
    for (name, value) in value.and_then(Value::as_object).into_iter().flatten() {
        let at = format!("{path}[{name}]");
        check_name(name, &at, place, errors);
        check_amount(name, value, &at, errors);
        whole_pages(name, value, &at, errors);
    }
}

/// `hugepages-2Mi` come in multiples of 2Mi.
fn whole_pages(name: &str, value: &Value, path: &str, errors: &mut FieldErrors) {
    let (Some(size), Some(quantity)) = (name.strip_prefix("hugepages-"), amount(value)) else { return };
    let whole = Quantity::parse(size).is_ok_and(|size| size.value() > 0 && size.is_whole() && quantity.value() % size.value() == 0);
    if !whole {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, value, &detail));
    }
}

/// The requests and limits at `path`, and what they say of claims.
pub(super) fn requirements(value: &Value, path: &str, place: Place, claims: &[&str], errors: &mut FieldErrors) {
    let (requests, limits) = (&value["requests"], &value["limits"]);
    check_list(Some(limits), &format!("{path}.limits"), place, errors);
    check_list(Some(requests), &format!("{path}.requests"), place, errors);
    for (name, request) in requests.as_object().into_iter().flatten() {
        let Some(limit) = limits.get(name) else {
            if !may_be_overcommitted(name) {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(format!("{path}.limits"), detail));
            }
            continue;
        };
        let (Some(wanted), Some(most)) = (amount(request), amount(limit)) else { continue };
        let why = if wanted != most && !may_be_overcommitted(name) {
            format!("must be equal to {name} limit of {most}")
        } else if wanted > most {
            format!("must be less than or equal to {name} limit of {most}")
        } else {
            continue;
        };
        errors.push(FieldError::invalid(format!("{path}.requests"), request, &why));
    }
    let named = |wanted: fn(&str) -> bool| [requests, limits].iter().any(|list| has(list, wanted));
    if named(is_huge_page) && !named(|name| ["cpu", "memory"].contains(&name)) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    claimed(value, path, claims, errors);
}

fn has(list: &Value, wanted: fn(&str) -> bool) -> bool {
    list.as_object().is_some_and(|map| map.keys().any(|name| wanted(name)))
}

/// Each claim is one of the pod's, and is named once, as a whole or by its requests.
fn claimed(value: &Value, path: &str, known: &[&str], errors: &mut FieldErrors) {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (index, claim) in list(value, "claims").iter().enumerate() {
        let at = format!("{path}.claims[{index}]");
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        for reason in Some(request).filter(|request| !request.is_empty()).map(names::dns1123_label).unwrap_or_default() {
            errors.push(FieldError::invalid(format!("{at}.request"), &claim["request"], &reason));
        }
        let overlaps = |other: &(&str, &str)| other.0 == name && (request.is_empty() || other.1.is_empty() || other.1 == request);
        if seen.iter().any(overlaps) {
            let shown = if request.is_empty() || seen.contains(&(name, "")) { name.to_owned() } else { format!("{name}/{request}") };
            errors.push(FieldError::duplicate(&at, &shown.into()));
        }
        seen.insert((name, request));
        if !known.contains(&name) {
            let mut sorted = known.to_vec();
            sorted.sort_unstable();
            let rest = if sorted.is_empty() { " which is empty".to_owned() } else { format!(": {}", sorted.join(", ")) };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            errors.push(FieldError::not_found(at, &claim["name"]).with_detail(&detail));
        }
    }
}
