//! What v2 says and v1 has no field for stands in annotations of the v1 object, as upstream keeps it (pkg/apis/autoscaling/v1/conversion.go).

use serde_json::{Map, Value, json};

use crate::decode::depth::levels;
use crate::object::Object;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Annotations that are a part of the status, whoever writes the object itself has no say in.
pub(super) const TOLD: [&str; 2] = [CONDITIONS, CURRENT_METRICS];
/// Annotations that are a part of the spec.
pub(super) const WANTED: [&str; 2] = [METRICS, BEHAVIOR];

/// Levels of what an annotation may hold. A label selector in the deepest of them has eight.
const LEVELS_MAX: usize = 20;

/// Sources of metrics, by their type.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

/// A new autoscaler has no status yet.
pub(super) fn drop_told(object: &mut Object) {
    for annotation in TOLD {
        object.remove(&["metadata", "annotations", annotation]);
    }
}

/// As upstream drops them whenever it converts from or to v2 (DropRoundTripHorizontalPodAutoscalerAnnotations).
pub(super) fn drop_all(object: &mut Object) {
    for annotation in TOLD.iter().chain(&WANTED) {
        object.remove(&["metadata", "annotations", annotation]);
    }
}

/// The annotations as they were.
pub(super) fn keep(new: &mut Object, old: &Object, annotations: &[&str]) {
    for annotation in annotations {
        match old.annotation(annotation) {
            Some(value) => new.set(&["metadata", "annotations", annotation], value.into()),
            None => drop(new.remove(&["metadata", "annotations", annotation])),
        }
    }
}

/// The key under which a metric describes its source.
pub(super) fn source_key(metric: &Value) -> Option<&'static str> {
    SOURCES.iter().find(|(ty, key)| metric["type"] == *ty && metric[*key].is_object()).map(|(_, key)| *key)
}

pub(super) fn to_v1(object: &mut Object) {
    object.set_type("autoscaling/v1", "HorizontalPodAutoscaler");
    drop_all(object);
    let (cpu, rest) = apart(list(object.remove(&["spec", "metrics"])));
    if let Some(percent) = cpu.and_then(|metric| metric["resource"]["target"]["averageUtilization"].as_i64()) {
        object.set(&["spec", "targetCPUUtilizationPercentage"], percent.into());
    }
    annotate(object, METRICS, rest.iter().map(old_spec).collect());
    let (cpu, rest) = apart(list(object.remove(&["status", "currentMetrics"])));
    if let Some(percent) = cpu.and_then(|metric| metric["resource"]["current"]["averageUtilization"].as_i64()) {
        object.set(&["status", "currentCPUUtilizationPercentage"], percent.into());
    }
    annotate(object, CURRENT_METRICS, rest.iter().map(old_status).collect());
    let conditions = list(object.remove(&["status", "conditions"]));
    annotate(object, CONDITIONS, conditions);
    if let Some(behavior) = object.remove(&["spec", "behavior"]) {
        object.set(&["metadata", "annotations", BEHAVIOR], behavior.to_string().into());
    }
}

