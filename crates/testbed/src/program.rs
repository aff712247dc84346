//! Programs of Debian packages that a test runs without installing them: other versions of what is installed, for example.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::image::{self, Error};

/// The program at `path` (`usr/bin/kubectl`) of a package, unpacked below the target directory when it is first asked for.
pub fn program(package: &str, path: &str) -> Result<PathBuf, Error> {
    let place = image::dir().join("programs").join(package);
    let found = place.join(path);
    if found.exists() {
        return Ok(found);
    }
    let _one_at_a_time = image::lock()?;
    if !found.exists() {
        unpack(package, &place)?;
    }
    if found.exists() {
        return Ok(found);
    }
    Err(Error::Package { program: "dpkg-deb --extract", package: package.to_owned(), reason: format!("it has no {path}") })
}

fn unpack(package: &str, place: &Path) -> Result<(), Error> {
    let deb = image::deb(package)?;
    let half = place.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half).map_err(image::at("remove", &half))?;
    }
    fs::create_dir_all(&half).map_err(image::at("create", &half))?;
    let failed = |reason: String| Error::Package { program: "dpkg-deb --extract", package: package.to_owned(), reason };
    let status = Command::new("dpkg-deb").arg("--extract").args([&deb, &half]).status().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    fs::rename(&half, place).map_err(image::at("rename to", place))
}
