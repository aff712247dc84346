//! The keeper's one loop: it sleeps in epoll_wait(2) until a child ends, a stream has output, or the node process speaks.
//!
//! Never: blocks on a container, on the node process or on a reader. A connection that does not take its messages is closed; the
//! node connects again and is greeted with what is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::container::{Container, Phase, read_failure};
use super::log::Stream;
use super::protocol::{self, Call, FDS_MAX, Message, REQUEST_MAX, Request, VERSION};
use super::start;
use crate::spec::status::Exit;

/// One node process, and during an upgrade its successor.
const CONNECTIONS_MAX: usize = 8;

/// Containers and their past attempts that the node has not forgotten yet.
const CONTAINERS_MAX: usize = 256;

/// Execs at a time.
const EXECS_MAX: usize = 256;

/// What an epoll event is about: the kind in the upper half, the item's number in the lower.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Source {
    Listener = 1,
    Child,
    Connection,
    Stdout,
    Stderr,
    Console,
    Status,
    ExecStatus,
}

const SOURCES: [Source; 8] = [
    Source::Listener,
    Source::Child,
    Source::Connection,
    Source::Stdout,
    Source::Stderr,
    Source::Console,
    Source::Status,
    Source::ExecStatus,
];

pub(crate) struct Keeper {
    directory: PathBuf,
    epoll: OwnedFd,
    listener: OwnedFd,
    children: OwnedFd,
    own_pid_namespace: OwnedFd,
    connections: Vec<Connection>,
    /// With its number; numbers are never used twice.
    containers: Vec<(u32, Container)>,
    execs: Vec<Exec>,
    number: u32,
    quitting: bool,
}

struct Connection {
    number: u32,
    socket: OwnedFd,
}

struct Exec {
    number: u32,
    /// As the node calls it.
    id: u64,
    connection: u32,
    pid: Pid,
    /// Until its program runs: where failure is told, what was told, and the request to answer.
    starting: Option<(OwnedFd, Vec<u8>, u64)>,
}

