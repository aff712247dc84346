//! What can go wrong with images, by the step that failed.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("image reference {reference:?}: {reason}")]
    Reference { reference: String, reason: &'static str },
    #[error("image {reference} is not here; pull or import it first")]
    NotFound { reference: String },
    #[error("image {reference} is pinned; unpin it to remove it")]
    Pinned { reference: String },
    #[error("{step} {}", path.display())]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the image archive")]
    Archive {
        #[source]
        source: io::Error,
    },
    #[error("write the image archive")]
    Write {
        #[source]
        source: io::Error,
    },
    /// The archive, a manifest or a config does not say what it must.
    #[error("{what}: {reason}")]
    Content { what: String, reason: String },
    #[error("{what} is {bytes} bytes, more than the {max} allowed")]
    TooLarge { what: String, bytes: u64, max: u64 },
    #[error("content of {expected} has the digest {found}")]
    Digest { expected: String, found: String },
    #[error("layer {layer}: {step} {entry:?}")]
    Layer {
        layer: String,
        step: &'static str,
        entry: String,
        #[source]
        source: io::Error,
    },
    #[error("user {user:?} of the container: {reason}")]
    User { user: String, reason: String },
    #[error("image {reference} is used by {}; stop them first", containers.join(", "))]
    InUse { reference: String, containers: Vec<String> },
    /// The credentials do not do.
    #[error("pull {reference}: {host} does not let us: {reason}")]
    Denied { reference: String, host: String, reason: String },
    /// The registry does not have it.
    #[error("pull {reference}: {host} has no such image: {reason}; are the repository and the tag spelled right?")]
    Absent { reference: String, host: String, reason: String },
    #[error("the node is stopping")]
    Stopped,
    #[error("{step} {reference} from {host}: {reason}")]
    Registry {
        step: &'static str,
        reference: String,
        host: String,
        reason: String,
        /// Another attempt may succeed (network, 429, 5xx).
        transient: bool,
    },
}

impl ImageError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, ImageError::NotFound { .. })
    }

    /// Other credentials may do.
    pub fn is_denied(&self) -> bool {
        matches!(self, ImageError::Denied { .. })
    }

    /// What was written as an image's name is none.
    pub fn is_bad_reference(&self) -> bool {
        matches!(self, ImageError::Reference { .. })
    }

    pub fn is_full_disk(&self) -> bool {
        matches!(self, ImageError::Path { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// What came is at fault, so that the same from elsewhere may do.
    pub(crate) fn is_of_content(&self) -> bool {
        matches!(self, ImageError::Content { .. } | ImageError::Digest { .. } | ImageError::TooLarge { .. })
    }
}
