//! Storage version migration controller.
//! Watches: StorageVersionMigration.  Writes: every object of the resource that a migration names, unchanged; the migration's status.
//! Converges: every object that was there when a migration began is stored in the storage version; then the migration has succeeded.
//! Never: changes an object, but for one that has no managedFields: it gets those of any first apply, as upstream; takes up a migration again
//! that has succeeded or failed.
//! Wakes: on change; where the resource is not known, from time to time until it must have been.  Plan: [`plan`].  Act: [`Migrations::migrate`].

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use knarr_client::{Cluster, Informer, WorkQueue};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError, brief};
use crate::world::{Resource, World};

/// Upstream's controller writes under the same name. It owns no fields: it applies none.
const MANAGER: &str = "storage-version-migrator-controller";
/// A definition that was made just before may not be known yet; upstream waits as long (storageversionmigrator.go).
const UNKNOWN_TIME_MAX: Duration = Duration::from_secs(60);
/// How often it is looked for meanwhile.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(2);
/// Objects in one page, as client-go's pager has it.
const PAGE: u32 = 500;
/// Objects that are written at a time: they share flushes of the store, and leave the server's workers to others.
const WRITES_MAX: usize = 8;

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let migrations = cluster.informer::<StorageVersionMigration>();
    let queue = Arc::new(WorkQueue::default());
    migrations.subscribe({
        let queue = Arc::clone(&queue);
        move |change| queue.add(change.object().name_any())
    });
    let controller = Migrations { cluster: cluster.clone(), migrations: migrations.clone(), world: Arc::clone(world) };
    runner.start(controller, queue, async move { migrations.ready().await });
}

struct Migrations {
    cluster: Cluster,
    migrations: Informer<StorageVersionMigration>,
    world: Arc<World>,
}

/// What is to be done about a migration.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Rest,
    /// Its resource is not known, and may be soon.
    Wait,
    Fail(String),
    Migrate,
}

fn plan(migration: &StorageVersionMigration, known: bool, now: Timestamp) -> Plan {
    if ["Succeeded", "Failed"].iter().any(|ty| conditions(migration).iter().any(|have| have.type_ == *ty && have.status == "True")) {
        return Plan::Rest;
    }
    if known {
        return Plan::Migrate;
    }
    let created = migration.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    if now.duration_since(created).unsigned_abs() < UNKNOWN_TIME_MAX {
        return Plan::Wait;
    }
    let (group, resource) = resource_of(migration);
    let dot = if group.is_empty() { "" } else { "." };
    Plan::Fail(format!(
        "resource {resource}{dot}{group} was not found; check spec.resource against `kubectl api-resources --verbs=list,patch`, then create another StorageVersionMigration"
    ))
}

/// Group and resource that are to be migrated.
fn resource_of(migration: &StorageVersionMigration) -> (&str, &str) {
    let resource = migration.spec.as_ref().map(|spec| &spec.resource);
    resource.map_or(("", ""), |resource| (&resource.group, &resource.resource))
}

fn conditions(migration: &StorageVersionMigration) -> &[Condition] {
    migration.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// The conditions of a migration of which `ty` has become true. It runs no more when it has ended.
fn becomes(migration: &StorageVersionMigration, ty: &str, reason: &str, message: &str, now: Timestamp) -> Vec<Condition> {
    let mut all = conditions(migration).to_vec();
    let mut set = |ty: &str, status: &str| {
        let since = all.iter().find(|have| have.type_ == ty && have.status == status).map(|have| have.last_transition_time.clone());
        let condition = Condition {
            type_: ty.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: since.unwrap_or(Time(now)),
            observed_generation: None,
        };
        match all.iter_mut().find(|have| have.type_ == ty) {
            Some(have) => *have = condition,
            None => all.push(condition),
        }
    };
    if ty != "Running" {
        set("Running", "False");
    }
    set(ty, "True");
    all
}

/// Why an object was not migrated.
enum Refused {
    /// It may work later.
    Again(StepError),
    Never(String),
}

impl Controller for Migrations {
    type Key = String;

    const NAME: &'static str = "storage-version-migrator";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(migration) = self.migrations.get("", name) else { return Ok(activation) };
        let (group, plural) = resource_of(&migration);
        let resource = self.world.resources().into_iter().find(|known| known.api.group == group && known.api.plural == plural);
        match (plan(&migration, resource.is_some(), Timestamp::now()), resource) {
            (Plan::Migrate, Some(resource)) => self.migrate(&migration, &resource, &mut activation).await?,
            (Plan::Fail(why), _) => self.fail(&migration, &why, &mut activation).await?,
            (Plan::Wait, _) => activation.wake = Some(UNKNOWN_AGAIN),
            (Plan::Rest | Plan::Migrate, _) => {}
        }
        Ok(activation)
    }
}

impl Migrations {
    async fn migrate(
        &self,
        migration: &StorageVersionMigration,
        resource: &Resource,
        activation: &mut Activation,
    ) -> Result<(), StepError> {
        let running = self.begin(migration, resource).await?;
        let all: Api<DynamicObject> = Api::all_with(self.cluster.client(), &resource.api);
        let mut page = ListParams::default().limit(PAGE);
        let mut seen = 0;
        loop {
            let list = all.list_metadata(&page).await.step(|| format!("list {}", resource.qualified()))?;
            seen += list.items.len();
            let writes = stream::iter(list.items.into_iter().map(|object| self.rewrite(resource, object.metadata)));
            match writes.buffer_unordered(WRITES_MAX).try_collect::<()>().await {
                Ok(()) => {}
                Err(Refused::Again(error)) => return Err(error),
                Err(Refused::Never(why)) => return self.fail(&running, &why, activation).await,
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => break,
            }
        }
        let conditions = becomes(&running, "Succeeded", "StorageVersionMigrationSucceeded", "", Timestamp::now());
        self.write_status(&running, json!({ "conditions": conditions })).await?;
        activation.changed(format!("migrate {seen} {}", resource.qualified()));
        Ok(())
    }

