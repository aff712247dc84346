//! What the files of a configMap, secret, downwardAPI or projected volume hold. Pure; the objects and tokens are fetched beforehand.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::atomic::{File, Payload};
use crate::env::{self, Objects};
use crate::resources;

/// Mode of files where neither the item nor the volume gives one (the API's default).
const MODE_DEFAULT: i32 = 0o644;

/// Why a volume cannot be filled; shown in the FailedMount event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("unsupported field {path}")]
    Field { path: String },
    #[error("volume source of {volume} is not supported here")]
    Unsupported { volume: String },
    #[error("no token for the service account yet")]
    NoToken,
}

pub(crate) struct Context<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    /// Service account tokens by volume and index of the projected source.
    pub(crate) tokens: &'a BTreeMap<(String, usize), String>,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
}

/// Names of the ConfigMaps and Secrets that a volume is filled from.
pub(crate) fn needs(volume: &Volume) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    config_maps.extend(volume.config_map.iter().map(|it| it.name.clone()));
    secrets.extend(volume.secret.iter().filter_map(|it| it.secret_name.clone()));
    for source in volume.projected.iter().flat_map(|it| it.sources.iter().flatten()) {
        config_maps.extend(source.config_map.iter().map(|it| it.name.clone()));
        secrets.extend(source.secret.iter().map(|it| it.name.clone()));
    }
    (config_maps, secrets)
}

