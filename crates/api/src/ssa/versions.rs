//! Objects in the versions that their owners speak of.
//!
//! An entry of managedFields names fields of the version through which it was written. Whether a write changes such a field, and what is left
//! of an object without it, is asked of the object in that version (structured-merge-diff, merge/update.go). Between built-in versions objects
//! are converted here. What only a webhook can convert is wanted from the caller, who has it made and starts again.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::object::Object;
use crate::shape::Shape;
use crate::status::{Status, internal};

/// The versions of one kind, and the conversions that were made for the write.
pub struct Versions<'a> {
    pub(super) kind: &'a Kind,
    served: &'a (dyn Fn(&str, &str) -> Option<Arc<Kind>> + Sync),
    made: Vec<Made>,
}

struct Made {
    wanted: Wanted,
    converted: Result<Object, Status>,
}

/// An object of a kind made at run time that its webhook has to convert to the version of this name.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub object: Object,
    pub version: String,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Unmade {
    /// Not yet: it is to be converted first, and told to [`Versions::learn`].
    Wanted(Box<Wanted>),
    Refused(Status),
}

impl From<Status> for Unmade {
    fn from(status: Status) -> Unmade {
        Unmade::Refused(status)
    }
}

impl From<Unmade> for Status {
    fn from(unmade: Unmade) -> Status {
        match unmade {
            Unmade::Refused(status) => status,
            Unmade::Wanted(wanted) => internal(format!("nobody converts {} to {}", wanted.object.api_version(), wanted.version)),
        }
    }
}

impl<'a> Versions<'a> {
    /// Those of `kind`; `served` finds a built-in kind of the same resource by its group and version.
    pub fn of(kind: &'a Kind, served: &'a (dyn Fn(&str, &str) -> Option<Arc<Kind>> + Sync)) -> Versions<'a> {
        Versions { kind, served, made: Vec::new() }
    }

    /// Of a kind that has no other version.
    pub fn only(kind: &'a Kind) -> Versions<'a> {
        Versions::of(kind, &|_, _| None)
    }

    pub fn learn(&mut self, wanted: Wanted, converted: Result<Object, Status>) {
        self.made.push(Made { wanted, converted });
    }

    /// How the values of a version are divided among owners; none where there is no such version, or no longer.
    pub(super) fn shape(&self, version: &str) -> Option<Shape<'_>> {
        if version == self.kind.api_version() {
            return Some(Shape::of_kind(self.kind));
        }
        match &self.kind.custom {
            Some(custom) => {
                let (group, name) = version.split_once('/')?;
                let schema = custom.schemas.iter().find(|(known, _)| group == self.kind.group && *known == name);
                schema.map(|(_, schema)| Shape::of_root(schema))
            }
            None => Shape::of_message(self.row(version)?.message?).into(),
        }
    }

    /// `object`, which is in the version `from`, in the version `to`; one that [`Self::shape`] knows.
    pub(super) fn convert(&self, object: &Map<String, Value>, from: &str, to: &str) -> Result<Map<String, Value>, Unmade> {
        let mut object = Object(object.clone());
        object.set_type(from, &self.kind.kind);
        let Some(custom) = &self.kind.custom else {
            let (from, to) = (self.row(from), self.row(to));
            from.inspect(|from| from.to_storage(&mut object));
            to.inspect(|to| to.from_storage(&mut object));
            return Ok(object.0);
        };
        if custom.conversion.is_none() {
            object.set_type(to, &self.kind.kind);
            return Ok(object.0);
        }
        let version = to.split_once('/').map_or(to, |(_, name)| name).to_owned();
        let wanted = Wanted { object, version };
        match self.made.iter().find(|made| made.wanted == wanted) {
            Some(made) => Ok(made.converted.clone()?.0),
            None => Err(Unmade::Wanted(Box::new(wanted))),
        }
    }

    /// The same of a value that may be in that version already.
    pub(super) fn bring<'o>(&self, object: &'o Value, from: &str, to: &str) -> Result<Cow<'o, Value>, Unmade> {
        match object {
            Value::Object(map) if from != to => Ok(Cow::Owned(Value::Object(self.convert(map, from, to)?))),
            same => Ok(Cow::Borrowed(same)),
        }
    }

    /// The built-in kind of the same objects in a version.
    fn row(&self, version: &str) -> Option<Arc<Kind>> {
        if version == self.kind.api_version() {
            return Some(Arc::new(self.kind.clone()));
        }
        let (group, name) = version.split_once('/').unwrap_or(("", version));
        (self.served)(group, name).filter(|row| row.storage_collection() == self.kind.storage_collection())
    }
}
