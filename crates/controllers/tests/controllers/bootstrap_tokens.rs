//! The bootstrap token cleaner with the real API server: what has ended goes, what ends soon goes then, all else stays.

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;

use crate::world::{DEADLINE, World};

async fn token(client: &Client, namespace: &str, id: &str, ty: &str, expiration: Option<Timestamp>) {
    let mut data = json!({ "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true" });
    if let Some(expiration) = expiration {
        data["expiration"] = expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    let secret = json!({ "metadata": { "name": format!("bootstrap-token-{id}") }, "type": ty, "stringData": data });
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    Api::<Secret>::namespaced(client.clone(), namespace).create(&PostParams::default(), &secret).await.expect("created");
}

#[tokio::test]
async fn bootstrap_tokens_go_when_their_time_is_over_and_nothing_else_does() {
    let mut world = World::still().await;
    let client = world.client.clone();
    let (ty, now) = ("bootstrap.kubernetes.io/token", Timestamp::now());
    let [past, soon, later] = [-3600, 2, 3600].map(|seconds| Some(now + SignedDuration::from_secs(seconds)));
    token(&client, "kube-system", "aaaaaa", ty, past).await;
    token(&client, "kube-system", "bbbbbb", ty, soon).await;
    token(&client, "kube-system", "cccccc", ty, later).await;
    token(&client, "kube-system", "dddddd", ty, None).await;
    token(&client, "kube-system", "eeeeee", "Opaque", past).await;
    token(&client, "default", "ffffff", ty, past).await;

    let secrets: Api<Secret> = Api::all(client.clone());
    let mut events = std::pin::pin!(watcher(secrets.clone(), watcher::Config::default()));
    let mut gone = Vec::new();
    let watched = async {
        while gone.len() < 2 {
            let event = events.next().await.expect("the watch goes on").expect("the watch works");
            if let Event::InitDone = event {
                world.start_controllers();
            }
            if let Event::Delete(secret) = event {
                gone.push((secret.name_any(), Timestamp::now()));
            }
        }
    };
    tokio::time::timeout(DEADLINE, watched).await.expect("two of them go");
    let names: Vec<_> = gone.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bootstrap-token-aaaaaa", "bootstrap-token-bbbbbb"]);
    assert!(gone[1].1 >= now + SignedDuration::from_secs(1), "not before its end");
    let mut left: Vec<_> = secrets.list(&ListParams::default()).await.expect("a list").items.iter().map(|one| one.name_any()).collect();
    left.sort();
    assert_eq!(left, ["cccccc", "dddddd", "eeeeee", "ffffff"].map(|id| format!("bootstrap-token-{id}")));
}
