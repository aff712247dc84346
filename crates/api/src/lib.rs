//! Kinds, schema, codecs and patches of the Kubernetes API. No I/O, no async.
//!
//! A kind is a row ([`Kind`]): its names, its schema message, its hooks, its columns. The rows stand in `kinds/`, one file per API group.
//! Objects are JSON maps ([`Object`]); what may stand in them is told by one table of fields ([`schema::Schema`]), which drives decoding,
//! patches, field ownership and OpenAPI. Whatever can go wrong is a [`Status`], worded as clients expect it.

mod error;
mod kind;
mod kinds;
mod object;
mod shape;

pub mod cel;
pub mod custom;
pub mod decode;
pub mod duration;
pub mod encode;
pub mod exposition;
pub mod names;
pub mod openapi;
pub mod partial;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod select;
pub mod ssa;
pub mod status;
pub mod table;
pub mod time;
pub mod validate;
pub mod yaml;

pub use error::{ErrorKind, FieldError, FieldErrors};
pub use kind::{Cell, CellFn, Column, Converter, Field, Kind, Scope, SelectableField, Strategy, Subresource, Text, Verb, VerbSet};
pub use kinds::Kinds;
pub use object::{Encoded, Object};
pub use quantity::Quantity;
pub use status::Status;
