//! The key that signs service-account tokens (ES256), in `sa.key`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::{PkiError, authority, files};

const FILE: &str = "sa.key";
/// SubjectPublicKeyInfo of a P-256 key up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// The keys that tokens are checked with; the first also signs. Several so that a rotation can keep the old ones.
pub(crate) struct TokenKeys {
    keys: Vec<TokenKey>,
}

pub(crate) struct TokenKey {
    /// Names the key in token headers and in the published key set: the hash of its public half, as upstream does
    /// (serviceaccount/jwt.go, keyIDFromPublicKey), so that two servers with one key agree.
    id: String,
    /// The uncompressed point: 0x04, x, y.
    public: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl TokenKeys {
    pub(super) fn open(dir: &Path) -> Result<TokenKeys, PkiError> {
        let path = dir.join(FILE);
        let pem = match files::read(&path)? {
            Some(pem) => pem,
            None => {
                let pem = authority::new_key()?.serialize_pem();
                files::write(&path, &pem)?;
                pem
            }
        };
        let key = TokenKey::from_pem(&pem).map_err(|reason| PkiError::Parse { path, reason })?;
        Ok(TokenKeys { keys: vec![key] })
    }

    #[cfg(test)]
    pub(crate) fn generate() -> TokenKeys {
        let pem = authority::new_key().unwrap().serialize_pem();
        TokenKeys { keys: vec![TokenKey::from_pem(&pem).unwrap()] }
    }

    /// The key that signs.
    pub(crate) fn signing(&self) -> &TokenKey {
        // `open` makes one or fails.
        &self.keys[0]
    }

    pub(crate) fn find(&self, id: &str) -> Option<&TokenKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &TokenKey> {
        self.keys.iter()
    }
}

impl TokenKey {
    fn from_pem(pem: &str) -> Result<TokenKey, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|error| format!("not a P-256 key in PKCS #8: {error}"))?;
        let public = pair.public_key().as_ref().to_vec();
        let hash = Sha256::new().chain_update(P256_SPKI_PREFIX).chain_update(&public).finalize();
        Ok(TokenKey { id: URL_SAFE_NO_PAD.encode(hash), public, pair })
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
