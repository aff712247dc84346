//! The Kubernetes API server: authenticate, limit, authorise, admit, then one path per verb for every kind.
//!
//! A request comes in over TLS ([`ApiServer`] listens) or as a function call from a component of the same process
//! ([`ApiServer::service_for`]); from there both take the same way. Only this crate opens a store.

pub mod admission;
pub mod allocate;
pub mod auth;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod config;
pub mod pki;
pub mod reviews;

pub use auth::User;
pub use config::Config;
