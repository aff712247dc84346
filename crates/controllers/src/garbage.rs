//! Garbage collector.
//! Watches: the metadata of every kind.  Writes: deletes objects whose owners are gone; metadata.ownerReferences, metadata.finalizers; Events.
//! Converges: no object has only owners that do not exist; an object that is being deleted in the foreground goes after its dependents, one that
//! is being orphaned after its dependents have forgotten it.
//! Never: deletes an object with an owner that exists; believes an owner gone without having asked the server.
//! Wakes: on change.  Plan: [`plan`].  Act: [`Collector::apply`].

mod plan;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_client::{Cluster, EventType, Recorder, WorkQueue};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::json;

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use crate::world::{Item, Told, World};
use plan::{Action, Judgement, Owner, judge, plan};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// An orphaning that waits for the kinds whose objects are not listed yet looks again after this.
const UNLISTED_AGAIN: Duration = Duration::from_secs(5);

/// Owners known to be gone, so that a thousand pods of one owner ask once. Upstream remembers 500 (garbagecollector.go, absentOwnerCache), and
/// as here by all that a reference says: who names a uid falsely must not make it absent for those who name it rightly.
const ABSENT_MAX: usize = 500;

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let queue = Arc::new(WorkQueue::default());
    world.subscribe({
        let (queue, world) = (Arc::clone(&queue), Arc::downgrade(world));
        move |told| {
            let Some(world) = world.upgrade() else { return };
            wake(told, &world, &queue);
        }
    });
    let synced = Arc::clone(world);
    let recorder = cluster.recorder("garbage-collector-controller", "");
    runner.start(Collector { world: Arc::clone(world), recorder, absent: Mutex::default() }, queue, async move { synced.ready().await });
}

fn wake(told: &Told, world: &World, queue: &WorkQueue<String>) {
    let dependents = |uid: &str| world.dependents(uid).iter().for_each(|dependent| queue.add(dependent.uid.clone()));
    // An owner that waits for its dependents looks at them again.
    let owners = |item: &Item| item.owners.iter().for_each(|owner| queue.add(owner.uid.clone()));
    match told {
        Told::Applied { old, new } => {
            let began = new.deleting && old.as_ref().is_none_or(|old| !old.deleting || old.finalizers != new.finalizers);
            let other_owners = old.as_ref().is_none_or(|old| old.owners != new.owners);
            if began || (other_owners && !new.owners.is_empty()) {
                queue.add(new.uid.clone());
            }
            if began && new.has_finalizer(FOREGROUND) {
                dependents(&new.uid);
            }
            if let Some(old) = old.as_ref().filter(|_| other_owners) {
                owners(old);
            }
        }
        Told::Deleted(item) => {
            dependents(&item.uid);
            owners(item);
        }
    }
}

struct Collector {
    world: Arc<World>,
    recorder: Recorder,
    absent: Mutex<Absent>,
}

/// An owner as a dependent names it: the dependent's namespace, and the reference's version, kind, name and uid.
type Named = [String; 5];

fn named(item: &Item, reference: &OwnerReference) -> Named {
    let OwnerReference { api_version, kind, name, uid, .. } = reference.clone();
    [item.key.namespace.clone(), api_version, kind, name, uid]
}

#[derive(Default)]
struct Absent {
    owners: HashSet<Named>,
    order: VecDeque<Named>,
}

impl Absent {
    fn insert(&mut self, owner: Named) {
        if self.owners.insert(owner.clone()) {
            self.order.push_back(owner);
        }
        if self.order.len() > ABSENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.owners.remove(&oldest);
        }
    }
}

impl Controller for Collector {
    /// The uid of an object.
    type Key = String;

    const NAME: &'static str = "garbage-collector";

    async fn reconcile(&self, uid: &String) -> Result<Activation, StepError> {
        let Some(item) = self.world.get(uid) else { return Ok(Activation::default()) };
        let mut owners = Vec::with_capacity(item.owners.len());
        for reference in &item.owners {
            owners.push((reference.clone(), self.owner(&item, reference).await?));
        }
        let action = plan(&item, &owners, &self.world.dependents(uid));
        self.apply(&item, &action).await
    }
}

