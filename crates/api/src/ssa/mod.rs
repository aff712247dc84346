//! Server-side apply and field ownership.
//!
//! Every write is recorded in `metadata.managedFields`: which manager, by which operation, through which subresource, owns which fields.
//! An update takes the fields that it changed. An apply says what its manager wants to own: fields that others own with another value are
//! conflicts; fields that the manager applied before and no longer does, and that nobody else owns, are removed.
//!
//! Both are functions of the live object, the new one and the schema. Who the manager is, and whether the write goes through, is the caller's.

mod fieldset;
mod managed;
mod scale;
mod tree;

#[cfg(test)]
mod tests;

pub use fieldset::{FieldSet, ParseFieldsError, Step};
pub use scale::{scale_owners, take_scale_owners};

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::object::Object;
use crate::shape::Shape;
use crate::status::{Cause, Details, Status, bad_request, internal};
use managed::{Owner, Owners};
use tree::Difference;

/// How an object was written, as managedFields records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// Not a part of the object as far as ownership goes.
static MANAGED: LazyLock<FieldSet> = LazyLock::new(|| [vec![Step::field("metadata"), Step::field("managedFields")]].into_iter().collect());

/// The manager that owns what was in an object of unknown owners before it was first applied to.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager name of `kubectl apply --server-side`, which takes over the objects of `kubectl apply`.
const KUBECTL: &str = "kubectl";

/// Where `kubectl apply` keeps the configuration that it applied last.
const LAST_APPLIED: [&str; 3] = ["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];

/// The longest last-applied annotation that is written: all annotations together may have 256 KiB (apimachinery, TotalAnnotationSizeLimitB).
const LAST_APPLIED_BYTES_MAX: usize = 256 << 10;

/// Fields that identify an object or that only the server writes: nobody owns them.
static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    let metadata =
        ["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"];
    let top = ["apiVersion", "kind", "metadata"].map(|name| vec![Step::field(name)]);
    top.into_iter().chain(metadata.map(|name| vec![Step::field("metadata"), Step::field(name)])).collect()
});

/// Merges an applied configuration into the live object (`None`: there is none yet) and moves the ownership of its fields.
///
/// The result carries the live object's identity; where the configuration changes nothing it equals `live`. `subresource` is empty for the
/// object itself. Conflicts are a 409 with one cause for each field.
pub fn apply(
    live: Option<&Object>,
    applied: &Object,
    kind: &Kind,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Timestamp,
) -> Result<Object, Status> {
    if applied.get(&["metadata", "managedFields"]).is_some_and(|managed| !managed.is_null()) {
        return Err(bad_request("metadata.managedFields must be nil"));
    }
    let write = Write { kind, shape: Shape::of_kind(kind), manager, subresource, now };
    let mut applied = applied.clone();
    drop_nulls(&mut applied.0);
    let configuration = Value::Object(applied.0);
    tree::check_lists(&configuration, write.shape, &mut Vec::new()).map_err(|error| {
        let (name, namespace) = (metadata_text(&configuration, "name"), metadata_text(&configuration, "namespace"));
        let place = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let group_version = kind.api_version();
        bad_request(format!("failed to create typed patch object ({place}; {group_version}, Kind={}): {error}", kind.kind))
    })?;

    let known = live.map_or(Ok(Owners::default()), stored_owners)?;
    let mut outcome = write.apply(live, &known, &configuration, force);
    if let (Err(conflicts), true, Some(live)) = (&mut outcome, manager == KUBECTL, live) {
        let allowed = write.client_side_applied(live);
        conflicts.retain_mut(|conflict| conflict.forgive(&allowed));
        if conflicts.is_empty() {
            outcome = write.apply(Some(live), &known, &configuration, true);
        }
    }
    let object = outcome.map_err(|conflicts| conflict_status(&conflicts))?;
    Ok(write.keep_last_applied(live, object, &configuration))
}

/// Merges what a policy wants set into an object, as an apply would, and leaves the owners of its fields alone. What the schema takes as a whole
/// cannot be set: a policy that knows one entry of it would remove the others (apiserver, policy/mutating/patch/smd.go).
pub fn merge(object: &Object, patch: &Object, kind: &Kind) -> Result<Object, String> {
    let (shape, patch) = (Shape::of_kind(kind), Value::Object(patch.0.clone()));
    tree::check_lists(&patch, shape, &mut Vec::new())
        .map_err(|error| format!("failed to convert patch object to typed object: {error}"))?;
    let mut wholes = Vec::new();
    tree::wholes(&patch, shape, "", &mut wholes);
    if !wholes.is_empty() {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", wholes.join(", ")));
    }
    let Value::Object(merged) = tree::merge(Some(&Value::Object(object.0.clone())), &patch, shape) else {
        unreachable!("a merge of maps is a map")
    };
    Ok(Object(merged))
}

