//! Events: core/v1 and events.k8s.io/v1 are two views of the same stored objects.

use serde_json::Value;

use super::columns::{name, text, wide};
use super::row::row;
use super::validate::events as rules;
use crate::kind::{Converter, Kind};
use crate::object::Object;
use crate::time;

pub(super) fn core_kinds() -> Vec<Kind> {
    vec![selectable(
        row("", "v1", "Event", "events")
            .short(&["ev"])
            .put_creates()
            .named(crate::names::path_segment)
            .default_by(default_event)
            .validate_by(rules::core_event)
            .columns(vec![
                text("Last Seen", last_seen),
                text("Type", |o, _| o.str(&["type"]).into()),
                text("Reason", |o, _| o.str(&["reason"]).into()),
                text("Object", |o, _| involved(o)),
                wide("Subobject", |o, _| o.str(&["involvedObject", "fieldPath"]).into()),
                wide("Source", |o, _| source(o)),
                text("Message", |o, _| o.str(&["message"]).trim().into()),
                wide("First Seen", first_seen),
                wide("Count", |o, _| times(o).to_string().into()),
                Kind::wide_name(),
            ]),
    )]
}

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("events.k8s.io", "v1", "Event", "events")
            .short(&["ev"])
            .put_creates()
            .named(crate::names::path_segment)
            .stored_as("core/events", Converter { to_storage, from_storage })
            .default_by(default_event)
            .validate_by(rules::new_event)
            .validate_creation_by(rules::new_event_creation)
            .validate_change_by(rules::new_event_change)
            .columns(vec![
                text("Last Seen", |o, now| last_seen(&stored(o), now)),
                text("Type", |o, _| o.str(&["type"]).into()),
                text("Reason", |o, _| o.str(&["reason"]).into()),
                text("Object", |o, _| involved(&stored(o))),
                wide("Subobject", |o, _| o.str(&["regarding", "fieldPath"]).into()),
                wide("Source", |o, _| source(&stored(o))),
                text("Message", |o, _| o.str(&["note"]).trim().into()),
                wide("First Seen", |o, now| first_seen(&stored(o), now)),
                wide("Count", |o, _| times(&stored(o)).to_string().into()),
                Kind::wide_name(),
            ])
            .select("reason", |o| o.str(&["reason"]).to_owned())
            .select("regarding.kind", |o| o.str(&["regarding", "kind"]).to_owned())
            .select("regarding.namespace", |o| o.str(&["regarding", "namespace"]).to_owned())
            .select("regarding.name", |o| o.str(&["regarding", "name"]).to_owned())
            .select("regarding.uid", |o| o.str(&["regarding", "uid"]).to_owned())
            .select("regarding.apiVersion", |o| o.str(&["regarding", "apiVersion"]).to_owned())
            .select("regarding.resourceVersion", |o| o.str(&["regarding", "resourceVersion"]).to_owned())
            .select("regarding.fieldPath", |o| o.str(&["regarding", "fieldPath"]).to_owned())
            .select("reportingController", |o| o.str(&["reportingController"]).to_owned())
            .select("type", |o| o.str(&["type"]).to_owned()),
    ]
}

impl Kind {
    fn wide_name() -> crate::kind::Column {
        crate::kind::Column { priority: 1, ..name() }
    }
}

fn selectable(kind: Kind) -> Kind {
    kind.select("involvedObject.kind", |o| o.str(&["involvedObject", "kind"]).to_owned())
        .select("involvedObject.namespace", |o| o.str(&["involvedObject", "namespace"]).to_owned())
        .select("involvedObject.name", |o| o.str(&["involvedObject", "name"]).to_owned())
        .select("involvedObject.uid", |o| o.str(&["involvedObject", "uid"]).to_owned())
        .select("involvedObject.apiVersion", |o| o.str(&["involvedObject", "apiVersion"]).to_owned())
        .select("involvedObject.resourceVersion", |o| o.str(&["involvedObject", "resourceVersion"]).to_owned())
        .select("involvedObject.fieldPath", |o| o.str(&["involvedObject", "fieldPath"]).to_owned())
        .select("reason", |o| o.str(&["reason"]).to_owned())
        .select("reportingComponent", |o| o.str(&["reportingComponent"]).to_owned())
        .select("source", |o| component(o).to_owned())
        .select("type", |o| o.str(&["type"]).to_owned())
}

/// (core/v1, events.k8s.io/v1); every other field has one name.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn to_storage(object: &mut Object) {
    for (core, new) in RENAMED {
        rename(object, new, core);
    }
    object.set_type("v1", "Event");
}

fn from_storage(object: &mut Object) {
    for (core, new) in RENAMED {
        rename(object, core, new);
    }
    object.set_type("events.k8s.io/v1", "Event");
}

fn rename(object: &mut Object, from: &str, to: &str) {
    if let Some(value) = object.0.remove(from) {
        object.0.insert(to.to_owned(), value);
    }
}

fn stored(object: &Object) -> Object {
    let mut object = object.clone();
    to_storage(&mut object);
    object
}

fn default_event(object: &mut Object) {
    if object.namespace().is_empty() {
        object.set(&["metadata", "namespace"], "default".into());
    }
}

fn times(object: &Object) -> i64 {
    let count = object.int(&["series", "count"]).or(object.int(&["count"])).unwrap_or(0);
    count.max(1)
}

fn last_seen(object: &Object, now: jiff::Timestamp) -> Value {
    let candidates = [["series", "lastObservedTime"].as_slice(), &["lastTimestamp"], &["eventTime"], &["firstTimestamp"]];
    first_time(object, &candidates, now)
}

fn first_seen(object: &Object, now: jiff::Timestamp) -> Value {
    first_time(object, &[&["firstTimestamp"], &["eventTime"]], now)
}

fn first_time(object: &Object, candidates: &[&[&str]], now: jiff::Timestamp) -> Value {
    let found = candidates.iter().map(|path| object.str(path)).find(|text| !text.is_empty());
    time::age(found.unwrap_or(""), now).into()
}

fn involved(object: &Object) -> Value {
    let kind = object.str(&["involvedObject", "kind"]).to_lowercase();
    let name = object.str(&["involvedObject", "name"]);
    if name.is_empty() { kind.into() } else { format!("{kind}/{name}").into() }
}

fn component(object: &Object) -> &str {
    let component = object.str(&["source", "component"]);
    if component.is_empty() { object.str(&["reportingComponent"]) } else { component }
}

fn source(object: &Object) -> Value {
    let host = object.str(&["source", "host"]);
    let host = if host.is_empty() { object.str(&["reportingInstance"]) } else { host };
    let component = component(object);
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_views_show_the_same_event() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 3,
            "reason": "r", "reportingComponent": "c", "source": {"component": "c"}});
        let mut object = Object::from_value(core.clone()).unwrap();
        from_storage(&mut object);
        assert_eq!(object.str(&["note"]), "m");
        assert_eq!(object.str(&["regarding", "name"]), "a");
        assert_eq!(object.api_version(), "events.k8s.io/v1");
        to_storage(&mut object);
        assert_eq!(object.into_value(), core);
    }
}
