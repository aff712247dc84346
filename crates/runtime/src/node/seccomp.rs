//! Seccomp filters: from a profile to the program that the kernel runs.
//!
//! Compiled in the node process, once for each combination that occurs, and left as a file beside the container: the keeper and
//! its children only load bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::spec::capability;
use crate::spec::container::Seccomp;

const DEFAULT_PROFILE: &str = include_str!("seccomp-default.txt");

/// Bytes of a profile of the user's; the largest known has some 20 KB.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// The compiled default for each set of capabilities that makes a difference.
#[derive(Default)]
pub(crate) struct Filters {
    defaults: Mutex<HashMap<u64, Arc<[u8]>>>,
}

impl Filters {
    /// The program for a container with these capabilities; `None`: unconfined.
    pub(crate) fn program(&self, seccomp: &Seccomp, capabilities: u64) -> Result<Option<Arc<[u8]>>> {
        match seccomp {
            Seccomp::Unconfined => Ok(None),
            Seccomp::Default => {
                if let Some(program) = self.defaults.lock().get(&capabilities) {
                    return Ok(Some(Arc::clone(program)));
                }
                let program = compile_default(capabilities).map_err(|reason| invalid("the default profile", reason))?;
                self.defaults.lock().insert(capabilities, Arc::clone(&program));
                Ok(Some(program))
            }
            Seccomp::Localhost(path) => compile_file(path, capabilities).map(Some),
        }
    }
}

fn invalid(profile: &str, reason: impl std::fmt::Display) -> Error {
    Error::Invalid { field: format!("seccomp: {profile}"), reason: reason.to_string() }
}

#[derive(Debug, thiserror::Error)]
enum CompileError {
    #[error(transparent)]
    Filter(#[from] libseccomp::error::SeccompError),
    #[error("take the program: {0}")]
    Io(std::io::Error),
}

type Compiled<T> = std::result::Result<T, CompileError>;

/// This machine's ways to enter the kernel, the 32-bit ones included.
fn architectures() -> &'static [ScmpArch] {
    if cfg!(target_arch = "x86_64") {
        &[ScmpArch::X86, ScmpArch::X32]
    } else if cfg!(target_arch = "aarch64") {
        &[ScmpArch::Arm]
    } else {
        &[]
    }
}

fn new_context(default: ScmpAction) -> Compiled<ScmpFilterContext> {
    let mut context = ScmpFilterContext::new(default)?;
    for architecture in architectures() {
        context.add_arch(*architecture)?;
    }
    // no-new-privileges is set by the process itself, if it is wanted.
    context.set_ctl_nnp(false)?;
    // A binary search instead of a chain of comparisons (libseccomp 2.5): system calls stay cheap.
    context.set_ctl_optimize(2)?;
    Ok(context)
}

fn rule(context: &mut ScmpFilterContext, action: ScmpAction, name: &str, conditions: &[ScmpArgCompare]) -> Compiled<()> {
    // A call that this libseccomp does not know cannot be named in a filter; it falls under the default.
    let Ok(call) = ScmpSyscall::from_name(name) else { return Ok(()) };
    context.add_rule_conditional(action, call, conditions)?;
    Ok(())
}

/// Flags of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

