//! Encryption at rest: what is sealed with what, and how that changes while the server runs.
//!
//! Without a configuration Secrets are sealed with a key of this cluster's own, in `pki/encryption.json`, which is an
//! EncryptionConfiguration like any other. A file that the user names is followed by inotify: a change is in force at once, and refused where
//! it could not read what is stored. [`Encryption::rotate`] turns the own key over, or rewrites what the user's file wants otherwise.
//!
//! A turn-over is cut off by nothing: the new key is on disk before anything is sealed with it, the old one goes after everything is sealed
//! anew, and a start that finds two keys goes on where the last one ended.

mod config;
mod kms;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use knarr_store::{Collection, CommitError, Envelope, Options, SealCount, Sealing, SealingError, Store};
use parking_lot::Mutex as SyncMutex;
use tokio::sync::Mutex;

use crate::pki::{PkiError, files};
use config::{API_VERSION, EncryptionConfiguration, Identity, KIND, Keys, NamedKey, ProviderConfig, Rule};

/// In the key directory.
const OWN_FILE: &str = "encryption.json";

/// Bytes of a configuration file. Upstream reads any; a thousand keys have less than this.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("keep the cluster's own key")]
    Own(#[source] PkiError),
    #[error("read the encryption configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the encryption configuration {path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
    #[error("take the encryption configuration {path}")]
    Refused { path: PathBuf, source: SealingError },
    #[error("seal anew; what is done stays done, repeat with `knarr secrets rotate`")]
    Reseal(#[source] CommitError),
}

/// Where the configuration is.
#[derive(Clone, Debug)]
enum Source {
    Own(PathBuf),
    File(PathBuf),
}

/// The configuration of one cluster.
#[derive(Debug)]
pub struct Encryption {
    source: Source,
    /// What the store seals with.
    sealing: SyncMutex<Arc<Sealing>>,
    /// One turn-over at a time.
    turning: Mutex<()>,
}

/// What a turn-over tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
}

impl Encryption {
    /// Reads `file`, or else the cluster's own configuration, which is made where it is missing. Blocks while key services are asked.
    ///
    /// `data_dir` may hold a store from before there was sealing, whose Secrets are then sealed by [`keep`](Self::keep).
    pub fn open(data_dir: &Path, file: Option<&Path>) -> Result<Self, EncryptionError> {
        let source = match file {
            Some(path) => Source::File(path.to_owned()),
            None => Source::Own(data_dir.join("pki").join(OWN_FILE)),
        };
        if let Source::Own(path) = &source
            && files::read(path).map_err(EncryptionError::Own)?.is_none()
        {
            files::make_dir(&data_dir.join("pki")).map_err(EncryptionError::Own)?;
            let plain = data_dir.join("store").exists().then_some(());
            write_own(path, &own(vec![new_key()], plain.is_some()))?;
        }
        let sealing = use_config(&source, &read_config(&source)?)?;
        Ok(Self { source, sealing: SyncMutex::new(sealing), turning: Mutex::default() })
    }

    /// What the store is to be opened with. Secrets may be shut until their key service answers, which may itself run in a pod of this cluster;
    /// what else can be sealed, the API server needs from its start.
    pub fn store_options(&self) -> Options {
        Options { sealing: self.sealing(), may_be_shut: vec![Collection::new("core/secrets")], ..Options::default() }
    }

    /// What seals now.
    pub fn sealing(&self) -> Arc<Sealing> {
        self.sealing.lock().clone()
    }