/// The files of the volume; `None` if it is not one of these kinds.
pub(crate) fn payload(volume: &Volume, context: &Context<'_>) -> Result<Option<Payload>, PayloadError> {
    let mut out = Payload::new();
    if let Some(it) = &volume.config_map {
        let mode = it.default_mode.unwrap_or(MODE_DEFAULT);
        config_map(it, mode, context, &mut out)?;
    } else if let Some(it) = &volume.secret {
        let mode = it.default_mode.unwrap_or(MODE_DEFAULT);
        secret(it, mode, context, &mut out)?;
    } else if let Some(it) = &volume.downward_api {
        let mode = it.default_mode.unwrap_or(MODE_DEFAULT);
        downward(it.items.as_deref().unwrap_or_default(), mode, context, &mut out)?;
    } else if let Some(it) = &volume.projected {
        projected(volume, it.default_mode.unwrap_or(MODE_DEFAULT), context, &mut out)?;
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

fn projected(volume: &Volume, mode: i32, context: &Context<'_>, out: &mut Payload) -> Result<(), PayloadError> {
    let sources = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
    for (index, source) in sources.enumerate() {
        if let Some(it) = &source.config_map {
            let it = ConfigMapVolumeSource {
                name: it.name.clone(),
                items: it.items.clone(),
                optional: it.optional,
                ..ConfigMapVolumeSource::default()
            };
            config_map(&it, mode, context, out)?;
        } else if let Some(it) = &source.secret {
            let it = SecretVolumeSource {
                secret_name: Some(it.name.clone()),
                items: it.items.clone(),
                optional: it.optional,
                ..SecretVolumeSource::default()
            };
            secret(&it, mode, context, out)?;
        } else if let Some(it) = &source.downward_api {
            downward(it.items.as_deref().unwrap_or_default(), mode, context, out)?;
        } else if let Some(it) = &source.service_account_token {
            let token = context.tokens.get(&(volume.name.clone(), index)).ok_or(PayloadError::NoToken)?;
            let (mode, uid) = token_owner(context.pod, mode);
            out.insert(it.path.clone(), File { bytes: token.clone().into_bytes(), mode, uid });
        } else {
            return Err(PayloadError::Unsupported { volume: volume.name.clone() });
        }
    }
    Ok(())
}

/// Tokens are for the pod's user alone where there is one user, and for the group with `fsGroup`; as upstream.
fn token_owner(pod: &Pod, mode: i32) -> (u32, Option<u32>) {
    let Some(spec) = &pod.spec else {
        return (bits(mode), None);
    };
    let pod_user = spec.security_context.as_ref().and_then(|it| it.run_as_user);
    let mut users = (spec.init_containers.iter().flatten())
        .chain(&spec.containers)
        .map(|it| it.security_context.as_ref().and_then(|own| own.run_as_user).or(pod_user));
    let first = users.next().flatten();
    let has_group = spec.security_context.as_ref().is_some_and(|it| it.fs_group.is_some());
    match first.and_then(|it| u32::try_from(it).ok()) {
        Some(uid) if users.all(|it| it == first) => (0o600, Some(uid)),
        _ if has_group => (0o600, None),
        _ => (bits(mode), None),
    }
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0o644) & 0o777
}

fn config_map(it: &ConfigMapVolumeSource, mode: i32, context: &Context<'_>, out: &mut Payload) -> Result<(), PayloadError> {
    let optional = it.optional == Some(true);
    let found = context.objects.config_maps.get(&it.name).and_then(Option::as_deref);
    let Some(map) = found else {
        return missing(optional, "configmap", &it.name);
    };
    keys(it.items.as_deref(), mode, optional, "config", config_map_data(map), out)
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

fn secret(it: &SecretVolumeSource, mode: i32, context: &Context<'_>, out: &mut Payload) -> Result<(), PayloadError> {
    let optional = it.optional == Some(true);
    let name = it.secret_name.as_deref().unwrap_or_default();
    let found: Option<&Secret> = context.objects.secrets.get(name).and_then(Option::as_deref);
    let Some(secret) = found else {
        return missing(optional, "secret", name);
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    keys(it.items.as_deref(), mode, optional, "secret", data, out)
}

fn missing(optional: bool, kind: &'static str, name: &str) -> Result<(), PayloadError> {
    if optional {
        return Ok(());
    }
    Err(PayloadError::NoObject { kind, name: name.to_owned() })
}

fn keys(
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    kind: &'static str,
    data: BTreeMap<&str, &[u8]>,
    out: &mut Payload,
) -> Result<(), PayloadError> {
    let file = |bytes: &[u8], mode: i32| File { bytes: bytes.to_vec(), mode: bits(mode), uid: None };
    match items {
        None | Some([]) => out.extend(data.iter().map(|(key, bytes)| ((*key).to_owned(), file(bytes, mode)))),
        Some(items) => {
            for item in items {
                match data.get(item.key.as_str()) {
                    Some(bytes) => _ = out.insert(item.path.clone(), file(bytes, item.mode.unwrap_or(mode))),
                    None if optional => {}
                    None => return Err(PayloadError::NoKey { kind, key: item.key.clone() }),
                }
            }
        }
    }
    Ok(())
}

fn downward(items: &[DownwardAPIVolumeFile], mode: i32, context: &Context<'_>, out: &mut Payload) -> Result<(), PayloadError> {
    for item in items {
        let text = if let Some(it) = &item.field_ref {
            env::field(&it.field_path, context.pod, context.pod_ips, context.host_ips)
                .ok_or_else(|| PayloadError::Field { path: it.field_path.clone() })?
        } else if let Some(it) = &item.resource_field_ref {
            let name = it.container_name.as_deref().unwrap_or_default();
            let container = context.pod.spec.as_ref().and_then(|spec| crate::pod::plan::container(spec, name));
            container
                .and_then(|container| resources::field(&container, &it.resource, it.divisor.as_ref(), context.allocatable))
                .ok_or_else(|| PayloadError::Field { path: it.resource.clone() })?
        } else {
            String::new()
        };
        let mode = bits(item.mode.unwrap_or(mode));
        out.insert(item.path.clone(), File { bytes: text.into_bytes(), mode, uid: None });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(volume: serde_json::Value, expected: Expect) {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"containers": [{"name": "web", "resources": {"limits": {"memory": "64Mi"}}}]},
        }))
        .unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a.conf": "A"}, "binaryData": {"b.bin": "AAE="}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
        let objects = Objects {
            config_maps: BTreeMap::from([("settings".into(), Some(Arc::new(map)))]),
            secrets: BTreeMap::from([("login".into(), Some(Arc::new(secret)))]),
        };
        let context = Context {
            pod: &pod,
            objects: &objects,
            tokens: &BTreeMap::from([(("v".to_owned(), 0), "TOKEN".to_owned())]),
            pod_ips: &[],
            host_ips: &[],
            allocatable: &BTreeMap::new(),
        };
        let text = match payload(&volume, &context) {
            Ok(files) => {
                let mut out = String::new();
                for (path, file) in files.into_iter().flatten() {
                    let _ = writeln!(out, "{path} {:o} {:?}", file.mode, String::from_utf8_lossy(&file.bytes));
                }
                out
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn all_keys_or_the_named_ones() {
        check(
            json!({"name": "v", "configMap": {"name": "settings"}}),
            expect![[r#"
                a.conf 644 "A"
                b.bin 644 "\0\u{1}"
            "#]],
        );
        check(
            json!({"name": "v", "configMap": {"name": "settings", "defaultMode": 256, "items": [
                {"key": "a.conf", "path": "etc/a"}, {"key": "b.bin", "path": "b", "mode": 438}]}}),
            expect![[r#"
                b 666 "\0\u{1}"
                etc/a 400 "A"
            "#]],
        );
    }

    #[test]
    fn what_is_missing_is_named_unless_optional() {
        check(json!({"name": "v", "secret": {"secretName": "no"}}), expect![[r#"secret "no" not found"#]]);
        check(json!({"name": "v", "secret": {"secretName": "no", "optional": true}}), expect![""]);
        check(
            json!({"name": "v", "secret": {"secretName": "login", "items": [{"key": "user", "path": "u"}]}}),
            expect!["references non-existent secret key: user"],
        );
    }

    #[test]
    fn projected_volumes_join_their_sources() {
        check(
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "settings", "items": [{"key": "a.conf", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "memory", "resourceFieldRef": {"containerName": "web", "resource": "limits.memory", "divisor": "1Mi"}}]}},
            ]}}),
            expect![[r#"
                ca.crt 644 "A"
                labels 644 "a=\"1\"\nb=\"x\\\"y\""
                memory 644 "64"
                namespace 644 "shop"
                token 644 "TOKEN"
            "#]],
        );
    }
}
