//! What is on disk, and how it is read and written.
//!
//! `lock` names the process that has the store open, and is locked by it. `engine/` is fjall's. In it the keyspace `objects` maps
//! a key to its [`record`](super::record). The keyspace `store` has the format, and the revision to start from after a crash. While the
//! engine is rewritten there are `engine.new/` and `engine.old/` beside it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rustix::fs::FlockOperation;

use super::{
    Options,
    record::{Record, Stored},
};
use crate::{
    Collection, CommitError, Entry, Event, Key, OpenError, Revision, Shut, Snapshot, Write,
    seal::{Seal, SealCount, SealError, Sealing, Wrapped},
};

/// The layout described above.
const FORMAT: u32 = 2;
/// The same without sealed values, which a Knarr that knows no others could not tell from plain ones.
const FORMAT_PLAIN: u32 = 1;
const FORMAT_KEY: &str = "format";
const RESERVED_KEY: &str = "reserved";

/// What the engine's directory is called while it is rewritten: the one that will be, and the one that was.
const NEW: &str = "new";
const OLD: &str = "old";

/// Revisions set aside at once. Heartbeats take revisions without a flush; after a crash counting goes on behind all that
/// may have been seen. One flush in this many heartbeats.
const RESERVED_STEP: u64 = 100_000;

/// Everything is in memory already: the engine needs no more cache than one compaction uses.
const CACHE_BYTES: u64 = 1 << 20;

/// What the engine gathers before it sorts it to disk; it bounds the memory that an idle engine keeps.
const MEMTABLE_BYTES: u64 = 4 << 20;

/// The least that the engine allows. A journal is reused after its memtable is on disk.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

pub(crate) struct Disk {
    path: PathBuf,
    /// Empty only while the engine is opened again.
    engine: Option<Engine>,
    /// Unlocks when dropped, after the engine is closed.
    _lock: File,
    reserved: Revision,
    /// Keys of a batch whose flush failed, with what they must hold: some of the batch may be on disk.
    suspect: HashMap<Key, Option<Arc<Entry>>>,
    sealing: Arc<Sealing>,
    /// What the records are sealed with, of collections that are to be sealed; and of others where a record still is. None is plain.
    seals: HashMap<Key, Option<Seal>>,
    /// Records that could not be opened yet, for their key service is silent.
    shut: HashMap<Collection, Unopened>,
    /// What their key services have to unwrap before they open, by service.
    wrapped: BTreeSet<(String, Wrapped)>,
}

struct Unopened {
    keys: BTreeSet<Key>,
    /// How it was for the last that was tried.
    source: Arc<SealError>,
}

struct Engine {
    database: Database,
    objects: Keyspace,
    store: Keyspace,
}

impl Engine {
    fn open(path: &Path) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES).manual_journal_persist(true);
        let objects = database.keyspace("objects", options)?;
        let store = database.keyspace("store", options)?;
        Ok(Self { database, objects, store })
    }
}

impl Disk {
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<(Self, Snapshot), OpenError> {
        let mut disk = Self::take(dir, options.sealing.clone())?;
        let snapshot = disk.load(&options.may_be_shut)?;
        Ok((disk, snapshot))
    }

