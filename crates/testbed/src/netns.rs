//! A network namespace for a test: its links, addresses, ports and nf_tables are its own and go with it.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

/// Runs `test` on a thread of its own in a fresh network namespace with the loopback up. Threads that it starts are in it too.
/// Panics of `test` are passed on.
pub fn run<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        enter_new()?;
        Ok(test())
    })?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Addresses at the two ends of [`Netns::neighbour`]'s cable (RFC 2544, benchmarking: no real network has them).
pub const HERE: &str = "198.18.0.1";
pub const THERE: &str = "198.18.0.2";

/// A network namespace that can be entered by any thread; it is gone when this and everything in it is.
pub struct Netns(OwnedFd);

impl Netns {
    pub fn new() -> io::Result<Netns> {
        let thread = std::thread::spawn(|| {
            enter_new()?;
            Ok(Netns(File::open("/proc/thread-self/ns/net")?.into()))
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A second host: a namespace joined to the calling thread's by a cable. Here the cable is `uplink`, has [`HERE`] and leads to everywhere;
    /// there it is `eth0`, has [`THERE`] and leads no further.
    pub fn neighbour() -> io::Result<Netns> {
        let other = Netns::new()?;
        let there = other.path();
        ip(&["link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", &there])?;
        ip(&["address", "add", &format!("{HERE}/24"), "dev", "uplink"])?;
        ip(&["link", "set", "uplink", "up"])?;
        ip(&["route", "add", "default", "via", THERE])?;
        other.run(|| {
            ip(&["address", "add", &format!("{THERE}/24"), "dev", "eth0"])?;
            ip(&["link", "set", "eth0", "up"])
        })?;
        Ok(other)
    }

    /// Runs `job` on a thread of its own inside.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                job()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into it.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes a descriptor that is open and a flag; it changes this thread only.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where other calls can open it by path, while this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// iproute2 in the calling thread's namespace.
fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    let error = || io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)));
    if output.status.success() { Ok(()) } else { Err(error()) }
}

/// Moves the calling thread into a fresh network namespace and sets its loopback up.
pub fn enter_new() -> io::Result<()> {
    // SAFETY: unshare with CLONE_NEWNET changes this thread only and takes no pointers.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Any socket of the namespace can carry the request.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero ifreq is valid: a name without bytes and flags without bits.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_namespace_has_its_own_ports() {
        crate::require_root!();
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = here.local_addr().unwrap().port();
        super::run(move || {
            let there = TcpListener::bind(("127.0.0.1", port)).expect("the port is free in here");
            TcpStream::connect(there.local_addr().unwrap()).expect("the loopback is up");
        })
        .unwrap();
    }

    #[test]
    fn a_neighbour_is_reached_by_cable() {
        crate::require_root!();
        super::run(|| {
            let other = super::Netns::neighbour().unwrap();
            let listener = other.run(|| TcpListener::bind((super::THERE, 7))).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).expect("the neighbour is reached");
            assert_eq!(client.local_addr().unwrap().ip().to_string(), super::HERE);
        })
        .unwrap();
    }
}
