//! Makes a link ready to send.
//!
//! The first end of a veth pair to be set up has no carrier until the other is up, and the kernel then makes it ready from a work
//! queue, some time later; until then it drops what is sent, and a pod's first DNS question would be answered after the
//! client's timeout. Asking for the link's state does that work at once (linkwatch_sync_dev in ethtool_op_get_link).

use std::io;
use std::os::fd::AsRawFd;

use super::LinkError;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GLINK: u32 = 0xa;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Returns whether the link `name` of the calling thread's namespace has a carrier, which is then in effect.
pub(crate) fn settle(name: &str) -> Result<bool, LinkError> {
    let failed = |source| LinkError::Refused { action: "ask for the carrier of", link: name.to_owned(), detail: None, source };
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .map_err(|errno| failed(errno.into()))?;
    let mut value = EthtoolValue { command: ETHTOOL_GLINK, data: 0 };
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(LinkError::Missing(name.to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request holds a name that ends with a zero and a pointer to `value`, which lives until the call returns and has
    // the layout that ETHTOOL_GLINK reads and writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(value.data != 0) }
}
