//! The node authorizer: what a kubelet may touch beyond what every kubelet may.
//!
//! A kubelet may read a Secret, ConfigMap, claim or volume, and a service account and get its tokens, only if a pod bound to its node refers
//! to it; of the requests for pods' certificates it sees those of its node. Upstream keeps a graph of all pods for this
//! (plugin/pkg/auth/authorizer/node); here the question is put to the store's snapshot, which answers from the pods of one namespace on one
//! node. So there is no second copy of the cluster's pods, and a pod's binding and the right to read its secrets become visible at one and
//! the same revision.

use std::sync::LazyLock;

use knarr_store::{Collection, Key, Snapshot};
use serde_json::Value;

use super::rules::Rule;
use super::{Attributes, Decision, Verdict};
use crate::bootstrap;

/// Drivers whose volumes name their credentials in a `secretRef`.
const DRIVERS_WITH_SECRETS: [&str; 7] = ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"];

/// Where kubelets keep the leases that tell that they are alive.
const NODE_LEASES: &str = "kube-node-lease";
const SYSTEM_NODE: &str = "system:node";

/// What every kubelet may do: the rules of the cluster role `system:node` as it is built in. The stored role, which an
/// administrator may have changed, counts only where it is bound.
static NODE_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| bootstrap::built_in_rules(SYSTEM_NODE));

