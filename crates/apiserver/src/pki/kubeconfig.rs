//! The administrator's kubeconfig, with a certificate and its key inside.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::authority::{self, Authority, Identity, Life, Usage};
use super::renewal::{self, Listed, Renewing};
use super::{PkiError, Sans, files};

/// Life of the certificate in it.
const DAYS: i64 = 365;
const USER: &str = "kubernetes-admin";

pub(super) struct AdminKubeconfig {
    pub(super) path: PathBuf,
    /// Of the server.
    pub(super) url: String,
    pub(super) authority: Arc<Authority>,
    current: Mutex<Option<CertificateDer<'static>>>,
}

impl AdminKubeconfig {
    /// Takes the file that is there if it is good for the server at `url`, and writes it otherwise: tools that hold it open see no change.
    pub(super) fn open(path: PathBuf, url: String, authority: Arc<Authority>, now: Timestamp) -> Result<AdminKubeconfig, PkiError> {
        let kubeconfig = AdminKubeconfig { path, url, authority, current: Mutex::new(None) };
        kubeconfig.renew(now, false)?;
        Ok(kubeconfig)
    }

    /// The certificate in the file, if all of it is as it should be.
    fn read(&self) -> Result<Option<CertificateDer<'static>>, PkiError> {
        let Some(text) = files::read(&self.path)? else { return Ok(None) };
        let good = || {
            let certificate = STANDARD.decode(field(&text, "client-certificate-data:")?).ok()?;
            let ours = field(&text, "server:")? == self.url
                && field(&text, "certificate-authority-data:")? == STANDARD.encode(self.authority.pem());
            CertificateDer::from_pem_slice(&certificate).ok().filter(|_| ours)
        };
        Ok(good())
    }

    fn life(&self) -> Option<Life> {
        authority::life_of(self.current.lock().as_ref()?)
    }
}

impl Renewing for AdminKubeconfig {
    fn list(&self) -> Listed {
        let (name, used_by) = renewal::ADMIN;
        let current = self.current.lock();
        let empty = CertificateDer::from(Vec::new());
        let der = current.as_ref().unwrap_or(&empty);
        Listed::of(name, used_by, authority::life_of(der).map(|life| life.renew_at()), der)
    }

    fn renew_at(&self) -> Timestamp {
        self.life().map_or(Timestamp::MIN, |life| life.renew_at())
    }

    fn renew(&self, now: Timestamp, at_once: bool) -> Result<bool, PkiError> {
        let found = self.read()?;
        let is_fresh = found.as_ref().and_then(authority::life_of).is_some_and(|life| life.is_fresh(now));
        if is_fresh && !at_once {
            *self.current.lock() = found;
            return Ok(false);
        }
        let org = Some(crate::auth::GROUP_MASTERS);
        let identity = self.authority.issue(USER, org, Usage::Client, &Sans::default(), DAYS, now)?;
        files::write(&self.path, &text("knarr", USER, &self.url, self.authority.pem(), &identity))?;
        *self.current.lock() = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).ok();
        Ok(true)
    }
}

/// A kubeconfig for `user` with the credentials inside, for the server at `url`.
pub(super) fn text(cluster: &str, user: &str, url: &str, authority: &str, identity: &Identity) -> String {
    let ca = STANDARD.encode(authority);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster}\n  cluster:\n    certificate-authority-data: {ca}\n    server: {url}\n\
         contexts:\n\
         - name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\n\
         current-context: {cluster}\n\
         users:\n\
         - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

/// The value of a field in the text above.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim)
}
