//! The environment of a container, and what of its pod a container may read.

use std::sync::LazyLock;

use serde_json::Value;

use super::rules::Rules;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

static SOURCE: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        configMapKeyRef.name subdomain!
        configMapKeyRef.key required
        secretKeyRef.name subdomain!
        secretKeyRef.key required
        "#,
    )
});

static FROM: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        configMapRef.name required
        configMapRef.name subdomain
        secretRef.name required
        secretRef.name subdomain
        "#,
    )
});

/// Fields of its pod that a container may read into its environment, sorted.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// And into a file.
pub(super) const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Names that are known, whether or not they may be read there.
const OTHER_FIELDS: [&str; 4] = ["spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"];

pub(super) fn check(container: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, env) in list(container, "env").iter().enumerate() {
        let at = format!("{path}.env[{index}]");
        match text(env, "name") {
            "" => errors.push(FieldError::required(format!("{at}.name"), "")),
            name => errors.extend(names::env_name(name).iter().map(|why| FieldError::invalid(format!("{at}.name"), &env["name"], why))),
        }
        if let Some(from) = env.get("valueFrom") {
            value_from(env, from, &format!("{at}.valueFrom"), errors);
        }
    }
    let all = format!("{path}.envFrom");
    for (index, from) in list(container, "envFrom").iter().enumerate() {
        let at = format!("{all}[{index}]");
        for reason in Some(text(from, "prefix")).filter(|prefix| !prefix.is_empty()).map(names::env_name).unwrap_or_default() {
            errors.push(FieldError::invalid(format!("{at}.prefix"), &from["prefix"], &reason));
        }
        FROM.check(from, &at, errors);
        let why = match ["configMapRef", "secretRef"].iter().filter(|key| from.get(**key).is_some()).count() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        // Upstream names the list, not the entry.
        errors.push(FieldError::invalid(&all, &"".into(), why));
    }
}

fn value_from(env: &Value, from: &Value, at: &str, errors: &mut FieldErrors) {
    if let Some(reference) = from.get("fieldRef") {
        field_ref(reference, &ENV_FIELDS, &format!("{at}.fieldRef"), errors);
    }
    if let Some(reference) = from.get("resourceFieldRef") {
        resource_ref(reference, false, &format!("{at}.resourceFieldRef"), errors);
    }
    SOURCE.check(from, at, errors);
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let name = text(&from[key], "key");
        for reason in Some(name).filter(|name| !name.is_empty()).map(names::config_key).unwrap_or_default() {
            errors.push(FieldError::invalid(format!("{at}.{key}.key"), &name.into(), &reason));
        }
    }
    let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
    let why = match sources.iter().filter(|key| from.get(**key).is_some()).count() {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        _ if !text(env, "value").is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(at, &"".into(), why));
}

/// A field of the pod: one of `fields`, or one label or annotation.
pub(super) fn field_ref(reference: &Value, fields: &[&str], at: &str, errors: &mut FieldErrors) {
    let field = text(reference, "fieldPath");
    let path = format!("{at}.fieldPath");
    let mut refuse = |why: String| errors.push(FieldError::invalid(&path, &field.into(), &format!("error converting fieldPath: {why}")));
    let version = text(reference, "apiVersion");
    if field.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !["", "v1"].contains(&version) {
        refuse(format!("unsupported pod version: {version}"));
    } else if let Some((map, key)) = field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        match map {
            "metadata.labels" => subscript(key, key, at, errors),
            "metadata.annotations" => subscript(key, &key.to_ascii_lowercase(), at, errors),
            _ => refuse(format!("field label does not support subscript: {field}")),
        }
    } else if !ENV_FIELDS.contains(&field) && !FILE_FIELDS.contains(&field) && !OTHER_FIELDS.contains(&field) {
        refuse(format!("field label not supported: {field}"));
    } else if !fields.contains(&field) {
        errors.push(FieldError::not_supported(path, &field.into(), fields));
    }
}

fn subscript(shown: &str, key: &str, at: &str, errors: &mut FieldErrors) {
    errors.extend(names::qualified_name(key).iter().map(|reason| FieldError::invalid(at, &shown.into(), reason)));
}

const RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// In what bytes can be counted.
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// What a container has of a resource; in a file it must be said which container.
pub(super) fn resource_ref(reference: &Value, in_file: bool, at: &str, errors: &mut FieldErrors) {
    let resource = text(reference, "resource");
    let is_pages = ["requests.hugepages-", "limits.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if in_file && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{at}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{at}.resource"), ""));
    } else if !RESOURCES.contains(&resource) && !is_pages {
        errors.push(FieldError::not_supported(format!("{at}.resource"), &resource.into(), &RESOURCES));
    }
    let divisor = text(reference, "divisor");
    let (valid, kind): (&[&str], &str) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (&BYTE_DIVISORS, "memory"),
        Some("ephemeral-storage") => (&BYTE_DIVISORS, "local ephemeral storage"),
        _ if is_pages => (&BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !["", "0"].contains(&divisor) && !valid.contains(&divisor) {
        let listed = if kind == "cpu" { "1m and 1".to_owned() } else { valid.join(", ") };
        let detail = format!("only divisor's values {listed} are supported with the {kind} resource");
        errors.push(FieldError::invalid(format!("{at}.divisor"), &resource.into(), &detail));
    }
}
