//! Objects as trees of owned fields: what fields a value has, what two values have in common, what remains when fields go.
//!
//! All of these walk a value along its [`Shape`]. Fields are those of structured-merge-diff, the library that defines field ownership
//! upstream, so that sets written by either are read alike by the other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, Step, display_path};
use crate::shape::Shape;

/// What differs between two values. A path whose value was added counts, and so does everything below it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
}

/// An applied list whose items cannot be told apart.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListError {
    #[error("{path}: duplicate entries for key {key}")]
    Duplicate { path: String, key: String },
    #[error(
        "{path}: element {index}: associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default \
         values for any key fields)"
    )]
    NoKey { path: String, index: usize, keys: Vec<String> },
}

impl Difference {
    /// Without the fields that the subresource written to does not change.
    pub(super) fn without(self, ignored: &FieldSet) -> Difference {
        Difference {
            added: self.added.without_subtrees(ignored),
            removed: self.removed.without_subtrees(ignored),
            modified: self.modified.without_subtrees(ignored),
        }
    }

    fn put(&mut self, step: Step, (change, below): (Option<Change>, Difference)) {
        let sets = [
            (Change::Added, &mut self.added, below.added),
            (Change::Removed, &mut self.removed, below.removed),
            (Change::Modified, &mut self.modified, below.modified),
        ];
        for (kind, set, below) in sets {
            let member = change == Some(kind);
            if member || !below.is_empty() {
                set.put(step.clone(), member, below);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }
}

/// The items of a list by their steps. Items without keys are told apart by position: they cannot be applied, but can be found in objects.
fn steps(list: &[Value], shape: Shape) -> Vec<Step> {
    list.iter().enumerate().map(|(index, item)| shape.step(item).unwrap_or(Step::Index(index as u64))).collect()
}

fn grouped<'a>(list: &'a [Value], shape: Shape) -> BTreeMap<Step, Vec<&'a Value>> {
    let mut items: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for (step, item) in steps(list, shape).into_iter().zip(list) {
        items.entry(step).or_default().push(item);
    }
    items
}

fn is_empty_container(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Checks the lists of a configuration before it is applied.
pub(super) fn check_lists(value: &Value, shape: Shape, path: &mut Vec<Step>) -> Result<(), ListError> {
    if let Some(map) = shape.map(value) {
        for (key, value) in map {
            path.push(Step::field(key));
            check_lists(value, shape.field(key).0, path)?;
            path.pop();
        }
    } else if let Some(list) = shape.list(value) {
        let mut seen = BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let step = shape.step(item).ok_or_else(|| ListError::NoKey {
                path: display_path(path),
                index,
                keys: shape.keys().into_iter().map(str::to_owned).collect(),
            })?;
            if !seen.insert(step.clone()) {
                return Err(ListError::Duplicate { path: display_path(path), key: step.to_string() });
            }
            path.push(step);
            check_lists(item, shape.item(), path)?;
            path.pop();
        }
    }
    Ok(())
}

/// The places of lists and maps that the schema does not divide.
pub(super) fn wholes(value: &Value, shape: Shape, at: &str, found: &mut Vec<String>) {
    if let Some(map) = shape.map(value) {
        for (key, value) in map {
            let (shape, named) = shape.field(key);
            // Below what the schema does not name nothing is said.
            if named {
                wholes(value, shape, &format!("{at}.{key}"), found);
            }
        }
    } else if let Some(list) = shape.list(value) {
        list.iter().enumerate().for_each(|(index, item)| wholes(item, shape.item(), &format!("{at}[{index}]"), found));
    } else if value.is_array() || value.is_object() {
        found.push(at.to_owned());
    }
}

/// The fields that a configuration speaks of: its leaves, the items of its lists, and what it leaves empty.
pub(super) fn field_set(value: &Value, shape: Shape) -> FieldSet {
    let mut set = FieldSet::new();
    if let Some(map) = shape.map(value) {
        for (key, value) in map {
            let (shape, named) = shape.field(key);
            let leaf = is_leaf(value, shape);
            set.put(Step::field(key), leaf || !named || is_empty_container(value), field_set(value, shape));
        }
    } else if let Some(list) = shape.list(value) {
        // Items that cannot be told apart are owned together, and not looked into.
        for (step, items) in grouped(list, shape) {
            let below = if let [item] = items[..] { field_set(item, shape.item()) } else { FieldSet::new() };
            set.put(step, true, below);
        }
    }
    set
}

fn is_leaf(value: &Value, shape: Shape) -> bool {
    shape.map(value).is_none() && shape.list(value).is_none()
}

/// The set with every named field on the way to one of its paths. Fields of maps are left as they are: nobody owns a label map by owning a label.
pub(super) fn with_named_fields(set: &FieldSet, shape: Shape) -> FieldSet {
    let mut all = FieldSet::new();
    for (step, member, below) in set.steps() {
        let (below_shape, named) = match step {
            Step::Field(name) => shape.field(name),
            Step::Key(_) | Step::Value(_) | Step::Index(_) => (shape.item(), false),
        };
        all.put(step.clone(), member || named && !below.is_empty(), with_named_fields(below, below_shape));
    }
    all
}

/// What differs between two objects; `None` where there is no object.
pub(super) fn compare(old: Option<&Map<String, Value>>, new: &Map<String, Value>, shape: Shape) -> Difference {
    walk_maps(old, Some(new), shape)
}

/// What became of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Removed,
    Modified,
}

