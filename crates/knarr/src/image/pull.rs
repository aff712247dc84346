//! `knarr image pull`: what travels between the command and the Knarr that runs, one JSON document a line.

use std::{path::Path, sync::Arc};

use hyper::body::Incoming;
use knarr_runtime::{Images, Logins, Progress};
use serde::{Deserialize, Serialize};

use super::progress::Shown;
use crate::{
    orders,
    report::{Failure, chain},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// Others have their turn.
    Waiting,
    Started,
    Blob {
        digest: String,
        done: u64,
        total: u64,
    },
    Unpacked {
        digest: String,
    },
    Pulled {
        text: String,
    },
    Failed {
        reason: String,
    },
}

/// The text of a file with credentials, checked; nothing where none is named.
pub(crate) fn logins(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = std::fs::read(path).map_err(|error| Failure::Usage(format!("read {}: {error}", path.display())))?;
    Logins::parse(&text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(text)
}

/// Pulls with the credentials of `logins`; the answer says what came.
pub(crate) async fn pull(
    images: &Images,
    name: &str,
    logins: &[u8],
    tell: impl Fn(Line) + Send + Sync + 'static,
) -> Result<String, String> {
    let credentials = if logins.is_empty() { Vec::new() } else { Logins::parse(logins).map_err(|error| error.to_string())?.of(name) };
    let tell = Arc::new(tell);
    tell(Line::Waiting);
    let told = tell.clone();
    let pulled = images.pull(name, &credentials, move |progress| {
        told(match progress {
            Progress::Started => Line::Started,
            Progress::Blob { digest, done, total } => Line::Blob { digest, done, total },
            Progress::Unpacked { digest } => Line::Unpacked { digest },
        });
    });
    match pulled.await {
        Ok(image) => Ok(format!("pulled {} ({}, {})\n", super::names(&image), image.id, super::size(image.size_bytes))),
        Err(error) if error.is_denied() => Err(format!(
            "{}; give other credentials with --auth-file, or to all pulls with `knarr up --registry-auth-file`",
            chain(&*error)
        )),
        Err(error) => Err(chain(&*error)),
    }
}

/// Shows what a running Knarr tells of a pull, to its end.
pub(super) async fn follow(body: Incoming, shown: &Shown) -> Result<String, Failure> {
    let told = orders::follow(body, |line| match line {
        Line::Pulled { text } => Some(Ok(text)),
        Line::Failed { reason } => Some(Err(reason)),
        line => {
            shown.show(&line);
            None
        }
    });
    let told = told.await;
    shown.clear();
    told?.ok_or_else(|| Failure::Failed("Knarr ended before the pull did; start it again and repeat".into()))
}
