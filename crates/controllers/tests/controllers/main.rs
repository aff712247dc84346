//! The controllers with the real API server.

mod bootstrap_tokens;
mod policies;
mod protection;
mod quota;
mod world;
