//! Callers whom somebody else knows: token issuers, a webhook, an authenticating proxy; and nodes that join by a bootstrap token.

use std::{fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use knarr_apiserver::{Access, TokenWebhook, pki::Identity};
use serde_json::{Value, json};

use crate::{
    kit::{Client, Cluster, eventually, text},
    outside::{Issuer, Outside, write},
    transport::{connect, get, post},
};

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// As whom a request with these headers is taken: name and groups, or the code of its refusal.
async fn who_with(cluster: &Cluster, identity: Option<&Identity>, headers: &[(&str, &str)]) -> Value {
    let (code, answer) = post(connect(cluster, identity, b"http/1.1").await, WHO, headers, &json!({})).await;
    if code == 201 { answer["status"]["userInfo"].clone() } else { json!(code) }
}

async fn who(cluster: &Cluster, token: &str) -> Value {
    who_with(cluster, None, &[("authorization", &format!("Bearer {token}"))]).await
}

fn configuration(issuer: &Issuer) -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer.server.url, "certificateAuthority": issuer.server.ca, "audiences": ["knarr"]},
            "claimValidationRules": [{"expression": "claims.level in ['gold', 'silver']", "message": "only metals"}],
            "claimMappings": {
                "username": {"expression": "'corp:' + claims.sub"},
                "groups": {"claim": "roles", "prefix": "corp:"},
                "uid": {"claim": "id"},
                "extra": [{"key": "example.org/level", "valueExpression": "claims.level"}],
            },
            "userValidationRules": [
                {"expression": "!user.username.startsWith('corp:root')", "message": "root stays outside"},
                {"expression": "user.groups.all(group, !group.startsWith('system:'))", "message": "groups of the system are not the issuer's to give"},
            ],
        }],
    })
}

/// A cluster that knows the issuer by a file, and the file.
async fn cluster_of(issuer: &Issuer) -> (Cluster, std::path::PathBuf) {
    let file = issuer.server.dir.path().join("authentication.yaml");
    write(&file, &configuration(issuer));
    let access = Access { authentication: Some(file.clone()), ..Access::default() };
    (Cluster::start_with(access).await, file)
}

#[tokio::test]
async fn a_token_of_a_configured_issuer_is_an_identity() {
    let issuer = Issuer::start().await;
    let (cluster, _file) = cluster_of(&issuer).await;
    let token = issuer.token(json!({"sub": "ann", "roles": ["devs", "ops"], "id": "7", "level": "gold", "jti": "t1"}));
    let expected = json!({
        "username": "corp:ann", "uid": "7", "groups": ["corp:devs", "corp:ops", "system:authenticated"],
        "extra": {"example.org/level": ["gold"], "authentication.kubernetes.io/credential-id": ["JTI=t1"]},
    });
    assert_eq!(who(&cluster, &token).await, expected);
    assert_eq!(who(&cluster, &token).await, expected);
    assert_eq!(issuer.server.asked(), 2, "discovery and keys, once");
    let review = json!({"spec": {"token": token}});
    let review = cluster.admin().post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.expect(201);
    assert_eq!(review["status"]["user"], expected);
    let elsewhere = json!({"spec": {"token": token, "audiences": ["vault"]}});
    let review = cluster.admin().post("/apis/authentication.k8s.io/v1/tokenreviews", &elsewhere).await.expect(201);
    assert_eq!(review["status"]["authenticated"], false, "of another audience");
}

#[tokio::test]
async fn what_a_token_says_wrong_refuses_it() {
    let issuer = Issuer::start().await;
    let (cluster, _file) = cluster_of(&issuer).await;
    let good = json!({"sub": "ann", "level": "gold"});
    assert_eq!(who(&cluster, &issuer.token(good.clone())).await["username"], "corp:ann");
    for (field, value) in [
        ("level", json!("lead")),
        ("level", Value::Null),
        ("sub", json!("root")),
        ("sub", json!(7)),
        ("aud", json!("others")),
        ("aud", json!(["x", "y"])),
        ("exp", json!(1_000_000_000)),
        ("exp", json!("soon")),
        ("nbf", json!(9_999_999_999_i64)),
        ("iss", json!("https://127.0.0.1:1")),
        ("roles", json!({"a": 1})),
    ] {
        let mut claims = good.clone();
        claims[field] = value.clone();
        assert_eq!(who(&cluster, &issuer.token(claims)).await, 401, "{field} {value}");
    }
    let token = issuer.token(good);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    assert_eq!(who(&cluster, &format!("{signed}.{turned}")).await, 401);
}

