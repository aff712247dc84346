//! Pods: the spec, as in templates too.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::container::{self, Pod, Role};
use super::resources::{self, Place};
use super::rules::{NOT_AN_IP, Rules, selector};
use super::{affinity, duplicates, list, os, security, text, volumes};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

static SPEC: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        containers required
        resourceClaims[].name required
        resourceClaims[].name label
        resourceClaims[].resourceClaimName subdomain
        resourceClaims[].resourceClaimTemplateName subdomain
        restartPolicy oneof Always OnFailure Never
        dnsPolicy oneof ClusterFirstWithHostNet ClusterFirst Default None
        terminationGracePeriodSeconds min 0
        nodeSelector labels
        readinessGates[].conditionType qualified!
        serviceAccountName subdomain
        nodeName subdomain
        activeDeadlineSeconds range 1 2147483647
        hostname label
        subdomain label
        hostAliases[].ip ip!
        hostAliases[].hostnames[] subdomain!
        priorityClassName subdomain
        runtimeClassName subdomain
        preemptionPolicy oneof PreemptLowerPriority Never
        "#,
    )
});

/// A static pod as its kubelet shows it.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(in crate::kinds) fn pod(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let Some(spec) = object.get(&["spec"]) else { return vec![FieldError::required("spec.containers", "")] };
    if let Some(value) = object.annotation(MIRROR)
        && text(spec, "nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(format!("metadata.annotations[{MIRROR}]"), &value.into(), detail));
    }
    deletion_cost(object.annotation(DELETION_COST), "metadata.annotations", &mut errors);
    check_spec(spec, object.name(), "spec", &mut errors);
    if text(spec, "serviceAccountName").is_empty() {
        for (volume, source, _) in tokens(spec) {
            let at = format!("spec.volumes[{volume}].projected.sources[{source}].serviceAccountToken");
            errors.push(FieldError::forbidden(at, "must not be specified when serviceAccountName is not set"));
        }
    }
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, value) in list(spec, key).iter().enumerate() {
            container::image(value, &format!("spec.{key}[{index}]"), &mut errors);
        }
    }
    errors
}

/// Projected tokens, with the index of their volume and of their source.
fn tokens(spec: &Value) -> impl Iterator<Item = (usize, usize, &Value)> {
    list(spec, "volumes").iter().enumerate().flat_map(|(volume, value)| {
        let sources = list(&value["projected"], "sources").iter().enumerate();
        sources.filter_map(move |(source, value)| Some((volume, source, value.get("serviceAccountToken")?)))
    })
}

/// What only the creation of a pod may not do.
pub(in crate::kinds) fn pod_creation(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if !object.list(&["spec", "ephemeralContainers"]).is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    if !object.str(&["spec", "nodeName"]).is_empty() && !object.list(&["spec", "schedulingGates"]).is_empty() {
        errors.push(FieldError::forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"));
    }
    errors
}

fn deletion_cost(value: Option<&str>, path: &str, errors: &mut FieldErrors) {
    let Some(value) = value else { return };
    // Go's parser would take a plus sign or leading zeros, which upstream refuses on their own.
    let plain = value == "0" || !value.trim_start_matches('-').starts_with('0') && !value.starts_with('+');
    if !plain || value.parse::<i32>().is_err() {
        errors.push(FieldError::invalid(format!("{path}[{DELETION_COST}]"), &value.into(), "must be a 32bit integer"));
    }
}

/// All faults of a pod spec. `pod` is the name of the pod that has it, empty for a template.
fn check_spec(spec: &Value, pod: &str, path: &str, errors: &mut FieldErrors) {
    let volumes = volumes::check(spec, pod, path, errors);
    let claims = list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).filter(|name| !name.is_empty()).collect();
    SPEC.check(spec, path, errors);
    resource_claims(spec, path, errors);
    containers(&Pod { spec, volumes, claims }, path, errors);
    pod_resources(spec, path, errors);
    if spec["hostNetwork"] == true {
        host_network(spec, !pod.is_empty(), path, errors);
    }
    security::pod(spec, path, errors);
    affinity::check(spec, path, errors);
    dns(spec, path, errors);
    gates(spec, path, errors);
    tolerations(spec, path, errors);
    resources::requirements(&json!({"limits": spec["overhead"]}), &format!("{path}.overhead"), Place::Container, &[], errors);
    os::check(spec, path, errors);
}

