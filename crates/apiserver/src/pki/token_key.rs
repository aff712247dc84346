//! The key that signs service-account tokens (ES256), and those that did before it, in `sa.key`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::{PkiError, authority, files};

const FILE: &str = "sa.key";
/// Begins the line before a key that says when it was made. PEM readers pass over it.
const MADE: &str = "# made ";
/// SubjectPublicKeyInfo of a P-256 key up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// Keys at a time. A token lives a year at most, so that a rotation each month leaves fewer that still matter.
const KEYS_MAX: usize = 16;
/// The longest life of a token (reviews, SECONDS_GRANTED_MAX): what a key signed has ended when its successor has signed for so long.
const TOKEN_LIFE_MAX: SignedDuration = SignedDuration::from_secs(crate::reviews::TOKEN_SECONDS_MAX);
/// By then pods have tokens of the new key: kubelets renew theirs after a day at the latest (pkg/kubelet/token, maxTTL), and have half a day more
/// where that failed.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_hours(36);

/// The keys that tokens are checked with; the first also signs. The others are from before a rotation.
pub(crate) struct TokenKeys {
    /// None in tests alone.
    path: Option<PathBuf>,
    keys: ArcSwap<Vec<Arc<TokenKey>>>,
    /// One change at a time.
    changing: Mutex<()>,
}

pub(crate) struct TokenKey {
    /// Names the key in token headers and in the published key set: the hash of its public half, as upstream does
    /// (serviceaccount/jwt.go, keyIDFromPublicKey), so that two servers with one key agree.
    id: String,
    /// Unknown of keys that were made before this was written down.
    made: Option<Timestamp>,
    pem: String,
    /// The uncompressed point: 0x04, x, y.
    public: Vec<u8>,
    pair: EcdsaKeyPair,
}

/// A key, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    pub id: String,
    pub made: Option<Timestamp>,
    /// Whether new tokens are signed with it.
    pub signs: bool,
}

impl TokenKeys {
    /// Opens the file in `dir`, or makes a key: the first in the file signs.
    pub(super) fn open(dir: &Path, now: Timestamp) -> Result<TokenKeys, PkiError> {
        let path = dir.join(FILE);
        let keys = match files::read(&path)? {
            Some(text) => parse(&text).map_err(|reason| PkiError::Parse { path: path.clone(), reason })?,
            None => {
                let keys = vec![Arc::new(TokenKey::generate(now)?)];
                files::write(&path, &text(&keys))?;
                keys
            }
        };
        Ok(TokenKeys { path: Some(path), keys: ArcSwap::from_pointee(keys), changing: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn generate() -> TokenKeys {
        let keys = vec![Arc::new(TokenKey::generate(Timestamp::now()).unwrap())];
        TokenKeys { path: None, keys: ArcSwap::from_pointee(keys), changing: Mutex::default() }
    }

    /// The key that signs.
    pub(crate) fn signing(&self) -> Arc<TokenKey> {
        // There is always one: `parse` refuses a file without.
        self.keys.load()[0].clone()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<TokenKey>> {
        self.keys.load().iter().find(|key| key.id == id).cloned()
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<TokenKey>>> {
        self.keys.load_full()
    }

    pub(super) fn list(&self) -> Vec<ListedKey> {
        let listed = |(at, key): (usize, &Arc<TokenKey>)| ListedKey { id: key.id.clone(), made: key.made, signs: at == 0 };
        self.all().iter().enumerate().map(listed).collect()
    }

    /// Signs with a new key from now on; the others still verify, but for those whose tokens have all ended. The new key's id.
    pub(super) fn rotate(&self, now: Timestamp) -> Result<String, PkiError> {
        let _turn = self.changing.lock();
        let old = still_matter(&self.all(), now);
        if old.len() >= KEYS_MAX {
            return Err(PkiError::TokenKeys { count: old.len() });
        }
        let new = Arc::new(TokenKey::generate(now)?);
        let id = new.id.clone();
        self.put(std::iter::once(new).chain(old.iter().cloned()).collect())?;
        Ok(id)
    }

    /// Forgets all keys but the one that signs; their ids. Tokens signed with them are no longer good: where the new key is so young that pods
    /// may have no others yet, only if `forced`.
    pub(super) fn forget(&self, now: Timestamp, forced: bool) -> Result<Vec<String>, PkiError> {
        let _turn = self.changing.lock();
        let old = self.all();
        if let Some(made) = old[0].made.filter(|made| !forced && old.len() > 1 && now < *made + SETTLED_AFTER) {
            return Err(PkiError::YoungKey { made, until: made + SETTLED_AFTER });
        }
        self.put(vec![old[0].clone()])?;
        Ok(old[1..].iter().map(|key| key.id.clone()).collect())
    }

    /// On disk before it is used.
    fn put(&self, keys: Vec<Arc<TokenKey>>) -> Result<(), PkiError> {
        if let Some(path) = &self.path {
            files::write(path, &text(&keys))?;
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// Those that may have signed a token which has not ended. The time of a key that does not know when it was made is taken as now.
fn still_matter(keys: &[Arc<TokenKey>], now: Timestamp) -> Vec<Arc<TokenKey>> {
    let successor = |at: usize| at.checked_sub(1).and_then(|before| keys[before].made);
    let ended = |at: usize| successor(at).is_some_and(|made| made + TOKEN_LIFE_MAX <= now);
    keys.iter().enumerate().filter(|(at, _)| !ended(*at)).map(|(_, key)| key.clone()).collect()
}

/// The file: before each key, when it was made.
fn text(keys: &[Arc<TokenKey>]) -> String {
    let made = |key: &TokenKey| key.made.map(|made| format!("{MADE}{made}\n")).unwrap_or_default();
    keys.iter().map(|key| made(key) + &key.pem).collect()
}

fn parse(text: &str) -> Result<Vec<Arc<TokenKey>>, String> {
    let mut keys = Vec::new();
    let (mut made, mut pem) = (None, String::new());
    for line in text.lines() {
        match line.strip_prefix(MADE) {
            Some(time) => made = Some(time.trim().parse::<Timestamp>().map_err(|error| error.to_string())?),
            None => pem.extend([line, "\n"]),
        }
        if line.starts_with("-----END") {
            keys.push(Arc::new(TokenKey::from_pem(std::mem::take(&mut pem), made.take())?));
        }
    }
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
}

impl TokenKey {
    fn generate(now: Timestamp) -> Result<TokenKey, PkiError> {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        TokenKey::from_pem(authority::new_key()?.serialize_pem(), Some(now)).map_err(|_| PkiError::Generate)
    }

    fn from_pem(pem: String, made: Option<Timestamp>) -> Result<TokenKey, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|error| format!("not a P-256 key in PKCS #8: {error}"))?;
        let public = pair.public_key().as_ref().to_vec();
        let hash = Sha256::new().chain_update(P256_SPKI_PREFIX).chain_update(&public).finalize();
        Ok(TokenKey { id: URL_SAFE_NO_PAD.encode(hash), made, pem, public, pair })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The affine coordinates of the public key, 32 bytes each.
    pub(crate) fn coordinates(&self) -> (&[u8], &[u8]) {
        self.public[1..].split_at(32)
    }

    /// Signs with ECDSA, SHA-256; r and s, 32 bytes each (RFC 7518, 3.4).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| PkiError::Generate)?;
        Ok(signature.as_ref().to_vec())
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public).verify(message, signature).is_ok()
    }
}
