//! The test kit: what this machine can run, network namespaces for tests, and images made offline from Debian packages.

pub mod image;
pub mod netns;
mod program;
pub mod registry;
mod require;

pub use program::program;
pub use require::{is_root, skipped};
