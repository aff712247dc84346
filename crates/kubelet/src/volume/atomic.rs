//! Writes a set of files so that a reader sees either all of the old or all of the new.
//!
//! ```text
//! <dir>/..2026_11_23_22_18_05.123456789/   the files; a new directory for each change
//! <dir>/..data                             link to it, replaced by one rename
//! <dir>/tls.crt                            link to ..data/tls.crt, for each first part of a path
//! ```
//! The layout is upstream's (pkg/volume/util/atomic_writer.go), because programs watch `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: Option<u32>,
}

/// Files by their path in the volume: relative, without `..`.
pub(crate) type Payload = BTreeMap<String, File>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("path {path} leaves the volume")]
    Path { path: String },
    #[error("write {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

fn at(path: &Path) -> impl FnOnce(io::Error) -> WriteError + '_ {
    move |source| WriteError::Io { path: path.to_owned(), source }
}

/// Makes `dir` show exactly `payload`. Returns whether anything changed. `gid` is the group that shall own the files.
pub(crate) fn write(dir: &Path, payload: &Payload, gid: Option<u32>) -> Result<bool, WriteError> {
    let mut tops = BTreeSet::new();
    for path in payload.keys() {
        let mut parts = Path::new(path).components();
        let Some(Component::Normal(top)) = parts.clone().next() else {
            return Err(WriteError::Path { path: path.clone() });
        };
        // A name that begins with two dots is the writer's own.
        if !parts.all(|it| matches!(it, Component::Normal(_))) || top.as_encoded_bytes().starts_with(b"..") {
            return Err(WriteError::Path { path: path.clone() });
        }
        tops.insert(top.to_owned());
    }
    let data = dir.join(DATA);
    let old = match std::fs::read_link(&data) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at(&data)(error)),
    };
    if let Some(old) = &old
        && same(&dir.join(old), payload, gid)
    {
        link_tops(dir, &tops)?;
        remove_stray(dir, Some(old), &tops)?;
        return Ok(false);
    }
    let fresh = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let fresh_dir = dir.join(&fresh);
    make_dir(&fresh_dir, gid)?;
    for (path, file) in payload {
        write_file(&fresh_dir, path, file, gid)?;
    }
    let new = dir.join(DATA_NEW);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => {}
    }
    symlink(&fresh, &new).map_err(at(&new))?;
    std::fs::rename(&new, &data).map_err(at(&data))?;
    link_tops(dir, &tops)?;
    remove_stray(dir, Some(Path::new(&fresh)), &tops)?;
    Ok(true)
}

fn make_dir(path: &Path, gid: Option<u32>) -> Result<(), WriteError> {
    std::fs::create_dir(path).map_err(at(path))?;
    // With a group, new files inherit it, as upstream's setgid bit says.
    let mode = if gid.is_some() { 0o2755 } else { 0o755 };
    chown(path, None, gid).map_err(at(path))?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(at(path))
}

fn wanted_mode(file: &File, gid: Option<u32>) -> u32 {
    // The group must be able to read what it owns.
    if gid.is_some() { file.mode | 0o440 } else { file.mode }
}

fn write_file(root: &Path, path: &str, file: &File, gid: Option<u32>) -> Result<(), WriteError> {
    let full = root.join(path);
    let mut parents: Vec<&Path> = Path::new(path).ancestors().skip(1).filter(|it| !it.as_os_str().is_empty()).collect();
    parents.reverse();
    for parent in parents {
        let parent = root.join(parent);
        if !parent.is_dir() {
            make_dir(&parent, gid)?;
        }
    }
    std::fs::write(&full, &file.bytes).map_err(at(&full))?;
    chown(&full, file.uid, gid).map_err(at(&full))?;
    std::fs::set_permissions(&full, PermissionsExt::from_mode(wanted_mode(file, gid))).map_err(at(&full))
}

/// Whether `dir` holds exactly the payload already. What cannot be read counts as different and is written anew.
fn same(dir: &Path, payload: &Payload, gid: Option<u32>) -> bool {
    let mut found = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else {
            return false;
        };
        for entry in entries {
            let Ok(entry) = entry else {
                return false;
            };
            let path = entry.path();
            if entry.file_type().is_ok_and(|it| it.is_dir()) {
                open.push(path);
                continue;
            }
            let expected = path.strip_prefix(dir).ok().and_then(Path::to_str).and_then(|it| payload.get(it));
            let (Some(expected), Ok(meta)) = (expected, std::fs::symlink_metadata(&path)) else {
                return false;
            };
            let alike = meta.is_file()
                && meta.mode() & 0o7777 == wanted_mode(expected, gid)
                && gid.is_none_or(|gid| meta.gid() == gid)
                && expected.uid.is_none_or(|uid| meta.uid() == uid)
                && std::fs::read(&path).is_ok_and(|bytes| bytes == expected.bytes);
            if !alike {
                return false;
            }
            found += 1;
        }
    }
    found == payload.len()
}

fn link_tops(dir: &Path, tops: &BTreeSet<OsString>) -> Result<(), WriteError> {
    for top in tops {
        let link = dir.join(top);
        match symlink(Path::new(DATA).join(top), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(&link)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes links to files that are no more, and directories of former or half-made states.
fn remove_stray(dir: &Path, current: Option<&Path>, tops: &BTreeSet<OsString>) -> Result<(), WriteError> {
    for entry in std::fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let name = entry.file_name();
        let path = entry.path();
        if name == DATA || tops.contains(&name) || current.is_some_and(|it| it.as_os_str() == name) {
            continue;
        }
        // Both calls work on the entry itself and never follow a link (CVE-2017-1002102).
        let removed =
            if entry.file_type().map_err(at(&path))?.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(at(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { bytes: text.into(), mode: 0o644, uid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    fn shown(dir: &Path) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let mut open = vec![dir.to_owned()];
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                if name.starts_with("..") {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                } else {
                    out.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        out.sort();
        out
    }

    #[test]
    fn files_appear_change_and_go() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(shown(dir.path()), [("a".into(), "1".into()), ("sub/b".into(), "2".into())]);
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap(), "unchanged");
        assert!(write(dir.path(), &payload(&[("a", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(shown(dir.path()), [("a".into(), "3".into()), ("c".into(), "4".into())]);
        let hidden: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .filter(|it| it.starts_with(".."))
            .collect();
        assert_eq!(hidden.len(), 2, "..data and one state: {hidden:?}");
    }

    #[test]
    fn an_open_directory_keeps_its_old_state() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        let old = std::fs::File::open(dir.path().join("a")).unwrap();
        write(dir.path(), &payload(&[("a", "2")]), None).unwrap();
        assert_eq!(std::io::read_to_string(old).unwrap(), "1");
    }

    #[test]
    fn modes_are_exact_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = payload(&[("a", "1")]);
        files.get_mut("a").unwrap().mode = 0o600;
        write(dir.path(), &files, None).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_path_that_leaves_the_volume_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/a", "a/../../b", "..data/a", ""] {
            let refused = write(dir.path(), &payload(&[(path, "x")]), None);
            assert!(matches!(refused, Err(WriteError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn a_planted_link_is_removed_and_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("precious"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("stray")).unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        assert!(!dir.path().join("stray").is_symlink());
        assert!(outside.path().join("precious").exists());
    }
}
