//! Reviews and token requests over a real store.

use knarr_api::Kinds;
use knarr_store::{Collection, Embedded, Expect, Key, Options, Write};

use super::*;
use crate::pki::{Pki, Sans};

struct Cluster {
    reviews: Reviews,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

/// The account `a/robot` with a pod that runs as it, and the user `ann` who may get pods in `a`.
async fn cluster() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("pki"), &Sans::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&dir.path().join("store"), Options::default()).unwrap());
    for (collection, object) in [
        ("core/serviceaccounts", json!({ "metadata": { "name": "robot", "namespace": "a", "uid": "u1" } })),
        ("core/nodes", json!({ "metadata": { "name": "n", "uid": "u2" } })),
        (
            "core/pods",
            json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u3" }, "spec": { "serviceAccountName": "robot", "nodeName": "n" } }),
        ),
        ("core/pods", json!({ "metadata": { "name": "q", "namespace": "a", "uid": "u4" }, "spec": { "serviceAccountName": "default" } })),
        (
            "rbac.authorization.k8s.io/roles",
            json!({ "metadata": { "name": "r", "namespace": "a" }, "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }] }),
        ),
        (
            "rbac.authorization.k8s.io/rolebindings",
            json!({ "metadata": { "name": "b", "namespace": "a" }, "roleRef": { "kind": "Role", "name": "r" }, "subjects": [{ "kind": "User", "name": "ann" }] }),
        ),
    ] {
        let object = Object::from_value(object).unwrap();
        let encoded = object.encode();
        let key = Key::new(&Collection::new(collection), object.namespace(), object.name());
        let write = Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect: Expect::Any, lazy: false };
        store.commit(vec![write]).await.unwrap();
    }
    let (authorizer, _) = Authorizer::open(store.clone());
    let reviews = Reviews::new(Arc::new(Authn::new(&pki, &["https://issuer".to_owned()], store.clone())), authorizer, store.clone());
    Cluster { reviews, store, _dir: dir }
}

impl Cluster {
    /// The status of a review of `group resource` by `user`.
    fn ask(&self, user: &User, group: &str, resource: &str, namespace: &str, spec: Value) -> Result<Value, Status> {
        let kind = Kinds::builtin().resource(group, "v1", resource).unwrap();
        let review = Object::from_value(json!({ "spec": spec })).unwrap();
        Ok(futures::executor::block_on(self.reviews.create(user, &kind, namespace, review))?.get(&["status"]).cloned().unwrap_or_default())
    }

    fn token(&self, spec: Value) -> Result<Object, Status> {
        self.reviews.token("a", "robot", Object::from_value(json!({ "spec": spec })).unwrap(), false).map(|(answer, _)| answer)
    }
}

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

