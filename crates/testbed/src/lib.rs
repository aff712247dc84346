//! The test kit: clusters, nodes in network namespaces, images.
