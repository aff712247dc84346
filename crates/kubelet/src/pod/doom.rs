//! Which running containers must be started anew, because what the pod asks for now cannot be had of them as they are.

use k8s_openapi::api::core::v1::PodSpec;
use knarr_runtime::Resources;

use super::seen::ContainerSeen;
use super::{act, plan, status};
use crate::resources;

/// Why the container must go, for its event; `None`: it may stay. `sandbox` are the limits that hold for its pod as a whole.
pub(crate) fn why(spec: &PodSpec, it: &ContainerSeen, sandbox: Option<&Resources>) -> Option<String> {
    let container = plan::container(spec, &it.name).filter(|_| it.is_running())?;
    // What the pod asked for then, not what holds now: the kernel may refuse new limits for long, and each instance is restarted once.
    let whole = it.whole.as_ref().or(sandbox);
    if it.hash != act::hash(&container) {
        Some(format!("Container {} definition changed, will be restarted", it.name))
    } else if status::is_resizing(&container, it) && resources::restarts_on_resize(&container, &it.resources) {
        Some(format!("Container {} resize requires restart", it.name))
    } else if whole.is_some_and(|then| resources::restarts_with_pod(&container, then, &resources::of_pod(spec))) {
        Some(format!("Container {} resize of its pod requires restart", it.name))
    } else {
        None
    }
}
