//! Key files: written whole or not at all, readable by nobody else.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// Owner only: keys, and the kubeconfig that holds one.
const MODE_SECRET: u32 = 0o600;
const MODE_DIR: u32 = 0o700;
/// Bytes of a file in the key directory. The largest, a certificate with many names, has a few KiB.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Makes `dir` (and its parents) for the owner only; tightens it if it was there with more rights.
pub(crate) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let fail = |source| PkiError::MakeDir { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(MODE_DIR).create(dir).map_err(fail)?;
    let found = fs::metadata(dir).map_err(fail)?.permissions().mode() & 0o777;
    if found & 0o077 != 0 {
        fs::set_permissions(dir, Permissions::from_mode(MODE_DIR)).map_err(fail)?;
    }
    Ok(())
}

/// The text of `path`, or `None` where there is no such file. A key that others could read is closed to them first.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    let fail = |source| PkiError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    let found = file.metadata().map_err(fail)?.permissions().mode() & 0o777;
    if found & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(MODE_SECRET)).map_err(fail)?;
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, "the file is too large to be a key")));
    }
    Ok(Some(text))
}

/// Writes `path` so that after a crash it has either its old content or all of the new.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let fail = |source| PkiError::Write { path: path.to_owned(), source };
    let temporary = beside(path);
    let written = write_temporary(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The first error is the one to report; a temporary file that stays is overwritten by the next attempt.
        let _ = fs::remove_file(&temporary);
        return Err(fail(source));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)
}

fn write_temporary(temporary: &Path, text: &str) -> io::Result<()> {
    // A temporary file that a crash left behind may have any mode; a new one cannot.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE_SECRET).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The name under which the new content is prepared, in the same directory so that the rename is atomic.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_files_are_private_and_leave_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("a/pki");
        make_dir(&keys).unwrap();
        let path = keys.join("x.key");
        fs::write(beside(&path), "left by a crash").unwrap();
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);
        assert_eq!(read(&keys.join("none")).unwrap(), None);
    }

    #[test]
    fn open_rights_are_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        fs::write(&path, "k").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        make_dir(dir.path()).unwrap();
        read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
