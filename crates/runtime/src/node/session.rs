//! Talking to what runs: exec, attach, port forwarding. The streams go directly between this process and the container's; the
//! keeper only passes descriptors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::link::{ExecEnd, Link};
use super::{ContainerEntry, Inner, container, record};
use crate::error::{Error, Result};
use crate::keeper::launch::{LAUNCH_FILE, Launch, ProcessSpec};
use crate::keeper::protocol::{self, Call};
use crate::spec::status::{ContainerState, ExecOutput, Exit};

/// Bytes that an attached client may lag behind a container's output. Kernel memory, used only while it lags.
const ATTACH_BUFFER_BYTES: usize = 4 << 20;

type Reader = Box<dyn AsyncRead + Send + Sync + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// The streams of an exec or an attach. Dropping it detaches; an exec'd process that still runs is ended.
pub struct Session {
    /// Drop it to end the process's standard input (a terminal has no such end).
    pub stdin: Option<Writer>,
    /// With a terminal, everything comes here.
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    terminal: Option<Terminal>,
    subject: Subject,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("terminal", &self.terminal.is_some()).finish_non_exhaustive()
    }
}

/// Whose end the session waits for.
enum Subject {
    Exec { link: Arc<Link>, exec: u64, end: Option<oneshot::Receiver<ExecEnd>>, ended: Option<Exit> },
    Container(Arc<ContainerEntry>),
}

