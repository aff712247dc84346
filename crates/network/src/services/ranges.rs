//! The ranges of Services' addresses, led to this node's bridge.
//!
//! Watches: ServiceCIDR.  Owns: the routes of the bridge.
//! Converges: each range has a route, also while its ServiceCIDR is being deleted.
//! Never: leads away what the machine has to reach itself.
//! Wakes: on change.  Plan and act: `NodeNetwork::route_services`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use knarr_client::Cluster;
use tokio::sync::Notify;

use crate::node::NodeNetwork;

pub(super) async fn follow(cluster: Cluster, network: NodeNetwork) -> Infallible {
    let ranges = cluster.informer::<ServiceCIDR>();
    ranges.ready().await;
    let changed = Arc::new(Notify::new());
    ranges.subscribe({
        let changed = changed.clone();
        move |_| changed.notify_one()
    });
    let mut led = None;
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
                    led = Some(wanted);
                }
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "lead the ranges of Services to the bridge"),
            }
        }
        changed.notified().await;
    }
}

fn cidrs(range: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse().ok()).map(|net: IpNet| net.trunc())
}
