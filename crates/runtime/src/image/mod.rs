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

mod config;
mod error;
mod user;

pub use config::{Image, ImageConfig};
pub use error::ImageError;
pub use user::{ResolvedUser, resolve_user};

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The images of a node, and the root file systems made from them. Cheap to clone.
#[derive(Clone)]
pub struct Images {
    _inner: Arc<()>,
}

/// How to identify to a registry.
#[derive(Clone, Default)]
pub enum Credentials {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A token for the registry itself (`registrytoken` of a docker config).
    Bearer(String),
    /// A refresh token, traded for access tokens (`identitytoken` of a docker config).
    Identity(String),
}

/// How far an import or a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
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
    pub fn open(_dir: &Path) -> Result<Images, ImageError> {
        todo!()
    }

    /// Reads a tar archive (Docker's `save` layout or an OCI layout, plain, gzip or zstd) and unpacks its images. Returns them
    /// with the names that the archive gives; an image without a name is kept only until the next [`Images::gc`].
    pub fn import(&self, _archive: impl Read, _progress: &dyn Fn(Progress)) -> Result<Vec<Arc<Image>>, ImageError> {
        todo!()
    }

    /// Writes the images as one OCI layout that `docker load` and skopeo read as well.
    pub fn export(&self, _references: &[&str], _archive: impl Write) -> Result<(), ImageError> {
        todo!()
    }

    /// Sorted by first name, then id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// By name (`nginx`, `docker.io/library/nginx:1`), by name and digest, or by id (`sha256:...`).
    pub fn resolve(&self, _reference: &str) -> Option<Arc<Image>> {
        todo!()
    }

    /// Gives an image another name.
    pub fn tag(&self, _reference: &str, _name: &str) -> Result<(), ImageError> {
        todo!()
    }

    /// Forgets a name, or by id every name of the image. Content goes with the next [`Images::gc`]; containers that use it keep
    /// running. A pinned image is refused.
    pub fn remove(&self, _reference: &str) -> Result<(), ImageError> {
        todo!()
    }

    /// A pinned image cannot be removed.
    pub fn pin(&self, _reference: &str, _pinned: bool) -> Result<(), ImageError> {
        todo!()
    }

    /// Fetches an image from its registry and unpacks it. What is here already is not fetched again.
    pub async fn pull(
        &self,
        _reference: &str,
        _credentials: &Credentials,
        _progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Arc<Image>, ImageError> {
        todo!()
    }

    /// The root file system of `image` (id) for a container: read-only layers and a writable one that stays until
    /// [`Images::unmount`]. Idempotent: mounts it again if it is not, and gives the one that is.
    pub fn mount(&self, _image: &str, _container: &str) -> Result<RootFs, ImageError> {
        todo!()
    }

    /// As [`Images::mount`], without a writable layer (image volumes).
    pub fn mount_readonly(&self, _image: &str, _id: &str) -> Result<RootFs, ImageError> {
        todo!()
    }

    /// Unmounts and removes a container's root file system with its changes. Idempotent.
    pub fn unmount(&self, _container: &str) -> Result<(), ImageError> {
        todo!()
    }

    /// Unmounts and removes every root file system whose container is not in `live`.
    pub fn retain_mounts(&self, _live: &HashSet<String>) -> Result<(), ImageError> {
        todo!()
    }

    /// What the container wrote.
    pub fn usage(&self, _container: &str) -> Result<Usage, ImageError> {
        todo!()
    }

    /// Removes blobs and layers that no name and no container reaches.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        todo!()
    }
}
