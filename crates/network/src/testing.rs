//! For tests: hosts as network namespaces, and real connections between them.
//!
//! A [`Host`] is a thread of its own network namespace that runs what it is given. Everything vanishes with it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than anything here takes; a test that runs into it has failed.
const PATIENCE: Duration = Duration::from_secs(3);

/// Prints why and returns false if this process may not make network namespaces.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED {test}: needs root");
    }
    root
}

type Work = Box<dyn FnOnce() + Send>;

pub(crate) struct Host {
    work: mpsc::Sender<Work>,
    pub(crate) netns: OwnedFd,
}

impl Host {
    pub(crate) fn new() -> Host {
        let (work, jobs) = mpsc::channel::<Work>();
        let (ready, made) = mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes, and it shares none of its file descriptors' meaning.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.expect("a new network namespace");
            let netns = std::fs::File::open("/proc/thread-self/ns/net").expect("the thread's namespace");
            ready.send(OwnedFd::from(netns)).expect("the test waits");
            jobs.iter().for_each(|job| job());
        });
        Host { work, netns: made.recv().expect("the thread lives") }
    }

    /// Runs `job` in this host's network namespace.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.work.send(Box::new(move || drop(send.send(job())))).expect("the host's thread lives");
        receive.recv().expect("the job ends without a panic")
    }

    /// A path that names the namespace, as a kubelet would pass it.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.netns.as_fd().as_raw_fd()).into()
    }

    /// Runs a program with its output; only for comparing with what others see.
    pub(crate) fn command(&self, line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        self.run(move || {
            let output = std::process::Command::new(&words[0]).args(&words[1..]).output().expect("the program starts");
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        })
    }

    /// Answers every TCP connection and UDP datagram on `port` with `name` and the client's address.
    pub(crate) fn serve(&self, port: u16, name: &'static str) {
        self.run(move || {
            let tcp = TcpListener::bind(("0.0.0.0", port)).expect("a TCP port");
            let udp = UdpSocket::bind(("0.0.0.0", port)).expect("a UDP port");
            std::thread::spawn(move || {
                for mut stream in tcp.incoming().flatten() {
                    let client = stream.peer_addr().expect("connected");
                    // A client that has gone is the test's own matter.
                    let _ = stream.write_all(format!("{name} {}", client.ip()).as_bytes());
                }
            });
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
                }
            });
        });
    }

    /// The answer to a TCP connection to `to`.
    pub(crate) fn tcp(&self, to: &str) -> Result<String, io::ErrorKind> {
        let to: SocketAddr = to.parse().expect("an address");
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.kind())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|error| error.kind())?;
            Ok(answer)
        })
    }

    /// The answer to a datagram to `to`, from a socket that stays bound to `port` if that is not zero.
    pub(crate) fn udp(&self, port: u16, to: &str) -> Result<String, io::ErrorKind> {
        let to: SocketAddr = to.parse().expect("an address");
        self.run(move || {
            let ask = || -> io::Result<String> {
                let socket = UdpSocket::bind(("0.0.0.0", port))?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(b"?")?;
                let mut buffer = [0; 64];
                let received = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..received]).into_owned())
            };
            ask().map_err(|error| error.kind())
        })
    }
}
