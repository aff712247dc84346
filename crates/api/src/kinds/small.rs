//! Groups of few kinds: coordination, discovery, policy, scheduling, and the reviews of authentication and authorization.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, boolean, int, name, or_none, text};
use super::defaults::Defaults;
use super::row::row;
use super::validate::{discovery, small as rules};
use crate::kind::Kind;
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("coordination.k8s.io", "v1", "Lease", "leases")
            .heartbeat()
            .put_creates()
            .conditional_update()
            .validate_by(rules::lease)
            .columns(vec![name(), text("Holder", |o, _| o.str(&["spec", "holderIdentity"]).into()), age()])
            .select("spec.holderIdentity", |o| o.str(&["spec", "holderIdentity"]).to_owned()),
        row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .counts_generations_of(&["labels"])
            .default_by(|object| apply(object, &ENDPOINT_SLICE))
            .validate_by(discovery::endpoint_slice)
            .validate_change_by(discovery::endpoint_slice_change)
            .columns(vec![
                name(),
                text("AddressType", |o, _| o.str(&["addressType"]).into()),
                text("Ports", ports),
                text("Endpoints", endpoints),
                age(),
            ]),
        row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .short(&["pdb"])
            .status()
            .counts_generations()
            .conditional_update()
            .validate_by(rules::disruption_budget)
            .validate_status_by(rules::disruption_budget_status)
            .columns(vec![
                name(),
                text("Min Available", |o, _| int_or_percent(o.get(&["spec", "minAvailable"]))),
                text("Max Unavailable", |o, _| int_or_percent(o.get(&["spec", "maxUnavailable"]))),
                int("Allowed Disruptions", |o, _| o.int(&["status", "disruptionsAllowed"]).unwrap_or(0).into()),
                age(),
            ]),
        row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
            .cluster()
            .short(&["pc"])
            .default_by(|object| apply(object, &PRIORITY_CLASS))
            .validate_by(rules::priority_class)
            .validate_change_by(rules::priority_class_change)
            .columns(vec![
                name(),
                int("Value", |o, _| o.int(&["value"]).unwrap_or(0).into()),
                boolean("Global-Default", |o, _| o.bool(&["globalDefault"]).into()),
                age(),
                text("PreemptionPolicy", |o, _| o.str(&["preemptionPolicy"]).into()),
            ]),
        row("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").cluster().review(),
        row("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews").cluster().review(),
        row("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews")
            .cluster()
            .review()
            .validate_by(rules::access_review),
        row("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
            .cluster()
            .review()
            .validate_by(rules::self_access_review),
        row("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
            .review()
            .validate_by(rules::access_review),
        row("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews").cluster().review(),
    ]
}

static ENDPOINT_SLICE: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        ports[].name = ""
        ports[].protocol = "TCP"
        "#,
    )
});

static PRIORITY_CLASS: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"preemptionPolicy = "PreemptLowerPriority""#));

/// Addresses and ports shown before the rest is only counted.
const SHOWN: usize = 3;

fn shortened(mut list: Vec<String>) -> Value {
    let more = list.len().saturating_sub(SHOWN);
    list.truncate(SHOWN);
    let text = list.join(",");
    if more > 0 { format!("{text} + {more} more...").into() } else { text.into() }
}

fn ports(object: &Object, _: jiff::Timestamp) -> Value {
    let ports = object.list(&["ports"]);
    if ports.is_empty() {
        return "<unset>".into();
    }
    shortened(ports.iter().map(|port| port["port"].as_i64().map_or("*".to_owned(), |number| number.to_string())).collect())
}

fn endpoints(object: &Object, _: jiff::Timestamp) -> Value {
    let addresses = object.list(&["endpoints"]).iter().flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten());
    match shortened(addresses.filter_map(Value::as_str).map(str::to_owned).collect()) {
        Value::String(text) if text.is_empty() => "<unset>".into(),
        cell => cell,
    }
}

fn int_or_percent(value: Option<&Value>) -> Value {
    match value {
        Some(Value::String(text)) => or_none(text),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}
