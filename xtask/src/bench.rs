//! `./x bench`.

use std::process::Command;

use crate::run::{Outcome, cargo, must, root, target};

/// Where `--write` puts the table.
const TABLE: &str = "SPECIFICATION.md";

pub(crate) fn run(arguments: &[String]) -> Outcome {
    must(&mut cargo(&["build", "--release", "--package", "knarr", "--package", "knarr-bench", "--bins"]))?;
    let mut command = Command::new(target().join("release/knarr-bench"));
    command.arg("--knarr").arg(target().join("release/knarr")).arg("--dir").arg(target().join("bench"));
    for argument in arguments {
        command.arg(argument);
        if argument == "--write" {
            command.arg(root().join(TABLE));
        }
    }
    must(&mut command)
}
