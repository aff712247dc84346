//! A container as its keeper sees it: a child process, its streams, its log, and how it ended.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, WaitStatus};

use super::attach::Subscribers;
use super::launch::EXIT_FILE;
use super::log::{LINE_MAX, LogFile, Stream};
use super::protocol::{Known, Start};
use super::{now_ns, start};
use crate::spec::status::Exit;

/// Reads of one stream before others have their turn.
const READS_PER_WAKE: usize = 8;

/// Bytes that a child may say about its failure.
const FAILURE_MAX: usize = 4 << 10;

/// Rounds of killing what is in a cgroup; a process that forks between the listing and the signal needs another round.
const KILL_ROUNDS_MAX: usize = 64;

pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) pid: Pid,
    pub(crate) started_at_ns: i128,
    pub(crate) phase: Phase,
    directory: PathBuf,
    start: Start,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// Where the terminal will come from, until it has.
    pub(crate) console: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    log: Option<LogFile>,
    log_failed: bool,
    pub(crate) subscribers: Subscribers,
}

pub(crate) enum Phase {
    /// Forked; its program does not run yet. Ends in Running when `status` closes silently, or in Failed.
    Starting {
        status: OwnedFd,
        failure: Vec<u8>,
        waiter: Option<(u32, u64)>,
    },
    Running,
    /// Its record is on disk.
    Ended(Exit),
}

pub(crate) struct Output {
    pub(crate) fd: OwnedFd,
    stream: Stream,
    /// The beginning of a line that has no end yet; shorter than `LINE_MAX`.
    rest: Vec<u8>,
}

impl Container {
    /// Forks it. `waiter` is the request to answer when it runs; `pids` is where its processes are numbered, if not where the keeper's are.
    pub(crate) fn start(sandbox: &Path, start: Start, waiter: (u32, u64), pids: Option<start::Pids<'_>>) -> io::Result<Container> {
        let directory = sandbox.join("containers").join(&start.container);
        let log = start.log.as_ref().map(|log| LogFile::open(Path::new(&log.path), log.bytes_max, log.files)).transpose()?;
        let (status, child_status) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        let ends = Ends::make(&start)?;
        let pid = start::container(&directory, start.own_pid, pids, ends.child, child_status)?;
        Ok(Container {
            id: start.container.clone(),
            pid,
            started_at_ns: now_ns(),
            phase: Phase::Starting { status, failure: Vec::new(), waiter: Some(waiter) },
            directory,
            start,
            stdout: ends.stdout.map(|fd| Output { fd, stream: Stream::Stdout, rest: Vec::new() }),
            stderr: ends.stderr.map(|fd| Output { fd, stream: Stream::Stderr, rest: Vec::new() }),
            console: ends.console,
            stdin: ends.stdin,
            log,
            log_failed: false,
            subscribers: Subscribers::default(),
        })
    }

    pub(crate) fn known(&self) -> Option<Known> {
        let exit = match &self.phase {
            Phase::Starting { .. } => return None,
            Phase::Running => None,
            Phase::Ended(exit) => Some(*exit),
        };
        let pid = self.pid.as_raw_nonzero().get() as u32;
        Some(Known { container: self.id.clone(), pid, started_at_ns: self.started_at_ns, exit })
    }

    /// Reads what the child says about its start. `None`: nothing new. `Some(Ok)`: its program runs.
    pub(crate) fn poll_start(&mut self) -> Option<Result<(), String>> {
        let Phase::Starting { status, failure, .. } = &mut self.phase else {
            return None;
        };
        match read_failure(status, failure) {
            None => None,
            Some(None) => {
                self.started_at_ns = now_ns();
                Some(Ok(()))
            }
            Some(Some(text)) => Some(Err(text)),
        }
    }

