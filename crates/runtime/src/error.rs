//! What can fail, by the step that failed.

use std::io;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{what} {id} is not known to the runtime")]
    NotFound { what: &'static str, id: String },
    #[error("{what} {id} exists already")]
    Exists { what: &'static str, id: String },
    #[error("container {id} is {state}, so it cannot {verb}")]
    State { id: String, state: &'static str, verb: &'static str },
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    #[error("mount image {image} for container {container}")]
    Image {
        image: String,
        container: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("open the image store {path}")]
    Images {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{step} {path}")]
    Path {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{step} for sandbox {sandbox}")]
    Keeper {
        step: &'static str,
        sandbox: String,
        #[source]
        source: io::Error,
    },
    /// The keeper did as told and failed; its own words.
    #[error("sandbox {sandbox}: {message}")]
    Refused { sandbox: String, message: String },
    #[error("exec in container {id} took longer than {seconds} s and was ended")]
    ExecTimeout { id: String, seconds: u64 },
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}