fn compile_default(capabilities: u64) -> Compiled<Arc<[u8]>> {
    let mut context = new_context(ScmpAction::Errno(libc::ENOSYS))?;
    let mut allowed: Vec<&str> = Vec::new();
    for (key, name) in default_entries() {
        let held = key.strip_prefix("CAP_").and_then(capability::bit).is_some_and(|bit| capabilities & (1 << bit) != 0);
        if key == "allow" || held {
            allowed.push(name);
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    for name in &allowed {
        rule(&mut context, ScmpAction::Allow, name, &[])?;
    }
    for (key, name) in default_entries() {
        // `absent` is the default action already.
        if key == "deny" && allowed.binary_search(&name).is_err() {
            rule(&mut context, ScmpAction::Errno(libc::EPERM), name, &[])?;
        }
    }
    if allowed.binary_search(&"clone").is_err() {
        let no_namespace = [ScmpArgCompare::new(0, ScmpCompareOp::MaskedEqual(NAMESPACE_FLAGS), 0)];
        rule(&mut context, ScmpAction::Allow, "clone", &no_namespace)?;
        // One bit at a time, for a rule can only say "equal".
        for flag in (0..64).map(|bit| 1u64 << bit).filter(|flag| NAMESPACE_FLAGS & flag != 0) {
            let this_namespace = [ScmpArgCompare::new(0, ScmpCompareOp::MaskedEqual(flag), flag)];
            rule(&mut context, ScmpAction::Errno(libc::EPERM), "clone", &this_namespace)?;
        }
    }
    // PER_LINUX, PER_LINUX32, UNAME26 with each, and the question (personality(2)).
    for persona in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rule(&mut context, ScmpAction::Allow, "personality", &[ScmpArgCompare::new(0, ScmpCompareOp::Equal, persona)])?;
    }
    // Sockets to the hypervisor cross every namespace.
    let not_vsock = [ScmpArgCompare::new(0, ScmpCompareOp::NotEqual, libc::AF_VSOCK as u64)];
    rule(&mut context, ScmpAction::Allow, "socket", &not_vsock)?;
    export(&context)
}

/// The program in the kernel's own form. libseccomp 2.5 writes it to a descriptor only.
fn export(context: &ScmpFilterContext) -> Compiled<Arc<[u8]>> {
    let read = |file: std::fs::File| -> std::io::Result<Vec<u8>> {
        use std::io::{Read, Seek};
        let mut file = file;
        let mut program = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut program)?;
        Ok(program)
    };
    let file = std::fs::File::from(
        rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC).map_err(|error| CompileError::Io(error.into()))?,
    );
    context.export_bpf(&file)?;
    Ok(read(file).map_err(CompileError::Io)?.into())
}

fn default_entries() -> impl Iterator<Item = (&'static str, &'static str)> {
    DEFAULT_PROFILE.lines().filter(|line| !line.starts_with('#')).flat_map(|line| {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        words.map(move |name| (key, name))
    })
}

/// A profile as OCI and Docker write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<i32>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<i32>,
    #[serde(default)]
    args: Option<Vec<ProfileArgument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileArgument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl Condition {
    fn capability_held(&self, capabilities: u64) -> bool {
        self.caps.iter().any(|name| capability::bit(name.trim_start_matches("CAP_")).is_some_and(|bit| capabilities & (1 << bit) != 0))
    }

    fn architecture_is_ours(&self) -> bool {
        let ours = if cfg!(target_arch = "x86_64") { ["amd64", "x86_64"] } else { ["arm64", "aarch64"] };
        self.arches.iter().any(|name| ours.contains(&name.as_str()))
    }
}

fn compile_file(path: &Path, capabilities: u64) -> Result<Arc<[u8]>> {
    use std::io::Read;
    // An empty name once meant "no filter at all" elsewhere (CVE-2023-2431).
    if path.as_os_str().is_empty() {
        return Err(invalid("localhost profile", "its name is empty"));
    }
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(PROFILE_BYTES_MAX).read_to_end(&mut text));
    read.map_err(|source| Error::Path { step: "read seccomp profile", path: path.to_owned(), source })?;
    let name = path.display().to_string();
    let profile: Profile = serde_json::from_slice(&text).map_err(|error| invalid(&name, error))?;
    compile_profile(&profile, capabilities).map_err(|error| invalid(&name, error))
}

