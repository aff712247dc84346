//! Sealing: encryption at rest of the collections that the configuration names.
//!
//! Memory holds plain objects, the disk holds sealed ones: the engine seals a value when it writes its record and opens it once, when it
//! loads. Reads, watches and snapshots never meet a cipher. A sealed value is bound to its key, so that one that is moved to another object
//! does not open. The stored form begins as upstream's does: `k8s:enc:<scheme>:v1:<key>:`, and what does not is plain.
//!
//! `cipher` seals with keys that are at hand, `envelope` with keys that a key service wraps.

mod cipher;
mod envelope;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{Collection, Key};
pub use cipher::{Cipher, KeyLength, SealingKey};
pub use envelope::{Envelope, KeyService, KeyServiceError, Wrapped};

/// What every sealed value begins with. No object does: objects are JSON.
const PREFIX: &str = "k8s:enc:";

/// What a record is sealed with: scheme, version and name of the key, and for a key service the id of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seal(Arc<str>);

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Seal {
    /// The seal of a stored value, or none where it is plain.
    pub(crate) fn of(stored: &[u8]) -> Option<Self> {
        let (text, body) = split(stored)?;
        if scheme(text) == Some("kms") {
            let key_id = envelope::key_id(body).unwrap_or_default();
            return Some(Self(format!("{text}:{key_id}").into()));
        }
        Some(Self(text.into()))
    }

    pub(crate) fn is_of_service(&self) -> bool {
        scheme(&self.0) == Some("kms")
    }

    /// The key service that made it.
    pub(crate) fn service(&self) -> Option<&str> {
        self.0.strip_prefix(envelope::TEXT)?.split(':').next()
    }
}

/// The text of a seal (`aesgcm:v1:key1`) and what it seals, of a stored value.
fn split(stored: &[u8]) -> Option<(&str, &[u8])> {
    let rest = stored.strip_prefix(PREFIX.as_bytes())?;
    // Scheme, version and name, each with its colon: names have none.
    let end = rest.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(2)?.0;
    Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

fn scheme(seal: &str) -> Option<&str> {
    seal.split(':').next()
}

/// The service and the wrapped secret that a stored value is sealed with.
pub(crate) fn wrapped(stored: &[u8]) -> Option<(String, Wrapped)> {
    let service = Seal::of(stored)?.service()?.to_owned();
    Some((service, envelope::wrapped(split(stored)?.1)?))
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "it is sealed with {seal}, and no such key is configured; put that key back (pki/encryption.json of the data directory, or the file of --encryption-provider-config), and see `knarr secrets status` for what else needs it"
    )]
    NoKey { seal: Seal },
    #[error(
        "it is sealed with {seal}, and the configured key of that name does not open it: the key is another one, or the record was changed or moved; put the right key back, and see `knarr secrets status` for what else needs it"
    )]
    WrongKey { seal: Seal },
    #[error(
        "it is not sealed, and its resource may only be stored sealed; add the provider `identity: {{}}` to read it, and then run `knarr secrets rotate`"
    )]
    Plain,
    #[error("it is sealed in a way that is not one: {seal}")]
    Malformed { seal: Seal },
    #[error("ask the key service {service}")]
    KeyService {
        service: String,
        #[source]
        source: KeyServiceError,
    },
}

impl SealError {
    /// Whether the same record may open another time.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::KeyService { source, .. } if source.may_pass())
    }
}

/// One way to seal.
#[derive(Debug)]
pub enum Provider {
    /// Not at all.
    Identity,
    Key(SealingKey),
    Service(Arc<dyn KeyService>),
}

impl Provider {
    /// What this provider would seal with now; none for plain.
    fn seal(&self) -> Result<Option<Seal>, SealError> {
        match self {
            Self::Identity => Ok(None),
            Self::Key(key) => Ok(Some(key.seal())),
            Self::Service(service) => Ok(Some(envelope::seal_of(&**service, &current(&**service)?.key_id))),
        }
    }

    fn made(&self, seal: &Seal) -> bool {
        match self {
            Self::Identity => false,
            Self::Key(key) => key.seal() == *seal,
            Self::Service(service) => seal.0.strip_prefix(&*envelope::text_of(&**service)).is_some_and(|rest| rest.starts_with(':')),
        }
    }
}

fn current(service: &dyn KeyService) -> Result<Arc<Envelope>, SealError> {
    service.current().map_err(|source| SealError::KeyService { service: service.name().to_owned(), source })
}

/// What is sealed, and with what. Never changes; a new configuration is a new value.
#[derive(Debug, Default)]
pub struct Sealing {
    /// By collection, by group (`apps/`), and `*` for all.
    rules: HashMap<Box<str>, Arc<[Arc<Provider>]>>,
}

/// Which collections a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    Collection(Collection),
    /// Every collection of a group; `core` for the core group.
    Group(String),
    All,
}

impl Sealing {
    /// Seals nothing.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Providers by pattern: the first seals, all open. Where a pattern comes again its providers are added behind.
    /// The closest pattern counts: collection, group, all.
    pub fn new(rules: impl IntoIterator<Item = (Pattern, Vec<Arc<Provider>>)>) -> Arc<Self> {
        let mut gathered: HashMap<Box<str>, Vec<Arc<Provider>>> = HashMap::new();
        for (pattern, providers) in rules {
            let name = match pattern {
                Pattern::Collection(collection) => collection.as_str().into(),
                Pattern::Group(group) => format!("{group}/").into(),
                Pattern::All => "*".into(),
            };
            gathered.entry(name).or_default().extend(providers);
        }
        Arc::new(Self { rules: gathered.into_iter().map(|(name, providers)| (name, providers.into())).collect() })
    }

