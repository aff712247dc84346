//! Protection controller.
//! Watches: PersistentVolumeClaim, PersistentVolume, VolumeAttributesClass, Pod.  Writes: their protection finalizers.
//! Converges: what is not being deleted has its finalizer (admission gives it to new objects); what is being deleted and unused has it no more, and goes.
//! Never: lets a claim go while a pod that is on a node names it, a bound volume, or a class that a claim or volume has.
//! Wakes: on change of the object, and of whoever used it.  Plan: [`plan`].  Act: [`set_finalizers`].

use std::{fmt, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::VolumeAttributesClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use knarr_client::{Change, Cluster, Informer, ObjectKey, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::owner;
use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

/// A protected object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Protected {
    Claim(ObjectKey),
    Volume(String),
    AttributesClass(String),
}

impl Protected {
    fn finalizer(&self) -> &'static str {
        match self {
            Protected::Claim(_) => "kubernetes.io/pvc-protection",
            Protected::Volume(_) => "kubernetes.io/pv-protection",
            Protected::AttributesClass(_) => "kubernetes.io/vac-protection",
        }
    }
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protected::Claim(key) => write!(f, "claim {key}"),
            Protected::Volume(name) => write!(f, "volume {name}"),
            Protected::AttributesClass(name) => write!(f, "volume attributes class {name}"),
        }
    }
}

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let controller = Protection {
        cluster: cluster.clone(),
        claims: cluster.informer(),
        volumes: cluster.informer(),
        classes: cluster.informer(),
        pods: cluster.informer(),
    };
    let queue = Arc::new(WorkQueue::default());
    controller.claims.subscribe({
        let queue = queue.clone();
        move |change| {
            queue.add(Protected::Claim(ObjectKey::of(&**change.object())));
            states(change).flat_map(classes_of_claim).for_each(|class| queue.add(Protected::AttributesClass(class.to_owned())));
        }
    });
    controller.volumes.subscribe({
        let queue = queue.clone();
        move |change| {
            queue.add(Protected::Volume(change.object().name_any()));
            states(change).filter_map(class_of_volume).for_each(|class| queue.add(Protected::AttributesClass(class.to_owned())));
        }
    });
    controller.classes.subscribe({
        let queue = queue.clone();
        move |change: &Change<VolumeAttributesClass>| queue.add(Protected::AttributesClass(change.object().name_any()))
    });
    controller.pods.subscribe({
        let (queue, claims) = (queue.clone(), controller.claims.clone());
        move |change| {
            let namespace = change.object().namespace().unwrap_or_default();
            for name in states(change).flat_map(claims_of) {
                // The others are not waiting for anybody.
                if claims.get(&namespace, &name).is_some_and(|claim| claim.metadata.deletion_timestamp.is_some()) {
                    queue.add(Protected::Claim(ObjectKey::new(&namespace, &name)));
                }
            }
        }
    });
    let (claims, volumes, classes, pods) =
        (controller.claims.clone(), controller.volumes.clone(), controller.classes.clone(), controller.pods.clone());
    runner.start(controller, queue, async move {
        claims.ready().await;
        volumes.ready().await;
        classes.ready().await;
        pods.ready().await;
    });
}

/// What the object is, and what it was before the change.
fn states<K>(change: &Change<K>) -> impl Iterator<Item = &K> {
    let before = match change {
        Change::Applied { old, .. } => old.as_deref(),
        Change::Deleted(_) => None,
    };
    [Some(&**change.object()), before].into_iter().flatten()
}

struct Protection {
    cluster: Cluster,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<VolumeAttributesClass>,
    pods: Informer<Pod>,
}

impl Controller for Protection {
    type Key = Protected;

    const NAME: &'static str = "storage-protection";

    async fn reconcile(&self, key: &Protected) -> Result<Activation, StepError> {
        let meta = match key {
            Protected::Claim(key) => self.claims.get(&key.namespace, &key.name).map(|claim| claim.metadata.clone()),
            Protected::Volume(name) => self.volumes.get("", name).map(|volume| volume.metadata.clone()),
            Protected::AttributesClass(name) => self.classes.get("", name).map(|class| class.metadata.clone()),
        };
        let mut activation = Activation::default();
        let Some((meta, finalizers)) = meta.and_then(|meta| plan(&meta, key.finalizer()).map(|finalizers| (meta, finalizers))) else {
            return Ok(activation);
        };
        if meta.deletion_timestamp.is_some() && self.is_used(key).await? {
            return Ok(activation);
        }
        match key {
            Protected::Claim(key) => set_finalizers(self.cluster.api::<PersistentVolumeClaim>(&key.namespace), &meta, &finalizers).await?,
            Protected::Volume(_) => set_finalizers(self.cluster.all::<PersistentVolume>(), &meta, &finalizers).await?,
            Protected::AttributesClass(_) => set_finalizers(self.cluster.all::<VolumeAttributesClass>(), &meta, &finalizers).await?,
        }
        let deed = if meta.deletion_timestamp.is_some() { "let go of" } else { "protect" };
        activation.changed(format!("{deed} {key}"));
        Ok(activation)
    }
}

