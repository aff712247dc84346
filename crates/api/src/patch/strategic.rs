//! Strategic merge patch: a merge patch that knows which lists are merged, and by what key.
//!
//! Directives stand among the data: `$patch: delete|replace|merge` in a map or an item, `$retainKeys: […]` in a map,
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>` beside a list. What is merged follows the `patchStrategy` and
//! `patchMergeKey` of the field table; any other list is replaced whole.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::does_not_fit;
use crate::kind::Kind;
use crate::object::Object;
use crate::schema::{Field, Label, Message, Schema, Type};
use crate::status::{Status, bad_request, unsupported_media_type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// What the schema knows of a map.
#[derive(Clone, Copy)]
enum Place {
    Struct(&'static Message),
    /// The values of a map.
    Values(Type),
    Unknown,
}

/// What the schema knows of a field of it.
#[derive(Clone, Copy)]
struct Member {
    /// Of the value, or of the items of the list.
    place: Place,
    merge: bool,
    replace: bool,
    /// Empty where the items are their own keys.
    key: &'static str,
}

pub(super) fn apply(object: &Object, patch: &Value, kind: &Kind) -> Result<Object, Status> {
    let Some(id) = kind.message else {
        return Err(unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ]));
    };
    let Value::Object(patch) = patch else { return Err(bad_request("a strategic merge patch is a JSON object")) };
    let merged = merge_map(object.0.clone(), patch, Place::Struct(Schema::get().by_id(id)))?;
    Ok(Object(merged))
}

impl Place {
    fn of(ty: Type) -> Place {
        match ty {
            Type::Message(id) => Place::Struct(Schema::get().by_id(id)),
            _ => Place::Unknown,
        }
    }

    fn member(self, key: &str) -> Member {
        let plain = |place| Member { place, merge: false, replace: false, key: "" };
        match self {
            Place::Struct(message) => match message.field(key) {
                Some(field) => Member::of(field),
                None => plain(Place::Unknown),
            },
            Place::Values(ty) => plain(Place::of(ty)),
            Place::Unknown => plain(Place::Unknown),
        }
    }
}

impl Member {
    fn of(field: &'static Field) -> Member {
        let place = if field.label == Label::Map { Place::Values(field.ty) } else { Place::of(field.ty) };
        Member { place, merge: field.patch_merge, replace: field.patch_replace, key: field.merge_key }
    }
}

fn merge_map(mut live: Map<String, Value>, patch: &Map<String, Value>, place: Place) -> Result<Map<String, Value>, Status> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or("")) {
        None | Some("merge") => (),
        Some("replace") => return Ok(without_directives_in_map(patch)),
        Some("delete") => return Ok(Map::new()),
        Some(_) => return Err(does_not_fit(&format!("unknown patch type found: {}", patch[PATCH]))),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut live, patch, keys)?;
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM_PREFIX) {
            delete_from_list(&mut live, field, value)?;
        } else if let Some(field) = key.strip_prefix(ORDER_PREFIX) {
            // Beside a change of the list itself, the order is applied with it.
            if !patch.contains_key(field) && !patch.contains_key(&format!("{DELETE_FROM_PREFIX}{field}")) {
                order_only(&mut live, field, value, place.member(field))?;
            }
        } else if value.is_null() {
            live.remove(key);
        } else {
            let order = patch.get(&format!("{ORDER_PREFIX}{key}"));
            let merged = merge_value(live.remove(key), value, place.member(key), order)?;
            live.insert(key.clone(), merged);
        }
    }
    // Values deleted from a list leave the rest in the order that the client wants.
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER_PREFIX)
            && patch.contains_key(&format!("{DELETE_FROM_PREFIX}{field}"))
        {
            order_only(&mut live, field, order, place.member(field))?;
        }
    }
    Ok(live)
}

fn merge_value(live: Option<Value>, patch: &Value, member: Member, order: Option<&Value>) -> Result<Value, Status> {
    match (live, patch) {
        (Some(Value::Object(live)), Value::Object(patch)) if !member.replace => merge_map(live, patch, member.place).map(Value::Object),
        (Some(Value::Array(live)), Value::Array(patch)) if member.merge => merge_list(live, patch, member, order).map(Value::Array),
        (None, Value::Array(patch)) if member.merge => merge_list(Vec::new(), patch, member, order).map(Value::Array),
        (None, Value::Object(patch)) if !member.replace => merge_map(Map::new(), patch, member.place).map(Value::Object),
        _ => Ok(without_directives(patch)),
    }
}

/// Drops the keys that the client does not list: one of several alternatives (an update strategy, a volume source) takes the place of another.
fn retain_keys(live: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Result<(), Status> {
    let wrong = || bad_request("invalid patch format of retainKeys");
    let keys: Vec<&str> = keys.as_array().ok_or_else(wrong)?.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(wrong)?;
    let data = patch.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    if data.into_iter().any(|(key, _)| !keys.contains(&key.as_str())) {
        return Err(wrong());
    }
    live.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn delete_from_list(live: &mut Map<String, Value>, field: &str, gone: &Value) -> Result<(), Status> {
    let gone = gone.as_array().ok_or_else(|| bad_request("invalid patch format of primitive list"))?;
    if let Some(Value::Array(list)) = live.get_mut(field) {
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn order_only(live: &mut Map<String, Value>, field: &str, order: &Value, member: Member) -> Result<(), Status> {
    if let Some(Value::Array(list)) = live.remove(field) {
        let merged = merge_list(list, &[], member, Some(order))?;
        live.insert(field.to_owned(), Value::Array(merged));
    }
    Ok(())
}

fn merge_list(live: Vec<Value>, patch: &[Value], member: Member, order: Option<&Value>) -> Result<Vec<Value>, Status> {
    let keyed = patch.iter().chain(&live).any(Value::is_object);
    if keyed && member.key.is_empty() {
        return Err(bad_request("cannot merge lists without merge key"));
    }
    let key = if keyed { member.key } else { "" };
    let mut items: Vec<&Value> = Vec::with_capacity(patch.len());
    let mut deleted = BTreeSet::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|directive| directive.as_str().unwrap_or("")) {
            None => items.push(item),
            Some("delete") => drop(deleted.insert(key_of(item, key)?)),
            Some("replace") => replace = true,
            Some("merge") => return Err(does_not_fit("merging lists cannot yet be specified in the patch")),
            Some(_) => return Err(does_not_fit(&format!("unknown patch type found: {}", item[PATCH]))),
        }
    }
    if replace {
        return Ok(items.into_iter().map(without_directives).collect());
    }
    let mut merged: Vec<Value> =
        live.iter().filter(|item| key_of(item, key).map_or(true, |key| !deleted.contains(&key))).cloned().collect();
    let mut index = positions(merged.iter(), key);
    for item in &items {
        match index.entry(key_of(item, key)?) {
            Entry::Occupied(at) => {
                let slot = &mut merged[*at.get()];
                *slot = merge_value(Some(std::mem::take(slot)), item, member, None)?;
            }
            Entry::Vacant(new) => {
                new.insert(merged.len());
                merged.push(merge_value(None, item, member, None)?);
            }
        }
    }
    match order {
        Some(Value::Array(order)) => Ok(arrange(merged, &positions(order.iter(), key), &positions(live.iter(), key), key)),
        Some(_) => Err(bad_request("invalid patch format of setElementOrder list")),
        None => Ok(arrange(merged, &positions(items.into_iter(), key), &positions(live.iter(), key), key)),
    }
}

/// What tells an item from the others, as JSON: the item itself, or its merge key.
fn key_of(item: &Value, key: &str) -> Result<String, Status> {
    if key.is_empty() {
        return Ok(item.to_string());
    }
    let value = item.get(key).ok_or_else(|| bad_request(format!("map: {item} does not contain declared merge key: {key}")))?;
    Ok(value.to_string())
}

/// Where each key stands first.
fn positions<'a>(list: impl Iterator<Item = &'a Value>, key: &str) -> BTreeMap<String, usize> {
    let mut positions = BTreeMap::new();
    for (at, item) in list.enumerate() {
        if let Ok(key) = key_of(item, key) {
            positions.entry(key).or_insert(at);
        }
    }
    positions
}

/// Puts the items that the client knows of into its order, and those that only the server knows among them, each before the first item
/// that comes after it in the live list. So items new in a patch without an order stand first, as upstream.
fn arrange(items: Vec<Value>, order: &BTreeMap<String, usize>, live: &BTreeMap<String, usize>, key: &str) -> Vec<Value> {
    let place = |list: &BTreeMap<String, usize>, item: &Value| list.get(&key_of(item, key).ok()?).copied();
    let (mut ours, servers): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|item| place(order, item).is_some());
    ours.sort_by_cached_key(|item| place(order, item));
    let mut arranged = Vec::with_capacity(ours.len() + servers.len());
    let mut ours = ours.into_iter().peekable();
    for item in servers {
        let at = place(live, &item);
        while ours.peek().is_some_and(|next| place(live, next) <= at) {
            arranged.extend(ours.next());
        }
        arranged.push(item);
    }
    arranged.extend(ours);
    arranged
}

fn without_directives(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives_in_map(map)),
        Value::Array(list) => list.iter().filter(|item| item.get(PATCH).is_none()).map(without_directives).collect(),
        other => other.clone(),
    }
}

/// The data of a patch: no directives, and no nulls, which only say what to delete.
fn without_directives_in_map(map: &Map<String, Value>) -> Map<String, Value> {
    let is_directive =
        |key: &str| key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM_PREFIX) || key.starts_with(ORDER_PREFIX);
    map.iter()
        .filter(|(key, value)| !is_directive(key) && !value.is_null())
        .map(|(key, value)| (key.clone(), without_directives(value)))
        .collect()
}
