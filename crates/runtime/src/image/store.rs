//! What the node knows of its images: the index on disk, the records read from it, and who uses what.
//!
//! One lock guards all of it; nothing slow happens under it but the removal of garbage. Content that an import, a pull or a mount is
//! about to use is leased first, so that a collection in between leaves it alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::Collected;
use super::config::{Image, ImageConfig};
use super::content::{Content, at, discard, sync_dir};
use super::digest::{Digest, chain_ids};
use super::error::ImageError;
use super::oci::{self, Document};
use super::reference::Reference;
use super::snapshot::Snapshots;
use super::unpack;

/// Raised when an older Knarr would misread the index.
const INDEX_VERSION: u32 = 1;

/// The images directory is for root alone: layers hold setuid programs and devices.
const DIR_MODE: u32 = 0o700;

/// An image as the index on disk has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) manifest: Digest,
    #[serde(default)]
    pub(crate) names: BTreeSet<String>,
    #[serde(default)]
    pub(crate) repo_digests: BTreeSet<String>,
    #[serde(default)]
    pub(crate) pinned: bool,
}

#[derive(Serialize, Deserialize)]
struct IndexFile {
    version: u32,
    images: Vec<Entry>,
}

/// What an image is made of, read from its manifest and config.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) manifest: Digest,
    pub(crate) media_type: String,
    pub(crate) manifest_bytes: u64,
    pub(crate) config: Digest,
    pub(crate) image: ImageConfig,
    pub(crate) layers: Vec<Layer>,
    pub(crate) size_bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) chain: Digest,
}

impl Record {
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.manifest, &self.config].into_iter().chain(self.layers.iter().map(|layer| &layer.blob))
    }

    pub(crate) fn chains(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.chain.clone()).collect()
    }
}

#[derive(Default)]
struct State {
    known: Vec<(Entry, Arc<Record>)>,
    /// The same as the outside sees it: one per id. Made anew at each change.
    view: Vec<Arc<Image>>,
    leases: HashMap<Digest, usize>,
}

pub(crate) struct Store {
    index: PathBuf,
    pub(crate) content: Content,
    pub(crate) snapshots: Snapshots,
    state: Mutex<State>,
    /// Layers that are being unpacked, by chain id: the second who wants one waits for the first.
    unpacking: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl Store {
    pub(crate) fn open(dir: &Path) -> Result<Store, ImageError> {
        fs::create_dir_all(dir).map_err(at("create", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(DIR_MODE)).map_err(at("set the mode of", dir))?;
        let store = Store {
            index: dir.join("index.json"),
            content: Content::open(dir)?,
            snapshots: Snapshots::open(dir)?,
            state: Mutex::default(),
            unpacking: Mutex::default(),
        };
        let mut known = Vec::new();
        for entry in store.read_index()? {
            match store.read(&entry.manifest) {
                Ok(record) => known.push((entry, Arc::new(record))),
                // The image counts as not here, so it is fetched again; the others work.
                Err(error) => {
                    tracing::warn!(image = ?entry.names, error = &error as &dyn std::error::Error, "an image is damaged and is left out")
                }
            }
        }
        let mut state = store.state.lock();
        state.known = known;
        state.refresh();
        drop(state);
        Ok(store)
    }

    fn read_index(&self) -> Result<Vec<Entry>, ImageError> {
        let bytes = match fs::read(&self.index) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("read", &self.index)(error)),
        };
        let file: IndexFile = oci::parse(&bytes, || self.index.display().to_string())?;
        if file.version != INDEX_VERSION {
            return Err(ImageError::Content {
                what: self.index.display().to_string(),
                reason: format!("has version {}, but this Knarr reads version {INDEX_VERSION}", file.version),
            });
        }
        Ok(file.images)
    }

    fn write_index(&self, state: &State) -> Result<(), ImageError> {
        let file = IndexFile { version: INDEX_VERSION, images: state.known.iter().map(|(entry, _)| entry.clone()).collect() };
        let bytes = serde_json::to_vec_pretty(&file).map_err(|error| at("encode", &self.index)(error.into()))?;
        let path = self.content.temporary("index");
        let mut fresh = fs::File::create_new(&path).map_err(at("create", &path))?;
        fresh.write_all(&bytes).and_then(|()| fresh.sync_all()).map_err(at("write", &path))?;
        fs::rename(&path, &self.index).map_err(at("rename to", &self.index))?;
        sync_dir(self.index.parent().unwrap_or(Path::new("/")))
    }

