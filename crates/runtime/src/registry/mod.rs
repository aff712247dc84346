//! A client of OCI registries (OCI distribution-spec 1.1, Docker registry v2): what a pull needs, nothing of pushing.
//!
//! Written on hyper, not on `oci-client`: that crate reads manifests and errors without a limit, knows no refresh tokens and no mirrors, takes
//! TLS settings for all registries at once, and cannot take up a blob where the connection broke. It would also bring a second
//! HTTP stack (reqwest) beside the one that Knarr has.
//!
//! [`transport`] moves single requests, [`challenge`] reads what a registry wants to see, [`session`] is one repository at one
//! registry, [`logins`] are credentials in the form of Docker's config file.

mod challenge;
mod config;
mod logins;
mod session;
mod transport;
mod trouble;

pub(crate) use config::Endpoint;
pub use config::{Registries, Registry, RegistryError};
pub use logins::{Credentials, Logins, LoginsError};
pub(crate) use session::{Session, next_chunk};
pub(crate) use transport::Transport;
pub(crate) use trouble::{Kind, Trouble};
