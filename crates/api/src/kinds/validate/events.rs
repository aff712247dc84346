//! Events, as core/v1 and as events.k8s.io/v1 (core/validation/events.go). Faults are told at the fields of core/v1, as upstream does in both
//! (but for the controller, which it calls as the client does).

use serde_json::Value;

use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

/// Where core/v1 and events.k8s.io/v1 keep the same.
struct View {
    involved: &'static str,
    controller: &'static str,
    note: &'static str,
}

const CORE: View = View { involved: "involvedObject", controller: "reportingComponent", note: "message" };
const NEW: View = View { involved: "regarding", controller: "reportingController", note: "note" };

/// Bytes of the words and of the note of an event.
const WORD_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

pub(in crate::kinds) fn core_event(object: &Object) -> FieldErrors {
    event(object, &CORE)
}

pub(in crate::kinds) fn new_event(object: &Object) -> FieldErrors {
    let mut errors = event(object, &NEW);
    if let Some(series) = object.get(&["series"]) {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            errors.push(FieldError::invalid("series.count", &"".into(), "should be at least 2"));
        }
        if series["lastObservedTime"].is_null() {
            errors.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
    errors
}

/// What every event must be. Those that have a time of their own are of the newer sort, of which more is asked.
fn event(object: &Object, view: &View) -> FieldErrors {
    let mut errors = Vec::new();
    let (involved, own) = (object.str(&[view.involved, "namespace"]), object.namespace());
    let is_new = object.get(&["eventTime"]).is_some();
    // Events about objects without a namespace are kept in one of these.
    let fits = match (involved.is_empty(), is_new) {
        (true, true) => ["default", "kube-system"].contains(&own),
        (true, false) => ["", "default"].contains(&own),
        (false, true) => true,
        (false, false) => involved == own,
    };
    if !fits {
        errors.push(FieldError::invalid("involvedObject.namespace", &involved.into(), "does not match event.namespace"));
    }
    if !is_new {
        return errors;
    }
    let controller = object.str(&[view.controller]);
    if controller.is_empty() {
        errors.push(FieldError::required(view.controller, ""));
    }
    let wrong = names::qualified_name(controller);
    errors.extend(wrong.iter().map(|reason| FieldError::invalid(view.controller, &controller.into(), reason)));
    for key in ["reportingInstance", "action", "reason"] {
        if object.str(&[key]).is_empty() {
            errors.push(FieldError::required(key, ""));
        }
        long(object.str(&[key]), key, WORD_BYTES_MAX, &mut errors);
    }
    long(object.str(&[view.note]), "message", NOTE_BYTES_MAX, &mut errors);
    errors
}

fn long(text: &str, at: &str, most: usize, errors: &mut FieldErrors) {
    if text.len() > most {
        errors.push(FieldError::invalid(at, &"".into(), &format!("can have at most {most} characters")));
    }
}

/// (the name in core/v1, the name in events.k8s.io/v1) of what only older clients write.
const OLD: [(&str, &str); 4] = [
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("source", "deprecatedSource"),
];

/// What is asked of those that are made through events.k8s.io.
pub(in crate::kinds) fn new_event_creation(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    if object.get(&["eventTime"]).is_none() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let ty = object.str(&["type"]);
    if !["Normal", "Warning"].contains(&ty) {
        errors.push(FieldError::invalid("type", &"".into(), &format!("has invalid value: {ty}")));
    }
    for (core, _) in OLD.into_iter().filter(|(_, new)| !object.get(&[new]).is_none_or(unset)) {
        errors.push(FieldError::invalid(core, &"".into(), "needs to be unset"));
    }
    errors
}

/// What Go's clients send for what they do not set.
fn unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.values().all(|text| text == ""),
        _ => false,
    }
}

/// Only its series may go on; what an event tells has happened.
pub(in crate::kinds) fn new_event_change(new: &Object, old: &Object) -> FieldErrors {
    fn given<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
        object.get(&[key]).filter(|value| !unset(value))
    }
    let same = ["reason", "type", "eventTime", "action", "related", "reportingController", "reportingInstance"];
    let fixed = [("involvedObject", "regarding"), ("message", "note")].into_iter().chain(OLD).chain(same.map(|key| (key, key)));
    let changed = fixed.filter(|(_, key)| given(new, key) != given(old, key));
    changed.map(|(core, key)| FieldError::invalid(core, new.get(&[key]).unwrap_or(&Value::Null), "field is immutable")).collect()
}
