//! Links, addresses and routes: the link that holds the node's own addresses, and a veth pair for each pod.
//!
//! Requests are written as raw rtnetlink messages (linux/rtnetlink.h, linux/if_link.h), several in one send, on a socket that is
//! opened inside the namespace concerned: a short-lived thread enters it, opens the socket and ends. What belongs to whom is
//! written on the links themselves (name, alias), so that the kernel is the only record and nothing can disagree with it.

mod carrier;
mod request;
mod route;
mod sysctl;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(crate) use carrier::settle;
pub(crate) use request::{LinkState, Links};
pub(crate) use route::RouteState;
pub(crate) use sysctl::write as write_sysctl;

use crate::netlink::SocketError;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("open the network namespace {path}")]
    OpenNamespace {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("enter a network namespace")]
    Enter(#[source] io::Error),
    #[error("{action} link {link}{}", detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default())]
    Refused {
        action: &'static str,
        link: String,
        detail: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("talk to rtnetlink to {action}")]
    Socket {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("link {0} is not there")]
    Missing(String),
    #[error("write {path}")]
    Sysctl {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl LinkError {
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            LinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    fn of(action: &'static str, link: &str, error: SocketError) -> LinkError {
        match error {
            SocketError::Refused { detail, source, .. } => LinkError::Refused { action, link: link.to_owned(), detail, source },
            other => LinkError::Socket { action, source: Box::new(other) },
        }
    }
}

/// A network namespace, held open.
pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    pub(crate) fn open(path: &Path) -> Result<Namespace, LinkError> {
        let failed = |source| LinkError::OpenNamespace { path: path.to_owned(), source };
        Ok(Namespace(std::fs::File::open(path).map_err(failed)?.into()))
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LinkError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(kind)).map_err(|errno| LinkError::Enter(errno.into()))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One end of a pair.
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: IpAddr,
    pub(crate) mac: [u8; 6],
}
