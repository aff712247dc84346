//! What is served now: the built-in kinds, those of accepted definitions, and the versions that other servers serve.
//!
//! Readers take a whole [`Published`] and keep it as long as they like; publishing another swaps a pointer. The documents made of the kinds
//! (OpenAPI) are published with them, so that none outlives what it describes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use knarr_api::{Kind, Kinds};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{aggregation::Remotes, paths::Documents};

/// One state of the kinds.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) kinds: Kinds,
    pub(crate) remotes: Arc<Remotes>,
    pub(crate) documents: Documents,
}

pub(crate) struct Registry {
    builtin: Kinds,
    now: ArcSwap<Published>,
    changed: watch::Sender<()>,
    /// Held while the next state is made from the present one.
    publishing: Mutex<()>,
}

impl Registry {
    pub(crate) fn new(builtin: Kinds) -> Registry {
        let now = Published { kinds: builtin.clone(), ..Published::default() };
        Registry { builtin, now: ArcSwap::from_pointee(now), changed: watch::Sender::new(()), publishing: Mutex::default() }
    }

    pub(crate) fn now(&self) -> Arc<Published> {
        self.now.load_full()
    }

    /// Serves the built-in kinds and these.
    pub(crate) fn publish(&self, rows: &[Arc<Kind>]) {
        let _alone = self.publishing.lock();
        let mut kinds = self.builtin.clone();
        for row in rows {
            // A definition cannot take the place of a built-in kind.
            if self.builtin.resource(&row.group, &row.version, &row.resource).is_none() {
                kinds.add(row.clone());
            }
        }
        self.replace(kinds, self.now.load().remotes.clone());
    }

    /// Passes requests to the versions of these on to other servers.
    pub(crate) fn publish_remotes(&self, remotes: Remotes) {
        let _alone = self.publishing.lock();
        self.replace(self.now.load().kinds.clone(), Arc::new(remotes));
    }

    fn replace(&self, kinds: Kinds, remotes: Arc<Remotes>) {
        self.now.store(Arc::new(Published { kinds, remotes, documents: Documents::default() }));
        self.changed.send_replace(());
    }

    /// Is told of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether these are the rows that are served beside the built-in ones.
    pub(super) fn has_exactly(&self, rows: &[Arc<Kind>]) -> bool {
        let now = self.now.load();
        let custom = now.kinds.iter().filter(|kind| kind.custom.is_some()).count();
        custom == rows.len() && rows.iter().all(|row| is_current(&now.kinds, row))
    }

    /// Returns when this very row is no longer served. Never for built-in kinds, which always are.
    pub(crate) async fn gone(&self, kind: &Arc<Kind>) {
        if kind.custom.is_none() {
            return std::future::pending().await;
        }
        let mut changed = self.changed.subscribe();
        while is_current(&self.now.load().kinds, kind) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

fn is_current(kinds: &Kinds, row: &Arc<Kind>) -> bool {
    kinds.resource(&row.group, &row.version, &row.resource).is_some_and(|now| Arc::ptr_eq(&now, row))
}
