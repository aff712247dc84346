//! The allocator of the process, and keeping the process small: what the allocator may keep, and what only the start needed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ffi::{CStr, c_char},
    fs, io,
    ops::Range,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use tikv_jemallocator::Jemalloc;

/// jemalloc for Knarr, because objects are made of many small pieces that one thread makes and another frees: a patch costs a third less CPU with it
/// than with glibc's allocator. That one for keepers, because it begins smaller.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Never changes once something was allocated.
static SMALL: AtomicBool = AtomicBool::new(false);

/// Makes this the process of a keeper.
///
/// # Safety
/// Nothing was allocated yet: it would be given to the other allocator when it is freed.
pub(crate) unsafe fn stay_small() {
    SMALL.store(true, Ordering::Relaxed);
}

impl Allocator {
    fn is_small() -> bool {
        SMALL.load(Ordering::Relaxed)
    }
}

// Not inlined: two allocators at each of the places that allocate make the binary 1 MB larger.
// SAFETY: both allocators keep the contract, and one process asks only one of them.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on; so below.
        unsafe { if Self::is_small() { System.alloc(layout) } else { Jemalloc.alloc(layout) } }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if Self::is_small() { System.alloc_zeroed(layout) } else { Jemalloc.alloc_zeroed(layout) } }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block is of the same allocator.
        unsafe { if Self::is_small() { System.dealloc(block, layout) } else { Jemalloc.dealloc(block, layout) } }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the block is of the same allocator.
        unsafe { if Self::is_small() { System.realloc(block, layout, size) } else { Jemalloc.realloc(block, layout, size) } }
    }
}

/// Read by jemalloc before the first allocation. Four heaps among which threads choose: without a number there are four for each processor, and every one
/// keeps what it once needed.
const CONFIGURATION: &CStr = c"narenas:4,dirty_decay_ms:1000,max_background_threads:1";
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: Configuration = Configuration(CONFIGURATION.as_ptr());

/// A C string that nobody changes.
#[repr(transparent)]
struct Configuration(*const c_char);
// SAFETY: it points to a constant.
unsafe impl Sync for Configuration {}

/// Free bytes at the end of glibc's heap, which code in C has, that go back to the kernel. It begins with less, but raises it to twice the largest block
/// that was ever freed, which after the first image is 64 MB: memory of the busiest moment would never be given back.
const C_HEAP_SLACK_BYTES: i32 = 1 << 20;

/// Bounds for how long free memory is kept: a second, after which a thread of jemalloc's gives pages back to the kernel. Without it nobody does where
/// nothing is allocated.
pub(crate) fn bound_heaps() {
    // SAFETY: sets a number of the allocator; no other thread runs yet. A refused value leaves its default, which costs memory only.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, C_HEAP_SLACK_BYTES) };
    if let Err(error) = control(c"background_thread", Some(true)) {
        tracing::debug!(%error, "give free memory back in a thread of its own");
    }
}

/// Gives back what only the start needed: free pages in the middle of heaps, and pages of the program's code. The kernel maps 64 KB around every page
/// that runs, and most of the start's code never runs again; what does is mapped once more at its next use, without a read from the disk
/// unless memory was short meanwhile.
pub(crate) fn give_back() {
    for given in [purge(), unmap_code()] {
        if let Err(error) = given {
            tracing::debug!(%error, "give memory back after the start");
        }
    }
}

fn purge() -> io::Result<()> {
    // SAFETY: takes free pages only, under the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
    // All heaps' free pages (MALLCTL_ARENAS_ALL).
    control(c"arena.4096.purge", None::<bool>)
}

/// Tells jemalloc something by name, with a value where it takes one.
fn control<T: Copy>(name: &CStr, mut value: Option<T>) -> io::Result<()> {
    let (given, size) = match &mut value {
        Some(value) => (ptr::from_mut(value).cast(), size_of::<T>()),
        None => (ptr::null_mut(), 0),
    };
    // SAFETY: the name ends with a zero, the value is as large as said and lives on, and nothing is asked for. jemalloc checks name and size.
    match unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), given, size) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
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
    fn jemalloc_heeds_its_configuration() {
        fn option<T: Default>(name: &CStr) -> T {
            let (mut value, mut size) = (T::default(), size_of::<T>());
            // SAFETY: room for the value, and its size beside it.
            let refused = unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), (&raw mut value).cast(), &raw mut size, ptr::null_mut(), 0) };
            assert_eq!((refused, size), (0, size_of::<T>()), "{name:?}");
            value
        }
        assert_eq!((option::<u32>(c"opt.narenas"), option::<usize>(c"opt.max_background_threads")), (4, 1));
        assert_eq!(option::<isize>(c"opt.dirty_decay_ms"), 1000);
        purge().unwrap();
        bound_heaps();
        assert!(option::<bool>(c"background_thread"));
        assert!(control(c"arena.4096.purged", None::<bool>).is_err(), "what it does not know it says");
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
