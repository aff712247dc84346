//! TaintToleration.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use super::{PlugIn, Rejection};
use crate::cache::NodeState;
use crate::pod::PodInfo;

/// No taint that keeps pods out without a toleration for it.
pub(super) fn filter(pod: &PodInfo, node: &Node) -> Result<(), Rejection> {
    let keeps_out = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    match taints(node).filter(keeps_out).find(|taint| !tolerated(pod, taint)) {
        None => Ok(()),
        Some(taint) => {
            let value = taint.value.as_deref().unwrap_or("");
            Err(Rejection::new(PlugIn::TaintToleration, format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)))
        }
    }
}

/// How many taints would rather not have the pod.
pub(super) fn intolerable(pod: &PodInfo, state: &NodeState) -> i64 {
    let Some(node) = &state.node else { return 0 };
    let count = taints(node).filter(|taint| taint.effect == "PreferNoSchedule" && !tolerated(pod, taint)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    pod.tolerations().iter().any(|toleration| tolerates(toleration, taint))
}

/// An empty effect stands for all, an empty key with `Exists` for every taint.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}
