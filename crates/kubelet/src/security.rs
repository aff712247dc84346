//! `securityContext` of pod and container, joined and turned into what the runtime takes. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, PodSpec, SeccompProfile};
use knarr_runtime::{Capabilities, Seccomp, User};

/// A container that must not start as it is. The text is shown in its waiting state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (container: {container})")]
    RootUid { container: String },
    #[error("container has runAsNonRoot and image will run as root (container: {container})")]
    RootImage { container: String },
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (container: {container})")]
    NamedUser { container: String, user: String },
    #[error("user of the image of container {container} is not a user id that Linux has: {user}")]
    UserOutOfRange { container: String, user: String },
    #[error("{what} {id} of container {container} is not an id that Linux has")]
    IdOutOfRange { container: String, what: &'static str, id: i64 },
    #[error("seccomp profile of container {container} is Localhost, but names no file below the node's profile directory")]
    LocalhostProfile { container: String },
    #[error("unknown seccomp profile type {kind} of container {container}")]
    SeccompType { container: String, kind: String },
}

/// Everything about rights that a container's configuration holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Rights {
    pub(crate) user: User,
    pub(crate) privileged: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) seccomp: Seccomp,
    pub(crate) no_new_privileges: bool,
    pub(crate) readonly_rootfs: bool,
    /// `None`: the runtime's default lists.
    pub(crate) masked_paths: Option<Vec<String>>,
    pub(crate) readonly_paths: Option<Vec<String>>,
}

/// `image_user` is what the image's config says.
pub(crate) fn rights(spec: &PodSpec, container: &Container, image_user: &str, seccomp_root: &Path) -> Result<Rights, SecurityError> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let name = container.name.as_str();
    let id = |what: &'static str, id: i64| {
        let error = || SecurityError::IdOutOfRange { container: name.to_owned(), what, id };
        // u32::MAX is "no change" to chown and setuid, so it is nobody's id.
        u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(error)
    };
    let uid = own.run_as_user.or(pod.run_as_user).map(|it| id("user", it)).transpose()?;
    let gid = own.run_as_group.or(pod.run_as_group).map(|it| id("group", it)).transpose()?;
    let mut groups = Vec::new();
    for group in pod.supplemental_groups.iter().flatten().chain(&pod.fs_group) {
        groups.push(id("supplemental group", *group)?);
    }
    let image_uid = numeric_user(name, image_user)?;
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        match (uid, image_uid) {
            (Some(0), _) => return Err(SecurityError::RootUid { container: name.to_owned() }),
            (Some(_), _) => {}
            (None, ImageUser::Id(0)) => return Err(SecurityError::RootImage { container: name.to_owned() }),
            (None, ImageUser::Id(_)) => {}
            (None, ImageUser::Name(user)) => return Err(SecurityError::NamedUser { container: name.to_owned(), user }),
        }
    }
    let privileged = own.privileged == Some(true);
    let (masked_paths, readonly_paths) = match own.proc_mount.as_deref() {
        Some("Unmasked") => (Some(Vec::new()), Some(Vec::new())),
        _ => (None, None),
    };
    Ok(Rights {
        user: User {
            image_user: image_user.to_owned(),
            uid,
            gid,
            supplemental_groups: groups,
            strict_groups: pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        },
        privileged,
        capabilities: Capabilities {
            add: own.capabilities.as_ref().and_then(|it| it.add.clone()).unwrap_or_default(),
            drop: own.capabilities.as_ref().and_then(|it| it.drop.clone()).unwrap_or_default(),
        },
        seccomp: if privileged {
            Seccomp::Unconfined
        } else {
            seccomp(name, own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()), seccomp_root)?
        },
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        masked_paths,
        readonly_paths,
    })
}

enum ImageUser {
    Id(u32),
    Name(String),
}

/// Reads the user of an image. A number that wraps round to 0 in 32 bits must not pass (CVE-2024-40635).
fn numeric_user(container: &str, user: &str) -> Result<ImageUser, SecurityError> {
    let user = user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return Ok(ImageUser::Id(0));
    }
    let numeric = user.strip_prefix(['+', '-']).unwrap_or(user);
    if !numeric.is_empty() && numeric.bytes().all(|it| it.is_ascii_digit()) {
        return user
            .parse::<u32>()
            .ok()
            .filter(|id| i32::try_from(*id).is_ok())
            .map(ImageUser::Id)
            .ok_or_else(|| SecurityError::UserOutOfRange { container: container.to_owned(), user: user.to_owned() });
    }
    Ok(ImageUser::Name(user.to_owned()))
}

