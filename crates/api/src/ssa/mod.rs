//! Server-side apply and field ownership.
//!
//! Every write is recorded in `metadata.managedFields`: which manager, by which operation, through which subresource, owns which fields.
//! An update takes the fields that it changed. An apply says what its manager wants to own: fields that others own with another value are
//! conflicts; fields that the manager applied before and no longer does, and that nobody else owns, are removed.
//!
//! Both are functions of the live object, the new one and the schema. Who the manager is, and whether the write goes through, is the caller's.
//! Each owner is asked about in the version through which it wrote ([`Versions`]); who speaks of a version that is gone owns nothing any more.

mod conflict;
mod fieldset;
mod kubectl;
mod managed;
mod scale;
mod tree;
mod versions;

#[cfg(test)]
mod tests;

pub use fieldset::{FieldSet, ParseFieldsError, Step};
pub use scale::{scale_owners, take_scale_owners};
pub use versions::{Unmade, Versions, Wanted};

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::object::Object;
use crate::shape::Shape;
use crate::status::{Status, bad_request, internal};
use conflict::{Conflict, Fault};
use managed::{Owned, Owner, Owners};
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
    versions: &Versions<'_>,
    manager: &str,
    force: bool,
    subresource: &str,
    now: Timestamp,
) -> Result<Object, Unmade> {
    let kind = versions.kind;
    if applied.get(&["metadata", "managedFields"]).is_some_and(|managed| !managed.is_null()) {
        return Err(bad_request("metadata.managedFields must be nil").into());
    }
    let write = Write::of(versions, manager, subresource, now);
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
    if let (Err(Fault::Conflicts(conflicts)), true, Some(live)) = (&mut outcome, manager == KUBECTL, live) {
        let allowed = write.client_side_applied(live);
        conflicts.retain_mut(|conflict| conflict.forgive(&allowed));
        if conflicts.is_empty() {
            outcome = write.apply(Some(live), &known, &configuration, true);
        }
    }
    let object = outcome.map_err(|fault| match fault {
        Fault::Conflicts(conflicts) => Unmade::Refused(conflict::to_status(&conflicts)),
        Fault::Unmade(unmade) => unmade,
    })?;
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
/// Managed fields that the client sent stand, as upstream: sending an empty list or one empty entry forgets all owners. Of an object of unknown
/// owners nobody owns anything until it is first applied to (managedfields, skipNonAppliedManager): who changed one field of it would otherwise
/// hide that others wrote the rest.
pub fn track_update(
    old: Option<&Object>,
    new: &mut Object,
    versions: &Versions<'_>,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: Timestamp,
) -> Result<(), Unmade> {
    let write = Write::of(versions, manager, subresource, now);
    let taken = take_managed(new);
    let sent = taken.as_ref().filter(|_| subresource.is_empty());
    let known = || old.map_or(Ok(Owners::default()), owners).unwrap_or_default();
    let mut owners = match Owners::decode(sent) {
        _ if managed::is_reset(sent) => Owners::default(),
        Ok(sent) if !sent.is_empty() => sent,
        // A client that does not know managedFields, or sends some that cannot be read, does not thereby delete them.
        _ => known(),
    };
    if old.is_some() && owners.is_empty() {
        return Ok(());
    }
    write.forget_unknown(&mut owners);
    match write.changes(&owners, old.map(|old| &old.0), &new.0) {
        Ok(changes) => write.own_changes(&mut owners, &changes, operation),
        // To be called again with what was wanted, on the object as it was.
        Err(Unmade::Wanted(wanted)) => {
            if let Some(taken) = taken {
                new.set(&["metadata", "managedFields"], taken);
            }
            return Err(Unmade::Wanted(wanted));
        }
        // Its other owners keep their fields: a webhook that is down is no reason to lose the record, nor to refuse what needs no conversion.
        Err(Unmade::Refused(_)) => write.own_changes(&mut owners, &Changes::of(&write, old.map(|old| &old.0), &new.0), operation),
    }
    put_managed(new, &owners);
    Ok(())
}

/// Whether the record of who owns which fields can be read; the error says what is wrong with it.
pub fn check_managed(object: &Object) -> Result<(), String> {
    owners(object).map(drop)
}

/// Who owns which fields of an object.
fn owners(object: &Object) -> Result<Owners, String> {
    Owners::decode(object.get(&["metadata", "managedFields"]))
}

/// Those of a stored object, for a write that depends on them. An update forgets a record that cannot be read; such a write is refused
/// until somebody resets the record, as upstream.
fn stored_owners(object: &Object) -> Result<Owners, Status> {
    owners(object).map_err(|fault| internal(format!("failed to decode managed fields: {fault}")))
}

/// One write, and what it is done through.
struct Write<'a> {
    versions: &'a Versions<'a>,
    kind: &'a Kind,
    /// In which the write is done.
    version: String,
    shape: Shape<'a>,
    manager: &'a str,
    subresource: &'a str,
    now: Timestamp,
}

