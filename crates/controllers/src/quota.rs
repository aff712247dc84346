//! ResourceQuota controller.
//! Watches: ResourceQuota, Pod, and the metadata of everything else.  Writes: ResourceQuota.status.
//! Converges: status.hard == spec.hard, status.used == what is there.
//! Never: writes over a charge that admission made meanwhile: the status is written against the version that was counted after.
//! Wakes: when a quota changes, and when something in its namespace may have given room back. Plan: [`Count::status`].
//!
//! Admission raises `used` in the commit that stores an object. Counting begins with reading the quota, so that the lists that follow hold all that
//! had been charged by then.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use knarr_api::{
    Object, Quantity,
    quota::{self, Amounts},
};
use knarr_client::{Change, Cluster, Informer, ObjectKey, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    runner::{Activation, Controller, Runner, Step as _, StepError},
    world::{Resource, Told, World},
};

/// Resources of which more is counted than how many there are.
const MEASURED: [&str; 3] = ["pods", "services", "persistentvolumeclaims"];

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let quotas = cluster.informer::<ResourceQuota>();
    let pods = cluster.informer::<Pod>();
    let queue = Arc::new(WorkQueue::default());
    quotas.subscribe({
        let queue = queue.clone();
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    pods.subscribe({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |change| {
            if gives_back(change) {
                wake(&queue, &quotas, &change.object().namespace().unwrap_or_default());
            }
        }
    });
    world.subscribe({
        let (queue, quotas) = (queue.clone(), quotas.clone());
        move |told| match told {
            Told::Deleted(item) => wake(&queue, &quotas, &item.key.namespace),
            Told::Applied { old: Some(_), new }
                if new.resource.api.group.is_empty() && MEASURED[1..].contains(&&*new.resource.api.plural) =>
            {
                wake(&queue, &quotas, &new.key.namespace);
            }
            Told::Applied { .. } => {}
        }
    });
    let controller = Quotas { cluster: cluster.clone(), world: Arc::clone(world) };
    let world = Arc::clone(world);
    runner.start(controller, queue, async move {
        quotas.ready().await;
        pods.ready().await;
        world.ready().await;
    });
}

/// Whether a pod may use less than before: it has ended, or been made smaller.
fn gives_back(change: &Change<Pod>) -> bool {
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    match change {
        // The metadata of what goes is watched for everything.
        Change::Deleted(_) | Change::Applied { old: None, .. } => false,
        Change::Applied { old: Some(old), new } => ended(new) != ended(old) || new.metadata.generation != old.metadata.generation,
    }
}

fn wake(queue: &WorkQueue<ObjectKey>, quotas: &Informer<ResourceQuota>, namespace: &str) {
    for (key, _) in &quotas.snapshot() {
        if key.namespace == namespace {
            queue.add(key.clone());
        }
    }
}

struct Quotas {
    cluster: Cluster,
    world: Arc<World>,
}

impl Controller for Quotas {
    type Key = ObjectKey;

    const NAME: &'static str = "resourcequota";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let api: Api<ResourceQuota> = self.cluster.api(&key.namespace);
        let found = api.get_opt(&key.name).await.step(|| "read the quota".to_owned())?;
        let Some(live) = found.filter(|quota| quota.metadata.deletion_timestamp.is_none()) else { return Ok(activation) };
        let mut count = Count::new(object(&live));
        let unknown = self.count(&key.namespace, &mut count).await?;
        if let Some(status) = count.status() {
            let mut next = live;
            next.status = serde_json::from_value(status).ok();
            api.replace_status(&key.name, &PostParams::default(), &next).await.step(|| "write status".to_owned())?;
            activation.changed("write status");
        }
        unknown.map_or(Ok(activation), Err)
    }
}

impl Quotas {
    /// What could not be counted, if anything, is an error beside the counts of all else.
    async fn count(&self, namespace: &str, count: &mut Count) -> Result<Option<StepError>, StepError> {
        let wanted: Vec<&str> = MEASURED.into_iter().filter(|resource| count.wants("", resource)).collect();
        for resource in wanted {
            let step = || format!("list {resource}");
            let all = ListParams::default();
            let objects: Vec<Object> = match resource {
                "pods" => self.cluster.api::<Pod>(namespace).list(&all).await.step(step)?.iter().map(object).collect(),
                "services" => self.cluster.api::<Service>(namespace).list(&all).await.step(step)?.iter().map(object).collect(),
                _ => self.cluster.api::<PersistentVolumeClaim>(namespace).list(&all).await.step(step)?.iter().map(object).collect(),
            };
            count.add("", resource, &objects);
        }
        let (mut seen, mut unknown) = (BTreeSet::new(), None);
        for resource in self.world.resources() {
            let measured = resource.api.group.is_empty() && MEASURED.contains(&&*resource.api.plural);
            let (group, plural) = (resource.api.group.clone(), resource.api.plural.clone());
            if resource.namespaced && !measured && count.wants(&group, &plural) && seen.insert((group, plural)) {
                match self.number(namespace, &resource).await {
                    Ok(number) => count.add_number(&resource.api.group, &resource.api.plural, number),
                    Err(error) => {
                        count.keep(&resource.api.group, &resource.api.plural);
                        unknown.get_or_insert(error);
                    }
                }
            }
        }
        Ok(unknown)
    }