impl Protection {
    async fn is_used(&self, key: &Protected) -> Result<bool, StepError> {
        match key {
            Protected::Claim(key) => {
                let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(false) };
                if self.pods.snapshot().values().any(|pod| uses(pod, &claim)) {
                    return Ok(true);
                }
                // A pod may have come that the watch has not told of yet.
                let pods = self.cluster.api::<Pod>(&key.namespace).list(&ListParams::default()).await;
                Ok(pods.step(|| "list the pods that may use the claim".to_owned())?.iter().any(|pod| uses(pod, &claim)))
            }
            Protected::Volume(name) => {
                let phase = |volume: &PersistentVolume| volume.status.as_ref().and_then(|status| status.phase.clone());
                Ok(self.volumes.get("", name).is_some_and(|volume| phase(&volume).as_deref() == Some("Bound")))
            }
            Protected::AttributesClass(name) => {
                let claimed = self.claims.snapshot().values().any(|claim| classes_of_claim(claim).any(|class| class == name));
                Ok(claimed || self.volumes.snapshot().values().any(|volume| class_of_volume(volume) == Some(name.as_str())))
            }
        }
    }
}

/// The finalizers that the object should have if it is unused; none where it has them.
fn plan(meta: &ObjectMeta, finalizer: &str) -> Option<Vec<String>> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|other| other == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (true, true) => finalizers.retain(|other| other != finalizer),
        (false, false) => finalizers.push(finalizer.to_owned()),
        _ => return None,
    }
    Some(finalizers)
}

/// Of exactly the state that was looked at: whoever changed it meanwhile is not undone.
async fn set_finalizers<K>(api: Api<K>, meta: &ObjectMeta, finalizers: &[String]) -> Result<(), StepError>
where
    K: kube::Resource + Clone + fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}}));
    let name = meta.name.as_deref().unwrap_or_default();
    api.patch_metadata(name, &PatchParams::default(), &patch).await.map(drop).step(|| "write the protection finalizer".to_owned())
}

/// The names of the claims that a pod's volumes stand for.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    })
}

/// Only pods that are on a node: others are not started with a claim that goes. An ephemeral claim may go with its pod, once the kubelet is done.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.name_any();
    let spec = pod.spec.as_ref().filter(|spec| spec.node_name.as_ref().is_some_and(|node| !node.is_empty()));
    let is_done = pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0);
    let ephemeral = |volume: &str| !is_done && format!("{}-{volume}", pod.name_any()) == name && owner::controlled_by(&claim.metadata, pod);
    pod.metadata.namespace == claim.metadata.namespace
        && spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
            volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == name)
                || volume.ephemeral.is_some() && ephemeral(&volume.name)
        })
}

/// The classes that a claim has, had, or is on the way to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.as_deref());
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    [claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()), current, target].into_iter().flatten()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the claim `a/data`, of the pod with the uid `1` if it is of any, is used.
    fn check(pod: serde_json::Value, owner: Option<&str>, expected: bool) {
        let mut claim = json!({"metadata": {"name": "web-data", "namespace": "a"}});
        if let Some(uid) = owner {
            claim["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid, "controller": true}]);
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let text = pod.to_string();
        assert_eq!(uses(&serde_json::from_value(pod).unwrap(), &claim), expected, "{text}");
    }

    #[test]
    fn pods_on_nodes_use_their_claims() {
        let pod = |namespace: &str, node: &str, volume: serde_json::Value| {
            json!({"metadata": {"name": "web", "namespace": namespace, "uid": "1"},
                "spec": {"nodeName": node, "containers": [], "volumes": [volume]}})
        };
        let named = json!({"name": "data", "persistentVolumeClaim": {"claimName": "web-data"}});
        let ephemeral = json!({"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
        check(pod("a", "n1", named.clone()), None, true);
        check(pod("a", "", named.clone()), None, false);
        check(pod("b", "n1", named.clone()), None, false);
        check(pod("a", "n1", ephemeral.clone()), Some("1"), true);
        check(pod("a", "n1", ephemeral.clone()), Some("2"), false);
        let gone = |mut pod: serde_json::Value| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            pod
        };
        check(gone(pod("a", "n1", ephemeral)), Some("1"), false);
        check(gone(pod("a", "n1", named)), None, true);
    }

    #[test]
    fn the_finalizer_comes_and_goes_and_others_stay() {
        let meta = |going: bool, finalizers: &[&str]| ObjectMeta {
            deletion_timestamp: going.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap()),
            finalizers: Some(finalizers.iter().map(|&finalizer| finalizer.to_owned()).collect()),
            ..ObjectMeta::default()
        };
        for (going, has, expected) in [
            (false, &["x"][..], Some("x p")),
            (false, &["p"], None),
            (true, &["x", "p", "y"], Some("x y")),
            (true, &["p"], Some("")),
            (true, &["x"], None),
        ] {
            assert_eq!(plan(&meta(going, has), "p").map(|finalizers| finalizers.join(" ")).as_deref(), expected, "{has:?}");
        }
    }
}
