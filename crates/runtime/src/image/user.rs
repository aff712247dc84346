//! Who a container runs as: numbers, or names looked up in the root file system's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's, so they are untrusted: opened beneath the root, plain files only, of bounded size
//! (CVE-2026-47262). Numbers above 2^31-1 are refused, and only decimal digits are a number, so that no user string
//! becomes root by overflow or notation (CVE-2024-40635, CVE-2026-46680).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::content::at;
use super::error::ImageError;

/// Bytes of `/etc/passwd` or `/etc/group`: some 20,000 entries.
const USER_FILE_BYTES_MAX: u64 = 1 << 20;

/// Largest user or group id: what a signed 32-bit id can hold, as runc and containerd have it.
const ID_MAX: u32 = i32::MAX as u32;

/// The identity that a user string stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups that `/etc/group` gives the user, without `gid`, in ascending order.
    pub groups: Vec<u32>,
    /// `HOME`; `/` where nothing is known.
    pub home: String,
}

/// Resolves an image's user string ("", "1000", "nginx", "1000:1000", "nginx:adm") in the file system at `rootfs`.
pub fn resolve_user(rootfs: &Path, user: &str) -> Result<ResolvedUser, ImageError> {
    let passwd = user_file(rootfs, "etc/passwd")?;
    let group = user_file(rootfs, "etc/group")?;
    resolve(&passwd, &group, user).map_err(|reason| ImageError::User { user: user.to_owned(), reason })
}

/// An absent file is an empty one: many images have neither.
fn user_file(rootfs: &Path, name: &'static str) -> Result<String, ImageError> {
    let path = rootfs.join(name);
    let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| at("open root file system", rootfs)(error.into()))?;
    // NONBLOCK: a FIFO in its place must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(at("open", &path)(error.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| at("look at", &path)(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(at("read", &path)(io::Error::new(io::ErrorKind::InvalidData, "it is not a plain file")));
    }
    let mut bytes = Vec::new();
    file.take(USER_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at("read", &path))?;
    if bytes.len() as u64 > USER_FILE_BYTES_MAX {
        return Err(ImageError::TooLarge { what: path.display().to_string(), bytes: stat.st_size as u64, max: USER_FILE_BYTES_MAX });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:uid:gid:comment:home:shell`
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

/// `name:password:gid:member,member`
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = number(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= ID_MAX)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<ResolvedUser, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let (uid, account) = if is_digits(user) {
        let uid = number(user).ok_or("the user id is larger than 2147483647")?;
        (uid, accounts(passwd).find(|account| account.uid == uid))
    } else {
        let account = accounts(passwd).find(|account| account.name == user).ok_or("the image's /etc/passwd has no such user")?;
        (account.uid, Some(account))
    };
    let gid = match wanted_group {
        None => account.as_ref().map_or(0, |account| account.gid),
        Some(wanted) if is_digits(wanted) => number(wanted).ok_or("the group id is larger than 2147483647")?,
        Some(wanted) => groups(group).find(|(name, ..)| *name == wanted).ok_or("the image's /etc/group has no such group")?.1,
    };
    let name = account.as_ref().map(|account| account.name);
    let mut more: Vec<u32> = groups(group)
        .filter(|(_, _, members)| name.is_some_and(|name| members.split(',').any(|member| member == name)))
        .map(|(_, gid, _)| gid)
        .filter(|other| *other != gid)
        .collect();
    more.sort_unstable();
    more.dedup();
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/')).unwrap_or("/");
    Ok(ResolvedUser { uid, gid, groups: more, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnginx:x:101:102:nginx:/nonexistent:/bin/false\nbig:x:4294967296:0::/:\nhex:x:0x0:0::/:\nbroken\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:nginx,other\nwheel:x:10:root\nnginx:x:102:\n";

    #[track_caller]
    fn check(user: &str, expected: &str) {
        let found = match resolve(PASSWD, GROUP, user) {
            Ok(user) => format!("{}:{} {:?} {}", user.uid, user.gid, user.groups, user.home),
            Err(reason) => reason,
        };
        assert_eq!(found, expected, "{user:?}");
    }

    #[test]
    fn users_by_name_and_number() {
        check("", "0:0 [10] /root");
        check("nginx", "101:102 [4] /nonexistent");
        check("101", "101:102 [4] /nonexistent");
        check("nginx:adm", "101:4 [] /nonexistent");
        check("1000", "1000:0 [] /");
        check("1000:1000", "1000:1000 [] /");
        check("1000:adm", "1000:4 [] /");
        check(":adm", "0:4 [10] /root");
        check("nginx:", "101:102 [4] /nonexistent");
    }

    #[test]
    fn nothing_becomes_root_by_notation() {
        check("4294967296", "the user id is larger than 2147483647");
        check("2147483648", "the user id is larger than 2147483647");
        check("0:4294967296", "the group id is larger than 2147483647");
        check("0x0", "the image's /etc/passwd has no such user");
        check("+0", "the image's /etc/passwd has no such user");
        check("-1", "the image's /etc/passwd has no such user");
        check("big", "the image's /etc/passwd has no such user");
        check("hex", "the image's /etc/passwd has no such user");
        check("nobody", "the image's /etc/passwd has no such user");
        check("nginx:nope", "the image's /etc/group has no such group");
    }

    #[test]
    fn user_files_are_read_beneath_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(outer.path().join("passwd"), PASSWD).unwrap();
        std::os::unix::fs::symlink("../../passwd", root.join("etc/passwd")).unwrap();
        assert!(resolve_user(&root, "nginx").is_err(), "the link must not leave the root");
        std::fs::write(root.join("passwd"), "nginx:x:7:7::/:\n").unwrap();
        assert_eq!(resolve_user(&root, "nginx").unwrap().uid, 7);
    }

    #[test]
    fn a_huge_or_odd_user_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::File::create(etc.join("group")).unwrap().set_len(USER_FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(resolve_user(root.path(), "1"), Err(ImageError::TooLarge { .. })));
        std::fs::remove_file(etc.join("group")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, etc.join("group"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        assert!(resolve_user(root.path(), "1").is_err());
    }
}
