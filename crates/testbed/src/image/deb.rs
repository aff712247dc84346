//! Debian packages: fetched with `apt-get download`, read with `dpkg-deb`; nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::layer::Tree;
use super::{Error, at};

/// Directories that merged-/usr systems (Debian 12) have as links into `/usr`.
pub(crate) const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// What a container has no use for.
const LEFT_OUT: &[&str] = &[
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/bash-completion/",
    "usr/share/doc-base/",
    "usr/share/initramfs-tools/",
    "usr/share/python3/runtime.d/",
    "usr/lib/systemd/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "etc/ufw/",
];

/// Adds the files of a package, those of it that `wanted` takes.
pub(crate) fn add(tree: &mut Tree, debs: &Path, package: &str, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
    fetch(debs, &[package])?;
    let deb = find(debs, package)?.ok_or_else(|| absent(package))?;
    let failed = |reason: String| Error::Package { program: "dpkg-deb --fsys-tarfile", package: package.to_owned(), reason };
    let output = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&deb)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let place = |path: &str| {
        let merged = MERGED.iter().any(|dir| path == *dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')));
        let path = if merged { format!("usr/{path}") } else { path.to_owned() };
        let kept = !LEFT_OUT.iter().any(|dir| format!("{path}/").starts_with(dir)) && !path.contains("/gconv") && wanted(&path);
        kept.then_some(path)
    };
    tree.add_tar(output.stdout.as_slice(), place).map_err(|error| failed(error.to_string()))
}

/// Fetches those of the packages that are not there yet, all at once: each start of `apt-get` costs seconds.
pub(crate) fn fetch(debs: &Path, packages: &[&str]) -> Result<(), Error> {
    fs::create_dir_all(debs).map_err(at("create", debs))?;
    let mut missing = Vec::new();
    for package in packages {
        if find(debs, package)?.is_none() {
            missing.push(*package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let failed = |reason: String| Error::Package { program: "apt-get download", package: missing.join(" "), reason };
    let output = Command::new("apt-get")
        .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
        .args(&missing)
        .current_dir(debs)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())) }
}

pub(crate) fn absent(package: &str) -> Error {
    Error::Package { program: "apt-get download", package: package.to_owned(), reason: "it left no file".to_owned() }
}

pub(crate) fn find(debs: &Path, package: &str) -> Result<Option<PathBuf>, Error> {
    let prefix = format!("{package}_");
    for entry in fs::read_dir(debs).map_err(at("list", debs))? {
        let name = entry.map_err(at("list", debs))?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            return Ok(Some(debs.join(name)));
        }
    }
    Ok(None)
}
