//! Who is known by others than this cluster: the issuers of an AuthenticationConfiguration, whose file is followed as it changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::configuration::{Anonymous, Configuration};
use super::jwk::Unverified;
use super::oidc::OidcError;
use crate::User;
use crate::callout::Callout;
use crate::reload::Watch;

#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
    #[error("follow {path} as it changes; raise fs.inotify.max_user_instances if there are too many")]
    Watch {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

pub(super) struct External {
    current: ArcSwap<Configuration>,
    own_issuer: String,
}

impl External {
    pub(super) fn nobody(own_issuer: &str) -> External {
        let none = Configuration { issuers: Vec::new(), anonymous: Anonymous::Default };
        External { current: ArcSwap::from_pointee(none), own_issuer: own_issuer.to_owned() }
    }

    /// Whether a caller without credentials is let in at `path`; `usual` says so where nothing is configured.
    pub(super) fn admits_anonymous(&self, path: &str, usual: impl Fn(&str) -> bool) -> bool {
        match &self.current.load().anonymous {
            Anonymous::Default => usual(path),
            Anonymous::Never => false,
            Anonymous::Everywhere => true,
            Anonymous::On(paths) => paths.iter().any(|given| given == path),
        }
    }

    pub(super) fn has_issuers(&self) -> bool {
        !self.current.load().issuers.is_empty()
    }

    /// Who shows this token; `None` where it is of no configured issuer.
    pub(super) async fn authenticate(&self, callout: &Callout, token: &str, now: Timestamp) -> Option<Result<User, OidcError>> {
        let current = self.current.load_full();
        let token = Unverified::parse(token).ok()?;
        let issuer = current.issuers.iter().find(|issuer| token.claims["iss"] == *issuer.url)?;
        Some(issuer.authenticate(callout, &token, now).await)
    }

    /// Takes the file's configuration; the future follows it and never ends. A change that is not valid is told and leaves all as it was.
    pub(super) fn follow(
        self: &Arc<External>,
        path: &Path,
    ) -> Result<impl Future<Output = ()> + Send + 'static + use<>, ConfigurationError> {
        let mut changes = Watch::new(path).map_err(|source| ConfigurationError::Watch { path: path.to_owned(), source })?;
        let mut text = read(path)?;
        self.take(path, &text)?;
        let (external, path) = (self.clone(), path.to_owned());
        Ok(async move {
            loop {
                changes.next().await;
                // Between the removal of the old file and the coming of the new one there is none.
                let Ok(new) = read(&path) else { continue };
                if new == text {
                    continue;
                }
                match external.take(&path, &new) {
                    Ok(()) => tracing::info!(path = %path.display(), "the new authentication configuration is in force"),
                    Err(error) => tracing::error!(%error, "the new authentication configuration is not valid; the old one stays in force"),
                }
                text = new;
            }
        })
    }

    fn take(&self, path: &Path, text: &[u8]) -> Result<(), ConfigurationError> {
        let invalid = |reason| ConfigurationError::Invalid { path: path.to_owned(), reason };
        self.current.store(Arc::new(Configuration::parse(text, &self.own_issuer).map_err(invalid)?));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigurationError> {
    fs::read(path).map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })
}
