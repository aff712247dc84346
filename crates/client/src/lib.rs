//! Access to the cluster: client, informers, events.
