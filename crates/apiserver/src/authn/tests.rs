//! Requests with good, bad and no credentials.

use http::Request;
use knarr_store::{Embedded, Options};

use super::*;
use crate::authz::{Attributes, Authorizer};
use crate::pki::Sans;

struct Server {
    authn: Authn,
    pki: Pki,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("pki"), &Sans::default()).unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&dir.path().join("store"), Options::default()).unwrap());
    Server { authn: Authn::new(&pki, &["https://issuer".to_owned()], store.clone()), pki, store, _dir: dir }
}

fn request(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn peer(pki: &Pki, cn: &str, org: Option<&str>) -> Peer {
    use rustls_pki_types::pem::PemObject;
    let identity = pki.issue_client(cn, org).unwrap();
    let der = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
    Peer::of(&der).unwrap().unwrap()
}

impl Authn {
    async fn user(&self, request: &Parts, certificate: Certificate) -> Result<Arc<User>, Status> {
        self.authenticate(request, &certificate).await.map(|caller| caller.user)
    }
}

#[tokio::test]
async fn a_certificate_is_a_name_and_groups() {
    let server = server();
    let peer = peer(&server.pki, "system:node:n1", Some("system:nodes"));
    let mut user = User::clone(&*server.authn.user(&request("/api", &[]), Certificate::Of(peer)).await.unwrap());
    let id = &std::mem::take(&mut user.extra)[EXTRA_CREDENTIAL][0];
    assert!(id.strip_prefix("X509SHA256=").is_some_and(|hex| hex.len() == 64), "{id}");
    assert_eq!(user, User::node("n1"));
    assert!(matches!(Peer::of(&CertificateDer::from(vec![1, 2, 3])), Err(NoIdentity)));
}

/// A certificate that signs itself, with this subject.
fn certificate(parts: &[(rcgen::DnType, &str)]) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (what, text) in parts {
        params.distinguished_name.push(what.clone(), *text);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn a_certificate_may_name_a_uid_and_without_a_name_is_nobody() {
    let uid = || rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
    let name = || rcgen::DnType::CommonName;
    let of = |parts: &[(rcgen::DnType, &str)]| Peer::of(&certificate(parts)).map(|peer| peer.map(|peer| peer.user.uid.clone()));
    assert_eq!(of(&[(name(), "ann")]), Ok(Some(String::new())));
    assert_eq!(of(&[(name(), "ann"), (uid(), "u-1")]), Ok(Some("u-1".to_owned())));
    assert_eq!(of(&[(name(), "ann"), (uid(), "")]), Err(NoIdentity), "an empty uid");
    assert_eq!(of(&[(rcgen::DnType::OrganizationName, "devs")]), Ok(None));
}

#[tokio::test]
async fn a_certificate_that_ended_while_the_connection_lived_is_refused() {
    let server = server();
    let mut peer = peer(&server.pki, "ann", None);
    peer.not_after = Timestamp::now() - jiff::SignedDuration::from_secs(1);
    assert_eq!(server.authn.user(&request("/api", &[]), Certificate::Of(peer)).await.unwrap_err().code, 401);
}

#[tokio::test]
async fn without_credentials_only_health_and_version_answer() {
    let server = server();
    for (path, expected) in [
        ("/healthz", true),
        ("/livez/ping", true),
        ("/readyz?verbose", true),
        ("/version", true),
        ("/versions", false),
        ("/", false),
        ("/api", false),
        ("/apis", false),
        ("/metrics", false),
        ("/debug/pprof", false),
        ("/api/v1/secrets", false),
    ] {
        let user = server.authn.user(&request(path, &[]), Certificate::None).await;
        assert_eq!(user.is_ok_and(|user| user.is_anonymous()), expected, "{path}");
    }
}

#[tokio::test]
async fn bad_credentials_are_never_anonymous() {
    let server = server();
    for headers in [
        &[("authorization", "Bearer nonsense")][..],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        &[("authorization", "Bearer e30.e30.e30")],
    ] {
        let status = server.authn.user(&request("/healthz", headers), Certificate::None).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (401, "Unauthorized"), "{headers:?}");
    }
}

fn list(user: &User) -> Attributes<'_> {
    Attributes::resource(user, "list", "", "pods")
}

fn impersonation(headers: &[(&str, &str)]) -> Result<Option<Impersonation>, Status> {
    Impersonation::from_headers(&request("/", headers).headers)
}

#[tokio::test]
async fn impersonation_headers_make_a_user() {
    let server = server();
    let (authorizer, _) = Authorizer::open(server.store.clone());
    let master = User::authenticated("root", ["system:masters"]);
    let acting = |headers: &[(&str, &str)]| {
        futures::executor::block_on(impersonation(headers).unwrap().unwrap().authorize(&list(&master), &authorizer)).unwrap().0
    };
    assert!(impersonation(&[]).unwrap().is_none());

    let user = acting(&[
        ("impersonate-user", "ann"),
        ("impersonate-group", "a"),
        ("impersonate-group", "b"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.org%2fproject", "x"),
        ("impersonate-extra-acme.org%2fproject", "y"),
    ]);
    assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
    assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
    assert_eq!(user.extra["acme.org/project"], ["x", "y"]);

    assert_eq!(acting(&[("impersonate-user", "system:anonymous")]).groups, ["system:unauthenticated"]);
    let robot = acting(&[("impersonate-user", "system:serviceaccount:a:robot")]);
    assert_eq!(robot.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);

    for incomplete in
        [&[("impersonate-group", "a")][..], &[("impersonate-uid", "a")], &[("impersonate-user", "a"), ("impersonate-shoe", "b")]]
    {
        assert_eq!(impersonation(incomplete).unwrap_err().code, 400, "{incomplete:?}");
    }
}

#[tokio::test]
async fn who_may_impersonate_nobody_becomes_nobody() {
    let server = server();
    let (authorizer, _) = Authorizer::open(server.store.clone());
    let ann = User::authenticated("ann", [""; 0]);
    let refused = impersonation(&[("impersonate-user", "root"), ("impersonate-group", "system:masters")]).unwrap().unwrap();
    let status = refused.authorize(&list(&ann), &authorizer).await.unwrap_err();
    assert_eq!(status.code, 403);
    assert!(
        status.message.contains(r#"User "ann" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope"#),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn extra_keys_are_unescaped_or_left_alone() {
    for (escaped, expected) in
        [("a%2Fb", "a/b"), ("a", "a"), ("a%", "a%"), ("a%2", "a%2"), ("a%zz", "a%zz"), ("%+f", "%+f"), ("%ff", "%ff")]
    {
        assert_eq!(impersonate::unescape(escaped), expected);
    }
}