#[tokio::test]
async fn a_new_key_of_the_issuer_is_found_and_unknown_keys_do_not_make_us_ask_again_and_again() {
    let issuer = Issuer::start().await;
    let (cluster, file) = cluster_of(&issuer).await;
    let claims = json!({"sub": "ann", "level": "gold"});
    // The keys that are known are those of another: only a new configuration, or time, makes the server ask so soon.
    let first = issuer.token(claims.clone());
    assert_eq!(who(&cluster, &first).await["username"], "corp:ann");
    issuer.rotate("two");
    let second = issuer.token(claims.clone());
    for _ in 0..20 {
        assert_eq!(who(&cluster, &second).await, 401);
    }
    assert_eq!(issuer.server.asked(), 2);
    // A change of the file forgets the keys.
    let mut changed = configuration(&issuer);
    changed["jwt"][0]["claimMappings"]["username"]["expression"] = "'new:' + claims.sub".into();
    write(&file, &changed);
    eventually(async || who(&cluster, &second).await["username"] == "new:ann").await;
    assert_eq!(who(&cluster, &first).await, 401, "its key was withdrawn");
}

#[tokio::test]
async fn a_change_that_is_not_valid_leaves_all_as_it_was() {
    let issuer = Issuer::start().await;
    let (cluster, file) = cluster_of(&issuer).await;
    let token = issuer.token(json!({"sub": "ann", "level": "gold"}));
    assert_eq!(who(&cluster, &token).await["username"], "corp:ann");
    let mut wrong = configuration(&issuer);
    wrong["jwt"][0]["issuer"]["url"] = "http://plain".into();
    write(&file, &wrong);
    fs::write(&file, "{").unwrap();
    let mut right = configuration(&issuer);
    right["anonymous"] = json!({"enabled": true, "conditions": [{"path": "/livez"}]});
    // The good one comes last, and by then the wrong ones were looked at or passed over.
    assert_eq!(who(&cluster, &token).await["username"], "corp:ann");
    write(&file, &right);
    let code = async |path: &str| get(connect(&cluster, None, b"http/1.1").await, path, &[]).await.status().as_u16();
    eventually(async || code("/healthz").await == 401).await;
    assert_eq!((code("/livez").await, code("/livez/ping").await), (200, 401));
    assert_eq!(who(&cluster, &token).await["username"], "corp:ann");
}

#[tokio::test]
async fn a_configuration_that_is_not_valid_stops_the_start_and_names_the_field() {
    let issuer = Issuer::start().await;
    let file = issuer.server.dir.path().join("authentication.yaml");
    let mut wrong = configuration(&issuer);
    wrong["jwt"][0]["claimMappings"]["groups"] = json!({"claim": "roles"});
    write(&file, &wrong);
    let access = Access { authentication: Some(file), ..Access::default() };
    let error = Cluster::try_start(access).await.err().expect("a refusal");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("jwt[0].claimMappings.groups.prefix: Required value"), "{cause}");
}