    /// How many there are, without reading them.
    async fn number(&self, namespace: &str, resource: &Resource) -> Result<i64, StepError> {
        let api = resource.in_namespace(self.world.client(), namespace);
        let step = || format!("count {}", resource.qualified());
        let first = api.list_metadata(&ListParams::default().limit(1)).await.step(step)?;
        let here = i64::try_from(first.items.len()).unwrap_or(i64::MAX);
        Ok(here + first.metadata.remaining_item_count.unwrap_or(0))
    }
}

fn object(typed: &impl serde::Serialize) -> Object {
    serde_json::to_value(typed).ok().and_then(Object::from_value).unwrap_or_default()
}

/// What has been counted for a quota.
struct Count {
    quota: Object,
    used: Amounts,
}

impl Count {
    fn new(quota: Object) -> Self {
        // What no one counts is not used.
        let hard = quota::amounts(quota.get(&["spec", "hard"]));
        Self { used: hard.into_keys().map(|name| (name, Quantity::ZERO)).collect(), quota }
    }

    /// Whether the quota counts anything of the resource.
    fn wants(&self, group: &str, resource: &str) -> bool {
        self.used.keys().any(|name| quota::counts(group, resource, name))
    }

    fn add(&mut self, group: &str, resource: &str, objects: &[Object]) {
        self.used.extend(quota::tally(&self.quota, group, resource, objects.iter()));
    }

    /// Of a resource that is only counted.
    fn add_number(&mut self, group: &str, resource: &str, number: i64) {
        let counted = quota::in_scope(&self.quota, group, resource, &Object::default());
        let number = if counted { Quantity::from_units(number) } else { Quantity::ZERO };
        for (name, used) in &mut self.used {
            if quota::counts(group, resource, name) {
                *used = number;
            }
        }
    }

    /// Of a resource that cannot be counted now: what is there stays. Where nothing is, admission refuses what would be charged.
    fn keep(&mut self, group: &str, resource: &str) {
        let before = quota::amounts(self.quota.get(&["status", "used"]));
        self.used.retain(|name, used| {
            let counted = !quota::counts(group, resource, name);
            *used = before.get(name).copied().filter(|_| !counted).unwrap_or(*used);
            counted || before.contains_key(name)
        });
    }

    /// The status to write, if it differs from what is there.
    fn status(&self) -> Option<Value> {
        let (hard, used) = (quota::amounts(self.quota.get(&["spec", "hard"])), &self.used);
        let of = |field: &str| quota::amounts(self.quota.get(&["status", field]));
        let same = of("hard") == hard && of("used") == *used;
        (!same).then(|| json!({"hard": quota::to_value(&hard), "used": quota::to_value(used)}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(quota: Value) -> Count {
        Count::new(Object::from_value(quota).expect("an object"))
    }

    #[test]
    fn a_status_is_written_only_when_it_differs() {
        let hard = json!({"pods": "2", "count/widgets.example.com": "3", "gone.example.com/x": "1"});
        let mut new = count(json!({"spec": {"hard": hard}}));
        new.add("", "pods", &[Object::default()]);
        new.add_number("example.com", "widgets", 2);
        let status = new.status().expect("a status");
        assert_eq!(status["used"], json!({"pods": "1", "count/widgets.example.com": "2", "gone.example.com/x": "0"}));
        let mut same = count(json!({"spec": {"hard": hard}, "status": status}));
        same.add("", "pods", &[Object::default()]);
        same.add_number("example.com", "widgets", 2);
        assert_eq!(same.status(), None);
    }

    #[test]
    fn what_cannot_be_counted_stays_as_it_was_and_the_rest_is_counted() {
        let hard = json!({"pods": "5", "secrets": "5"});
        let mut count = count(json!({"spec": {"hard": hard}, "status": {"hard": hard, "used": {"pods": "3", "secrets": "2"}}}));
        count.add("", "pods", &[Object::default()]);
        count.keep("", "secrets");
        assert_eq!(count.status().expect("a status")["used"], json!({"pods": "1", "secrets": "2"}));
        let mut new = super::tests::count(json!({"spec": {"hard": hard}}));
        new.add("", "pods", &[Object::default()]);
        new.keep("", "secrets");
        assert_eq!(new.status().expect("a status")["used"], json!({"pods": "1"}));
    }

    #[test]
    fn what_is_no_pod_is_in_no_scope() {
        let mut scoped = count(json!({"spec": {"scopes": ["BestEffort"], "hard": {"secrets": "5"}}}));
        scoped.add_number("", "secrets", 4);
        assert_eq!(scoped.status().expect("a status")["used"], json!({"secrets": "0"}));
    }
}
