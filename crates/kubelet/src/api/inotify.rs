//! Tells followers of logs when a directory's files change. One inotify instance for the process: hosts allow few of them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Bytes read from the kernel at once; an event with a name has at most 272.
const READ_BYTES: usize = 4096;

#[derive(Default)]
struct Watched {
    /// By watch descriptor. The same directory always has the same one.
    followers: HashMap<i32, Vec<Weak<Notify>>>,
}

pub(super) struct Changes {
    /// `None` where the kernel refused an instance; the error is told to each who asks.
    inner: Result<Inner, String>,
}

struct Inner {
    fd: Arc<AsyncFd<OwnedFd>>,
    watched: Arc<Mutex<Watched>>,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Changes {
    pub(super) fn new() -> Changes {
        let inner = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(io::Error::from)
            .and_then(|fd| {
                // SAFETY: the descriptor is owned by the `AsyncFd` and is neither closed nor exchanged while that lives.
                unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
            })
            .map(|fd| {
                let fd = Arc::new(fd);
                let watched: Arc<Mutex<Watched>> = Arc::default();
                let task = tokio::spawn(read(fd.clone(), watched.clone())).abort_handle();
                Inner { fd, watched, task }
            })
            .map_err(|error| format!("inotify: {error} (raise fs.inotify.max_user_instances)"));
        Changes { inner }
    }

    /// Notifies the returned value, until it is dropped, after changes of files in `dir`.
    pub(super) fn follow(&self, dir: &Path) -> Result<Arc<Notify>, String> {
        let inner = self.inner.as_ref().map_err(Clone::clone)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        let mut watched = inner.watched.lock();
        let wd = inotify::add_watch(inner.fd.get_ref(), dir, flags)
            .map_err(|errno| format!("watch {}: {errno} (raise fs.inotify.max_user_watches)", dir.display()))?;
        let follower = Arc::new(Notify::new());
        watched.followers.entry(wd).or_default().push(Arc::downgrade(&follower));
        Ok(follower)
    }
}

async fn read(fd: Arc<AsyncFd<OwnedFd>>, watched: Arc<Mutex<Watched>>) {
    loop {
        let Ok(mut ready) = fd.readable().await else {
            return;
        };
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
        let mut seen: Vec<i32> = Vec::new();
        while let Ok(event) = reader.next() {
            seen.push(event.wd());
        }
        ready.clear_ready();
        drop(ready);
        seen.sort_unstable();
        seen.dedup();
        let mut watched = watched.lock();
        for wd in seen {
            let Some(followers) = watched.followers.get_mut(&wd) else {
                continue;
            };
            followers.retain(|it| it.strong_count() > 0);
            for follower in followers.iter().filter_map(Weak::upgrade) {
                follower.notify_one();
            }
            if followers.is_empty() {
                watched.followers.remove(&wd);
                // It may be gone with its directory already.
                let _ = inotify::remove_watch(fd.get_ref(), wd);
            }
        }
    }
}