/// Records in `new.metadata.managedFields` that `manager` wrote what differs from `old` (`None`: created). Untouched where nothing differs.
///
/// Managed fields that the client sent stand, as upstream: sending an empty list or one empty entry forgets all owners.
pub fn track_update(
    old: Option<&Object>,
    new: &mut Object,
    kind: &Kind,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: Timestamp,
) {
    let write = Write { kind, shape: Shape::of_kind(kind), manager, subresource, now };
    let sent = take_managed(new).filter(|_| subresource.is_empty());
    let known = || old.map_or(Ok(Owners::default()), owners).unwrap_or_default();
    let mut owners = match Owners::decode(sent.as_ref()) {
        _ if managed::is_reset(sent.as_ref()) => Owners::default(),
        Ok(sent) if !sent.is_empty() => sent,
        // A client that does not know managedFields, or sends some that cannot be read, does not thereby delete them.
        _ => known(),
    };
    let changes = write.difference(old.map(|old| &old.0), &new.0);
    if !changes.is_empty() {
        write.own_changes(&mut owners, &changes, operation);
    }
    put_managed(new, &owners);
}

/// Whether the record of who owns which fields can be read; the error says what is wrong with it.
pub fn check_managed(object: &Object) -> Result<(), String> {
    owners(object).map(drop)
}

/// Who owns which fields of an object.
fn owners(object: &Object) -> Result<Owners, String> {
    Owners::decode(object.get(&["metadata", "managedFields"]))
}

/// Those of a stored object, for a write that depends on them. An update starts anew from a record that cannot be read; such a write is refused
/// until somebody resets the record, as upstream.
fn stored_owners(object: &Object) -> Result<Owners, Status> {
    owners(object).map_err(|fault| internal(format!("failed to decode managed fields: {fault}")))
}

/// One write, and what it is done through.
struct Write<'a> {
    kind: &'a Kind,
    shape: Shape<'a>,
    manager: &'a str,
    subresource: &'a str,
    now: Timestamp,
}

/// Fields that an apply wants to set and somebody else owns.
struct Conflict {
    owner: Owner,
    fields: FieldSet,
}

impl Conflict {
    /// Whether a conflict is left without these fields.
    fn forgive(&mut self, allowed: &FieldSet) -> bool {
        self.fields = self.fields.difference(allowed);
        !self.fields.is_empty()
    }
}

