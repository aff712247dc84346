//! Control groups, as they are on this host: v2, v1 (also hybrid, with v2 mounted and without controllers), or none.
//!
//! Everything made here stands below one root per cluster (`/knarr-<id>`), in each hierarchy that has a controller we need;
//! nothing outside it is touched. A pod has a parent group with the pod's limits, each container a child of it. What a host cannot
//! do is left out and said once, where the runtime is opened.

mod device;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::spec::container::Resources;

pub(crate) use device::{DeviceRule, Devices, default_rules};
pub(crate) use stats::{read_details, read_stats};

/// Controllers without which a container would not be held or counted. `cpuset` is used only if asked for.
const CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "freezer", "devices", "cpuset"];

/// What this host has.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    kind: Kind,
    /// `/knarr-<id>`, without the leading slash.
    root: PathBuf,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The mount point of the one hierarchy, and the controllers it can hand down.
    V2 {
        mount: PathBuf,
        controllers: Vec<String>,
    },
    /// Controller and mount point, and the hierarchies without controllers that a service manager looks at.
    V1 {
        mounts: BTreeMap<String, PathBuf>,
        trackers: Vec<PathBuf>,
    },
    None,
}

impl Cgroups {
    /// Looks at the mounts. `gaps` gets a line for each thing that this host cannot do.
    pub(crate) fn find(root: &str, gaps: &mut Vec<String>) -> Cgroups {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let kind = find_kind(&mountinfo, &|mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default());
        match &kind {
            Kind::None => gaps.push("no cgroups: containers have no limits, and nothing is counted".to_owned()),
            Kind::V1 { mounts, .. } => {
                for controller in CONTROLLERS.iter().filter(|controller| !mounts.contains_key(**controller)) {
                    gaps.push(format!("no cgroup controller {controller}"));
                }
            }
            Kind::V2 { controllers, .. } => {
                for controller in ["cpu", "memory", "pids"].iter().filter(|wanted| !controllers.iter().any(|known| known == *wanted)) {
                    gaps.push(format!("no cgroup controller {controller}"));
                }
            }
        }
        Cgroups { kind, root: PathBuf::from(root.trim_matches('/')) }
    }

    pub(crate) fn root(&self) -> Group<'_> {
        Group { cgroups: self, path: self.root.clone() }
    }

    /// `below` has been checked by the caller: relative, without `..`.
    pub(crate) fn group(&self, below: &Path) -> Group<'_> {
        Group { cgroups: self, path: self.root.join(below) }
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.kind, Kind::V2 { .. })
    }

    pub(crate) fn exist(&self) -> bool {
        !matches!(self.kind, Kind::None)
    }

    fn mounts(&self) -> Vec<&PathBuf> {
        match &self.kind {
            Kind::V2 { mount, .. } => vec![mount],
            Kind::V1 { mounts, .. } => {
                let mut list: Vec<&PathBuf> = mounts.values().collect();
                // cpu and cpuacct are often one hierarchy.
                list.sort();
                list.dedup();
                list
            }
            Kind::None => Vec::new(),
        }
    }

    /// `cgroup.procs` files that take a process out of the node process's groups, service manager's included.
    pub(crate) fn make_keepers_group(&self) -> Result<Vec<PathBuf>> {
        let group = self.group(Path::new("keepers"));
        group.make()?;
        let mut procs = group.procs();
        if let Kind::V1 { trackers, .. } = &self.kind {
            for mount in trackers {
                let directory = mount.join(&group.path);
                // Best effort: on a host without a service manager nobody reads these.
                if fs::create_dir_all(&directory).is_ok() {
                    procs.push(directory.join("cgroup.procs"));
                }
            }
        }
        Ok(procs)
    }

    /// Removes everything below the root, and the root. What still has processes is an error.
    pub(crate) fn remove_all(&self) -> Result<()> {
        self.root().remove()?;
        if let Kind::V1 { trackers, .. } = &self.kind {
            for mount in trackers {
                remove_tree(&mount.join(&self.root))?;
            }
        }
        Ok(())
    }
}

fn find_kind(mountinfo: &str, controllers_of: &dyn Fn(&Path) -> String) -> Kind {
    let mut v1 = BTreeMap::new();
    let mut trackers = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        // proc(5): 36 35 98:0 /root /mount-point options - type source super-options
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount) = left.split(' ').nth(4).map(|path| PathBuf::from(unescape(path))) else {
            continue;
        };
        let mut right = right.split(' ');
        match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                let mut any = false;
                for controller in options.split(',').filter(|option| CONTROLLERS.contains(option)) {
                    any = true;
                    v1.entry(controller.to_owned()).or_insert_with(|| mount.clone());
                }
                if !any && options.split(',').any(|option| option.starts_with("name=")) {
                    trackers.push(mount);
                }
            }
            (Some("cgroup2"), _) => v2 = Some(mount),
            _ => {}
        }
    }
    match v2 {
        Some(mount) if v1.is_empty() => {
            let controllers = controllers_of(&mount).split_whitespace().map(str::to_owned).collect();
            Kind::V2 { mount, controllers }
        }
        _ if v1.is_empty() => Kind::None,
        unified => {
            trackers.extend(unified);
            Kind::V1 { mounts: v1, trackers }
        }
    }
}

