//! The addresses of this machine in the certificates: whatever they become, clients that use them find a certificate that is good for them.
//!
//! Watches: addresses and routes, by netlink.  Writes: the names of the API server's and the kubelet's certificate.
//! Never: takes an address out of a certificate that is otherwise good, as others may still know the machine by it, nor that of the start.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use knarr_apiserver::{ApiServer, pki::Certificate};
use knarr_network::{AddressWatch, LinkError};

use super::parts;
use crate::config::Config;

/// Addresses in a certificate. A machine has a few; whoever announces many networks to it must not make handshakes large.
const ADDRESSES_MAX: usize = 64;

/// Changes come in bursts: a link that comes up brings addresses and routes. A look costs two questions to the kernel, so that this long without
/// a further one, or at most so long in all, passes before it.
const QUIET: Duration = Duration::from_millis(200);
const GATHERED_MAX: Duration = Duration::from_secs(2);
/// Before what failed is tried again, if nothing changes meanwhile.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    #[error("watch this machine's addresses by netlink")]
    Watch(#[source] io::Error),
}

/// The addresses that others may reach this machine by now: `node_ip`, by which it is known since the start, its address as a node as it would be
/// now, and where the API server listens on all, all others but those of pods and Services.
fn now(config: &Config, node_ip: IpAddr) -> Result<BTreeSet<IpAddr>, LinkError> {
    let mut all = BTreeSet::from([node_ip, parts::node_ip(config)]);
    if config.listen.iter().any(|address| address.ip().is_unspecified()) {
        let is_inner = |address: &IpAddr| match address {
            IpAddr::V4(v4) => config.pod_cidr.contains(v4) || config.service_cidr.contains(v4),
            IpAddr::V6(_) => false,
        };
        all.extend(knarr_network::addresses()?.into_iter().filter(|address| !is_inner(address)).take(ADDRESSES_MAX));
    }
    Ok(all)
}

/// Those of the start, which [`follow`] completes where they cannot be told.
pub(super) fn at_start(config: &Config, node_ip: IpAddr) -> BTreeSet<IpAddr> {
    now(config, node_ip).unwrap_or_else(|_| BTreeSet::from([node_ip]))
}

/// Gives the certificates what they lack, now and after each change; what failed is tried again.
pub(super) async fn follow(config: &Config, node_ip: IpAddr, api: &ApiServer, kubelet: &Arc<Certificate>) -> Result<(), AddressError> {
    let watch = AddressWatch::open().map_err(AddressError::Watch)?;
    let mut given = BTreeSet::new();
    loop {
        let done = match now(config, node_ip) {
            Ok(addresses) if addresses == given => true,
            Ok(addresses) => {
                let done = give(config, &addresses, api, kubelet);
                if done {
                    given = addresses;
                }
                done
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "this machine's addresses are not known");
                false
            }
        };
        if done {
            settled(&watch).await?;
        } else if let Ok(settled) = tokio::time::timeout(RETRY, settled(&watch)).await {
            settled?;
        }
    }
}

/// Whether both certificates have all of `addresses`.
fn give(config: &Config, addresses: &BTreeSet<IpAddr>, api: &ApiServer, kubelet: &Arc<Certificate>) -> bool {
    let mut done = true;
    // Each for itself: where one cannot be written, the other is needed all the same.
    for written in [api.set_addresses(addresses), kubelet.set_sans(&parts::kubelet_sans(config, addresses))] {
        match written {
            Ok(true) => tracing::info!(?addresses, "a certificate is good for new addresses"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a certificate for new addresses");
                done = false;
            }
        }
    }
    done
}

/// Returns a while after a change, when no other has followed at once, so that many are one.
async fn settled(watch: &AddressWatch) -> Result<(), AddressError> {
    watch.changed().await.map_err(AddressError::Watch)?;
    let quiet = async {
        while let Ok(told) = tokio::time::timeout(QUIET, watch.changed()).await {
            told?;
        }
        Ok(())
    };
    tokio::time::timeout(GATHERED_MAX, quiet).await.unwrap_or(Ok(())).map_err(AddressError::Watch)
}
