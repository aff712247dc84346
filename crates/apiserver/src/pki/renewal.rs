//! When certificates are renewed, and how they are told to people.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::Notify;

use super::{PkiError, Sans, authority, files, kubeconfig};

/// Between attempts to renew what cannot be renewed now (a full disk, say).
const RETRY: Duration = Duration::from_secs(60);
/// A look at the dates at least this often: clocks are set, and machines sleep, and neither moves a deadline.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10 * 60);

/// A certificate of the cluster, for people.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub subject: String,
    /// Names and addresses that it is good for.
    pub sans: Vec<String>,
    pub used_by: String,
    pub issued: Timestamp,
    pub expires: Timestamp,
    /// From when on the running Knarr renews it; never if none.
    pub renewed: Option<Timestamp>,
    /// Why it is not, although it could be.
    pub left: Option<&'static str>,
}

impl Listed {
    pub(super) fn of(name: &str, used_by: &str, renewed: Option<Timestamp>, der: &CertificateDer<'_>) -> Listed {
        let subject = x509_parser::parse_x509_certificate(der).map(|(_, certificate)| certificate.subject().to_string());
        let sans = Sans::of(der).unwrap_or_default();
        let (issued, expires) = authority::life_of(der).map_or_else(Default::default, |life| (life.from, life.until));
        let sans = sans.names.iter().cloned().chain(sans.addresses.iter().map(ToString::to_string)).collect();
        Listed {
            name: name.to_owned(),
            subject: subject.unwrap_or_default(),
            sans,
            used_by: used_by.to_owned(),
            issued,
            expires,
            renewed,
            left: None,
        }
    }

    fn of_pem(name: &str, used_by: &str, renews: bool, pem: &[u8]) -> Option<Listed> {
        let der = CertificateDer::from_pem_slice(pem).ok()?;
        let renewed = authority::life_of(&der).filter(|_| renews).map(|life| life.renew_at());
        Some(Listed::of(name, used_by, renewed, &der))
    }
}

pub(super) const CLUSTER_AUTHORITY: (&str, &str) = ("ca", "all that is below, and kube-root-ca.crt");
pub(super) const FRONT_PROXY_AUTHORITY: (&str, &str) = ("front-proxy-ca", "extension API servers, to know the front proxy");
pub(super) const SERVING: (&str, &str) = ("apiserver", "the API server, to its clients");
pub(super) const ADMIN: (&str, &str) = ("admin.kubeconfig", "administrators: kubectl, knarr get");

/// The certificates that lie in a data directory, for when nobody has it. What lives in memory only is made at each start.
pub fn survey(data_dir: &Path) -> Result<Vec<Listed>, PkiError> {
    let mut found = Vec::new();
    for (renews, (name, used_by)) in [(false, CLUSTER_AUTHORITY), (false, FRONT_PROXY_AUTHORITY), (true, SERVING)] {
        if let Some(pem) = files::read(&data_dir.join("pki").join(format!("{name}.crt")))? {
            found.extend(Listed::of_pem(name, used_by, renews, pem.as_bytes()));
        }
    }
    if let Some(text) = files::read(&data_dir.join(ADMIN.0))? {
        let pem = kubeconfig::field(&text, "client-certificate-data:").and_then(|data| STANDARD.decode(data).ok());
        found.extend(pem.and_then(|pem| Listed::of_pem(ADMIN.0, ADMIN.1, true, &pem)));
    }
    Ok(found)
}

/// What renews itself while the process runs.
pub(super) trait Renewing: Send + Sync {
    fn list(&self) -> Listed;
    /// When a third of its life is left.
    fn renew_at(&self) -> Timestamp;
    /// Issues it anew if its time has come, or at once; whether it did.
    fn renew(&self, now: Timestamp, at_once: bool) -> Result<bool, PkiError>;
}

/// All of them.
#[derive(Default)]
pub(super) struct Renewals {
    all: Mutex<Vec<Arc<dyn Renewing>>>,
    added: Notify,
    /// Authorities that had ended at the last pass, in the words of the error.
    told: Mutex<BTreeSet<String>>,
}

/// What came of an order to renew, by the names of the certificates.
#[derive(Debug, Default)]
pub struct Renewed {
    pub done: Vec<String>,
    pub failed: Vec<(String, PkiError)>,
}

impl Renewals {
    pub(super) fn add(&self, one: Arc<dyn Renewing>) {
        self.all.lock().push(one);
        self.added.notify_one();
    }

    pub(super) fn list(&self) -> Vec<Listed> {
        self.all().iter().map(|one| one.list()).collect()
    }

    /// Issues anew at once: the one of that name, or all.
    pub(super) fn renew(&self, name: Option<&str>) -> Renewed {
        let mut renewed = Renewed::default();
        for one in self.all() {
            let listed = one.list();
            if name.is_some_and(|name| name != listed.name) {
                continue;
            }
            match one.renew(Timestamp::now(), true) {
                Ok(true) => renewed.done.push(listed.name),
                Ok(false) => {}
                Err(error) => renewed.failed.push((listed.name, error)),
            }
        }
        // Their times have changed.
        self.added.notify_one();
        renewed
    }

    /// Renews each as its time comes. Ends only when dropped.
    pub(super) async fn keep(&self) {
        loop {
            let pause = self.pass(Timestamp::now());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.added.notified() => {}
            }
        }
    }

    /// Renews what is due; how long until the next look.
    pub(super) fn pass(&self, now: Timestamp) -> Duration {
        let mut pause = LOOK_EVERY_MAX;
        let before = std::mem::take(&mut *self.told.lock());
        for one in self.all() {
            match one.renew(now, false) {
                Ok(true) => tracing::info!(certificate = one.list().name, until = %one.list().expires, "renewed a certificate"),
                Ok(false) => {}
                // It stays so until somebody does something about it.
                Err(error @ PkiError::Ended { .. })
                    if !self.told.lock().insert(error.to_string()) || before.contains(&error.to_string()) => {}
                Err(error) => {
                    let name = one.list().name;
                    tracing::error!(certificate = name, error = &error as &dyn std::error::Error, "renew a certificate");
                }
            }
            // In the past where it could not be renewed, or where its authority ends so soon that it cannot be fresh.
            let left = Duration::try_from(one.renew_at().duration_since(now)).ok().filter(|left| !left.is_zero());
            pause = pause.min(left.unwrap_or(RETRY));
        }
        pause
    }

    #[cfg(test)]
    pub(super) fn told(&self) -> BTreeSet<String> {
        self.told.lock().clone()
    }

    fn all(&self) -> Vec<Arc<dyn Renewing>> {
        self.all.lock().clone()
    }
}