/// Mount points have spaces and the like as octal escapes (proc(5)).
pub(crate) fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// One group, in all hierarchies.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    cgroups: &'a Cgroups,
    path: PathBuf,
}

impl Group<'_> {
    /// Makes it and its parents, with controllers handed down. Idempotent.
    pub(crate) fn make(&self) -> Result<()> {
        match &self.cgroups.kind {
            Kind::None => Ok(()),
            Kind::V1 { mounts, .. } => {
                for mount in self.cgroups.mounts() {
                    let directory = mount.join(&self.path);
                    fs::create_dir_all(&directory).map_err(|source| Error::Path { step: "make cgroup", path: directory, source })?;
                }
                if let Some(mount) = mounts.get("cpuset") {
                    inherit_cpuset(mount, &self.path)?;
                }
                Ok(())
            }
            Kind::V2 { mount, controllers } => {
                let mut directory = mount.clone();
                let enable: String = ["cpu", "memory", "pids", "cpuset", "io"]
                    .iter()
                    .filter(|wanted| controllers.iter().any(|known| known == *wanted))
                    .map(|controller| format!("+{controller} "))
                    .collect();
                for part in self.path.iter() {
                    let control = directory.join("cgroup.subtree_control");
                    fs::write(&control, enable.trim()).map_err(|source| Error::Path {
                        step: "hand down controllers in",
                        path: control,
                        source,
                    })?;
                    directory.push(part);
                    match fs::create_dir(&directory) {
                        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                            return Err(Error::Path { step: "make cgroup", path: directory, source });
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// Its directory in each hierarchy.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.cgroups.mounts().into_iter().map(|mount| mount.join(&self.path)).collect()
    }

    /// The files to write a process id to.
    pub(crate) fn procs(&self) -> Vec<PathBuf> {
        self.directories().into_iter().map(|directory| directory.join("cgroup.procs")).collect()
    }

    /// Directory in the hierarchy of one controller.
    pub(crate) fn directory(&self, controller: &str) -> Option<PathBuf> {
        match &self.cgroups.kind {
            Kind::V2 { mount, .. } => Some(mount.join(&self.path)),
            Kind::V1 { mounts, .. } => mounts.get(controller).map(|mount| mount.join(&self.path)),
            Kind::None => None,
        }
    }

    /// Name of a v1 hierarchy as containers expect it below /sys/fs/cgroup, and the group's directory there.
    pub(crate) fn v1_views(&self) -> Vec<(String, PathBuf)> {
        let Kind::V1 { .. } = &self.cgroups.kind else { return Vec::new() };
        let named = |mount: &PathBuf| Some((mount.file_name()?.to_str()?.to_owned(), mount.join(&self.path)));
        self.cgroups.mounts().into_iter().filter_map(named).collect()
    }

    /// A file whose line `oom_kill <n>` counts processes killed for want of memory.
    pub(crate) fn oom_file(&self) -> Option<PathBuf> {
        let name = if self.cgroups.is_v2() { "memory.events" } else { "memory.oom_control" };
        Some(self.directory("memory")?.join(name))
    }

    /// A directory whose processes are all those of the group.
    pub(crate) fn kill_directory(&self) -> Option<PathBuf> {
        ["pids", "freezer", "memory", "cpu"].iter().find_map(|controller| self.directory(controller))
    }

    pub(crate) fn limit(&self, resources: &Resources) -> Result<()> {
        for (controller, file, value) in plan_limits(resources, self.cgroups.is_v2()) {
            // A controller that the host does not have was said when the runtime was opened.
            let Some(directory) = self.directory(controller).filter(|directory| directory.is_dir()) else {
                continue;
            };
            let path = directory.join(&file);
            match write_limit(&path, &value) {
                // v1: memory may not exceed memory and swap together, so that limit grows first.
                Err(Error::Path { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) && file == "memory.limit_in_bytes" => {
                    write_limit(&directory.join("memory.memsw.limit_in_bytes"), &value)?;
                    write_limit(&path, &value)?;
                }
                written => written?,
            }
        }
        Ok(())
    }

    pub(crate) fn allow_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        match &self.cgroups.kind {
            Kind::V1 { mounts, .. } => match mounts.get("devices") {
                Some(mount) => device::limit_v1(&mount.join(&self.path), rules),
                None => Ok(()),
            },
            Kind::V2 { mount, .. } => device::limit_v2(&mount.join(&self.path), rules),
            Kind::None => Ok(()),
        }
    }

    /// Every process in it and below it; returns when they are dead.
    pub(crate) fn kill(&self) -> Result<()> {
        let Some(directory) = self.kill_directory() else { return Ok(()) };
        for directory in tree(&directory) {
            crate::keeper::kill_cgroup(&directory, true).map_err(|source| Error::Path {
                step: "kill processes in",
                path: directory,
                source,
            })?;
        }
        Ok(())
    }

    /// Removes it and all below, in each hierarchy. Idempotent. A group whose last process is just dying is busy for a moment:
    /// see `remove_tree`.
    pub(crate) fn remove(&self) -> Result<()> {
        self.directories().iter().try_for_each(|directory| remove_tree(directory))
    }

    /// Names of the groups below.
    pub(crate) fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .directories()
            .iter()
            .flat_map(|directory| subdirectories(directory))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Controller, file and value for each limit. v2's numbers are not v1's: shares become weights as in KEP-2254.
fn plan_limits(resources: &Resources, v2: bool) -> Vec<(&'static str, String, String)> {
    let mut plan: Vec<(&'static str, String, String)> = Vec::new();
    let mut add = |controller, file: &str, value: String| plan.push((controller, file.to_owned(), value));
    let period = resources.cpu_period_us.unwrap_or(100_000);
    if v2 {
        if let Some(shares) = resources.cpu_shares.filter(|&shares| shares > 0) {
            add("cpu", "cpu.weight", shares_to_weight(shares).to_string());
        }
        if let Some(quota) = resources.cpu_quota_us {
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            add("cpu", "cpu.max", format!("{quota} {period}"));
        }
        if let Some(bytes) = resources.memory_bytes {
            add("memory", "memory.max", bytes.to_string());
            let swap = resources.memory_swap_bytes.map_or(0, |both| both.saturating_sub(bytes));
            add("memory", "memory.swap.max", swap.to_string());
        }
        for (file, value) in &resources.unified {
            add("memory", file, value.clone());
        }
    } else {
        if let Some(shares) = resources.cpu_shares {
            add("cpu", "cpu.shares", shares.to_string());
        }
        if let Some(quota) = resources.cpu_quota_us {
            add("cpu", "cpu.cfs_period_us", period.to_string());
            add("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        if let Some(bytes) = resources.memory_bytes {
            add("memory", "memory.limit_in_bytes", bytes.to_string());
            // Refused without swap accounting: then there is nothing to limit.
            add("memory", "memory.memsw.limit_in_bytes", resources.memory_swap_bytes.unwrap_or(bytes).to_string());
        }
    }
    if let Some(pids) = resources.pids {
        add("pids", "pids.max", if pids == 0 { "max".to_owned() } else { pids.to_string() });
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        add("cpuset", "cpuset.cpus", cpus.clone());
    }
    if let Some(mems) = &resources.cpuset_mems {
        add("cpuset", "cpuset.mems", mems.clone());
    }
    plan
}

/// Linear from [2, 262144] to [1, 10000] (KEP-2254, "Phase 1: Convert from cgroups v1 settings to v2").
fn shares_to_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn write_limit(path: &Path, value: &str) -> Result<()> {
    match fs::write(path, value) {
        Ok(()) => Ok(()),
        // The files of swap accounting are there only if the kernel keeps it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.to_string_lossy().contains("sw") => Ok(()),
        Err(source) => Err(Error::Path { step: "set limit", path: path.to_owned(), source }),
    }
}

/// A new v1 cpuset is empty and takes no process until it has processors and memory nodes.
fn inherit_cpuset(mount: &Path, group: &Path) -> Result<()> {
    let mut directory = mount.to_owned();
    for part in group {
        let parent = directory.clone();
        directory.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = directory.join(file);
            let failed = |source| Error::Path { step: "inherit", path: path.clone(), source };
            if fs::read_to_string(&path).map_err(failed)?.trim().is_empty() {
                let value = fs::read_to_string(parent.join(file)).map_err(failed)?;
                fs::write(&path, value.trim()).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// The directory and all below, deepest first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = subdirectories(directory).iter().flat_map(|below| tree(below)).collect();
    list.push(directory.to_owned());
    list
}

/// Attempts to remove a group whose processes are dead but not gone from it yet. The kernel takes them out when it frees them,
/// shortly after their parent was told, and offers nothing to wait for on v1. On a machine that is short of CPU, shortly is more than 0.2 s.
const REMOVE_ATTEMPTS_MAX: u32 = 5_000;
const REMOVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);

fn remove_tree(directory: &Path) -> Result<()> {
    let mut attempts = 0;
    // Groups may be made below while this goes on.
    while let Err((path, source)) = tree(directory).into_iter().try_for_each(remove_group) {
        if source.raw_os_error() != Some(libc::EBUSY) || attempts == REMOVE_ATTEMPTS_MAX {
            return Err(Error::Path { step: "remove cgroup", path, source });
        }
        attempts += 1;
        std::thread::sleep(REMOVE_PAUSE);
    }
    Ok(())
}

fn remove_group(directory: PathBuf) -> std::result::Result<(), (PathBuf, io::Error)> {
    match fs::remove_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((directory, error)),
        _ => Ok(()),
    }
}
