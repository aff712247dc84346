//! Keeping the process small: what the allocator may keep, and what only the start needed.

use std::{fs, io, ops::Range};

/// Free bytes at the end of a heap that go back to the kernel. glibc begins with less, but raises it to twice the largest block that was ever freed,
/// which after the first image is 64 MB: memory of the busiest moment would never be given back.
const HEAP_SLACK_BYTES: i32 = 1 << 20;
/// Blocks of this size have pages of their own, and take them along when they are freed. What is allocated often, chunks of answers, is smaller.
const HEAP_BLOCK_BYTES: i32 = 256 << 10;
/// Heaps among which threads choose. glibc makes one for nearly every thread that blocks, and each keeps what it once needed.
const HEAPS_MAX: i32 = 4;

/// Tells the allocator how much free memory it may keep: with 100 pods 0.1 MB less for each of them, and 2 MB less when idle.
pub(super) fn bound_heaps() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, HEAPS_MAX), (libc::M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES), (libc::M_TRIM_THRESHOLD, HEAP_SLACK_BYTES)]
    {
        // SAFETY: sets numbers of the allocator; no other thread runs yet. A refused value leaves its default, which costs memory only.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what only the start needed: free pages in the middle of heaps, and pages of the program's code. The kernel maps 64 KB around every page
/// that runs, and most of the start's code never runs again; what does is mapped once more at its next use, without a read from the disk
/// unless memory was short meanwhile.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes free pages only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0)
    };
    if let Err(error) = unmap_code() {
        tracing::debug!(%error, "give back pages of code");
    }
}

fn unmap_code() -> io::Result<()> {
    let here = unmap_code as *const () as usize;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let Some(code) = code_around(&maps, here) else { return Ok(()) };
    // SAFETY: the range is one whole mapping of this process, private, of a file, and never written to: its pages are read again from the file when
    // they are run, in this thread or any other.
    let advised = unsafe { libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED) };
    if advised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The mapping that `address` is in, if it is code from a file.
fn code_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        let (rights, path) = (fields.next()?, fields.nth(3)?);
        (range.contains(&address) && rights == "r-xp" && path.starts_with('/')).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_a_file_is_given_back() {
        let maps = "1000-2000 r--p 00000000 fe:00 7 /usr/bin/knarr\n\
                    2000-5000 r-xp 00001000 fe:00 7 /usr/bin/knarr (deleted)\n\
                    5000-6000 rw-p 00004000 fe:00 7 /usr/bin/knarr\n\
                    7000-8000 r-xp 00000000 00:00 0\n\
                    8000-9000 rwxp 00000000 fe:00 7 /usr/bin/knarr\n";
        assert_eq!(code_around(maps, 0x2fff), Some(0x2000..0x5000));
        for other in [0x1000, 0x5000, 0x6800, 0x7000, 0x8000] {
            assert_eq!(code_around(maps, other), None, "{other:x}");
        }
    }

    #[test]
    fn a_process_that_gave_back_is_smaller() {
        let mapped = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = mapped();
        give_back();
        let after = mapped();
        assert!(after < before, "{before} kB before, {after} kB after");
    }
}
