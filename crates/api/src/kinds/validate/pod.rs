//! Pods: the spec, as in templates too, and what may change.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::container::{self, Role};
use super::rules::{Rules, is_missing, selector};
use super::{duplicates, list, text, volumes};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

static SPEC: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        containers required
        restartPolicy enum Always OnFailure Never
        dnsPolicy enum ClusterFirstWithHostNet ClusterFirst Default None
        terminationGracePeriodSeconds min 0
        activeDeadlineSeconds range 1 2147483647
        nodeSelector labels
        serviceAccountName subdomain
        nodeName subdomain
        hostname label
        subdomain label
        runtimeClassName subdomain
        preemptionPolicy enum PreemptLowerPriority Never
        os.name enum linux windows
        imagePullSecrets[].name required
        hostAliases[].ip required
        hostAliases[].ip ip
        hostAliases[].hostnames[] subdomain
        readinessGates[].conditionType qualified
        schedulingGates[].name qualified
        securityContext.runAsUser range 0 2147483647
        securityContext.runAsGroup range 0 2147483647
        securityContext.fsGroup range 0 2147483647
        securityContext.fsGroupChangePolicy enum OnRootMismatch Always
        securityContext.seccompProfile.type enum RuntimeDefault Unconfined Localhost
        securityContext.appArmorProfile.type enum RuntimeDefault Unconfined Localhost
        securityContext.sysctls[].name required
        topologySpreadConstraints[].topologyKey required
        topologySpreadConstraints[].topologyKey qualified
        topologySpreadConstraints[].maxSkew min 1
        topologySpreadConstraints[].whenUnsatisfiable enum DoNotSchedule ScheduleAnyway
        topologySpreadConstraints[].labelSelector selector
        topologySpreadConstraints[].minDomains min 1
        topologySpreadConstraints[].nodeAffinityPolicy enum Honor Ignore
        topologySpreadConstraints[].nodeTaintsPolicy enum Honor Ignore
        affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].topologyKey required
        affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector selector
        affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight range 1 100
        affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.topologyKey required
        affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].topologyKey required
        affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].labelSelector selector
        affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight range 1 100
        affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.topologyKey required
        affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight range 1 100
        affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms required
        overhead amounts
        resources.limits amounts
        resources.requests amounts
        "#,
    )
});

pub(in crate::kinds) fn pod(object: &Object) -> FieldErrors {
    match object.get(&["spec"]) {
        Some(spec) => check_spec(spec, "spec"),
        None => vec![FieldError::required("spec.containers", "")],
    }
}

/// All faults of a pod spec.
pub(super) fn check_spec(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    volumes::check(spec, path, &mut errors);
    SPEC.check(spec, path, &mut errors);
    containers(spec, path, &mut errors);
    dns(spec, path, &mut errors);
    tolerations(spec, path, &mut errors);
    spread(spec, path, &mut errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{path}.shareProcessNamespace"), &true.into(), detail));
    }
    node_affinity(spec, path, &mut errors);
    container::localhost_profile(&spec["securityContext"], &format!("{path}.securityContext"), &mut errors);
    container::resources(spec, path, &mut errors);
    if spec["hostNetwork"] == true {
        host_network(spec, path, &mut errors);
    }
    errors
}

fn containers(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let volumes: HashSet<&str> = list(spec, "volumes").iter().map(|volume| text(volume, "name")).collect();
    let mut names = HashSet::new();
    for (key, role) in [("initContainers", Role::Init), ("containers", Role::App), ("ephemeralContainers", Role::Ephemeral)] {
        for (index, value) in list(spec, key).iter().enumerate() {
            let at = format!("{path}.{key}[{index}]");
            container::check(value, &at, role, &volumes, errors);
            let name = text(value, "name");
            if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &value["name"]));
            }
        }
    }
    host_ports(spec, path, errors);
}