    /// Changes what is known and makes it durable; if that fails, nothing has changed.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let mut state = self.state.lock();
        let before = state.known.clone();
        let result = change(&mut state).and_then(|value| self.write_index(&state).map(|()| value));
        if result.is_err() {
            state.known = before;
        }
        state.refresh();
        result
    }

    /// Reads manifest and config of an image whose blobs are here.
    pub(crate) fn read(&self, manifest_digest: &Digest) -> Result<Record, ImageError> {
        let bytes = self.content.document(manifest_digest)?;
        let Document::Manifest(manifest) = oci::document(&bytes, manifest_digest)? else {
            return Err(oci::content(|| format!("manifest {manifest_digest}"), "is an index of other images"));
        };
        let config = oci::config(&self.content.document(&manifest.config.digest)?, &manifest.config.digest)?;
        if config.diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Content {
                what: format!("image {manifest_digest}"),
                reason: format!("its manifest has {} layers, its config {}", manifest.layers.len(), config.diff_ids.len()),
            });
        }
        let mut size_bytes = bytes.len() as u64 + self.content.size(&manifest.config.digest).unwrap_or(0);
        for layer in &manifest.layers {
            size_bytes += self.content.size(&layer.digest).ok_or_else(|| ImageError::Content {
                what: format!("image {manifest_digest}"),
                reason: format!("its layer {} is missing", layer.digest),
            })?;
        }
        let chain = chain_ids(&config.diff_ids);
        let layers = manifest.layers.into_iter().zip(config.diff_ids).zip(chain);
        Ok(Record {
            manifest: manifest_digest.clone(),
            media_type: if manifest.media_type.is_empty() { oci::OCI_MANIFEST.to_owned() } else { manifest.media_type },
            manifest_bytes: bytes.len() as u64,
            config: manifest.config.digest,
            image: config.image,
            layers: layers.map(|((layer, diff_id), chain)| Layer { blob: layer.digest, diff_id, chain }).collect(),
            size_bytes,
        })
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.state.lock().view.clone()
    }

    /// The image that a name, a name with digest, or an id stands for.
    pub(crate) fn find(&self, reference: &str) -> Option<(Entry, Arc<Record>)> {
        let wanted = Wanted::parse(reference).ok()?;
        self.state.lock().known.iter().find(|(entry, record)| wanted.is(entry, record)).cloned()
    }

    pub(crate) fn image(&self, id: &Digest) -> Option<Arc<Image>> {
        self.state.lock().view.iter().find(|image| image.id == id.as_str()).cloned()
    }

    /// Adds an image that is whole, under more names. A name that another image had moves.
    pub(crate) fn add(&self, record: Record, names: &[Reference], repo_digests: &[String]) -> Result<Arc<Image>, ImageError> {
        let id = record.config.clone();
        self.change(|state| {
            let names: Vec<String> = names.iter().filter(|name| name.digest.is_none()).map(Reference::to_string).collect();
            for (entry, _) in &mut state.known {
                for name in &names {
                    entry.names.remove(name);
                }
            }
            let at = match state.known.iter().position(|(entry, _)| entry.manifest == record.manifest) {
                Some(at) => at,
                None => {
                    let entry =
                        Entry { manifest: record.manifest.clone(), names: BTreeSet::new(), repo_digests: BTreeSet::new(), pinned: false };
                    state.known.push((entry, Arc::new(record)));
                    state.known.len() - 1
                }
            };
            state.known[at].0.names.extend(names);
            state.known[at].0.repo_digests.extend(repo_digests.iter().cloned());
            Ok(())
        })?;
        self.image(&id).ok_or_else(|| ImageError::NotFound { reference: id.to_string() })
    }

    pub(crate) fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let wanted = Wanted::parse(reference)?;
        let in_use = self.in_use()?;
        self.change(|state| {
            let mut found = false;
            for (entry, record) in state.known.iter_mut().filter(|(entry, record)| wanted.is(entry, record)) {
                let last = match &wanted {
                    Wanted::Name(_) => entry.names.len() == 1,
                    Wanted::RepoDigest(_) => entry.names.is_empty() && entry.repo_digests.len() == 1,
                    Wanted::Id(_) => true,
                };
                if let Some(containers) = in_use.get(record.config.as_str()).filter(|_| last) {
                    return Err(ImageError::InUse { reference: reference.to_owned(), containers: containers.clone() });
                }
                if entry.pinned {
                    return Err(ImageError::Pinned { reference: reference.to_owned() });
                }
                found = true;
                match &wanted {
                    Wanted::Name(name) => {
                        entry.names.remove(name);
                        // The digests of a repository go with its last tag.
                        let repository = format!("{}@", name.rsplit_once(':').map_or(name.as_str(), |(repository, _)| repository));
                        let others =
                            entry.names.iter().any(|other| other.rsplit_once(':').is_some_and(|(r, _)| repository == format!("{r}@")));
                        if !others {
                            entry.repo_digests.retain(|digest| !digest.starts_with(&repository));
                        }
                    }
                    Wanted::RepoDigest(digest) => {
                        entry.repo_digests.remove(digest);
                    }
                    Wanted::Id(_) => {
                        entry.names.clear();
                        entry.repo_digests.clear();
                    }
                }
                tracing::debug!(image = %record.config, reference, "forgot a name of an image");
            }
            if !found {
                return Err(ImageError::NotFound { reference: reference.to_owned() });
            }
            state.known.retain(|(entry, _)| entry.is_named());
            Ok(())
        })
    }

    /// Images by id, with the containers that have a root file system of them.
    pub(crate) fn in_use(&self) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.snapshots.list()? {
            if let Some(record) = self.snapshots.record(&container) {
                used.entry(record.image.to_string()).or_default().push(container);
            }
        }
        Ok(used)
    }

    pub(crate) fn pin(&self, reference: &str, pinned: bool) -> Result<(), ImageError> {
        let wanted = Wanted::parse(reference)?;
        self.change(|state| {
            let mut found = false;
            for (entry, _) in state.known.iter_mut().filter(|(entry, record)| wanted.is(entry, record)) {
                entry.pinned = pinned;
                found = true;
            }
            if found { Ok(()) } else { Err(ImageError::NotFound { reference: reference.to_owned() }) }
        })
    }

    /// Promises that content is kept until the lease is dropped.
    pub(crate) fn lease(self: &Arc<Store>) -> Lease {
        Lease { store: Arc::clone(self), digests: Mutex::default() }
    }

    /// Stores what `reader` gives, under the lease. With an expected digest, other content is refused and leaves nothing.
    pub(crate) fn put(
        &self,
        lease: &Lease,
        reader: &mut dyn Read,
        expected: Option<&Digest>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64), ImageError> {
        let path = self.content.temporary("blob");
        let result = self.content.write(&path, reader, progress).and_then(|(digest, bytes)| {
            lease.add(&digest);
            self.content.publish(&path, &digest, expected)?;
            Ok((digest, bytes))
        });
        if result.is_err() {
            discard(&path);
        }
        result
    }

    /// Makes every layer of an image ready for use; what is ready already costs a look.
    pub(crate) fn unpack(&self, lease: &Lease, record: &Record, done: &dyn Fn(&Layer)) -> Result<(), ImageError> {
        for layer in &record.layers {
            lease.add(&layer.chain);
        }
        for (position, layer) in record.layers.iter().enumerate() {
            let path = self.snapshots.layer(&layer.chain);
            let turn = Arc::clone(self.unpacking.lock().entry(layer.chain.clone()).or_default());
            let guard = turn.lock();
            if !path.exists() {
                let below = record.layers[..position].iter().rev().map(|layer| open_layer(&self.snapshots.layer(&layer.chain)));
                let below = below.collect::<Result<Vec<_>, _>>()?;
                self.unpack_one(layer, &below, &path)?;
            }
            drop(guard);
            // Whoever still waits has its own handle; whoever comes later sees the directory.
            self.unpacking.lock().remove(&layer.chain);
            done(layer);
        }
        Ok(())
    }

    fn unpack_one(&self, layer: &Layer, below: &[OwnedFd], path: &Path) -> Result<(), ImageError> {
        let half = self.content.temporary("layer");
        fs::create_dir(&half).map_err(at("create", &half))?;
        fs::set_permissions(&half, fs::Permissions::from_mode(0o755)).map_err(at("set the mode of", &half))?;
        let blob = self.content.open_blob(&layer.blob)?;
        let result = unpack::unpack(blob, &layer.blob, &layer.diff_id, below, &half)
            .and_then(|()| fs::rename(&half, path).map_err(at("rename to", path)))
            .and_then(|()| sync_dir(self.snapshots.layers_dir()));
        if result.is_err() {
            discard(&half);
        }
        result
    }

    /// Removes those of `candidates` that nothing reaches: what an import stored on the way.
    pub(crate) fn drop_unreachable(&self, candidates: &[Digest]) -> Result<(), ImageError> {
        let state = self.state.lock();
        let reachable = state.reachable_blobs();
        for digest in candidates.iter().filter(|digest| !reachable.contains(digest)) {
            self.content.remove(digest)?;
        }
        Ok(())
    }

    pub(crate) fn gc(&self) -> Result<Collected, ImageError> {
        let mut collected = Collected::default();
        let mut retired = Vec::new();
        {
            let mut state = self.state.lock();
            if state.known.iter().any(|(entry, _)| !entry.is_named()) {
                state.known.retain(|(entry, _)| entry.is_named());
                self.write_index(&state)?;
                state.refresh();
            }
            let reachable = state.reachable_blobs();
            for digest in self.content.list()?.iter().filter(|digest| !reachable.contains(digest)) {
                collected.bytes += self.content.remove(digest)?;
                collected.blobs += 1;
            }
            let mut chains: HashSet<Digest> = state.leases.keys().cloned().collect();
            chains.extend(state.known.iter().flat_map(|(_, record)| record.chains()));
            for id in self.snapshots.list()? {
                chains.extend(self.snapshots.record(&id).into_iter().flat_map(|record| record.layers));
            }
            let dir = self.snapshots.layers_dir();
            for entry in fs::read_dir(dir).map_err(at("list", dir))? {
                let entry = entry.map_err(at("list", dir))?;
                let chain = entry.file_name().to_str().and_then(|name| Digest::parse(&format!("sha256:{name}")));
                if chain.is_some_and(|chain| !chains.contains(&chain)) {
                    retired.extend(self.content.retire(&entry.path())?);
                    collected.layers += 1;
                }
            }
        }
        retired.iter().for_each(|path| discard(path));
        Ok(collected)
    }
}