pub(super) fn authorize(snapshot: &Snapshot, node: &str, request: &Attributes<'_>) -> Decision {
    if !request.resource_request {
        return no_opinion("");
    }
    let view = View { snapshot, node };
    let reading = ["get", "list", "watch"].contains(&request.verb);
    match (request.group, request.resource, request.subresource) {
        ("", "secrets", "") if reading => view.secret(request),
        ("", "configmaps", "") if reading => view.referenced(request, Referent::ConfigMap),
        ("", "secrets" | "configmaps", _) => no_opinion("can only read resources of this type"),
        ("", "persistentvolumeclaims", "") | ("resource.k8s.io", "resourceclaims", "") if request.verb == "get" => {
            let kind = if request.resource == "resourceclaims" { Referent::ResourceClaim } else { Referent::VolumeClaim };
            view.referenced(request, kind)
        }
        ("", "persistentvolumeclaims", "status") if ["get", "update", "patch"].contains(&request.verb) => {
            view.referenced(request, Referent::VolumeClaim)
        }
        ("", "persistentvolumeclaims", _) => no_opinion("can only get individual resources of this type"),
        ("", "persistentvolumes", "") if request.verb == "get" => match view.uses_volume(request.name) {
            true => allow(),
            false => view.no_relationship(),
        },
        ("", "persistentvolumes", _) => no_opinion("can only get individual resources of this type"),
        ("", "serviceaccounts", "token") if request.verb == "create" => view.referenced(request, Referent::ServiceAccount),
        ("", "serviceaccounts", "") if request.verb == "get" => view.referenced(request, Referent::ServiceAccount),
        ("", "serviceaccounts", _) => no_opinion("can only create tokens for individual service accounts"),
        ("storage.k8s.io", "volumeattachments", "") if request.verb == "get" => match view.attachment_is_mine(request.name) {
            true => allow(),
            false => view.no_relationship(),
        },
        ("coordination.k8s.io", "leases", "") => view.own_lease(request),
        ("storage.k8s.io", "csinodes", "") => view.own_object(request),
        ("certificates.k8s.io", "podcertificaterequests", "") => view.own_pod_request(request),
        ("certificates.k8s.io", "podcertificaterequests", _) => {
            no_opinion("nodes may not access the status subresource of PodCertificateRequests")
        }
        ("resource.k8s.io", "resourceslices", "") => view.own_slice(request),
        ("resource.k8s.io", "resourceslices", _) => no_opinion("cannot authorize ResourceSlice subresources"),
        // A list or watch of one name is about that name.
        ("", "nodes", "") if reading => match request.name {
            name if name == node => allow(),
            "" => no_opinion(&format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => no_opinion(&format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        ("", "pods", "") if request.verb != "get" && reading && request.selectors.require("spec.nodeName", node) => allow(),
        ("", "pods", "") if reading && request.name.is_empty() => no_opinion("can only list/watch pods with spec.nodeName field selector"),
        ("", "pods", "") if reading => match view.pod_is_mine(request.namespace, request.name) {
            true => allow(),
            false => view.no_relationship(),
        },
        _ => by_rules(request),
    }
}

fn by_rules(request: &Attributes<'_>) -> Decision {
    match NODE_RULES.iter().any(|rule| rule.allows(request)) {
        true => allow(),
        false => no_opinion(""),
    }
}

fn allow() -> Decision {
    Decision { verdict: Verdict::Allow, reason: String::new() }
}

fn no_opinion(reason: &str) -> Decision {
    Decision { verdict: Verdict::NoOpinion, reason: reason.to_owned() }
}

/// The cluster as one node's kubelet may see it.
struct View<'a> {
    snapshot: &'a Snapshot,
    node: &'a str,
}

impl View<'_> {
    fn no_relationship(&self) -> Decision {
        no_opinion(&format!("no relationship found between node '{}' and this object", self.node))
    }

    /// Whether a pod of the request's namespace on this node refers to the object. Only single objects can be asked for, by name.
    fn referenced(&self, request: &Attributes<'_>, kind: Referent) -> Decision {
        if request.name.is_empty() || request.namespace.is_empty() {
            return no_opinion("can only read namespaced object of this type");
        }
        // The name of an ephemeral volume's claim is made of two names and stands in no pod.
        let mention = if kind == Referent::VolumeClaim { "" } else { request.name };
        match self.pods(request.namespace, mention).any(|pod| refers(&pod, kind, request.name)) {
            true => allow(),
            false => self.no_relationship(),
        }
    }

    /// A secret that a pod refers to, or with which a volume is mounted that a pod uses.
    fn secret(&self, request: &Attributes<'_>) -> Decision {
        let decision = self.referenced(request, Referent::Secret);
        let (namespace, name) = (request.namespace, request.name);
        if decision.allowed() || name.is_empty() || namespace.is_empty() {
            return decision;
        }
        let volumes = self.snapshot.range(&Collection::new("core/persistentvolumes"), "", None);
        let candidates: Vec<_> = volumes.filter(|entry| contains(&entry.value, name)).cloned().collect();
        let mounts = |volume: &Value| mount_secrets(volume).contains(&(namespace, name)) && self.uses(volume);
        match candidates.iter().any(|entry| serde_json::from_slice(&entry.value).is_ok_and(|volume| mounts(&volume))) {
            true => allow(),
            false => decision,
        }
    }

    /// Pods of `namespace` bound to this node. Mirror pods are the kubelet's own invention and give no rights. Pods whose bytes
    /// do not hold both names are not parsed.
    fn pods(&self, namespace: &str, mention: &str) -> impl Iterator<Item = Value> {
        let prefix = format!("{namespace}/");
        let (node, mention) = (self.node.to_owned(), mention.to_owned());
        let pods = Collection::new("core/pods");
        // The range borrows its prefix; entries are reference-counted, so taking them out is cheap.
        let entries: Vec<_> = self.snapshot.range(&pods, &prefix, None).cloned().collect();
        entries.into_iter().filter_map(move |entry| {
            if !contains(&entry.value, &node) || !contains(&entry.value, &mention) {
                return None;
            }
            let pod: Value = serde_json::from_slice(&entry.value).ok()?;
            let mine = pod["spec"]["nodeName"].as_str() == Some(&node);
            let mirror = pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
            (mine && !mirror).then_some(pod)
        })
    }

    fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        let entry = self.snapshot.get(&Key::new(&Collection::new(collection), namespace, name))?;
        serde_json::from_slice(&entry.value).ok()
    }

    fn pod_is_mine(&self, namespace: &str, name: &str) -> bool {
        self.get("core/pods", namespace, name).is_some_and(|pod| pod["spec"]["nodeName"].as_str() == Some(self.node))
    }

    fn uses_volume(&self, name: &str) -> bool {
        self.get("core/persistentvolumes", "", name).is_some_and(|volume| self.uses(&volume))
    }

    /// A volume is used through the claim that it is bound to.
    fn uses(&self, volume: &Value) -> bool {
        let (name, claim) = (&volume["metadata"]["name"], &volume["spec"]["claimRef"]);
        let (Some(namespace), Some(claim)) = (claim["namespace"].as_str(), claim["name"].as_str()) else {
            return false;
        };
        let bound = self.get("core/persistentvolumeclaims", namespace, claim).is_some_and(|claim| claim["spec"]["volumeName"] == *name);
        bound && self.pods(namespace, "").any(|pod| refers(&pod, Referent::VolumeClaim, claim))
    }

    fn attachment_is_mine(&self, name: &str) -> bool {
        let attachment = self.get("storage.k8s.io/volumeattachments", "", name);
        attachment.is_some_and(|attachment| attachment["spec"]["nodeName"].as_str() == Some(self.node))
    }

    /// A slice of the node's own devices. A create is decided by admission, which sees whose they are.
    fn own_slice(&self, request: &Attributes<'_>) -> Decision {
        let is_mine = || {
            let slice = self.get("resource.k8s.io/resourceslices", "", request.name);
            slice.is_some_and(|slice| slice["spec"]["nodeName"].as_str() == Some(self.node))
        };
        match request.verb {
            "create" => allow(),
            "get" | "update" | "patch" | "delete" if request.name.is_empty() => no_opinion("No Object name found"),
            "get" | "update" | "patch" | "delete" if is_mine() => allow(),
            "get" | "update" | "patch" | "delete" => self.no_relationship(),
            "list" | "watch" | "deletecollection" if request.selectors.require("spec.nodeName", self.node) => allow(),
            "list" | "watch" | "deletecollection" => {
                no_opinion("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
            }
            _ => no_opinion(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    /// A request for the certificate of a pod of this node. A create is decided by admission, which sees whose it is.
    fn own_pod_request(&self, request: &Attributes<'_>) -> Decision {
        let is_mine = || {
            let stored = self.get("certificates.k8s.io/podcertificaterequests", request.namespace, request.name);
            stored.is_some_and(|stored| stored["spec"]["nodeName"].as_str() == Some(self.node))
        };
        match request.verb {
            "create" => allow(),
            "get" if request.name.is_empty() => no_opinion("No Object name found"),
            "get" if is_mine() => allow(),
            "get" => self.no_relationship(),
            "list" | "watch" if request.selectors.require("spec.nodeName", self.node) => allow(),
            "list" | "watch" => no_opinion("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => no_opinion(&format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn own_lease(&self, request: &Attributes<'_>) -> Decision {
        if request.namespace != NODE_LEASES {
            return no_opinion("can only access leases in the \"kube-node-lease\" system namespace");
        }
        self.own_object(request)
    }

    /// An object named like the node. A create is decided by admission, which sees the name.
    fn own_object(&self, request: &Attributes<'_>) -> Decision {
        match request.verb {
            "get" | "update" | "patch" | "delete" if request.name != self.node => {
                no_opinion(&format!("can only access {} with the same name as the requesting node", request.resource))
            }
            "get" | "create" | "update" | "patch" | "delete" => by_rules(request),
            _ => no_opinion("can only get, create, update, patch, or delete a resource of this type"),
        }
    }
}

/// What a pod may refer to in its own namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Referent {
    Secret,
    /// A secret too, but for pulling images.
    PullSecret,
    ConfigMap,
    VolumeClaim,
    ResourceClaim,
    ServiceAccount,
}

/// Whether the pod's spec refers to the `kind` called `name`.
fn refers(pod: &Value, kind: Referent, name: &str) -> bool {
    let mut found = false;
    let wanted = |have| have == kind || (have == Referent::PullSecret && kind == Referent::Secret);
    visit_references(pod, &mut |have, referred| found |= wanted(have) && referred == name);
    found
}

/// Calls `visit` for every object of its namespace that the pod refers to: in init, ordinary and ephemeral containers alike
/// (CVE-2023-2728 was about those left out), in volumes, and as pull secrets.
pub(crate) fn visit_references(pod: &Value, visit: &mut dyn FnMut(Referent, &str)) {
    let spec = &pod["spec"];
    let mut name = |kind: Referent, value: &Value| {
        if let Some(name) = value.as_str().filter(|name| !name.is_empty()) {
            visit(kind, name);
        }
    };
    name(Referent::ServiceAccount, &spec["serviceAccountName"]);
    for pull in list(&spec["imagePullSecrets"]) {
        name(Referent::PullSecret, &pull["name"]);
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&spec[containers]) {
            for source in list(&container["envFrom"]) {
                name(Referent::Secret, &source["secretRef"]["name"]);
                name(Referent::ConfigMap, &source["configMapRef"]["name"]);
            }
            for variable in list(&container["env"]) {
                name(Referent::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
                name(Referent::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
        }
    }
    for volume in list(&spec["volumes"]) {
        name(Referent::Secret, &volume["secret"]["secretName"]);
        name(Referent::ConfigMap, &volume["configMap"]["name"]);
        name(Referent::VolumeClaim, &volume["persistentVolumeClaim"]["claimName"]);
        for source in list(&volume["projected"]["sources"]) {
            name(Referent::Secret, &source["secret"]["name"]);
            name(Referent::ConfigMap, &source["configMap"]["name"]);
        }
        // Drivers that take their credentials from a secret beside the pod.
        name(Referent::Secret, &volume["azureFile"]["secretName"]);
        name(Referent::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for driver in DRIVERS_WITH_SECRETS {
            name(Referent::Secret, &volume[driver]["secretRef"]["name"]);
        }
        if volume.get("ephemeral").is_some()
            && let (Some(pod), Some(volume)) = (pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            name(Referent::VolumeClaim, &Value::from(ephemeral_claim(pod, volume)));
        }
    }
    for claim in list(&spec["resourceClaims"]) {
        name(Referent::ResourceClaim, &claim["resourceClaimName"]);
    }
    for claim in list(&pod["status"]["resourceClaimStatuses"]) {
        name(Referent::ResourceClaim, &claim["resourceClaimName"]);
    }
}

/// The claim of a pod's ephemeral volume is named after both (component-helpers, storage/ephemeral, VolumeClaimName).
pub(crate) fn ephemeral_claim(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Namespaces and names of the secrets with which nodes mount a volume. Those for the driver's controllers are not among them
/// (api/v1/persistentvolume/util.go, VisitPVSecretNames).
fn mount_secrets(volume: &Value) -> Vec<(&str, &str)> {
    fn one<'a>(home: &'a str, namespace: &'a Value, name: &'a Value) -> Option<(&'a str, &'a str)> {
        let text = |value: &'a Value| value.as_str().filter(|text| !text.is_empty());
        Some((text(namespace).unwrap_or(home), text(name)?))
    }
    let spec = &volume["spec"];
    let home = spec["claimRef"]["namespace"].as_str().unwrap_or("");
    let mut secrets = vec![one(home, &spec["azureFile"]["secretNamespace"], &spec["azureFile"]["secretName"])];
    let drivers = DRIVERS_WITH_SECRETS.map(|driver| &spec[driver]["secretRef"]);
    let mounts = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"].map(|field| &spec["csi"][field]);
    secrets.extend(drivers.into_iter().chain(mounts).map(|reference| one(home, &reference["namespace"], &reference["name"])));
    secrets.into_iter().flatten().collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether `text` occurs in `bytes`. Names have no character that JSON escapes.
fn contains(bytes: &[u8], text: &str) -> bool {
    let text = text.as_bytes();
    let Some(&first) = text.first() else { return true };
    bytes.iter().enumerate().any(|(at, &byte)| byte == first && bytes[at..].starts_with(text))
}
