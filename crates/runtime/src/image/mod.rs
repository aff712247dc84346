//! Image references, content store, unpacking and snapshots.
//!
//! ```text
//! images/
//!   index.json            names → manifest digest, pins; replaced whole
//!   blobs/sha256/<hex>    manifests, configs, layers as they came; verified, complete, immutable
//!   layers/<chain id>/    unpacked layers in overlayfs form; complete once they have this name
//!   containers/<id>/      a container's root file system: mount.json, upper, work, rootfs
//!   tmp/                  half-made things; emptied at start
//! ```
//! Everything becomes visible by one rename, so a crash leaves only files in `tmp`. What the index and the containers
//! reach is kept, the rest is garbage: [`Images::gc`] is exact, there are no counters that could drift.
//!
//! All functions but [`Images::pull`] block on files; call them from a blocking thread. All may be called in parallel.

mod compression;
mod config;
mod content;
mod copy;
mod digest;
mod download;
mod error;
mod export;
mod import;
mod oci;
mod pull;
mod reference;
mod snapshot;
mod store;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod user;

pub use config::{Image, ImageConfig};
pub use error::ImageError;
pub use user::{ResolvedUser, resolve_user};

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pull::Pulls;
use reference::Reference;
use store::Store;

use crate::registry::{Credentials, Registries};

/// Bytes of the id of a root file system: it becomes a file name.
const ID_BYTES_MAX: usize = 200;

/// The images of a node, and the root file systems made from them. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    pulls: Arc<Pulls>,
}

/// How far an import or a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A pull has its turn.
    Started,
    /// Bytes of a blob that are stored; `total` is 0 where it is not known.
    Blob { digest: String, done: u64, total: u64 },
    /// A layer is ready for use.
    Unpacked { digest: String },
}

/// The root file system of a container, mounted in the node process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFs {
    pub path: PathBuf,
    /// Where the container's changes are; `None` where the file system is a copy, for then they cannot be told apart.
    pub upper: Option<PathBuf>,
}

/// What [`Images::gc`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: usize,
    pub layers: usize,
    /// Bytes of the blobs; unpacked layers are not measured.
    pub bytes: u64,
}

