//! Node controller.
//! Watches: Node, Lease (of nodes), Pod.  Writes: Node.status conditions, Node.spec.taints, Node.spec.podCIDR; Pod.status; deletes Pods.
//! Converges: a node that no longer renews its lease is Unknown and tainted; its pods go when their tolerations end; each node has its own
//! part of the pods' addresses; no pod stays bound to a node that is gone.
//! Never: changes a condition of a node that renews its lease; gives two nodes the same addresses; takes a pod from a node that may come back
//! before the server was asked.
//! Wakes: on change, when a lease runs out, and when a toleration ends.  Plan: [`plan`].  Act: [`Nodes::apply`].

mod cidr;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use knarr_client::{Change, Cluster, EventType, Informer, Recorder, WorkQueue};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use plan::{Input, Plan, plan};

/// The namespace of the nodes' leases.
const LEASES: &str = "metadata.namespace=kube-node-lease";

/// Pods of a node that is gone are left alone for this long: it may only be registering anew (gc_controller.go, quarantineTime).
const GONE_GRACE: SignedDuration = SignedDuration::from_secs(40);

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner, cluster_cidr: Option<IpNet>) {
    let nodes = cluster.informer::<Node>();
    let pods = cluster.informer::<Pod>();
    let leases = cluster.informer_with::<Lease>(LEASES);
    let queue = Arc::new(WorkQueue::default());
    nodes.subscribe({
        let queue = Arc::clone(&queue);
        move |change| queue.add(change.object().name_any())
    });
    pods.subscribe({
        let (queue, nodes) = (Arc::clone(&queue), nodes.clone());
        move |change| {
            // Only a pod that is new on its node, or has become ready there, can make a difference.
            let Change::Applied { old, new } = change else { return };
            let Some(name) = node_of(new) else { return };
            if old.as_ref().is_some_and(|old| node_of(old).is_some() && old.metadata.uid == new.metadata.uid) {
                return;
            }
            if nodes.get("", name).is_none_or(|node| plan::needs_pods(&node)) {
                queue.add(name.to_owned());
            }
        }
    });
    let controller = Nodes {
        cluster: cluster.clone(),
        recorder: cluster.recorder("node-controller", ""),
        nodes: nodes.clone(),
        pods: pods.clone(),
        leases: leases.clone(),
        cluster_cidr,
        started: Timestamp::now(),
        given: tokio::sync::Mutex::default(),
        gone: Mutex::default(),
    };
    runner.start(controller, queue, async move {
        nodes.ready().await;
        pods.ready().await;
        leases.ready().await;
    });
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

struct Nodes {
    cluster: Cluster,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    leases: Informer<Lease>,
    cluster_cidr: Option<IpNet>,
    /// Leases are written lazily: those from before the start may be older than the node's last word.
    started: Timestamp,
    /// Parts given to nodes that the informer may not show yet. Held while one is chosen.
    given: tokio::sync::Mutex<HashMap<String, IpNet>>,
    /// Since when a node that pods are bound to has been missing.
    gone: Mutex<HashMap<String, Timestamp>>,
}

impl Controller for Nodes {
    type Key = String;

    const NAME: &'static str = "node";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let now = Timestamp::now();
        let Some(node) = self.nodes.get("", name) else {
            self.given.lock().await.remove(name);
            return self.sweep(name, now).await;
        };
        self.gone.lock().remove(name);
        let lease = self.leases.get("kube-node-lease", name);
        let renewed = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let input = Input { node: &node, heartbeat: renewed.map_or(self.started, |renewed| renewed.max(self.started)), now };
        let pods = if plan::needs_pods(&node) || input.is_stale() { self.pods_on(name) } else { Vec::new() };
        let plan = plan(&input, &pods);
        let mut activation = self.apply(name, &node, &plan).await?;
        if self.give_addresses(name, &node).await? {
            activation.changed("give addresses");
        }
        Ok(activation)
    }
}

