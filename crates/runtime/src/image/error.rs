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
}
