//! What the figures were measured on.

use std::{fs, io::Write as _, path::Path, time::Instant};

use crate::{Outcome, fault, median};

/// Flushes that the disk is asked for.
const FLUSHES: usize = 101;

/// One line: kernel, processor, memory, disk.
pub(crate) fn describe(dir: &Path) -> Outcome<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let processor = read("/proc/cpuinfo");
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kilobytes: u64 =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default();
    Ok(format!(
        "Linux {}, {cores} cores of {model}, {:.0} GB of memory, {}; a flush of 4 KiB takes {:.2} ms.",
        // What a distribution appends names its build, not the kernel.
        kernel.trim().split('-').next().unwrap_or_default(),
        kilobytes as f64 * 1024.0 / 1e9,
        // Mounts are told from the root on.
        file_system(&read("/proc/self/mounts"), &std::path::absolute(dir).map_err(fault("find", dir))?),
        flush_ms(dir)?
    ))
}

/// The type of the file system that `dir` lies on.
fn file_system(mounts: &str, dir: &Path) -> String {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| fields.len() > 2);
    // The last of the longest: later mounts hide earlier ones.
    let best = fields.filter(|fields| dir.starts_with(fields[1])).max_by_key(|fields| fields[1].len());
    best.map_or("an unknown file system".to_owned(), |fields| fields[2].to_owned())
}

fn flush_ms(dir: &Path) -> Outcome<f64> {
    let mut file = tempfile::tempfile_in(dir).map_err(fault("make a file in", dir))?;
    let mut times = Vec::new();
    for _ in 0..FLUSHES {
        let began = Instant::now();
        file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).map_err(fault("write in", dir))?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x/y")), "xfs");
        assert_eq!(file_system(mounts, Path::new("/home")), "ext4");
    }
}
