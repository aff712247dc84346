//! Revisioned keys: the embedded engine, snapshots, watch.
