//! Collections that are neither read nor written yet, as the key service that sealed them was silent at the start.

use knarr_api::{Status, status};
use knarr_store::{Collection, SealError, Shut};

use crate::{server::Core, verbs::write::commit_failed};

/// Lets a request at what is stored under `collection`. What a key service kept shut at the start opens with the first request after it answers.
pub(crate) async fn opened(core: &Core, collection: &Collection) -> Result<(), Status> {
    let Some(shut) = core.store.shut(collection) else { return Ok(()) };
    let sealing = core.encryption.as_ref().map(|encryption| encryption.sealing());
    let silent = match (&*shut.source, sealing) {
        (SealError::KeyService { service, .. }, Some(sealing)) => {
            sealing.services().iter().any(|known| known.name() == service && known.fault().is_some())
        }
        _ => false,
    };
    if silent { Err(still_shut(&shut)) } else { core.store.open_shut().await.map_err(commit_failed) }
}

/// What is shut is of no concern to whoever asks: names of others' objects stand in the log alone.
pub(crate) fn still_shut(shut: &Shut) -> Status {
    let Shut { collection, source, .. } = shut;
    match &**source {
        SealError::KeyService { service, .. } => {
            tracing::debug!(error = shut as &dyn std::error::Error, "shut");
            let wait = "can be neither read nor written until the key service that sealed it answers";
            status::internal(format!("{collection} {wait}: {service}; see /healthz/kms-providers"))
        }
        _ => {
            tracing::error!(error = shut as &dyn std::error::Error, "a record cannot be opened");
            status::internal(format!("{collection} cannot be opened; the server's log says why"))
        }
    }
}
