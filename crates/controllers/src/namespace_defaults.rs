//! Namespace defaults controller.
//! Watches: Namespace, ServiceAccount, ConfigMap.  Writes: ServiceAccount `default`, ConfigMap `kube-root-ca.crt`.
//! Converges: every namespace that is not being deleted has both, and the ConfigMap holds the cluster's authority.
//! Never: touches another ServiceAccount or ConfigMap.
//! Wakes: on change.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use knarr_client::{Cluster, Informer, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

const SERVICE_ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";

/// What the ConfigMap says of itself to who finds it.
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the API server when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner, root_ca: &str) {
    let namespaces = cluster.informer::<Namespace>();
    let accounts = cluster.informer_with::<ServiceAccount>(&format!("metadata.name={SERVICE_ACCOUNT}"));
    let bundles = cluster.informer_with::<ConfigMap>(&format!("metadata.name={ROOT_CA}"));
    let queue = Arc::new(WorkQueue::default());
    namespaces.subscribe({
        let queue = queue.clone();
        move |change| queue.add(change.object().name_any())
    });
    accounts.subscribe({
        let queue = queue.clone();
        move |change| queue.add(change.object().namespace().unwrap_or_default())
    });
    bundles.subscribe({
        let queue = queue.clone();
        move |change| queue.add(change.object().namespace().unwrap_or_default())
    });
    let controller = NamespaceDefaults { cluster: cluster.clone(), namespaces, accounts, bundles, root_ca: root_ca.to_owned() };
    let (namespaces, accounts, bundles) = (controller.namespaces.clone(), controller.accounts.clone(), controller.bundles.clone());
    runner.start(controller, queue, async move {
        namespaces.ready().await;
        accounts.ready().await;
        bundles.ready().await;
    });
}

struct NamespaceDefaults {
    cluster: Cluster,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    bundles: Informer<ConfigMap>,
    root_ca: String,
}

impl Controller for NamespaceDefaults {
    type Key = String;

    const NAME: &'static str = "namespace-defaults";

    async fn reconcile(&self, namespace: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let alive = self.namespaces.get("", namespace).is_some_and(|found| found.metadata.deletion_timestamp.is_none());
        if !alive {
            return Ok(activation);
        }
        let meta = |name: &str| ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.clone()), ..ObjectMeta::default() };
        if self.accounts.get(namespace, SERVICE_ACCOUNT).is_none() {
            let account = ServiceAccount { metadata: meta(SERVICE_ACCOUNT), ..ServiceAccount::default() };
            let accounts: Api<ServiceAccount> = self.cluster.api(namespace);
            accounts.create(&PostParams::default(), &account).await.step(|| "create the default service account".to_owned())?;
            activation.changed("create service account default");
        }
        let data = [("ca.crt".to_owned(), self.root_ca.clone())].into();
        let bundles: Api<ConfigMap> = self.cluster.api(namespace);
        match self.bundles.get(namespace, ROOT_CA) {
            None => {
                let description = [("kubernetes.io/description".to_owned(), ROOT_CA_DESCRIPTION.to_owned())].into();
                let bundle = ConfigMap {
                    metadata: ObjectMeta { annotations: Some(description), ..meta(ROOT_CA) },
                    data: Some(data),
                    ..ConfigMap::default()
                };
                bundles.create(&PostParams::default(), &bundle).await.step(|| "create the CA bundle".to_owned())?;
                activation.changed("create config map kube-root-ca.crt");
            }
            Some(bundle) if bundle.data.as_ref() != Some(&data) => {
                // Each key that is not ours goes: pods mount the whole.
                let mut patch = json!({ "data": data });
                for key in bundle.data.iter().flat_map(|data| data.keys()).filter(|key| *key != "ca.crt") {
                    patch["data"][key] = serde_json::Value::Null;
                }
                bundles.patch(ROOT_CA, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "mend the CA bundle".to_owned())?;
                activation.changed("mend config map kube-root-ca.crt");
            }
            Some(_) => {}
        }
        Ok(activation)
    }
}
