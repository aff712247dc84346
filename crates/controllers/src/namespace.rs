//! Namespace controller.
//! Watches: Namespace; the metadata of every kind.  Writes: deletes what is in a namespace that is being deleted; Namespace.status; Namespace.spec.finalizers.
//! Converges: a namespace that is being deleted becomes empty, and then goes.
//! Never: touches a namespace that is not being deleted; lets one go before every kind was listed and found empty, or while a server does not
//! tell its kinds.
//! Wakes: on change.  Plan: [`plan`].  Act: [`Namespaces::apply`].

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use knarr_client::{Cluster, Informer, WorkQueue};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use crate::world::{Resource, Told, World};
use plan::{Plan, plan};

/// The finalizer of `spec.finalizers` that is ours to remove.
const FINALIZER: &str = "kubernetes";

/// A namespace that waits for a server to tell its kinds looks again after this. Its answer is learnt at once, but wakes no namespace.
const SILENT_AGAIN: Duration = Duration::from_secs(5);

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let namespaces = cluster.informer::<Namespace>();
    let queue = Arc::new(WorkQueue::default());
    namespaces.subscribe({
        let queue = Arc::clone(&queue);
        move |change| {
            if is_deleting(change.object()) {
                queue.add(change.object().name_any());
            }
        }
    });
    world.subscribe({
        let (queue, namespaces) = (Arc::clone(&queue), namespaces.clone());
        move |told| {
            let (Told::Applied { new: item, .. } | Told::Deleted(item)) = told;
            let namespace = &item.key.namespace;
            if !namespace.is_empty() && namespaces.get("", namespace).is_some_and(|namespace| is_deleting(&namespace)) {
                queue.add(namespace.clone());
            }
        }
    });
    let synced = (namespaces.clone(), Arc::clone(world));
    let controller = Namespaces { cluster: cluster.clone(), namespaces, world: Arc::clone(world) };
    runner.start(controller, queue, async move {
        synced.0.ready().await;
        synced.1.ready().await;
    });
}

fn is_deleting(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

struct Namespaces {
    cluster: Cluster,
    namespaces: Informer<Namespace>,
    world: Arc<World>,
}

impl Controller for Namespaces {
    type Key = String;

    const NAME: &'static str = "namespace";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let Some(namespace) = self.namespaces.get("", name).filter(|namespace| is_deleting(namespace)) else {
            return Ok(Activation::default());
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
        if !finalizers.is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER)) {
            return Ok(Activation::default());
        }
        let plan = plan(&self.world.in_namespace(name), &self.world.resources(), self.world.silent());
        self.apply(name, &namespace, plan).await
    }
}

impl Namespaces {
    async fn apply(&self, name: &str, namespace: &Namespace, mut plan: Plan) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let mut failed = None;
        for resource in &plan.delete {
            match self.delete_all(resource, name).await {
                Ok(()) => activation.changed(format!("delete all {}", resource.qualified())),
                Err(error) => {
                    plan.failures.push(error.brief());
                    failed = Some(error);
                }
            }
        }
        let empty = plan.is_empty() && plan.silent.is_empty() && failed.is_none() && self.is_empty(name).await?;
        let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let conditions = plan.conditions(&old, Timestamp::now());
        if conditions != old {
            let namespaces: Api<Namespace> = self.cluster.all();
            let patch =
                json!({ "metadata": { "uid": namespace.metadata.uid }, "status": { "phase": "Terminating", "conditions": conditions } });
            namespaces.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "write status".to_owned())?;
            activation.changed("status");
        }
        if let Some(error) = failed {
            return Err(error);
        }
        activation.wake = (!plan.silent.is_empty()).then_some(SILENT_AGAIN);
        if empty {
            self.finalize(name).await?;
            activation.changed("finalize");
        }
        Ok(activation)
    }

    async fn delete_all(&self, resource: &Resource, namespace: &str) -> Result<(), StepError> {
        let api = resource.in_namespace(self.world.client(), namespace);
        let step = || format!("delete all {}", resource.qualified());
        if resource.collection_deletable {
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.step(step)?;
            return Ok(());
        }
        for item in self.world.in_namespace(namespace).iter().filter(|item| item.resource.api == resource.api && !item.deleting) {
            match api.delete(&item.key.name, &DeleteParams::background()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => (),
                result => drop(result.step(step)?),
            }
        }
        Ok(())
    }

    /// Asks the server: the watches may be late, and some kinds are not watched. Nothing new can come about in a namespace that is being deleted.
    async fn is_empty(&self, namespace: &str) -> Result<bool, StepError> {
        for resource in self.world.resources().iter().filter(|resource| resource.namespaced) {
            let api = resource.in_namespace(self.world.client(), namespace);
            let step = || format!("list {}", resource.qualified());
            if !resource.watched {
                api.delete_collection(&DeleteParams::background(), &ListParams::default()).await.step(step)?;
            }
            let left = api.list_metadata(&ListParams::default().limit(1)).await.step(step)?;
            if !left.items.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn finalize(&self, name: &str) -> Result<(), StepError> {
        let namespaces: Api<Namespace> = self.cluster.all();
        let Some(mut namespace) = namespaces.get_opt(name).await.step(|| "get the namespace".to_owned())? else { return Ok(()) };
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        match namespaces.replace_subresource("finalize", name, &PostParams::default(), &namespace).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.step(|| "finalize".to_owned()).map(drop),
        }
    }
}
