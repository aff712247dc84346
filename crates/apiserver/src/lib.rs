//! The Kubernetes API server: authenticate, limit, authorise, admit, then one path per verb for every kind.
//!
//! A request comes in over TLS ([`ApiServer`] listens) or as a function call from a component of the same process
//! ([`ApiServer::service_for`]); from there both take the same way (`pipeline`). Only this crate opens a store.

mod aggregation;
mod audit;
mod body;
mod call;
mod callout;
mod components;
mod compress;
mod config;
mod connect;
mod custom;
mod expire;
mod fairness;
mod listen;
mod metrics;
mod parts;
mod paths;
mod pipeline;
mod quota;
mod reload;
mod render;
mod request;
mod server;
mod shut;
mod stall;
mod strict;
mod usage;
mod verbs;

pub mod admission;
pub mod allocate;
pub mod auth;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod encryption;
pub mod pki;
pub mod reviews;

pub use audit::{AuditError, AuditSettings, LogSettings};
pub use auth::User;
pub use body::{Body, BodyError};
pub use config::{Access, Config, TokenWebhook};
pub use reload::ConfigurationError;
pub use server::{ApiServer, Service, StartError};
