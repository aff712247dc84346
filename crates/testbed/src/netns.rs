//! A network namespace for a test: its links, addresses, ports and nf_tables are its own and go with it.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};

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
}
