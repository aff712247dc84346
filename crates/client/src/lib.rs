//! Access to the cluster for everything that is not the API server: controllers, scheduler, kubelet, network.
//!
//! [`Cluster`] is a `kube::Client` under one identity, whether its transport is a function call into the API server of this process or HTTPS to
//! any Kubernetes. From it come [`Informer`]s, one for each kind, that keep the newest state of a kind and tell of changes;
//! [`WorkQueue`] holds the keys that changes ask to look at; [`Recorder`] writes Events.

mod cluster;
mod informer;
mod queue;
mod recorder;

pub use cluster::{Cluster, ConnectError};
pub use informer::{Change, Informer, ObjectKey, Snapshot};
pub use queue::{Backoff, WorkQueue};
pub use recorder::{EventType, Recorder};
