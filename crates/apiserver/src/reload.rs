//! Tells when a configuration file changed, also where its directory's entry is exchanged (editors, mounted ConfigMaps).

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A few events at a time; a name has at most 255 bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// A mounted ConfigMap exchanges this link, not the file itself.
const MOUNTED: &str = "..data";

/// What ends a change: a writer closes, something is renamed to the name, or a link is made.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::MOVED_TO).union(WatchFlags::CREATE);

pub(crate) struct Watch {
    fd: AsyncFd<OwnedFd>,
    path: PathBuf,
    /// The names that count: the file's own, and of what it is a link to.
    names: [OsString; 2],
}

impl Watch {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The directory, as a file that is written anew has another inode.
        inotify::add_watch(&fd, directory(path), CHANGES)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and is neither closed nor exchanged while that lives.
        let fd = unsafe { AsyncFd::register(fd) }?;
        let mut watch = Self { fd, path: path.to_owned(), names: [name(path), OsString::new()] };
        watch.follow_link();
        Ok(watch)
    }

    /// The file that is a link changes where it leads, too.
    fn follow_link(&mut self) {
        let Ok(target) = std::fs::canonicalize(&self.path) else { return };
        self.names[1] = name(&target);
        if let Err(error) = inotify::add_watch(self.fd.get_ref(), directory(&target), CHANGES) {
            tracing::warn!(path = %target.display(), %error, "changes of this file are not seen");
        }
    }

    /// Returns after the file was changed since the last call. Several changes may count as one.
    pub(crate) async fn next(&mut self) {
        loop {
            let Ok(mut ready) = self.fd.readable_mut().await else { return std::future::pending().await };
            let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
            let mut reader = inotify::Reader::new(ready.get_inner(), &mut buffer);
            let mut changed = false;
            while let Ok(event) = reader.next() {
                let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                // Without a name: the kernel has dropped events.
                changed |= name.is_none_or(|name| name == MOUNTED || self.names.iter().any(|own| own == name));
            }
            ready.clear_ready();
            if changed {
                self.follow_link();
                return;
            }
        }
    }
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Invalid { path: PathBuf, reason: String },
    #[error("follow {path} as it changes; raise fs.inotify.max_user_instances if there are too many")]
    Watch {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Hands the file's text to `take`, and again after each change, for as long as the future is polled. What `take` refuses at first is an error; later it is told,
/// and what was there before stays in force.
pub(crate) fn follow<F>(path: &Path, take: F) -> Result<impl Future<Output = ()> + Send + 'static + use<F>, ConfigurationError>
where
    F: Fn(&[u8]) -> Result<(), String> + Send + 'static,
{
    let path = path.to_owned();
    let read = |path: &Path| fs::read(path).map_err(|source| ConfigurationError::Read { path: path.to_owned(), source });
    let mut changes = Watch::new(&path).map_err(|source| ConfigurationError::Watch { path: path.clone(), source })?;
    let mut text = read(&path)?;
    take(&text).map_err(|reason| ConfigurationError::Invalid { path: path.clone(), reason })?;
    Ok(async move {
        loop {
            changes.next().await;
            // Between the removal of the old file and the coming of the new one there is none.
            let Ok(new) = read(&path) else { continue };
            if new == text {
                continue;
            }
            match take(&new) {
                Ok(()) => tracing::info!(path = %path.display(), "the new configuration is in force"),
                Err(reason) => {
                    tracing::error!(path = %path.display(), reason, "the new configuration is not valid; the old one stays in force")
                }
            }
            text = new;
        }
    })
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, time::Duration};

    use super::*;

    async fn changes(watch: &mut Watch) {
        tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("the change is seen");
    }

    #[tokio::test]
    async fn a_change_is_seen_however_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let [place, elsewhere] = ["place", "elsewhere"].map(|name| dir.path().join(name));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        let (file, target, new) = (place.join("file"), elsewhere.join("target"), elsewhere.join("new"));
        fs::write(&target, "1").unwrap();
        symlink(&target, &file).unwrap();
        let mut watch = Watch::new(&file).unwrap();
        fs::write(&target, "2").unwrap();
        changes(&mut watch).await;
        fs::write(&new, "3").unwrap();
        fs::rename(&new, &target).unwrap();
        changes(&mut watch).await;
        fs::write(&new, "4").unwrap();
        fs::remove_file(&file).unwrap();
        symlink(&new, &file).unwrap();
        changes(&mut watch).await;
        fs::write(&new, "5").unwrap();
        changes(&mut watch).await;
    }
}
