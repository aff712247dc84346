//! The ranges of Services' addresses, led to this node's bridge.
//!
//! Watches: ServiceCIDR.  Owns: the routes of the bridge.
//! Converges: each range has a route, also while its ServiceCIDR is being deleted.
//! Never: leads away what the machine has to reach itself.
//! Wakes: on change, and a growing while after the kernel refused.  Plan and act: `NodeNetwork::route_services`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use knarr_client::Cluster;
use tokio::sync::Notify;

use super::{RETRY_MAX, RETRY_MIN};
use crate::node::NodeNetwork;

pub(super) async fn follow(cluster: Cluster, network: NodeNetwork) -> Infallible {
    let ranges = cluster.informer::<ServiceCIDR>();
    ranges.ready().await;
    let changed = Arc::new(Notify::new());
    ranges.subscribe({
        let changed = changed.clone();
        move |_| changed.notify_one()
    });
    let (mut led, mut retry) = (None, RETRY_MIN);
    loop {
        let wanted: BTreeSet<IpNet> = ranges.snapshot().values().flat_map(|range| cidrs(range)).collect();
        // Most changes are of conditions.
        if led.as_ref() != Some(&wanted) {
            match network.route_services(wanted.clone()).await {
                Ok(refused) => {
                    for (range, why) in refused {
                        let loss = "the node itself does not reach Services there unless another route leads on";
                        tracing::warn!(%range, why, loss, "a range of Services has no route");
                    }
                    (led, retry) = (Some(wanted), RETRY_MIN);
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, again_in = ?retry, "lead the ranges of Services to the bridge");
                    let _ = tokio::time::timeout(retry, changed.notified()).await;
                    retry = (retry * 2).min(RETRY_MAX);
                    continue;
                }
            }
        }
        changed.notified().await;
    }
}

fn cidrs(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok()).map(|net: IpNet| net.trunc())
}
