//! Keepers: this binary started anew, one for each pod and one for DNS, which outlive Knarr. A hundred of them run where one Knarr does, so that they must
//! stay small: a keeper's work begins among the initialisers of the program, before `main`, and before jemalloc's own, which writes to 0.2 MB.

use std::{
    ffi::{CStr, OsStr, c_char, c_int},
    os::unix::ffi::OsStrExt as _,
    panic,
    path::Path,
    process,
};

use knarr_network::dns;

use crate::memory;

#[cfg(not(target_env = "gnu"))]
compile_error!("keepers begin among the initialisers of the program, which only glibc tells the command line");

/// Ends a keeper that panicked, as it ends every program in Rust.
const PANICKED: i32 = 101;
/// Names a pod's keeper on the command line.
const VERB: &str = "keeper";

/// The C library calls these before `main` in the order of their numbers: after the standard library's own (99), which keeps the arguments, and before
/// those without a number, of which jemalloc's is one.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array.00100")]
static BEGIN: extern "C" fn(c_int, *const *const c_char) = begin;

/// Never returns where the command line is a keeper's: `<exe> <verb> <directory>`.
#[cfg_attr(test, expect(dead_code, reason = "tests are no keepers"))]
extern "C" fn begin(count: c_int, arguments: *const *const c_char) {
    if count < 3 {
        return;
    }
    // SAFETY: glibc hands initialisers what it hands to `main`: so many C strings, which live as long as the process.
    let [verb, directory] = [1, 2].map(|at| unsafe { CStr::from_ptr(*arguments.add(at)) }.to_bytes());
    let run: fn(&Path) -> ! = match verb {
        verb if verb == VERB.as_bytes() => knarr_runtime::keeper_main,
        verb if verb == dns::KEEPER_VERB.as_bytes() => dns::keeper_main,
        _ => return,
    };
    // SAFETY: neither the standard library nor anything else has allocated yet: initialisers that do have no number.
    unsafe { memory::stay_small() };
    // As before every `main` in Rust: whoever writes to a closed pipe gets an error.
    // SAFETY: no other thread runs yet, and nothing depends on the signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let Err(_) = panic::catch_unwind(|| run(Path::new(OsStr::from_bytes(directory))));
    process::exit(PANICKED)
}