impl Entry {
    fn is_named(&self) -> bool {
        self.pinned || !self.names.is_empty() || !self.repo_digests.is_empty()
    }
}

impl State {
    fn reachable_blobs(&self) -> HashSet<Digest> {
        let mut reachable: HashSet<Digest> = self.leases.keys().cloned().collect();
        reachable.extend(self.known.iter().flat_map(|(_, record)| record.blobs().cloned()));
        reachable
    }

    /// Images with the same config are one to the outside, even if their layers are packed differently.
    fn refresh(&mut self) {
        let mut view: Vec<Image> = Vec::new();
        for (entry, record) in &self.known {
            let names = entry.names.iter().cloned();
            let repo_digests = entry.repo_digests.iter().cloned();
            match view.iter_mut().find(|image| image.id == record.config.as_str()) {
                Some(image) => {
                    image.names.extend(names);
                    image.repo_digests.extend(repo_digests);
                    image.pinned |= entry.pinned;
                    image.names.sort();
                    image.repo_digests.sort();
                    image.repo_digests.dedup();
                }
                None => view.push(Image {
                    id: record.config.to_string(),
                    names: names.collect(),
                    repo_digests: repo_digests.collect(),
                    size_bytes: record.size_bytes,
                    pinned: entry.pinned,
                    config: record.image.clone(),
                }),
            }
        }
        view.sort_by(|a, b| (a.names.first(), &a.id).cmp(&(b.names.first(), &b.id)));
        self.view = view.into_iter().map(Arc::new).collect();
    }
}

