//! Images from registries.
//!
//! A reference is looked up at the mirrors of its registry and then there, with each of the credentials that fit. What is found is
//! verified by digest from the top down (index, manifest, config, layers), and becomes an image only when all of it is here.
//! Two who want the same image with the same credentials share one pull; it ends when nobody waits for it any more.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use futures::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Progress;
use super::config::Image;
use super::content::{BLOB_BYTES_MAX, DOCUMENT_BYTES_MAX};
use super::digest::Digest;
use super::download::{self, DownloadError, blocking};
use super::error::ImageError;
use super::oci::{self, Descriptor, Document, Manifest};
use super::reference::Reference;
use super::store::{Lease, Store};
use crate::registry::{Credentials, Kind, Logins, Registries, Session, Transport, Trouble};

/// Pulls at one time; others wait. They share one line to the registries and one disk (upstream's kubelet pulls side by side without a
/// limit of its own when serializeImagePulls is off).
const PULLS_MAX: usize = 8;

/// Blobs of one image that are fetched side by side (containerd: max_concurrent_downloads).
const DOWNLOADS_MAX: usize = 3;

/// Indexes within indexes.
const INDEX_DEPTH_MAX: usize = 4;

/// Bytes of a docker config file.
const LOGINS_BYTES_MAX: u64 = 1 << 20;

