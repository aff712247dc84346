//! Kernel settings, written as files beneath /proc/sys. They are those of the calling thread's network namespace.

use std::path::PathBuf;

use super::LinkError;

/// Writes a setting such as `net/ipv4/ip_forward`, unless it has the value already: /proc/sys may be read-only where the setting
/// is right.
pub(crate) fn write(name: &str, value: &str) -> Result<(), LinkError> {
    let path = PathBuf::from("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| LinkError::Sysctl { path, source })
}
