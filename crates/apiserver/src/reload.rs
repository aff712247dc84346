//! Tells when a configuration file changed, also where its directory's entry is exchanged (editors, mounted ConfigMaps).

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A few events at a time; a name has at most 255 bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// A mounted ConfigMap exchanges this link, not the file itself.
const MOUNTED: &str = "..data";

pub(crate) struct Watch {
    fd: AsyncFd<OwnedFd>,
    name: OsString,
}

impl Watch {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The directory, as a file that is written anew has another inode. A writer is done when it closes, or renames.
        inotify::add_watch(&fd, directory, WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and is neither closed nor exchanged while that lives.
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd, name: path.file_name().unwrap_or_default().to_owned() })
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
                changed |= name.is_some_and(|name| name == self.name || name == MOUNTED);
            }
            ready.clear_ready();
            if changed {
                return;
            }
        }
    }
}
