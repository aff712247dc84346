//! The scheduler: gives every pod that has no node the best one that will do.
//!
//! Watches: Pod, Node, Namespace.  Owns: nothing.  Writes: pods/binding, the condition PodScheduled, Events.
//! Converges: every pod with this scheduler's name and no gates is bound, or its condition says why not.
//! Never: binds a pod twice; moves one that is bound.
//! Wakes: on a new pod, and for a parked pod on what may help it; at the end of a pause after an error.  Plan: `plan`.  Act: `run`.
//!
//! One pod at a time is planned, from `cache` and with the `plugins`; bindings are written side by side, and a pod counts on its node from the
//! moment it was planned. `queue` says which pod is next.

mod cache;
mod labels;
mod plan;
mod plugins;
mod pod;
mod queue;
mod resources;
mod run;

pub use run::{Config, run};