type Outcome = Result<Arc<Image>, Arc<ImageError>>;
type Listener = dyn Fn(Progress) + Send + Sync;
type Running = HashMap<(String, Vec<Credentials>), (WeakShared<BoxFuture<'static, Outcome>>, Arc<Listeners>)>;

/// All pulls of a node.
pub(crate) struct Pulls {
    transport: Arc<Transport>,
    running: Mutex<Running>,
    seats: Semaphore,
    /// Blobs that are on their way: the second who wants one waits for the first.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// Who is told of a pull's progress; those who left are skipped.
#[derive(Default)]
struct Listeners(Mutex<Vec<Weak<Listener>>>);

impl Listeners {
    fn tell(&self, progress: Progress) {
        let listeners: Vec<Arc<Listener>> = {
            let mut known = self.0.lock();
            known.retain(|it| it.strong_count() > 0);
            known.iter().filter_map(Weak::upgrade).collect()
        };
        listeners.iter().for_each(|it| it(progress.clone()));
    }
}

impl Pulls {
    pub(crate) fn new(registries: Registries) -> Pulls {
        Pulls {
            transport: Arc::new(Transport::new(registries)),
            running: Mutex::default(),
            seats: Semaphore::new(PULLS_MAX),
            fetching: Mutex::default(),
        }
    }

    /// Joins the pull that runs, or begins one.
    pub(crate) async fn pull(
        self: &Arc<Pulls>,
        store: &Arc<Store>,
        reference: Reference,
        given: &[Credentials],
        listener: Arc<Listener>,
    ) -> Outcome {
        let key = (reference.to_string(), given.to_vec());
        let (shared, listeners) = {
            let mut running = self.running.lock();
            running.retain(|_, (it, _)| it.upgrade().is_some_and(|it| it.peek().is_none()));
            match running.get(&key).and_then(|(it, listeners)| Some((it.upgrade()?, listeners.clone()))) {
                Some(joined) => joined,
                None => {
                    let listeners = Arc::new(Listeners::default());
                    let pull = Pull {
                        pulls: self.clone(),
                        store: store.clone(),
                        lease: store.lease(),
                        reference,
                        given: given.to_vec(),
                        listeners: listeners.clone(),
                    };
                    let shared: Shared<BoxFuture<'static, Outcome>> = async move { pull.run().await.map_err(Arc::new) }.boxed().shared();
                    running.extend(shared.downgrade().map(|weak| (key, (weak, listeners.clone()))));
                    (shared, listeners)
                }
            }
        };
        listeners.0.lock().push(Arc::downgrade(&listener));
        shared.await
    }
}

/// One pull.
struct Pull {
    pulls: Arc<Pulls>,
    store: Arc<Store>,
    /// What it fetched stays until the image has a name.
    lease: Lease,
    reference: Reference,
    given: Vec<Credentials>,
    listeners: Arc<Listeners>,
}

/// An image that is here, and the digest that its name leads to: the index's, where there is one.
struct Fetched {
    manifest: Digest,
    top: Digest,
}

impl Pull {
    async fn run(self) -> Result<Arc<Image>, ImageError> {
        let pulls = self.pulls.clone();
        let _seat = pulls.seats.acquire().await.map_err(|_| ImageError::Stopped)?;
        self.listeners.tell(Progress::Started);
        let fetched = self.fetch_anywhere().await?;
        blocking(move || {
            let record = self.store.read(&fetched.manifest)?;
            let done = |layer: &super::store::Layer| self.listeners.tell(Progress::Unpacked { digest: layer.blob.to_string() });
            self.store.unpack(&self.lease, &record, &done)?;
            let digest = self.reference.with_digest(&fetched.top);
            self.store.add(record, std::slice::from_ref(&self.reference), &[digest])
        })
        .await
    }

    /// From the first mirror that has it, or the registry itself, whose error counts.
    async fn fetch_anywhere(&self) -> Result<Fetched, ImageError> {
        let Reference { registry, repository, .. } = &self.reference;
        let logins = self.node_logins().await?;
        let mut endpoints = self.pulls.transport.registries.endpoints(registry);
        let own = endpoints.pop().ok_or(ImageError::Stopped)?;
        for mirror in endpoints {
            // Credentials for a registry are not for its mirrors.
            let credentials = logins.of_repository(&mirror.host, repository);
            let host = mirror.authority.clone();
            match self.fetch_at(mirror, credentials).await {
                Ok(fetched) => return Ok(fetched),
                Err(DownloadError::Here(error)) if !error.is_of_content() => return Err(error),
                Err(error) => {
                    tracing::warn!(image = %self.reference, mirror = host, ?error, "a mirror does not give the image; the next is asked")
                }
            }
        }
        let mut credentials = self.given.clone();
        credentials.extend(logins.of_repository(registry, repository));
        match self.fetch_at(own, credentials).await {
            Ok(fetched) => Ok(fetched),
            Err(DownloadError::Here(error)) => Err(error),
            Err(DownloadError::There(trouble)) => Err(self.explain(trouble)),
        }
    }

    /// With each of the credentials in turn; without any only where there are none, as upstream's kubelet does.
    async fn fetch_at(&self, endpoint: crate::registry::Endpoint, mut credentials: Vec<Credentials>) -> Result<Fetched, DownloadError> {
        if credentials.is_empty() {
            credentials.push(Credentials::Anonymous);
        }
        let mut denied = None;
        for one in credentials {
            let session = Session::new(self.pulls.transport.clone(), endpoint.clone(), &self.reference.repository, one);
            match self.fetch(&session).await {
                Err(DownloadError::There(trouble)) if trouble.kind == Kind::Denied => denied = Some(trouble),
                result => return result,
            }
        }
        let trouble = denied.unwrap_or_else(|| Trouble::new(Kind::Denied, "there are no credentials for it"));
        Err(DownloadError::There(trouble))
    }

    async fn node_logins(&self) -> Result<Logins, ImageError> {
        let Some(path) = self.pulls.transport.registries.auth_file.clone() else { return Ok(Logins::default()) };
        blocking(move || read_logins(&path)).await
    }

    fn explain(&self, trouble: Trouble) -> ImageError {
        let (reference, host) = (self.reference.to_string(), self.reference.registry.clone());
        match trouble.kind {
            Kind::Denied => ImageError::Denied { reference, host, reason: trouble.reason },
            Kind::Missing => ImageError::Absent { reference, host, reason: trouble.reason },
            _ => ImageError::Registry {
                step: "pull",
                reference,
                host,
                transient: trouble.is_transient() || trouble.kind == Kind::Unreachable,
                reason: trouble.reason,
            },
        }
    }

    async fn fetch(&self, session: &Session) -> Result<Fetched, DownloadError> {
        let asked = match (&self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        };
        // Even of an image that is here the registry is asked: it says where the tag leads now, and whether the caller may have it.
        let seen = match session.digest(&asked).await {
            Ok(digest) => digest.as_deref().and_then(Digest::parse),
            // Some registries have no HEAD; their GET says what is wrong.
            Err(trouble) if matches!(trouble.kind, Kind::Other | Kind::Missing) => None,
            Err(trouble) => return Err(trouble.into()),
        };
        let pinned = self.reference.digest.clone();
        if let Some(seen) = &seen
            && pinned.as_ref().is_none_or(|pinned| pinned == seen)
            && let Some(manifest) = self.kept(&self.reference.with_digest(seen))
        {
            return Ok(Fetched { manifest, top: seen.clone() });
        }
        let (top, mut document) = self.document(session, &asked, pinned.as_ref(), None).await?;
        let mut digest = top.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            match document {
                Document::Manifest(manifest) => {
                    self.blobs(session, &manifest).await?;
                    return Ok(Fetched { manifest: digest, top });
                }
                Document::Index(index) => {
                    let chosen = index
                        .for_this_machine()
                        .ok_or_else(|| wrong(&digest, &format!("has no image for {}; it has {}", here(), index.platforms())))?;
                    (digest, document) = self.document(session, chosen.digest.as_str(), Some(&chosen.digest), Some(chosen)).await?;
                }
            }
        }
        Err(wrong(&top, "has indexes nested more than 4 deep").into())
    }

    /// The manifest of an image that is here, and now stays.
    fn kept(&self, name: &str) -> Option<Digest> {
        let (_, record) = self.store.find(name)?;
        record.blobs().for_each(|blob| self.lease.add(blob));
        // It may have been removed and collected before it was leased.
        self.store.find(name).map(|(entry, _)| entry.manifest).filter(|manifest| *manifest == record.manifest)
    }

    /// A manifest or index, verified and stored.
    async fn document(
        &self,
        session: &Session,
        asked: &str,
        expected: Option<&Digest>,
        descriptor: Option<&Descriptor>,
    ) -> Result<(Digest, Document), DownloadError> {
        let found = session.manifest(asked, DOCUMENT_BYTES_MAX as usize).await?;
        let digest = Digest::of(&found.bytes);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(ImageError::Digest { expected: expected.to_string(), found: digest.to_string() }.into());
        }
        if let Some(descriptor) = descriptor.filter(|it| it.size != found.bytes.len() as u64) {
            return Err(wrong(&digest, &format!("is {} bytes, its index says {}", found.bytes.len(), descriptor.size)).into());
        }
        let document = oci::document(&found.bytes, &digest)?;
        // A document that says another type than it was sent as is read differently by different tools (CVE-2021-41190).
        let own = document.media_type();
        if !own.is_empty() && !found.media_type.is_empty() && own != found.media_type && oci::is_known(&found.media_type) {
            return Err(wrong(&digest, &format!("says it is {own}, but was sent as {}", found.media_type)).into());
        }
        let (store, bytes, expected) = (self.store.clone(), found.bytes, digest.clone());
        self.lease.add(&digest);
        let pull_lease = self.store.lease();
        blocking(move || store.put(&pull_lease, &mut &bytes[..], Some(&expected), &mut |_| {}).map(drop)).await?;
        Ok((digest, document))
    }

    /// The config and the layers, each once.
    async fn blobs(&self, session: &Session, manifest: &Manifest) -> Result<(), DownloadError> {
        oci::check_types(manifest)?;
        if manifest.config.size > DOCUMENT_BYTES_MAX {
            let what = format!("config {}", manifest.config.digest);
            return Err(ImageError::TooLarge { what, bytes: manifest.config.size, max: DOCUMENT_BYTES_MAX }.into());
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > BLOB_BYTES_MAX) {
            let what = format!("layer {}", layer.digest);
            return Err(ImageError::TooLarge { what, bytes: layer.size, max: BLOB_BYTES_MAX }.into());
        }
        // The config first: an image for another machine is not worth its layers.
        self.blob(session, &manifest.config).await?;
        let config = self.store.content.document(&manifest.config.digest)?;
        oci::check_machine(&config, &manifest.config.digest)?;
        let mut seen = HashSet::new();
        let layers = manifest.layers.iter().filter(|layer| seen.insert(&layer.digest)).map(|layer| self.blob(session, layer));
        let layers: Vec<_> = layers.collect();
        let result = futures::stream::iter(layers).buffer_unordered(DOWNLOADS_MAX).try_collect::<()>().await;
        if let Err(DownloadError::Here(error)) = &result
            && error.is_full_disk()
        {
            self.give_back(manifest);
        }
        result
    }

    async fn blob(&self, session: &Session, descriptor: &Descriptor) -> Result<(), DownloadError> {
        let digest = &descriptor.digest;
        self.lease.add(digest);
        let turn = Arc::clone(self.pulls.fetching.lock().entry(digest.clone()).or_default());
        let result = {
            let _turn = turn.lock().await;
            let tell = |done| self.listeners.tell(Progress::Blob { digest: digest.to_string(), done, total: descriptor.size });
            if self.store.content.contains(digest) {
                tell(descriptor.size);
                Ok(())
            } else {
                tell(0);
                download::blob(&self.store, session, digest, descriptor.size, &tell).await
            }
        };
        let mut fetching = self.pulls.fetching.lock();
        drop(turn);
        // Whoever waits has a handle of its own.
        if fetching.get(digest).is_some_and(|it| Arc::strong_count(it) == 1) {
            fetching.remove(digest);
        }
        result
    }

    /// On a full disk, what was fetched for nothing helps nobody.
    fn give_back(&self, manifest: &Manifest) {
        let blobs: BTreeSet<Digest> = manifest.layers.iter().map(|layer| layer.digest.clone()).collect();
        self.lease.release();
        if let Err(error) = self.store.drop_unreachable(&blobs.into_iter().collect::<Vec<_>>()) {
            tracing::warn!(image = %self.reference, error = &error as &dyn std::error::Error, "remove the layers that were fetched");
        }
    }
}

fn read_logins(path: &std::path::Path) -> Result<Logins, ImageError> {
    use std::io::Read as _;
    let fault = |source| ImageError::Path { step: "read the credentials in", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Logins::default()),
        Err(error) => return Err(fault(error)),
    };
    let mut text = Vec::new();
    file.take(LOGINS_BYTES_MAX).read_to_end(&mut text).map_err(fault)?;
    Logins::parse(&text).map_err(|error| ImageError::Content { what: path.display().to_string(), reason: error.to_string() })
}

fn wrong(digest: &Digest, reason: &str) -> ImageError {
    oci::content(|| format!("manifest {digest}"), reason)
}

fn here() -> String {
    format!("linux/{}", oci::machine().0)
}