#[tokio::test]
async fn a_webhook_knows_tokens_and_is_asked_once_for_each() {
    let webhook = Outside::start(|path, review| {
        assert_eq!((path, &review["kind"]), ("/who", &json!("TokenReview")));
        let known = review["spec"]["token"] == "s3cret";
        let user = json!({"username": "wendy", "uid": "9", "groups": ["hooked"], "extra": {"a": ["b"]}});
        let status = if known { json!({"authenticated": true, "user": user}) } else { json!({"authenticated": false}) };
        Some(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
    })
    .await;
    let remember = Duration::from_secs(600);
    let access = Access { token_webhook: Some(TokenWebhook { kubeconfig: webhook.kubeconfig("/who"), remember }), ..Access::default() };
    let cluster = Cluster::start_with(access).await;
    let wendy = json!({"username": "wendy", "uid": "9", "groups": ["hooked", "system:authenticated"], "extra": {"a": ["b"]}});
    for _ in 0..3 {
        assert_eq!(who(&cluster, "s3cret").await, wendy);
        assert_eq!(who(&cluster, "other").await, 401);
    }
    assert_eq!(webhook.asked(), 2);
    // A token of this cluster is no other's business, good or not.
    let account = json!({"metadata": {"name": "robot"}});
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let request = admin.post("/api/v1/namespaces/default/serviceaccounts/robot/token", &json!({})).await.expect(201);
    let token = text(&request["status"]["token"]).to_owned();
    assert_eq!(who(&cluster, &token).await["username"], "system:serviceaccount:default:robot");
    admin.delete("/api/v1/namespaces/default/serviceaccounts/robot").await.expect(200);
    assert_eq!(who(&cluster, &token).await, 401);
    assert_eq!(webhook.asked(), 2);
}

async fn bootstrap_token(admin: &Client, id: &str, data: &[(&str, &str)]) {
    let mut all = json!({"token-id": STANDARD.encode(id), "token-secret": STANDARD.encode("0123456789abcdef")});
    for (key, value) in data {
        all[*key] = STANDARD.encode(value).into();
    }
    let secret = json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": "bootstrap.kubernetes.io/token", "data": all});
    admin.post("/api/v1/namespaces/kube-system/secrets", &secret).await.expect(201);
}

#[tokio::test]
async fn a_bootstrap_token_lets_a_node_in_until_it_expires() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let usage = ("usage-bootstrap-authentication", "true");
    bootstrap_token(
        &admin,
        "aaaaaa",
        &[usage, ("auth-extra-groups", "system:bootstrappers:workers"), ("expiration", "2099-01-01T00:00:00Z")],
    )
    .await;
    bootstrap_token(&admin, "bbbbbb", &[usage, ("expiration", "2020-01-01T00:00:00Z")]).await;
    bootstrap_token(&admin, "cccccc", &[]).await;
    bootstrap_token(&admin, "dddddd", &[usage, ("auth-extra-groups", "system:masters")]).await;
    let groups = json!(["system:bootstrappers", "system:bootstrappers:workers", "system:authenticated"]);
    let known = json!({"username": "system:bootstrap:aaaaaa", "groups": groups});
    assert_eq!(who(&cluster, "aaaaaa.0123456789abcdef").await, known);
    // An end that is empty is none.
    bootstrap_token(&admin, "ffffff", &[usage, ("expiration", "")]).await;
    assert_eq!(who(&cluster, "ffffff.0123456789abcdef").await["username"], "system:bootstrap:ffffff");
    for wrong in [
        "aaaaaa.0123456789abcdee",
        "bbbbbb.0123456789abcdef",
        "cccccc.0123456789abcdef",
        "dddddd.0123456789abcdef",
        "eeeeee.0123456789abcdef",
    ] {
        assert_eq!(who(&cluster, wrong).await, 401, "{wrong}");
    }
}

