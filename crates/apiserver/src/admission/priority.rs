//! Pods name a priority class; what counts is its number, resolved once when the pod is made.

use knarr_api::Object;
use knarr_api::status::Status;
use knarr_store::Snapshot;

use super::{Chain, Operation, Request, stored, stored_all};

const CLASSES: &str = "scheduling.k8s.io/priorityclasses";
const PREEMPT: &str = "PreemptLowerPriority";

/// Sets priority and preemption policy of a new pod. An updated pod keeps its own.
pub(super) fn resolve(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if !request.is("", "pods") {
        return Ok(());
    }
    if let (Operation::Update, Some(old)) = (request.operation, request.old) {
        let pod = &mut *request.object;
        for field in ["priority", "preemptionPolicy"] {
            if let (None, Some(kept)) = (pod.get(&["spec", field]), old.get(&["spec", field])) {
                pod.set(&["spec", field], kept.clone());
            }
        }
        return Ok(());
    }
    if request.operation != Operation::Create {
        return Ok(());
    }
    let pod = &*request.object;
    let name = pod.str(&["spec", "priorityClassName"]).to_owned();
    let class = match name.as_str() {
        "" => default_class(snapshot),
        name => Some(
            stored(snapshot, CLASSES, "", name)
                .ok_or_else(|| request.forbidden(&format!("no PriorityClass with name {name} was found")))?,
        ),
    };
    let (value, policy) = match &class {
        Some(class) => (class.int(&["value"]).unwrap_or(0), class.str(&["preemptionPolicy"])),
        None => (0, ""),
    };
    let policy = if policy.is_empty() { PREEMPT } else { policy };
    if let Some(given) = pod.int(&["spec", "priority"]).filter(|given| *given != value) {
        return Err(request.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    let given = pod.str(&["spec", "preemptionPolicy"]);
    if !given.is_empty() && given != policy {
        return Err(request.forbidden(&format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    let pod = &mut *request.object;
    pod.set(&["spec", "priority"], value.into());
    pod.set(&["spec", "preemptionPolicy"], policy.into());
    if let Some(class) = &class {
        pod.set(&["spec", "priorityClassName"], class.name().into());
    }
    Ok(())
}

/// The class of pods that name none: of several (there should be one) the lowest, as upstream decides.
fn default_class(snapshot: &Snapshot) -> Option<Object> {
    let defaults = stored_all(snapshot, CLASSES, "").into_iter().filter(|class| class.bool(&["globalDefault"]));
    defaults.min_by_key(|class| class.int(&["value"]).unwrap_or(0))
}

/// One class at most is the default of the cluster.
pub(super) fn class_is_only_default(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    let class = &*request.object;
    if !writes || !request.is("scheduling.k8s.io", "priorityclasses") || !class.bool(&["globalDefault"]) {
        return Ok(());
    }
    match stored_all(snapshot, CLASSES, "").into_iter().find(|other| other.bool(&["globalDefault"]) && other.name() != class.name()) {
        Some(other) => {
            Err(request.forbidden(&format!("PriorityClass {} is already marked as default. Only one default can exist", other.name())))
        }
        None => Ok(()),
    }
}
