//! Defaults of a pod spec, in pods and in templates.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::defaults::Defaults;
use crate::quantity::Quantity;

static POD_SPEC: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        dnsPolicy = "ClusterFirst"
        restartPolicy = "Always"
        securityContext = {}
        terminationGracePeriodSeconds = 30
        schedulerName = "default-scheduler"
        volumes[].secret.defaultMode = 420
        volumes[].configMap.defaultMode = 420
        volumes[].downwardAPI.defaultMode = 420
        volumes[].downwardAPI.items[].fieldRef.apiVersion = "v1"
        volumes[].projected.defaultMode = 420
        volumes[].projected.sources[].serviceAccountToken.expirationSeconds = 3600
        volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion = "v1"
        volumes[].hostPath.type = ""
        volumes[].iscsi.iscsiInterface = "default"
        volumes[].rbd.pool = "rbd"
        volumes[].rbd.user = "admin"
        volumes[].rbd.keyring = "/etc/ceph/keyring"
        volumes[].azureDisk.cachingMode = "ReadWrite"
        volumes[].azureDisk.kind = "Shared"
        volumes[].azureDisk.fsType = "ext4"
        volumes[].azureDisk.readOnly = false
        volumes[].scaleIO.storageMode = "ThinProvisioned"
        volumes[].scaleIO.fsType = "xfs"
        volumes[].ephemeral.volumeClaimTemplate.spec.volumeMode = "Filesystem"
        "#,
    )
});

static CONTAINER: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        terminationMessagePath = "/dev/termination-log"
        terminationMessagePolicy = "File"
        resources = {}
        ports[].protocol = "TCP"
        env[].valueFrom.fieldRef.apiVersion = "v1"
        env[].valueFrom.resourceFieldRef.divisor = "0"
        lifecycle.postStart.httpGet.path = "/"
        lifecycle.postStart.httpGet.scheme = "HTTP"
        lifecycle.preStop.httpGet.path = "/"
        lifecycle.preStop.httpGet.scheme = "HTTP"
        "#,
    )
});

static PROBE: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        timeoutSeconds ~ 1
        periodSeconds ~ 10
        successThreshold ~ 1
        failureThreshold ~ 3
        httpGet.path = "/"
        httpGet.scheme = "HTTP"
        grpc.service = ""
        "#,
    )
});

/// The lists of containers of a pod spec.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Of any pod spec.
pub(crate) fn default_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    service_account_alias(spec);
    POD_SPEC.apply(spec);
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        volume_source(volume);
    }
    for list in CONTAINER_LISTS {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container_defaults(container);
        }
    }
    if let Some(overhead) = spec.get_mut("overhead").and_then(Value::as_object_mut) {
        round_up_resources(overhead);
    }
}

/// Of pods only: what would be surprising in a template.
pub(crate) fn default_pod(spec: &mut Value) {
    default_spec(spec);
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(container);
        }
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        host_network_ports(spec);
    }
    if let Some(map) = spec.as_object_mut() {
        map.entry("enableServiceLinks").or_insert(true.into());
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept in step.
fn service_account_alias(spec: &mut Value) {
    let Some(map) = spec.as_object_mut() else { return };
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (new, old) = (text("serviceAccountName"), text("serviceAccount"));
    let name = if new.is_empty() { old } else { new };
    if !name.is_empty() {
        map.insert("serviceAccountName".to_owned(), name.as_str().into());
        map.insert("serviceAccount".to_owned(), name.into());
    }
}

/// A volume without a source is an emptyDir; an image volume is pulled as a container's image is.
fn volume_source(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir".to_owned(), json!({}));
    }
    if let Some(image) = map.get_mut("image").and_then(Value::as_object_mut) {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or(""));
        image.entry("pullPolicy").or_insert(policy.into());
    }
}

fn container_defaults(container: &mut Value) {
    CONTAINER.apply(container);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            PROBE.apply(probe);
        }
    }
    let Some(map) = container.as_object_mut() else { return };
    if map.get("imagePullPolicy").and_then(Value::as_str).unwrap_or("").is_empty() {
        let image = map.get("image").and_then(Value::as_str).unwrap_or("");
        let policy = pull_policy(image);
        map.insert("imagePullPolicy".to_owned(), policy.into());
    }
    for list in ["limits", "requests"] {
        let resources = map.get_mut("resources").and_then(|resources| resources.get_mut(list));
        if let Some(resources) = resources.and_then(Value::as_object_mut) {
            round_up_resources(resources);
        }
    }
}

/// `:latest`, and no tag, which means the same, are pulled always.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let latest = match name.split_once('@') {
        // A digest pins what is pulled.
        Some((name, _)) => name.ends_with(":latest"),
        None => name.split_once(':').is_none_or(|(_, tag)| tag == "latest"),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else { return };
    let requests = container["resources"].as_object_mut().map(|map| map.entry("requests").or_insert(json!({})));
    if let Some(requests) = requests.and_then(Value::as_object_mut) {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// Thousandths are the finest that upstream keeps in a resource list.
pub(crate) fn round_up_resources(list: &mut Map<String, Value>) {
    for value in list.values_mut() {
        if let Some(Ok(quantity)) = value.as_str().map(Quantity::parse) {
            *value = quantity.round_up_to_milli().to_string().into();
        }
    }
}

/// In the host's network a container's port is the host's port.
fn host_network_ports(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                let container_port = port["containerPort"].clone();
                if let Some(map) = port.as_object_mut()
                    && map.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                {
                    map.insert("hostPort".to_owned(), container_port);
                }
            }
        }
    }
}
