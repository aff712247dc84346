//! autoscaling/v1 and v2: two views of the same stored autoscalers, which are v2.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::apps::apply;
use super::columns::{age, int, name, text};
use super::defaults::Defaults;
use super::row::row;
use super::validate::autoscaling as rules;
use crate::kind::{Column, Converter, Kind};
use crate::object::Object;

mod convert;

const COLLECTION: &str = "autoscaling/horizontalpodautoscalers";

pub(super) fn kinds() -> Vec<Kind> {
    let common = |version: &'static str| {
        row("autoscaling", version, "HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .inert()
            .short(&["hpa"])
            .in_all()
            .status()
            .validate_status_by(rules::status)
    };
    vec![
        common("v2")
            // They say in v1 what v2 has fields for, and nothing here.
            .prepare_by(convert::drop_all, |new, _| convert::drop_all(new))
            .prepare_status_by(|new, _| convert::drop_all(new))
            .default_by(default_v2)
            .validate_by(rules::v2)
            .columns(columns([reference, targets, min_pods, max_pods, replicas])),
        common("v1")
            .stored_as(COLLECTION, Converter { to_storage, from_storage: convert::to_v1 })
            .default_by(|object| apply(object, &COMMON))
            .prepare_by(convert::drop_told, |new, old| convert::keep(new, old, &convert::TOLD))
            .prepare_status_by(|new, old| convert::keep(new, old, &convert::WANTED))
            .validate_by(|object| rules::v2(&stored(object)))
            .columns(columns([|o, now| reference(&stored(o), now), |o, now| targets(&stored(o), now), min_pods, max_pods, replicas])),
    ]
}

fn columns(cells: [crate::kind::CellFn; 5]) -> Vec<Column> {
    let [reference, targets, min_pods, max_pods, replicas] = cells;
    vec![
        name(),
        text("Reference", reference),
        text("Targets", targets),
        text("MinPods", min_pods),
        int("MaxPods", max_pods),
        int("Replicas", replicas),
        age(),
    ]
}

fn stored(object: &Object) -> Object {
    let mut object = object.clone();
    convert::to_v2(&mut object);
    object
}

static COMMON: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.minReplicas = 1
        "#,
    )
});

/// CPU in percent of the requests, where nothing is measured that a client named.
const CPU_PERCENT: i32 = 80;

static SCALE_UP: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        stabilizationWindowSeconds = 0
        selectPolicy = "Max"
        policies = [{"type":"Pods","value":4,"periodSeconds":15},{"type":"Percent","value":100,"periodSeconds":15}]
        "#,
    )
});

static SCALE_DOWN: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        selectPolicy = "Max"
        policies = [{"type":"Percent","value":100,"periodSeconds":15}]
        "#,
    )
});

/// What is stored is v2, with the metrics that v2 gives to those who name none.
fn to_storage(object: &mut Object) {
    convert::to_v2(object);
    default_metrics(object);
}

fn default_metrics(object: &mut Object) {
    if object.list(&["spec", "metrics"]).is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": CPU_PERCENT});
        object.set(&["spec", "metrics"], json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
}

fn default_v2(object: &mut Object) {
    apply(object, &COMMON);
    default_metrics(object);
    // Where one direction is described, both are made whole (autoscaling/v2/defaults.go, GenerateHPAScale*Rules).
    if let Some(Value::Object(behavior)) = object.get_mut(&["spec", "behavior"]) {
        for (direction, table) in [("scaleUp", &SCALE_UP), ("scaleDown", &SCALE_DOWN)] {
            table.apply(behavior.entry(direction).or_insert_with(|| Value::Object(Map::new())));
        }
    }
}

fn reference(object: &Object, _: jiff::Timestamp) -> Value {
    let part = |key: &str| object.str(&["spec", "scaleTargetRef", key]);
    format!("{}/{}", part("kind"), part("name")).into()
}

fn min_pods(object: &Object, _: jiff::Timestamp) -> Value {
    object.int(&["spec", "minReplicas"]).map_or("<unset>".to_owned(), |least| least.to_string()).into()
}

fn max_pods(object: &Object, _: jiff::Timestamp) -> Value {
    super::columns::count(object, &["spec", "maxReplicas"])
}

fn replicas(object: &Object, _: jiff::Timestamp) -> Value {
    super::columns::count(object, &["status", "currentReplicas"])
}

/// Metrics shown before the rest is only counted.
const METRICS_SHOWN: usize = 2;

fn targets(object: &Object, _: jiff::Timestamp) -> Value {
    let (metrics, current) = (object.list(&["spec", "metrics"]), object.list(&["status", "currentMetrics"]));
    if metrics.is_empty() {
        return "<none>".into();
    }
    let shown: Vec<String> =
        metrics.iter().enumerate().take(METRICS_SHOWN).map(|(index, metric)| target(metric, current.get(index))).collect();
    let more = metrics.len().saturating_sub(METRICS_SHOWN);
    let text = shown.join(", ");
    if more > 0 { format!("{text} + {more} more...").into() } else { text.into() }
}

/// `cpu: 10%/80%`, `<unknown>/5 (avg)`
fn target(metric: &Value, status: Option<&Value>) -> String {
    let Some(source) = convert::source_key(metric) else { return "<unknown type>".to_owned() };
    let target = &metric[source]["target"];
    let current = status.map(|status| &status[source]["current"]).unwrap_or(&Value::Null);
    let quantity = |value: &Value| value.as_str().map(str::to_owned);
    let percent = |value: &Value| value.as_i64().map(|percent| format!("{percent}%"));
    let unknown = || "<unknown>".to_owned();
    let pair = if let Some(wanted) = quantity(&target["averageValue"]) {
        let average = if source == "pods" || source == "resource" || source == "containerResource" { "" } else { " (avg)" };
        format!("{}/{wanted}{average}", quantity(&current["averageValue"]).unwrap_or_else(unknown))
    } else if let Some(wanted) = quantity(&target["value"]) {
        format!("{}/{wanted}", quantity(&current["value"]).unwrap_or_else(unknown))
    } else {
        let wanted = percent(&target["averageUtilization"]).unwrap_or_else(|| "<auto>".to_owned());
        format!("{}/{wanted}", percent(&current["averageUtilization"]).unwrap_or_else(unknown))
    };
    match source {
        "resource" | "containerResource" => format!("{}: {pair}", metric[source]["name"].as_str().unwrap_or("")),
        _ => pair,
    }
}
