//! metrics.k8s.io: what nodes and pods use now. Nothing of it is stored.

use super::row::row;
use crate::kind::Kind;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes").cluster().measured(),
        row("metrics.k8s.io", "v1beta1", "PodMetrics", "pods").measured(),
    ]
}
