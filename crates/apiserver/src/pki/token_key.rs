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
/// Begin the lines before a key that say when it was made, and from when on it signs. PEM readers pass over them.
const MADE: &str = "# made ";
const SIGNS: &str = "# signs ";
/// SubjectPublicKeyInfo of a P-256 key up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// Seconds that a relying party may go by a published key set, and by the configuration that names it (upstream's, routes/openidmetadata.go).
pub const KEY_SET_SECONDS: i64 = 3600;
/// How long a new key is published before it signs: as long as somebody may go by the set before it, and a while for that set to have been on its way.
const PUBLISHED_BEFORE: SignedDuration = SignedDuration::from_secs(KEY_SET_SECONDS + 300);
/// Keys at a time. A token lives a year at most, so that a rotation each month leaves fewer that still matter.
const KEYS_MAX: usize = 16;
/// The longest life of a token (reviews, SECONDS_GRANTED_MAX): what a key signed has ended when its successor has signed for so long.
const TOKEN_LIFE_MAX: SignedDuration = SignedDuration::from_secs(crate::reviews::TOKEN_SECONDS_MAX);
/// By then pods have tokens of the new key: kubelets renew theirs after a day at the latest (pkg/kubelet/token, maxTTL), and have half a day more
/// where that failed.
const SETTLED_AFTER: SignedDuration = SignedDuration::from_hours(36);

/// The keys that tokens are checked with, the newest first. One also signs: those after it are from before a rotation, those before it are
/// published already and sign when relying parties have read of them.
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
    /// From when on it signs, where that is not when it was made.
    signs: Option<Timestamp>,
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
    pub use_of: KeyUse,
}

/// What a key is there for. All keys verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// Is published, and signs from this time on.
    SignsFrom(Timestamp),
    Signs,
    VerifiesOnly,
}

/// When a new key begins to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turnover {
    /// When nobody goes by a key set without it any more ([`KEY_SET_SECONDS`]).
    Published,
    /// At once, whatever the clock says later, though relying parties may refuse new tokens until they read the key set again: the old key may be in wrong hands.
    AtOnce,
}