impl Nodes {
    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        self.pods.list().into_iter().filter(|pod| node_of(pod) == Some(node)).collect()
    }

    async fn apply(&self, name: &str, node: &Node, plan: &Plan) -> Result<Activation, StepError> {
        let mut activation = Activation { wake: plan.wake, ..Activation::default() };
        let nodes: Api<Node> = self.cluster.all();
        if let Some(conditions) = &plan.conditions {
            let patch = json!({ "metadata": { "uid": node.metadata.uid }, "status": { "conditions": conditions } });
            nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.step(|| "write conditions".to_owned())?;
            self.recorder.record(node, EventType::Normal, "NodeNotReady", &format!("Node {name} status is now: NodeNotReady"));
            activation.changed("conditions unknown");
        }
        if let Some(taints) = &plan.taints {
            // The list is written whole: it must be the one that was read.
            let patch = json!({ "metadata": { "resourceVersion": node.metadata.resource_version }, "spec": { "taints": taints } });
            match nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // Our own write of the conditions came in between; its event brings us back.
                Err(kube::Error::Api(status)) if status.code == 409 && plan.conditions.is_some() => (),
                result => drop(result.step(|| "write taints".to_owned())?),
            }
            activation.changed("taints");
        }
        for pod in &plan.unready {
            let condition =
                json!([{ "type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": seconds(plan.now) }]);
            self.patch_pod_status(pod, json!({ "conditions": condition })).await?;
            activation.changed(format!("unready {}", pod.name_any()));
        }
        for pod in &plan.evict {
            let reason = "Taint manager: deleting due to NoExecute taint";
            self.remove(pod, None, "DeletionByTaintManager", reason, plan.now).await?;
            self.recorder.record(
                &**pod,
                EventType::Normal,
                "TaintManagerEviction",
                &format!("Marking for deletion Pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
            );
            activation.changed(format!("evict {}", pod.name_any()));
        }
        Ok(activation)
    }

    async fn patch_pod_status(&self, pod: &Pod, status: Value) -> Result<(), StepError> {
        let pods: Api<Pod> = self.cluster.api(&pod.namespace().unwrap_or_default());
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
        match pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            // Gone, or another of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            result => result.step(|| format!("write the status of pod {}", pod.name_any())).map(drop),
        }
    }

    /// Deletes a pod and leaves word why. `grace_s`: `None` for the pod's own.
    async fn remove(&self, pod: &Pod, grace_s: Option<u32>, reason: &str, message: &str, now: Timestamp) -> Result<(), StepError> {
        let mut status = json!({ "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": seconds(now),
        }] });
        let finished = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
        if grace_s == Some(0) && !finished {
            status["phase"] = "Failed".into();
        }
        self.patch_pod_status(pod, status).await?;
        let pods: Api<Pod> = self.cluster.api(&pod.namespace().unwrap_or_default());
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), grace_period_seconds: grace_s, ..DeleteParams::default() };
        match pods.delete(&pod.name_any(), &params).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            result => result.step(|| format!("delete pod {}", pod.name_any())).map(drop),
        }
    }

    /// Removes the pods of a node that is gone: nobody else will.
    async fn sweep(&self, name: &str, now: Timestamp) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let pods = self.pods_on(name);
        if pods.is_empty() {
            self.gone.lock().remove(name);
            return Ok(activation);
        }
        let since = *self.gone.lock().entry(name.to_owned()).or_insert(now);
        let left = GONE_GRACE - now.duration_since(since);
        if left.is_positive() {
            activation.wake = Some(left.unsigned_abs());
            return Ok(activation);
        }
        let nodes: Api<Node> = self.cluster.all();
        if nodes.get_metadata_opt(name).await.step(|| format!("look for node {name}"))?.is_some() {
            return Ok(activation);
        }
        for pod in pods {
            self.remove(&pod, Some(0), "DeletionByPodGC", "PodGC: node no longer exists", now).await?;
            activation.changed(format!("remove {}", pod.name_any()));
        }
        Ok(activation)
    }

    /// Gives a node without addresses for its pods the first part that is free.
    async fn give_addresses(&self, name: &str, node: &Node) -> Result<bool, StepError> {
        let has = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).and_then(|cidr| cidr.parse::<IpNet>().ok());
        let Some(cluster_cidr) = self.cluster_cidr.filter(|_| has(node).is_none()) else { return Ok(false) };
        let mut given = self.given.lock().await;
        let taken: Vec<IpNet> = self.nodes.list().iter().filter_map(|node| has(node)).chain(given.values().copied()).collect();
        let part = match given.get(name) {
            Some(part) => *part,
            None => match cidr::first_free(cluster_cidr, &taken) {
                Some(part) => part,
                None => {
                    self.recorder.record(
                        node,
                        EventType::Warning,
                        "CIDRNotAvailable",
                        &format!("Node {name} status is now: CIDRNotAvailable"),
                    );
                    return Ok(false);
                }
            },
        };
        let nodes: Api<Node> = self.cluster.all();
        let patch = json!({ "metadata": { "uid": node.metadata.uid }, "spec": { "podCIDR": part, "podCIDRs": [part] } });
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "give addresses".to_owned())?;
        given.insert(name.to_owned(), part);
        Ok(true)
    }
}

/// RFC 3339 to the second, as the API writes times.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
