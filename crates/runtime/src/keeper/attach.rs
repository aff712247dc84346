//! Who reads a container's output besides its log.
//!
//! Each subscriber has sockets whose buffer the kernel bounds; what does not fit ends the subscription instead of holding up the
//! container or the log.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::log::Stream;

/// Subscribers of one container. A person attaches once or twice; each costs two descriptors.
const SUBSCRIBERS_MAX: usize = 16;

#[derive(Default)]
pub(crate) struct Subscribers {
    list: Vec<Subscriber>,
}

struct Subscriber {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Subscribers {
    pub(crate) fn add(&mut self, fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        if self.list.len() >= SUBSCRIBERS_MAX {
            self.list.retain(|subscriber| [&subscriber.stdout, &subscriber.stderr].into_iter().flatten().any(is_read));
        }
        if self.list.len() >= SUBSCRIBERS_MAX {
            return Err("too many are attached to this container");
        }
        let mut fds = fds.into_iter();
        self.list.push(Subscriber { stdout: fds.next(), stderr: fds.next() });
        Ok(())
    }

    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.list.retain_mut(|subscriber| {
            let fd = match stream {
                Stream::Stdout => &mut subscriber.stdout,
                Stream::Stderr => &mut subscriber.stderr,
            };
            // The sockets are non-blocking; a short write means that the reader has fallen too far behind.
            if fd.as_ref().is_some_and(|fd| rustix::io::write(fd, bytes) != Ok(bytes.len())) {
                *fd = None;
            }
            subscriber.stdout.is_some() || subscriber.stderr.is_some()
        });
    }

    pub(crate) fn close(&mut self) {
        self.list = Vec::new();
    }
}

/// False once the reader has closed its end.
fn is_read(fd: &OwnedFd) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&at_once)).is_ok() && !poll[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