fn resource_claims(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let claims = list(spec, "resourceClaims");
    for (index, claim) in claims.iter().enumerate() {
        let why = match ["resourceClaimName", "resourceClaimTemplateName"].iter().filter(|key| claim.get(**key).is_some()).count() {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => continue,
            _ => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        };
        errors.push(FieldError::invalid(format!("{path}.resourceClaims[{index}]"), claim, why));
    }
    duplicates(claims, &format!("{path}.resourceClaims"), "name", errors);
}

fn containers(pod: &Pod<'_>, path: &str, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (key, role) in [("containers", Role::App), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)] {
        for (index, value) in list(pod.spec, key).iter().enumerate() {
            let at = format!("{path}.{key}[{index}]");
            container::check(value, &at, role, pod, errors);
            let name = text(value, "name");
            if role == Role::Ephemeral {
                target(value, pod.spec, &at, errors);
            }
            if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &value["name"]));
            }
        }
    }
    host_ports(list(pod.spec, "containers"), &format!("{path}.containers"), errors);
    for init in list(pod.spec, "initContainers") {
        host_ports(std::slice::from_ref(init), &format!("{path}.initContainers"), errors);
    }
}

fn target(container: &Value, spec: &Value, path: &str, errors: &mut FieldErrors) {
    let target = text(container, "targetContainerName");
    let known = ["containers", "initContainers"].iter().any(|key| list(spec, key).iter().any(|other| other["name"] == target));
    if !target.is_empty() && !known {
        errors.push(FieldError::not_found(format!("{path}.targetContainerName"), &target.into()));
    }
}

/// Two containers cannot have one port of the host.
fn host_ports(containers: &[Value], path: &str, errors: &mut FieldErrors) {
    let mut taken = HashSet::new();
    for (index, value) in containers.iter().enumerate() {
        for (port_index, port) in list(value, "ports").iter().enumerate() {
            let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                errors.push(FieldError::duplicate(format!("{path}[{index}].ports[{port_index}].hostPort"), &key.into()));
            }
        }
    }
}

/// In a template the port of the host may still be unsaid.
fn host_network(spec: &Value, is_pod: bool, path: &str, errors: &mut FieldErrors) {
    for (index, value) in list(spec, "containers").iter().enumerate() {
        for (port_index, port) in list(value, "ports").iter().enumerate() {
            let number = |key: &str| port[key].as_i64().unwrap_or(0);
            let host = number("hostPort");
            if (is_pod || host != 0) && host != number("containerPort") {
                let at = format!("{path}.containers[{index}].ports[{port_index}].hostPort");
                errors.push(FieldError::invalid(at, &host.into(), "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

fn pod_resources(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let whole = &spec["resources"];
    let at = format!("{path}.resources");
    if whole.get("claims").is_some() {
        errors.push(FieldError::forbidden(format!("{at}.claims"), "claims cannot be set for Resources at pod-level"));
    }
    let amounts = json!({"limits": whole["limits"], "requests": whole["requests"]});
    resources::requirements(&amounts, &at, Place::Pod, &[], errors);
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in container["resources"]["limits"].as_object().into_iter().flatten() {
            let (Some(own), Some(most)) = (resources::amount(limit), resources::amount(&whole["limits"][name])) else { continue };
            if own > most {
                let detail = format!("must be less than or equal to pod limits of {most}");
                errors.push(FieldError::invalid(format!("{at}.containers[{index}][{name}].limits"), limit, &detail));
            }
        }
    }
}

/// Name servers and search domains that resolvers read, and the bytes of all search domains with the spaces between them.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

fn dns(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.dnsConfig");
    let config = spec.get("dnsConfig");
    let servers = list(&spec["dnsConfig"], "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            errors.push(FieldError::required(at, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{at}.nameservers"), detail));
            return;
        }
    }
    let searches = list(&spec["dnsConfig"], "searches");
    for (key, values, most, what) in
        [("nameservers", servers, NAMESERVERS_MAX, "nameservers"), ("searches", searches, SEARCHES_MAX, "search paths")]
    {
        if values.len() > most {
            let detail = format!("must not have more than {most} {what}");
            errors.push(FieldError::invalid(format!("{at}.{key}"), &json!(values), &detail));
        }
    }
    for (index, server) in servers.iter().enumerate() {
        if server.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_err()) {
            errors.push(FieldError::invalid(format!("{at}.nameservers[{index}]"), server, NOT_AN_IP));
        }
    }
    let bytes: usize = searches.iter().map(|search| search.as_str().unwrap_or("").len() + 1).sum();
    if bytes > SEARCH_BYTES_MAX + 1 {
        let detail = format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(format!("{at}.searches"), &json!(searches), &detail));
    }
    for (index, search) in searches.iter().enumerate() {
        let name = search.as_str().unwrap_or("");
        let name = name.strip_suffix('.').unwrap_or(name);
        let reasons = if search == "." { Vec::new() } else { names::dns1123_subdomain_with_underscore(name) };
        errors.extend(reasons.iter().map(|why| FieldError::invalid(format!("{at}.searches[{index}]"), &name.into(), why)));
    }
    for (index, option) in list(&spec["dnsConfig"], "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(format!("{at}.options[{index}]"), "must not be empty"));
        }
    }
}

