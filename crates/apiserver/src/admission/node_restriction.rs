//! What a kubelet may write: its own node and the devices there, the status and end of the pods bound to it, tokens and certificates for those pods,
//! and how far the claims that they use have grown.
//!
//! RBAC and the node authorizer let every kubelet write nodes and pods; this plug-in narrows it to its own.

mod certificates;
mod tokens;

use knarr_api::Object;
use knarr_api::status::Status;
use knarr_store::Snapshot;
use serde_json::Value;

use super::service_accounts::MIRROR;
use super::{Chain, Operation, Request, changed_fields, stored};
use crate::authz::{Referent, visit_references};
pub(super) use certificates::check_signer;
pub(super) use tokens::check_audience;

const NODE_LEASES: &str = "kube-node-lease";
/// Labels of the kubernetes.io domains that a kubelet may set on its node (kubelet/apis/well_known_labels.go).
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];
/// Domains of which it may set any label.
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let Some(node) = request.user.node_name() else {
        return Ok(());
    };
    let refused = match (&*request.kind.group, &*request.kind.resource, request.subresource) {
        ("", "pods", "") => pod(snapshot, node, request),
        ("", "pods", "status") => pod_status(node, request),
        ("", "pods", "eviction") => bound_here(node, stored(snapshot, "core/pods", request.namespace, request.name).as_ref(), "evict"),
        ("", "pods", _) => refuse(format!("node {node:?} cannot write this part of pods")),
        ("", "nodes", "" | "status") => own_node(node, request),
        ("", "nodes", _) => refuse(format!("node {node:?} cannot write this part of nodes")),
        ("", "persistentvolumeclaims", "status") => claim_status(node, request),
        ("", "persistentvolumeclaims", _) => refuse("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => tokens::check(snapshot, node, request),
        ("certificates.k8s.io", "certificatesigningrequests", "") => certificates::signing_request(node, request),
        ("certificates.k8s.io", "podcertificaterequests", _) => return certificates::pod_request(snapshot, node, request),
        ("coordination.k8s.io", "leases", _) => lease(node, request),
        ("storage.k8s.io", "csinodes", _) => named(node, request),
        ("resource.k8s.io", "resourceslices", _) => slice(node, request),
        _ => Ok(()),
    };
    refused.map_err(|why| request.forbidden(&why))
}

type Verdict = Result<(), String>;

fn refuse(why: String) -> Verdict {
    Err(why)
}

fn pod(snapshot: &Snapshot, node: &str, request: &Request<'_>) -> Verdict {
    match request.operation {
        Operation::Create => mirror_pod(snapshot, node, request.object),
        Operation::Delete => bound_here(node, request.old.or(Some(request.object)), "delete"),
        _ => refuse(format!("unexpected operation on pods by node {node:?}")),
    }
}

