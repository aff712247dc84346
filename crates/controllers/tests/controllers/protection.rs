//! The protection controller with the real API server: what is used stays until it is not, and what is unused goes.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount},
    storage::v1::VolumeAttributesClass,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::world::{DEADLINE, World};

async fn create<K: Clone + DeserializeOwned + Serialize + std::fmt::Debug>(api: &Api<K>, object: Value) -> K {
    api.create(&PostParams::default(), &serde_json::from_value(object).expect("an object of its kind")).await.expect("created")
}

/// Deletes it; says whether it was still there afterwards, kept by `finalizer`.
async fn delete<K>(api: &Api<K>, name: &str, finalizer: &str) -> K
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    api.delete(name, &DeleteParams::default()).await.expect("deleted");
    let kept = api.get(name).await.expect("it is used");
    assert!(kept.meta().deletion_timestamp.is_some());
    assert_eq!(kept.meta().finalizers.as_deref(), Some(&[finalizer.to_owned()][..]));
    kept
}

async fn gone<K>(api: Api<K>, name: &str)
where
    K: kube::Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let gone = await_condition(api, name, |object: Option<&K>| object.is_none());
    tokio::time::timeout(DEADLINE, gone).await.expect("gone in time").expect("the watch goes on");
}

#[tokio::test]
async fn a_claim_goes_when_its_last_pod_has_gone() {
    let world = World::start().await;
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client.clone());
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    let accounts: Api<ServiceAccount> = Api::default_namespaced(world.client.clone());
    let account = await_condition(accounts, "default", |account: Option<&ServiceAccount>| account.is_some());
    tokio::time::timeout(DEADLINE, account).await.expect("an account in time").expect("the watch goes on");
    for name in ["used", "unused"] {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        create(&claims, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "used"}});
    let spec =
        json!({"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "volumes": [volume], "automountServiceAccountToken": false});
    create(&pods, json!({"metadata": {"name": "p"}, "spec": spec})).await;
    claims.delete("unused", &DeleteParams::default()).await.expect("deleted");
    gone(claims.clone(), "unused").await;
    delete(&claims, "used", "kubernetes.io/pvc-protection").await;
    pods.delete("p", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    gone(claims, "used").await;
}

#[tokio::test]
async fn a_bound_volume_and_a_class_in_use_stay() {
    let world = World::start().await;
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let classes: Api<VolumeAttributesClass> = Api::all(world.client.clone());
    create(&classes, json!({"metadata": {"name": "fast"}, "driverName": "d.io", "parameters": {"iops": "9"}})).await;
    let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s",
        "volumeAttributesClassName": "fast", "csi": {"driver": "d.io", "volumeHandle": "h"}});
    create(&volumes, json!({"metadata": {"name": "v"}, "spec": spec})).await;
    let phase = |phase: &str| Patch::Merge(json!({"status": {"phase": phase}}));
    volumes.patch_status("v", &PatchParams::default(), &phase("Bound")).await.expect("bound");
    delete(&classes, "fast", "kubernetes.io/vac-protection").await;
    delete(&volumes, "v", "kubernetes.io/pv-protection").await;
    volumes.patch_status("v", &PatchParams::default(), &phase("Released")).await.expect("released");
    gone(volumes, "v").await;
    gone(classes, "fast").await;
}
