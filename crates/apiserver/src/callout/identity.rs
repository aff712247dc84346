//! Our own certificate towards a target, from two files that someone renews.
//!
//! The files are looked at before each call, which costs two `stat`s; nobody has to be told that they changed. A pair that does not fit, because
//! only one file is new yet, changes nothing: the other is still to come. A file system that does not answer makes its callers wait, within their
//! own time, and holds one thread however many they are.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::Semaphore;

use super::target::{ConfigError, Era, field};

/// Looks at files, one after the other: of those who come while one is under way, the first looks next, and for all.
#[derive(Debug)]
pub(super) struct Looks {
    turn: Arc<Semaphore>,
    begun: AtomicU64,
}

impl Default for Looks {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), begun: AtomicU64::new(0) }
    }
}

impl Looks {
    /// Returns when `look`, or one that somebody else began after this call, is done.
    pub(super) async fn share(&self, look: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let before = self.begun.load(Ordering::Acquire);
        let turn = self.turn.clone().acquire_owned().await.map_err(io::Error::other)?;
        // Whoever began it has given back his turn.
        if self.begun.load(Ordering::Acquire) != before {
            return Ok(());
        }
        self.begun.fetch_add(1, Ordering::Release);
        // The turn goes to the thread, which may look for longer than the caller waits.
        let look = move || {
            look();
            drop(turn);
        };
        tokio::task::spawn_blocking(look).await.map_err(io::Error::other)
    }
}

#[derive(Debug)]
pub(super) struct Identity {
    chain: PathBuf,
    key: PathBuf,
    pair: ArcSwap<CertifiedKey>,
    /// How many certificates there have been before this one.
    era: AtomicU64,
    /// The files as they were when they were last read, whatever came of it.
    seen: Mutex<Option<[Stamp; 2]>>,
    looks: Looks,
}

/// What differs between a file and the one in its place, or the same file after a change: device, inode, length, when it was written, and when
/// anything about it was changed, its mode for example.
type Stamp = (u64, u64, u64, [(i64, i64); 2]);

impl Identity {
    pub(super) fn open(chain: PathBuf, key: PathBuf) -> Result<Self, ConfigError> {
        // Before the files are read: what changes while they are is read again.
        let seen = Mutex::new(stamps(&chain, &key).ok());
        let pair = ArcSwap::from_pointee(read(&chain, &key)?);
        Ok(Self { chain, key, pair, era: AtomicU64::new(0), seen, looks: Looks::default() })
    }

    /// Reads the files if they changed. What era of certificates it is then; the present one where nobody can look.
    pub(super) async fn refresh(self: &Arc<Self>) -> Era {
        let identity = self.clone();
        if let Err(error) = self.looks.share(move || identity.look()).await {
            tracing::warn!(certificate = %self.chain.display(), %error, "look for a changed certificate");
        }
        Era(self.era.load(Ordering::Acquire))
    }

    fn look(&self) {
        // Between two renames a file is gone for a moment; the one that was read serves on.
        let Ok(now) = stamps(&self.chain, &self.key) else { return };
        if self.seen.lock().replace(now) == Some(now) {
            return;
        }
        match read(&self.chain, &self.key) {
            // A key that fits the same certificate is the same key.
            Ok(pair) if pair.cert == self.pair.load().cert => {}
            Ok(pair) => {
                self.pair.store(Arc::new(pair));
                self.era.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                let path = self.chain.display();
                tracing::warn!(certificate = %path, error = &error as &dyn std::error::Error, "read the changed certificate; the old one serves on");
            }
        }
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.pair.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn stamps(chain: &Path, key: &Path) -> io::Result<[Stamp; 2]> {
    let stamp = |path: &Path| {
        let times = |is: &fs::Metadata| [(is.mtime(), is.mtime_nsec()), (is.ctime(), is.ctime_nsec())];
        fs::metadata(path).map(|is| (is.dev(), is.ino(), is.len(), times(&is)))
    };
    Ok([stamp(chain)?, stamp(key)?])
}

fn read(chain: &Path, key: &Path) -> Result<CertifiedKey, ConfigError> {
    let bytes = |path: &Path| fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source });
    pair(&bytes(chain)?, &bytes(key)?, |part, why| field(format!("{part} {}", chain.display()), why))
}

/// A certificate and its key from PEM. `fault` words what is wrong with `client-certificate` or `client-key`.
pub(super) fn pair(chain: &[u8], key: &[u8], fault: impl Fn(&str, String) -> ConfigError) -> Result<CertifiedKey, ConfigError> {
    let of_chain = |error: &dyn std::fmt::Display| fault("client-certificate", error.to_string());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| of_chain(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| fault("client-key", error.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|error| of_chain(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_whose_mode_alone_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "key").unwrap();
        let seen = || stamps(&path, &path).unwrap();
        let before = seen();
        assert_eq!(seen(), before);
        // The clock of a file system ticks, and a change within a tick of the last looks the same.
        let is_noticed = |attempt: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o400 + attempt % 2)).unwrap();
            seen() != before
        };
        assert!((0..1_000_000).any(is_noticed), "{before:?}");
    }
}