/// Two containers cannot have one port of the host.
fn host_ports(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut taken = HashSet::new();
    for (index, value) in list(spec, "containers").iter().enumerate() {
        for (port_index, port) in list(value, "ports").iter().enumerate() {
            let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) else { continue };
            let key = format!("{number}/{}/{}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                let at = format!("{path}.containers[{index}].ports[{port_index}].hostPort");
                errors.push(FieldError::duplicate(at, &key.into()));
            }
        }
    }
}

fn host_network(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, value) in list(spec, "containers").iter().enumerate() {
        for (port_index, port) in list(value, "ports").iter().enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or(0);
            if host != 0 && port["containerPort"] != port["hostPort"] {
                let at = format!("{path}.containers[{index}].ports[{port_index}].containerPort");
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(at, &port["containerPort"], detail));
            }
        }
    }
}

/// Name servers and search domains that resolvers read.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

fn dns(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let config = spec.get("dnsConfig");
    let servers = list(&spec["dnsConfig"], "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{path}.dnsConfig"), detail));
        } else if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{path}.dnsConfig.nameservers"), detail));
        }
    }
    for (key, most) in [("nameservers", NAMESERVERS_MAX), ("searches", SEARCHES_MAX)] {
        let values = list(&spec["dnsConfig"], key);
        if values.len() > most {
            let detail = format!("must not have more than {most} {key}");
            errors.push(FieldError::invalid(format!("{path}.dnsConfig.{key}"), &json!(values), &detail));
        }
    }
    for (index, server) in servers.iter().enumerate() {
        if server.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_err()) {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(format!("{path}.dnsConfig.nameservers[{index}]"), server, detail));
        }
    }
}

fn tolerations(spec: &Value, path: &str, errors: &mut FieldErrors) {
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
        match operator {
            "" | "Equal" => {
                for reason in names::label_value(text(toleration, "value")) {
                    errors.push(FieldError::invalid(format!("{at}.operator"), &toleration["value"], &reason));
                }
            }
            "Exists" if !text(toleration, "value").is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{at}.operator"), &json!(toleration), detail));
            }
            "Exists" => {}
            other => {
                errors.push(FieldError::not_supported(format!("{at}.operator"), &other.into(), &["Equal", "Exists"]));
            }
        }
        let effect = text(toleration, "effect");
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{at}.effect"), &effect.into(), detail));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            errors.push(FieldError::not_supported(format!("{at}.effect"), &effect.into(), &effects));
        }
    }
}

fn spread(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let at = format!("{path}.topologySpreadConstraints[{index}]");
        let (key, otherwise) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if constraint.get("minDomains").is_some() && otherwise != "DoNotSchedule" {
            let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {otherwise}");
            errors.push(FieldError::invalid(format!("{at}.minDomains"), &constraint["minDomains"], &detail));
        }
        if !seen.insert((key, otherwise)) {
            let both = format!("{{{key}, {otherwise}}}");
            errors.push(FieldError::duplicate(format!("{at}.{{topologyKey, whenUnsatisfiable}}"), &both.into()));
        }
    }
}

fn node_affinity(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let affinity = &spec["affinity"]["nodeAffinity"];
    let at = format!("{path}.affinity.nodeAffinity");
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in list(&affinity[required], "nodeSelectorTerms").iter().enumerate() {
        node_term(term, &format!("{at}.{required}.nodeSelectorTerms[{index}]"), errors);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in list(affinity, preferred).iter().enumerate() {
        node_term(&term["preference"], &format!("{at}.{preferred}[{index}].preference"), errors);
    }
}

fn node_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, requirement) in list(term, "matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        let values = list(requirement, "values").len();
        match text(requirement, "operator") {
            "In" | "NotIn" if values == 0 => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{at}.values"), detail));
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), detail));
            }
            "Gt" | "Lt" if values != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(format!("{at}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{at}.operator"), &requirement["operator"], detail));
            }
        }
        for reason in names::qualified_name(text(requirement, "key")) {
            errors.push(FieldError::invalid(format!("{at}.key"), &requirement["key"], &reason));
        }
    }
}