/// A kubelet makes no pods but the mirrors of those that it runs from files, and these refer to nothing.
fn mirror_pod(snapshot: &Snapshot, node: &str, pod: &Object) -> Verdict {
    if pod.annotation(MIRROR).is_none() {
        return refuse(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if pod.str(&["spec", "nodeName"]) != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    // A foreign owner would let it delete by garbage collection what it may not delete itself.
    let owners: Vec<_> = pod.owner_references().collect();
    let text = |owner: &serde_json::Map<String, Value>, field: &str| owner.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let uid = stored(snapshot, "core/nodes", "", node).map(|node| node.uid().to_owned()).unwrap_or_default();
    let owned_by_node = |owner: &serde_json::Map<String, Value>| {
        text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node && text(owner, "uid") == uid
    };
    match owners.as_slice() {
        [owner]
            if owned_by_node(owner)
                && owner.get("controller") == Some(&true.into())
                && owner.get("blockOwnerDeletion") != Some(&true.into()) => {}
        _ => {
            return refuse(format!("pod must have an owner reference to node {node:?}, its controller, and no other"));
        }
    }
    match referred(pod) {
        Some(what) => refuse(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// Volumes whose contents are objects of the API, or come with their names (pkg/api/pod/util.go, HasAPIObjectReference).
const REFERRING_VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
const REFERRING_SOURCES: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// Objects of which sort a pod refers to, if it does.
fn referred(pod: &Object) -> Option<&'static str> {
    let mut found = Vec::new();
    visit_references(&Value::Object(pod.0.clone()), &mut |kind, _| found.push(kind));
    let has = |kinds: &[Referent]| found.iter().any(|kind| kinds.contains(kind));
    if has(&[Referent::ServiceAccount]) {
        return Some("serviceaccounts");
    }
    if has(&[Referent::Secret, Referent::PullSecret]) {
        return Some("secrets");
    }
    if has(&[Referent::ConfigMap]) {
        return Some("configmaps");
    }
    // A claim that is only named, not yet resolved, is a foreign claim too (CVE-2025-4563).
    if has(&[Referent::ResourceClaim]) || !pod.list(&["spec", "resourceClaims"]).is_empty() {
        return Some("resourceclaims");
    }
    let by = |of: &Value, table: &[(&str, &'static str)]| table.iter().find(|(key, _)| of.get(*key).is_some()).map(|(_, what)| *what);
    pod.list(&["spec", "volumes"]).iter().find_map(|volume| {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        by(volume, &REFERRING_VOLUMES).or_else(|| sources.into_iter().find_map(|source| by(source, &REFERRING_SOURCES)))
    })
}

fn bound_here(node: &str, pod: Option<&Object>, verb: &str) -> Verdict {
    match pod.is_some_and(|pod| pod.str(&["spec", "nodeName"]) == node) {
        true => Ok(()),
        false => refuse(format!("node {node:?} can only {verb} pods with spec.nodeName set to itself")),
    }
}

fn pod_status(node: &str, request: &Request<'_>) -> Verdict {
    bound_here(node, request.old, "update pod status for")?;
    let (new, Some(old)) = (&request.object, request.old) else {
        return Ok(());
    };
    for (path, what) in [
        (&["metadata", "labels"][..], "labels through pod status"),
        (&["metadata", "ownerReferences"], "owner references through pod status"),
        (&["status", "resourceClaimStatuses"], "resource claim statuses"),
        (&["status", "extendedResourceClaimStatus"], "extended resource claim status"),
    ] {
        if new.get(path) != old.get(path) {
            return refuse(format!("node {node:?} cannot update {what}"));
        }
    }
    Ok(())
}

fn own_node(node: &str, request: &Request<'_>) -> Verdict {
    let new = &*request.object;
    let name = if new.name().is_empty() { request.name } else { new.name() };
    if name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if request.operation == Operation::Delete {
        return Ok(());
    }
    if let Some(old) = request.old {
        if new.get(&["spec", "taints"]) != old.get(&["spec", "taints"]) {
            return refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        // With an owner that does not exist a node could have itself collected (CVE-2025-5187).
        if new.get(&["metadata", "ownerReferences"]) != old.get(&["metadata", "ownerReferences"]) {
            return refuse(format!("node {node:?} is not allowed to modify owner references"));
        }
    } else if new.owner_references().next().is_some() {
        return refuse(format!("node {node:?} is not allowed to set owner references"));
    }
    if new.get(&["spec", "configSource"]).is_some() {
        return refuse(format!("node {node:?} is not allowed to set spec.configSource"));
    }
    let changed = |key: &str| new.label(key) != request.old.and_then(|old| old.label(key));
    let old_labels = request.old.into_iter().flat_map(Object::labels);
    let mut forbidden: Vec<&str> =
        new.labels().chain(old_labels).map(|(key, _)| key).filter(|key| !may_label(key) && changed(key)).collect();
    forbidden.sort_unstable();
    forbidden.dedup();
    match forbidden.is_empty() {
        true => Ok(()),
        false => refuse(format!("is not allowed to modify labels: {}", forbidden.join(", "))),
    }
}

/// Labels outside the domains kubernetes.io and k8s.io are free, inside them only those that kubelets have always set.
fn may_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |root: &str| domain == root || domain.strip_suffix(root).is_some_and(|rest| rest.ends_with('.'));
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    let own_domain = OWN_LABEL_DOMAINS.iter().any(|own| domain == *own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')));
    OWN_LABELS.contains(&key) || own_domain
}

/// What a kubelet tells of a claim: how far the volume has grown, and how far it is to (KEP-284, KEP-1790).
const CLAIM_FIELDS: [&str; 4] = ["status.capacity", "status.conditions", "status.allocatedResources", "status.allocatedResourceStatuses"];

fn claim_status(node: &str, request: &Request<'_>) -> Verdict {
    let Some(old) = request.old else {
        return refuse("may only update PVC status".to_owned());
    };
    let mut changed = changed_fields(request.object, old);
    changed.retain(|field| {
        !CLAIM_FIELDS.contains(&field.as_str()) && !["metadata.managedFields", "metadata.resourceVersion"].contains(&field.as_str())
    });
    match changed.is_empty() {
        true => Ok(()),
        // The first of them is upstream's word for the capacity.
        false => refuse(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions: {}",
            changed.into_iter().collect::<Vec<_>>().join(", ")
        )),
    }
}

fn lease(node: &str, request: &Request<'_>) -> Verdict {
    match request.namespace == NODE_LEASES {
        true => named(node, request),
        false => refuse(format!("can only access leases in the {NODE_LEASES:?} system namespace")),
    }
}

/// Of all slices of a collection each is looked at, and what a slice is made into as well as what it was.
fn slice(node: &str, request: &Request<'_>) -> Verdict {
    let is_mine = |slice: &Object| slice.str(&["spec", "nodeName"]) == node;
    if request.old.is_none_or(is_mine) && is_mine(request.object) {
        return Ok(());
    }
    let verb = match request.operation {
        Operation::Create => "create",
        Operation::Delete => "delete",
        _ => "update",
    };
    refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

fn named(node: &str, request: &Request<'_>) -> Verdict {
    let name = if request.name.is_empty() { request.object.name() } else { request.name };
    match name == node {
        true => Ok(()),
        false => refuse(format!("can only access {} with the same name as the requesting node", request.kind.resource)),
    }
}
