//! Images, snapshots, containers and their keepers. Knows no Kubernetes type.