const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(in crate::kinds) fn pod_change(new: &Object, old: &Object) -> FieldErrors {
    let (Some(new_spec), Some(old_spec)) = (new.get(&["spec"]), old.get(&["spec"])) else { return Vec::new() };
    let mut errors = Vec::new();
    for key in ["containers", "initContainers"] {
        if list(new_spec, key).len() != list(old_spec, key).len() {
            errors.push(FieldError::forbidden(format!("spec.{key}"), "pod updates may not add or remove containers"));
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    deadline(new_spec, old_spec, &mut errors);
    tolerations_added(new_spec, old_spec, &mut errors);
    let gated = !is_missing(old_spec.get("schedulingGates"));
    if gates_added(new_spec, old_spec) {
        let detail = "only deletion is allowed, but found new scheduling gate";
        errors.push(FieldError::forbidden("spec.schedulingGates", detail));
    }
    if fixed(new_spec, old_spec, gated) != fixed(old_spec, old_spec, gated) {
        errors.push(FieldError::forbidden("spec", UPDATE_RULE));
    }
    errors
}

fn deadline(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (now, before) = (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64());
    let Some(before) = before else { return };
    let at = "spec.activeDeadlineSeconds";
    match now {
        None => errors.push(FieldError::invalid(at, &Value::Null, "must not update from a positive integer to nil value")),
        Some(now) if now > before => {
            let detail = format!("must be less than or equal to previous value {before}");
            errors.push(FieldError::invalid(at, &now.into(), &detail));
        }
        Some(_) => {}
    }
}

/// What was tolerated stays tolerated; only its seconds may change.
fn tolerations_added(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().map(|map| map.remove("tolerationSeconds"));
        toleration
    };
    let now: Vec<Value> = list(new, "tolerations").iter().map(without_seconds).collect();
    if !list(old, "tolerations").iter().map(without_seconds).all(|toleration| now.contains(&toleration)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
}

fn gates_added(new: &Value, old: &Value) -> bool {
    list(new, "schedulingGates").iter().any(|gate| !list(old, "schedulingGates").contains(gate))
}

/// The spec with what may change taken from the old one, so that a difference is a fault.
fn fixed(spec: &Value, old: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    let Some(map) = spec.as_object_mut() else { return spec };
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        map.remove(key);
    }
    // A pod that still waits for its gates may be made choosier.
    if gated {
        map.remove("nodeSelector");
        map.remove("affinity");
    }
    let was_negative = old["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if was_negative && map.get("terminationGracePeriodSeconds") == Some(&json!(1)) {
        map.insert("terminationGracePeriodSeconds".to_owned(), old["terminationGracePeriodSeconds"].clone());
    }
    for key in ["containers", "initContainers"] {
        for container in map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
            container.as_object_mut().map(|map| map.remove("image"));
        }
    }
    spec
}

/// Ephemeral containers are only added; a resize changes only resources.
pub(in crate::kinds) fn pod_part_change(new: &Object, old: &Object, subresource: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if subresource == "ephemeralcontainers" {
        let now = new.list(&["spec", "ephemeralContainers"]);
        duplicates(now, "spec.ephemeralContainers", "name", &mut errors);
        for container in old.list(&["spec", "ephemeralContainers"]) {
            if !now.contains(container) {
                let name = text(container, "name");
                let detail = format!("existing ephemeral containers {name:?} may not be removed or changed\n");
                errors.push(FieldError::forbidden("spec.ephemeralContainers", &detail));
            }
        }
    }
    errors
}

/// A pod template: its labels and its spec.
pub(super) fn check_template(template: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(metadata) = template["metadata"].as_object() {
        errors.extend(crate::validate::template_metadata(metadata, &format!("{path}.metadata")));
    }
    match template.get("spec") {
        Some(spec) => errors.extend(check_spec(spec, &format!("{path}.spec"))),
        None => errors.push(FieldError::required(format!("{path}.spec.containers"), "")),
    }
    errors
}

/// A selector of pods, with the words of the kinds that have one.
pub(super) fn check_selector(value: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    match value {
        Some(value) => {
            selector(value, path, errors);
            if value.as_object().is_some_and(serde_json::Map::is_empty) {
                errors.push(FieldError::invalid(path, value, "empty selector is invalid for deployment"));
            }
        }
        None => errors.push(FieldError::required(path, "")),
    }
}
