//! The content store: blobs named by their digest. A blob is visible only once it is complete, verified and on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::digest::{Digest, Hashing};
use super::error::ImageError;

/// Bytes of one blob. Registries refuse more than some 10 GB (Docker Hub, GHCR); the rest is head room.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 30;

/// Bytes of a manifest, index or config read into memory. distribution/distribution refuses manifests over 4 MiB
/// (manifest handler, maxManifestBodySize); configs of real images stay far below.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Bytes between two reports of progress.
pub(crate) const PROGRESS_STEP_BYTES: u64 = 1 << 20;

const COPY_BUFFER_BYTES: usize = 128 << 10;

pub(crate) struct Content {
    blobs: PathBuf,
    tmp: PathBuf,
    counter: AtomicU64,
}

impl Content {
    /// `dir` is the image directory; its `tmp` is emptied by a thread of its own, for old layers may be large.
    pub(crate) fn open(dir: &Path) -> Result<Content, ImageError> {
        let content = Content { blobs: dir.join("blobs/sha256"), tmp: dir.join("tmp"), counter: AtomicU64::new(0) };
        for path in [&content.blobs, &content.tmp] {
            fs::create_dir_all(path).map_err(at("create", path))?;
        }
        let mut leftovers = Vec::new();
        for entry in fs::read_dir(&content.tmp).map_err(at("list", &content.tmp))? {
            leftovers.push(entry.map_err(at("list", &content.tmp))?.path());
        }
        // A name in use by this process is never one of these: they are chosen to not exist.
        if !leftovers.is_empty() {
            std::thread::spawn(move || leftovers.iter().for_each(|path| discard(path)));
        }
        Ok(content)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    /// A fresh path in the directory for half-made things.
    pub(crate) fn temporary(&self, what: &str) -> PathBuf {
        loop {
            let number = self.counter.fetch_add(1, Ordering::Relaxed);
            let path = self.tmp.join(format!("{what}-{}-{number}", std::process::id()));
            if fs::symlink_metadata(&path).is_err() {
                return path;
            }
        }
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(at("open blob", &path))
    }

    /// A blob read whole: a manifest, an index or a config.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let file = self.open_blob(digest)?;
        let path = self.path(digest);
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at("read blob", &path))?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(ImageError::TooLarge { what: format!("document {digest}"), bytes: bytes.len() as u64, max: DOCUMENT_BYTES_MAX });
        }
        Ok(bytes)
    }

    /// Writes what `reader` gives to a temporary file, for [`Content::publish`].
    pub(crate) fn write(&self, path: &Path, reader: &mut dyn Read, progress: &mut dyn FnMut(u64)) -> Result<(Digest, u64), ImageError> {
        let file = File::create_new(path).map_err(at("create", path))?;
        let mut file = Hashing::new(file);
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        let mut reported = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ImageError::Archive { source }),
            };
            file.write_all(&buffer[..count]).map_err(at("write", path))?;
            if file.count() > BLOB_BYTES_MAX {
                return Err(ImageError::TooLarge { what: "blob".to_owned(), bytes: file.count(), max: BLOB_BYTES_MAX });
            }
            if file.count() - reported >= PROGRESS_STEP_BYTES {
                reported = file.count();
                progress(reported);
            }
        }
        progress(file.count());
        Ok(file.finish())
    }

    /// Gives a complete file its name, after it has reached the disk.
    pub(crate) fn publish(&self, path: &Path, found: &Digest, expected: Option<&Digest>) -> Result<(), ImageError> {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(ImageError::Digest { expected: expected.to_string(), found: found.to_string() });
        }
        let file = File::open(path).map_err(at("open", path))?;
        file.sync_all().map_err(at("sync", path))?;
        let target = self.path(found);
        fs::rename(path, &target).map_err(at("rename to", &target))?;
        sync_dir(&self.blobs)
    }

    /// All blobs. Names that are no digest are not ours and are left alone.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(at("list", &self.blobs))? {
            let entry = entry.map_err(at("list", &self.blobs))?;
            let name = entry.file_name();
            digests.extend(name.to_str().and_then(|name| Digest::parse(&format!("sha256:{name}"))));
        }
        Ok(digests)
    }

    /// Idempotent; gives the bytes that were freed.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<u64, ImageError> {
        let path = self.path(digest);
        let bytes = self.size(digest).unwrap_or(0);
        match fs::remove_file(&path) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(at("remove", &path)(source)),
        }
    }

    /// Takes a directory out of sight at once; the caller then [`discard`]s it.
    pub(crate) fn retire(&self, path: &Path) -> Result<Option<PathBuf>, ImageError> {
        let grave = self.temporary("retired");
        match fs::rename(path, &grave) {
            Ok(()) => Ok(Some(grave)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(at("retire", path)(source)),
        }
    }
}

/// Removes something that nobody can reach any more. What cannot be removed now is tried again at the next start.
pub(crate) fn discard(path: &Path) {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove what is no longer needed; the next start tries again");
    }
}

/// Makes renames and creations in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(at("sync", path))
}

/// Adds the step and the path to an error of the file system.
pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Path { step, path: path.to_owned(), source }
}
