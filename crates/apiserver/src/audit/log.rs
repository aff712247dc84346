//! The log file: one event a line, rotated by size, kept by count and age.
//!
//! A thread of its own writes. Requests never wait for it: what does not fit into its queue is lost, and so is what the disk does not take.
//! Both are said once in Knarr's own log, and again, with the number of lost events, when writing works again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use jiff::{Timestamp, civil::DateTime};
use parking_lot::Mutex;

use super::room::{EVENTS_MAX, Room};

/// How a rotated file's name tells its time.
const TIME: &str = "%Y-%m-%dT%H-%M-%S.%6f";
/// Megabytes of a file where none are given, as upstream.
const MEGABYTES_DEFAULT: u64 = 100;
/// Bytes gathered for one write.
const BATCH_BYTES: usize = 256 << 10;
/// How long an event may wait for others, to be written with them. A thread that wakes for each event would cost every request more than
/// the event itself.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// How the file is kept.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The file; `-` for standard output.
    pub path: PathBuf,
    /// It is rotated before it grows beyond this many megabytes (upstream's --audit-log-maxsize); 0 is 100.
    pub megabytes_max: u64,
    /// Old files that are kept (--audit-log-maxbackup); 0 keeps all.
    pub backups_max: usize,
    /// Days after which old files go (--audit-log-maxage); 0 keeps them.
    pub days_max: u64,
}

impl LogSettings {
    /// In `data_dir`, at most 1.1 GB of the last thirty days.
    pub fn in_data_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("audit/audit.log"), megabytes_max: MEGABYTES_DEFAULT, backups_max: 10, days_max: 30 }
    }
}

