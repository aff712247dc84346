//! The built-in objects, in full as the API would have stored them after defaulting.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::flow;
use super::roles::{self, Object};
use super::{BootstrapError, Keep, Settings, Wanted, service_address};
use crate::{allocate, authn::Proxy};

pub(super) const PRIORITY_LEVELS: &str = "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations";
pub(super) const FLOW_SCHEMAS: &str = "flowcontrol.apiserver.k8s.io/flowschemas";

/// Namespaces of every cluster.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Position of the API server's Service in the service range.
const API_INDEX: u128 = 1;
/// Position of the DNS Service.
const DNS_INDEX: u128 = 10;
const HTTPS_PORT: u16 = 443;
const DNS_PORT: u16 = 53;

pub(super) fn wanted(settings: &Settings) -> Result<Vec<Wanted>, BootstrapError> {
    let mut all = Vec::new();
    for name in NAMESPACES {
        all.push(wanted_as(Keep::AsIs, "core/namespaces", namespace(name)));
        // The controller makes one in every namespace; here they save the first pods the wait for it.
        all.push(wanted_as(Keep::AsIs, "core/serviceaccounts", service_account(name)));
    }
    for object in roles::built_in() {
        let collection = match object["kind"].as_str() {
            Some("ClusterRole") => "rbac.authorization.k8s.io/clusterroles",
            Some("ClusterRoleBinding") => "rbac.authorization.k8s.io/clusterrolebindings",
            Some("Role") => "rbac.authorization.k8s.io/roles",
            _ => "rbac.authorization.k8s.io/rolebindings",
        };
        all.push(Wanted { collection, object, keep: Keep::Rights });
    }
    for class in [
        priority_class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        priority_class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        all.push(wanted_as(Keep::AsIs, "scheduling.k8s.io/priorityclasses", class));
    }
    for level in flow::levels() {
        all.push(wanted_as(Keep::AsIs, PRIORITY_LEVELS, level));
    }
    for schema in flow::schemas() {
        all.push(wanted_as(Keep::AsIs, FLOW_SCHEMAS, schema));
    }
    // Of another range than this one the allocator tells.
    let range = allocate::default_range(settings.service_cidr, Timestamp::now());
    all.push(wanted_as(Keep::AsIs, "networking.k8s.io/servicecidrs", range));
    all.push(wanted_as(Keep::Content, "core/services", api_service(settings)?));
    all.push(wanted_as(Keep::Content, "core/endpoints", api_endpoints(settings)));
    all.push(wanted_as(Keep::Content, "discovery.k8s.io/endpointslices", api_endpoint_slice(settings)));
    all.push(wanted_as(Keep::AsIs, "core/services", dns_service(settings)?));
    all.push(wanted_as(Keep::Content, "core/configmaps", extension_authentication(settings)));
    Ok(all)
}

pub(super) fn wanted_as(keep: Keep, collection: &'static str, object: Value) -> Wanted {
    let object: Object = match object {
        Value::Object(object) => object,
        _ => Object::new(),
    };
    Wanted { collection, object, keep }
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

fn service_account(namespace: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": namespace } })
}

fn priority_class(name: &str, value: i64, description: &str) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": name, "generation": 1 },
        "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
    })
}

fn address(settings: &Settings, service: &'static str, index: u128) -> Result<String, BootstrapError> {
    let range = settings.service_cidr;
    let address = service_address(range, index).ok_or(BootstrapError::Range { range, service })?;
    Ok(address.to_string())
}

fn family(settings: &Settings) -> &'static str {
    match settings.service_cidr.addr().is_ipv4() {
        true => "IPv4",
        false => "IPv6",
    }
}

fn service(settings: &Settings, metadata: Value, address: &str, ports: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "ports": ports,
            "ipFamilies": [family(settings)], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
        },
        "status": { "loadBalancer": {} },
    })
}

fn api_service(settings: &Settings) -> Result<Value, BootstrapError> {
    let metadata = json!({
        "name": "kubernetes", "namespace": "default",
        "labels": { "component": "apiserver", "provider": "kubernetes" },
    });
    let ports = json!([{ "name": "https", "port": HTTPS_PORT, "protocol": "TCP", "targetPort": settings.advertise.port() }]);
    Ok(service(settings, metadata, &address(settings, "kubernetes", API_INDEX)?, ports))
}

fn api_endpoints(settings: &Settings) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": [{
            "addresses": [{ "ip": settings.advertise.ip().to_string() }],
            "ports": [{ "name": "https", "port": settings.advertise.port(), "protocol": "TCP" }],
        }],
    })
}

fn api_endpoint_slice(settings: &Settings) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "generation": 1,
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if settings.advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [settings.advertise.ip().to_string()], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": settings.advertise.port(), "protocol": "TCP" }],
    })
}

/// The Service by whose name and address tools know the cluster's DNS. It has no selector: every node answers on its address itself.
fn dns_service(settings: &Settings) -> Result<Value, BootstrapError> {
    let metadata = json!({
        "name": "kube-dns", "namespace": "kube-system",
        "labels": { "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS" },
    });
    let ports = json!([
        { "name": "dns", "port": DNS_PORT, "protocol": "UDP", "targetPort": DNS_PORT },
        { "name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP", "targetPort": DNS_PORT },
    ]);
    Ok(service(settings, metadata, &address(settings, "kube-dns", DNS_INDEX)?, ports))
}

/// What extension API servers need to know to trust this one, whatever proxies it trusts itself. The lists are JSON in text, as their library reads them
/// (apiserver, authenticatorfactory's requestheader configmap).
fn extension_authentication(settings: &Settings) -> Value {
    let proxy = Proxy::default();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "client-ca-file": settings.ca_pem,
            "requestheader-allowed-names": json!(proxy.names).to_string(),
            "requestheader-client-ca-file": settings.front_proxy_ca_pem,
            "requestheader-extra-headers-prefix": json!(proxy.extra_prefixes).to_string(),
            "requestheader-group-headers": json!(proxy.group_headers).to_string(),
            "requestheader-uid-headers": json!(proxy.uid_headers).to_string(),
            "requestheader-username-headers": json!(proxy.user_headers).to_string(),
        },
    })
}
