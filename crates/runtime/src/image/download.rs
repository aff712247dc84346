//! One blob from a registry to its place: hashed as it passes, taken up where the connection broke, visible only once it is whole.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::content::{PROGRESS_STEP_BYTES, at, discard};
use super::digest::{Digest, Hashing};
use super::error::ImageError;
use super::store::Store;
use crate::registry::{Kind, Session, Trouble, next_chunk};

/// Broken connections in a row that brought less than [`PROGRESS_STEP_BYTES`] each. A server that drips cannot hold a pull for ever.
const BREAKS_MAX: u32 = 5;

/// Bytes gathered before they are handed to a thread that hashes and writes them.
const BATCH_BYTES: usize = 512 << 10;

/// What went wrong: there, or here.
#[derive(Debug)]
pub(crate) enum DownloadError {
    There(Trouble),
    Here(ImageError),
}

impl From<Trouble> for DownloadError {
    fn from(trouble: Trouble) -> DownloadError {
        DownloadError::There(trouble)
    }
}

impl From<ImageError> for DownloadError {
    fn from(error: ImageError) -> DownloadError {
        DownloadError::Here(error)
    }
}

/// A file that is not whole yet. Dropped, it is gone.
struct Partial {
    path: PathBuf,
    /// Shared with the thread that writes, which may outlive a pull that nobody wants any more.
    file: Arc<Mutex<Hashing<File>>>,
    bytes: u64,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Published, it has another name by now.
        discard(&self.path);
    }
}

/// Fetches a blob of exactly `size` bytes. The caller has leased its digest.
pub(crate) async fn blob(
    store: &Arc<Store>,
    session: &Session,
    digest: &Digest,
    size: u64,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), DownloadError> {
    let mut partial = Partial::create(store.content.temporary("pull"))?;
    let mut breaks = 0;
    while partial.bytes < size {
        let before = partial.bytes;
        let trouble = match fill(&mut partial, session, digest, size, progress).await {
            Ok(()) => break,
            Err(DownloadError::There(trouble)) if trouble.is_transient() => trouble,
            Err(error) => return Err(error),
        };
        breaks = if partial.bytes >= before + PROGRESS_STEP_BYTES { 0 } else { breaks + 1 };
        if breaks >= BREAKS_MAX {
            return Err(trouble.into());
        }
        tracing::debug!(blob = %digest, bytes = partial.bytes, reason = trouble.reason, "take up a blob where the connection broke");
    }
    let (store, expected) = (store.clone(), digest.clone());
    blocking(move || {
        let (found, _) = std::mem::replace(&mut *partial.file.lock(), Hashing::new(open(&partial.path)?)).finish();
        store.content.publish(&partial.path, &found, Some(&expected))
    })
    .await?;
    Ok(())
}

/// Appends what one connection brings.
async fn fill(
    partial: &mut Partial,
    session: &Session,
    digest: &Digest,
    size: u64,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), DownloadError> {
    let (response, from) = match session.blob(digest.as_str(), partial.bytes).await {
        Err(trouble) if trouble.kind == Kind::Range => {
            let reason = format!("it has {} of the {size} bytes of {digest}, and no more", partial.bytes);
            return Err(Trouble::new(Kind::Other, reason).into());
        }
        answer => answer?,
    };
    if from != partial.bytes {
        partial.restart().await?;
    }
    let mut body = response.into_body();
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut held = 0;
    let mut reported = partial.bytes;
    loop {
        let chunk = next_chunk(&mut body).await;
        let ended = !matches!(chunk, Ok(Some(_)));
        if let Ok(Some(bytes)) = &chunk {
            held += bytes.len();
            gathered.push(bytes.clone());
        }
        if partial.bytes + held as u64 > size {
            let reason = format!("it sends more than the {size} bytes that the manifest gives {digest}");
            return Err(Trouble::new(Kind::Other, reason).into());
        }
        if held >= BATCH_BYTES || ended {
            partial.append(std::mem::take(&mut gathered), held).await?;
            held = 0;
            if ended || partial.bytes - reported >= PROGRESS_STEP_BYTES {
                reported = partial.bytes;
                progress(reported);
            }
        }
        match chunk? {
            Some(_) => {}
            None if partial.bytes == size => return Ok(()),
            None => {
                let reason = format!("it ended after {} of the {size} bytes of {digest}", partial.bytes);
                return Err(Trouble::new(Kind::Transient(None), reason).into());
            }
        }
    }
}

impl Partial {
    fn create(path: PathBuf) -> Result<Partial, ImageError> {
        let file = File::create_new(&path).map_err(at("create", &path))?;
        Ok(Partial { path, file: Arc::new(Mutex::new(Hashing::new(file))), bytes: 0 })
    }

    async fn append(&mut self, batch: Vec<Bytes>, bytes: usize) -> Result<(), ImageError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (file, path) = (self.file.clone(), self.path.clone());
        blocking(move || {
            let mut file = file.lock();
            batch.iter().try_for_each(|part| file.write_all(part)).map_err(at("write", &path))
        })
        .await?;
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Begins anew: the registry cannot give a part.
    async fn restart(&mut self) -> Result<(), ImageError> {
        let (file, path) = (self.file.clone(), self.path.clone());
        blocking(move || {
            let mut empty = open(&path)?;
            empty.set_len(0).and_then(|()| empty.rewind()).map_err(at("empty", &path))?;
            *file.lock() = Hashing::new(empty);
            Ok(())
        })
        .await?;
        self.bytes = 0;
        Ok(())
    }
}

fn open(path: &std::path::Path) -> Result<File, ImageError> {
    File::options().write(true).open(path).map_err(at("open", path))
}

/// Runs `work` on a thread that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ImageError::Stopped),
        },
    }
}
