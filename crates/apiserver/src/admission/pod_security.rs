//! Pod Security Standards: what pods of a namespace may do to their node.
//!
//! A namespace says by labels which standard it enforces, of which it warns, and which it has recorded in the audit log. Pods beyond the enforced one are
//! refused; for those beyond the others, and for workloads whose template is, there is a warning or a note. A namespace that says nothing enforces
//! nothing and, unlike upstream, warns of what is beyond `baseline`; a PodSecurityConfiguration says otherwise for all namespaces. For whom nothing of
//! this counts is said there too.

mod checks;
mod settings;
mod standards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use knarr_api::status::Status;
use knarr_api::{FieldError, Object, status};
use knarr_store::{Collection, Snapshot};
use serde_json::Value;

use super::{Chain, Operation, Request, stored};
use checks::{Pod, SECCOMP_ANNOTATION, SECCOMP_CONTAINER_ANNOTATION};
pub(super) use settings::Settings;
use standards::{Level, Standard, Version, faults};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";
const MODES: [&str; 3] = ["enforce", "audit", "warn"];
/// Where the system's own pods run; they need the node, and a warning for each would teach people to overlook warnings.
const SYSTEM: &str = "kube-system";
/// Pods that are looked at when a namespace is tightened. Upstream looks at as many (admission.go, defaultNamespaceMaxPodsToCheck).
const PODS_MAX: usize = 3000;

/// What a namespace says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Standard,
    audit: Standard,
    warn: Standard,
}

pub(super) fn check(chain: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let settings = &chain.configuration.pod_security;
    if request.is("", "namespaces") {
        return check_namespace(settings, snapshot, request);
    }
    let changes = match request.operation {
        Operation::Create => request.subresource.is_empty(),
        Operation::Update => matches!(request.subresource, "" | "ephemeralcontainers" | "resize"),
        _ => false,
    };
    let Some(path) = template(request).filter(|_| changes) else { return Ok(()) };
    if let Some(why) = settings.exempts(request) {
        note(request, "exempt", why);
        return Ok(());
    }
    let pods = request.is_of("", "pods");
    // An update that changes nothing of that kind is not held up by rules that came later.
    let same = request.old.is_some_and(|old| match pods {
        true => !is_significant(request.object, old),
        false => old.get(path) == request.object.get(path),
    });
    let (Some(spec), false) = (request.object.get(&[path, &["spec"]].concat()), same) else { return Ok(()) };
    let Some(namespace) = stored(snapshot, "core/namespaces", "", request.namespace) else { return Ok(()) };
    if settings.exempts_runtime_class(spec) {
        note(request, "exempt", "runtimeClass");
        return Ok(());
    }
    let policy = settings.policy(&namespace);
    let pod = Pod { spec, annotations: request.object.get(&[path, &["metadata", "annotations"]].concat()) };
    let beyond = |standard: Standard| {
        let faults: Vec<String> = faults(&pod, standard).iter().map(ToString::to_string).collect();
        (!faults.is_empty()).then(|| format!("PodSecurity \"{standard}\": {}", faults.join(", ")))
    };
    let refused = beyond(policy.enforce).filter(|_| pods);
    let audited = beyond(policy.audit);
    // The pods of a workload will be refused one day, where nobody looks.
    let warn = if !pods && policy.enforce.level > policy.warn.level { policy.enforce } else { policy.warn };
    let warned = beyond(warn);
    if pods {
        note(request, "enforce-policy", &policy.enforce.to_string());
    }
    if let Some(what) = audited {
        note(request, "audit-violations", &format!("would violate {what}"));
    }
    if let Some(what) = refused {
        return Err(request.forbidden(&format!("violates {what}")));
    }
    request.warnings.extend(warned.map(|what| format!("would violate {what}")));
    Ok(())
}

/// For the audit log.
fn note(request: &mut Request<'_>, key: &str, value: &str) {
    request.annotations.insert(format!("{LABEL_PREFIX}{key}"), value.to_owned());
}

/// Where the pod template of a kind is; an empty path for pods themselves.
fn template(request: &Request<'_>) -> Option<&'static [&'static str]> {
    match (&*request.kind.group, &*request.kind.resource) {
        ("", "pods") => Some(&[]),
        ("", "replicationcontrollers") | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") | ("batch", "jobs") => {
            Some(&["spec", "template"])
        }
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        ("", "podtemplates") => Some(&["template"]),
        _ => None,
    }
}

