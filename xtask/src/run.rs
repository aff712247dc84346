//! Starting programs, and the tasks that are only that.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What a task ends with: nothing, or why it failed.
pub(crate) type Outcome = Result<(), String>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs to the end; anything but success is a failure that shows the command.
pub(crate) fn must(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", shown(command))),
        Err(error) => Err(format!("{}: {error}", shown(command))),
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn build(_: &[String]) -> Outcome {
    must(&mut cargo(&["build", "--release", "--package", "knarr"]))
}

pub(crate) fn up(arguments: &[String]) -> Outcome {
    must(&mut cargo(&["build", "--profile", "quick", "--package", "knarr"]))?;
    // In place of this process, so that signals reach Knarr itself.
    let error = Command::new(target().join("quick/knarr")).arg("up").args(arguments).exec();
    Err(format!("start knarr: {error}"))
}