    fn take(dir: &Path, sealing: Arc<Sealing>) -> Result<Self, OpenError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join("engine");
        tidy(&path).map_err(|source| OpenError::Directory { path: path.clone(), source })?;
        let engine = Engine::open(&path).map_err(|source| OpenError::Engine { path: path.clone(), source })?;
        Ok(Self {
            path,
            engine: Some(engine),
            _lock: lock,
            reserved: Revision(0),
            suspect: HashMap::new(),
            sealing,
            seals: HashMap::new(),
            shut: HashMap::new(),
            wrapped: BTreeSet::new(),
        })
    }

    /// What every record is sealed with, of a store that may not open for want of a key.
    pub(crate) fn survey(dir: &Path) -> Result<Vec<SealCount>, OpenError> {
        let mut disk = Self::take(dir, Sealing::none())?;
        disk.each(|disk, stored| {
            disk.seals.insert(stored.key.clone(), stored.seal());
            Ok(())
        })?;
        let mut counts = disk.seals();
        counts.iter_mut().for_each(|count| count.current = false);
        Ok(counts)
    }

    fn load(&mut self, may_be_shut: &[Collection]) -> Result<Snapshot, OpenError> {
        let path = self.path.clone();
        let read = |source| OpenError::Read { path: path.clone(), source };
        let engine = self.engine.as_ref().expect("just opened");
        match engine.store.get(FORMAT_KEY).map_err(read)? {
            Some(format) if *format == FORMAT.to_be_bytes() => {}
            Some(format) if *format == FORMAT_PLAIN.to_be_bytes() => engine.store.insert(FORMAT_KEY, FORMAT.to_be_bytes()).map_err(read)?,
            None if engine.objects.first_key_value().is_none() => engine.store.insert(FORMAT_KEY, FORMAT.to_be_bytes()).map_err(read)?,
            other => {
                let found = other.map_or_else(|| "unknown".to_owned(), |format| number(&format).to_string());
                return Err(OpenError::Format { path, found, expected: FORMAT });
            }
        }
        if let Some(reserved) = engine.store.get(RESERVED_KEY).map_err(read)? {
            self.reserved = Revision(number(&reserved));
        }
        let mut snapshot = Snapshot::default();
        let mut newest = self.reserved;
        let mut silent: HashMap<String, Arc<SealError>> = HashMap::new();
        self.each(|disk, stored| {
            newest = newest.max(stored.revision());
            let sealed_with = stored.seal();
            let wrapped = stored.wrapped();
            // One that is silent may take seconds to be so, and is not asked again for each record.
            let known = wrapped.as_ref().and_then(|(service, _)| silent.get(service)).cloned();
            let opened = match known {
                Some(source) if may_be_shut.contains(&stored.key.collection) => Err((stored.key, source)),
                _ => stored.open(&disk.sealing).map_err(|(key, source)| (key, Arc::new(source))),
            };
            match opened {
                Ok((entry, seal)) => {
                    disk.note(&entry.key, seal);
                    snapshot.insert(Arc::new(entry));
                }
                Err((key, source)) if source.may_pass() && may_be_shut.contains(&key.collection) => {
                    silent.extend(wrapped.as_ref().map(|(service, _)| (service.clone(), source.clone())));
                    disk.note(&key, sealed_with);
                    disk.wrapped.extend(wrapped);
                    let unopened = || Unopened { keys: BTreeSet::new(), source };
                    disk.shut.entry(key.collection.clone()).or_insert_with(unopened).keys.insert(key);
                }
                Err((key, source)) => return Err(OpenError::Sealed { key, source }),
            }
            Ok(())
        })?;
        snapshot.revision = newest;
        Ok(snapshot)
    }

    fn each(&mut self, mut visit: impl FnMut(&mut Self, Stored<'_>) -> Result<(), OpenError>) -> Result<(), OpenError> {
        let path = self.path.clone();
        let objects = self.engine.as_ref().expect("just opened").objects.clone();
        for record in objects.iter() {
            let (key, value) = record.into_inner().map_err(|source| OpenError::Read { path: path.clone(), source })?;
            let stored = Stored::read(&key, &value)
                .ok_or_else(|| OpenError::Record { path: path.clone(), key: String::from_utf8_lossy(&key).into_owned() })?;
            visit(self, stored)?;
        }
        Ok(())
    }

    /// The collections that have records which could not be opened yet.
    pub(crate) fn shut(&self) -> HashMap<Collection, Shut> {
        self.shut.keys().filter_map(|collection| Some((collection.clone(), self.shut_of(collection)?))).collect()
    }

    fn shut_of(&self, collection: &Collection) -> Option<Shut> {
        let Unopened { keys, source } = self.shut.get(collection)?;
        Some(Shut { collection: collection.clone(), objects: keys.len(), key: keys.first()?.clone(), source: source.clone() })
    }

    /// What the services have to unwrap for them.
    pub(crate) fn wrapped(&self) -> Vec<(String, Wrapped)> {
        self.wrapped.iter().cloned().collect()
    }

    /// Refuses writes to such a collection.
    pub(crate) fn refuse_shut(&self, writes: &[Write]) -> Result<(), CommitError> {
        if self.shut.is_empty() {
            return Ok(());
        }
        writes.iter().find_map(|write| self.shut_of(&write.key().collection)).map_or(Ok(()), |shut| Err(CommitError::Shut(shut)))
    }

    /// Opens them into `state`, up to the first that does not open.
    pub(crate) fn open_shut(&mut self, state: &mut Snapshot) -> Result<(), CommitError> {
        let collections: Vec<Collection> = self.shut.keys().cloned().collect();
        for collection in collections {
            while let Some(key) = self.shut.get(&collection).and_then(|unopened| unopened.keys.first().cloned()) {
                self.mend().map_err(|error| CommitError::Engine(Arc::new(error)))?;
                let engine = self.engine.as_ref().expect("just mended");
                let bytes = key.to_bytes();
                let value = engine.objects.get(&bytes).map_err(|error| CommitError::Engine(Arc::new(error)))?;
                // It was read when the store was opened, and nothing writes it while it is shut.
                let stored = value.as_ref().and_then(|value| Stored::read(&bytes, value));
                let stored = stored.ok_or_else(|| CommitError::Engine(Arc::new(fjall::Error::Io(io::ErrorKind::NotFound.into()))))?;
                let opened = stored.open(&self.sealing);
                let Some(unopened) = self.shut.get_mut(&collection) else { break };
                match opened {
                    Ok((entry, seal)) => {
                        unopened.keys.remove(&key);
                        self.note(&key, seal);
                        state.insert(Arc::new(entry));
                    }
                    Err((_, source)) => {
                        unopened.source = Arc::new(source);
                        return self.shut_of(&collection).map_or(Ok(()), |shut| Err(CommitError::Shut(shut)));
                    }
                }
            }
            self.shut.remove(&collection);
        }
        self.wrapped.clear();
        Ok(())
    }

    fn note(&mut self, key: &Key, seal: Option<Seal>) {
        if seal.is_some() || self.sealing.covers(&key.collection) {
            self.seals.insert(key.clone(), seal);
        } else {
            self.seals.remove(key);
        }
    }

    pub(crate) fn sealing(&self) -> &Arc<Sealing> {
        &self.sealing
    }

    /// Seals with `sealing` from now on. `state` is what is stored.
    pub(crate) fn seal_with(&mut self, sealing: Arc<Sealing>, state: &Snapshot) {
        self.sealing = sealing;
        let covered = state.collections().filter(|collection| self.sealing.covers(collection));
        for entry in covered.flat_map(|collection| state.range(collection, "", None)) {
            self.seals.entry(entry.key.clone()).or_default();
        }
        self.seals.retain(|key, seal| seal.is_some() || self.sealing.covers(&key.collection));
    }

    /// Of the records that are to be sealed, or are: how many are so with what.
    pub(crate) fn seals(&self) -> Vec<SealCount> {
        let mut counts: BTreeMap<(&Collection, &Option<Seal>), (usize, bool)> = BTreeMap::new();
        for (key, seal) in &self.seals {
            let count = counts.entry((&key.collection, seal)).or_insert_with(|| (0, self.is_current(key, seal)));
            count.0 += 1;
        }
        let count = |((collection, seal), (objects, current)): ((&Collection, &Option<Seal>), _)| SealCount {
            collection: collection.clone(),
            seal: seal.clone(),
            objects,
            current,
        };
        counts.into_iter().map(count).collect()
    }

    /// Keys of records that are sealed otherwise than they would be now.
    pub(crate) fn sealed_otherwise(&self) -> impl Iterator<Item = &Key> {
        self.seals.iter().filter(|(key, seal)| !self.is_current(key, seal)).map(|(key, _)| key)
    }

    /// A record that cannot be sealed as it should be now, for its key service is silent.
    pub(crate) fn unmet(&self) -> Option<(Key, SealError)> {
        self.seals.keys().find_map(|key| self.sealing.wanted(key).err().map(|error| (key.clone(), error)))
    }

    /// A record that `sealing` does not open although it knows a key of that name. Keys of services are not asked for.
    pub(crate) fn unopened(&self, sealing: &Sealing) -> Option<(Key, SealError)> {
        let engine = self.engine.as_ref()?;
        let at_hand = self.seals.iter().filter(|(_, seal)| seal.as_ref().is_some_and(|seal| !seal.is_of_service()));
        at_hand.map(|(key, _)| key).find_map(|key| {
            let value = engine.objects.get(key.to_bytes()).ok()??;
            let bytes = key.to_bytes();
            Stored::read(&bytes, &value)?.open(sealing).err()
        })
    }

    fn is_current(&self, key: &Key, seal: &Option<Seal>) -> bool {
        // Where a key service is silent, nothing can be sealed better than it is.
        self.sealing.wanted(key).map_or(true, |wanted| wanted == *seal)
    }

    /// Revisions up to this one may be given out without a flush.
    pub(crate) fn reserved(&self) -> Revision {
        self.reserved
    }

    /// Makes `records` durable, or nothing of them. `events` is what they are of, as far as they change objects.
    pub(crate) fn write(&mut self, records: &[Record], events: &[Arc<Event>], revision: Revision) -> Result<(), fjall::Error> {
        self.mend()?;
        let reserve = (revision > self.reserved).then(|| Revision(revision.0 + RESERVED_STEP));
        let result = self.try_write(records, reserve);
        if result.is_err() {
            // It answers nothing any more after a failed flush; the next write opens it again.
            self.engine = None;
            let held = events.iter().map(|event| (event.entry.key.clone(), event.previous.clone()));
            for (key, previous) in held {
                self.suspect.entry(key).or_insert(previous);
            }
        } else if let Some(reserve) = reserve {
            self.reserved = reserve;
        }
        result
    }

    fn try_write(&mut self, records: &[Record], reserve: Option<Revision>) -> Result<(), fjall::Error> {
        let engine = self.engine.as_ref().ok_or(fjall::Error::Poisoned)?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncData));
        for record in records {
            match &record.put {
                Some(put) => batch.insert(&engine.objects, record.key.to_bytes(), &put.bytes[..]),
                None => batch.remove(&engine.objects, record.key.to_bytes()),
            }
        }
        if let Some(reserve) = reserve {
            batch.insert(&engine.store, RESERVED_KEY, reserve.0.to_be_bytes());
        }
        batch.commit()?;
        for record in records {
            match &record.put {
                Some(put) => self.note(&record.key, put.seal.clone()),
                None => drop(self.seals.remove(&record.key)),
            }
        }
        Ok(())
    }

    /// Writes `state` to a new engine and deletes the old one, with all that was overwritten and removed in its tables and journals.
    pub(crate) fn rewrite(&mut self, state: &Snapshot) -> Result<(), CommitError> {
        let fault = |error| CommitError::Engine(Arc::new(error));
        let (new, old) = (self.path.with_extension(NEW), self.path.with_extension(OLD));
        self.mend().map_err(fault)?;
        // What an earlier attempt left holds objects that may be gone by now.
        tidy(&self.path).map_err(|error| fault(error.into()))?;
        let written = self.write_whole(&new, state);
        if let Err(error) = written {
            // The first error is the one to report; what stays is removed at the next opening.
            let _ = fs::remove_dir_all(&new);
            return Err(error);
        }
        self.engine = None;
        let renamed = fs::rename(&self.path, &old).and_then(|()| fs::rename(&new, &self.path));
        let synced = renamed.and_then(|()| File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all());
        synced.and_then(|()| fs::remove_dir_all(&old)).map_err(|error| fault(error.into()))?;
        self.mend().map_err(fault)
    }

    fn write_whole(&self, path: &Path, state: &Snapshot) -> Result<(), CommitError> {
        let fault = |error| CommitError::Engine(Arc::new(error));
        let engine = Engine::open(path).map_err(fault)?;
        for entry in state.collections().flat_map(|collection| state.range(collection, "", None)) {
            let record = Record::of_entry(entry, &self.sealing).map_err(|source| CommitError::Seal { key: entry.key.clone(), source })?;
            let bytes = record.put.map(|put| put.bytes).unwrap_or_default();
            engine.objects.insert(record.key.to_bytes(), bytes).map_err(fault)?;
        }
        engine.store.insert(FORMAT_KEY, FORMAT.to_be_bytes()).map_err(fault)?;
        engine.store.insert(RESERVED_KEY, self.reserved.0.max(state.revision.0).to_be_bytes()).map_err(fault)?;
        engine.database.persist(PersistMode::SyncAll).map_err(fault)
    }

    /// After a failed flush the engine refuses everything: it is opened again, and what the failed batch may have left is overwritten with what was acknowledged.
    fn mend(&mut self) -> Result<(), fjall::Error> {
        if self.suspect.is_empty() && self.engine.is_some() {
            return Ok(());
        }
        let records = self.suspect.iter().map(|(key, held)| match held {
            Some(entry) => Record::of_entry(entry, &self.sealing),
            None => Ok(Record::removal(key.clone())),
        });
        let records = records.collect::<Result<Vec<_>, SealError>>().map_err(|error| fjall::Error::Io(io::Error::other(error)))?;
        self.engine = None;
        // Without it, an engine whose rewriting failed between two names would be taken for a new, empty one.
        tidy(&self.path).map_err(fjall::Error::Io)?;
        self.engine = Some(Engine::open(&self.path)?);
        if let Err(error) = self.try_write(&records, None) {
            self.engine = None;
            return Err(error);
        }
        if self.suspect.is_empty() {
            return Ok(());
        }
        tracing::info!(keys = self.suspect.len(), "the store was opened again after a failed flush");
        self.suspect.clear();
        Ok(())
    }

    /// The last write. The exact revision is kept, so that an orderly restart skips none.
    pub(crate) fn close(&mut self, waiting: &[Record], revision: Revision) -> Result<(), fjall::Error> {
        self.mend()?;
        self.try_write(waiting, Some(revision))
    }

    /// `None` when the file system does not say.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        // A file system of no size, such as ramfs, does not count its room.
        (stat.f_blocks > 0).then(|| stat.f_bavail * stat.f_frsize)
    }
}

/// Ends a rewriting that was cut off, or failed: the old engine counts until the new one has its name. An engine that is open under that name is left
/// alone.
fn tidy(path: &Path) -> io::Result<()> {
    let (new, old) = (path.with_extension(NEW), path.with_extension(OLD));
    if !path.exists() && old.exists() {
        fs::rename(&old, path)?;
    }
    for left in [new, old] {
        match fs::remove_dir_all(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let fault = |source| OpenError::Lock { path: path.to_owned(), source };
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(fault)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(fault)?;
            return Err(OpenError::InUse { path: path.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(errno) => return Err(fault(errno.into())),
    }
    file.set_len(0).map_err(fault)?;
    file.rewind().map_err(fault)?;
    writeln!(file, "{}", std::process::id()).map_err(fault)?;
    Ok(file)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
