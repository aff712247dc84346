//! What a test needs of the machine. A test that cannot run says so by name; `./x test` collects these lines.

/// True if the test may go on; otherwise says why not.
pub fn is_root() -> bool {
    // The first line of /proc/self/status that starts with `Uid:` has the real, effective, saved and file system ids.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Uid:")).and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Prints that the test of this thread is skipped.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    println!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
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