#[tokio::test]
async fn access_is_told_of_oneself_and_of_others() {
    let cluster = cluster().await;
    let (ann, eve) = (User::authenticated("ann", [""; 0]), User::authenticated("eve", [""; 0]));
    let get = json!({ "verb": "get", "resource": "pods", "namespace": "a" });
    let own = |user: &User| cluster.ask(user, AUTHORIZATION, "selfsubjectaccessreviews", "", json!({ "resourceAttributes": get })).unwrap();
    assert_eq!(own(&ann), json!({ "allowed": true, "reason": r#"RBAC: allowed by RoleBinding "b/a" of Role "r" to User "ann""# }));
    assert_eq!(own(&eve), json!({ "allowed": false }));
    let of = |spec: Value| cluster.ask(&eve, AUTHORIZATION, "subjectaccessreviews", "", spec);
    assert_eq!(of(json!({ "user": "ann", "resourceAttributes": get })).unwrap()["allowed"], true);
    assert_eq!(
        of(json!({ "user": "x", "groups": ["system:masters"], "nonResourceAttributes": { "verb": "get", "path": "/x" } })).unwrap()["allowed"],
        true
    );
    assert_eq!(of(json!({ "resourceAttributes": get })).unwrap_err().code, 422);
    assert_eq!(of(json!({ "user": "ann" })).unwrap_err().code, 422);
    assert_eq!(of(json!({ "user": "ann", "resourceAttributes": get, "nonResourceAttributes": {} })).unwrap_err().code, 422);
    let local = |namespace: &str| {
        let spec = json!({ "user": "ann", "resourceAttributes": get });
        cluster.ask(&eve, AUTHORIZATION, "localsubjectaccessreviews", namespace, spec)
    };
    assert_eq!(local("a").unwrap()["allowed"], true);
    assert_eq!(local("b").unwrap_err().code, 422, "of another namespace than its own");
}

#[tokio::test]
async fn rules_and_self_are_listed() {
    let cluster = cluster().await;
    let ann = User::authenticated("ann", ["devs"]);
    let rules = cluster.ask(&ann, AUTHORIZATION, "selfsubjectrulesreviews", "", json!({ "namespace": "a" })).unwrap();
    let expected = json!({
        "incomplete": false, "nonResourceRules": [],
        "resourceRules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }],
    });
    assert_eq!(rules, expected);
    assert_eq!(cluster.ask(&ann, AUTHORIZATION, "selfsubjectrulesreviews", "", json!({})).unwrap_err().code, 400);
    let who = cluster.ask(&ann, AUTHENTICATION, "selfsubjectreviews", "", json!({})).unwrap();
    assert_eq!(who, json!({ "userInfo": { "username": "ann", "groups": ["devs", "system:authenticated"] } }));
}

#[tokio::test]
async fn tokens_are_bound_limited_and_recognised() {
    let cluster = cluster().await;
    let ann = User::authenticated("ann", [""; 0]);
    let review = |token: &str, audiences: Value| {
        cluster.ask(&ann, AUTHENTICATION, "tokenreviews", "", json!({ "token": token, "audiences": audiences })).unwrap()
    };
    let bound = cluster
        .token(json!({ "audiences": ["vault"], "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u3" } }))
        .unwrap();
    assert_eq!(bound.int(&["spec", "expirationSeconds"]), Some(3600));
    let token = bound.str(&["status", "token"]).to_owned();
    let seen = review(&token, json!(["other", "vault"]));
    assert_eq!((&seen["authenticated"], &seen["audiences"]), (&true.into(), &json!(["vault"])));
    assert_eq!(seen["user"]["username"], "system:serviceaccount:a:robot");
    assert_eq!(seen["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["n"]));
    // Not meant for the API server itself, and not a token at all.
    assert_eq!(review(&token, json!([]))["authenticated"], false);
    assert_eq!(review("x.y.z", json!([]))["error"], "invalid bearer token");

    cluster
        .store
        .commit(vec![Write::Delete { key: Key::new(&Collection::new("core/pods"), "a", "p"), expect: Expect::Any }])
        .await
        .unwrap();
    assert_eq!(review(&token, json!(["vault"]))["authenticated"], false, "it outlived its pod");
}

#[tokio::test]
async fn token_requests_that_cannot_be_are_refused() {
    let cluster = cluster().await;
    let reference =
        |kind: &str, name: &str, uid: &str| json!({ "boundObjectRef": { "apiVersion": "v1", "kind": kind, "name": name, "uid": uid } });
    for (spec, code) in [
        (json!({ "expirationSeconds": 599 }), 422),
        (json!({ "expirationSeconds": 1_i64 << 33 }), 422),
        (reference("Pod", "gone", ""), 404),
        (reference("Pod", "p", "another"), 409),
        (reference("Pod", "q", ""), 400),
        (reference("ConfigMap", "c", ""), 400),
    ] {
        assert_eq!(cluster.token(spec.clone()).unwrap_err().code, code, "{spec}");
    }
    let long = cluster.token(json!({ "expirationSeconds": 100_000_000 })).unwrap();
    assert_eq!(long.int(&["spec", "expirationSeconds"]), Some(31_536_000), "a year is the longest that is given");
    let gone = cluster.reviews.token("a", "gone", Object::default(), false);
    assert_eq!(gone.unwrap_err().code, 404);
    let (dry, _) = cluster.reviews.token("a", "robot", Object::default(), true).unwrap();
    assert_eq!(dry.get(&["status"]), None);
}
