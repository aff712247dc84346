//! How columns are written in a row.

use serde_json::Value;

use crate::kind::{Cell, CellFn, Column};
use crate::object::Object;
use crate::time;

fn column(name: &'static str, ty: &'static str, priority: i32, cell: CellFn) -> Column {
    Column { name: name.into(), ty: ty.into(), format: "".into(), priority, description: "".into(), cell: Cell::Computed(cell) }
}

pub(crate) fn name() -> Column {
    Column {
        format: "name".into(),
        description: "Name of the object, unique within its namespace.".into(),
        ..column("Name", "string", 0, |object, _| object.name().into())
    }
}

pub(super) fn age() -> Column {
    Column {
        description: "Time since the server created the object.".into(),
        ..column("Age", "string", 0, |object, now| time::age(object.creation_timestamp(), now).into())
    }
}

pub(super) fn text(name: &'static str, cell: CellFn) -> Column {
    column(name, "string", 0, cell)
}

pub(super) fn int(name: &'static str, cell: CellFn) -> Column {
    column(name, "integer", 0, cell)
}

pub(super) fn boolean(name: &'static str, cell: CellFn) -> Column {
    column(name, "boolean", 0, cell)
}

/// Shown with `-o wide` only.
pub(super) fn wide(name: &'static str, cell: CellFn) -> Column {
    column(name, "string", 1, cell)
}

/// An integer where 0 is written as nothing in JSON.
pub(super) fn count(object: &Object, path: &[&str]) -> Value {
    object.int(path).unwrap_or(0).into()
}

pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// `a=b,c=d`, or `<none>`
pub(super) fn format_labels(labels: Option<&Value>) -> Value {
    let pairs: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    or_none(&pairs.join(","))
}

/// A metav1.LabelSelector in its query form, or `<none>`.
pub(super) fn format_selector(selector: Option<&Value>) -> Value {
    let Some(selector) = selector else { return "<none>".into() };
    match crate::select::LabelSelector::from_value(selector) {
        Ok(selector) => or_none(&selector.to_string()),
        Err(_) => "<error>".into(),
    }
}

/// The names and images of a template's containers.
pub(super) fn containers(object: &Object, spec: &[&str], key: &str) -> Value {
    let path: Vec<&str> = spec.iter().chain(&["containers"]).copied().collect();
    let list: Vec<&str> = object.list(&path).iter().filter_map(|container| container[key].as_str()).collect();
    list.join(",").into()
}

/// The wide columns of everything that makes pods from a template.
pub(super) fn template() -> [Column; 2] {
    [
        wide("Containers", |o, _| containers(o, &["spec", "template", "spec"], "name")),
        wide("Images", |o, _| containers(o, &["spec", "template", "spec"], "image")),
    ]
}

pub(super) fn template_and_selector() -> [Column; 3] {
    let [containers, images] = template();
    [containers, images, wide("Selector", |o, _| format_selector(o.get(&["spec", "selector"])))]
}

/// How many entries a map or list has.
pub(super) fn len(object: &Object, path: &[&str]) -> usize {
    match object.get(path) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}