/// What a caller names an image by.
pub(crate) enum Wanted {
    Name(String),
    RepoDigest(String),
    Id(Digest),
}

impl Wanted {
    pub(crate) fn parse(reference: &str) -> Result<Wanted, ImageError> {
        if let Some(id) = Digest::parse(reference).or_else(|| Digest::parse(&format!("sha256:{reference}"))) {
            return Ok(Wanted::Id(id));
        }
        let reference = Reference::parse(reference)?;
        Ok(if reference.digest.is_some() { Wanted::RepoDigest(reference.to_string()) } else { Wanted::Name(reference.to_string()) })
    }

    fn is(&self, entry: &Entry, record: &Record) -> bool {
        match self {
            Wanted::Name(name) => entry.names.contains(name),
            Wanted::RepoDigest(digest) => entry.repo_digests.contains(digest),
            Wanted::Id(id) => record.config == *id || record.manifest == *id,
        }
    }
}

fn open_layer(path: &Path) -> Result<OwnedFd, ImageError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| at("open layer", path)(error.into()))
}

/// Content that must stay while it is worked with.
pub(crate) struct Lease {
    store: Arc<Store>,
    digests: Mutex<Vec<Digest>>,
}

impl Lease {
    pub(crate) fn add(&self, digest: &Digest) {
        *self.store.state.lock().leases.entry(digest.clone()).or_default() += 1;
        self.digests.lock().push(digest.clone());
    }

    /// Takes the promises back before the lease ends.
    pub(crate) fn release(&self) {
        let digests = std::mem::take(&mut *self.digests.lock());
        let mut state = self.store.state.lock();
        for digest in &digests {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}