impl Keeper {
    pub(crate) fn new(directory: &Path, listener: OwnedFd, own_pid_namespace: OwnedFd) -> io::Result<Keeper> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let children = block_signals()?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        // It came through an exec, so it is not marked yet; nothing that is forked shall have it.
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
        let keeper = Keeper {
            directory: directory.to_owned(),
            epoll,
            listener,
            children,
            own_pid_namespace,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            number: 0,
            quitting: false,
        };
        keeper.watch(&keeper.listener, Source::Listener, 0)?;
        keeper.watch(&keeper.children, Source::Child, 0)?;
        Ok(keeper)
    }

    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events: [std::mem::MaybeUninit<epoll::Event>; 16] = [std::mem::MaybeUninit::uninit(); 16];
        loop {
            let (ready, _) = match epoll::wait(&self.epoll, &mut events, None) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in ready {
                let data = event.data.u64();
                self.dispatch((data >> 32) as u32, data as u32);
            }
            if self.quitting && self.containers.iter().all(|(_, container)| matches!(container.phase, Phase::Ended(_))) {
                return Ok(());
            }
        }
    }

    fn watch(&self, fd: &OwnedFd, source: Source, number: u32) -> io::Result<()> {
        let data = epoll::EventData::new_u64((source as u64) << 32 | u64::from(number));
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    fn unwatch(epoll: &OwnedFd, fd: &OwnedFd) {
        // Not watched (any more) is what is wanted.
        let _ = epoll::delete(epoll, fd);
    }

    fn dispatch(&mut self, source: u32, number: u32) {
        let Some(source) = SOURCES.into_iter().find(|&known| known as u32 == source) else {
            return;
        };
        match source {
            Source::Listener => self.accept(),
            Source::Child => self.reap(),
            Source::Connection => self.hear(number),
            Source::Stdout => self.read_output(number, Stream::Stdout),
            Source::Stderr => self.read_output(number, Stream::Stderr),
            Source::Console => self.take_terminal(number),
            Source::Status => self.started(number),
            Source::ExecStatus => self.exec_started(number),
        }
    }

    fn next_number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    fn accept(&mut self) {
        use rustix::net::SocketFlags;
        let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else {
            return;
        };
        if !protocol::peer_is_root(&socket) || self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        let number = self.next_number();
        if self.watch(&socket, Source::Connection, number).is_err() {
            return;
        }
        self.connections.push(Connection { number, socket });
        let containers = self.containers.iter().filter_map(|(_, container)| container.known()).collect();
        self.tell(number, &Message::Hello { version: VERSION, pid: std::process::id(), containers }, &[]);
    }

    /// Sends to one connection, or gives it up.
    fn tell(&mut self, connection: u32, message: &Message, fds: &[OwnedFd]) {
        let Some(at) = self.connections.iter().position(|known| known.number == connection) else {
            return;
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = serde_json::to_vec(message)
            .map_err(io::Error::from)
            .and_then(|bytes| protocol::send(self.connections[at].socket.as_fd(), &bytes, &fds));
        if sent.is_err() {
            self.disconnect(connection);
        }
    }

    fn tell_all(&mut self, message: &Message) {
        let numbers: Vec<u32> = self.connections.iter().map(|connection| connection.number).collect();
        for number in numbers {
            self.tell(number, message, &[]);
        }
    }

    fn reply(&mut self, (connection, id): (u32, u64), result: Result<Option<&Container>, String>, fds: &[OwnedFd]) {
        let message = match result {
            Ok(None) => Message::Reply { id, error: None, pid: None, at_ns: None },
            Ok(Some(container)) => Message::Reply {
                id,
                error: None,
                pid: Some(container.pid.as_raw_nonzero().get() as u32),
                at_ns: Some(container.started_at_ns),
            },
            Err(error) => Message::Reply { id, error: Some(error), pid: None, at_ns: None },
        };
        self.tell(connection, &message, fds);
    }

    fn disconnect(&mut self, number: u32) {
        if let Some(at) = self.connections.iter().position(|connection| connection.number == number) {
            let connection = self.connections.swap_remove(at);
            Self::unwatch(&self.epoll, &connection.socket);
        }
        // Nobody reads from them any more.
        for exec in self.execs.iter().filter(|exec| exec.connection == number) {
            let _ = rustix::process::kill_process(exec.pid, rustix::process::Signal::KILL);
        }
    }

    fn hear(&mut self, number: u32) {
        let Some(connection) = self.connections.iter().find(|connection| connection.number == number) else {
            return;
        };
        let mut buffer = [0u8; REQUEST_MAX];
        let (length, fds) = match protocol::receive(connection.socket.as_fd(), &mut buffer) {
            Ok((length, fds)) if length > 0 => (length, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => return self.disconnect(number),
        };
        match serde_json::from_slice::<Request>(&buffer[..length]) {
            Ok(request) => self.answer((number, request.id), request.call, fds),
            Err(error) => {
                // Of a newer node's call at least the number can be read, so that the node is not left waiting.
                #[derive(serde::Deserialize)]
                struct Numbered {
                    id: u64,
                }
                match serde_json::from_slice::<Numbered>(&buffer[..length]) {
                    Ok(Numbered { id }) => self.reply((number, id), Err(format!("not understood: {error}")), &[]),
                    Err(_) => self.disconnect(number),
                }
            }
        }
    }

    fn answer(&mut self, asker: (u32, u64), call: Call, fds: Vec<OwnedFd>) {
        let result = match call {
            Call::Start(start) => match self.start(start, asker) {
                // Answered when its program runs.
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Call::Exec { container, exec, tty } => match self.exec(&container, exec, tty, fds, asker) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Call::Signal { container, signal } => self
                .find(&container)
                .and_then(|container| container.signal(signal).map_err(|error| format!("send signal {signal}: {error}"))),
            Call::Kill { container } => {
                self.find(&container).and_then(|container| container.kill().map_err(|error| format!("kill: {error}")))
            }
            Call::ExecKill { exec } => {
                for exec in self.execs.iter().filter(|known| known.id == exec && known.connection == asker.0) {
                    let _ = rustix::process::kill_process(exec.pid, rustix::process::Signal::KILL);
                }
                Ok(())
            }
            Call::Attach { container, stdin } => match self.attach(&container, stdin, fds) {
                Ok(input) => {
                    let input: Vec<OwnedFd> = input.into_iter().collect();
                    return self.reply(asker, Ok(None), &input);
                }
                Err(error) => Err(error),
            },
            Call::ReopenLog { container } => {
                self.find(&container).and_then(|container| container.reopen_log().map_err(|error| format!("reopen the log: {error}")))
            }
            Call::Forget { container } => {
                self.containers.retain(|(_, known)| known.id != container || !matches!(known.phase, Phase::Ended(_)));
                Ok(())
            }
            Call::Quit => {
                self.quitting = true;
                for (_, container) in &self.containers {
                    // Already dead is fine.
                    let _ = container.kill();
                }
                Ok(())
            }
        };
        self.reply(asker, result.map(|()| None), &[]);
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, String> {
        self.containers
            .iter_mut()
            .map(|(_, container)| container)
            .find(|container| container.id == id)
            .ok_or_else(|| format!("no container {id} was started here"))
    }

    fn by_number(&mut self, number: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|(known, _)| *known == number).map(|(_, container)| container)
    }

    fn start(&mut self, start: protocol::Start, asker: (u32, u64)) -> Result<(), String> {
        if let Ok(container) = self.find(&start.container) {
            // Asked again, by a node that did not hear the answer.
            return match &mut container.phase {
                Phase::Starting { waiter, .. } => {
                    *waiter = Some(asker);
                    Ok(())
                }
                Phase::Running => {
                    let (pid, at_ns) = (Some(container.pid.as_raw_nonzero().get() as u32), Some(container.started_at_ns));
                    self.tell(asker.0, &Message::Reply { id: asker.1, error: None, pid, at_ns }, &[]);
                    Ok(())
                }
                Phase::Ended(_) => Err("it has run already".to_owned()),
            };
        }
        if self.quitting || self.containers.len() >= CONTAINERS_MAX {
            return Err("the sandbox takes no more containers".to_owned());
        }
        let number = self.next_number();
        let pids = match &start.processes_of {
            None => None,
            Some(target) => {
                let target = self.find(target)?;
                if !matches!(target.phase, Phase::Running) {
                    return Err(format!("container {} does not run, so its processes cannot be shared", target.id));
                }
                let pid = target.pid.as_raw_nonzero().to_string();
                let target = super::fork::open_namespace(&pid, "pid").map_err(|error| format!("find the processes to share: {error}"))?;
                Some(start::Pids { target, own: &self.own_pid_namespace })
            }
        };
        let container = Container::start(&self.directory, start, asker, pids).map_err(|error| format!("start: {error}"))?;
        self.containers.push((number, container));
        let Some((_, container)) = self.containers.last() else {
            return Ok(());
        };
        let mut watched = Ok(());
        if let Phase::Starting { status, .. } = &container.phase {
            watched = watched.and(self.watch(status, Source::Status, number));
        }
        for (output, source) in [(&container.stdout, Source::Stdout), (&container.stderr, Source::Stderr)] {
            if let Some(output) = output {
                watched = watched.and(self.watch(&output.fd, source, number));
            }
        }
        if let Some(console) = &container.console {
            watched = watched.and(self.watch(console, Source::Console, number));
        }
        if let Err(error) = watched {
            let _ = container.kill();
            return Err(format!("watch: {error}"));
        }
        Ok(())
    }

    fn take_terminal(&mut self, number: u32) {
        let Some(container) = self.by_number(number) else { return };
        let Some(console) = container.console.take() else { return };
        let received = protocol::receive(console.as_fd(), &mut [0u8; 64]);
        let mut taken = Ok(());
        if let Ok((_, fds)) = received
            && let Some(master) = fds.into_iter().next()
        {
            taken = container.take_terminal(master);
        }
        // The borrow of the container ends before the loop's own parts are used.
        let terminal = container.stdout.as_ref().map(|output| output.fd.try_clone());
        Self::unwatch(&self.epoll, &console);
        if let (Ok(()), Some(Ok(_))) = (taken, &terminal)
            && let Some((_, container)) = self.containers.iter().find(|(known, _)| *known == number)
            && let Some(output) = &container.stdout
            && let Err(error) = self.watch(&output.fd, Source::Stdout, number)
        {
            eprintln!("keeper: watch a terminal: {error}");
        }
    }

    fn read_output(&mut self, number: u32, stream: Stream) {
        let Some(container) = self.containers.iter_mut().find(|(known, _)| *known == number).map(|(_, container)| container) else {
            return;
        };
        if container.read_output(stream) {
            return;
        }
        let output = match stream {
            Stream::Stdout => &container.stdout,
            Stream::Stderr => &container.stderr,
        };
        if let Some(output) = output {
            Self::unwatch(&self.epoll, &output.fd);
        }
        container.finish_output(stream);
    }

    /// The child has said how its start went, or has become its program.
    fn started(&mut self, number: u32) {
        let Some(container) = self.containers.iter_mut().find(|(known, _)| *known == number).map(|(_, container)| container) else {
            return;
        };
        let Some(result) = container.poll_start() else { return };
        let Phase::Starting { status, waiter, .. } = std::mem::replace(&mut container.phase, Phase::Running) else {
            return;
        };
        Self::unwatch(&self.epoll, &status);
        match result {
            Ok(()) => {
                let (pid, at_ns) = (Some(container.pid.as_raw_nonzero().get() as u32), Some(container.started_at_ns));
                if let Some((connection, id)) = waiter {
                    self.tell(connection, &Message::Reply { id, error: None, pid, at_ns }, &[]);
                }
            }
            Err(error) => {
                // It is reaped as a stranger. Nobody is told of an exit, for nothing ran.
                self.containers.retain(|(known, _)| *known != number);
                if let Some(asker) = waiter {
                    self.reply(asker, Err(error), &[]);
                }
            }
        }
    }

    fn reap(&mut self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.children, &mut info).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.ended(pid, status);
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        if let Some(number) = self
            .containers
            .iter()
            .find(|(_, container)| container.pid == pid && !matches!(container.phase, Phase::Ended(_)))
            .map(|(number, _)| *number)
        {
            // A program that ran and ended at once: its start is told before its end.
            self.started(number);
            let Some(container) = self.by_number(number) else { return };
            let id = container.id.clone();
            match container.end(status) {
                Ok(exit) => self.tell_all(&Message::Exited { container: id, exit }),
                Err(error) => {
                    // Without a record the exit is told all the same; only a later start of the node would not know it.
                    eprintln!("keeper: record the end of container {id}: {error}");
                    if let Phase::Ended(exit) = container.phase {
                        self.tell_all(&Message::Exited { container: id, exit });
                    }
                }
            }
        } else if let Some(number) = self.execs.iter().find(|exec| exec.pid == pid).map(|exec| exec.number) {
            self.exec_started(number);
            let Some(at) = self.execs.iter().position(|exec| exec.number == number) else {
                return;
            };
            let exec = self.execs.swap_remove(at);
            let signal = status.terminating_signal();
            let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(-1);
            self.tell(exec.connection, &Message::ExecExited { exec: exec.id, code, signal }, &[]);
        }
    }

    fn exec(&mut self, container: &str, exec: u64, tty: bool, fds: Vec<OwnedFd>, asker: (u32, u64)) -> Result<(), String> {
        if self.execs.len() >= EXECS_MAX {
            return Err("too many execs at a time in this pod".to_owned());
        }
        let container = self.find(container)?;
        if !matches!(container.phase, Phase::Running) {
            return Err("the container is not running".to_owned());
        }
        let (target, directory) = (container.pid, container.directory().to_owned());
        let (description, streams) = streams(fds, tty)?;
        let (status, child_status) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
            .map_err(|error| format!("make a pipe: {error}"))?;
        let pid = start::exec(&directory, target, &self.own_pid_namespace, description, streams, child_status)
            .map_err(|error| format!("start: {error}"))?;
        let number = self.next_number();
        let watched = self.watch(&status, Source::ExecStatus, number);
        self.execs.push(Exec { number, id: exec, connection: asker.0, pid, starting: Some((status, Vec::new(), asker.1)) });
        watched.map_err(|error| format!("watch: {error}"))
    }

    fn exec_started(&mut self, number: u32) {
        let Some(at) = self.execs.iter().position(|exec| exec.number == number) else {
            return;
        };
        let exec = &mut self.execs[at];
        let Some((status, failure, _)) = &mut exec.starting else { return };
        let Some(result) = read_failure(status, failure) else { return };
        let connection = exec.connection;
        let Some((status, _, id)) = exec.starting.take() else { return };
        Self::unwatch(&self.epoll, &status);
        match result {
            None => self.reply((connection, id), Ok(None), &[]),
            Some(error) => {
                self.execs.swap_remove(at);
                self.reply((connection, id), Err(error), &[]);
            }
        }
    }

    fn attach(&mut self, container: &str, stdin: bool, fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, String> {
        let container = self.find(container)?;
        if !matches!(container.phase, Phase::Running) {
            return Err("the container is not running".to_owned());
        }
        if fds.len() > FDS_MAX {
            return Err("too many descriptors".to_owned());
        }
        container.subscribers.add(fds)?;
        // A terminal is given in any case: for its size.
        if stdin || container.tty() { container.input().map_err(|error| format!("share the input: {error}")) } else { Ok(None) }
    }
}

/// The descriptors of an exec, in their order.
fn streams(fds: Vec<OwnedFd>, tty: bool) -> Result<(OwnedFd, start::Streams), String> {
    let wrong = "an exec needs its description and its streams";
    let mut fds = fds.into_iter();
    let description = fds.next().ok_or(wrong)?;
    let first = fds.next().ok_or(wrong)?;
    if tty {
        return Ok((description, start::Streams::Terminal(first)));
    }
    let (second, third) = (fds.next().ok_or(wrong)?, fds.next().ok_or(wrong)?);
    Ok((description, start::Streams::Three([first, second, third])))
}

/// The ends of children come as readiness of a descriptor. SIGTERM is ignored: a service manager that stops the node process
/// must not stop pods; a keeper ends by `Quit`. So is SIGPIPE: readers come and go.
fn block_signals() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: sets up this single-threaded process's signals from values on the stack; signalfd gives a new descriptor.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

// An exit is told in one word over the socket and kept in one small file: it must stay small.
const _: () = assert!(size_of::<Exit>() <= 64);
