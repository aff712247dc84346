//! One pod on this node: what is seen of it, what shall be done, what its status says, and the worker that does it.

pub(crate) mod plan;
pub(crate) mod seen;
pub(crate) mod status;

#[cfg(test)]
mod fixture;
