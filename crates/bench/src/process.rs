//! What the kernel says of processes.

use std::{fs, path::PathBuf, time::Duration};

use crate::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// Shared pages divided by how many share them.
    pub(crate) proportional: u64,
    pub(crate) private: u64,
    /// Resident pages that no file stands behind.
    pub(crate) anonymous: u64,
}

impl std::iter::Sum for Memory {
    fn sum<I: Iterator<Item = Self>>(memories: I) -> Self {
        memories.fold(Self::default(), |sum, one| Self {
            resident: sum.resident + one.resident,
            proportional: sum.proportional + one.proportional,
            private: sum.private + one.private,
            anonymous: sum.anonymous + one.anonymous,
        })
    }
}

impl Process {
    pub(crate) fn new(id: u32) -> Self {
        Self(id)
    }

    /// All processes whose command line names `text`.
    pub(crate) fn naming(text: &str) -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.map(Self).filter(|process| process.command_line().contains(text)).collect()
    }

    fn command_line(self) -> String {
        String::from_utf8_lossy(&fs::read(self.file("cmdline")).unwrap_or_default()).replace('\0', " ")
    }

    fn file(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0).into()
    }

    pub(crate) fn memory(self) -> Outcome<Memory> {
        let path = self.file("smaps_rollup");
        let text = fs::read_to_string(&path).map_err(crate::fault("read", &path))?;
        Ok(parse_rollup(&text))
    }

    /// Time on a processor since its start, all threads.
    pub(crate) fn cpu(self) -> Outcome<Duration> {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: both calls write to the variables that they are given, which live through them.
        let done = unsafe {
            libc::clock_getcpuclockid(self.0 as libc::pid_t, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
        };
        if !done {
            return Err(format!("read the clock of process {}: {}", self.0, std::io::Error::last_os_error()));
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

fn parse_rollup(text: &str) -> Memory {
    let field = |name: &str| -> u64 {
        let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| *key == name);
        lines.filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok()).sum::<u64>() * 1024
    };
    Memory {
        resident: field("Rss"),
        proportional: field("Pss"),
        private: field("Private_Clean") + field("Private_Dirty"),
        anonymous: field("Anonymous"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_name() {
        let memory =
            parse_rollup("400000-7fff [rollup]\nRss:  20 kB\nPss:  10 kB\nPrivate_Clean:  1 kB\nPrivate_Dirty:  2 kB\nAnonymous: 3 kB\n");
        assert_eq!((memory.resident, memory.proportional, memory.private, memory.anonymous), (20_480, 10_240, 3_072, 3_072));
    }

    #[test]
    fn a_process_that_works_takes_time() {
        let own = Process::new(std::process::id());
        let before = own.cpu().unwrap();
        while own.cpu().unwrap() == before {}
    }
}
