//! The addresses of this machine in the certificates: whatever they become, clients that use them find a certificate that is good for them.
//!
//! Watches: addresses and routes, by netlink.  Writes: the names of the API server's and the kubelet's certificate.
//! Never: takes an address out of a certificate that is otherwise good, as others may still know the machine by it.

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use knarr_apiserver::{
    ApiServer,
    pki::{Certificate, PkiError},
};
use knarr_network::AddressWatch;

use super::parts;
use crate::config::Config;

/// Addresses in a certificate. A machine has a few; whoever announces many networks to it must not make handshakes large.
const ADDRESSES_MAX: usize = 64;

/// Changes come in bursts: a link that comes up brings addresses and routes. A look costs two questions to the kernel, so that this long without
/// a further one, or at most so long in all, passes before it.
const QUIET: Duration = Duration::from_millis(200);
const GATHERED_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    #[error("watch this machine's addresses by netlink")]
    Watch(#[source] io::Error),
}

/// The addresses that others may reach this machine by now: its address as a node, and where the API server listens on all, all others but
/// those of pods and Services.
pub(super) fn now(config: &Config) -> BTreeSet<IpAddr> {
    let mut all = BTreeSet::from([parts::node_ip(config)]);
    if !config.listen.iter().any(|address| address.ip().is_unspecified()) {
        return all;
    }
    match knarr_network::addresses() {
        Ok(found) => {
            let is_inner = |address: &IpAddr| match address {
                IpAddr::V4(v4) => config.pod_cidr.contains(v4) || config.service_cidr.contains(v4),
                IpAddr::V6(_) => false,
            };
            all.extend(found.into_iter().filter(|address| !is_inner(address)).take(ADDRESSES_MAX));
        }
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "this machine's addresses are not known"),
    }
    all
}

/// Gives the certificates what they lack, now and after each change.
pub(super) async fn follow(config: &Config, api: &ApiServer, kubelet: &Arc<Certificate>) -> Result<(), AddressError> {
    let watch = AddressWatch::open().map_err(AddressError::Watch)?;
    let mut given = None;
    loop {
        let addresses = now(config);
        if given.as_ref() == Some(&addresses) {
            settled(&watch).await?;
            continue;
        }
        let written = api.set_addresses(&addresses).and_then(|api| {
            let kubelet = kubelet.set_sans(&parts::kubelet_sans(config, &addresses))?;
            Ok::<_, PkiError>(api || kubelet)
        });
        let failed = written.is_err();
        match written {
            Ok(true) => tracing::info!(?addresses, "certificates are good for new addresses"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "certificates for new addresses"),
        }
        given = (!failed).then_some(addresses);
        settled(&watch).await?;
    }
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