impl Write<'_> {
    fn owner(&self, operation: Operation) -> Owner {
        Owner::new(self.manager, operation, &self.kind.api_version(), self.subresource)
    }

    /// What this write cannot change: the status through the object itself, anything else through the status.
    fn ignored(&self) -> FieldSet {
        let status: &[&str] = if self.kind.has_status { &["status"] } else { &[] };
        let (some, more): (&[&str], &[&str]) = match self.subresource {
            "" => (status, self.kind.strategy.resets),
            "status" => (&["spec"], &[]),
            _ => (&[], &[]),
        };
        some.iter().chain(more).map(|name| vec![Step::field(name)]).collect()
    }

    fn difference(&self, old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Difference {
        tree::compare(old, new, self.shape).without(&MANAGED).without(&self.ignored())
    }

    /// Gives the fields that an update changed to its manager.
    fn own_changes(&self, owners: &mut Owners, changes: &Difference, operation: Operation) {
        let owner = self.owner(operation);
        let written = changes.added.union(&changes.modified);
        let known = owners.fields(&owner).cloned().unwrap_or_default();
        owners.take_from_others(&written.union(&changes.removed), &owner);
        let gained = written.difference(&NEVER_OWNED);
        let kept = known.difference(&changes.removed);
        // Giving fields up is not worth a new time, as upstream.
        if !gained.is_empty() {
            owners.put(owner, &self.kind.api_version(), kept.union(&gained), self.now);
        } else if let Some(owned) = owners.0.get_mut(&owner) {
            owned.fields = kept;
        }
        owners.strip(&NEVER_OWNED);
        owners.cap();
    }

    fn apply(&self, live: Option<&Object>, known: &Owners, configuration: &Value, force: bool) -> Result<Object, Vec<Conflict>> {
        let owner = self.owner(Operation::Apply);
        let before = live.map(|live| without_managed(live.clone()));
        let before_map = before.as_ref().and_then(Value::as_object);
        let mut owners = known.clone();
        if let (true, Some(before)) = (owners.is_empty(), before_map) {
            let first = Write { manager: BEFORE_FIRST_APPLY, subresource: "", ..*self };
            first.own_changes(&mut owners, &tree::compare(None, before, self.shape), Operation::Update);
        }

        let last = owners.fields(&owner).cloned();
        let fields = tree::field_set(configuration, self.shape).without_subtrees(&self.ignored());
        let merged = tree::merge(before.as_ref(), configuration, self.shape);
        // The name is among these fields until the end, and keeps the metadata from being pruned.
        owners.put(owner.clone(), &self.kind.api_version(), fields, self.now);
        let result = match last {
            Some(last) => self.prune(merged, &last, &owners),
            None => merged,
        };

        let Value::Object(map) = result else { unreachable!("a merge of maps is a map") };
        let changes = self.difference(before_map, &map);
        let written = changes.added.union(&changes.modified);
        let conflicts: Vec<Conflict> = owners
            .0
            .iter()
            .filter(|(other, _)| **other != owner)
            .map(|(other, owned)| Conflict { owner: other.clone(), fields: owned.fields.intersection(&written) })
            .filter(|conflict| !conflict.fields.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(conflicts);
        }
        owners.take_from_others(&written.union(&changes.removed), &owner);
        owners.strip(&NEVER_OWNED);
        owners.cap();
        self.keep_time(&mut owners, known, &owner, changes.is_empty());

        let mut object = Object(map);
        put_managed(&mut object, &owners);
        Ok(object)
    }

    /// An apply that changes neither the object nor what its manager owns leaves no trace.
    fn keep_time(&self, owners: &mut Owners, known: &Owners, owner: &Owner, unchanged: bool) {
        let (Some(now), Some(then)) = (owners.0.get_mut(owner), known.0.get(owner)) else { return };
        if unchanged && now.fields == then.fields {
            now.time.clone_from(&then.time);
        }
    }

    /// Removes what the manager applied last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, last: &FieldSet, owners: &Owners) -> Value {
        let named = |set: &FieldSet| tree::with_named_fields(set, self.shape);
        let all = named(&tree::field_set(&merged, self.shape));
        let last = named(last);
        let owned = owners.0.values().fold(FieldSet::new(), |all, owned| all.union(&owned.fields));
        let empty = || Value::Object(Map::new());
        let cut = tree::remove(&merged, &last, self.shape).unwrap_or_else(empty);
        // Cutting a path cuts all below it: what others own there, and what nobody applied, comes back.
        let left = named(&tree::field_set(&cut, self.shape));
        let unowned = all.difference(&left.union(&named(&owned)));
        let owned_back = tree::remove(&merged, &unowned, self.shape).unwrap_or_else(empty);
        let left = named(&tree::field_set(&owned_back, self.shape));
        let gone = all.difference(&left).intersection(&last);
        tree::remove(&merged, &gone, self.shape).unwrap_or_else(empty)
    }

    /// The fields that `kubectl apply` set and that still have its values: `kubectl apply --server-side` may take them.
    fn client_side_applied(&self, live: &Object) -> FieldSet {
        let Some(Ok(last)) = live.get(&LAST_APPLIED).and_then(Value::as_str).map(serde_json::from_str::<Map<String, Value>>) else {
            return FieldSet::new();
        };
        let differs = tree::compare(Some(&last), &live.0, self.shape).without(&MANAGED);
        tree::field_set(&Value::Object(last), self.shape).difference(&differs.modified.union(&differs.removed))
    }

    /// Where `kubectl apply` keeps its last configuration, a server-side apply by kubectl keeps it true.
    fn keep_last_applied(&self, live: Option<&Object>, mut object: Object, configuration: &Value) -> Object {
        let annotated = live.and_then(|live| live.get(&LAST_APPLIED)).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        if self.manager == KUBECTL && self.subresource.is_empty() && annotated {
            let text = format!("{configuration}\n");
            if text.len() <= LAST_APPLIED_BYTES_MAX {
                object.set(&LAST_APPLIED, text.into());
            } else {
                object.remove(&LAST_APPLIED);
            }
        }
        object
    }
}

fn conflict_status(conflicts: &[Conflict]) -> Status {
    let fields: Vec<(String, String)> = conflicts
        .iter()
        .flat_map(|conflict| {
            let owner = conflict.owner.describe();
            conflict.fields.paths().into_iter().map(move |path| (owner.clone(), fieldset::display_path(&path)))
        })
        .collect();
    let causes = fields
        .iter()
        .map(|(owner, field)| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {owner}"),
            field: field.clone(),
        })
        .collect();
    let message = match fields.as_slice() {
        [(owner, field)] => format!("Apply failed with 1 conflict: conflict with {owner}: {field}"),
        many => {
            let mut lines = Vec::new();
            for (n, (owner, field)) in many.iter().enumerate() {
                if n == 0 || many[n - 1].0 != *owner {
                    lines.push(format!("conflicts with {owner}:"));
                }
                lines.push(format!("- {field}"));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
}

fn metadata_text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or("")
}

fn take_managed(object: &mut Object) -> Option<Value> {
    object.remove(&["metadata", "managedFields"])
}

fn without_managed(mut object: Object) -> Value {
    take_managed(&mut object);
    Value::Object(object.0)
}

fn put_managed(object: &mut Object, owners: &Owners) {
    match owners.to_value() {
        Some(entries) => object.set(&["metadata", "managedFields"], entries),
        None => drop(take_managed(object)),
    }
}

/// A null says nothing: a field that is null is a field that is not there.
fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        drop_nulls_below(value);
    }
}

fn drop_nulls_below(value: &mut Value) {
    match value {
        Value::Object(map) => drop_nulls(map),
        Value::Array(list) => list.iter_mut().for_each(drop_nulls_below),
        _ => (),
    }
}
