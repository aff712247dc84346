//! Who is known by others than this cluster: the issuers of an AuthenticationConfiguration, whose file is followed as it changes.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::configuration::{Anonymous, Configuration};
use super::jwk::Unverified;
use super::oidc::OidcError;
use crate::User;
use crate::callout::Callout;
use crate::reload::{self, ConfigurationError};

pub(super) struct External {
    current: ArcSwap<Configuration>,
    own_issuers: Vec<String>,
}

impl External {
    pub(super) fn nobody(own_issuers: &[String]) -> External {
        let none = Configuration { issuers: Vec::new(), anonymous: Anonymous::Default };
        External { current: ArcSwap::from_pointee(none), own_issuers: own_issuers.to_vec() }
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
        let external = self.clone();
        reload::follow(path, move |text| {
            external.current.store(Arc::new(Configuration::parse(text, &external.own_issuers)?));
            Ok(())
        })
    }
}