/// Bytes and inodes of a container's writable layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Images {
    /// Opens or makes the store in `dir`. Mounts found there belong to containers that still run: they stay until
    /// [`Images::unmount`] or [`Images::retain_mounts`].
    pub fn open(dir: &Path, registries: Registries) -> Result<Images, ImageError> {
        Ok(Images { store: Arc::new(Store::open(dir)?), pulls: Arc::new(Pulls::new(registries)) })
    }

    /// Reads a tar archive (Docker's `save` layout or an OCI layout, plain, gzip or zstd) and unpacks its images. Returns them
    /// with the names that the archive gives; an image without a name is kept only until the next [`Images::gc`].
    pub fn import(&self, archive: impl Read, progress: &dyn Fn(Progress)) -> Result<Vec<Arc<Image>>, ImageError> {
        import::import(&self.store, archive, progress)
    }

    /// Writes the images as one OCI layout that `docker load` and skopeo read as well.
    pub fn export(&self, references: &[&str], archive: impl Write) -> Result<(), ImageError> {
        export::export(&self.store, &self.store.lease(), references, archive)
    }

    /// Sorted by first name, then id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.list()
    }

    /// By name (`nginx`, `docker.io/library/nginx:1`), by name and digest, or by id (`sha256:...`).
    pub fn resolve(&self, reference: &str) -> Option<Arc<Image>> {
        let (_, record) = self.store.find(reference)?;
        self.store.image(&record.config)
    }

    /// Whether something can be the name of an image.
    pub fn check_name(reference: &str) -> Result<(), ImageError> {
        store::Wanted::parse(reference).map(drop)
    }

    /// Images that containers are made from, running or not, with the containers' ids.
    pub fn in_use(&self) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        self.store.in_use()
    }

    /// Gives an image another name.
    pub fn tag(&self, reference: &str, name: &str) -> Result<(), ImageError> {
        let name = Reference::parse(name)?;
        let (_, record) = self.store.find(reference).ok_or_else(|| ImageError::NotFound { reference: reference.to_owned() })?;
        let digest = name.with_digest(&record.manifest);
        self.store.add(Arc::unwrap_or_clone(record), &[name], &[digest])?;
        Ok(())
    }

    /// Forgets a name, or by id every name of the image. Content goes with the next [`Images::gc`]. Refused where the image is pinned, and
    /// where it would lose its last name while containers use it.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        self.store.remove(reference)
    }

    /// A pinned image cannot be removed.
    pub fn pin(&self, reference: &str, pinned: bool) -> Result<(), ImageError> {
        self.store.pin(reference, pinned)
    }

    /// Fetches an image from its registry and unpacks it. What is here already is not fetched again, but the registry is always asked
    /// where the name leads. Each of `credentials` is tried in turn, then those of the node's file; none is tried only where there
    /// are none. Who drops the future leaves the pull, which ends with the last.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: &[Credentials],
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Arc<Image>, Arc<ImageError>> {
        self.pulls.pull(&self.store, Reference::parse(reference)?, credentials, Arc::new(progress)).await
    }

    /// The root file system of `image` (id or name) for a container: read-only layers and a writable one that stays until
    /// [`Images::unmount`]. Idempotent: mounts it again if it is not, and gives the one that is.
    pub fn mount(&self, image: &str, container: &str) -> Result<RootFs, ImageError> {
        self.mount_as(image, container, false)
    }

    /// As [`Images::mount`], without a writable layer (image volumes).
    pub fn mount_readonly(&self, image: &str, id: &str) -> Result<RootFs, ImageError> {
        self.mount_as(image, id, true)
    }

    fn mount_as(&self, image: &str, id: &str, readonly: bool) -> Result<RootFs, ImageError> {
        check_id(id)?;
        let snapshots = &self.store.snapshots;
        let lease = self.store.lease();
        if let Some(record) = snapshots.record(id) {
            // Made before, by this process or an earlier one; its layers are kept by the record.
            return snapshots.mount(id, &record);
        }
        let (_, record) = self.store.find(image).ok_or_else(|| ImageError::NotFound { reference: image.to_owned() })?;
        self.store.unpack(&lease, &record, &|_| {})?;
        let mount = snapshot::Record { image: record.config.clone(), layers: record.chains(), readonly, copied: false };
        snapshots.register(id, &mount)?;
        snapshots.mount(id, &mount)
    }

    /// Unmounts and removes a container's root file system with its changes. Idempotent.
    pub fn unmount(&self, container: &str) -> Result<(), ImageError> {
        check_id(container)?;
        self.store.snapshots.unmount(container)?;
        if let Some(retired) = self.store.content.retire(&self.store.snapshots.container(container))? {
            content::discard(&retired);
        }
        Ok(())
    }

    /// Unmounts and removes every root file system whose container is not in `live`.
    pub fn retain_mounts(&self, live: &HashSet<String>) -> Result<(), ImageError> {
        for id in self.store.snapshots.list()? {
            if !live.contains(&id) {
                self.unmount(&id)?;
            }
        }
        Ok(())
    }

    /// What the container wrote.
    pub fn usage(&self, container: &str) -> Result<Usage, ImageError> {
        check_id(container)?;
        self.store.snapshots.usage(container)
    }

    /// Removes blobs and layers that no name and no container reaches.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        self.store.gc()
    }
}

/// Ids become file names.
fn check_id(id: &str) -> Result<(), ImageError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.starts_with('.') || !id.bytes().all(plain) {
        return Err(ImageError::Content { what: format!("container id {id:?}"), reason: "may have letters, digits, - _ and .".to_owned() });
    }
    Ok(())
}

/// Registry and repository that a reference means.
pub(crate) fn whole_name(reference: &str) -> Option<(String, String)> {
    Reference::parse(reference).ok().map(|it| (it.registry, it.repository))
}
