//! The quota controller with the real API server: what is used is counted, and room comes back.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};

use crate::world::{DEADLINE, World};

impl World {
    async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let object: K = serde_json::from_value(object).expect("an object of its kind");
        Api::<K>::default_namespaced(self.client.clone()).create(&PostParams::default(), &object).await.expect("created");
    }

    /// Waits until the quota says that this is used.
    async fn used(&self, expected: Value) {
        let quotas: Api<ResourceQuota> = Api::default_namespaced(self.client.clone());
        let mut states = std::pin::pin!(watcher(quotas, watcher::Config::default()).applied_objects());
        let mut last = Value::Null;
        let seen = tokio::time::timeout(DEADLINE, async {
            while let Some(state) = states.next().await {
                let status = state.expect("the watch goes on").status.unwrap_or_default();
                last = serde_json::to_value(status.used).expect("JSON");
                if last == expected {
                    return;
                }
            }
        });
        assert!(seen.await.is_ok(), "used is {last}, and not {expected}");
    }
}

#[tokio::test]
async fn what_is_used_is_counted_and_comes_back() {
    let world = World::start().await;
    let config_map = |name: &str| json!({"metadata": {"name": name}});
    let pod = |name: &str| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}}});
        json!({"metadata": {"name": name}, "spec": {"containers": [container], "automountServiceAccountToken": false}})
    };
    world.create::<ConfigMap>(config_map("before")).await;
    let account = json!({"metadata": {"name": "default"}});
    drop(
        Api::<k8s_openapi::api::core::v1::ServiceAccount>::default_namespaced(world.client.clone())
            .create(&PostParams::default(), &serde_json::from_value(account).expect("an account"))
            .await,
    );
    let hard = json!({"count/configmaps": "9", "pods": "3", "requests.cpu": "2", "count/leases.coordination.k8s.io": "1"});
    world.create::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).await;
    let used = |config_maps: &str, pods: &str, cpu: &str| json!({"count/configmaps": config_maps, "pods": pods, "requests.cpu": cpu, "count/leases.coordination.k8s.io": "0"});
    // `before`, and the authority's bundle of the namespace.
    world.used(used("2", "0", "0")).await;
    world.create::<Pod>(pod("a")).await;
    world.create::<Pod>(pod("b")).await;
    world.used(used("2", "2", "1")).await;
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    pods.delete("a", &DeleteParams::default()).await.expect("deleted");
    world.used(used("2", "1", "500m")).await;
    let ended = json!({"status": {"phase": "Succeeded"}});
    pods.patch_status("b", &PatchParams::default(), &Patch::Merge(ended)).await.expect("ended");
    world.used(used("2", "0", "0")).await;
    let config_maps: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    config_maps.delete("before", &DeleteParams::default()).await.expect("deleted");
    world.used(used("1", "0", "0")).await;
}