    /// The key services, each once.
    pub fn services(&self) -> Vec<Arc<dyn KeyService>> {
        let mut services: Vec<Arc<dyn KeyService>> = Vec::new();
        for provider in self.rules.values().flat_map(|providers| providers.iter()) {
            if let Provider::Service(service) = &**provider
                && !services.iter().any(|known| known.name() == service.name())
            {
                services.push(service.clone());
            }
        }
        services.sort_by(|one, other| one.name().cmp(other.name()));
        services
    }

    fn rule(&self, collection: &Collection) -> Option<&[Arc<Provider>]> {
        if self.rules.is_empty() {
            return None;
        }
        let name = collection.as_str();
        let group = || name.find('/').and_then(|slash| self.rules.get(&name[..=slash]));
        let rule = self.rules.get(name).or_else(group).or_else(|| self.rules.get("*"));
        rule.map(|providers| &**providers)
    }

    pub(crate) fn covers(&self, collection: &Collection) -> bool {
        self.rule(collection).is_some()
    }

    /// What `key` would be sealed with now; none for plain.
    pub(crate) fn wanted(&self, key: &Key) -> Result<Option<Seal>, SealError> {
        self.rule(&key.collection).and_then(|rule| rule.first()).map_or(Ok(None), |first| first.seal())
    }

    /// Whether a record of `collection` with this seal could be opened, as far as names tell.
    pub(crate) fn knows(&self, collection: &Collection, seal: Option<&Seal>) -> bool {
        match (self.rule(collection), seal) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(rule), None) => rule.iter().any(|provider| matches!(**provider, Provider::Identity)),
            (Some(rule), Some(seal)) => rule.iter().any(|provider| provider.made(seal)),
        }
    }

    /// The stored form of `value`, or none where it is stored as it is.
    pub(crate) fn seal(&self, key: &Key, value: &[u8]) -> Result<Option<(Vec<u8>, Seal)>, SealError> {
        let Some(first) = self.rule(&key.collection).and_then(|rule| rule.first()) else { return Ok(None) };
        match &**first {
            Provider::Identity => Ok(None),
            Provider::Key(sealing) => Ok(Some((sealing.seal_value(&key.to_bytes(), value), sealing.seal()))),
            Provider::Service(service) => {
                let envelope = current(&**service)?;
                let sealed = envelope.seal_value(&envelope::text_of(&**service), &key.to_bytes(), value);
                Ok(Some((sealed, envelope::seal_of(&**service, &envelope.key_id))))
            }
        }
    }

    /// Has `service` unwrap a secret, so that it is at hand when a record under it is opened. Blocks.
    pub(crate) fn unwrap(&self, service: &str, wrapped: &Wrapped) -> Result<(), SealError> {
        // One that is no longer configured is said when the record is opened.
        let Some(service) = self.services().into_iter().find(|known| known.name() == service) else { return Ok(()) };
        let failed = |source| SealError::KeyService { service: service.name().to_owned(), source };
        service.unwrap(wrapped).map(drop).map_err(failed)
    }

    /// The value of a stored form, and what it was sealed with.
    pub(crate) fn open(&self, key: &Key, stored: &[u8]) -> Result<(Option<Vec<u8>>, Option<Seal>), SealError> {
        let Some(seal) = Seal::of(stored) else {
            return if self.knows(&key.collection, None) { Ok((None, None)) } else { Err(SealError::Plain) };
        };
        let Some((_, body)) = split(stored) else { return Err(SealError::Malformed { seal }) };
        let rule = self.rule(&key.collection).unwrap_or_default();
        let path = key.to_bytes();
        let mut tried = false;
        // Two keys may have one name.
        for provider in rule.iter().filter(|provider| provider.made(&seal)) {
            tried = true;
            let opened = match &**provider {
                Provider::Identity => None,
                Provider::Key(sealing) => sealing.open_value(&path, body),
                Provider::Service(service) => envelope::open_value(&**service, &path, body)
                    .map_err(|source| SealError::KeyService { service: service.name().to_owned(), source })?,
            };
            if opened.is_some() {
                return Ok((opened, Some(seal)));
            }
        }
        Err(if tried { SealError::WrongKey { seal } } else { SealError::NoKey { seal } })
    }
}

/// How many records of a collection are sealed with one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealCount {
    pub collection: Collection,
    /// None where they are plain.
    pub seal: Option<Seal>,
    pub objects: usize,
    /// Whether new records are sealed so.
    pub current: bool,
}

/// How far a rewriting of what is sealed otherwise has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    pub rewritten: usize,
    pub left: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The new configuration could not open what is stored. The old one stays.
    #[error(
        "{objects} of {collection} are {} and the new configuration could not read them; keep what reads them, run `knarr secrets rotate`, then remove it",
        seal.as_ref().map_or_else(|| "not sealed".to_owned(), |seal| format!("sealed with {seal}"))
    )]
    StillNeeded { collection: Collection, seal: Option<Seal>, objects: usize },
    /// It has a key of the right name, and that is another one.
    #[error("{key} could not be read with the new configuration")]
    Unopened { key: Key, source: SealError },
    #[error("the store is closed")]
    Closed,
}
