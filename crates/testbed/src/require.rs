//! What a test needs of the machine. A test that cannot run says so by name; `./x test` collects these lines.

/// True if the test may go on; otherwise says why not.
pub fn is_root() -> bool {
    // The first line of /proc/self/status that starts with `Uid:` has the real, effective, saved and file system ids.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// `./x test` names a file with this variable and prints at its end what was skipped.
const SKIPPED: &str = "KNARR_SKIPPED_TESTS";

/// Says that the test of this thread is skipped, on the terminal and to `./x test`.
pub fn skipped(reason: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
    println!("{line}");
    if let Some(path) = std::env::var_os(SKIPPED) {
        let written = std::fs::OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
        written.expect("the file for skipped tests can be written");
    }
}

/// Returns from the test, by name, where it does not run as root.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::is_root() {
            $crate::skipped("needs root");
            return;
        }
    };
}

/// Returns from the test, by name, where a program is not installed.
#[macro_export]
macro_rules! require_program {
    ($program:expr) => {
        if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join($program).is_file()) {
            $crate::skipped(concat!("needs the program ", $program));
            return;
        }
    };
}
