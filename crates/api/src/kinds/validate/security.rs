//! Security contexts of pods and containers.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::paths::local_path;
use super::rules::Rules;
use super::{list, text};
use crate::error::{FieldError, FieldErrors};

static POD: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        fsGroup range 0 2147483647
        runAsUser range 0 2147483647
        runAsGroup range 0 2147483647
        supplementalGroups[] range 0 2147483647
        fsGroupChangePolicy enum OnRootMismatch Always
        supplementalGroupsPolicy enum Merge Strict
        seLinuxChangePolicy enum MountOption Recursive
        "#,
    )
});

static CONTAINER: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        runAsUser range 0 2147483647
        runAsGroup range 0 2147483647
        procMount oneof Default Unmasked
        "#,
    )
});

/// Of the pod; `path` is that of the spec.
pub(super) fn pod(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let context = &spec["securityContext"];
    let at = format!("{path}.securityContext");
    POD.check(context, &at, errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{at}.shareProcessNamespace"), &true.into(), detail));
    }
    sysctls(spec, &at, errors);
    seccomp(context, &at, errors);
    apparmor(context, &at, errors);
    if spec["hostUsers"] == false {
        for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec[key] == true {
                errors.push(FieldError::forbidden(format!("{path}.{shown}"), "when `pod.Spec.HostUsers` is false"));
            }
        }
    }
}

/// Longest name of a sysctl, in bytes.
const SYSCTL_MAX: usize = 253;

const SYSCTL_FORM: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(name: &str) -> bool {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().copied().is_some_and(letter)
            && bytes.last().copied().is_some_and(letter)
            && bytes.iter().all(|c| letter(*c) || b"-_".contains(c))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

fn sysctls(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, sysctl) in list(&spec["securityContext"], "sysctls").iter().enumerate() {
        let at = format!("{path}.sysctls[{index}].name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_FORM}");
            errors.push(FieldError::invalid(&at, &sysctl["name"], &detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, &sysctl["name"]));
        }
        if let Some(namespace) = shared_namespace(name).filter(|key| spec[*key] == true) {
            let detail = format!("may not be specified when '{namespace}' is true");
            errors.push(FieldError::invalid(at, &sysctl["name"], &detail));
        }
    }
}

/// The field that would make this sysctl the host's (component-helpers, node/util/sysctl).
fn shared_namespace(name: &str) -> Option<&'static str> {
    let dotted = name.replace('/', ".");
    if dotted == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix)) {
        return Some("hostIPC");
    }
    dotted.starts_with("net.").then_some("hostNetwork")
}

/// Of one container; `path` is the container's.
pub(super) fn container(container: &Value, path: &str, host_users: bool, errors: &mut FieldErrors) {
    let context = &container["securityContext"];
    let at = format!("{path}.securityContext");
    CONTAINER.check(context, &at, errors);
    if host_users && text(context, "procMount") == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(format!("{at}.procMount"), &context["procMount"], detail));
    }
    seccomp(context, &at, errors);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(&at, context, detail));
        }
        if list(&context["capabilities"], "add").iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(&at, context, detail));
        }
    }
    apparmor(context, &at, errors);
}

/// In the order in which upstream lists them.
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn profile_type(profile: &Value, path: &str, key: &str, errors: &mut FieldErrors) {
    match text(profile, "type") {
        "" => errors.push(FieldError::required(format!("{path}.type"), &format!("type is required when {key} is set"))),
        ty if PROFILE_TYPES.contains(&ty) => {}
        _ => errors.push(FieldError::not_supported_as_listed(format!("{path}.type"), &profile["type"], &PROFILE_TYPES)),
    }
}

fn seccomp(context: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(profile) = context.get("seccompProfile") else { return };
    let path = format!("{path}.seccompProfile");
    profile_type(profile, &path, "seccompProfile", errors);
    let at = format!("{path}.localhostProfile");
    match (text(profile, "type"), profile.get("localhostProfile")) {
        ("Localhost", None) => errors.push(FieldError::required(at, "must be set when seccomp type is Localhost")),
        ("Localhost", Some(_)) => local_path(text(profile, "localhostProfile"), &at, errors),
        (_, Some(_)) => errors.push(FieldError::invalid(at, profile, "can only be set when seccomp type is Localhost")),
        _ => {}
    }
}

/// Longest name of a profile of AppArmor, in bytes: the kernel's PATH_MAX without the end.
const PROFILE_MAX: usize = 4095;

fn apparmor(context: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(profile) = context.get("appArmorProfile") else { return };
    let path = format!("{path}.appArmorProfile");
    profile_type(profile, &path, "appArmorProfile", errors);
    let at = format!("{path}.localhostProfile");
    let (ty, local) = (text(profile, "type"), profile.get("localhostProfile"));
    match (ty, local.and_then(Value::as_str)) {
        ("Localhost", None | Some("")) => errors.push(FieldError::required(at, "must be set when AppArmor type is Localhost")),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(&at, &name.into(), "must not be padded with whitespace"));
            }
            if name.len() > PROFILE_MAX {
                errors.push(FieldError::too_long(at, PROFILE_MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(FieldError::invalid(at, &name.into(), "can only be set when AppArmor type is Localhost"));
        }
        _ => {}
    }
}
