//! Our own certificate towards a target, from two files that someone renews.
//!
//! The files are looked at before each call, which costs two `stat`s; nobody has to be told that they changed. A pair that does not fit, because
//! only one file is new yet, changes nothing: the other is still to come.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::target::{ConfigError, field};

#[derive(Debug)]
pub(super) struct Identity {
    chain: PathBuf,
    key: PathBuf,
    pair: ArcSwap<CertifiedKey>,
    /// The files as they were when they were last read, whatever came of it.
    seen: Mutex<Option<[Stamp; 2]>>,
}

/// What differs between a file and the one in its place: device, inode, length, and when it was written.
type Stamp = (u64, u64, u64, i64, i64);

impl Identity {
    pub(super) fn open(chain: PathBuf, key: PathBuf) -> Result<Self, ConfigError> {
        // Before the files are read: what changes while they are is read again.
        let seen = stamps(&chain, &key).ok();
        let pair = read(&chain, &key)?;
        Ok(Self { chain, key, pair: ArcSwap::from_pointee(pair), seen: Mutex::new(seen) })
    }

    /// Reads the files if they changed, and says whether there is another certificate now.
    pub(super) fn refresh(&self) -> bool {
        // Between two renames a file is gone for a moment; the one that was read serves on.
        let Ok(now) = stamps(&self.chain, &self.key) else { return false };
        let mut seen = self.seen.lock();
        if *seen == Some(now) {
            return false;
        }
        *seen = Some(now);
        match read(&self.chain, &self.key) {
            Ok(pair) => {
                self.pair.store(Arc::new(pair));
                true
            }
            Err(error) => {
                let path = self.chain.display();
                tracing::warn!(certificate = %path, error = &error as &dyn std::error::Error, "read the changed certificate; the old one serves on");
                false
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
    let stamp = |path: &Path| fs::metadata(path).map(|is| (is.dev(), is.ino(), is.len(), is.mtime(), is.mtime_nsec()));
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