/// Where nothing is said, the runtime's default profile: secure by default, unlike upstream's Unconfined.
fn seccomp(container: &str, profile: Option<&SeccompProfile>, root: &Path) -> Result<Seccomp, SecurityError> {
    let Some(profile) = profile else {
        return Ok(Seccomp::Default);
    };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::Default),
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            // An empty name would join to the directory itself and mean no filter at all (CVE-2023-2431).
            let name = Path::new(profile.localhost_profile.as_deref().unwrap_or_default());
            let plain = name.components().all(|it| matches!(it, Component::Normal(_))) && name.components().next().is_some();
            if !plain {
                return Err(SecurityError::LocalhostProfile { container: container.to_owned() });
            }
            Ok(Seccomp::Localhost(root.join(name)))
        }
        kind => Err(SecurityError::SeccompType { container: container.to_owned(), kind: kind.to_owned() }),
    }
}

/// The pod's kernel settings.
pub(crate) fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    (spec.security_context.iter())
        .flat_map(|it| it.sysctls.iter().flatten())
        // Both separators are allowed; the kernel's files are named by the slash, ours by the dot.
        .map(|it| (it.name.replace('/', "."), it.value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn rights_of(pod: serde_json::Value, own: serde_json::Value, image_user: &str) -> Result<Rights, SecurityError> {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "securityContext": pod})).unwrap();
        let container: Container = serde_json::from_value(json!({"name": "web", "securityContext": own})).unwrap();
        rights(&spec, &container, image_user, Path::new("/seccomp"))
    }

    fn check_refused(own: serde_json::Value, image_user: &str, expected: Expect) {
        let text = rights_of(json!({}), own, image_user).map_or_else(|error| error.to_string(), |_| "accepted".into());
        expected.assert_eq(&text);
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let non_root = || json!({"runAsNonRoot": true});
        check_refused(
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "1000",
            expect!["container's runAsUser breaks non-root policy (container: web)"],
        );
        check_refused(non_root(), "", expect!["container has runAsNonRoot and image will run as root (container: web)"]);
        check_refused(non_root(), "0:0", expect!["container has runAsNonRoot and image will run as root (container: web)"]);
        check_refused(
            non_root(),
            "nginx",
            expect![[
                r#"container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root (container: web)"#
            ]],
        );
        check_refused(
            non_root(),
            "0x0",
            expect![[
                r#"container has runAsNonRoot and image has non-numeric user (0x0), cannot verify user is non-root (container: web)"#
            ]],
        );
        check_refused(non_root(), "1000:0", expect!["accepted"]);
    }

    #[test]
    fn a_user_that_wraps_round_to_root_is_refused() {
        check_refused(json!({}), "4294967296", expect!["user of the image of container web is not a user id that Linux has: 4294967296"]);
        check_refused(json!({"runAsUser": 4_294_967_296_i64}), "", expect!["user 4294967296 of container web is not an id that Linux has"]);
        check_refused(json!({"runAsUser": 4_294_967_295_i64}), "", expect!["user 4294967295 of container web is not an id that Linux has"]);
    }

    #[test]
    fn an_empty_or_climbing_profile_is_refused() {
        for profile in [json!({"type": "Localhost"}), json!({"type": "Localhost", "localhostProfile": ""})] {
            let refused = rights_of(json!({}), json!({"seccompProfile": profile}), "");
            assert_eq!(refused, Err(SecurityError::LocalhostProfile { container: "web".into() }));
        }
        let climbing = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../etc/x.json"}});
        assert!(rights_of(json!({}), climbing, "").is_err());
        let good = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}});
        assert_eq!(rights_of(json!({}), good, "").unwrap().seccomp, Seccomp::Localhost("/seccomp/a/b.json".into()));
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let it = rights_of(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4], "seccompProfile": {"type": "Unconfined"}}),
            json!({"runAsUser": 5, "seccompProfile": {"type": "RuntimeDefault"}}),
            "",
        )
        .unwrap();
        assert_eq!((it.user.uid, it.user.gid), (Some(5), Some(2)));
        assert_eq!(it.user.supplemental_groups, [4, 3]);
        assert_eq!(it.seccomp, Seccomp::Default);
    }
}
