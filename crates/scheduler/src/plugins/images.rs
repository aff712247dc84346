//! ImageLocality: nodes that have the images already, the large ones above all.

use super::SCORE_MAX;
use crate::cache::{Cache, NodeState};
use crate::pod::PodInfo;

/// Images smaller than this (together) are no reason to prefer a node; larger than the second, for each container, are the best
/// reason (plugins/imagelocality, minThreshold and maxContainerThreshold).
const BYTES_MIN: i64 = 23 << 20;
const BYTES_MAX: i64 = 1000 << 20;

pub(super) fn locality(pod: &PodInfo, state: &NodeState, cache: &Cache) -> i64 {
    let Some(spec) = pod.spec() else { return 0 };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut count = 0;
    let mut bytes = 0;
    for container in containers {
        count += 1;
        let name = full_name(container.image.as_deref().unwrap_or(""));
        if let Some(size) = state.images.get(&name) {
            // An image that few nodes have draws less, so that one node does not take all pods.
            bytes += size * i64::try_from(cache.nodes_with_image(&name)).unwrap_or(0) / i64::try_from(cache.len().max(1)).unwrap_or(1);
        }
    }
    let most = BYTES_MAX * count;
    let bytes = bytes.clamp(BYTES_MIN, most.max(BYTES_MIN));
    if most <= BYTES_MIN { 0 } else { SCORE_MAX * (bytes - BYTES_MIN) / (most - BYTES_MIN) }
}

/// With the tag that is meant where none is written.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}
