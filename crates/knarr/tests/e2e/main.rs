//! The real binary with real containers, driven from outside. One program, so that it is linked once and shares its harness.

mod cluster;
mod demo;
mod harness;
mod pods;
mod pull;
mod shop;
