//! Cluster addresses and node ports.