    /// Has one object stored anew, by an apply of nothing to exactly the state that was listed.
    async fn rewrite(&self, resource: &Resource, meta: ObjectMeta) -> Result<(), Refused> {
        let (name, namespace) = (meta.name.unwrap_or_default(), meta.namespace.unwrap_or_default());
        let body = json!({
            "apiVersion": resource.api.api_version, "kind": resource.api.kind,
            "metadata": { "name": name, "uid": meta.uid, "resourceVersion": meta.resource_version },
        });
        let api = resource.in_namespace(self.world.client(), &namespace);
        let slash = if namespace.is_empty() { "" } else { "/" };
        let object = format!("{} {namespace}{slash}{name}", resource.qualified());
        let Err(error) = api.patch_metadata(&name, &PatchParams::apply(MANAGER), &Patch::Apply(body)).await else { return Ok(()) };
        let code = if let kube::Error::Api(status) = &error { Some(status.code) } else { None };
        match code {
            // It was written meanwhile, and so migrated; or it is gone.
            Some(404 | 409) => Ok(()),
            None | Some(429 | 500..) => Err(error).step(|| format!("migrate {object}")).map_err(Refused::Again),
            Some(_) => {
                let said = brief(&error);
                Err(Refused::Never(format!("{object} cannot be migrated: {said}; mend it, then create another StorageVersionMigration")))
            }
        }
    }

    /// Says that it runs, and from which version of the resource's list on all that is written is in the storage version anyway.
    async fn begin(&self, migration: &StorageVersionMigration, resource: &Resource) -> Result<StorageVersionMigration, StepError> {
        let mut version = migration.status.as_ref().and_then(|status| status.resource_version.clone());
        if version.is_none() {
            let all: Api<DynamicObject> = Api::all_with(self.cluster.client(), &resource.api);
            let list = all.list_metadata(&ListParams::default().limit(1)).await;
            version = list.step(|| format!("list {}", resource.qualified()))?.metadata.resource_version;
        }
        let conditions = becomes(migration, "Running", "StorageVersionMigrationInProgress", "", Timestamp::now());
        self.write_status(migration, json!({ "resourceVersion": version, "conditions": conditions })).await
    }

    async fn fail(&self, migration: &StorageVersionMigration, why: &str, activation: &mut Activation) -> Result<(), StepError> {
        let conditions = becomes(migration, "Failed", "StorageVersionMigrationFailed", why, Timestamp::now());
        self.write_status(migration, json!({ "conditions": conditions })).await?;
        activation.changed(format!("fail {}: {why}", migration.name_any()));
        Ok(())
    }

    /// Unless the migration was changed meanwhile.
    async fn write_status(&self, migration: &StorageVersionMigration, status: Value) -> Result<StorageVersionMigration, StepError> {
        let patch = json!({ "metadata": { "resourceVersion": migration.metadata.resource_version }, "status": status });
        let migrations: Api<StorageVersionMigration> = self.cluster.all();
        let patch = Patch::Merge(patch);
        migrations
            .patch_status(&migration.name_any(), &PatchParams::default(), &patch)
            .await
            .step(|| "write a migration's status".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration(conditions: Value) -> StorageVersionMigration {
        let resource = json!({ "group": "g.io", "resource": "toys" });
        let metadata = json!({ "name": "m", "creationTimestamp": "2026-01-01T00:00:00Z" });
        let status = json!({ "conditions": conditions });
        serde_json::from_value(json!({ "metadata": metadata, "spec": { "resource": resource }, "status": status })).unwrap()
    }

    fn condition(ty: &str, status: &str) -> Value {
        json!({ "type": ty, "status": status, "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" })
    }

    #[test]
    fn what_has_ended_rests_and_what_is_unknown_is_waited_for_a_minute() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (soon, late) = (at("2026-01-01T00:00:59Z"), at("2026-01-01T00:01:00Z"));
        for ended in ["Succeeded", "Failed"] {
            assert_eq!(plan(&migration(json!([condition(ended, "True")])), true, soon), Plan::Rest);
        }
        let running = migration(json!([condition("Running", "True"), condition("Failed", "False")]));
        assert_eq!(plan(&running, true, late), Plan::Migrate);
        assert_eq!(plan(&running, false, soon), Plan::Wait);
        let Plan::Fail(why) = plan(&running, false, late) else { panic!("it waits for ever") };
        assert!(why.starts_with("resource toys.g.io was not found; check spec.resource"), "{why}");
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_stays_and_nothing_runs_that_has_ended() {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let shown = |all: Vec<Condition>| -> Vec<String> {
            all.iter().map(|have| format!("{} {} {}", have.type_, have.status, have.last_transition_time.0.strftime("%d"))).collect()
        };
        let running = migration(json!([condition("Running", "True")]));
        assert_eq!(shown(becomes(&running, "Running", "R", "", now)), ["Running True 01"]);
        assert_eq!(shown(becomes(&running, "Succeeded", "S", "", now)), ["Running False 02", "Succeeded True 02"]);
        assert_eq!(shown(becomes(&migration(json!([])), "Failed", "F", "why", now)), ["Running False 02", "Failed True 02"]);
    }
}
