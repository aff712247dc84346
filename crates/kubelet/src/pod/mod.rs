//! One pod on this node: what is seen of it, what shall be done, what its status says, and the worker that does it.

pub(crate) mod act;
mod doom;
mod lint;
pub(crate) mod plan;
mod prepare;
pub(crate) mod probe;
mod probes;
mod report;
mod see;
pub(crate) mod seen;
pub(crate) mod status;
pub(crate) mod tally;
pub(crate) mod worker;

#[cfg(test)]
mod fixture;
