//! The verbs, each for every kind.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
mod page;
pub(crate) mod patch;
pub(crate) mod socket;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod write;
