//! The real binary with real containers, driven from outside. One program, so that it is linked once and shares its harness.

mod certs;
mod clients;
mod cluster;
mod demo;
mod harness;
mod kube_derive;
mod kube_runtime;
mod kubectl;
mod pods;
mod pull;
mod secrets;
mod shop;
