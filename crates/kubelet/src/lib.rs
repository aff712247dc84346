//! Runs the pods of one node.
//!
//! A pod worker per pod compares what the API wants with what the runtime shows, and acts on the difference:
//! `plan` is pure, `act` is idempotent. Nothing that matters lives only in this process: after a restart the workers
//! plan again from the runtime and the API, adopt what runs, and restart nothing.

mod config;

pub use config::{Config, PODS_MAX, Tls};
