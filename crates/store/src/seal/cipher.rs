//! Sealing with keys that are at hand: the schemes of EncryptionConfiguration v1.
//!
//! AES-GCM takes the path of the object as additional data. Secretbox and AES-CBC have no place for such, so the value is sealed behind the
//! hash of its path. That hash is two blocks long: whoever bends the first of a CBC text by its IV cannot bend the second too.

use std::fmt;

use aes_gcm::{
    AesGcm,
    aead::{Aead as _, AeadCore, KeyInit, Payload, consts::U12, generic_array::GenericArray},
    aes::{Aes128, Aes192, Aes256},
};
use cbc::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _, block_padding::Pkcs7};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};

use super::{PREFIX, Seal};

/// Random bits of an AES-GCM nonce are few: after 2^32 values under one key a repetition has a chance of 2^-32 (NIST SP 800-38D, 8.3).
/// A cluster that writes a hundred Secrets each second comes there in a year; `knarr secrets rotate` starts anew.
const GCM_NONCE_BYTES: usize = 12;
const BOX_NONCE_BYTES: usize = 24;
const CBC_IV_BYTES: usize = 16;
const PATH_HASH_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    AesGcm,
    AesCbc,
    Secretbox,
}

#[derive(Debug, thiserror::Error)]
#[error("secret is not of the expected length, got {got}, expected one of {expected:?}")]
pub struct KeyLength {
    pub got: usize,
    pub expected: &'static [usize],
}

impl Cipher {
    fn scheme(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    fn lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[32],
        }
    }
}

/// A named key, ready for use.
pub struct SealingKey {
    seal: Seal,
    machine: Box<dyn Machine>,
}

/// Never the key.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKey").field(&self.seal).finish()
    }
}

impl SealingKey {
    pub fn new(cipher: Cipher, name: &str, secret: &[u8]) -> Result<Self, KeyLength> {
        let wrong = || KeyLength { got: secret.len(), expected: cipher.lengths() };
        let machine: Box<dyn Machine> = match (cipher, secret.len()) {
            (Cipher::AesGcm, 16) => Box::new(Gcm(AesGcm::<Aes128, U12>::new_from_slice(secret).map_err(|_| wrong())?)),
            (Cipher::AesGcm, 24) => Box::new(Gcm(AesGcm::<Aes192, U12>::new_from_slice(secret).map_err(|_| wrong())?)),
            (Cipher::AesGcm, 32) => Box::new(gcm256(secret).ok_or_else(wrong)?),
            (Cipher::AesCbc, 16 | 24 | 32) => Box::new(Cbc(secret.into())),
            (Cipher::Secretbox, 32) => Box::new(SecretBox(XSalsa20Poly1305::new_from_slice(secret).map_err(|_| wrong())?)),
            _ => return Err(wrong()),
        };
        Ok(Self { seal: Seal(format!("{}:v1:{name}", cipher.scheme()).into()), machine })
    }

    pub(super) fn seal(&self) -> Seal {
        self.seal.clone()
    }

    pub(super) fn seal_value(&self, path: &[u8], value: &[u8]) -> Vec<u8> {
        let mut stored = format!("{PREFIX}{}:", self.seal).into_bytes();
        stored.extend(self.machine.seal(path, value));
        stored
    }

    pub(super) fn open_value(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        self.machine.open(path, body)
    }
}

/// A cipher with its key in it.
trait Machine: Send + Sync {
    fn seal(&self, path: &[u8], value: &[u8]) -> Vec<u8>;
    fn open(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>>;
}

pub(super) struct Gcm<C>(C);

/// The form that envelopes use too. None where the secret has another length.
pub(super) fn gcm256(secret: &[u8]) -> Option<Gcm<AesGcm<Aes256, U12>>> {
    AesGcm::new_from_slice(secret).ok().map(Gcm)
}

impl<C: aes_gcm::aead::Aead + AeadCore<NonceSize = U12>> Gcm<C> {
    pub(super) fn seal(&self, path: &[u8], value: &[u8]) -> Vec<u8> {
        let mut body = random::<GCM_NONCE_BYTES>().to_vec();
        let payload = Payload { msg: value, aad: path };
        let sealed = self.0.encrypt(GenericArray::from_slice(&body), payload);
        body.extend(sealed.expect("objects are far smaller than the 64 GiB that GCM can seal"));
        body
    }

    pub(super) fn open(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = body.split_at_checked(GCM_NONCE_BYTES)?;
        self.0.decrypt(GenericArray::from_slice(nonce), Payload { msg: sealed, aad: path }).ok()
    }
}

impl<C: aes_gcm::aead::Aead + AeadCore<NonceSize = U12> + Send + Sync> Machine for Gcm<C> {
    fn seal(&self, path: &[u8], value: &[u8]) -> Vec<u8> {
        Gcm::seal(self, path, value)
    }

    fn open(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        Gcm::open(self, path, body)
    }
}

struct SecretBox(XSalsa20Poly1305);

impl Machine for SecretBox {
    fn seal(&self, path: &[u8], value: &[u8]) -> Vec<u8> {
        let mut body = random::<BOX_NONCE_BYTES>().to_vec();
        let sealed = self.0.encrypt(GenericArray::from_slice(&body), &*behind_path(path, value));
        body.extend(sealed.expect("objects are far smaller than what Salsa20 can seal"));
        body
    }

    fn open(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = body.split_at_checked(BOX_NONCE_BYTES)?;
        of_path(path, self.0.decrypt(GenericArray::from_slice(nonce), sealed).ok()?)
    }
}

/// The key, of one of the three lengths of AES.
struct Cbc(Box<[u8]>);

const CBC_KEY: &str = "the key has a length of AES, and the IV one block";

impl Machine for Cbc {
    fn seal(&self, path: &[u8], value: &[u8]) -> Vec<u8> {
        let iv = random::<CBC_IV_BYTES>();
        let plain = behind_path(path, value);
        let sealed = match self.0.len() {
            16 => cbc::Encryptor::<Aes128>::new_from_slices(&self.0, &iv).expect(CBC_KEY).encrypt_padded_vec_mut::<Pkcs7>(&plain),
            24 => cbc::Encryptor::<Aes192>::new_from_slices(&self.0, &iv).expect(CBC_KEY).encrypt_padded_vec_mut::<Pkcs7>(&plain),
            _ => cbc::Encryptor::<Aes256>::new_from_slices(&self.0, &iv).expect(CBC_KEY).encrypt_padded_vec_mut::<Pkcs7>(&plain),
        };
        [&iv[..], &sealed].concat()
    }

    fn open(&self, path: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (iv, sealed) = body.split_at_checked(CBC_IV_BYTES)?;
        let plain = match self.0.len() {
            16 => cbc::Decryptor::<Aes128>::new_from_slices(&self.0, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
            24 => cbc::Decryptor::<Aes192>::new_from_slices(&self.0, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
            _ => cbc::Decryptor::<Aes256>::new_from_slices(&self.0, iv).ok()?.decrypt_padded_vec_mut::<Pkcs7>(sealed),
        };
        of_path(path, plain.ok()?)
    }
}

fn behind_path(path: &[u8], value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(PATH_HASH_BYTES + value.len());
    plain.extend_from_slice(&Sha256::digest(path));
    plain.extend_from_slice(value);
    plain
}

fn of_path(path: &[u8], mut plain: Vec<u8>) -> Option<Vec<u8>> {
    let hash: &[u8] = &Sha256::digest(path);
    if !plain.starts_with(hash) {
        return None;
    }
    plain.drain(..PATH_HASH_BYTES);
    Some(plain)
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel has random bytes once it has started");
    bytes
}