    /// Ends a turn-over that was cut off, and follows the user's file. Runs as long as the store.
    pub async fn keep(&self, store: Arc<dyn Store>) {
        let path = match &self.source {
            Source::Own(_) => {
                if let Err(error) = self.settle(&*store, &mut |_| {}).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "the turn-over of the key could not be ended");
                }
                return std::future::pending().await;
            }
            Source::File(path) => path,
        };
        let mut changes = match crate::reload::Watch::new(path) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "changes of the encryption configuration will count after a restart only");
                return std::future::pending().await;
            }
        };
        // What changed between the first reading and now.
        loop {
            match self.reload(&*store).await {
                Ok(()) => tracing::info!(path = %path.display(), "the encryption configuration is in force"),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the encryption configuration was changed and is refused; the one before stays in force"
                    );
                }
            }
            changes.next().await;
        }
    }

    async fn reload(&self, store: &dyn Store) -> Result<(), EncryptionError> {
        let _turn = self.turning.lock().await;
        let config = read_config(&self.source)?;
        let source = self.source.clone();
        // Key services are asked, which blocks.
        let sealing = tokio::task::spawn_blocking(move || use_config(&source, &config)).await.expect("reading does not panic")?;
        self.put_in_force(store, sealing).await
    }

    async fn put_in_force(&self, store: &dyn Store, sealing: Arc<Sealing>) -> Result<(), EncryptionError> {
        let refused = |source| EncryptionError::Refused { path: self.path().to_owned(), source };
        store.seal_with(sealing.clone()).await.map_err(refused)?;
        *self.sealing.lock() = sealing;
        Ok(())
    }

    /// The file that says what is sealed with what.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Own(path) | Source::File(path) => path,
        }
    }

    /// Whether the keys are the cluster's own.
    pub fn is_own(&self) -> bool {
        matches!(self.source, Source::Own(_))
    }

    /// With the own key: makes a new one, seals everything anew, forgets the old one. With the user's file: seals what is sealed otherwise
    /// than the file wants.
    pub async fn rotate(&self, store: &dyn Store, tell: &mut (dyn FnMut(Progress) + Send)) -> Result<(), EncryptionError> {
        let turn = self.turning.lock().await;
        if let Source::Own(path) = &self.source {
            let config = read_config(&self.source)?;
            let mut keys = vec![new_key()];
            keys.extend(own_keys(&config));
            let config = own(keys, reads_plain(&config));
            // On disk before it is used.
            write_own(path, &config)?;
            self.put_in_force(store, use_config(&self.source, &config)?).await?;
        }
        drop(turn);
        self.settle(store, tell).await
    }

    /// Seals what is sealed otherwise than it would be now, and forgets own keys that nothing needs any more.
    async fn settle(&self, store: &dyn Store, tell: &mut (dyn FnMut(Progress) + Send)) -> Result<(), EncryptionError> {
        let _turn = self.turning.lock().await;
        let mut done = 0;
        loop {
            let step = store.reseal().await.map_err(EncryptionError::Reseal)?;
            done += step.rewritten;
            tell(Progress { done, total: done + step.left });
            if step.left == 0 {
                break;
            }
        }
        let unfinished = match &self.source {
            Source::Own(path) => {
                let config = read_config(&self.source)?;
                (own_keys(&config).len() > 1 || reads_plain(&config)).then_some((path, config))
            }
            Source::File(_) => None,
        };
        // With the user's file this is only ever asked for, and an earlier turn-over may have ended before this step.
        if done > 0 || unfinished.is_some() || matches!(self.source, Source::File(_)) {
            store.forget_overwritten().await.map_err(EncryptionError::Reseal)?;
        }
        if let Some((path, config)) = unfinished {
            let config = own(own_keys(&config).into_iter().take(1).collect(), false);
            self.put_in_force(store, use_config(&self.source, &config)?).await?;
            write_own(path, &config)?;
        }
        Ok(())
    }

    /// What is sealed with what.
    pub async fn seals(&self, store: &dyn Store) -> Vec<SealCount> {
        store.seals().await
    }
}

fn read_config(source: &Source) -> Result<EncryptionConfiguration, EncryptionError> {
    let (path, text) = match source {
        Source::Own(path) => (path, files::read(path).map_err(EncryptionError::Own)?.unwrap_or_default()),
        Source::File(path) => (path, read_file(path).map_err(|source| EncryptionError::Read { path: path.clone(), source })?),
    };
    config::parse(text.as_bytes()).map_err(|reason| EncryptionError::Invalid { path: path.clone(), reason })
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn use_config(source: &Source, config: &EncryptionConfiguration) -> Result<Arc<Sealing>, EncryptionError> {
    let (Source::Own(path) | Source::File(path)) = source;
    config::sealing(config).map_err(|reason| EncryptionError::Invalid { path: path.clone(), reason })
}

/// The own configuration: Secrets under the first key, readable with the others, and plain where there may be some from before.
fn own(keys: Vec<NamedKey>, plain: bool) -> EncryptionConfiguration {
    let mut providers = vec![ProviderConfig { aesgcm: Some(Keys { keys }), ..ProviderConfig::default() }];
    if plain {
        providers.push(ProviderConfig { identity: Some(Identity {}), ..ProviderConfig::default() });
    }
    let rule = Rule { resources: vec!["secrets".to_owned()], providers };
    EncryptionConfiguration { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), resources: vec![rule] }
}

fn own_keys(config: &EncryptionConfiguration) -> Vec<NamedKey> {
    let providers = config.resources.iter().flat_map(|rule| &rule.providers);
    providers.filter_map(|provider| provider.aesgcm.as_ref()).flat_map(|keys| keys.keys.clone()).collect()
}

fn reads_plain(config: &EncryptionConfiguration) -> bool {
    config.resources.iter().flat_map(|rule| &rule.providers).any(|provider| provider.identity.is_some())
}

fn write_own(path: &Path, config: &EncryptionConfiguration) -> Result<(), EncryptionError> {
    let text = serde_json::to_string_pretty(config).expect("the configuration has only text in it");
    files::write(path, &text).map_err(EncryptionError::Own)
}

/// The name tells when it was made, and is never that of another key.
fn new_key() -> NamedKey {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("local-{}-{}", Timestamp::now().strftime("%Y%m%d"), &random[..8]);
    NamedKey { name, secret: STANDARD.encode(Envelope::seed()) }
}
