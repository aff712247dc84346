//! A container's log in the CRI form, `<time> <stream> <F|P> <text>`, rotated at its byte limit as it is written.
//!
//! The keeper owns the pipe, so no line slips between a size check and a rename: the file never grows past its limit by more
//! than one record. Older files are `<path>.1`, `<path>.2`, ...; a follower sees the inode change.
//! Source of the form: kubernetes/kubernetes pkg/kubelet/kuberuntime/logs, containerd internal/cri/io/logger.go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Text bytes of one record; longer lines are cut into partial records (`P`). Containerd's default (max_container_log_line_size).
pub(crate) const LINE_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The log file of one container.
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files: u32,
}

impl LogFile {
    pub(crate) fn open(path: &Path, bytes_max: u64, files: u32) -> io::Result<LogFile> {
        let file = open_append(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes, bytes_max, files: files.max(1) })
    }

    /// Opens the path anew, after someone else has moved the file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open_append(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }

    /// Writes the complete lines and full-length parts in `text`; returns how many bytes it took. The rest is an unfinished
    /// line that the caller keeps, unless `end`, when the line will not be continued and is written as it is.
    pub(crate) fn write_lines(&mut self, stream: Stream, text: &[u8], now_ns: i128, end: bool) -> io::Result<usize> {
        let mut taken = 0;
        while taken < text.len() {
            let rest = &text[taken..];
            let window = &rest[..rest.len().min(LINE_MAX + 1)];
            let (line, tag, used) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (&rest[..at], 'F', at + 1),
                None if rest.len() >= LINE_MAX => (&rest[..LINE_MAX], 'P', LINE_MAX),
                None if end => (rest, 'F', rest.len()),
                None => break,
            };
            self.record(stream, tag, line, now_ns)?;
            taken += used;
        }
        Ok(taken)
    }

    fn record(&mut self, stream: Stream, tag: char, line: &[u8], now_ns: i128) -> io::Result<()> {
        let mut head = [0u8; 48];
        let head_len = {
            let mut cursor = io::Cursor::new(&mut head[..]);
            write!(cursor, "{} {} {tag} ", Rfc3339(now_ns), stream.name())?;
            cursor.position() as usize
        };
        let length = (head_len + line.len() + 1) as u64;
        if self.bytes > 0 && self.bytes + length > self.bytes_max {
            self.rotate()?;
        }
        // One system call per record, so that a reader meets whole lines.
        let slices = [io::IoSlice::new(&head[..head_len]), io::IoSlice::new(line), io::IoSlice::new(b"\n")];
        let written = self.file.write_vectored(&slices)?;
        self.bytes += written as u64;
        if written as u64 != length {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "log record cut short: is the disk full?"));
        }
        Ok(())
    }

    /// path.(n-1) is dropped, every other moves up by one, the current file becomes path.1.
    fn rotate(&mut self) -> io::Result<()> {
        if self.files == 1 {
            self.file.set_len(0)?;
            self.bytes = 0;
            return Ok(());
        }
        for n in (1..self.files - 1).rev() {
            match std::fs::rename(numbered(&self.path, n), numbered(&self.path, n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match std::fs::rename(&self.path, numbered(&self.path, 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.reopen()
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

fn open_append(path: &Path) -> io::Result<File> {
    // No link is followed in the last step: the directory is the node's own, but its name is guessable.
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Unix nanoseconds, written as RFC 3339 in UTC with nine decimals. No date library: the keeper's memory is counted.
struct Rfc3339(i128);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DAY_S: i64 = 86_400;
        let seconds = self.0.div_euclid(1_000_000_000) as i64;
        let nanos = self.0.rem_euclid(1_000_000_000);
        let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days. A year begins in
        // March, so that the leap day is its last; an era is 400 years.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        let check = |ns: i128, expected: &str| assert_eq!(Rfc3339(ns).to_string(), expected);
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(1_767_225_599_999_999_999, "2025-12-31T23:59:59.999999999Z");
        check(4_102_444_800_000_000_000, "2100-01-01T00:00:00.000000000Z");
    }

    fn texts(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| line["1970-01-01T00:00:00.000000000Z ".len()..].to_owned()).collect()
    }

    #[test]
    fn whole_lines_are_full_and_an_unfinished_one_waits() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 1 << 20, 3).expect("open");
        let taken = log.write_lines(Stream::Stdout, b"one\n\ntw", 0, false).expect("write");
        assert_eq!(taken, 5);
        let taken = log.write_lines(Stream::Stderr, b"two", 0, true).expect("write");
        assert_eq!(taken, 3);
        assert_eq!(texts(&path), ["stdout F one", "stdout F ", "stderr F two"]);
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 1 << 20, 3).expect("open");
        let mut text = vec![b'x'; LINE_MAX + 5];
        text.push(b'\n');
        assert_eq!(log.write_lines(Stream::Stdout, &text, 0, false).expect("write"), text.len());
        let exact = [vec![b'y'; LINE_MAX], vec![b'\n']].concat();
        assert_eq!(log.write_lines(Stream::Stdout, &exact, 0, false).expect("write"), exact.len());
        let lengths: Vec<(char, usize)> =
            texts(&path).iter().map(|line| (line.as_bytes()[7] as char, line.len() - "stdout P ".len())).collect();
        assert_eq!(lengths, [('P', LINE_MAX), ('F', 5), ('F', LINE_MAX)]);
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_loses_no_line_in_between() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        // A record of "n\n" has 31 + 9 + 1 + 1 = 42 bytes or so: two fit.
        let mut log = LogFile::open(&path, 90, 3).expect("open");
        for n in 0..9 {
            log.write_lines(Stream::Stdout, format!("{n}\n").as_bytes(), 0, false).expect("write");
        }
        assert_eq!(texts(&path), ["stdout F 8"]);
        assert_eq!(texts(&dir.path().join("0.log.1")), ["stdout F 6", "stdout F 7"]);
        assert_eq!(texts(&dir.path().join("0.log.2")), ["stdout F 4", "stdout F 5"]);
        assert!(!dir.path().join("0.log.3").exists());
    }

    #[test]
    fn a_link_at_the_log_path_is_not_followed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("precious");
        std::fs::write(&target, "x").expect("write");
        std::os::unix::fs::symlink(&target, dir.path().join("0.log")).expect("symlink");
        assert!(LogFile::open(&dir.path().join("0.log"), 100, 2).is_err());
    }
}
