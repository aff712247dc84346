//! A token's life: from issue to the end of what it is bound to.

use knarr_store::{Embedded, Expect, Options, Write};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Cluster {
    tokens: Tokens,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

async fn cluster() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path(), Options::default()).unwrap());
    let tokens = Tokens::new(Arc::new(TokenKeys::generate()), &[ISSUER.to_owned()], store.clone());
    let cluster = Cluster { tokens, store, _dir: dir };
    cluster.put("serviceaccounts", "a", "robot", "sa-1", None).await;
    cluster.put("pods", "a", "p", "pod-1", None).await;
    cluster.put("secrets", "a", "s", "secret-1", None).await;
    cluster.put("nodes", "", "n", "node-1", None).await;
    cluster
}

impl Cluster {
    async fn put(&self, resource: &str, namespace: &str, name: &str, uid: &str, deleted: Option<Timestamp>) {
        let mut object = json!({ "metadata": { "name": name, "uid": uid } });
        if let Some(deleted) = deleted {
            object["metadata"]["deletionTimestamp"] = deleted.to_string().into();
        }
        let encoded = knarr_api::Object::from_value(object).unwrap().encode();
        let write = Write::Put {
            key: Key::new(&Collection::new(&format!("core/{resource}")), namespace, name),
            value: encoded.bytes.into(),
            stamp: encoded.stamp,
            meta: None,
            expect: Expect::Any,
            lazy: false,
        };
        self.store.commit(vec![write]).await.unwrap();
    }

    async fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = Key::new(&Collection::new(&format!("core/{resource}")), namespace, name);
        self.store.commit(vec![Write::Delete { key, expect: Expect::Any }]).await.unwrap();
    }

    fn issue(&self, bound: Bound) -> String {
        let now = Timestamp::now();
        self.tokens.issue(vec![ISSUER.to_owned()], bound, now, now + SignedDuration::from_hours(1)).unwrap().0
    }

    fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        self.tokens.verify(token, &[], Timestamp::now())
    }
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference { name: name.to_owned(), uid: uid.to_owned() }
}

fn bound() -> Bound {
    Bound { namespace: "a".to_owned(), node: None, pod: None, secret: None, serviceaccount: reference("robot", "sa-1"), warnafter: None }
}

#[tokio::test]
async fn a_token_names_account_pod_and_node() {
    let cluster = cluster().await;
    let token = cluster.issue(Bound { pod: Some(reference("p", "pod-1")), node: Some(reference("n", "node-1")), ..bound() });
    let user = cluster.verify(&token).unwrap().user;
    assert_eq!(user.name, "system:serviceaccount:a:robot");
    assert_eq!(user.uid, "sa-1");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!(user.extra[EXTRA_POD_NAME], ["p"]);
    assert_eq!(user.extra[EXTRA_NODE_UID], ["node-1"]);
    assert!(user.extra[EXTRA_CREDENTIAL][0].starts_with("JTI="));
}

#[tokio::test]
async fn tokens_die_with_what_they_are_bound_to() {
    for (resource, namespace, name, with) in [
        ("serviceaccounts", "a", "robot", bound()),
        ("pods", "a", "p", Bound { pod: Some(reference("p", "pod-1")), ..bound() }),
        ("secrets", "a", "s", Bound { secret: Some(reference("s", "secret-1")), ..bound() }),
        ("nodes", "", "n", Bound { node: Some(reference("n", "node-1")), ..bound() }),
    ] {
        let cluster = cluster().await;
        let token = cluster.issue(with);
        cluster.verify(&token).unwrap();

        // In the grace after its deletion time an object still counts, long after it no more.
        cluster.put(resource, namespace, name, &cluster_uid(resource), Some(Timestamp::now())).await;
        cluster.verify(&token).unwrap();
        let hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
        cluster.put(resource, namespace, name, &cluster_uid(resource), Some(hour_ago)).await;
        assert!(matches!(cluster.verify(&token), Err(TokenError::Gone { .. })), "{resource}");

        cluster.delete(resource, namespace, name).await;
        assert!(matches!(cluster.verify(&token), Err(TokenError::Gone { .. })), "{resource}");
        // Another object of the same name does not bring the token back.
        cluster.put(resource, namespace, name, "another", None).await;
        assert!(matches!(cluster.verify(&token), Err(TokenError::Uid { .. })), "{resource}");
    }
}

fn cluster_uid(resource: &str) -> String {
    match resource {
        "serviceaccounts" => "sa-1".to_owned(),
        resource => format!("{}-1", resource.trim_end_matches('s')),
    }
}

