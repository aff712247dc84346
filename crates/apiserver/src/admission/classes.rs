//! Objects name classes. Which one an object gets that names none, and what a runtime class gives its pods
//! (plugin/pkg/admission/storage/storageclass/setdefault, network/defaultingressclass, runtimeclass).

use std::cmp::Reverse;

use knarr_api::{Object, Quantity, status::Status};
use knarr_store::Snapshot;
use serde_json::{Map, Value};

use super::{Chain, Operation, Request, stored, stored_all};

/// A kind whose new objects get a class if they name none.
struct Choice {
    group: &'static str,
    resource: &'static str,
    field: [&'static str; 2],
    /// The annotation that named the class before there was a field.
    annotation: &'static str,
    classes: &'static str,
    /// Annotations that make a class the cluster's default.
    marks: &'static [&'static str],
}

const CHOICES: [Choice; 2] = [
    Choice {
        group: "",
        resource: "persistentvolumeclaims",
        field: ["spec", "storageClassName"],
        annotation: "volume.beta.kubernetes.io/storage-class",
        classes: "storage.k8s.io/storageclasses",
        marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
    },
    Choice {
        group: "networking.k8s.io",
        resource: "ingresses",
        field: ["spec", "ingressClassName"],
        annotation: "kubernetes.io/ingress.class",
        classes: "networking.k8s.io/ingressclasses",
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    },
];

const RUNTIME_CLASSES: &str = "node.k8s.io/runtimeclasses";

/// A claim or ingress that names no class gets the default one, if there is one. A class that is empty is a choice: of none.
pub(super) fn default(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let Some(choice) = CHOICES.iter().find(|choice| request.is(choice.group, choice.resource)) else { return Ok(()) };
    let object = &mut *request.object;
    let named = object.get(&choice.field).is_some_and(|class| !class.is_null()) || object.annotation(choice.annotation).is_some();
    if named {
        return Ok(());
    }
    let is_default = |class: &Object| choice.marks.iter().any(|mark| class.annotation(mark) == Some("true"));
    let classes = stored_all(snapshot, choice.classes, "").into_iter().filter(is_default);
    // Of several the newest, as upstream decides; of those made in one second the first by name.
    let newest = classes.max_by_key(|class| (class.creation_timestamp().to_owned(), Reverse(class.name().to_owned())));
    if let Some(class) = newest {
        object.set(&choice.field, class.name().into());
    }
    Ok(())
}

/// What the pod's runtime class says of overhead and placement becomes the pod's.
pub(super) fn apply_runtime(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let Some(class) = runtime_of(snapshot, request)? else { return Ok(()) };
    if let Some(overhead) = overhead(&class) {
        let given = request.object.get(&["spec", "overhead"]);
        if given.is_some_and(|given| !same_amounts(given, overhead)) {
            return Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        request.object.set(&["spec", "overhead"], overhead.clone());
    }
    if class.get(&["scheduling"]).is_none() {
        return Ok(());
    }
    for (key, value) in class.get(&["scheduling", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten() {
        let place = ["spec", "nodeSelector", key];
        match request.object.get(&place) {
            Some(given) if given != value => {
                let (wanted, given) = (value.as_str().unwrap_or_default(), request.object.str(&place));
                let at = "nodeSelector";
                return Err(
                    request.forbidden(&format!("conflict: runtimeClass.scheduling.{at}[{key}] = {wanted}; pod.spec.{at}[{key}] = {given}"))
                );
            }
            _ => request.object.set(&place, value.clone()),
        }
    }
    let tolerations = merged_tolerations(request.object.list(&["spec", "tolerations"]), class.list(&["scheduling", "tolerations"]));
    if !tolerations.is_empty() {
        request.object.set(&["spec", "tolerations"], tolerations.into());
    }
    Ok(())
}

/// Nobody but its runtime class says what overhead a pod has.
pub(super) fn check_runtime(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    let class = runtime_of(snapshot, request)?;
    let given = request.object.get(&["spec", "overhead"]);
    match (class.as_ref().and_then(overhead), given) {
        (Some(wanted), given) if !given.is_some_and(|given| same_amounts(given, wanted)) => {
            Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
        }
        (None, Some(_)) => Err(request.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Ok(()),
    }
}

/// The runtime class that a new pod names.
fn runtime_of(snapshot: &Snapshot, request: &Request<'_>) -> Result<Option<Object>, Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(None);
    }
    let Some(name) = request.object.get(&["spec", "runtimeClassName"]).and_then(Value::as_str) else { return Ok(None) };
    let class = stored(snapshot, RUNTIME_CLASSES, "", name);
    class.map(Some).ok_or_else(|| request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))
}

fn overhead(class: &Object) -> Option<&Value> {
    class.get(&["overhead", "podFixed"])
}

fn same_amounts(one: &Value, two: &Value) -> bool {
    let amount = |map: &Map<String, Value>, name: &str| Quantity::parse(map.get(name)?.as_str()?).ok();
    match (one.as_object(), two.as_object()) {
        (Some(one), Some(two)) => {
            one.len() == two.len() && one.keys().all(|name| amount(one, name).is_some_and(|it| amount(two, name) == Some(it)))
        }
        _ => one == two,
    }
}

/// Both, without those that another of them makes superfluous (pkg/util/tolerations).
fn merged_tolerations(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<&Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let before = merged.iter().any(|other| covers(other, one));
        let after = all[at + 1..].iter().any(|other| other != one && covers(other, one));
        if !before && !after {
            merged.push(one);
        }
    }
    merged.into_iter().cloned().collect()
}

/// Whether `one` tolerates all that `other` does.
fn covers(one: &Value, other: &Value) -> bool {
    if one == other {
        return true;
    }
    let text = |toleration: &'_ Value, key: &str| toleration[key].as_str().unwrap_or_default().to_owned();
    let (key, effect) = (text(one, "key"), text(one, "effect"));
    if key != text(other, "key") && !(key.is_empty() && one["operator"] == "Exists")
        || !effect.is_empty() && effect != text(other, "effect")
    {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = one["tolerationSeconds"].as_i64()
        && other["tolerationSeconds"].as_i64().is_none_or(|others| others > seconds)
    {
        return false;
    }
    match one["operator"].as_str() {
        Some("Exists") => true,
        None | Some("" | "Equal") => other["operator"] == "Equal" && text(one, "value") == text(other, "value"),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_toleration_that_another_covers_goes() {
        let equal = |key: &str, value: &str| json!({"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"});
        let exists = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoSchedule"});
        let all = json!({"operator": "Exists"});
        let short = json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
        for (first, second, expected) in [
            (vec![equal("a", "x")], vec![equal("a", "x")], vec![equal("a", "x")]),
            (vec![equal("a", "x")], vec![equal("a", "y")], vec![equal("a", "x"), equal("a", "y")]),
            (vec![equal("a", "x"), equal("b", "x")], vec![exists("a")], vec![equal("b", "x"), exists("a")]),
            (vec![exists("a")], vec![equal("a", "x")], vec![exists("a")]),
            (vec![short.clone()], vec![long.clone()], vec![long.clone()]),
            (vec![short, exists("a")], vec![all.clone()], vec![all]),
        ] {
            assert_eq!(merged_tolerations(&first, &second), expected, "{first:?} {second:?}");
        }
    }
}
