//! Containers of a pod spec.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::rules::{Rules, is_missing, port};
use super::{duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::quantity::Quantity;

static CONTAINER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        name required
        name label
        imagePullPolicy enum Always IfNotPresent Never
        terminationMessagePolicy enum File FallbackToLogsOnError
        ports[].containerPort required
        ports[].containerPort port
        ports[].protocol enum TCP UDP SCTP
        ports[].name portname
        ports[].hostIP ip
        env[].name required
        env[].valueFrom.fieldRef.fieldPath required
        env[].valueFrom.resourceFieldRef.resource required
        env[].valueFrom.configMapKeyRef.name required
        env[].valueFrom.configMapKeyRef.key required
        env[].valueFrom.secretKeyRef.name required
        env[].valueFrom.secretKeyRef.key required
        envFrom[].configMapRef.name required
        envFrom[].secretRef.name required
        volumeMounts[].name required
        volumeMounts[].mountPath required
        volumeMounts[].mountPropagation enum None HostToContainer Bidirectional
        volumeDevices[].name required
        volumeDevices[].devicePath required
        resources.limits amounts
        resources.requests amounts
        securityContext.runAsUser range 0 2147483647
        securityContext.runAsGroup range 0 2147483647
        securityContext.procMount enum Default Unmasked
        securityContext.seccompProfile.type enum RuntimeDefault Unconfined Localhost
        securityContext.appArmorProfile.type enum RuntimeDefault Unconfined Localhost
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
        httpGet.port required
        httpGet.port port
        httpGet.scheme enum HTTP HTTPS
        httpGet.httpHeaders[].name required
        tcpSocket.port required
        tcpSocket.port port
        grpc.port required
        grpc.port port
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

pub(super) fn check(container: &Value, path: &str, role: Role, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    CONTAINER.check(container, path, errors);
    image(container, path, errors);
    ports(container, path, errors);
    env(container, path, errors);
    mounts(container, path, volumes, errors);
    resources(container, path, errors);
    security(container, path, errors);
    let sidecar = role == Role::Init && text(container, "restartPolicy") == "Always";
    match role {
        Role::App => lifecycle_and_probes(container, path, errors),
        Role::Init if sidecar => lifecycle_and_probes(container, path, errors),
        Role::Init => forbid(
            container,
            path,
            &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"],
            "may not be set for init containers without restartPolicy=Always",
            errors,
        ),
        Role::Ephemeral => forbid(
            container,
            path,
            &["lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "ports"],
            "cannot be set for an Ephemeral Container",
            errors,
        ),
    }
    if role == Role::Ephemeral && !is_missing(container.get("resources")) {
        errors.push(FieldError::forbidden(format!("{path}.resources"), "cannot be set for an Ephemeral Container"));
    }
    let policy = text(container, "restartPolicy");
    if !policy.is_empty() && !["Always", "OnFailure", "Never"].contains(&policy) {
        let valid = ["Always", "OnFailure", "Never"];
        errors.push(FieldError::not_supported(format!("{path}.restartPolicy"), &container["restartPolicy"], &valid));
    }
}

fn forbid(container: &Value, path: &str, keys: &[&str], why: &str, errors: &mut FieldErrors) {
    for key in keys {
        if !is_missing(container.get(*key)) {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), why));
        }
    }
}

fn image(container: &Value, path: &str, errors: &mut FieldErrors) {
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &container["image"], detail));
    }
}

fn ports(container: &Value, path: &str, errors: &mut FieldErrors) {
    let ports = list(container, "ports");
    duplicates(ports, &format!("{path}.ports"), "name", errors);
    for (index, entry) in ports.iter().enumerate() {
        // 0 means that there is none.
        if entry["hostPort"].as_i64().is_some_and(|number| number != 0) {
            port(&entry["hostPort"], &format!("{path}.ports[{index}].hostPort"), errors);
        }
    }
}

/// Fields of its pod that a container may read into its environment.
const ENV_FIELDS: [&str; 8] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.podIP",
    "status.hostIPs",
];

fn env(container: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, env) in list(container, "env").iter().enumerate() {
        let at = format!("{path}.env[{index}]");
        for reason in Some(text(env, "name")).filter(|name| !name.is_empty()).map(names::env_name).unwrap_or_default() {
            errors.push(FieldError::invalid(format!("{at}.name"), &env["name"], &reason));
        }
        if let Some(from) = env.get("valueFrom") {
            value_from(env, from, &format!("{at}.valueFrom"), errors);
        }
    }
    for (index, from) in list(container, "envFrom").iter().enumerate() {
        let sources = ["configMapRef", "secretRef"].iter().filter(|key| from.get(**key).is_some()).count();
        let why = match sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(format!("{path}.envFrom[{index}]"), &"".into(), why));
    }
}