/// Whether an update of a pod may change what the standards look at: other images, more containers, other seccomp profiles.
fn is_significant(new: &Object, old: &Object) -> bool {
    let profile = |pod: &Object, container: &str| {
        let key = if container.is_empty() { SECCOMP_ANNOTATION.to_owned() } else { format!("{SECCOMP_CONTAINER_ANNOTATION}{container}") };
        pod.annotation(&key).map(str::to_owned)
    };
    let named = |container: &Value| container["name"].as_str().unwrap_or("").to_owned();
    let changed = |new_one: &Value, old_one: &Value| {
        let name = named(new_one);
        new_one["image"] != old_one["image"] || profile(new, &name) != profile(old, &name)
    };
    let lists = |list: &str| (new.list(&["spec", list]).to_vec(), old.list(&["spec", list]).to_vec());
    let differ = ["initContainers", "containers"].into_iter().any(|list| {
        let (new, old) = lists(list);
        new.len() != old.len() || new.iter().zip(&old).any(|(new, old)| changed(new, old))
    });
    let (ephemeral, before) = lists("ephemeralContainers");
    let added = ephemeral.iter().any(|one| before.iter().find(|old| named(old) == named(one)).is_none_or(|old| changed(one, old)));
    differ || added || profile(new, "") != profile(old, "")
}

fn check_namespace(settings: &Settings, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let (new, old) = match request.operation {
        Operation::Create => (&*request.object, None),
        Operation::Update => (&*request.object, request.old),
        _ => return Ok(()),
    };
    let wrong = bad_labels(new);
    if !wrong.is_empty() && old.is_none_or(|old| bad_labels(old) != wrong) {
        let errors: Vec<FieldError> = wrong
            .iter()
            .map(|(key, value, detail)| FieldError::invalid(format!("metadata.labels[{key}]"), &(*value).into(), detail))
            .collect();
        return Err(status::invalid("", "Namespace", new.name(), &errors));
    }
    let Some(old) = old else { return Ok(()) };
    let (enforced, before) = (settings.policy(new).enforce, settings.policy(old).enforce);
    let is_relaxed = enforced.version == before.version && enforced.level <= before.level;
    if enforced == before || enforced.level == Level::Privileged || is_relaxed || settings.exempts_namespace(new.name()) {
        return Ok(());
    }
    let warnings = of_existing(settings, snapshot, new.name(), enforced);
    request.warnings.extend(warnings);
    Ok(())
}

/// Labels that say nothing that anyone understands: key, value, what it must be.
fn bad_labels(namespace: &Object) -> Vec<(&str, &str, &'static str)> {
    let mut wrong = Vec::new();
    for (key, value) in namespace.labels() {
        let Some(rest) = key.strip_prefix(LABEL_PREFIX) else { continue };
        let mode = rest.strip_suffix("-version").unwrap_or(rest);
        match (MODES.contains(&mode), mode == rest) {
            (true, true) if Level::parse(value).is_none() => wrong.push((key, value, "must be one of privileged, baseline, restricted")),
            (true, false) if Version::parse(value).is_none() => wrong.push((key, value, "must be \"latest\" or \"v1.x\"")),
            _ => {}
        }
    }
    wrong
}

/// Pods that are there stay, and would not come again: one warning for all with the same faults, after the first of them.
fn of_existing(settings: &Settings, snapshot: &Snapshot, namespace: &str, enforced: Standard) -> Vec<String> {
    let collection = Collection::new("core/pods");
    let prefix = format!("{namespace}/");
    let there = snapshot.range(&collection, &prefix, None).count();
    let first = snapshot.range(&collection, &prefix, None).take(PODS_MAX);
    let pods = first.filter_map(|entry| serde_json::from_slice::<Object>(&entry.value).ok());
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods {
        let Some(spec) = pod.get(&["spec"]).filter(|spec| !settings.exempts_runtime_class(spec)) else { continue };
        let reasons: Vec<&str> =
            faults(&Pod { spec, annotations: pod.get(&["metadata", "annotations"]) }, enforced).iter().map(|fault| fault.reason).collect();
        if !reasons.is_empty() {
            let (_, count) = found.entry(reasons.join(", ")).or_insert_with(|| (pod.name().to_owned(), 0));
            *count += 1;
        }
    }
    let mut warnings = Vec::new();
    if there > PODS_MAX {
        warnings.push(format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {there} existing pods"));
    }
    if !found.is_empty() {
        warnings.push(format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforced}\""));
    }
    let mut each: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            _ => format!("{first} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}
