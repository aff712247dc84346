//! Small rules for pods, nodes and services.

use std::collections::BTreeSet;

use knarr_api::status::Status;
use knarr_store::{Collection, Key, Snapshot};
use serde_json::{Value, json};

use super::{Chain, Operation, Request, list_mut};
use crate::verbs::list::read_meta;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays on a node that failed. Upstream's default (plugin/defaulttolerationseconds).
const TOLERATION_SECONDS: i64 = 300;

/// Gives pods five minutes on a node that is not ready or unreachable, unless they say how long.
pub(super) fn default_tolerations(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is("", "pods") {
        return Ok(());
    }
    let pod = &mut *request.object;
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = pod.list(&["spec", "tolerations"]).iter().any(|toleration| {
            let is = |field: &str, wanted: &str| matches!(toleration[field].as_str(), None | Some("")) || toleration[field] == wanted;
            is("key", key) && is("effect", "NoExecute")
        });
        if let (false, Some(list)) = (tolerated, pod.get_mut(&["spec"]).and_then(|spec| list_mut(spec, "tolerations"))) {
            list.push(json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS }));
        }
    }
    Ok(())
}

/// Nodes with dear devices are tainted with the names of these, so that only pods come there that ask for them; which this spares to say. Runs where
/// the [`super::Configuration`] names it (plugin/pkg/admission/extendedresourcetoleration).
pub(super) fn tolerate_extended_resources(chain: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !chain.configuration.tolerates_extended_resources || !writes || !request.is("", "pods") {
        return Ok(());
    }
    let pod = &mut *request.object;
    let containers = ["initContainers", "containers"].map(|list| pod.list(&["spec", list])).concat();
    let requests = containers.iter().filter_map(|container| container["resources"]["requests"].as_object());
    let resources: BTreeSet<&str> = requests.flat_map(|all| all.keys().map(String::as_str)).filter(|name| is_extended(name)).collect();
    for resource in resources {
        let wanted = json!({ "key": resource, "operator": "Exists", "effect": "NoSchedule" });
        let is_it = |other: &Value| {
            let same = |field: &str| other[field] == wanted[field];
            same("key") && same("operator") && same("effect") && matches!(other["value"].as_str(), None | Some(""))
        };
        if let Some(list) = pod.get_mut(&["spec"]).and_then(|spec| list_mut(spec, "tolerations")) {
            match list.iter_mut().find(|other| is_it(other)) {
                Some(toleration) => *toleration = wanted,
                None => list.push(wanted),
            }
        }
    }
    Ok(())
}

/// Whether a resource is neither Kubernetes' own nor a quota's word for one (apis/core/helper, IsExtendedResourceName).
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Labels of a node that its pods get.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Tells a pod where it is, when it is bound or made on a node (plugin/pkg/admission/podtopologylabels). What the pod or the binding said stands back.
pub(super) fn topology_labels(chain: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is_of("", "pods") {
        return Ok(());
    }
    let object = &*request.object;
    let node = match request.subresource {
        "" => object.str(&["spec", "nodeName"]),
        "binding" if object.str(&["target", "kind"]) == "Node" => object.str(&["target", "name"]),
        _ => "",
    };
    // A node that is not there yet has no labels. A scheduler binds thousands a second: the labels are read where lists have them taken apart.
    let (Some(node), Some(kind)) = (snapshot.get(&Key::new(&Collection::new("core/nodes"), "", node)), chain.nodes()) else {
        return Ok(());
    };
    for (key, value) in &node.meta(|bytes| read_meta(&kind, bytes)).labels {
        if TOPOLOGY.contains(&&**key) {
            request.object.set(&["metadata", "labels", key], (**value).into());
        }
    }
    Ok(())
}

/// A node takes no pods before it has once been ready; the node lifecycle controller removes the taint.
pub(super) fn taint_new_node(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "nodes") {
        return Ok(());
    }
    let node = &mut *request.object;
    let has = |taint: &Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
    if !node.list(&["spec", "taints"]).iter().any(has) {
        let mut taints = node.list(&["spec", "taints"]).to_vec();
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
        node.set(&["spec", "taints"], taints.into());
    }
    Ok(())
}

/// `spec.externalIPs` lets whoever may make Services take over any address (CVE-2020-8554). Those that are there may stay.
pub(super) fn deny_external_addresses(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is("", "services") {
        return Ok(());
    }
    let service = &*request.object;
    let had = request.old.map_or(&[][..], |old| old.list(&["spec", "externalIPs"]));
    match service.list(&["spec", "externalIPs"]).iter().all(|address| had.contains(address)) {
        true => Ok(()),
        false => Err(request.forbidden("Use of external IPs is denied by admission control")),
    }
}