fn compile_profile(profile: &Profile, capabilities: u64) -> std::result::Result<Arc<[u8]>, String> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut context = new_context(default).map_err(|error| error.to_string())?;
    for entry in &profile.syscalls {
        if let Some(includes) = &entry.includes
            && ((!includes.caps.is_empty() && !includes.capability_held(capabilities))
                || (!includes.arches.is_empty() && !includes.architecture_is_ours()))
        {
            continue;
        }
        if entry.excludes.as_ref().is_some_and(|excludes| excludes.capability_held(capabilities) || excludes.architecture_is_ours()) {
            continue;
        }
        let action = action(&entry.action, entry.errno_ret)?;
        // Says what holds anyway; libseccomp refuses such rules.
        if action == default {
            continue;
        }
        let conditions = entry.args.iter().flatten().map(condition).collect::<std::result::Result<Vec<_>, String>>()?;
        for name in entry.names.iter().chain(&entry.name) {
            // Two conditions on one argument are alternatives, as in runc: libseccomp takes one per argument and rule.
            let mut indexes: Vec<u32> = entry.args.iter().flatten().map(|argument| argument.index).collect();
            indexes.sort_unstable();
            let repeated = indexes.windows(2).any(|pair| pair[0] == pair[1]);
            let added = if repeated {
                conditions.iter().try_for_each(|one| rule(&mut context, action, name, std::slice::from_ref(one)))
            } else {
                rule(&mut context, action, name, &conditions)
            };
            added.map_err(|error| format!("{name}: {error}"))?;
        }
    }
    export(&context).map_err(|error| error.to_string())
}

fn action(name: &str, errno: Option<i32>) -> std::result::Result<ScmpAction, String> {
    let errno = errno.unwrap_or(libc::EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(errno),
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        other => return Err(format!("action {other} is not supported")),
    })
}

fn condition(argument: &ProfileArgument) -> std::result::Result<ScmpArgCompare, String> {
    let (op, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, argument.value),
        "SCMP_CMP_LT" => (ScmpCompareOp::Less, argument.value),
        "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, argument.value),
        "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, argument.value),
        "SCMP_CMP_GT" => (ScmpCompareOp::Greater, argument.value),
        // The profile's first value is the mask, its second what must remain.
        "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
        other => return Err(format!("comparison {other} is not supported")),
    };
    Ok(ScmpArgCompare::new(argument.index, op, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel takes at most this many instructions (BPF_MAXINSNS).
    const INSTRUCTIONS_MAX: usize = 4096;

    #[test]
    fn the_default_profile_compiles_for_weak_and_strong_containers() {
        for capabilities in [0, capability::DEFAULT, u64::MAX] {
            let program = Filters::default().program(&Seccomp::Default, capabilities).expect("compiles").expect("a filter");
            let instructions = program.len() / 8;
            assert!((100..INSTRUCTIONS_MAX).contains(&instructions), "{instructions}");
        }
    }

    #[test]
    fn no_call_is_both_allowed_and_denied() {
        let allowed: Vec<&str> = default_entries().filter(|(key, _)| *key == "allow").map(|(_, name)| name).collect();
        let both: Vec<&str> =
            default_entries().filter(|(key, name)| *key != "allow" && allowed.contains(name)).map(|(_, name)| name).collect();
        assert_eq!(both, Vec::<&str>::new());
    }

    #[test]
    fn profiles_of_users_are_read_and_bad_ones_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let check = |text: &str, expected: &str| {
            let path = dir.path().join("profile.json");
            std::fs::write(&path, text).expect("write");
            let got = match Filters::default().program(&Seccomp::Localhost(path.clone()), 0) {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.to_string().replace(&path.display().to_string(), "P"),
            };
            assert_eq!(got, expected, "{text}");
        };
        check(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO"}]}"#, "ok");
        check(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"clone","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]},
               "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
            "ok",
        );
        check(r#"{"defaultAction":"SCMP_ACT_DANCE"}"#, "seccomp: P: action SCMP_ACT_DANCE is not supported");
        assert!(Filters::default().program(&Seccomp::Localhost("".into()), 0).is_err());
    }
}
