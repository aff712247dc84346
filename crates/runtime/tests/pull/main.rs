//! Pulls from a hostile server of our own, and from the real `docker-registry`.

mod docker_registry;
mod hostile;
mod server;
