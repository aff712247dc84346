//! Audit: who did what, when, from where, with what result; as upstream records it (audit.k8s.io/v1).
//!
//! [`Audit::begin`] asks the policy once, when it is known who asks for what. What it wants recorded goes along as a [`Trail`], which the
//! request's way fills, and which writes an event for each stage: to the log file, to a webhook, or both. Nothing here ever waits: a request
//! is not slower, and does not fail, because its events cannot be written.

mod event;
mod log;
mod policy;
mod room;
mod trail;
mod webhook;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::callout::{Callout, Target};
use event::Event;
use log::Log;
pub use log::LogSettings;
use policy::Policy;
pub(crate) use trail::{Facts, Failed, Lasts, Trail};
use webhook::Webhook;

/// Bytes of nearly every event without bodies.
const EVENT_BYTES: usize = 1024;
/// Bytes of a policy file.
const POLICY_BYTES_MAX: u64 = 1 << 20;

/// What is recorded, and where it goes. By default nowhere.
#[derive(Clone, Debug, Default)]
pub struct AuditSettings {
    /// A policy (audit.k8s.io/v1); without one, what was done and by whom is recorded, without bodies.
    pub policy_file: Option<PathBuf>,
    pub log: Option<LogSettings>,
    /// A kubeconfig file that names the server which takes events.
    pub webhook_config_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("read the audit policy {path}")]
    ReadPolicy { path: PathBuf, source: io::Error },
    #[error("the audit policy {path}: {reason}")]
    Policy { path: PathBuf, reason: String },
    #[error("open the audit log {path}")]
    Log { path: PathBuf, source: io::Error },
    #[error("the audit webhook: {reason}")]
    Webhook { reason: String },
}

/// The recorder of one server.
#[derive(Debug)]
pub(crate) struct Audit {
    policy: Policy,
    log: Option<Log>,
    webhook: Option<Webhook>,
}

impl Audit {
    /// The recorder, and the future that sends its events to the webhook until `stop`, and then the last of them.
    pub(crate) fn open(
        settings: &AuditSettings,
        callout: &Callout,
        stop: CancellationToken,
    ) -> Result<(Arc<Self>, BoxFuture<'static, ()>), AuditError> {
        let policy = match &settings.policy_file {
            Some(path) => read_policy(path)?,
            None => Policy::parse(policy::DEFAULT.as_bytes()).expect("the default policy is valid"),
        };
        let log = settings.log.clone().map(|log| {
            let path = log.path.clone();
            Log::start(log).map_err(|source| AuditError::Log { path, source })
        });
        let log = log.transpose()?;
        let (webhook, sending) = match &settings.webhook_config_file {
            Some(path) => {
                let target = Target::from_kubeconfig(path).map_err(|error| AuditError::Webhook { reason: error.to_string() })?;
                let (webhook, sending) = Webhook::new(callout.clone(), target, stop);
                (Some(webhook), sending.boxed())
            }
            None => (None, futures::future::ready(()).boxed()),
        };
        Ok((Arc::new(Self { policy, log, webhook }), sending))
    }

    /// Whether anyone would read an event.
    fn is_on(&self) -> bool {
        self.log.is_some() || self.webhook.is_some()
    }

    fn write(&self, event: &Event) {
        let mut line = Vec::with_capacity(EVENT_BYTES);
        serde_json::to_writer(&mut line, event).expect("an event has only text, numbers and JSON in it");
        line.push(b'\n');
        if let Some(log) = &self.log {
            log.write(&line);
        }
        if let Some(webhook) = &self.webhook {
            webhook.send(Bytes::from(line));
        }
    }

    /// Returns once what was written to the log so far is in its file. Blocks.
    pub(crate) fn close(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }

    /// Events that no one took.
    pub(crate) fn lost(&self) -> u64 {
        self.log.as_ref().map_or(0, Log::lost) + self.webhook.as_ref().map_or(0, Webhook::lost)
    }
}

fn read_policy(path: &Path) -> Result<Policy, AuditError> {
    let fault = |source| AuditError::ReadPolicy { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(fault)?.len();
    if size > POLICY_BYTES_MAX {
        return Err(fault(io::Error::new(io::ErrorKind::InvalidData, format!("it has {size} bytes, at most {POLICY_BYTES_MAX} are read"))));
    }
    let text = fs::read(path).map_err(fault)?;
    Policy::parse(&text).map_err(|reason| AuditError::Policy { path: path.to_owned(), reason })
}
