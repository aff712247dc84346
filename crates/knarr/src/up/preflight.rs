//! What this machine must have, looked at before anything is touched.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
};

use crate::{config::Config, report::Failure};

/// Linux 5.13: the oldest kernel with everything that the runtime uses (mount_setattr for read-only trees, openat2, pidfd, close_range).
const KERNEL_MIN: (u32, u32) = (5, 13);

/// Namespaces of a pod, as files of this process, with the kernel option that brings them.
const NAMESPACES: &[(&str, &str)] =
    &[("net", "CONFIG_NET_NS"), ("pid", "CONFIG_PID_NS"), ("ipc", "CONFIG_IPC_NS"), ("uts", "CONFIG_UTS_NS"), ("mnt", "CONFIG_NAMESPACES")];

pub(super) fn machine() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Machine("containers need root: run `sudo knarr up`".to_owned()));
    }
    kernel(&rustix::system::uname().release().to_string_lossy())?;
    for (name, option) in NAMESPACES {
        if !Path::new("/proc/self/ns").join(name).exists() {
            return Err(Failure::Machine(format!("the kernel has no {name} namespaces; boot one with {option}")));
        }
    }
    Ok(())
}

/// Whether the API server will be able to listen: better said now than after half a start.
pub(super) fn ports(config: &Config) -> Result<(), Failure> {
    config.listen.iter().try_for_each(port)
}

fn kernel(release: &str) -> Result<(), Failure> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= KERNEL_MIN {
        return Ok(());
    }
    Err(Failure::Machine(format!("the kernel is {release}; Knarr needs {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1)))
}

fn port(address: &SocketAddr) -> Result<(), Failure> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Failure::Machine(format!(
            "{address} is taken by another program (`ss -ltnp sport = :{}` shows it); choose another with --listen",
            address.port()
        ))),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(Failure::Machine(format!("{address} is not an address of this machine; choose another with --listen")))
        }
        Err(error) => Err(Failure::Machine(format!("listen on {address}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named() {
        assert!(kernel("6.18.0-1-amd64").is_ok());
        assert!(kernel("5.13").is_ok());
        assert!(kernel("5.10.0-33-amd64").unwrap_err().to_string().contains("needs 5.13 or newer"));
    }

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let message = port(&taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(message.contains("--listen"), "{message}");
    }
}
