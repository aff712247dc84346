//! The environment of a container, and the expansion of `$(NAME)` in it, in its command and in its arguments.
//!
//! Pure: ConfigMaps, Secrets and Services are looked up beforehand. Order, as upstream: variables of Services, then `envFrom`,
//! then `env`; a later one wins, and may refer to those before it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::resources;

/// ConfigMaps and Secrets of one namespace by name, as far as a pod uses them; `None`: there is none of this name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

/// A container's environment cannot be made yet. The text is what the waiting state and the event show; it names objects and
/// keys, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {path}")]
    Field { path: String },
    #[error("unsupported resource {resource}")]
    Resource { resource: String },
}

/// What the environment is made from, beside the container.
pub(crate) struct Context<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    /// Services that the pod may see: those of its namespace, and `default/kubernetes`.
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
}

/// Names of the ConfigMaps and Secrets that a container's environment needs.
pub(crate) fn needs(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.iter().map(|it| it.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|it| it.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|it| it.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.iter().map(|it| it.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|it| it.name.clone()));
    }
    (config_maps, secrets)
}

/// The variables in the order in which they were made, each name once.
pub(crate) fn environment(container: &Container, context: &Context<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut made = Variables::default();
    for service in context.services {
        service_variables(service, &mut made);
    }
    // Their own variables do not see those of Services in `$(NAME)` unless they come first, and so they do.
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(it) = &from.config_map_ref {
            match found(&context.objects.config_maps, &it.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        made.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if it.optional == Some(true) => {}
                None => return Err(no_object("configmap", &it.name)),
            }
        }
        if let Some(it) = &from.secret_ref {
            match found(&context.objects.secrets, &it.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        made.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if it.optional == Some(true) => {}
                None => return Err(no_object("secret", &it.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(_)) => match from_source(variable, container, context)? {
                Some(value) => value,
                None => continue,
            },
            (value, None) => expand(value.as_deref().unwrap_or_default(), |name| made.get(name)),
        };
        made.set(variable.name.clone(), value);
    }
    Ok(made.0)
}

/// Replaces `$(NAME)` by its value; an unknown name stays as it is, `$$` stands for `$`.
pub(crate) fn expand<'a>(text: &str, get: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|it| it.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// A field of the pod by its path, as `valueFrom.fieldRef` and downward API volumes name it.
pub(crate) fn field(path: &str, pod: &Pod, pod_ips: &[IpAddr], host_ips: &[IpAddr]) -> Option<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref()?;
    let joined = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |list: &[IpAddr]| list.first().map(ToString::to_string).unwrap_or_default();
    let pod_ips = if spec.host_network == Some(true) { host_ips } else { pod_ips };
    if let Some((base, key)) = path.strip_suffix("']").and_then(|it| it.split_once("['")) {
        let map = match base {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|it| it.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => map_lines(meta.labels.as_ref()),
        "metadata.annotations" => map_lines(meta.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "spec.restartPolicy" => spec.restart_policy.clone().unwrap_or_default(),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => joined(host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => joined(pod_ips),
        _ => return None,
    })
}

/// `key="value"` lines, values quoted as Go quotes them.
fn map_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

fn found<'a, T>(map: &'a BTreeMap<String, Option<Arc<T>>>, name: &str) -> Option<&'a T> {
    map.get(name)?.as_deref()
}

fn no_object(kind: &'static str, name: &str) -> EnvError {
    EnvError::NoObject { kind, name: name.to_owned() }
}

fn from_source(variable: &EnvVar, container: &Container, context: &Context<'_>) -> Result<Option<String>, EnvError> {
    let Some(source) = &variable.value_from else {
        return Ok(None);
    };
    let namespace = || context.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(it) = &source.field_ref {
        return field(&it.field_path, context.pod, context.pod_ips, context.host_ips)
            .map(Some)
            .ok_or_else(|| EnvError::Field { path: it.field_path.clone() });
    }
    if let Some(it) = &source.resource_field_ref {
        let of = (it.container_name.as_deref())
            .filter(|name| !name.is_empty() && *name != container.name)
            .and_then(|name| crate::pod::plan::container(context.pod.spec.as_ref()?, name));
        return resources::field(of.as_ref().unwrap_or(container), &it.resource, it.divisor.as_ref(), context.allocatable)
            .map(Some)
            .ok_or_else(|| EnvError::Resource { resource: it.resource.clone() });
    }
    if let Some(it) = &source.config_map_key_ref {
        let optional = it.optional == Some(true);
        let Some(map) = found(&context.objects.config_maps, &it.name) else {
            return if optional { Ok(None) } else { Err(no_object("configmap", &it.name)) };
        };
        let value = map.data.as_ref().and_then(|data| data.get(&it.key)).cloned();
        return match value {
            None if !optional => Err(no_key("ConfigMap", namespace(), &it.name, &it.key)),
            value => Ok(value),
        };
    }
    if let Some(it) = &source.secret_key_ref {
        let optional = it.optional == Some(true);
        let Some(secret) = found(&context.objects.secrets, &it.name) else {
            return if optional { Ok(None) } else { Err(no_object("secret", &it.name)) };
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&it.key)).map(|it| String::from_utf8_lossy(&it.0).into_owned());
        return match value {
            None if !optional => Err(no_key("Secret", namespace(), &it.name, &it.key)),
            value => Ok(value),
        };
    }
    Ok(None)
}

fn no_key(kind: &'static str, namespace: String, name: &str, key: &str) -> EnvError {
    EnvError::NoKey { kind, namespace, name: name.to_owned(), key: key.to_owned() }
}

/// In order of making; a name that is set again keeps its place and takes the new value.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|it| it.0 == name) {
            Some(it) => it.1 = value,
            None => self.0.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|it| it.0 == name).map(|it| it.1.as_str())
    }
}

/// The variables by which Docker links told of a service; upstream's pkg/kubelet/envvars.
fn service_variables(service: &Service, made: &mut Variables) {
    let Some(spec) = &service.spec else {
        return;
    };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let shouted = |text: &str| text.to_uppercase().replace('-', "_");
    let name = shouted(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return;
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let protocol = |it: &Option<String>| it.as_deref().unwrap_or("TCP").to_owned();
    made.set(format!("{name}_SERVICE_HOST"), ip.to_owned());
    made.set(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|it| !it.is_empty()) {
            made.set(format!("{name}_SERVICE_PORT_{}", shouted(port_name)), port.port.to_string());
        }
    }
    let url = |protocol: &str, port: i32| format!("{}://{host}:{port}", protocol.to_lowercase());
    made.set(format!("{name}_PORT"), url(&protocol(&first.protocol), first.port));
    for port in ports {
        let protocol = protocol(&port.protocol);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        made.set(prefix.clone(), url(&protocol, port.port));
        made.set(format!("{prefix}_PROTO"), protocol.to_lowercase());
        made.set(format!("{prefix}_PORT"), port.port.to_string());
        made.set(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
