//! The administrator's kubeconfig, with a certificate and its key inside.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::authority::{self, Authority, Identity, Usage};
use super::renewal::{self, Listed, Renewing};
use super::{PkiError, Sans, files};

/// Life of the certificate in it.
const DAYS: i64 = 365;
const CLUSTER: &str = "knarr";
const USER: &str = "kubernetes-admin";

pub(super) struct AdminKubeconfig {
    pub(super) path: PathBuf,
    /// Of the server.
    pub(super) url: String,
    pub(super) authority: Arc<Authority>,
    /// Its lock also lets one renewal run at a time.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<CertificateDer<'static>>,
    /// Why the file is left as it is.
    left: Option<&'static str>,
}

/// What the file holds.
enum Found {
    Nothing,
    /// All of it is as it should be.
    Good(CertificateDer<'static>),
    /// Ours, but for another server or authority, or not readable.
    Other,
    /// Somebody put clusters or users of his own into it. Ours may still be there.
    Shared(Option<CertificateDer<'static>>),
}

impl AdminKubeconfig {
    /// Takes the file that is there if it is good for the server at `url`, and writes it otherwise: tools that hold it open see no change.
    pub(super) fn open(path: PathBuf, url: String, authority: Arc<Authority>, now: Timestamp) -> Result<AdminKubeconfig, PkiError> {
        let kubeconfig = AdminKubeconfig { path, url, authority, state: Mutex::default() };
        kubeconfig.bring(now, false, true)?;
        Ok(kubeconfig)
    }

    fn read(&self) -> Result<Found, PkiError> {
        let Some(text) = files::read(&self.path)? else { return Ok(Found::Nothing) };
        let certificate = field(&text, "client-certificate-data:").and_then(|data| STANDARD.decode(data).ok());
        let certificate = certificate.and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
        let is_for_us = field(&text, "server:") == Some(&self.url)
            && field(&text, "certificate-authority-data:") == Some(&STANDARD.encode(self.authority.pem()));
        Ok(match certificate {
            certificate if is_shared(&text) => Found::Shared(certificate),
            Some(certificate) if is_for_us => Found::Good(certificate),
            _ => Found::Other,
        })
    }

    /// `starting`: a file that is not there is written. While the process runs, whoever deleted it meant that.
    fn bring(&self, now: Timestamp, at_once: bool, starting: bool) -> Result<bool, PkiError> {
        let mut state = self.state.lock();
        let left = match self.read()? {
            Found::Good(certificate) if !at_once && authority::life_of(&certificate).is_some_and(|life| life.is_fresh(now)) => {
                *state = State { current: Some(certificate), left: None };
                return Ok(false);
            }
            Found::Nothing if !starting => Some("it was deleted, and comes back at the next start"),
            Found::Shared(certificate) => {
                state.current = certificate;
                Some("it holds other clusters or users too; move it away, and the next start writes a new one")
            }
            Found::Nothing | Found::Good(_) | Found::Other => None,
        };
        if let Some(reason) = left {
            let told = state.left.replace(reason) == left;
            if at_once {
                return Err(PkiError::Left { path: self.path.clone(), reason });
            }
            if !told {
                tracing::warn!(path = %self.path.display(), reason, "the administrator's kubeconfig is not renewed");
            }
            return Ok(false);
        }
        let org = Some(crate::auth::GROUP_MASTERS);
        let identity = self.authority.issue(USER, org, Usage::Client, &Sans::default(), DAYS, now)?;
        files::write(&self.path, &text(CLUSTER, USER, &self.url, self.authority.pem(), &identity))?;
        *state = State { current: CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).ok(), left: None };
        Ok(true)
    }
}

/// Whether a kubeconfig names clusters or users that are not ours. What is no kubeconfig names none.
fn is_shared(text: &str) -> bool {
    let Ok(config) = knarr_api::decode::value_from_yaml(text.as_bytes()) else { return false };
    [("clusters", CLUSTER), ("users", USER)]
        .into_iter()
        .any(|(field, ours)| config[field].as_array().is_some_and(|all| all.iter().any(|one| one["name"] != ours)))
}

impl Renewing for AdminKubeconfig {
    fn list(&self) -> Listed {
        let (name, used_by) = renewal::ADMIN;
        let state = self.state.lock();
        let empty = CertificateDer::from(Vec::new());
        let der = state.current.as_ref().unwrap_or(&empty);
        let renewed = authority::life_of(der).map(|life| life.renew_at()).filter(|_| state.left.is_none());
        Listed { left: state.left, ..Listed::of(name, used_by, renewed, der) }
    }

    fn renew_at(&self) -> Timestamp {
        let state = self.state.lock();
        if state.left.is_some() {
            // Whether it still is left is seen at each look.
            return Timestamp::MAX;
        }
        state.current.as_ref().and_then(authority::life_of).map_or(Timestamp::MIN, |life| life.renew_at())
    }

    fn renew(&self, now: Timestamp, at_once: bool) -> Result<bool, PkiError> {
        self.bring(now, at_once, false)
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
