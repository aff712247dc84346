//! The real server on loopback over a real store, asked as clients ask it: by raw requests, and by the `kube` crate over TLS.

#![recursion_limit = "256"]

mod aggregation;
mod audit;
mod classes;
mod compat;
mod conversion;
mod custom;
mod custom_edges;
mod cves;
mod devices;
mod discovery;
mod encryption;
mod fairness;
mod families;
mod groups;
mod hook;
mod identity;
mod kit;
mod kubelet;
mod lists;
mod mutations;
mod nodes;
mod openapi;
mod outside;
mod parts;
mod permissions;
mod policies;
mod protobuf;
mod proxies;
mod quotas;
mod rights;
mod service_cidrs;
mod signers;
mod standards;
mod transport;
mod watches;
mod webhooks;
mod websocket;
mod writes;
