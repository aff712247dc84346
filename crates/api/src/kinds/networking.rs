//! networking.k8s.io/v1.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::apps::apply;
use super::columns::{age, format_selector, name, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::networking as rules;
use crate::kind::Kind;
use crate::object::Object;

const GROUP: &str = "networking.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "Ingress", "ingresses")
            .short(&["ing"])
            .status()
            .counts_generations()
            .prepare_by(|object| object.set(&["status", "loadBalancer"], json!({})), |_, _| ())
            .validate_by(rules::ingress)
            .validate_creation_by(rules::new_ingress)
            .validate_status_by(rules::ingress_status)
            .columns(vec![
                name(),
                text("Class", class),
                text("Hosts", hosts),
                text("Address", address),
                text("Ports", |o, _| if o.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" }.into()),
                age(),
            ]),
        row(GROUP, "v1", "IngressClass", "ingressclasses")
            .cluster()
            .counts_generations()
            .default_by(|object| apply(object, &INGRESS_CLASS))
            .validate_by(rules::ingress_class)
            .validate_change_by(rules::ingress_class_change)
            .columns(vec![name(), text("Controller", |o, _| o.str(&["spec", "controller"]).into()), text("Parameters", parameters), age()]),
        row(GROUP, "v1", "NetworkPolicy", "networkpolicies")
            .short(&["netpol"])
            .counts_generations()
            .default_by(default_network_policy)
            .validate_by(rules::network_policy)
            .columns(vec![name(), text("Pod-Selector", |o, _| format_selector(o.get(&["spec", "podSelector"]))), age()]),
        row(GROUP, "v1", "IPAddress", "ipaddresses")
            .cluster()
            .short(&["ip"])
            .named(rules::ip_name)
            .validate_by(rules::ip_address)
            .validate_change_by(rules::ip_address_change)
            .columns(vec![name(), text("ParentRef", parent), age()])
            .select("spec.parentRef.name", |o| o.str(&["spec", "parentRef", "name"]).to_owned()),
        row(GROUP, "v1", "ServiceCIDR", "servicecidrs")
            .cluster()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .validate_by(rules::service_cidr)
            .validate_change_by(rules::service_cidr_change)
            .columns(vec![
                name(),
                text("CIDRs", |o, _| o.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into()),
                age(),
            ]),
    ]
}

static INGRESS_CLASS: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"spec.parameters.scope = "Cluster""#));

static NETWORK_POLICY: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.ingress[].ports[].protocol = "TCP"
        spec.egress[].ports[].protocol = "TCP"
        "#,
    )
});

/// A policy is of the types for which it has rules, and always of ingress.
fn default_network_policy(object: &mut Object) {
    apply(object, &NETWORK_POLICY);
    if object.list(&["spec", "policyTypes"]).is_empty() && object.get(&["spec"]).is_some() {
        let mut types = vec![Value::from("Ingress")];
        if !object.list(&["spec", "egress"]).is_empty() {
            types.push("Egress".into());
        }
        object.set(&["spec", "policyTypes"], types.into());
    }
}

fn class(object: &Object, _: jiff::Timestamp) -> Value {
    let class = object.str(&["spec", "ingressClassName"]);
    let class = if class.is_empty() { object.annotation("kubernetes.io/ingress.class").unwrap_or("") } else { class };
    super::columns::or_none(class)
}

/// Hosts shown before the rest is only counted.
const HOSTS_SHOWN: usize = 3;

fn hosts(object: &Object, _: jiff::Timestamp) -> Value {
    let rules = object.list(&["spec", "rules"]);
    let named: Vec<&str> = rules.iter().filter_map(|rule| rule["host"].as_str()).filter(|host| !host.is_empty()).collect();
    let shown = &named[..named.len().min(HOSTS_SHOWN)];
    match (shown.is_empty(), rules.len().saturating_sub(HOSTS_SHOWN)) {
        (true, _) => "*".into(),
        (false, 0) => shown.join(",").into(),
        (false, more) => format!("{} + {more} more...", shown.join(",")).into(),
    }
}

fn address(object: &Object, _: jiff::Timestamp) -> Value {
    let mut list: Vec<&str> = object
        .list(&["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|ingress| ingress["ip"].as_str().or(ingress["hostname"].as_str()))
        .collect();
    list.sort_unstable();
    list.join(",").into()
}

fn parameters(object: &Object, _: jiff::Timestamp) -> Value {
    let Some(parameters) = object.get(&["spec", "parameters"]) else { return "<none>".into() };
    let part = |key: &str| parameters[key].as_str().unwrap_or("");
    match part("apiGroup") {
        "" => format!("{}/{}", part("kind"), part("name")).into(),
        group => format!("{}.{group}/{}", part("kind"), part("name")).into(),
    }
}

/// `services/default/web`
fn parent(object: &Object, _: jiff::Timestamp) -> Value {
    let part = |key: &str| object.str(&["spec", "parentRef", key]);
    let resource = match part("group") {
        "" => part("resource").to_owned(),
        group => format!("{}.{group}", part("resource")),
    };
    [resource.as_str(), part("namespace"), part("name")].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("/").into()
}
