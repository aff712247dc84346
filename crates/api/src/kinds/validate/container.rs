//! Containers of a pod spec.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::mounts::{self, Volumes};
use super::resources::{self, Place};
use super::rules::{Rules, is_missing, port};
use super::{env, list, security, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

static CONTAINER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        name required
        name label
        image required
        terminationMessagePolicy oneof File FallbackToLogsOnError
        ports[].name portname
        ports[].protocol enum TCP UDP SCTP
        ports[].hostIP ip
        imagePullPolicy enum Always IfNotPresent Never
        restartPolicyRules[].action enum Restart RestartAllContainers
        restartPolicyRules[].exitCodes required
        restartPolicyRules[].exitCodes.operator enum In NotIn
        "#,
    )
});

static PROBE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        initialDelaySeconds min 0
        timeoutSeconds min 0
        periodSeconds min 0
        successThreshold min 0
        failureThreshold min 0
        terminationGracePeriodSeconds min 1
        "#,
    )
});

static HANDLER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        exec.command required
        httpGet.path required
        httpGet.port port!
        httpGet.scheme enum HTTP HTTPS
        tcpSocket.port port!
        grpc.port port!
        "#,
    )
});

/// Which list of containers it stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    App,
    Init,
    Ephemeral,
}

/// What of the pod its containers are checked against.
pub(super) struct Pod<'a> {
    pub(super) spec: &'a Value,
    pub(super) volumes: Volumes<'a>,
    /// Names of `spec.resourceClaims`.
    pub(super) claims: Vec<&'a str>,
}

pub(super) fn check(container: &Value, path: &str, role: Role, pod: &Pod<'_>, errors: &mut FieldErrors) {
    CONTAINER.check(container, path, errors);
    ports(container, path, errors);
    env::check(container, path, errors);
    mounts::check(container, path, &pod.volumes, errors);
    resources::requirements(&container["resources"], &format!("{path}.resources"), Place::Container, &pod.claims, errors);
    resize_policy(container, path, text(pod.spec, "restartPolicy"), errors);
    security::container(container, path, pod.spec["hostUsers"] != false, errors);
    restart_policy(container, path, errors);
    let sidecar = role == Role::Init && text(container, "restartPolicy") == "Always";
    match role {
        Role::App => lifecycle_and_probes(container, path, pod.spec, errors),
        Role::Init if sidecar => lifecycle_and_probes(container, path, pod.spec, errors),
        Role::Init => {
            let why = "may not be set for init containers without restartPolicy=Always";
            forbid(container, path, &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"], why, errors);
        }
        Role::Ephemeral => ephemeral(container, path, errors),
    }
}

fn forbid(container: &Value, path: &str, keys: &[&str], why: &str, errors: &mut FieldErrors) {
    for key in keys {
        if !is_missing(container.get(*key)) {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
        }
    }
}

/// What a pod relies on is not for a container that is added to look into it.
fn ephemeral(container: &Value, path: &str, errors: &mut FieldErrors) {
    let why = "cannot be set for an Ephemeral Container";
    let keys = ["ports", "resources", "resizePolicy", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];
    forbid(container, path, &keys, why, errors);
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        forbid(mount, &format!("{path}.volumeMounts[{index}]"), &["subPath", "subPathExpr"], why, errors);
    }
}

/// Pods only: templates may have been stored with such images.
pub(super) fn image(container: &Value, path: &str, errors: &mut FieldErrors) {
    let image = text(container, "image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &container["image"], detail));
    }
}

fn restart_policy(container: &Value, path: &str, errors: &mut FieldErrors) {
    let valid = ["Always", "OnFailure", "Never"];
    match text(container, "restartPolicy") {
        "" if !list(container, "restartPolicyRules").is_empty() => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(format!("{path}.restartPolicy"), detail));
        }
        policy if policy.is_empty() || valid.contains(&policy) => {}
        _ => errors.push(FieldError::not_supported_as_listed(format!("{path}.restartPolicy"), &container["restartPolicy"], &valid)),
    }
}

fn ports(container: &Value, path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, entry) in list(container, "ports").iter().enumerate() {
        let at = format!("{path}.ports[{index}]");
        let name = text(entry, "name");
        if !name.is_empty() && names::port_name(name).is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &entry["name"]));
        }
        // 0 means that there is none.
        let given = |key: &str| entry[key].as_i64().is_some_and(|number| number != 0);
        if given("containerPort") {
            port(&entry["containerPort"], &format!("{at}.containerPort"), errors);
        } else {
            errors.push(FieldError::required(format!("{at}.containerPort"), ""));
        }
        if given("hostPort") {
            port(&entry["hostPort"], &format!("{at}.hostPort"), errors);
        }
    }
}

/// Upstream names the list, not the entry.
fn resize_policy(container: &Value, path: &str, pod_policy: &str, errors: &mut FieldErrors) {
    let all = format!("{path}.resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(format!("{all}[{index}]"), &resource.into()));
        }
        for (value, valid) in [(resource, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            match value {
                "" => errors.push(FieldError::required(&all, "")),
                value if valid.contains(&value) => {}
                value => errors.push(FieldError::not_supported(&all, &value.into(), &valid)),
            }
        }
        if pod_policy == "Never" && restart != "NotRequired" {
            errors.push(FieldError::invalid(&all, &restart.into(), "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}

fn lifecycle_and_probes(container: &Value, path: &str, spec: &Value, errors: &mut FieldErrors) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container["lifecycle"].get(hook) {
            let at = format!("{path}.lifecycle.{hook}");
            handlers(handler, &at, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
            hook_that_waits(handler, &at, spec, errors);
        }
    }
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(key) else { continue };
        let at = format!("{path}.{key}");
        handlers(probe, &at, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
        PROBE.check(probe, &at, errors);
        if key == "readinessProbe" {
            if probe.get("terminationGracePeriodSeconds").is_some() {
                let value = &probe["terminationGracePeriodSeconds"];
                let detail = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(format!("{at}.terminationGracePeriodSeconds"), value, detail));
            }
        } else if probe["successThreshold"].as_i64().is_some_and(|threshold| threshold != 1) {
            let value = &probe["successThreshold"];
            errors.push(FieldError::invalid(format!("{at}.successThreshold"), value, "must be 1"));
        }
    }
}

/// A hook that sleeps must wake before its pod is killed.
fn hook_that_waits(handler: &Value, path: &str, spec: &Value, errors: &mut FieldErrors) {
    let Some(grace) = spec["terminationGracePeriodSeconds"].as_i64() else { return };
    let seconds = &handler["sleep"]["seconds"];
    if seconds.as_i64().is_some_and(|seconds| seconds < 0 || seconds > grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(format!("{path}.sleep"), seconds, &detail));
    }
}

/// Exactly one, and that one complete.
fn handlers(value: &Value, path: &str, kinds: &[&str], errors: &mut FieldErrors) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| value.get(**kind).is_some()).collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    HANDLER.check(value, path, errors);
    for header in list(&value["httpGet"], "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(FieldError::invalid(format!("{path}.httpGet.httpHeaders"), &name.into(), detail));
        }
    }
    for kind in given.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("{path}.{kind}"), "may not specify more than 1 handler type"));
    }
}
