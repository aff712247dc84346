//! Who a container runs as: numbers, or names looked up in the root file system's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use super::error::ImageError;

/// The identity that a user string stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups that `/etc/group` gives the user, without `gid`.
    pub groups: Vec<u32>,
    /// `HOME`; `/` where nothing is known.
    pub home: String,
}

/// Resolves an image's user string ("", "1000", "nginx", "1000:1000", "nginx:adm") in the file system at `rootfs`.
pub fn resolve_user(_rootfs: &Path, _user: &str) -> Result<ResolvedUser, ImageError> {
    todo!()
}
