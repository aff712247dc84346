//! Sealing with a key service (KMS v2, KEP-3299): the service wraps a seed, and each value is sealed under a key derived from the seed.
//!
//! The stored form is upstream's `EncryptedObject` (k8s.io/apiserver, storage/value/encrypt/envelope/kmsv2/v2/api.proto).

use std::{collections::BTreeMap, fmt};

use prost::Message;
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use super::{
    PREFIX, Seal,
    cipher::{gcm256, random},
};

/// Bytes of a seed, and of the information that a value's own key is derived with (aes/aes_extended_nonce.go).
const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;

/// Upstream's limits (kmsv2/envelope.go).
const KEY_ID_BYTES_MAX: usize = 1 << 10;
const WRAPPED_BYTES_MAX: usize = 1 << 10;
const ANNOTATION_BYTES_MAX: usize = 32 << 10;

/// The types of an EncryptedObject's DEK source.
const DEK_KEY: i32 = 0;
const DEK_SEED: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum KeyServiceError {
    /// It said no, or said nothing.
    #[error("{0}")]
    Call(String),
    #[error("its last good answer is older than {seconds} s, so that nothing may be sealed with its key; is the service running?")]
    Stale { seconds: u64 },
    #[error("its answer is not as it should be: {0}")]
    Answer(&'static str),
}

impl KeyServiceError {
    /// Whether the service may give what was asked of it another time.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self, Self::Answer(_))
    }
}

/// A service that keeps keys and wraps seeds with them.
pub trait KeyService: fmt::Debug + Send + Sync {
    fn name(&self) -> &str;

    /// What to seal with now. Answers from memory.
    fn current(&self) -> Result<std::sync::Arc<Envelope>, KeyServiceError>;

    /// Why it is not well now. Answers from memory.
    fn fault(&self) -> Option<String> {
        self.current().err().map(|error| error.to_string())
    }

    /// The secret in a wrapped one. May ask the service, and then blocks; remembers the answer.
    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, KeyServiceError>;
}

/// A secret as the service wrapped it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wrapped {
    pub key_id: String,
    pub source: Vec<u8>,
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A seed, and its wrapped form, which goes with each value.
pub struct Envelope {
    pub key_id: String,
    wrapped: Wrapped,
    seed: [u8; SEED_BYTES],
}

/// Never the seed.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Envelope {
    /// A fresh seed for the service to wrap.
    pub fn seed() -> [u8; SEED_BYTES] {
        random()
    }

    pub fn new(seed: [u8; SEED_BYTES], wrapped: Wrapped) -> Result<Self, KeyServiceError> {
        let annotations: usize = wrapped.annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
        let fault = match &wrapped {
            Wrapped { key_id, .. } if key_id.is_empty() => Some("the key id is empty"),
            Wrapped { key_id, .. } if key_id.len() > KEY_ID_BYTES_MAX => Some("the key id is longer than 1 kB"),
            Wrapped { source, .. } if source.is_empty() => Some("the ciphertext is empty"),
            Wrapped { source, .. } if source.len() > WRAPPED_BYTES_MAX => Some("the ciphertext is longer than 1 kB"),
            _ if annotations > ANNOTATION_BYTES_MAX => Some("the annotations are larger than 32 kB"),
            Wrapped { annotations, .. } if !annotations.keys().all(|name| is_domain_name(name)) => {
                Some("the name of an annotation is not a fully qualified domain name")
            }
            _ => None,
        };
        match fault {
            Some(fault) => Err(KeyServiceError::Answer(fault)),
            None => Ok(Self { key_id: wrapped.key_id.clone(), wrapped, seed }),
        }
    }

    pub(super) fn seal_value(&self, text: &str, path: &[u8], value: &[u8]) -> Vec<u8> {
        let info = random::<INFO_BYTES>();
        let machine = gcm256(&derive(&self.seed, &info)).expect("the derived key has the length of the cipher's");
        let object = EncryptedObject {
            encrypted_data: [&info[..], &machine.seal(path, value)].concat(),
            key_id: self.wrapped.key_id.clone(),
            source: self.wrapped.source.clone(),
            annotations: self.wrapped.annotations.clone(),
            source_type: DEK_SEED,
        };
        let mut stored = format!("{PREFIX}{text}:").into_bytes();
        stored.extend(object.encode_to_vec());
        stored
    }
}

/// At least two labels (validation.IsFullyQualifiedDomainName).
fn is_domain_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}

/// None where the key does not fit the value.
pub(super) fn open_value(service: &dyn KeyService, path: &[u8], body: &[u8]) -> Result<Option<Vec<u8>>, KeyServiceError> {
    let object = EncryptedObject::decode(body).map_err(|_| KeyServiceError::Answer("the stored record is no EncryptedObject"))?;
    let secret = service.unwrap(&Wrapped { key_id: object.key_id, source: object.source, annotations: object.annotations })?;
    let data = &*object.encrypted_data;
    Ok(match object.source_type {
        DEK_KEY => gcm256(&secret).and_then(|machine| machine.open(path, data)),
        DEK_SEED => data.split_first_chunk::<INFO_BYTES>().and_then(|(info, body)| gcm256(&derive(&secret, info))?.open(path, body)),
        _ => return Err(KeyServiceError::Answer("the stored record has a DEK source of an unknown type")),
    })
}

pub(super) fn wrapped(body: &[u8]) -> Option<Wrapped> {
    let object = EncryptedObject::decode(body).ok()?;
    Some(Wrapped { key_id: object.key_id, source: object.source, annotations: object.annotations })
}

pub(super) fn key_id(body: &[u8]) -> Option<String> {
    EncryptedObject::decode(body).ok().map(|object| object.key_id)
}

/// What the seals of key services begin with.
pub(super) const TEXT: &str = "kms:v2:";

pub(super) fn text_of(service: &dyn KeyService) -> String {
    format!("{TEXT}{}", service.name())
}

pub(super) fn seal_of(service: &dyn KeyService, key_id: &str) -> Seal {
    Seal(format!("{}:{key_id}", text_of(service)).into())
}

/// HKDF-SHA256 without salt.
fn derive(seed: &[u8], info: &[u8; INFO_BYTES]) -> [u8; SEED_BYTES] {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            SEED_BYTES
        }
    }
    let mut key = [0; SEED_BYTES];
    let info = [&info[..]];
    let expanded =
        Salt::new(HKDF_SHA256, &[]).extract(seed).expand(&info, Length).expect("32 bytes are within what HKDF gives").fill(&mut key);
    expanded.expect("the length is that of the key");
    key
}

#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    source_type: i32,
}
