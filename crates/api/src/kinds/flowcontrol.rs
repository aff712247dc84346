//! flowcontrol.apiserver.k8s.io/v1: priority and fairness.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, int, name, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::flowcontrol as rules;
use crate::kind::Kind;
use crate::object::Object;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "FlowSchema", "flowschemas")
            .cluster()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .counts_generations()
            .default_by(|object| apply(object, &FLOW_SCHEMA))
            .validate_by(rules::flow_schema)
            .validate_status_by(rules::status)
            .columns(vec![
                name(),
                text("PriorityLevel", |o, _| o.str(&["spec", "priorityLevelConfiguration", "name"]).into()),
                int("MatchingPrecedence", |o, _| o.int(&["spec", "matchingPrecedence"]).unwrap_or(0).into()),
                text("DistinguisherMethod", |o, _| super::columns::or_none(o.str(&["spec", "distinguisherMethod", "type"]))),
                age(),
                text("MissingPL", missing_level),
            ]),
        row(GROUP, "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
            .cluster()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .counts_generations()
            .default_by(default_level)
            .validate_by(rules::priority_level)
            .validate_status_by(rules::status)
            .columns(vec![
                name(),
                text("Type", |o, _| o.str(&["spec", "type"]).into()),
                text("NominalConcurrencyShares", |o, _| {
                    shown(o.get(&["spec", "limited", "nominalConcurrencyShares"]).or(o.get(&[
                        "spec",
                        "exempt",
                        "nominalConcurrencyShares",
                    ])))
                }),
                text("Queues", |o, _| queuing(o, "queues")),
                text("HandSize", |o, _| queuing(o, "handSize")),
                text("QueueLengthLimit", |o, _| queuing(o, "queueLengthLimit")),
                age(),
            ]),
    ]
}

static FLOW_SCHEMA: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("spec = {}\n spec.matchingPrecedence ~ 1000"));

static LEVEL: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.limited.nominalConcurrencyShares = 30
        spec.limited.lendablePercent = 0
        spec.limited.limitResponse.queuing.queues ~ 64
        spec.limited.limitResponse.queuing.handSize ~ 8
        spec.limited.limitResponse.queuing.queueLengthLimit ~ 50
        spec.exempt.nominalConcurrencyShares = 0
        spec.exempt.lendablePercent = 0
        "#,
    )
});

fn default_level(object: &mut Object) {
    if object.str(&["spec", "type"]) == "Exempt" && object.get(&["spec", "exempt"]).is_none() {
        object.set(&["spec", "exempt"], Value::Object(serde_json::Map::new()));
    }
    apply(object, &LEVEL);
}

/// Whether the level that the schema names is missing, as the server's own condition tells it.
fn missing_level(object: &Object, _: jiff::Timestamp) -> Value {
    let condition = object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == "Dangling");
    condition.and_then(|condition| condition["status"].as_str()).unwrap_or("?").into()
}

fn shown(value: Option<&Value>) -> Value {
    value.map_or("<none>".into(), |value| value.to_string().into())
}

fn queuing(object: &Object, key: &str) -> Value {
    shown(object.get(&["spec", "limited", "limitResponse", "queuing", key]))
}
