//! The client libraries of other languages that tests drive: installed under `target/`, in the versions that the files beside the scripts name.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::run::root;

/// Installs what is missing. A client that cannot be installed is named; its tests skip themselves.
pub(crate) fn install() {
    let scripts = root().join("crates/knarr/tests/clients");
    let target = root().join("target/test-clients");
    for (name, wanted, install) in [
        ("python", scripts.join("requirements.txt"), python as fn(&Path, &Path) -> Result<(), String>),
        ("node", scripts.join("package.json"), node),
    ] {
        if let Err(error) = fresh(&target.join(name), &wanted, install) {
            println!("The {name} client is not installed, its tests will be skipped: {error}");
        }
    }
}

/// Installs into `place`, unless it holds what the file `wanted` names today.
fn fresh(place: &Path, wanted: &Path, install: fn(&Path, &Path) -> Result<(), String>) -> Result<(), String> {
    let fault = |path: &Path| {
        let path = path.display().to_string();
        move |error| format!("{path}: {error}")
    };
    let (wish, mark) = (fs::read(wanted).map_err(fault(wanted))?, place.join("installed"));
    if fs::read(&mark).is_ok_and(|installed| installed == wish) {
        return Ok(());
    }
    if place.exists() {
        fs::remove_dir_all(place).map_err(fault(place))?;
    }
    fs::create_dir_all(place).map_err(fault(place))?;
    install(place, wanted)?;
    fs::write(&mark, wish).map_err(fault(&mark))
}

fn python(place: &Path, wanted: &Path) -> Result<(), String> {
    quietly(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    quietly(Command::new(place.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(wanted))
}

fn node(place: &Path, wanted: &Path) -> Result<(), String> {
    let copy: PathBuf = place.join("package.json");
    fs::copy(wanted, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    quietly(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(place))
}

fn quietly(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