impl Session {
    /// Without a terminal there is nothing to resize, and that is no error.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal.0.get_ref(), size).map_err(|error| Error::Keeper {
            step: "resize the terminal",
            sandbox: self.sandbox(),
            source: error.into(),
        })
    }

    fn sandbox(&self) -> String {
        match &self.subject {
            Subject::Exec { .. } => String::new(),
            Subject::Container(entry) => entry.sandbox.clone(),
        }
    }

    /// Ends when the process (for attach: the container) has ended. Cancel-safe.
    pub async fn wait(&mut self) -> Result<Exit> {
        match &mut self.subject {
            Subject::Container(entry) => {
                container::ended(entry).await;
                match entry.state() {
                    ContainerState::Exited(exit) => Ok(exit),
                    _ => Ok(super::sandbox::lost_exit()),
                }
            }
            Subject::Exec { end, ended, .. } => {
                if let Some(receiver) = end {
                    let exit = match receiver.await {
                        Ok(ExecEnd { code, signal }) => Exit { code, signal, oom_killed: false, finished_at_ns: crate::keeper::now_ns() },
                        // The keeper is gone, and all that ran in the pod.
                        Err(_gone) => super::sandbox::lost_exit(),
                    };
                    *end = None;
                    *ended = Some(exit);
                }
                Ok(ended.unwrap_or_else(super::sandbox::lost_exit))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Subject::Exec { link, exec, end: Some(_), .. } = &self.subject {
            link.forget_exec(*exec);
            link.tell(Call::ExecKill { exec: *exec });
        }
    }
}

/// The streams of an exec on this side, and those that go to the process.
struct Streams {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    console: Option<OwnedFd>,
    theirs: Vec<OwnedFd>,
}

fn exec_streams(tty: bool, stdin: bool) -> io::Result<Streams> {
    if tty {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        return Ok(Streams { stdin: None, stdout: None, stderr: None, console: Some(ours), theirs: vec![theirs] });
    }
    let (their_in, stdin) = if stdin {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        (read, Some(pipe::Sender::from_owned_fd(nonblocking(write)?)?))
    } else {
        (std::fs::File::open("/dev/null")?.into(), None)
    };
    let (stdout, their_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (stderr, their_err) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok(Streams {
        stdin,
        stdout: Some(pipe::Receiver::from_owned_fd(nonblocking(stdout)?)?),
        stderr: Some(pipe::Receiver::from_owned_fd(nonblocking(stderr)?)?),
        console: None,
        theirs: vec![their_in, their_out, their_err],
    })
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// An exec that runs; the parts of a `Session`.
struct Running {
    streams: Streams,
    link: Arc<Link>,
    exec: u64,
    end: oneshot::Receiver<ExecEnd>,
}

async fn start_exec(inner: &Arc<Inner>, id: &str, argv: Vec<String>, tty: bool, stdin: bool) -> Result<Running> {
    let entry = inner.container(id)?;
    if !matches!(entry.state(), ContainerState::Running { .. }) {
        return Err(Error::State { id: id.to_owned(), state: "not running", verb: "exec" });
    }
    let failed = |step| {
        let sandbox = entry.sandbox.clone();
        move |source| Error::Keeper { step, sandbox, source }
    };
    let description = describe(&entry, argv, tty)?;
    let streams = exec_streams(tty, stdin).map_err(failed("make the streams of an exec"))?;
    let link = inner.link(&entry.sandbox)?;
    let (exec, end) = link.new_exec();
    let fds: Vec<_> = std::iter::once(&description).chain(&streams.theirs).map(AsFd::as_fd).collect();
    if let Err(error) = link.call(Call::Exec { container: id.to_owned(), exec, tty }, &fds).await {
        link.forget_exec(exec);
        return Err(error);
    }
    Ok(Running { streams, link, exec, end })
}

/// The process to run, in a memory file: the container's own but for its command.
fn describe(entry: &ContainerEntry, argv: Vec<String>, tty: bool) -> Result<OwnedFd> {
    let path = entry.directory.join(LAUNCH_FILE);
    let launch: Launch =
        record::read(&path)?.ok_or_else(|| Error::NotFound { what: "launch file of container", id: entry.record.config.id.clone() })?;
    let mut process = ProcessSpec { argv, tty, ..launch.process };
    if tty && !process.env.iter().any(|entry| entry.starts_with("TERM=")) {
        process.env.push("TERM=xterm".to_owned());
    }
    let written = || -> io::Result<OwnedFd> {
        let file = rustix::fs::memfd_create("exec", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(file);
        io::Write::write_all(&mut file, &serde_json::to_vec(&process)?)?;
        Ok(file.into())
    };
    written().map_err(|source| Error::Path { step: "describe an exec for", path, source })
}

pub(super) async fn exec(inner: &Arc<Inner>, id: &str, argv: Vec<String>, tty: bool, stdin: bool) -> Result<Session> {
    let Running { streams, link, exec, end } = start_exec(inner, id, argv, tty, stdin).await?;
    let mut session = Session {
        stdin: streams.stdin.map(|stdin| Box::new(stdin) as Writer),
        stdout: streams.stdout.map(|stdout| Box::new(stdout) as Reader),
        stderr: streams.stderr.map(|stderr| Box::new(stderr) as Reader),
        terminal: None,
        subject: Subject::Exec { link, exec, end: Some(end), ended: None },
    };
    if let Some(console) = streams.console {
        // Sent before the program ran, which the answer said.
        let taken = take_terminal(&console);
        let terminal = taken.map_err(|source| Error::Keeper { step: "take the terminal", sandbox: id.to_owned(), source })?;
        session.stdin = stdin.then(|| Box::new(terminal.clone()) as Writer);
        session.stdout = Some(Box::new(terminal.clone()));
        session.terminal = Some(terminal);
    }
    Ok(session)
}

fn take_terminal(console: &OwnedFd) -> io::Result<Terminal> {
    rustix::io::ioctl_fionbio(console, true)?;
    let (_, fds) = protocol::receive(console.as_fd(), &mut [0; 64])?;
    let master = fds.into_iter().next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no terminal came"))?;
    Terminal::new(master)
}

pub(super) async fn exec_sync(
    inner: &Arc<Inner>,
    id: &str,
    argv: Vec<String>,
    timeout: Option<Duration>,
    output_max: usize,
) -> Result<ExecOutput> {
    let Running { mut streams, link, exec, mut end } = start_exec(inner, id, argv, false, false).await?;
    // The process has its own copies; ours must go for the streams to end with it.
    streams.theirs.clear();
    let (Some(stdout), Some(stderr)) = (&mut streams.stdout, &mut streams.stderr) else {
        return Err(Error::State { id: id.to_owned(), state: "without streams", verb: "exec" });
    };
    let (mut out, mut err) = (Capped::new(output_max), Capped::new(output_max));
    let work = async {
        let (mut out_open, mut err_open) = (true, true);
        loop {
            tokio::select! {
                ended = &mut end => break ended.ok(),
                open = out.read(stdout), if out_open => out_open = open,
                open = err.read(stderr), if err_open => err_open = open,
            }
        }
    };
    let ended = match timeout {
        Some(timeout) => match tokio::time::timeout(timeout, work).await {
            Ok(ended) => ended,
            Err(_late) => {
                link.forget_exec(exec);
                link.call(Call::ExecKill { exec }, &[]).await?;
                return Err(Error::ExecTimeout { id: id.to_owned(), seconds: timeout.as_secs() });
            }
        },
        None => work.await,
    };
    // All that it wrote is in the pipes. Not until their end: what it left running in the background may hold them open.
    out.drain(stdout);
    err.drain(stderr);
    let code = ended.map_or(128 + libc::SIGKILL, |end| end.code);
    debug_assert!(ended.is_none_or(|end| end.signal.is_none_or(|signal| end.code == 128 + signal)));
    Ok(ExecOutput { code, truncated: out.dropped || err.dropped, stdout: out.bytes, stderr: err.bytes })
}

/// Output up to a limit; the rest is read and forgotten, so that the process does not wait for a reader.
struct Capped {
    bytes: Vec<u8>,
    max: usize,
    dropped: bool,
}

impl Capped {
    fn new(max: usize) -> Capped {
        Capped { bytes: Vec::new(), max, dropped: false }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.max - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.dropped |= bytes.len() > room;
    }

    /// False at the end of the stream. Cancel-safe: a read that has happened has been taken.
    async fn read(&mut self, stream: &mut pipe::Receiver) -> bool {
        let mut buffer = [0; 8 << 10];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.take(&buffer[..read]);
                true
            }
        }
    }

    /// Asks the pipe itself: what the reactor last heard of it may be older than the word that the process has ended. Not beyond what is kept:
    /// others may go on writing.
    fn drain(&mut self, stream: &pipe::Receiver) {
        let mut buffer = [0; 8 << 10];
        while !self.dropped
            && let Ok(read @ 1..) = rustix::io::read(stream, &mut buffer)
        {
            self.take(&buffer[..read]);
        }
    }
}

pub(super) async fn attach(inner: &Arc<Inner>, id: &str, stdin: bool) -> Result<Session> {
    let entry = inner.container(id)?;
    let link = inner.link(&entry.sandbox)?;
    let tty = entry.record.config.tty;
    let failed = |step| {
        let sandbox = entry.sandbox.clone();
        move |source| Error::Keeper { step, sandbox, source }
    };
    let (stdout, their_out) = output_pair().map_err(failed("make a stream"))?;
    let mut theirs = vec![their_out];
    let mut stderr = None;
    if !tty {
        let (ours, their_err) = output_pair().map_err(failed("make a stream"))?;
        theirs.push(their_err);
        stderr = Some(Box::new(ours) as Reader);
    }
    let stdin = stdin && entry.record.config.stdin;
    let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    let answer = link.call(Call::Attach { container: id.to_owned(), stdin }, &fds).await?;
    let mut session =
        Session { stdin: None, stdout: Some(Box::new(stdout)), stderr, terminal: None, subject: Subject::Container(Arc::clone(&entry)) };
    if let Some(input) = answer.fds.into_iter().next() {
        let input = nonblocking(input).map_err(failed("take the input"))?;
        if tty {
            let terminal = Terminal::new(input).map_err(failed("take the terminal"))?;
            session.stdin = stdin.then(|| Box::new(terminal.clone()) as Writer);
            session.terminal = Some(terminal);
        } else {
            session.stdin = Some(Box::new(pipe::Sender::from_owned_fd(input).map_err(failed("take the input"))?));
        }
    }
    Ok(session)
}

fn output_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Beyond the host's default, which a root process may pass.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&theirs, ATTACH_BUFFER_BYTES);
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

/// A terminal's master: read and written by turns, ended when the last process has closed the other side.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Terminal> {
        Ok(Terminal(Arc::new(super::watch_fd(nonblocking(master)?)?)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd, &mut *unfilled)?)) {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // The other side is closed: a terminal says so with EIO.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A socket belongs to the network namespace in which it is made, whoever uses it then.
pub(super) async fn port_forward(inner: &Arc<Inner>, sandbox: &str, port: u16) -> Result<TcpStream> {
    let entry = inner.sandbox(sandbox)?;
    let netns = entry.netns();
    if netns.is_none() && !entry.record.config.host_network {
        return Err(Error::Refused { sandbox: sandbox.to_owned(), message: "it is not ready".to_owned() });
    }
    let failed = |source| Error::Keeper { step: "connect to a port", sandbox: sandbox.to_owned(), source };
    let mut refused = None;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let namespace = netns.clone();
        let made = tokio::task::spawn_blocking(move || socket_in(namespace.as_deref(), address)).await;
        let connected = match made.map_err(io::Error::other).and_then(|socket| socket) {
            Ok(socket) => socket.connect(SocketAddr::new(address, port)).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            // What IPv4 said is what counts; a host without IPv6 has nothing to add.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(failed(refused.unwrap_or_else(|| io::ErrorKind::NotConnected.into())))
}

/// On a thread of its own that ends after it, for the namespace is the thread's.
fn socket_in(namespace: Option<&std::path::Path>, address: IpAddr) -> io::Result<TcpSocket> {
    let make = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let Some(namespace) = namespace else { return make() };
    let namespace = std::fs::File::open(namespace)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
            make()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread of a port forward failed")))
    })
}
