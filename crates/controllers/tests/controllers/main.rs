//! The controllers with the real API server.

mod bootstrap_tokens;
mod migration;
mod policies;
mod protection;
mod quota;
mod secret_tokens;
mod world;
