//! `./x test`.

use std::{fs, io};

use crate::clients;
use crate::run::{Outcome, cargo, must, root};

/// Tests that cannot run here append a line with their name and the reason to the file that this variable names.
const SKIPPED: &str = "KNARR_SKIPPED_TESTS";

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let file = root().join("target/skipped-tests");
    fs::create_dir_all(root().join("target")).map_err(|error| format!("make target/: {error}"))?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(format!("remove {}: {error}", file.display())),
        _ => {}
    }
    clients::install();
    let result = must(cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]).args(arguments).env(SKIPPED, &file));
    let mut skipped: Vec<String> = fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
    skipped.sort();
    skipped.dedup();
    if skipped.is_empty() {
        println!("No test was skipped.");
    } else {
        println!("Skipped here ({}):", skipped.len());
        skipped.iter().for_each(|line| println!("  {line}"));
    }
    result
}