/// Hands events to the thread.
#[derive(Debug)]
pub(super) struct Log {
    /// None once it is closed.
    events: Mutex<Option<SyncSender<Bytes>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    room: Room,
    lost: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread. Fails where the file cannot be opened at all.
    pub(super) fn start(settings: LogSettings) -> io::Result<Self> {
        let (events, queue) = sync_channel(EVENTS_MAX);
        let (lost, room) = (Arc::new(AtomicU64::new(0)), Room::default());
        let mut writer = Writer { settings, room: room.clone(), lost: lost.clone(), said: false, file: None, size: 0 };
        writer.open()?;
        let writer = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&queue))?;
        Ok(Self { events: Mutex::new(Some(events)), writer: Mutex::new(Some(writer)), room, lost })
    }

    pub(super) fn write(&self, line: Bytes) {
        let bytes = line.len();
        let taken = self.room.take(bytes) && {
            let sent = self.events.lock().as_ref().is_some_and(|events| events.try_send(line).is_ok());
            if !sent {
                self.room.give_back(bytes);
            }
            sent
        };
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes no more, and returns once everything is written. Blocks.
    pub(super) fn close(&self) {
        drop(self.events.lock().take());
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

struct Writer {
    settings: LogSettings,
    room: Room,
    lost: Arc<AtomicU64>,
    /// Whether the present trouble was said.
    said: bool,
    /// None after a failure, until the next write.
    file: Option<File>,
    size: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Bytes>) {
        let mut before = self.lost.load(Ordering::Relaxed);
        let mut full = false;
        while let Ok(first) = queue.recv() {
            // While more waits than one write takes, there is nothing to wait for.
            if !full {
                std::thread::sleep(GATHER_TIME);
            }
            let mut batch = first.to_vec();
            let mut events = 1;
            while batch.len() < BATCH_BYTES
                && let Ok(next) = queue.try_recv()
            {
                batch.extend_from_slice(&next);
                events += 1;
            }
            full = batch.len() >= BATCH_BYTES;
            self.room.give_back(batch.len());
            match self.write(&batch) {
                Ok(()) => {
                    let lost = self.lost.load(Ordering::Relaxed);
                    if self.said || lost > before {
                        tracing::warn!(path = %self.settings.path.display(), lost = lost - before, "the audit log lost events, and is written again");
                    }
                    (self.said, before) = (false, lost);
                }
                Err(error) => {
                    if !self.said {
                        tracing::error!(path = %self.settings.path.display(), %error, "the audit log cannot be written; events are lost until it can, requests go on");
                    }
                    self.said = true;
                    self.file = None;
                    self.lost.fetch_add(events, Ordering::Relaxed);
                }
            }
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let bytes_max = if self.settings.megabytes_max == 0 { MEGABYTES_DEFAULT } else { self.settings.megabytes_max } << 20;
        if !self.is_standard_output() && self.file.is_some() && self.size > 0 && self.size + batch.len() as u64 > bytes_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Err(error) = file.write_all(batch) {
            // Half a line would spoil the next one. Standard output cannot be cut, and then says no more than it did.
            let _ = file.set_len(self.size);
            return Err(error);
        }
        self.size += batch.len() as u64;
        Ok(())
    }

    fn is_standard_output(&self) -> bool {
        self.settings.path == Path::new("-")
    }

    fn open(&mut self) -> io::Result<()> {
        if self.is_standard_output() {
            self.file = Some(File::from(rustix::io::dup(io::stdout())?));
            return Ok(());
        }
        if let Some(directory) = self.settings.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.settings.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Gives the file a name of its time, and removes old files that are too many or too old.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let time = Timestamp::now().strftime(TIME).to_string();
        let (stem, extension) = self.names();
        fs::rename(&self.settings.path, self.settings.path.with_file_name(format!("{stem}-{time}{extension}")))?;
        let old = self.backups()?;
        let limit = Duration::from_secs(self.settings.days_max * 86_400);
        for (index, path) in old.iter().rev().enumerate() {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
            let too_many = self.settings.backups_max > 0 && index >= self.settings.backups_max;
            if too_many || (self.settings.days_max > 0 && age > limit) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// `audit` and `.log`.
    fn names(&self) -> (String, String) {
        let path = &self.settings.path;
        let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
        (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), extension)
    }

    /// Rotated files, the oldest first: those whose names we gave, and nothing else that lies there.
    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = self.names();
        let directory = self.settings.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(&stem).and_then(|rest| rest.strip_prefix('-'));
            let time = rest.and_then(|rest| rest.strip_suffix(&extension));
            if time.is_some_and(|time| DateTime::strptime(TIME, time).is_ok()) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(path: PathBuf, backups_max: usize) -> Writer {
        let settings = LogSettings { path, megabytes_max: 1, backups_max, days_max: 1 };
        Writer { settings, room: Room::default(), lost: Arc::default(), said: false, file: None, size: 0 }
    }

    #[test]
    fn a_full_file_gets_another_name_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path().join("new/audit.log"), 2);
        writer.open().unwrap();
        let others = dir.path().join("new/audit-others.log");
        fs::write(&others, "not ours").unwrap();
        for round in 0..5_u8 {
            writer.write(&vec![b'a' + round; 700 << 10]).unwrap();
        }
        let old = writer.backups().unwrap();
        let first = |path: &Path| fs::read(path).unwrap()[0];
        assert_eq!(old.iter().map(|path| first(path)).collect::<Vec<_>>(), [b'c', b'd']);
        assert_eq!(first(&writer.settings.path), b'e');
        assert!(others.exists());
        fs::File::options().write(true).open(&old[1]).unwrap().set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();
        writer.write(&vec![b'f'; 700 << 10]).unwrap();
        assert_eq!(writer.backups().unwrap().iter().map(|path| first(path)).collect::<Vec<_>>(), [b'e'], "one is too many, one too old");
    }

    #[test]
    fn a_full_disk_is_said_once_and_loses_only_events() {
        let mut writer = writer("/dev/full".into(), 2);
        let (events, queue) = sync_channel(8);
        let lost = writer.lost.clone();
        assert_eq!(writer.write(b"x\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(writer.room.take(9));
        for _ in 0..3 {
            events.send(Bytes::from_static(b"{}\n")).unwrap();
        }
        drop(events);
        writer.run(&queue);
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }
}