impl TokenKeys {
    /// Opens the file in `dir`, or makes a key.
    pub(super) fn open(dir: &Path, now: Timestamp) -> Result<TokenKeys, PkiError> {
        let path = dir.join(FILE);
        let keys = match files::read(&path)? {
            Some(text) => parse(&text).map_err(|reason| PkiError::Parse { path: path.clone(), reason })?,
            None => {
                let keys = vec![Arc::new(TokenKey::generate(now, None)?)];
                files::write(&path, &text(&keys))?;
                keys
            }
        };
        Ok(TokenKeys { path: Some(path), keys: ArcSwap::from_pointee(keys), changing: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn generate() -> TokenKeys {
        let now = Timestamp::now();
        let keys = vec![Arc::new(TokenKey::generate(now, None).unwrap())];
        TokenKeys { path: None, keys: ArcSwap::from_pointee(keys), changing: Mutex::default() }
    }

    /// The key that signs at `now`.
    pub(crate) fn signing(&self, now: Timestamp) -> Arc<TokenKey> {
        let keys = self.keys.load();
        keys[signing(&keys, now)].clone()
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<TokenKey>> {
        self.keys.load().iter().find(|key| key.id == id).cloned()
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<TokenKey>>> {
        self.keys.load_full()
    }

    pub(super) fn list(&self, now: Timestamp) -> Vec<ListedKey> {
        let keys = self.all();
        let signing = signing(&keys, now);
        let use_of = |at: usize| match keys[at].signs {
            _ if at == signing => KeyUse::Signs,
            Some(from) if at < signing => KeyUse::SignsFrom(from),
            _ => KeyUse::VerifiesOnly,
        };
        keys.iter().enumerate().map(|(at, key)| ListedKey { id: key.id.clone(), made: key.made, use_of: use_of(at) }).collect()
    }

    /// Makes a new key, which is published at once; the others still verify, but for those whose tokens have all ended, and one that has not begun to
    /// sign: with that there is nothing to wait for, or no need to.
    pub(super) fn rotate(&self, turnover: Turnover, now: Timestamp) -> Result<ListedKey, PkiError> {
        let _turn = self.changing.lock();
        let keys = self.all();
        let (waiting, keys) = keys.split_at(signing(&keys, now));
        let signs = match (turnover, waiting.first().and_then(|key| key.signs)) {
            (Turnover::Published, Some(from)) => return Err(PkiError::KeyWaits { from }),
            (Turnover::Published, None) => Some(now + PUBLISHED_BEFORE),
            (Turnover::AtOnce, _) => None,
        };
        let old = still_matter(keys, now);
        if old.len() >= KEYS_MAX {
            return Err(PkiError::TokenKeys { count: old.len() });
        }
        let new = Arc::new(TokenKey::generate(now, signs)?);
        self.put(std::iter::once(new).chain(old.iter().cloned()).collect())?;
        Ok(self.list(now).swap_remove(0))
    }

    /// Forgets the keys from before the one that signs; their ids. Tokens signed with them are no longer good: where that key is so young that
    /// pods may have no tokens of it yet, only if `forced`.
    pub(super) fn forget(&self, now: Timestamp, forced: bool) -> Result<Vec<String>, PkiError> {
        let _turn = self.changing.lock();
        let keys = self.all();
        let (kept, old) = keys.split_at(signing(&keys, now) + 1);
        if let ([], Some(from)) = (old, kept.first().and_then(|key| key.signs).filter(|from| *from > now)) {
            return Err(PkiError::KeyWaits { from });
        }
        let since = kept.last().and_then(|key| key.since());
        if let Some(since) = since.filter(|since| !forced && !old.is_empty() && now < *since + SETTLED_AFTER) {
            return Err(PkiError::YoungKey { since, until: since + SETTLED_AFTER });
        }
        self.put(kept.to_vec())?;
        Ok(old.iter().map(|key| key.id.clone()).collect())
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

/// The place of the key that signs: the newest whose time has come. Where none has, as a clock that was set back makes it, the oldest has long signed.
fn signing(keys: &[Arc<TokenKey>], now: Timestamp) -> usize {
    // There is always one: `parse` refuses a file without.
    keys.iter().position(|key| key.signs.is_none_or(|from| from <= now)).unwrap_or(keys.len() - 1)
}

/// Those that may have signed a token which has not ended. The time of a key that does not know when it was made is taken as now.
fn still_matter(keys: &[Arc<TokenKey>], now: Timestamp) -> Vec<Arc<TokenKey>> {
    let successor = |at: usize| at.checked_sub(1).and_then(|before| keys[before].since());
    let ended = |at: usize| successor(at).is_some_and(|since| since + TOKEN_LIFE_MAX <= now);
    keys.iter().enumerate().filter(|(at, _)| !ended(*at)).map(|(_, key)| key.clone()).collect()
}

/// The file: before each key, its times.
fn text(keys: &[Arc<TokenKey>]) -> String {
    let line = |name: &str, time: Option<Timestamp>| time.map(|time| format!("{name}{time}\n")).unwrap_or_default();
    keys.iter().map(|key| line(MADE, key.made) + &line(SIGNS, key.signs) + &key.pem).collect()
}

fn parse(text: &str) -> Result<Vec<Arc<TokenKey>>, String> {
    let mut keys = Vec::new();
    let time = |text: &str| text.trim().parse::<Timestamp>().map_err(|error| error.to_string());
    let (mut made, mut signs, mut pem) = (None, None, String::new());
    for line in text.lines() {
        match (line.strip_prefix(MADE), line.strip_prefix(SIGNS)) {
            (Some(text), _) => made = Some(time(text)?),
            (_, Some(text)) => signs = Some(time(text)?),
            _ => pem.extend([line, "\n"]),
        }
        if line.starts_with("-----END") {
            keys.push(Arc::new(TokenKey::from_pem(std::mem::take(&mut pem), made.take(), signs.take())?));
        }
    }
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
}

impl TokenKey {
    fn generate(now: Timestamp, signs: Option<Timestamp>) -> Result<TokenKey, PkiError> {
        let second = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        TokenKey::from_pem(authority::new_key()?.serialize_pem(), Some(second(now)), signs.map(second)).map_err(|_| PkiError::Generate)
    }

    /// Since when it signs.
    fn since(&self) -> Option<Timestamp> {
        self.signs.or(self.made)
    }

    fn from_pem(pem: String, made: Option<Timestamp>, signs: Option<Timestamp>) -> Result<TokenKey, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|error| format!("not a P-256 key in PKCS #8: {error}"))?;
        let public = pair.public_key().as_ref().to_vec();
        let hash = Sha256::new().chain_update(P256_SPKI_PREFIX).chain_update(&public).finalize();
        Ok(TokenKey { id: URL_SAFE_NO_PAD.encode(hash), made, signs, pem, public, pair })
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
