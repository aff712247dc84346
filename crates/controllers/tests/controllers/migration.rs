//! The storage version migration controller with the real API server: what is stored is in the new version, and nothing else has changed.

use k8s_openapi::{
    api::{networking::v1::IngressClass, storagemigration::v1::StorageVersionMigration},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use knarr_api::Object;
use knarr_store::{Collection, Expect, Key, Write};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, ListParams, ObjectList, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};

use crate::world::{DEADLINE, World};

/// More than one page of the controller would make the test slow; one more than it writes at a time does not.
const TOYS: usize = 12;

fn toys(world: &World) -> Api<DynamicObject> {
    let api = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("g.io", "v1", "Toy"), "toys");
    Api::default_namespaced_with(world.client.clone(), &api)
}

/// v1 is stored, v2 is there.
async fn define(world: &World) {
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == "v1", "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    let definition = json!({"metadata": {"name": "toys.g.io"}, "spec": {"group": "g.io", "scope": "Namespaced",
        "names": {"plural": "toys", "kind": "Toy"}, "versions": [version("v1"), version("v2")]}});
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    definitions.create(&PostParams::default(), &serde_json::from_value(definition).expect("a definition")).await.expect("defined");
    let established = await_condition(definitions, "toys.g.io", is_crd_established());
    tokio::time::timeout(DEADLINE, established).await.expect("established in time").expect("the watch goes on");
}

async fn store_v2(world: &World) {
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch).expect("a patch"));
    definitions.patch("toys.g.io", &PatchParams::default(), &patch).await.expect("v2 is stored");
}

async fn migrate(world: &World, name: &str, group: &str, resource: &str) -> Api<StorageVersionMigration> {
    let migrations: Api<StorageVersionMigration> = Api::all(world.client.clone());
    let wish = json!({"metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}});
    migrations.create(&PostParams::default(), &serde_json::from_value(wish).expect("a migration")).await.expect("created");
    migrations
}

fn is(migration: &StorageVersionMigration, ty: &str, status: &str) -> bool {
    let conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == ty && condition.status == status)
}

async fn succeeded(migrations: Api<StorageVersionMigration>, name: &str) -> StorageVersionMigration {
    let ended =
        |migration: Option<&StorageVersionMigration>| migration.is_some_and(|it| is(it, "Succeeded", "True") || is(it, "Failed", "True"));
    let migration = tokio::time::timeout(DEADLINE, await_condition(migrations, name, ended)).await.expect("ended in time");
    let migration = migration.expect("the watch goes on").expect("a migration");
    assert!(is(&migration, "Succeeded", "True") && is(&migration, "Running", "False"), "{:?}", migration.status);
    migration
}

fn stored(world: &World, name: &str) -> Value {
    let entry = world.store.snapshot().get(&Key::new(&Collection::new("g.io/toys"), "default", name)).cloned();
    serde_json::from_slice(&entry.expect("a stored toy").value).expect("JSON")
}

fn versions<K: kube::Resource + Clone>(list: &ObjectList<K>) -> Vec<(Option<String>, Option<String>)> {
    list.items.iter().map(|item| (item.meta().name.clone(), item.meta().resource_version.clone())).collect()
}

#[tokio::test]
async fn objects_are_stored_in_the_new_version_and_nothing_else_changes() {
    let world = World::start().await;
    define(&world).await;
    let toys = toys(&world);
    for index in 0..TOYS {
        let toy = json!({"apiVersion": "g.io/v1", "kind": "Toy", "metadata": {"name": format!("t{index}"), "labels": {"n": "1"}}, "spec": {"size": index}});
        toys.patch(&format!("t{index}"), &PatchParams::apply("maker"), &Patch::Apply(toy)).await.expect("created");
    }
    let before: Vec<Value> = (0..TOYS).map(|index| stored(&world, &format!("t{index}"))).collect();
    assert!(before.iter().all(|toy| toy["apiVersion"] == "g.io/v1"));
    store_v2(&world).await;
    let migration = succeeded(migrate(&world, "toys", "g.io", "toys").await, "toys").await;
    let version = migration.status.and_then(|status| status.resource_version).expect("the version of the list");
    assert!(version.parse::<u64>().is_ok(), "{version}");
    for mut old in before {
        let mut new = stored(&world, old["metadata"]["name"].as_str().expect("a name"));
        assert_eq!(new["apiVersion"], "g.io/v2");
        assert_ne!(new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
        for toy in [&mut old, &mut new] {
            toy["apiVersion"] = Value::Null;
            toy["metadata"]["resourceVersion"] = Value::Null;
        }
        assert_eq!(new, old, "managers, generation and all else stay");
    }
    // What is in the storage version is not written again.
    let settled = versions(&toys.list_metadata(&ListParams::default()).await.expect("listed"));
    succeeded(migrate(&world, "again", "g.io", "toys").await, "again").await;
    assert_eq!(versions(&toys.list_metadata(&ListParams::default()).await.expect("listed")), settled);
}

#[tokio::test]
async fn an_object_of_a_built_in_resource_is_not_written_again() {
    let world = World::start().await;
    let classes: Api<IngressClass> = Api::all(world.client.clone());
    let class = json!({"metadata": {"name": "c"}, "spec": {"controller": "g.io/c"}});
    classes.create(&PostParams::default(), &serde_json::from_value(class).expect("a class")).await.expect("created");
    let before = versions(&classes.list(&ListParams::default()).await.expect("listed"));
    succeeded(migrate(&world, "classes", "networking.k8s.io", "ingressclasses").await, "classes").await;
    assert_eq!(versions(&classes.list(&ListParams::default()).await.expect("listed")), before);
}

#[tokio::test]
async fn a_resource_that_stays_unknown_fails_its_migration() {
    let mut world = World::still().await;
    let wish = json!({
        "apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
        "metadata": {"name": "lost", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"resource": {"group": "g.io", "resource": "cats"}},
    });
    let encoded = Object::from_value(wish).expect("an object").encode();
    let key = Key::new(&Collection::new("storagemigration.k8s.io/storageversionmigrations"), "", "lost");
    let (value, stamp, expect) = (encoded.bytes.into(), encoded.stamp, Expect::Absent);
    world.store.commit(vec![Write::Put { key, value, stamp, meta: None, expect, lazy: false }]).await.expect("stored");
    world.start_controllers();
    let migrations: Api<StorageVersionMigration> = Api::all(world.client.clone());
    let failed = await_condition(migrations, "lost", |it: Option<&StorageVersionMigration>| it.is_some_and(|it| is(it, "Failed", "True")));
    let failed = tokio::time::timeout(DEADLINE, failed).await.expect("failed in time").expect("the watch goes on").expect("a migration");
    let conditions = failed.status.and_then(|status| status.conditions).unwrap_or_default();
    let why = conditions.iter().find(|condition| condition.type_ == "Failed").map(|condition| condition.message.as_str());
    assert!(why.is_some_and(|why| why.starts_with("resource cats.g.io was not found")), "{why:?}");
}
