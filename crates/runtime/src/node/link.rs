//! The node process's end of a keeper's socket.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::keeper::SOCKET_FILE;
use crate::keeper::protocol::{self, Call, Known, MESSAGE_MAX, Message, Request};
use crate::spec::status::Exit;

/// A keeper that does not greet within this time hangs: its loop never waits for anything.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// A keeper that does not answer within this time is broken. Starting a container waits for its mounts, which on a busy disk takes
/// seconds at worst.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections that wait to be accepted; there is one node process.
const BACKLOG: i32 = 16;

/// How a request ended.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) pid: Option<u32>,
    pub(crate) at_ns: Option<i128>,
    pub(crate) fds: Vec<OwnedFd>,
}

type Waiter = oneshot::Sender<std::result::Result<Answer, String>>;

/// How an exec'd process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExecEnd {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

pub(crate) struct Link {
    sandbox: String,
    socket: AsyncFd<OwnedFd>,
    number: AtomicU64,
    /// `None` once the keeper is gone.
    waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    execs: Mutex<HashMap<u64, oneshot::Sender<ExecEnd>>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("sandbox", &self.sandbox).finish_non_exhaustive()
    }
}

thread_local! {
    /// Where a message lands before it is decoded, at once: a buffer for each thread and not for each pod, of which there are more.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MESSAGE_MAX].into_boxed_slice());
}

/// Who answered, and what it holds.
pub(crate) struct Greeting {
    pub(crate) pid: u32,
    pub(crate) containers: Vec<Known>,
}

/// The listening socket that a new keeper inherits.
pub(crate) fn listen(directory: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    with_address(directory, |address| rustix::net::bind(&socket, address))?;
    // The directory is for root only already; the socket too, should it ever be elsewhere.
    rustix::fs::chmod(directory.join(SOCKET_FILE), rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Socket paths are short (108 bytes) and directories may be long: the way leads through a descriptor of the directory.
fn with_address<T>(directory: &Path, act: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>) -> io::Result<T> {
    let directory = File::open(directory)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd()))?;
    Ok(act(&address)?)
}

impl Link {
    /// Connects to the keeper of a sandbox and reads its greeting. `ConnectionRefused` or `NotFound`: there is no keeper.
    pub(crate) async fn connect(sandbox: &str, directory: &Path) -> io::Result<(Link, Greeting)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        with_address(directory, |address| rustix::net::connect(&socket, address))?;
        let link = Link {
            sandbox: sandbox.to_owned(),
            socket: super::watch_fd(socket)?,
            number: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            execs: Mutex::new(HashMap::new()),
        };
        let greeting = tokio::time::timeout(GREETING_TIMEOUT, link.receive()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        match greeting {
            Some((Message::Hello { pid, containers, .. }, _)) => Ok((link, Greeting { pid, containers })),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the keeper did not greet")),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// `None`: the keeper is gone.
    async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                BUFFER.with_borrow_mut(|buffer| {
                    let (length, fds) = protocol::receive(socket.as_fd(), buffer)?;
                    Ok(if length == 0 { None } else { Some((serde_json::from_slice(&buffer[..length])?, fds)) })
                })
            });
            match received {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(received) => return received,
                Err(_would_block) => {}
            }
        }
    }

    /// Hands answers to those who wait for them and exits to `exited`, until the keeper is gone.
    pub(crate) async fn listen_to(&self, exited: impl Fn(String, Exit)) {
        loop {
            match self.receive().await {
                Ok(Some((Message::Reply { id, error, pid, at_ns }, fds))) => {
                    let waiter = self.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                    if let Some(waiter) = waiter {
                        // Whoever asked may have stopped waiting.
                        let _ = waiter.send(error.map_or(Ok(Answer { pid, at_ns, fds }), Err));
                    }
                }
                Ok(Some((Message::Exited { container, exit }, _))) => exited(container, exit),
                Ok(Some((Message::ExecExited { exec, code, signal }, _))) => {
                    if let Some(waiter) = self.execs.lock().remove(&exec) {
                        let _ = waiter.send(ExecEnd { code, signal });
                    }
                }
                Ok(Some((Message::Hello { .. }, _))) => {}
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(sandbox = self.sandbox, %error, "lost the connection to a keeper");
                    break;
                }
            }
        }
        *self.waiting.lock() = None;
        self.execs.lock().clear();
    }

    pub(crate) async fn call(&self, call: Call, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let failed = |step, source| Error::Keeper { step, sandbox: self.sandbox.clone(), source };
        let id = self.number.fetch_add(1, Ordering::Relaxed);
        let request = serde_json::to_vec(&Request { id, call }).map_err(|error| failed("encode a request", error.into()))?;
        if request.len() > protocol::REQUEST_MAX {
            return Err(failed("send a request", io::Error::new(io::ErrorKind::InvalidInput, "it is too long")));
        }
        let (waiter, answer) = oneshot::channel();
        match &mut *self.waiting.lock() {
            Some(waiting) => waiting.insert(id, waiter),
            None => return Err(failed("send a request", io::ErrorKind::NotConnected.into())),
        };
        loop {
            let mut ready = self.socket.writable().await.map_err(|error| failed("send a request", error))?;
            match ready.try_io(|socket| protocol::send(socket.as_fd(), &request, fds)) {
                Ok(sent) => break sent.map_err(|error| failed("send a request", error))?,
                Err(_would_block) => {}
            }
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(message))) => Err(Error::Refused { sandbox: self.sandbox.clone(), message }),
            Ok(Err(_gone)) => Err(failed("wait for an answer", io::ErrorKind::ConnectionReset.into())),
            Err(_late) => {
                if let Some(waiting) = &mut *self.waiting.lock() {
                    waiting.remove(&id);
                }
                Err(failed("wait for an answer", io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// A number for an exec, and where its end will be told.
    pub(crate) fn new_exec(&self) -> (u64, oneshot::Receiver<ExecEnd>) {
        let exec = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.execs.lock().insert(exec, sender);
        (exec, receiver)
    }

    pub(crate) fn forget_exec(&self, exec: u64) {
        self.execs.lock().remove(&exec);
    }

    /// Sends without waiting for an answer, from where nothing can wait (a destructor). If the socket is full it is not sent.
    pub(crate) fn tell(&self, call: Call) {
        let id = self.number.fetch_add(1, Ordering::Relaxed);
        if let Ok(request) = serde_json::to_vec(&Request { id, call }) {
            let _ = protocol::send(self.socket.get_ref().as_fd(), &request, &[]);
        }
    }
}
