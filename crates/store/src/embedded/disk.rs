//! What is on disk, and how it is read and written.
//!
//! `lock` names the process that has the store open, and is locked by it. `engine/` is fjall's. In it the keyspace `objects` maps
//! a key to: the revision (8 bytes, big endian), the place of the revision in the value (4 bytes), the value. The keyspace `store` has the
//! format, and the revision to start from after a crash.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rustix::fs::FlockOperation;

use crate::{Entry, Event, EventKind, Key, OpenError, Revision, Snapshot};

/// The layout described above.
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "format";
const RESERVED_KEY: &str = "reserved";

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
    pub(crate) fn open(dir: &Path) -> Result<(Self, Snapshot), OpenError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        let lock = lock(&dir.join("lock"))?;
        let path = dir.join("engine");
        let engine = Engine::open(&path).map_err(|source| OpenError::Engine { path: path.clone(), source })?;
        let mut disk = Self { path, engine: Some(engine), _lock: lock, reserved: Revision(0), suspect: HashMap::new() };
        let snapshot = disk.load()?;
        Ok((disk, snapshot))
    }

    fn load(&mut self) -> Result<Snapshot, OpenError> {
        let path = self.path.clone();
        let read = |source| OpenError::Read { path: path.clone(), source };
        let engine = self.engine.as_ref().expect("just opened");
        match engine.store.get(FORMAT_KEY).map_err(read)? {
            Some(format) if *format == FORMAT.to_be_bytes() => {}
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
        for record in engine.objects.iter() {
            let (key, value) = record.into_inner().map_err(read)?;
            let entry = decode(&key, &value)
                .ok_or_else(|| OpenError::Record { path: path.clone(), key: String::from_utf8_lossy(&key).into_owned() })?;
            newest = newest.max(entry.revision);
            snapshot.insert(Arc::new(entry));
        }
        snapshot.revision = newest;
        Ok(snapshot)
    }

    /// Revisions up to this one may be given out without a flush.
    pub(crate) fn reserved(&self) -> Revision {
        self.reserved
    }

    /// Makes `waiting` and then `events` durable, or nothing of them.
    pub(crate) fn write(&mut self, waiting: &[Arc<Entry>], events: &[Arc<Event>], revision: Revision) -> Result<(), fjall::Error> {
        self.mend()?;
        let reserve = (revision > self.reserved).then(|| Revision(revision.0 + RESERVED_STEP));
        let result = self.try_write(waiting, events, reserve);
        if result.is_err() {
            let held = events.iter().map(|event| (event.entry.key.clone(), event.previous.clone()));
            for (key, previous) in held {
                self.suspect.entry(key).or_insert(previous);
            }
        } else if let Some(reserve) = reserve {
            self.reserved = reserve;
        }
        result
    }

    fn try_write(&mut self, waiting: &[Arc<Entry>], events: &[Arc<Event>], reserve: Option<Revision>) -> Result<(), fjall::Error> {
        let engine = self.engine.as_ref().ok_or(fjall::Error::Poisoned)?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncData));
        for entry in waiting {
            batch.insert(&engine.objects, entry.key.to_bytes(), encode(entry));
        }
        for event in events {
            match event.kind {
                EventKind::Put => batch.insert(&engine.objects, event.entry.key.to_bytes(), encode(&event.entry)),
                EventKind::Delete => batch.remove(&engine.objects, event.entry.key.to_bytes()),
            }
        }
        if let Some(reserve) = reserve {
            batch.insert(&engine.store, RESERVED_KEY, reserve.0.to_be_bytes());
        }
        batch.commit()
    }

    /// After a failed flush the engine refuses everything: it is opened again, and what the failed batch may have left is overwritten with what was acknowledged.
    fn mend(&mut self) -> Result<(), fjall::Error> {
        if self.suspect.is_empty() {
            return Ok(());
        }
        self.engine = None;
        let engine = Engine::open(&self.path)?;
        let mut batch = engine.database.batch().durability(Some(PersistMode::SyncData));
        for (key, held) in &self.suspect {
            match held {
                Some(entry) => batch.insert(&engine.objects, key.to_bytes(), encode(entry)),
                None => batch.remove(&engine.objects, key.to_bytes()),
            }
        }
        batch.commit()?;
        tracing::info!(keys = self.suspect.len(), "the store was opened again after a failed flush");
        self.suspect.clear();
        self.engine = Some(engine);
        Ok(())
    }

    /// The last write. The exact revision is kept, so that an orderly restart skips none.
    pub(crate) fn close(&mut self, waiting: &[Arc<Entry>], revision: Revision) -> Result<(), fjall::Error> {
        self.mend()?;
        self.try_write(waiting, &[], Some(revision))
    }

    /// `None` when the file system does not say.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.path).ok()?;
        // A file system of no size, such as ramfs, does not count its room.
        (stat.f_blocks > 0).then(|| stat.f_bavail * stat.f_frsize)
    }
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

/// Bytes of a record before the value.
const HEADER_BYTES: usize = 12;

fn encode(entry: &Entry) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + entry.value.len());
    record.extend_from_slice(&entry.revision.0.to_be_bytes());
    // Values are far smaller than 4 GiB (VALUE_BYTES_MAX).
    record.extend_from_slice(&(entry.stamp as u32).to_be_bytes());
    record.extend_from_slice(&entry.value);
    record
}

fn decode(key: &[u8], record: &[u8]) -> Option<Entry> {
    let key = Key::from_bytes(key)?;
    let (revision, rest) = record.split_first_chunk::<8>()?;
    let (stamp, _) = rest.split_first_chunk::<4>()?;
    let (revision, stamp) = (Revision(u64::from_be_bytes(*revision)), u32::from_be_bytes(*stamp) as usize);
    Some(Entry::stored(key, revision, Bytes::copy_from_slice(&record[HEADER_BYTES..]), stamp))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
