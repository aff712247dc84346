//! Finding, starting and ending the DNS process of a node.
//!
//! It lives as long as the lock on `dns.lock` is held: the lock is on the open file, which it was started with and keeps. So no instant exists at
//! which one is alive that the next start does not find, and no number of a process is trusted that may have come to mean another.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::wire::{Line, Order, Program, Report};
use super::{DnsConfig, DnsError, socket_path};

/// The word that the binary is started with; [`keeper_main`](super::keeper_main) takes the argument that follows it.
pub const KEEPER_VERB: &str = "dns-keeper";

/// A process that lives greets at once, also on a busy machine. One that is held up (stopped, or in the kernel) is replaced.
const HELLO_TIME_MAX: Duration = Duration::from_secs(20);

/// Where the DNS process of a node lives, and what it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its socket, lock and log lie here.
    pub run_dir: PathBuf,
    /// Started as `<program> dns-keeper <run_dir>`.
    pub program: PathBuf,
}

impl Place {
    /// A line to a process that serves as `config` says: the one that lives, or a new one.
    pub(super) async fn find_or_start(&self, config: &DnsConfig) -> Result<Line, DnsError> {
        let failed = |source| DnsError::Process { run_dir: self.run_dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.run_dir).map_err(failed)?;
        if let Some(line) = self.adopt(config).await {
            return Ok(line);
        }
        // Of another program or with other addresses, or silent.
        let run_dir = self.run_dir.clone();
        tokio::task::spawn_blocking(move || end(&run_dir)).await.map_err(|error| failed(error.into()))?.map_err(failed)?;
        let mut line = Line::new(self.start().map_err(failed)?);
        let gone = || failed(io::Error::new(io::ErrorKind::BrokenPipe, "it ended at once; its log is dns.log"));
        let Some(Report::Hello { .. }) = line.receive().await.map_err(failed)? else { return Err(gone()) };
        line.send(&Order::Serve(config.clone())).await.map_err(failed)?;
        match line.receive().await.map_err(failed)? {
            Some(Report::Serving) => Ok(line),
            Some(Report::Refused { protocol, address, errno }) => {
                Err(DnsError::Bind { protocol, address, source: io::Error::from_raw_os_error(errno) })
            }
            Some(Report::Hello { .. }) | None => Err(gone()),
        }
    }

    async fn adopt(&self, config: &DnsConfig) -> Option<Line> {
        let mut line = Line::new(UnixStream::connect(socket_path(&self.run_dir)).await.ok()?);
        let hello = tokio::time::timeout(HELLO_TIME_MAX, line.receive::<Report>()).await;
        let Ok(Ok(Some(Report::Hello { program, serving }))) = hello else { return None };
        (serving.as_ref() == Some(config) && Program::at(&self.program).is_ok_and(|own| own == program)).then_some(line)
    }

    fn start(&self) -> io::Result<UnixStream> {
        let lock = open_lock(&self.run_dir)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        lock.set_len(0)?;
        let log = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.run_dir.join("dns.log"))?;
        let (own, other) = StdUnixStream::pair()?;
        own.set_nonblocking(true)?;
        let mut command = Command::new(&self.program);
        command.arg(KEEPER_VERB).arg(&self.run_dir).env_clear().current_dir("/");
        // It outlives this process as a rule; where it does not, tokio collects it.
        command.stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::from(lock)).stderr(Stdio::from(log)).spawn()?;
        UnixStream::from_std(own)
    }
}

/// Ends the DNS process of a node, if there is one. Blocks until it is gone. May be repeated.
pub fn end(run_dir: &Path) -> io::Result<()> {
    let lock = match open_lock(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
        // It writes its number before anything else.
        let pid = fs::read_to_string(run_dir.join(LOCK))?.trim().parse().ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            std::thread::yield_now();
            continue;
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                match pidfd_send_signal(&process, Signal::KILL) {
                    // It ended by itself, and was collected.
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(error.into()),
                }
                poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
            }
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

const LOCK: &str = "dns.lock";

fn open_lock(run_dir: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(run_dir.join(LOCK))
}
