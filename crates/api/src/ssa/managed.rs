//! `metadata.managedFields`: who owns which fields, and through what.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Operation;
use super::fieldset::FieldSet;

/// Managers by update that an object remembers; older ones are merged into one entry for each version. The bound is upstream's
/// (apimachinery, managedfields, DefaultMaxUpdateManagers): a client that changes its name with every request must not fill the object.
const UPDATE_MANAGERS_MAX: usize = 10;

/// The manager that stands for those beyond the bound, named as upstream names it.
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) operation: Operation,
    /// Empty for an Apply, which has one entry whatever the versions it came in.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub(super) api_version: String,
    pub(super) fields: FieldSet,
    /// RFC 3339; empty where nobody noted it.
    pub(super) time: String,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Owners(pub(super) BTreeMap<Owner, Owned>);

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

impl Owner {
    pub(super) fn new(manager: &str, operation: Operation, api_version: &str, subresource: &str) -> Owner {
        let api_version = if operation == Operation::Apply { "" } else { api_version };
        Owner { manager: manager.to_owned(), operation, api_version: api_version.to_owned(), subresource: subresource.to_owned() }
    }

    /// As conflicts name it: `"kubectl-edit" using apps/v1`.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Whether managedFields were set to an empty list, or to one empty entry, which asks to forget all owners
/// (apimachinery, managedfields, isResetManagedFields).
pub(super) fn is_reset(managed: Option<&Value>) -> bool {
    managed.and_then(Value::as_array).is_some_and(|entries| match entries.as_slice() {
        [] => true,
        [Value::Object(entry)] => entry.is_empty(),
        _ => false,
    })
}

impl Owners {
    /// Who owns what, or what is wrong with an entry: nothing is made of a record that is broken in part
    /// (apimachinery, managedfields, DecodeManagedFields).
    pub(super) fn decode(managed: Option<&Value>) -> Result<Owners, String> {
        let entries = match managed {
            None | Some(Value::Null) => return Ok(Owners::default()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err("metadata.managedFields is not a list".to_owned()),
        };
        let mut owners = Owners::default();
        for (index, entry) in entries.iter().enumerate() {
            let fault = |key: &str, why: &str| format!("metadata.managedFields[{index}].{key}: {why}");
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or("");
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(fault("operation", "must be `Apply` or `Update`")),
            };
            if text("apiVersion").is_empty() {
                return Err(fault("apiVersion", "must not be empty"));
            }
            if text("fieldsType") != "FieldsV1" {
                return Err(fault("fieldsType", "must be `FieldsV1`"));
            }
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::new(),
                Some(fields) => FieldSet::parse(fields).map_err(|error| fault("fieldsV1", &error.to_string()))?,
            };
            let owner = Owner::new(text("manager"), operation, text("apiVersion"), text("subresource"));
            owners.0.insert(owner, Owned { api_version: text("apiVersion").to_owned(), fields, time: text("time").to_owned() });
        }
        Ok(owners)
    }

    /// The entries in upstream's order: applies first, then by time and name. `None` where nobody owns anything.
    pub(super) fn to_value(&self) -> Option<Value> {
        let mut entries: Vec<(&Owner, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.operation, &x.time, &a.manager, &x.api_version, &a.subresource).cmp(&(
                b.operation,
                &y.time,
                &b.manager,
                &y.api_version,
                &b.subresource,
            ))
        });
        (!entries.is_empty()).then(|| entries.into_iter().map(|(owner, owned)| encode(owner, owned)).collect())
    }

    pub(super) fn fields(&self, owner: &Owner) -> Option<&FieldSet> {
        self.0.get(owner).map(|owned| &owned.fields)
    }

    pub(super) fn put(&mut self, owner: Owner, api_version: &str, fields: FieldSet, now: Timestamp) {
        let owned = Owned { api_version: api_version.to_owned(), fields, time: crate::time::format(now) };
        self.0.insert(owner, owned);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what nobody may own.
    pub(super) fn strip(&mut self, fields: &FieldSet) {
        for owned in self.0.values_mut() {
            owned.fields.remove(fields);
        }
        self.drop_empty();
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|_, owned| !owned.fields.is_empty());
    }

    /// Merges the oldest managers by update until no more than the bound are left.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<Owner> = self.0.keys().filter(|owner| owner.operation == Operation::Update).cloned().collect();
        if updaters.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        updaters.sort_by_key(|owner| (self.0[owner].time.clone(), owner.clone()));
        let mut count = updaters.len();
        for owner in updaters.into_iter().filter(|owner| owner.manager != ANCIENT) {
            if count <= UPDATE_MANAGERS_MAX {
                return;
            }
            let Some(owned) = self.0.remove(&owner) else { continue };
            let ancient = Owner::new(ANCIENT, Operation::Update, &owned.api_version, "");
            match self.0.get_mut(&ancient) {
                Some(known) => {
                    known.fields = known.fields.union(&owned.fields);
                    known.time = owned.time.max(std::mem::take(&mut known.time));
                    count -= 1;
                }
                None => {
                    self.0.insert(ancient, owned);
                }
            }
        }
    }
}

fn encode(owner: &Owner, owned: &Owned) -> Value {
    let mut entry = Map::new();
    for (key, text) in
        [("manager", &*owner.manager), ("apiVersion", &*owned.api_version), ("subresource", &*owner.subresource), ("time", &*owned.time)]
    {
        if !text.is_empty() {
            entry.insert(key.to_owned(), text.into());
        }
    }
    entry.insert("operation".to_owned(), owner.operation.as_str().into());
    entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
    entry.insert("fieldsV1".to_owned(), owned.fields.to_value());
    Value::Object(entry)
}
