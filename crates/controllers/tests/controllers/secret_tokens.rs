//! Tokens in Secrets with the real API server: filled for a living account, good while the Secret holds them, gone with the account.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::world::{DEADLINE, World};

async fn account(client: &Client, name: &str) -> ServiceAccount {
    let account = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("a ServiceAccount");
    Api::default_namespaced(client.clone()).create(&PostParams::default(), &account).await.expect("created")
}

async fn secret(client: &Client, name: &str, account: &str) {
    let annotations = json!({ "kubernetes.io/service-account.name": account });
    let secret = json!({ "metadata": { "name": name, "annotations": annotations }, "type": "kubernetes.io/service-account-token" });
    let secret: Secret = serde_json::from_value(secret).expect("a Secret");
    Api::default_namespaced(client.clone()).create(&PostParams::default(), &secret).await.expect("created");
}

/// The Secret when it `is` so, or is not there any more.
async fn when(client: &Client, name: &str, is: impl Fn(Option<&Secret>) -> bool) -> Option<Secret> {
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let look = async {
        loop {
            let secret = secrets.get_opt(name).await.expect("an answer");
            if is(secret.as_ref()) {
                return secret;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("{name} in time"))
}

fn token(secret: &Secret) -> Option<String> {
    let token = secret.data.as_ref()?.get("token")?;
    Some(String::from_utf8(token.0.clone()).expect("text"))
}

async fn review(client: &Client, token: &str) -> TokenReviewStatus {
    let review: TokenReview = serde_json::from_value(json!({ "spec": { "token": token } })).expect("a TokenReview");
    Api::all(client.clone()).create(&PostParams::default(), &review).await.expect("an answer").status.expect("a status")
}

#[tokio::test]
async fn a_secret_of_an_account_is_filled_and_is_good_until_one_of_them_goes() {
    let world = World::start().await;
    let client = world.client.clone();
    let robot = account(&client, "robot").await;
    secret(&client, "robot-token", "robot").await;
    secret(&client, "other-token", "robot").await;
    secret(&client, "nobodys", "nobody").await;
    assert_eq!(when(&client, "nobodys", |secret| secret.is_none()).await, None, "there is no such account");

    let filled = when(&client, "robot-token", |secret| secret.is_some_and(|secret| token(secret).is_some())).await.expect("filled");
    assert_eq!(filled.annotations()["kubernetes.io/service-account.uid"], robot.uid().expect("a uid"));
    let data = filled.data.as_ref().expect("data");
    assert_eq!((&data["namespace"].0[..], &data["ca.crt"].0[..]), (&b"default"[..], world.server().pki().ca_pem().as_bytes()));
    let first = token(&filled).expect("a token");
    let status = review(&client, &first).await;
    let user = status.user.expect("somebody");
    assert_eq!(
        (status.authenticated, user.username.as_deref(), user.uid),
        (Some(true), Some("system:serviceaccount:default:robot"), robot.uid())
    );

    // A copy of it holds another's token, which dies with the other: it gets its own.
    let mut copy = filled.clone();
    copy.metadata = serde_json::from_value(json!({ "name": "copy", "annotations": filled.annotations() })).expect("metadata");
    Api::<Secret>::default_namespaced(client.clone()).create(&PostParams::default(), &copy).await.expect("created");
    when(&client, "copy", |secret| secret.and_then(token).is_some_and(|own| own != first)).await;

    // What somebody takes out is made anew, and the Secret's present token alone is good.
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let without = json!({ "data": { "token": null } });
    secrets.patch("robot-token", &PatchParams::default(), &Patch::Merge(without)).await.expect("patched");
    let again = when(&client, "robot-token", |secret| secret.is_some_and(|secret| token(secret).is_some())).await.expect("filled");
    assert_eq!(review(&client, &token(&again).expect("a token")).await.authenticated, Some(true));
    let label = json!({ "metadata": { "labels": { "kubernetes.io/legacy-token-invalid-since": "2026-01-01" } } });
    secrets.patch("robot-token", &PatchParams::default(), &Patch::Merge(label)).await.expect("patched");
    let status = review(&client, &token(&again).expect("a token")).await;
    assert!(status.authenticated != Some(true) && status.error.expect("why").contains("marked invalid"));

    let other = when(&client, "other-token", |secret| secret.is_some_and(|secret| token(secret).is_some())).await.expect("filled");
    let other = token(&other).expect("a token");
    secrets.delete("other-token", &DeleteParams::default()).await.expect("deleted");
    assert_ne!(review(&client, &other).await.authenticated, Some(true), "its Secret is gone");
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    accounts.delete("robot", &DeleteParams::default()).await.expect("deleted");
    assert_eq!(when(&client, "robot-token", |secret| secret.is_none()).await, None);
}
