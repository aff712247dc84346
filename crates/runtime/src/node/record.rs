//! What is kept on disk of a sandbox and its containers, below `<data>/sandboxes/<id>/`:
//!
//! ```text
//! sandbox.json                 what was asked for; the sandbox exists from the moment this file does
//! keeper.json, keeper.sock     the keeper's start and its socket
//! hosts, hostname, resolv.conf, shm/
//! containers/<id>/container.json   what was asked for
//!                 launch.json      what the new process reads; seccomp.bpf beside it
//!                 asked.json       a start was asked for
//!                 exit.json        how it ended; the keeper writes it
//!                 failed.json      why it could not start
//! ```
//! Each file is written whole under another name and renamed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::container::ContainerConfig;
use crate::spec::sandbox::SandboxConfig;
use crate::spec::status::Exit;

pub(crate) const SANDBOX: &str = "sandbox.json";
pub(crate) const CONTAINER: &str = "container.json";
pub(crate) const ASKED: &str = "asked.json";
pub(crate) const FAILED: &str = "failed.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) config: SandboxConfig,
    pub(crate) created_at_ns: i128,
    pub(crate) pid: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) config: ContainerConfig,
    pub(crate) created_at_ns: i128,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) at_ns: i128,
}

/// The end of a container that no keeper recorded: it could not start, or its keeper died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) exit: Exit,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started_at_ns: Option<i128>,
}

/// `None` if the file is not there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let failed = |source| Error::Path { step: "read", path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::Path { step: "encode", path: path.to_owned(), source: error.into() })?;
    write_bytes(path, &bytes)
}

/// Not flushed to disk: after a power cut no keeper lives, and what is left half is cleared away.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| Error::Path { step: "write", path: path.to_owned(), source })
}

/// A file that containers may read; changed in place, because a mount of it stays with its inode.
pub(crate) fn write_shared(path: &Path, text: &str) -> Result<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| Error::Path { step: "write", path: path.to_owned(), source })
}

pub(crate) fn make_private_directory(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Path { step: "make directory", path: path.to_owned(), source })
}

/// Ids become file names, cgroup names and parts of commands.
pub(crate) fn check_id(field: &str, id: &str) -> Result<()> {
    const ID_MAX: usize = 64;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(plain) || id.starts_with('.') {
        let reason = format!("{id:?} is not an id: 1 to {ID_MAX} letters, digits, '-', '_' and '.', not beginning with '.'");
        return Err(Error::Invalid { field: field.to_owned(), reason });
    }
    Ok(())
}

/// A relative path without `..`.
pub(crate) fn check_below(field: &str, path: &str) -> Result<PathBuf> {
    let path = Path::new(path.trim_matches('/'));
    if path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Ok(path.to_owned());
    }
    Err(Error::Invalid { field: field.to_owned(), reason: format!("{} is not a plain relative path", path.display()) })
}