pub(super) fn to_v2(object: &mut Object) {
    object.set_type("autoscaling/v2", "HorizontalPodAutoscaler");
    let mut metrics: Vec<Value> = taken(object, METRICS).iter().filter_map(new_spec).collect();
    if let Some(percent) = object.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    put(object, &["spec", "metrics"], metrics);
    let mut current: Vec<Value> = taken(object, CURRENT_METRICS).iter().filter_map(new_status).collect();
    if let Some(percent) = object.remove(&["status", "currentCPUUtilizationPercentage"]) {
        current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
    }
    put(object, &["status", "currentMetrics"], current);
    let conditions = taken(object, CONDITIONS);
    put(object, &["status", "conditions"], conditions);
    if let Some(behavior @ Value::Object(_)) = read(object, BEHAVIOR) {
        object.set(&["spec", "behavior"], behavior);
    }
    if object.annotations().next().is_none() {
        object.remove(&["metadata", "annotations"]);
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn put(object: &mut Object, path: &[&str], list: Vec<Value>) {
    if !list.is_empty() {
        object.set(path, list.into());
    }
}

/// The first metric that v1 has a field for (CPU in percent), and the rest.
fn apart(mut metrics: Vec<Value>) -> (Option<Value>, Vec<Value>) {
    let is_cpu = |metric: &Value| {
        let resource = &metric["resource"];
        let percent = |key: &str| resource[key]["averageUtilization"].is_i64();
        metric["type"] == "Resource" && resource["name"] == "cpu" && (percent("target") || percent("current"))
    };
    let cpu = metrics.iter().position(is_cpu).map(|index| metrics.remove(index));
    (cpu, metrics)
}

fn annotate(object: &mut Object, annotation: &str, list: Vec<Value>) {
    if !list.is_empty() {
        object.set(&["metadata", "annotations", annotation], Value::from(list).to_string().into());
    }
}

/// The list in an annotation, which goes; what is no list is dropped.
fn taken(object: &mut Object, annotation: &str) -> Vec<Value> {
    list(read(object, annotation))
}

/// The value in an annotation, which goes. A client may have written anything there; what is no value is dropped, as upstream does, and so is
/// what nests deeper than anything that belongs there: it becomes part of the object after all checks of its depth.
fn read(object: &mut Object, annotation: &str) -> Option<Value> {
    let text = object.remove(&["metadata", "annotations", annotation])?;
    let value = serde_json::from_str(text.as_str()?).ok()?;
    (levels(&value, &mut 0) <= LEVELS_MAX).then_some(value)
}

/// Names of the values of a source, v1 and v2, in a target and in a status.
fn names(source: &str, status: bool) -> [(&'static str, &'static str); 3] {
    match (source, status) {
        ("object", false) => [("targetValue", "value"), ("averageValue", "averageValue"), ("", "")],
        ("object", true) => [("currentValue", "value"), ("averageValue", "averageValue"), ("", "")],
        (_, false) => {
            [("targetValue", "value"), ("targetAverageValue", "averageValue"), ("targetAverageUtilization", "averageUtilization")]
        }
        (_, true) => {
            [("currentValue", "value"), ("currentAverageValue", "averageValue"), ("currentAverageUtilization", "averageUtilization")]
        }
    }
}

fn old_spec(metric: &Value) -> Value {
    older(metric, false)
}

fn old_status(metric: &Value) -> Value {
    older(metric, true)
}

fn older(metric: &Value, status: bool) -> Value {
    let Some(source) = source_key(metric) else { return metric.clone() };
    let from = &metric[source];
    let mut to = Map::new();
    let mut copy = |key: &str, value: &Value| {
        if !value.is_null() && !key.is_empty() {
            to.insert(key.to_owned(), value.clone());
        }
    };
    copy("name", &from["name"]);
    copy("container", &from["container"]);
    copy("target", &from["describedObject"]);
    copy("metricName", &from["metric"]["name"]);
    copy(if source == "external" { "metricSelector" } else { "selector" }, &from["metric"]["selector"]);
    for (old, new) in names(source, status) {
        copy(old, &from[if status { "current" } else { "target" }][new]);
    }
    json!({"type": metric["type"], source: to})
}

fn new_spec(metric: &Value) -> Option<Value> {
    newer(metric, false)
}

fn new_status(metric: &Value) -> Option<Value> {
    newer(metric, true)
}

fn newer(metric: &Value, status: bool) -> Option<Value> {
    let source = source_key(metric)?;
    let from = &metric[source];
    let mut values = Map::new();
    for (old, new) in names(source, status).into_iter().filter(|(old, _)| !from[*old].is_null()) {
        values.insert(new.to_owned(), from[old].clone());
    }
    if !status {
        let ty = [("value", "Value"), ("averageValue", "AverageValue"), ("averageUtilization", "Utilization")];
        // An object's average is told apart from its value by being there; others have one of the three.
        let ty = ty.iter().rev().find(|(key, _)| values.contains_key(*key)).map_or("Value", |(_, ty)| ty);
        if ty == "AverageValue" {
            values.remove("value");
        }
        values.insert("type".to_owned(), ty.into());
    }
    let mut to = Map::new();
    for (old, new) in [("name", "name"), ("container", "container"), ("target", "describedObject")] {
        if !from[old].is_null() {
            to.insert(new.to_owned(), from[old].clone());
        }
    }
    if let Some(name) = from["metricName"].as_str() {
        let mut named = json!({"name": name});
        let selector = &from[if source == "external" { "metricSelector" } else { "selector" }];
        if !selector.is_null() {
            named["selector"] = selector.clone();
        }
        to.insert("metric".to_owned(), named);
    }
    to.insert(if status { "current" } else { "target" }.to_owned(), values.into());
    Some(json!({"type": metric["type"], source: to}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(v2: Value) -> Object {
        let mut object = Object::from_value(v2.clone()).unwrap();
        to_v1(&mut object);
        let v1 = object.clone();
        to_v2(&mut object);
        assert_eq!(object.into_value(), v2);
        v1
    }

    #[test]
    fn nothing_is_lost_in_v1() {
        let v1 = there_and_back(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a", "annotations": {"x": "y"}},
            "spec": {
                "maxReplicas": 3, "behavior": {"scaleUp": {"selectPolicy": "Min"}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "ContainerResource", "containerResource":
                        {"name": "cpu", "container": "c", "target": {"type": "Utilization", "averageUtilization": 5}}},
                    {"type": "Pods", "pods": {"metric": {"name": "rps", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"metric": {"name": "q"}, "describedObject": {"kind": "Service", "name": "s"},
                        "target": {"type": "Value", "value": "2"}}},
                    {"type": "External", "external": {"metric": {"name": "e", "selector": {}}, "target": {"type": "Value", "value": "5"}}},
                ],
            },
            "status": {
                "currentReplicas": 1, "desiredReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40}}},
                    {"type": "Pods", "pods": {"metric": {"name": "rps"}, "current": {"averageValue": "3"}}},
                ],
            },
        }));
        assert_eq!((v1.int(&["spec", "targetCPUUtilizationPercentage"]), v1.get(&["spec", "metrics"])), (Some(70), None));
        assert_eq!(v1.int(&["status", "currentCPUUtilizationPercentage"]), Some(40));
        let metrics: Value = serde_json::from_str(v1.annotation(METRICS).unwrap()).unwrap();
        assert_eq!(metrics[0], json!({"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}}));
        assert_eq!(metrics[2]["pods"]["metricName"], "rps");
    }

    #[test]
    fn what_a_client_wrote_into_the_annotations_does_no_harm() {
        for text in ["", "x", "{}", "[1]", r#"[{"type":"Pods"}]"#, r#"[{"type":"Nonsense","pods":{}}]"#] {
            let mut object = Object::from_value(json!({"metadata": {"annotations": {METRICS: text, BEHAVIOR: text}}, "spec": {}})).unwrap();
            to_v2(&mut object);
            assert_eq!(object.get(&["spec", "metrics"]), None, "{text}");
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (levels, kept) in [(LEVELS_MAX, true), (LEVELS_MAX + 1, false), (127, false)] {
            let annotations = json!({CONDITIONS: deep(levels), BEHAVIOR: format!("{{\"x\":{}}}", deep(levels - 1))});
            let mut object = Object::from_value(json!({"metadata": {"annotations": annotations}, "spec": {}, "status": {}})).unwrap();
            to_v2(&mut object);
            assert_eq!(object.get(&["status", "conditions"]).is_some(), kept, "{levels}");
            assert_eq!(object.get(&["spec", "behavior"]).is_some(), kept, "{levels}");
        }
    }
}