/// What a write changes: in its own version, and in the others that owners speak of.
struct Changes {
    own: Difference,
    others: BTreeMap<String, Difference>,
}

impl Changes {
    /// In the write's own version alone.
    fn of(write: &Write<'_>, old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Changes {
        Changes { own: write.difference(old, new, write.shape), others: BTreeMap::new() }
    }

    /// In an owner's version; none where nothing is known of it.
    fn of_owner(&self, write: &Write<'_>, owned: &Owned) -> Option<&Difference> {
        if owned.api_version == write.version { Some(&self.own) } else { self.others.get(&owned.api_version) }
    }
}

impl<'a> Write<'a> {
    fn of(versions: &'a Versions<'a>, manager: &'a str, subresource: &'a str, now: Timestamp) -> Write<'a> {
        let kind = versions.kind;
        Write { versions, kind, version: kind.api_version(), shape: Shape::of_kind(kind), manager, subresource, now }
    }

    fn owner(&self, operation: Operation) -> Owner {
        Owner::new(self.manager, operation, &self.version, self.subresource)
    }

    /// What this write cannot change: the status through the object itself, anything else through the status.
    fn ignored(&self) -> FieldSet {
        let status: &[&str] = if self.kind.has_status { &["status"] } else { &[] };
        let top = |names: &[&str]| -> FieldSet { names.iter().map(|name| vec![Step::field(name)]).collect() };
        match self.subresource {
            "" => top(status).union(&top(self.kind.strategy.resets)),
            "status" => {
                let left = self.kind.strategy.status_leaves.iter().map(|name| vec![Step::field("metadata"), Step::field(name)]);
                top(&["spec"]).union(&left.collect())
            }
            _ => FieldSet::new(),
        }
    }

    fn difference(&self, old: Option<&Map<String, Value>>, new: &Map<String, Value>, shape: Shape<'_>) -> Difference {
        tree::compare(old, new, shape).without(&MANAGED).without(&self.ignored())
    }

    /// Who speaks of a version that is no more has nothing to say.
    fn forget_unknown(&self, owners: &mut Owners) {
        owners.0.retain(|_, owned| self.versions.shape(&owned.api_version).is_some());
    }

    fn changes(&self, owners: &Owners, old: Option<&Map<String, Value>>, new: &Map<String, Value>) -> Result<Changes, Unmade> {
        let mut changes = Changes::of(self, old, new);
        for version in owners.0.values().map(|owned| &owned.api_version).filter(|version| **version != self.version) {
            let Some(shape) = self.versions.shape(version).filter(|_| !changes.others.contains_key(version)) else { continue };
            let old = old.map(|old| self.versions.convert(old, &self.version, version)).transpose()?;
            let new = self.versions.convert(new, &self.version, version)?;
            changes.others.insert(version.clone(), self.difference(old.as_ref(), &new, shape));
        }
        Ok(changes)
    }

    /// Leaves to the others what they own and the write did not change, each in the words of its version.
    fn take_from_others(&self, owners: &mut Owners, changes: &Changes, but: &Owner) {
        for (_, owned) in owners.0.iter_mut().filter(|(owner, _)| *owner != but) {
            if let Some(change) = changes.of_owner(self, owned) {
                owned.fields.remove(&change.added.union(&change.modified).union(&change.removed));
            }
        }
        owners.drop_empty();
    }

    /// Gives the fields that an update changed to its manager.
    fn own_changes(&self, owners: &mut Owners, changes: &Changes, operation: Operation) {
        let owner = self.owner(operation);
        let written = changes.own.added.union(&changes.own.modified);
        let known = owners.fields(&owner).cloned().unwrap_or_default();
        self.take_from_others(owners, changes, &owner);
        let gained = written.difference(&NEVER_OWNED);
        let kept = known.difference(&changes.own.removed);
        // Giving fields up is not worth a new time, as upstream.
        if !gained.is_empty() {
            owners.put(owner, &self.version, kept.union(&gained), self.now);
        } else if let Some(owned) = owners.0.get_mut(&owner) {
            owned.fields = kept;
        }
        owners.strip(&NEVER_OWNED);
        owners.cap();
    }

    fn apply(&self, live: Option<&Object>, known: &Owners, configuration: &Value, force: bool) -> Result<Object, Fault> {
        let owner = self.owner(Operation::Apply);
        let before = live.map(|live| without_managed(live.clone()));
        let before_map = before.as_ref().and_then(Value::as_object);
        let mut owners = known.clone();
        if let (true, Some(before)) = (owners.is_empty(), before_map) {
            let first = Write::of(self.versions, BEFORE_FIRST_APPLY, self.subresource, self.now);
            first.own_changes(&mut owners, &Changes::of(self, None, before), Operation::Update);
        }
        self.forget_unknown(&mut owners);

        let last = owners.0.get(&owner).cloned();
        let fields = tree::field_set(configuration, self.shape).without_subtrees(&self.ignored());
        let merged = tree::merge(before.as_ref(), configuration, self.shape);
        // The name is among these fields until the end, and keeps the metadata from being pruned.
        owners.put(owner.clone(), &self.version, fields, self.now);
        let result = match last {
            Some(last) => self.prune(merged, &last, &owners)?,
            None => merged,
        };

        let Value::Object(map) = result else { unreachable!("a merge of maps is a map") };
        let changes = self.changes(&owners, before_map, &map)?;
        let conflicts: Vec<Conflict> = owners
            .0
            .iter()
            .filter(|(other, _)| **other != owner)
            .filter_map(|(other, owned)| {
                let changed = changes.of_owner(self, owned)?;
                Some(Conflict { owner: other.clone(), fields: owned.fields.intersection(&changed.added.union(&changed.modified)) })
            })
            .filter(|conflict| !conflict.fields.is_empty())
            .collect();
        if !force && !conflicts.is_empty() {
            return Err(Fault::Conflicts(conflicts));
        }
        self.take_from_others(&mut owners, &changes, &owner);
        owners.strip(&NEVER_OWNED);
        owners.cap();
        self.keep_time(&mut owners, known, &owner, changes.own.is_empty());

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
    fn prune(&self, merged: Value, last: &Owned, owners: &Owners) -> Result<Value, Unmade> {
        let version = &last.api_version;
        let Some(shape) = self.versions.shape(version) else { return Ok(merged) };
        let whole = self.versions.bring(&merged, &self.version, version)?;
        let fields = tree::with_named_fields(&last.fields, shape);
        let mut left = removed(&whole, &fields, shape);
        // Cutting a path cuts all below it: what others own there, and what nobody applied, comes back.
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for owner in owners.0.values() {
            let all = owned.entry(&owner.api_version).or_default();
            *all = all.union(&owner.fields);
        }
        // What this version needs first: without it others might not be converted to.
        let here = owned.remove_entry(version.as_str());
        let mut at = version.as_str();
        for (other, owned) in here.into_iter().chain(owned) {
            let Some(shape) = self.versions.shape(other) else { continue };
            let whole = self.versions.bring(&whole, version, other)?;
            let present = self.versions.bring(&left, at, other)?;
            let unowned = named(&whole, shape).difference(&named(&present, shape).union(&tree::with_named_fields(&owned, shape)));
            (left, at) = (removed(&whole, &unowned, shape), other);
        }
        let left = self.versions.bring(&left, at, version)?;
        let gone = named(&whole, shape).difference(&named(&left, shape)).intersection(&fields);
        if gone.is_empty() {
            return Ok(merged);
        }
        let pruned = removed(&whole, &gone, shape);
        Ok(self.versions.bring(&pruned, version, &self.version)?.into_owned())
    }
}

/// The fields of an object, with those that hold others.
fn named(object: &Value, shape: Shape<'_>) -> FieldSet {
    tree::with_named_fields(&tree::field_set(object, shape), shape)
}

/// The object without these fields. What says which object it is stays: it is nobody's, and conversions need it.
fn removed(object: &Value, fields: &FieldSet, shape: Shape<'_>) -> Value {
    let mut left = tree::remove(object, fields, shape).unwrap_or_else(|| Value::Object(Map::new()));
    for key in ["name", "namespace", "uid"] {
        if let Some(value) = object.pointer(&format!("/metadata/{key}")) {
            left["metadata"][key] = value.clone();
        }
    }
    left
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