#[tokio::test]
async fn times_audience_issuer_and_key_are_checked() {
    let cluster = cluster().await;
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    let issue = |audience: &str, from: Timestamp| cluster.tokens.issue(vec![audience.to_owned()], bound(), from, from + hour).unwrap().0;

    let token = issue(ISSUER, now);
    let at = |token: &str, when: Timestamp| cluster.tokens.verify(token, &[], when).map(|_| ());
    assert_eq!(at(&token, now + hour), Ok(()));
    assert_eq!(at(&token, now + hour + SignedDuration::from_secs(90)), Err(TokenError::Expired));
    assert_eq!(at(&token, now - SignedDuration::from_secs(90)), Err(TokenError::NotYet));

    let vault = issue("vault", now);
    assert!(matches!(at(&vault, now), Err(TokenError::Audience { .. })));
    let wanted = ["other".to_owned(), "vault".to_owned()];
    assert_eq!(cluster.tokens.verify(&vault, &wanted, now).unwrap().audiences, ["vault"]);

    let elsewhere = Tokens::new(Arc::new(TokenKeys::generate()), &[ISSUER.to_owned()], cluster.store.clone());
    let (foreign, _) = elsewhere.issue(vec![ISSUER.to_owned()], bound(), now, now + hour).unwrap();
    assert_eq!(at(&foreign, now), Err(JoseError::UnknownKey.into()));
    let named = |issuers: &[&str]| {
        let issuers: Vec<String> = issuers.iter().map(|&issuer| issuer.to_owned()).collect();
        Tokens::new(cluster.tokens.keys.clone(), &issuers, cluster.store.clone())
    };
    assert_eq!(named(&["https://else"]).verify(&token, &[], now), Err(TokenError::Issuer));
    // After a change of the issuer that still names the old one, its tokens stay good.
    let changed = named(&["https://else", ISSUER]);
    assert_eq!(changed.verify(&token, &[], now).unwrap().audiences, [ISSUER]);
    let (new, claims) = changed.issue(vec!["https://else".to_owned()], bound(), now, now + hour).unwrap();
    assert_eq!((claims.iss.as_str(), at(&new, now)), ("https://else", Err(TokenError::Issuer)));
    assert_eq!(changed.openid_configuration()["jwks_uri"], "https://else/openid/v1/jwks");
}

#[tokio::test]
async fn the_subject_must_be_the_account_of_the_claims() {
    let cluster = cluster().await;
    let now = Timestamp::now();
    let (_, mut claims) = cluster.tokens.issue(vec![ISSUER.to_owned()], bound(), now, now + SignedDuration::from_hours(1)).unwrap();
    claims.sub = "system:serviceaccount:kube-system:admin".to_owned();
    let token = jose::sign(&cluster.tokens.keys, &claims).unwrap();
    assert_eq!(cluster.verify(&token), Err(TokenError::Claims));
}

#[test]
fn memory_for_signatures_is_bounded() {
    let mut remembered = Remembered::default();
    let claims = Claims { aud: vec![], exp: 0, iat: 0, iss: String::new(), jti: String::new(), bound: bound(), nbf: 0, sub: String::new() };
    let signed = Arc::new(Signed { said: Said::Claims(claims), key: String::new() });
    let hash = |number: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_le_bytes());
        hash
    };
    for number in 0..5 * REMEMBERED_MAX {
        remembered.insert(hash(number), signed.clone());
        assert!(remembered.get(&hash(0)).is_some(), "one in use was forgotten");
    }
    assert!(remembered.young.len() + remembered.old.len() <= 2 * REMEMBERED_MAX);
}

#[tokio::test]
async fn a_token_that_should_have_been_renewed_is_noted_and_counted() {
    let cluster = cluster().await;
    let now = Timestamp::now();
    let later = |seconds: i64| now + SignedDuration::from_secs(seconds);
    let bound = Bound { warnafter: Some(later(3607).as_second()), ..bound() };
    let (token, _) = cluster.tokens.issue(vec![ISSUER.to_owned()], bound, now, later(100_000)).unwrap();
    let note = |at: i64| cluster.tokens.verify(&token, &[], later(at)).unwrap().note;
    assert_eq!(note(3607), None);
    let value = "subject: system:serviceaccount:a:robot, seconds after warning threshold: 3".to_owned();
    assert_eq!(note(3610), Some(Note { key: "authentication.k8s.io/stale-token", value }));
    let count = |uses: &AtomicU64| uses.load(Ordering::Relaxed);
    assert_eq!((count(&cluster.tokens.uses.valid), count(&cluster.tokens.uses.stale)), (1, 1));
}

#[tokio::test]
async fn a_pod_that_is_deleted_at_the_end_of_all_times_breaks_nothing() {
    let cluster = cluster().await;
    let token = cluster.issue(Bound { pod: Some(reference("p", "pod-1")), ..bound() });
    cluster.put("pods", "a", "p", "pod-1", Some(Timestamp::MAX)).await;
    assert!(cluster.verify(&token).is_ok());
    cluster.put("pods", "a", "p", "pod-1", Some(Timestamp::MIN)).await;
    assert_eq!(cluster.verify(&token), Err(TokenError::Gone { what: "pod a/p".to_owned() }));
}