    /// The terminal has come from the child.
    pub(crate) fn take_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&master, true)?;
        self.stdout = Some(Output { fd: master, stream: Stream::Stdout, rest: Vec::new() });
        Ok(())
    }

    /// Takes what is there to read of a stream, up to a share; false once the stream has ended. A terminal ends with EIO, when
    /// the last process has closed it.
    pub(crate) fn read_output(&mut self, stream: Stream) -> bool {
        for _ in 0..READS_PER_WAKE {
            match self.read_once(stream) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// One read; 0 at the end of the stream.
    fn read_once(&mut self, stream: Stream) -> io::Result<usize> {
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(output) = output else { return Ok(0) };
        let mut buffer = [0u8; LINE_MAX];
        let read = rustix::io::read(&output.fd, &mut buffer)?;
        let bytes = &buffer[..read];
        self.subscribers.write(output.stream, bytes);
        if let Some(log) = &mut self.log {
            let written = if output.rest.is_empty() {
                log.write_lines(output.stream, bytes, now_ns(), false).map(|taken| output.rest.extend_from_slice(&bytes[taken..]))
            } else {
                output.rest.extend_from_slice(bytes);
                log.write_lines(output.stream, &output.rest, now_ns(), false).map(|taken| drop(output.rest.drain(..taken)))
            };
            if let Err(error) = written {
                // The container goes on; what it said meanwhile is lost to the log.
                output.rest = Vec::new();
                if !std::mem::replace(&mut self.log_failed, true) {
                    eprintln!("keeper: log of container {}: {error}", self.id);
                }
            }
            if output.rest.is_empty() {
                output.rest = Vec::new();
            }
        }
        Ok(read)
    }

    /// Empties a stream into the log and closes it.
    pub(crate) fn finish_output(&mut self, stream: Stream) {
        while self.read_once(stream).is_ok_and(|read| read > 0) {}
        let output = match stream {
            Stream::Stdout => self.stdout.take(),
            Stream::Stderr => self.stderr.take(),
        };
        if let (Some(output), Some(log)) = (output, &mut self.log)
            && let Err(error) = log.write_lines(stream, &output.rest, now_ns(), true)
        {
            eprintln!("keeper: end of the log of container {}: {error}", self.id);
        }
    }

    /// Its first process was reaped: kills what it left, empties the pipes into the log, and writes the record.
    pub(crate) fn end(&mut self, status: WaitStatus) -> io::Result<Exit> {
        self.kill_rest();
        self.finish_output(Stream::Stdout);
        self.finish_output(Stream::Stderr);
        self.subscribers.close();
        self.stdin = None;
        self.console = None;
        self.log = None;
        let signal = status.terminating_signal();
        let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(-1);
        let exit = Exit { code, signal, oom_killed: self.oom_killed(), finished_at_ns: now_ns() };
        self.phase = Phase::Ended(exit);
        write_whole(&self.directory, EXIT_FILE, &serde_json::to_vec(&exit)?)?;
        Ok(exit)
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        if matches!(self.phase, Phase::Ended(_)) {
            return Ok(());
        }
        // SAFETY: the process is this keeper's child and not reaped yet, so its id is its own.
        if unsafe { libc::kill(self.pid.as_raw_nonzero().get(), signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)?;
        self.kill_rest();
        Ok(())
    }

    /// With a PID namespace of its own, a container ends with its first process. Otherwise the rest must be killed by cgroup.
    fn kill_rest(&self) {
        if let Some(cgroup) = self.start.kill_cgroup.as_ref().filter(|_| !self.start.own_pid)
            && let Err(error) = kill_cgroup(Path::new(cgroup), false)
        {
            eprintln!("keeper: kill what is left of container {}: {error}", self.id);
        }
    }

    fn oom_killed(&self) -> bool {
        let Some(path) = &self.start.oom_file else { return false };
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(FAILURE_MAX as u64).read_to_string(&mut text));
        read.is_ok()
            && text
                .lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
    }

    /// A way to write to its input (and, with a terminal, to resize it).
    pub(crate) fn input(&mut self) -> io::Result<Option<OwnedFd>> {
        if self.start.tty {
            return self.stdout.as_ref().map(|output| output.fd.try_clone()).transpose();
        }
        if self.start.stdin_once {
            // The input ends with the client that has it.
            return Ok(self.stdin.take());
        }
        self.stdin.as_ref().map(OwnedFd::try_clone).transpose()
    }

    pub(crate) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }

    pub(crate) fn tty(&self) -> bool {
        self.start.tty
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Both ends of a container's streams.
struct Ends {
    child: start::Streams,
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    console: Option<OwnedFd>,
}

impl Ends {
    fn make(start: &Start) -> io::Result<Ends> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        if start.tty {
            let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            return Ok(Ends { child: start::Streams::Terminal(theirs), stdin: None, stdout: None, stderr: None, console: Some(ours) });
        }
        let (child_in, stdin) = if start.stdin {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            (read, Some(write))
        } else {
            (fs::File::open("/dev/null")?.into(), None)
        };
        let (stdout, child_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (stderr, child_err) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        for fd in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        Ok(Ends {
            child: start::Streams::Three([child_in, child_out, child_err]),
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
            console: None,
        })
    }
}

/// `None`: the child is still at it. `Some(None)`: the pipe closed, its program runs. `Some(Some)`: it failed with these words.
pub(crate) fn read_failure(status: &OwnedFd, failure: &mut Vec<u8>) -> Option<Option<String>> {
    let mut buffer = [0u8; 512];
    loop {
        match rustix::io::read(status, &mut buffer) {
            Ok(0) if failure.is_empty() => return Some(None),
            Ok(0) => return Some(Some(String::from_utf8_lossy(failure).into_owned())),
            Ok(read) => {
                let room = FAILURE_MAX.saturating_sub(failure.len());
                failure.extend_from_slice(&buffer[..read.min(room)]);
            }
            Err(rustix::io::Errno::AGAIN) => return None,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Some(Some(format!("read how it started: {error}"))),
        }
    }
}

/// SIGKILL to all processes in a cgroup: by cgroup.kill where the kernel has it (v2, 5.14), one by one otherwise. With
/// `until_dead`, it returns when they are dead; a keeper does not wait, its loop reaps them.
pub(crate) fn kill_cgroup(cgroup: &Path, until_dead: bool) -> io::Result<()> {
    let at_once = match fs::write(cgroup.join("cgroup.kill"), "1") {
        Ok(()) => true,
        // It was removed while it was open.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => false,
        Err(error) => return Err(error),
    };
    if at_once && !until_dead {
        return Ok(());
    }
    for _ in 0..KILL_ROUNDS_MAX {
        let text = match fs::read_to_string(cgroup.join("cgroup.procs")) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut any = false;
        for pid in text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
            // Taken first: a descriptor of the process stands for no other.
            let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { continue };
            any |= rustix::process::pidfd_send_signal(&process, Signal::KILL).is_ok();
            if until_dead {
                wait_for_death(&process);
            }
        }
        if !any {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// A process that hangs in the kernel is not waited for longer than this.
fn wait_for_death(process: &OwnedFd) {
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, Timespec};
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = rustix::event::poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], Some(&second));
}

/// The file is there whole or not at all, also after a power cut.
fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, directory.join(name))
}
