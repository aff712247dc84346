//! See `entries`.
#![no_main]

#[allow(dead_code, reason = "a target has one entry of them all")]
#[path = "../entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::apply(bytes));