fn gates(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let at = format!("{path}.schedulingGates[{index}]");
        let name = text(gate, "name");
        errors.extend(names::qualified_name(name).iter().map(|why| FieldError::invalid(&at, &name.into(), why)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at, &name.into()));
        }
    }
}

/// In the order in which upstream lists them.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn tolerations(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        let at = format!("{path}.tolerations[{index}]");
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() {
            for reason in names::qualified_name(key) {
                errors.push(FieldError::invalid(format!("{at}.key"), &key.into(), &reason));
            }
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{at}.operator"), &operator.into(), detail));
        }
        let effect = text(toleration, "effect");
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{at}.effect"), &effect.into(), detail));
        }
        match operator {
            "" | "Equal" => {
                let reasons = names::label_value(text(toleration, "value"));
                if !reasons.is_empty() {
                    errors.push(FieldError::invalid(format!("{at}.operator"), &toleration["value"], &reasons.join(";")));
                }
            }
            "Exists" if !text(toleration, "value").is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{at}.operator"), &toleration["value"], detail));
            }
            "Exists" => {}
            other => {
                errors.push(FieldError::not_supported(format!("{at}.operator"), &other.into(), &["Equal", "Exists"]));
            }
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported_as_listed(format!("{at}.effect"), &effect.into(), &EFFECTS));
        }
    }
}

/// A pod template: its labels and its spec. Upstream leaves `metadata` out of the path.
pub(super) fn check_template(template: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(metadata) = template["metadata"].as_object() {
        errors.extend(crate::validate::template_metadata(metadata, path));
        let cost = metadata.get("annotations").and_then(|annotations| annotations[DELETION_COST].as_str());
        deletion_cost(cost, &format!("{path}.annotations"), &mut errors);
    }
    match template.get("spec") {
        Some(spec) => check_spec(spec, "", &format!("{path}.spec"), &mut errors),
        None => errors.push(FieldError::required(format!("{path}.spec.containers"), "")),
    }
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{path}.spec.ephemeralContainers"), detail));
    }
    errors
}

/// A selector of pods; `empty` is what this kind says of one without requirements.
pub(super) fn check_selector(value: Option<&Value>, path: &str, empty: &str, errors: &mut FieldErrors) {
    let Some(value) = value else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    selector(value, path, errors);
    if ["matchLabels", "matchExpressions"].iter().all(|key| super::rules::is_missing(value.get(*key))) {
        errors.push(FieldError::invalid(path, value, empty));
    }
}
