//! A kind defined in Rust with kube's derive: its definition is applied, established, and used at once, as operators do when they start.

use futures::{Stream, StreamExt as _};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt as _, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{
        wait::{await_condition, conditions},
        watcher::{self, watcher},
    },
};
use kube_derive::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::kube_runtime::with_client;

#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "Boat",
    namespaced,
    status = "BoatStatus",
    shortname = "bt",
    category = "fleet",
    printcolumn = r#"{"name": "Sails", "type": "integer", "jsonPath": ".spec.sails"}"#,
    selectable = ".spec.rig",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
struct BoatSpec {
    sails: u32,
    rig: Rig,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home_port: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
enum Rig {
    Square,
    Lateen,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
struct BoatStatus {
    afloat: bool,
}

/// The definition, with the schema that the derive would make of these types by way of another library: numbers have Rust's formats, options may be null.
fn definition() -> CustomResourceDefinition {
    let mut definition = Boat::crd();
    let schema = json!({"openAPIV3Schema": {"type": "object", "title": "Boat", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["rig", "sails"], "properties": {
            "sails": {"type": "integer", "format": "uint32", "minimum": 0.0},
            "rig": {"type": "string", "enum": ["Square", "Lateen"]},
            "homePort": {"type": "string", "nullable": true},
        }},
        "status": {"type": "object", "nullable": true, "required": ["afloat"], "properties": {"afloat": {"type": "boolean"}}},
    }}});
    definition.spec.versions[0].schema = Some(serde_json::from_value(schema).unwrap());
    definition
}

/// The next events as text, until the one that begins with `last`.
async fn told(events: &mut (impl Stream<Item = watcher::Result<watcher::Event<Boat>>> + Unpin), last: &str) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        told.push(match event.expect("a watch without faults") {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(boat) => format!("init {}", boat.name_any()),
            watcher::Event::InitDone => "done".to_owned(),
            watcher::Event::Apply(boat) => {
                format!("{} sails={} afloat={}", boat.name_any(), boat.spec.sails, boat.status.is_some_and(|status| status.afloat))
            }
            watcher::Event::Delete(boat) => format!("delete {}", boat.name_any()),
        });
        if told.last().is_some_and(|text| text.starts_with(last)) {
            break;
        }
    }
    told
}

async fn defined(client: &Client) -> Api<Boat> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Boat::crd_name();
    for _ in 0..2 {
        // Operators do so at each start.
        definitions.patch(name, &PatchParams::apply("harbour").force(), &Patch::Apply(definition())).await.unwrap();
    }
    await_condition(definitions, name, conditions::is_crd_established()).await.unwrap();
    Api::default_namespaced(client.clone())
}

fn boat(sails: u32) -> Boat {
    Boat::new("knarr", BoatSpec { sails, rig: Rig::Square, home_port: Some("Bergen".into()) })
}

async fn lives(client: Client, config: watcher::Config) {
    let boats = defined(&client).await;
    let made = boats.create(&PostParams::default(), &boat(1)).await.unwrap();
    assert_eq!(made.spec, boat(1).spec);
    let mut events = watcher(boats.clone(), config.fields("spec.rig=Square")).boxed();
    assert_eq!(told(&mut events, "done").await, ["init", "init knarr", "done"]);

    let afloat = Patch::Merge(json!({"status": BoatStatus { afloat: true }, "spec": {"sails": 9}}));
    let patched = boats.patch_status("knarr", &PatchParams::default(), &afloat).await.unwrap();
    assert_eq!((patched.status, patched.spec.sails), (Some(BoatStatus { afloat: true }), 1), "a status alone");
    assert_eq!(patched.metadata.generation, Some(1));

    // Another manager takes the sails only by force.
    let apply = Patch::Apply(json!({"apiVersion": "example.com/v1", "kind": "Boat", "spec": {"sails": 2, "rig": "Square"}}));
    let refused = boats.patch("knarr", &PatchParams::apply("captain"), &apply).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let applied = boats.patch("knarr", &PatchParams::apply("captain").force(), &apply).await.unwrap();
    assert_eq!((applied.spec.sails, applied.metadata.generation), (2, Some(2)));
    let version = applied.resource_version();
    let again = boats.patch("knarr", &PatchParams::apply("captain"), &apply).await.unwrap();
    assert_eq!(again.resource_version(), version, "nothing changed");

    let wrong = Patch::Merge(json!({"spec": {"sails": -1, "rig": "Bermuda"}}));
    let kube::Error::Api(status) = boats.patch("knarr", &PatchParams::default(), &wrong).await.unwrap_err() else { panic!("a status") };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));

    boats.delete("knarr", &DeleteParams::default()).await.unwrap();
    let events = told(&mut events, "delete").await;
    assert_eq!(events, ["knarr sails=1 afloat=true", "knarr sails=2 afloat=true", "delete knarr"]);
}

#[test]
fn a_derived_kind_is_defined_watched_patched_and_applied() {
    with_client(None, |client| lives(client, watcher::Config::default()));
}

#[test]
fn a_derived_kind_is_watched_with_a_streaming_list() {
    with_client(None, |client| lives(client, watcher::Config::default().streaming_lists()));
}
