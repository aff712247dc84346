//! Rights on signers: who may issue certificates in a signer's name, and who may tell what others shall trust in its name.

use knarr_apiserver::{User, pki::Identity};
use serde_json::{Value, json};

use crate::{
    kit::{Client, Cluster, text},
    rights::{allow, rule, user},
    transport::{connect, post},
};

const CERTIFICATES: &str = "certificates.k8s.io";
const POD_REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";

/// A user without rights, but for those on whole resources.
async fn user_of(cluster: &Cluster, name: &str, resources: &[&str]) -> Client {
    let rules: Vec<Value> = resources.iter().map(|resource| rule(CERTIFICATES, resource, &["*"], &[])).collect();
    allow(&cluster.admin(), name, user(name), rules.into()).await;
    cluster.as_user(User::authenticated(name, [""; 0]))
}

#[tokio::test]
async fn a_pods_request_is_ended_by_those_who_may_sign() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let bob = user_of(&cluster, "bob", &["podcertificaterequests", "podcertificaterequests/status"]).await;
    let ended = |ty: &str| {
        json!({"status": {"conditions": [{"type": ty, "status": "True", "reason": "Test", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let request = json!({"metadata": {"name": "r"}, "spec": {
        "signerName": "example.com/s", "podName": "p", "podUID": "1", "serviceAccountName": "default", "serviceAccountUID": "2",
        "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": "AAAA"}});
    admin.post(POD_REQUESTS, &request).await.expect(201);
    let status = format!("{POD_REQUESTS}/r/status");
    let mut issued = ended("Issued");
    issued["status"]["certificateChain"] = PEM.into();
    for end in [ended("Denied"), ended("Failed"), issued] {
        let (reason, message) = bob.patch(&status, "merge-patch", &end).await.refused(422);
        assert_eq!(reason, "Invalid");
        assert!(
            message.contains(r#"spec.signerName: Forbidden: User "bob" is not permitted to "sign" for signer "example.com/s""#),
            "{message}"
        );
    }
    // What changes nothing of the status is no signature.
    bob.patch(&format!("{POD_REQUESTS}/r"), "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    allow(&admin, "signs", user("bob"), json!([rule(CERTIFICATES, "signers", &["sign"], &["example.com/*"])])).await;
    let denied = bob.patch(&status, "merge-patch", ended("Denied")).await.expect(200);
    assert_eq!(denied["status"]["conditions"][0]["type"], "Denied");
}

#[tokio::test]
async fn a_bundle_of_a_signer_is_written_by_those_who_may_attest() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let carol = user_of(&cluster, "carol", &["clustertrustbundles"]).await;
    let bundle = |name: &str, signer: &str| json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": PEM}});
    carol.post(BUNDLES, &bundle("plain", "")).await.expect(201);
    let refusal = r#"user not permitted to attest for signerName "example.com/s""#;
    let signed = bundle("example.com:s:b", "example.com/s");
    let (reason, message) = carol.post(BUNDLES, &signed).await.refused(403);
    assert_eq!((reason.as_str(), message.contains(refusal)), ("Forbidden", true), "{message}");
    admin.post(BUNDLES, &signed).await.expect(201);
    let path = format!("{BUNDLES}/example.com:s:b");
    let trusted = json!({"spec": {"trustBundle": PEM.replace("MA==", "MAA=")}});
    for change in [&trusted, &json!({"metadata": {"labels": {"a": "b"}}})] {
        assert!(carol.patch(&path, "merge-patch", change).await.refused(403).1.contains(refusal));
    }
    // The garbage collector and the migration of stored objects need no right on signers.
    carol.patch(&path, "merge-patch", json!({"metadata": {"finalizers": ["example.com/f"]}})).await.expect(200);
    carol.patch(&path, "merge-patch", json!({})).await.expect(200);
    allow(&admin, "attests", user("carol"), json!([rule(CERTIFICATES, "signers", &["attest"], &["example.com/s"])])).await;
    carol.patch(&path, "merge-patch", &trusted).await.expect(200);
    carol.post(BUNDLES, &bundle("example.com:t:b", "example.com/t")).await.refused(403);
}

/// Go, with which approvers read requests, takes the last of several common names.
#[tokio::test]
async fn of_several_common_names_the_last_counts() {
    let cluster = Cluster::start().await;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:admin");
    // The same attribute by its number, which `rcgen` takes for another.
    params.distinguished_name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "alice");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let signed = cluster.server.pki().sign_request(pem.as_bytes(), &["digital signature", "client auth"], None).unwrap();
    let identity = Identity { certificate_pem: signed, key_pem: key.serialize_pem(), not_after: jiff::Timestamp::MAX };
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = post(connect(&cluster, Some(&identity), b"http/1.1").await, who, &[], &json!({})).await;
    assert_eq!((code, text(&answer["status"]["userInfo"]["username"])), (201, "alice"));
}