impl Collector {
    async fn owner(&self, item: &Item, reference: &OwnerReference) -> Result<Owner, StepError> {
        let resource = self.world.resource_of(reference);
        match judge(item, reference, self.world.get(&reference.uid).as_deref(), resource.as_deref()) {
            Judgement::Is(owner) => return Ok(owner),
            Judgement::OutOfReach(owner) => {
                self.complain(item, reference);
                return Ok(owner);
            }
            Judgement::Ask => {}
        }
        let owner = named(item, reference);
        if self.absent.lock().owners.contains(&owner) {
            return Ok(Owner::Absent);
        }
        // What is not watched may be there all the same, and what is may be late.
        let Some(resource) = resource else { return Ok(Owner::Unknown) };
        let api = resource.in_namespace(self.world.client(), &item.key.namespace);
        let found = api.get_metadata_opt(&reference.name).await.step(|| format!("look for owner {} {}", reference.kind, reference.name))?;
        if found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&reference.uid)) {
            return Ok(Owner::Present);
        }
        self.absent.lock().insert(owner);
        Ok(Owner::Absent)
    }

    /// In upstream's words (graph_builder.go, reportInvalidNamespaceOwnerRef).
    fn complain(&self, item: &Item, reference: &OwnerReference) {
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let namespace = &item.key.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
        );
        let object = ObjectReference {
            api_version: Some(item.resource.api.api_version.clone()),
            kind: Some(item.resource.api.kind.clone()),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(item.key.name.clone()),
            uid: Some(item.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.record_ref(&object, EventType::Warning, "OwnerRefInvalidNamespace", &message);
    }

    async fn apply(&self, item: &Item, action: &Action) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        match action {
            Action::Keep => (),
            Action::Delete(policy) => {
                self.delete(item, policy.clone()).await?;
                activation.changed(format!("delete {item}"));
            }
            Action::Unlink(gone) => {
                self.set_owners(item, item.owners.iter().filter(|owner| !gone.contains(&owner.uid)).collect()).await?;
                activation.changed(format!("unlink {item} from owners that are gone"));
            }
            Action::Unblock => {
                let unblocked: Vec<OwnerReference> =
                    item.owners.iter().map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() }).collect();
                self.set_owners(item, unblocked.iter().collect()).await?;
                self.delete(item, PropagationPolicy::Foreground).await?;
                activation.changed(format!("break the circle at {item}"));
            }
            // Dependents that are not known yet would be deleted later, as those of an owner that is gone. Of the core group all are known soon, but
            // for Secrets whose key service is silent; custom resources that cannot be listed may never be, and hold up nobody.
            Action::Orphan if self.world.unlisted().iter().any(|version| version == "v1") => {
                tracing::info!(%item, "its deletion waits: dependents among Secrets would be lost, which cannot be listed yet");
                activation.wake = Some(UNLISTED_AGAIN);
            }
            Action::Orphan => {
                for dependent in self.world.dependents(&item.uid) {
                    self.set_owners(&dependent, dependent.owners.iter().filter(|owner| owner.uid != item.uid).collect()).await?;
                    activation.changed(format!("orphan {dependent}"));
                }
                self.drop_finalizer(item, ORPHAN).await?;
                activation.changed(format!("let {item} go"));
            }
            Action::LetGo => {
                self.drop_finalizer(item, FOREGROUND).await?;
                activation.changed(format!("let {item} go"));
            }
        }
        Ok(activation)
    }

    async fn delete(&self, item: &Item, policy: PropagationPolicy) -> Result<(), StepError> {
        // Whoever changed it since may have adopted it.
        let preconditions = Preconditions { uid: Some(item.uid.clone()), resource_version: Some(item.resource_version.clone()) };
        let params = DeleteParams { preconditions: Some(preconditions), propagation_policy: Some(policy), ..DeleteParams::default() };
        match item.api(self.world.client()).delete(&item.key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.step(|| format!("delete {item}")).map(drop),
        }
    }

    async fn set_owners(&self, item: &Item, owners: Vec<&OwnerReference>) -> Result<(), StepError> {
        self.patch(item, json!({ "ownerReferences": owners })).await
    }

    async fn drop_finalizer(&self, item: &Item, finalizer: &str) -> Result<(), StepError> {
        let rest: Vec<&String> = item.finalizers.iter().filter(|other| *other != finalizer).collect();
        self.patch(item, json!({ "finalizers": rest })).await
    }

    async fn patch(&self, item: &Item, mut metadata: serde_json::Value) -> Result<(), StepError> {
        metadata["resourceVersion"] = json!(item.resource_version);
        metadata["uid"] = json!(item.uid);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match item.api(self.world.client()).patch(&item.key.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.step(|| format!("patch {item}")).map(drop),
        }
    }
}
