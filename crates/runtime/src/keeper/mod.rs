//! The keeper: one small process per pod.

use std::path::Path;

/// Entry of the re-executed binary: `<exe> keeper <sandbox directory>`. Call it first thing in `main`, before any thread.
pub fn keeper_main(_dir: &Path) -> ! {
    todo!()
}