/// What became of the path that has these values, and what differs below it.
fn walk(old: Option<&Value>, new: Option<&Value>, shape: Shape) -> (Option<Change>, Difference) {
    // Between two empty containers, or nothing and an empty one, there is no inside to look at.
    let divided = |value: Option<&Value>| value.is_some_and(|value| !is_leaf(value, shape) && !is_empty_container(value));
    if !divided(old) && !divided(new) {
        return (change(old, new), Difference::default());
    }
    let (old_map, new_map) = (old.and_then(|old| shape.map(old)), new.and_then(|new| shape.map(new)));
    let below = if old_map.is_some() || new_map.is_some() {
        walk_maps(old_map, new_map, shape)
    } else {
        let (old, new) = (old.and_then(|old| shape.list(old)), new.and_then(|new| shape.list(new)));
        walk_lists(old.map_or(&[], Vec::as_slice), new.map_or(&[], Vec::as_slice), shape)
    };
    // A container that comes or goes is itself a path, besides what is in it; so is one that takes the place of something else.
    let same_form = old
        .zip(new)
        .is_some_and(|(old, new)| is_leaf(old, shape) == is_leaf(new, shape) || is_empty_container(old) || is_empty_container(new));
    (if same_form { None } else { change(old, new) }, below)
}

fn change(old: Option<&Value>, new: Option<&Value>) -> Option<Change> {
    match (old, new) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        (old, new) => (old != new).then_some(Change::Modified),
    }
}

fn walk_maps(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, shape: Shape) -> Difference {
    let mut found = Difference::default();
    let keys = old.into_iter().flatten().map(|(key, _)| key);
    let only_new = new.into_iter().flatten().map(|(key, _)| key).filter(|key| !old.is_some_and(|old| old.contains_key(*key)));
    for key in keys.chain(only_new) {
        let (old, new) = (old.and_then(|old| old.get(key)), new.and_then(|new| new.get(key)));
        if old != new {
            found.put(Step::field(key), walk(old, new, shape.field(key).0));
        }
    }
    found
}

fn walk_lists(old: &[Value], new: &[Value], shape: Shape) -> Difference {
    let mut found = Difference::default();
    let (mut old, mut new) = (grouped(old, shape), grouped(new, shape));
    let all: BTreeSet<Step> = old.keys().chain(new.keys()).cloned().collect();
    for step in all {
        let (old, new) = (old.remove(&step).unwrap_or_default(), new.remove(&step).unwrap_or_default());
        if old.len() <= 1 && new.len() <= 1 {
            found.put(step, walk(old.first().copied(), new.first().copied(), shape.item()));
        } else if old != new {
            // Items that cannot be told apart are owned together.
            let change = if old.is_empty() { Change::Added } else { Change::Modified };
            found.put(step, (Some(change), Difference::default()));
        }
    }
    found
}

/// The live value with the applied one laid over it. Lists keep the order of the configuration; items that it does not name keep their
/// place among the live ones.
pub(super) fn merge(live: Option<&Value>, applied: &Value, shape: Shape) -> Value {
    let Some(live) = live else { return applied.clone() };
    if let Some(applied) = shape.map(applied) {
        let mut merged = live.as_object().cloned().unwrap_or_default();
        for (key, value) in applied {
            let value = merge(merged.get(key), value, shape.field(key).0);
            merged.insert(key.clone(), value);
        }
        return Value::Object(merged);
    }
    match (shape.list(live), shape.list(applied)) {
        (Some(live), Some(applied)) => Value::Array(merge_lists(live, applied, shape)),
        _ => applied.clone(),
    }
}

fn merge_lists(live: &[Value], applied: &[Value], shape: Shape) -> Vec<Value> {
    let live_items = grouped(live, shape);
    let applied_steps = steps(applied, shape);
    let in_applied: BTreeSet<&Step> = applied_steps.iter().collect();
    let merge_item = |item: &Value, step: &Step| match live_items.get(step).map(Vec::as_slice) {
        Some([live]) => merge(Some(live), item, shape.item()),
        // Where several live items share the key, the applied one replaces them all.
        _ => item.clone(),
    };
    let mut shared = applied_steps.iter().filter(|step| live_items.contains_key(*step)).peekable();
    let mut rest = applied.iter().zip(&applied_steps);
    let mut out = Vec::with_capacity(live.len() + applied.len());
    for (item, step) in live.iter().zip(&steps(live, shape)) {
        if !in_applied.contains(step) {
            out.push(item.clone());
        } else if shared.peek() == Some(&step) {
            // The next of the items in both lists: what the configuration has up to it takes its place here.
            shared.next();
            for (item, applied_step) in rest.by_ref() {
                out.push(merge_item(item, applied_step));
                if applied_step == step {
                    break;
                }
            }
        }
    }
    out.extend(rest.map(|(item, step)| merge_item(item, step)));
    out
}

/// The value without the paths of the set; `None` where that leaves an emptied container.
pub(super) fn remove(value: &Value, gone: &FieldSet, shape: Shape) -> Option<Value> {
    if let Some(map) = shape.map(value).filter(|map| !map.is_empty()) {
        let keep = |(key, value): (&String, &Value)| {
            let step = Step::field(key);
            if gone.has(&step) {
                return None;
            }
            let value = match gone.below(&step) {
                Some(below) => remove(value, below, shape.field(key).0)?,
                None => value.clone(),
            };
            Some((key.clone(), value))
        };
        let map: Map<String, Value> = map.iter().filter_map(keep).collect();
        return (!map.is_empty()).then_some(Value::Object(map));
    }
    if let Some(list) = shape.list(value).filter(|list| !list.is_empty()) {
        let keep = |(item, step): (&Value, &Step)| {
            if gone.has(step) {
                return None;
            }
            match gone.below(step) {
                Some(below) => remove(item, below, shape.item()),
                None => Some(item.clone()),
            }
        };
        let list: Vec<Value> = list.iter().zip(&steps(list, shape)).filter_map(keep).collect();
        return (!list.is_empty()).then_some(Value::Array(list));
    }
    Some(value.clone())
}
