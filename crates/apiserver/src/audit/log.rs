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
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, civil::DateTime};
use parking_lot::{Condvar, Mutex};

use super::room::{BYTES_MAX, EVENTS_MAX};

/// How a rotated file's name tells its time.
const TIME: &str = "%Y-%m-%dT%H-%M-%S.%6f";
/// Megabytes of a file where none are given, as upstream.
const MEGABYTES_DEFAULT: u64 = 100;
/// Bytes of one write, unless a single event is longer.
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

    /// The files that are there: the oldest first, the one that is written to last.
    pub fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = match self.backups() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            found => found?,
        };
        files.extend(self.path.exists().then(|| self.path.clone()));
        Ok(files)
    }

    /// `audit` and `.log`.
    fn names(&self) -> (String, String) {
        let path = &self.path;
        let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
        (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), extension)
    }

    /// Rotated files, the oldest first: those whose names we gave, and nothing else that lies there.
    fn backups(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = self.names();
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
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

/// Hands events to the thread.
#[derive(Debug)]
pub(super) struct Log {
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something to write, or there will be no more.
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    events: usize,
    closed: bool,
}

impl Log {
    /// Starts the thread. Fails where the file cannot be opened at all.
    pub(super) fn start(settings: LogSettings) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let mut writer = Writer { settings, queue: queue.clone(), said: false, said_of_rotation: false, file: None, size: 0 };
        writer.open()?;
        let writer = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self { queue, writer: Mutex::new(Some(writer)) })
    }

    /// Takes one line, with its end.
    pub(super) fn write(&self, line: &[u8]) {
        self.queue.put(line);
    }

    pub(super) fn lost(&self) -> u64 {
        self.queue.lost.load(Ordering::Relaxed)
    }

    /// Takes no more, and returns once everything is written. Blocks.
    pub(super) fn close(&self) {
        self.queue.close();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

impl Queue {
    fn put(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.events == EVENTS_MAX || waiting.lines.len() + line.len() > BYTES_MAX {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.lines.extend_from_slice(line);
        waiting.events += 1;
        // Who writes sleeps only while there is nothing.
        if waiting.events == 1 {
            self.changed.notify_one();
        }
    }

    fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits until there is something; false when there will be no more.
    fn wait(&self) -> bool {
        let mut waiting = self.waiting.lock();
        self.changed.wait_while(&mut waiting, |waiting| waiting.events == 0 && !waiting.closed);
        waiting.events > 0
    }

    /// Everything that waits, in exchange for an empty buffer.
    fn take(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
        let mut waiting = self.waiting.lock();
        std::mem::swap(&mut waiting.lines, buffer);
        waiting.events = 0;
    }
}

struct Writer {
    settings: LogSettings,
    queue: Arc<Queue>,
    /// Whether the present trouble was said.
    said: bool,
    /// Whether it was said that the file cannot be rotated.
    said_of_rotation: bool,
    /// None after a failure, until the next write.
    file: Option<File>,
    size: u64,
}

impl Writer {
    fn run(mut self) {
        let mut before = self.lost();
        let (mut lines, mut full) = (Vec::new(), false);
        while self.queue.wait() {
            // While more waits than one write takes, there is nothing to wait for.
            if !full {
                std::thread::sleep(GATHER_TIME);
            }
            self.queue.take(&mut lines);
            full = lines.len() >= BATCH_BYTES;
            for batch in batches(&lines) {
                match self.write(batch) {
                    Ok(()) => {
                        let lost = self.lost();
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
                        let events = batch.iter().filter(|byte| **byte == b'\n').count();
                        self.queue.lost.fetch_add(events as u64, Ordering::Relaxed);
                    }
                }
            }
            // What one burst needed is not kept for ever.
            if lines.capacity() > BATCH_BYTES {
                lines = Vec::with_capacity(lines.len().min(BATCH_BYTES));
            }
        }
    }

    fn lost(&self) -> u64 {
        self.queue.lost.load(Ordering::Relaxed)
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let bytes_max = if self.settings.megabytes_max == 0 { MEGABYTES_DEFAULT } else { self.settings.megabytes_max } << 20;
        // A file that cannot be put aside grows on, and old ones that cannot go stay: what is to be recorded is written all the same.
        let full = !self.is_standard_output() && self.file.is_some() && self.size > 0 && self.size + batch.len() as u64 > bytes_max;
        // Old files go first: where the disk is full, they make the room for what comes now.
        let kept = if full { self.put_aside().and_then(|()| self.remove_old()) } else { Ok(()) };
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
        match kept {
            Err(error) if !self.said_of_rotation => {
                tracing::error!(path = %self.settings.path.display(), %error, "the audit log is written, but not rotated as it should be; its files take more room until they can go");
                self.said_of_rotation = true;
            }
            Ok(()) if full => self.said_of_rotation = false,
            Ok(()) | Err(_) => {}
        }
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

    /// Gives the file a name of its time; the next write makes another. A file that somebody else has put aside already is no matter.
    fn put_aside(&mut self) -> io::Result<()> {
        let time = Timestamp::now().strftime(TIME).to_string();
        let (stem, extension) = self.settings.names();
        match fs::rename(&self.settings.path, self.settings.path.with_file_name(format!("{stem}-{time}{extension}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.file = None;
        Ok(())
    }

    /// Removes old files that are too many or too old: all that can go, whatever the others say.
    fn remove_old(&self) -> io::Result<()> {
        let old = self.settings.backups()?;
        let mut done = Ok(());
        let limit = Duration::from_secs(self.settings.days_max * 86_400);
        for (index, path) in old.iter().rev().enumerate() {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
            let too_many = self.settings.backups_max > 0 && index >= self.settings.backups_max;
            if too_many || (self.settings.days_max > 0 && age > limit) {
                let removed =
                    fs::remove_file(path).map_err(|error| io::Error::new(error.kind(), format!("remove {}: {error}", path.display())));
                done = done.and(removed);
            }
        }
        done
    }
}

/// Whole lines, as many as one write takes.
fn batches(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = lines;
    std::iter::from_fn(move || {
        let fits = &left[..left.len().min(BATCH_BYTES)];
        let end = fits.iter().rposition(|byte| *byte == b'\n').or_else(|| left.iter().position(|byte| *byte == b'\n'))?;
        let (batch, rest) = left.split_at(end + 1);
        left = rest;
        Some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(path: PathBuf, backups_max: usize) -> Writer {
        let settings = LogSettings { path, megabytes_max: 1, backups_max, days_max: 1 };
        Writer { settings, queue: Arc::default(), said: false, said_of_rotation: false, file: None, size: 0 }
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
        let old = writer.settings.backups().unwrap();
        let first = |path: &Path| fs::read(path).unwrap()[0];
        assert_eq!(old.iter().map(|path| first(path)).collect::<Vec<_>>(), [b'c', b'd']);
        assert_eq!(first(&writer.settings.path), b'e');
        assert!(others.exists());
        fs::File::options().write(true).open(&old[1]).unwrap().set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();
        writer.write(&vec![b'f'; 700 << 10]).unwrap();
        assert_eq!(
            writer.settings.backups().unwrap().iter().map(|path| first(path)).collect::<Vec<_>>(),
            [b'e'],
            "one is too many, one too old"
        );
    }

    #[test]
    fn what_cannot_be_rotated_is_written_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut writer = writer(path.clone(), 1);
        writer.write(&vec![b'a'; 700 << 10]).unwrap();
        writer.write(&vec![b'b'; 700 << 10]).unwrap();
        // An old file that cannot be removed: a directory is none.
        let [old] = &writer.settings.backups().unwrap()[..] else { panic!("one old file") };
        fs::remove_file(old).unwrap();
        fs::create_dir(old).unwrap();
        writer.write(&vec![b'c'; 700 << 10]).unwrap();
        assert!(writer.said_of_rotation);
        assert_eq!((fs::read(&path).unwrap()[0], writer.size), (b'c', 700 << 10));
        fs::remove_dir(old).unwrap();
        writer.write(&vec![b'd'; 700 << 10]).unwrap();
        assert!(!writer.said_of_rotation);
        // One that cannot be renamed, as its name leads nowhere, is written on.
        writer.settings.path = dir.path().join("audit.log/none");
        writer.write(&vec![b'e'; 700 << 10]).unwrap();
        assert!(writer.said_of_rotation);
        let written = fs::read(&path).unwrap();
        assert_eq!((written.len(), written[written.len() - 1]), (1400 << 10, b'e'));
    }

    #[test]
    fn a_full_disk_is_said_once_and_loses_only_events() {
        let mut writer = writer("/dev/full".into(), 2);
        let queue = writer.queue.clone();
        assert_eq!(writer.write(b"x\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
        (0..3).for_each(|_| queue.put(b"{}\n"));
        queue.close();
        writer.run();
        assert_eq!(queue.lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_lost_and_counted() {
        let queue = Queue::default();
        (0..EVENTS_MAX + 2).for_each(|_| queue.put(b"{}\n"));
        queue.take(&mut Vec::new());
        queue.put(&vec![b'x'; BYTES_MAX]);
        queue.put(b"\n");
        assert!(queue.wait());
        assert_eq!(queue.lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn one_write_takes_whole_lines() {
        let (short, long) = ([&[b'a'; 1000][..], b"\n"].concat(), [&[b'b'; BATCH_BYTES][..], b"\n"].concat());
        let lines = [short.repeat(300), long.clone(), short.clone()].concat();
        let found: Vec<_> = batches(&lines).map(<[u8]>::len).collect();
        let full = BATCH_BYTES / short.len();
        assert_eq!(found, [full * short.len(), (300 - full) * short.len(), long.len(), short.len()]);
        assert_eq!(batches(&lines).collect::<Vec<_>>().concat(), lines);
    }
}
