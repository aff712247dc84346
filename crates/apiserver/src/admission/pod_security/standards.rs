//! Which checks make up the standards, in each of their versions.

use std::fmt;

use super::checks::{Fault, Pod};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Level> {
        [Level::Privileged, Level::Baseline, Level::Restricted].into_iter().find(|level| level.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// The minor of the version of Kubernetes whose standard it is. One that is not there yet is as the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    /// `latest` or `v1.x`.
    pub(super) fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor.bytes().all(|byte| byte.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(Version::Minor)
    }
}

/// A level as it is in one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.as_str()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// For which levels a check is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Both,
    /// Restricted has a stricter one in its place.
    BaselineOnly,
    Restricted,
}

struct Row<'a> {
    levels: For,
    /// The first minor with it, and the first without.
    from: u32,
    until: u32,
    check: fn(&Pod<'a>) -> Option<Fault>,
    /// Pods for which it is relaxed.
    unless: Option<fn(&Pod<'a>) -> bool>,
}

fn row<'a>(levels: For, from: u32, until: u32, check: fn(&Pod<'a>) -> Option<Fault>) -> Row<'a> {
    Row { levels, from, until, check, unless: None }
}

impl<'a> Row<'a> {
    fn unless(mut self, relaxed: fn(&Pod<'a>) -> bool) -> Row<'a> {
        self.unless = Some(relaxed);
        self
    }

    fn applies(&self, standard: Standard) -> bool {
        let level = match self.levels {
            For::Both => standard.level >= Level::Baseline,
            For::BaselineOnly => standard.level == Level::Baseline,
            For::Restricted => standard.level == Level::Restricted,
        };
        let minor = match standard.version {
            Version::Minor(minor) => minor,
            Version::Latest => NEWEST,
        };
        level && (self.from..self.until).contains(&minor.min(NEWEST))
    }
}

/// The last version that changed anything; later ones are as it is.
const NEWEST: u32 = 35;
const ON: u32 = u32::MAX;

/// Upstream's checks in its order: those of baseline by their names, then those of restricted (policy/checks.go, check_*.go).
fn rows<'a>() -> [Row<'a>; 31] {
    [
        row(For::Both, 0, ON, Pod::apparmor),
        row(For::BaselineOnly, 0, ON, Pod::capabilities),
        row(For::Restricted, 0, 22, Pod::capabilities),
        row(For::Both, 0, ON, Pod::host_namespaces),
        row(For::BaselineOnly, 0, ON, Pod::host_paths),
        row(For::Both, 0, ON, Pod::host_ports),
        row(For::Both, 34, ON, Pod::host_probes),
        row(For::Both, 0, ON, Pod::privileged),
        row(For::Both, 0, 35, Pod::proc_mount),
        row(For::BaselineOnly, 35, ON, Pod::proc_mount).unless(Pod::has_own_users),
        row(For::Both, 0, 31, Pod::selinux_before_1_31),
        row(For::Both, 31, ON, Pod::selinux),
        row(For::Both, 0, 19, Pod::seccomp_annotations),
        row(For::BaselineOnly, 19, ON, Pod::seccomp_off),
        row(For::Both, 0, 27, Pod::sysctls_before_1_27),
        row(For::Both, 27, 29, Pod::sysctls_before_1_29),
        row(For::Both, 29, 32, Pod::sysctls_before_1_32),
        row(For::Both, 32, ON, Pod::sysctls),
        row(For::Both, 0, ON, Pod::windows_host_process),
        row(For::Restricted, 8, 25, Pod::escalation),
        row(For::Restricted, 25, ON, Pod::escalation).unless(Pod::is_for_windows),
        row(For::Restricted, 22, 25, Pod::capabilities_dropped),
        row(For::Restricted, 25, ON, Pod::capabilities_dropped).unless(Pod::is_for_windows),
        row(For::Restricted, 35, ON, Pod::proc_mount),
        row(For::Restricted, 0, ON, Pod::volumes),
        row(For::Restricted, 0, 35, Pod::non_root),
        row(For::Restricted, 35, ON, Pod::non_root).unless(Pod::has_own_users),
        row(For::Restricted, 23, 35, Pod::user),
        row(For::Restricted, 35, ON, Pod::user).unless(Pod::has_own_users),
        row(For::Restricted, 19, 25, Pod::seccomp),
        row(For::Restricted, 25, ON, Pod::seccomp).unless(Pod::is_for_windows),
    ]
}

/// What of the pod the standard does not allow.
pub(super) fn faults(pod: &Pod<'_>, standard: Standard) -> Vec<Fault> {
    let rows = rows().into_iter().filter(|row| row.applies(standard) && !row.unless.is_some_and(|relaxed| relaxed(pod)));
    rows.filter_map(|row| (row.check)(pod)).collect()
}
