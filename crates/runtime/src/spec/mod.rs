//! What the caller asks for and what it is told: plain values, no kernel in sight.

pub(crate) mod capability;
pub(crate) mod container;
pub(crate) mod sandbox;
pub(crate) mod status;
