//! Types of values, as far as costs depend on them: which function is meant, and which sizes are known from the type alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::extent::{Extent, Form};
use super::{Found, Size};
use crate::cel::{escape, unescape};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'e> {
    /// Nothing is known, and the least is assumed.
    Unknown,
    /// It may be anything, so that any function may be meant.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    Type,
    Opaque(Opaque),
    List(Box<Kind<'e>>),
    /// Keys are strings.
    Map(Box<Kind<'e>>),
    Object(Fields<'e>),
    Optional(Box<Kind<'e>>),
}

/// Types of the libraries of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Opaque {
    Quantity,
    Url,
    Ip,
    Cidr,
    Semver,
    Format,
}

/// The fields of an object: two are of one type if they are the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'e>(&'e BTreeMap<String, Arc<Extent>>);

impl PartialEq for Fields<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl<'e> Kind<'e> {
    pub(super) fn of(extent: &'e Extent) -> Kind<'e> {
        match &extent.form {
            Form::Either | Form::Attribute => Kind::Dyn,
            Form::Quantity => Kind::Opaque(Opaque::Quantity),
            Form::Bool => Kind::Bool,
            Form::Int => Kind::Int,
            Form::Double => Kind::Double,
            Form::String => Kind::String,
            Form::Bytes => Kind::Bytes,
            Form::Timestamp => Kind::Timestamp,
            Form::Duration => Kind::Duration,
            Form::List(item) => Kind::List(Box::new(Kind::of(item))),
            Form::Map(value) => Kind::Map(Box::new(Kind::of(value))),
            Form::Object(fields) => Kind::Object(Fields(fields)),
        }
    }

    /// The size that all values of the type have.
    pub(super) fn size(&self) -> Option<Size> {
        match self {
            Kind::Bool | Kind::Int | Kind::Uint | Kind::Double | Kind::Timestamp | Kind::Duration => Some(Size::exactly(1)),
            Kind::Unknown => Some(Size::exactly(0)),
            Kind::Optional(inner) => inner.size(),
            _ => None,
        }
    }

    pub(super) fn optional(self) -> Kind<'e> {
        match self {
            Kind::Optional(_) => self,
            other => Kind::Optional(Box::new(other)),
        }
    }

    pub(super) fn has_fields(&self) -> bool {
        matches!(self, Kind::Map(_) | Kind::Object(_))
    }

    pub(super) fn field(&self, name: &str) -> Kind<'e> {
        match self {
            Kind::Object(Fields(fields)) => {
                let found = fields.get(name).or_else(|| fields.get(&escape(&unescape(name))?));
                found.map_or(Kind::Unknown, |found| Kind::of(found))
            }
            Kind::Map(value) => (**value).clone(),
            Kind::Optional(inner) => inner.field(name).optional(),
            Kind::Dyn => Kind::Dyn,
            _ => Kind::Unknown,
        }
    }

    /// What is in a list or map.
    pub(super) fn item(&self) -> Kind<'e> {
        match self {
            Kind::List(inner) | Kind::Map(inner) => (**inner).clone(),
            Kind::Optional(inner) => inner.item(),
            Kind::Dyn => Kind::Dyn,
            _ => Kind::Unknown,
        }
    }

    pub(super) fn key(&self) -> Kind<'e> {
        match self {
            Kind::Map(_) => Kind::String,
            Kind::Dyn => Kind::Dyn,
            _ => Kind::Unknown,
        }
    }

    /// The type of what is the one or the other.
    pub(super) fn either(one: &Kind<'e>, two: &Kind<'e>) -> Kind<'e> {
        match (one, two) {
            (Kind::Unknown | Kind::Null, other) | (other, Kind::Unknown | Kind::Null) => other.clone(),
            (Kind::List(one), Kind::List(two)) => Kind::List(Box::new(Kind::either(one, two))),
            (Kind::Map(one), Kind::Map(two)) => Kind::Map(Box::new(Kind::either(one, two))),
            (Kind::Optional(one), Kind::Optional(two)) => Kind::Optional(Box::new(Kind::either(one, two))),
            (one, two) if one == two => one.clone(),
            _ => Kind::Dyn,
        }
    }

    /// The type of all of these.
    pub(super) fn common(all: &[Found<'e>]) -> Kind<'e> {
        all.iter().fold(Kind::Unknown, |kind, found| Kind::either(&kind, &found.kind))
    }

    pub(super) fn sum(one: &Kind<'e>, two: &Kind<'e>) -> Kind<'e> {
        match (one, two) {
            (Kind::Timestamp, _) | (_, Kind::Timestamp) => Kind::Timestamp,
            (Kind::Dyn, other) | (other, Kind::Dyn) => other.clone(),
            _ => Kind::either(one, two),
        }
    }

    pub(super) fn difference(one: &Kind<'e>, two: &Kind<'e>) -> Kind<'e> {
        match (one, two) {
            (Kind::Timestamp, Kind::Timestamp) => Kind::Duration,
            _ => Kind::sum(one, two),
        }
    }

    /// Both of one type whose values are compared at once.
    pub(super) fn is_same_opaque(&self, other: &Kind<'e>) -> bool {
        matches!((self, other), (Kind::Opaque(one), Kind::Opaque(two)) if one == two)
    }
}