#[tokio::test]
async fn a_proxy_asks_for_others_and_nobody_else_may() {
    let cluster = Cluster::start().await;
    let pki = cluster.server.pki();
    let headers = [("x-remote-user", "ann"), ("x-remote-group", "devs"), ("x-remote-extra-acme.org%2fteam", "a")];
    let proxy = pki.issue_front_proxy_client().unwrap();
    let ann = json!({"username": "ann", "groups": ["devs", "system:authenticated"], "extra": {"acme.org/team": ["a"]}});
    assert_eq!(who_with(&cluster, Some(&proxy), &headers).await, ann);
    // A proxy that names nobody is nobody.
    assert_eq!(who_with(&cluster, Some(&proxy), &[]).await, 401);
    // The same headers of a client of the cluster, or of nobody, mean nothing.
    let eve = pki.issue_client("eve", None).unwrap();
    assert_eq!(who_with(&cluster, Some(&eve), &headers).await["username"], "eve");
    let pretender = pki.issue_client("front-proxy-client", None).unwrap();
    assert_eq!(who_with(&cluster, Some(&pretender), &headers).await["username"], "front-proxy-client");
    assert_eq!(who_with(&cluster, None, &headers).await, 401);
    let published = cluster.admin().get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.expect(200);
    assert_eq!(published["data"]["requestheader-client-ca-file"], pki.front_proxy_ca_pem());
    assert_eq!(published["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
}

#[tokio::test]
async fn a_good_token_counts_beside_a_certificate_that_does_not() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let request = admin.post("/api/v1/namespaces/default/serviceaccounts/robot/token", &json!({})).await.expect(201);
    let bearer = format!("Bearer {}", text(&request["status"]["token"]));
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = knarr_apiserver::pki::Pki::open(elsewhere.path(), &knarr_apiserver::pki::Sans::default()).unwrap();
    let foreign = foreign.issue_client("mallory", Some("system:masters")).unwrap();
    let name = |user: Value| user["username"].as_str().map(str::to_owned);
    let robot = Some("system:serviceaccount:default:robot".to_owned());
    assert_eq!(name(who_with(&cluster, Some(&foreign), &[("authorization", &bearer)]).await), robot);
    assert_eq!(who_with(&cluster, Some(&foreign), &[("authorization", "Bearer nonsense")]).await, 401);
    assert_eq!(who_with(&cluster, Some(&foreign), &[]).await, 401);
    // One that is good comes first, whatever the token is.
    let ann = cluster.server.pki().issue_client("ann", None).unwrap();
    for token in [&*bearer, "Bearer nonsense"] {
        assert_eq!(name(who_with(&cluster, Some(&ann), &[("authorization", token)]).await).as_deref(), Some("ann"));
    }
    // And by its fingerprint the certificate is found in the records.
    let shown = who_with(&cluster, Some(&ann), &[]).await;
    let id = text(&shown["extra"]["authentication.kubernetes.io/credential-id"][0]).to_owned();
    assert!(id.strip_prefix("X509SHA256=").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())), "{id}");
}

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a payload");
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn a_pods_own_token_lives_on_after_it_should_have_been_renewed_and_no_other_does() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let mut pod = crate::kit::pod("p");
    pod["spec"]["serviceAccountName"] = "robot".into();
    admin.post(crate::kit::PODS, &pod).await.expect(201);
    let of_pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    let own = "https://kubernetes.default.svc.cluster.local";
    for (spec, warn_after, life) in [
        (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod}), Some(3607), 31_536_000),
        (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod, "audiences": [own]}), Some(3607), 31_536_000),
        (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod, "audiences": ["vault"]}), None, 3607),
        (json!({"expirationSeconds": 3607, "boundObjectRef": of_pod, "audiences": [own, "vault"]}), None, 3607),
        (json!({"expirationSeconds": 3600, "boundObjectRef": of_pod}), None, 3600),
        (json!({"expirationSeconds": 3607}), None, 3607),
    ] {
        let answer = admin.post("/api/v1/namespaces/default/serviceaccounts/robot/token", &json!({"spec": spec})).await.expect(201);
        let claims = claims_of(text(&answer["status"]["token"]));
        let begin = claims["iat"].as_i64().unwrap();
        let warned = claims["kubernetes.io"]["warnafter"].as_i64().map(|after| after - begin);
        assert_eq!((warned, claims["exp"].as_i64().unwrap() - begin), (warn_after, life), "{spec}");
        // The kubelet renews it by what it asked for.
        let until: jiff::Timestamp = text(&answer["status"]["expirationTimestamp"]).parse().unwrap();
        assert_eq!(until.as_second() - begin, spec["expirationSeconds"].as_i64().unwrap());
        assert_eq!(answer["spec"]["expirationSeconds"], spec["expirationSeconds"]);
    }
}

#[tokio::test]
async fn times_at_the_end_of_all_times_break_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let mut pod = crate::kit::pod("p");
    pod["spec"]["serviceAccountName"] = "robot".into();
    let mut pod = admin.post(crate::kit::PODS, &pod).await.expect(201);
    let of_pod = json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}});
    let answer = admin.post("/api/v1/namespaces/default/serviceaccounts/robot/token", &of_pod).await.expect(201);
    let token = text(&answer["status"]["token"]).to_owned();
    pod["metadata"]["deletionTimestamp"] = "9999-12-30T22:00:00Z".into();
    cluster.write("core/pods", pod).await;
    assert_eq!(who(&cluster, &token).await["username"], "system:serviceaccount:default:robot");
    let endless = format!("{}?watch=true&timeoutSeconds={}", crate::kit::PODS, i64::MAX);
    assert_eq!(cluster.admin().watch(&endless).await.word().await, "ADDED p");
}