fn value_from(env: &Value, from: &Value, at: &str, errors: &mut FieldErrors) {
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let count = sources.iter().filter(|key| from.get(**key).is_some()).count();
    let why = match count {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        1 if !text(env, "value").is_empty() => "may not be specified when `value` is not empty",
        1 => "",
        _ => "may not have more than one field specified at a time",
    };
    if !why.is_empty() {
        errors.push(FieldError::invalid(at, &"".into(), why));
    }
    let field = text(&from["fieldRef"], "fieldPath");
    let subscripted =
        ["metadata.labels['", "metadata.annotations['"].iter().any(|prefix| field.starts_with(prefix)) && field.ends_with("']");
    if !field.is_empty() && field != "status.podIPs" && !ENV_FIELDS.contains(&field) && !subscripted {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(format!("{at}.fieldRef.fieldPath"), &field.into(), &detail));
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let name = text(&from[key], "key");
        for reason in Some(name).filter(|name| !name.is_empty()).map(names::config_key).unwrap_or_default() {
            errors.push(FieldError::invalid(format!("{at}.{key}.key"), &name.into(), &reason));
        }
    }
}

fn mounts(container: &Value, path: &str, volumes: &HashSet<&str>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{index}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if !name.is_empty() && !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{at}.name"), &mount["name"]));
        }
        if !target.is_empty() && !seen.insert(target) {
            errors.push(FieldError::invalid(format!("{at}.mountPath"), &mount["mountPath"], "must be unique"));
        }
        if text(mount, "mountPropagation") == "Bidirectional" && container["securityContext"]["privileged"] != true {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(format!("{at}.mountPropagation"), detail));
        }
        for key in ["subPath", "subPathExpr"] {
            local_path(text(mount, key), &format!("{at}.{key}"), errors);
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(format!("{at}.subPathExpr"), &mount["subPathExpr"], detail));
        }
    }
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let name = text(device, "name");
        if !name.is_empty() && !volumes.contains(name) {
            errors.push(FieldError::not_found(format!("{path}.volumeDevices[{index}].name"), &device["name"]));
        }
    }
}

/// A path that stays beneath where it begins.
pub(super) fn local_path(value: &str, path: &str, errors: &mut FieldErrors) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, &value.into(), "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, &value.into(), "must not contain '..'"));
    }
}

/// What a container of a pod may ask for without a domain in its name.
fn is_standard_resource(name: &str) -> bool {
    ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-")
}

pub(super) fn resources(container: &Value, path: &str, errors: &mut FieldErrors) {
    let resources = &container["resources"];
    for key in ["limits", "requests"] {
        for (name, _) in resources[key].as_object().into_iter().flatten() {
            if !name.contains('/') && !is_standard_resource(name) {
                let detail = "must be a standard resource type or fully qualified";
                errors.push(FieldError::invalid(format!("{path}.resources.{key}[{name}]"), &name.as_str().into(), detail));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let Some(limit) = resources["limits"].get(name) else { continue };
        let parse = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
        let (Some(wanted), Some(most)) = (parse(request), parse(limit)) else { continue };
        if wanted > most {
            let detail = format!("must be less than or equal to {name} limit of {most}");
            errors.push(FieldError::invalid(format!("{path}.resources.requests"), request, &detail));
        }
    }
}

fn security(container: &Value, path: &str, errors: &mut FieldErrors) {
    let context = &container["securityContext"];
    if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(format!("{path}.securityContext"), context, detail));
    }
    localhost_profile(context, &format!("{path}.securityContext"), errors);
}

pub(super) fn localhost_profile(context: &Value, path: &str, errors: &mut FieldErrors) {
    for profile in ["seccompProfile", "appArmorProfile"] {
        let local = !text(&context[profile], "localhostProfile").is_empty();
        let at = format!("{path}.{profile}.localhostProfile");
        match text(&context[profile], "type") {
            "Localhost" if !local => {
                errors.push(FieldError::required(at, "must be set when seccomp type is Localhost"));
            }
            "RuntimeDefault" | "Unconfined" if local => {
                let detail = "can only be set when seccomp type is Localhost";
                errors.push(FieldError::invalid(at, &context[profile]["localhostProfile"], detail));
            }
            _ => {}
        }
    }
}

fn lifecycle_and_probes(container: &Value, path: &str, errors: &mut FieldErrors) {
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container["lifecycle"].get(hook) {
            handlers(handler, &format!("{path}.lifecycle.{hook}"), &["exec", "httpGet", "tcpSocket", "sleep"], errors);
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

/// Exactly one, and that one complete.
fn handlers(value: &Value, path: &str, kinds: &[&str], errors: &mut FieldErrors) {
    let given: Vec<&&str> = kinds.iter().filter(|kind| value.get(**kind).is_some()).collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for kind in given.iter().skip(1) {
        errors.push(FieldError::forbidden(format!("{path}.{kind}"), "may not specify more than 1 handler type"));
    }
    HANDLER.check(value, path, errors);
}
