//! Linux capabilities by name and bit.

use super::container::Capabilities;
use crate::error::{Error, Result};

/// In the order of their numbers (linux/capability.h).
const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE \
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT \
    SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG \
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// What a container has unless it says otherwise: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP (containerd pkg/oci/spec.go, defaultUnixCaps).
pub(crate) const DEFAULT: u64 =
    1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 13 | 1 << 18 | 1 << 27 | 1 << 29 | 1 << 31;

/// Number of a capability, by its name without `CAP_`.
pub(crate) fn bit(name: &str) -> Option<u32> {
    NAMES.split_whitespace().position(|known| known == name).map(|at| at as u32)
}

/// The container's set: `ALL` first, then single names, what is dropped last (containerd, internal/cri/server, WithCapabilities). Nothing
/// that the node itself lacks can be given.
pub(crate) fn resolve(changes: &Capabilities, privileged: bool, node: u64) -> Result<u64> {
    if privileged {
        return Ok(node);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = DEFAULT;
    if changes.add.iter().any(is_all) {
        set = node;
    }
    if changes.drop.iter().any(is_all) {
        set = 0;
    }
    for name in changes.add.iter().filter(|name| !is_all(name)) {
        set |= 1 << known(name)?;
    }
    for name in changes.drop.iter().filter(|name| !is_all(name)) {
        set &= !(1 << known(name)?);
    }
    Ok(set & node)
}

fn known(name: &str) -> Result<u32> {
    let upper = name.to_ascii_uppercase();
    bit(upper.strip_prefix("CAP_").unwrap_or(&upper))
        .ok_or_else(|| Error::Invalid { field: "capabilities".to_owned(), reason: format!("unknown capability {name:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_follow_the_order_all_add_drop() {
        let check = |add: &[&str], drop: &[&str], expected: u64| {
            let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let changes = Capabilities { add: list(add), drop: list(drop) };
            assert_eq!(resolve(&changes, false, u64::MAX).expect("known names"), expected, "{changes:?}");
        };
        check(&[], &[], DEFAULT);
        check(&["NET_ADMIN"], &[], DEFAULT | 1 << 12);
        check(&["CAP_NET_ADMIN"], &["ALL"], 1 << 12);
        check(&["ALL"], &["CAP_SYS_ADMIN"], !(1 << 21));
        check(&["net_raw"], &["NET_RAW"], DEFAULT & !(1 << 13));
    }

    #[test]
    fn a_node_gives_no_more_than_it_has_and_names_must_exist() {
        let changes = Capabilities { add: vec!["SYS_RESOURCE".to_owned()], drop: Vec::new() };
        assert_eq!(resolve(&changes, false, DEFAULT).expect("known"), DEFAULT);
        assert_eq!(resolve(&changes, true, 5).expect("known"), 5);
        let wrong = Capabilities { add: vec!["FLY".to_owned()], drop: Vec::new() };
        assert_eq!(resolve(&wrong, false, u64::MAX).expect_err("unknown").to_string(), "capabilities: unknown capability \"FLY\"");
    }
}
