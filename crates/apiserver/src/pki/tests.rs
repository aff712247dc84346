//! Certificates are judged by those who use them: every test does a real handshake.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::renewal::Renewing;
use super::*;

fn sans() -> Sans {
    let mut sans = Sans::api_server("cluster.local", [10, 43, 0, 1].into(), "node-a");
    sans.add("192.0.2.7");
    sans
}

fn open(dir: &Path) -> Pki {
    Pki::open(&dir.join("pki"), &sans()).unwrap()
}

fn client(pki: &Pki, identity: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

struct Handshake {
    server_certificate: CertificateDer<'static>,
    client_certificate: Option<CertificateDer<'static>>,
}

/// A byte goes over and comes back: in TLS 1.3 a client learns only then that its certificate was refused.
async fn handshake(server: &Pki, client: ClientConfig, name: &str) -> Result<Handshake, String> {
    let (near, far) = tokio::io::duplex(16 << 10);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server.server_config().unwrap()));
    let serve = async {
        let mut stream = acceptor.accept(far).await.map_err(|error| format!("server: {error}"))?;
        let byte = stream.read_u8().await.map_err(|error| format!("server: {error}"))?;
        stream.write_u8(byte).await.map_err(|error| format!("server: {error}"))?;
        stream.flush().await.map_err(|error| format!("server: {error}"))?;
        Ok::<_, String>(stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone().into_owned()))
    };
    let call = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = connector.connect(name, near).await.map_err(|error| format!("client: {error}"))?;
        stream.write_u8(7).await.map_err(|error| format!("client: {error}"))?;
        stream.flush().await.map_err(|error| format!("client: {error}"))?;
        stream.read_u8().await.map_err(|error| format!("client: {error}"))?;
        Ok::<_, String>(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
    };
    let (client_certificate, server_certificate) = tokio::join!(serve, call);
    Ok(Handshake { client_certificate: client_certificate?, server_certificate: server_certificate? })
}

#[tokio::test]
async fn serving_certificate_is_good_for_every_name_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    for name in ["localhost", "127.0.0.1", "::1", "10.43.0.1", "kubernetes", "kubernetes.default.svc.cluster.local", "node-a", "192.0.2.7"]
    {
        handshake(&pki, client(&pki, None), name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["example.org", "192.0.2.8"] {
        let error = handshake(&pki, client(&pki, None), name).await.err().expect(name);
        assert!(error.contains("BadCertificate"), "{name}: {error}");
    }
}

#[tokio::test]
async fn client_certificates_of_the_authority_are_accepted_and_others_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let identity = pki.issue_client("alice", Some("devs")).unwrap();
    let seen = handshake(&pki, client(&pki, Some(&identity)), "localhost").await.unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(seen.client_certificate.as_ref().unwrap()).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=devs, CN=alice");

    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = open(elsewhere.path()).issue_client("alice", Some("system:masters")).unwrap();
    assert!(handshake(&pki, client(&pki, Some(&stranger)), "localhost").await.is_err());

    // The front proxy's authority vouches for the proxy, never for users.
    let proxy = pki.issue_front_proxy_client().unwrap();
    assert!(handshake(&pki, client(&pki, Some(&proxy)), "localhost").await.is_err());

    // A serving certificate is no client certificate.
    let kubelet = pki.issue_serving("system:node:a", Some("system:nodes"), &sans()).unwrap();
    assert!(handshake(&pki, client(&pki, Some(&kubelet)), "localhost").await.is_err());
}

#[tokio::test]
async fn expired_client_certificates_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let long_ago = Timestamp::now() - jiff::SignedDuration::from_hours(48);
    let pki = Pki::open_at(&dir.path().join("pki"), &sans(), long_ago).unwrap();
    let identity = pki.inner.ca.issue("alice", None, authority::Usage::Client, &Sans::default(), 1, long_ago).unwrap();
    let error = handshake(&pki, client(&pki, Some(&identity)), "localhost").await.err().unwrap();
    assert!(error.contains("xpired"), "{error}");
}

#[tokio::test]
async fn renewal_and_new_names_need_no_restart() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let first = handshake(&pki, client(&pki, None), "localhost").await.unwrap().server_certificate;

    pki.inner.renewals.pass(Timestamp::now());
    let same = handshake(&pki, client(&pki, None), "localhost").await.unwrap().server_certificate;
    assert_eq!(first, same, "renewed although two thirds of its life are left");

    // Another name makes a new certificate; this one is as old as if it had been made 300 of its 365 days ago.
    let mut more = sans();
    more.add("203.0.113.9");
    assert!(pki.serving().set_sans(&more).unwrap());
    let named = handshake(&pki, client(&pki, None), "203.0.113.9").await.unwrap().server_certificate;
    assert_ne!(first, named);
    assert!(!pki.serving().set_sans(&sans()).unwrap(), "fewer names are no reason");
    assert!(pki.serving().set_sans(&more).is_ok_and(|issued| !issued));

    let later = Timestamp::now() + jiff::SignedDuration::from_hours(300 * 24);
    pki.inner.renewals.pass(later);
    assert_ne!(pki.serving().shown(), named);
    handshake(&pki, client(&pki, None), "203.0.113.9").await.err().expect("it is of the day on which it was renewed");
    // The clock is set back: a certificate of the future is none.
    pki.inner.renewals.pass(Timestamp::now());
    handshake(&pki, client(&pki, None), "203.0.113.9").await.unwrap();
}

/// As long ago as makes a year's certificate due in a second.
fn almost_due() -> Timestamp {
    Timestamp::now() - jiff::SignedDuration::from_hours(365 * 24) * 2 / 3 + jiff::SignedDuration::from_secs(1)
}

#[tokio::test]
async fn certificates_that_live_in_memory_renew_while_they_are_shown_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open_at(&dir.path().join("pki"), &sans(), almost_due()).unwrap();
    let subject = |name, cn: &str, usage| Subject { name, used_by: "", cn: cn.to_owned(), org: Some("system:nodes"), usage, dir: None };
    let kubelet = pki.renewing(subject("kubelet", "system:node:a", Usage::Server), &pki.inner.ca, &sans(), almost_due()).unwrap();
    let caller = pki.renewing(subject("client", "caller", Usage::Client), &pki.inner.ca, &Sans::default(), almost_due()).unwrap();
    let proxy = pki.renewing(subject("proxy", "proxy", Usage::Client), &pki.inner.front_proxy, &Sans::default(), almost_due()).unwrap();
    let all = [kubelet.clone(), caller.clone(), proxy];
    let shown = || all.iter().map(|one| one.shown()).collect::<Vec<_>>();
    let first = shown();
    let keeping = tokio::spawn({
        let pki = pki.clone();
        async move { pki.keep().await }
    });
    let renewed = async {
        while shown().iter().zip(&first).any(|(now, first)| now == first) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), renewed).await.expect("they are renewed");
    let renewed = shown();
    assert!(all.iter().all(|one| one.renew_at() > Timestamp::now()), "the new ones have most of their life before them");
    // The same client, without being made anew, shows the new certificate.
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates({
            let mut roots = RootCertStore::empty();
            roots.add(pki.ca_der().clone()).unwrap();
            roots
        })
        .with_client_cert_resolver(caller);
    let seen = handshake(&pki, config.clone(), "localhost").await.unwrap().client_certificate.unwrap();
    assert_eq!(seen, renewed[1]);
    assert_eq!(pki.renew(Some("client")).done, ["client"]);
    let seen = handshake(&pki, config, "localhost").await.unwrap().client_certificate.unwrap();
    assert_ne!(seen, renewed[1], "renewed at once where that is asked for");
    assert!(!kubelet.set_sans(&sans()).unwrap());
    assert_eq!(kubelet.shown(), renewed[0]);
    let mut moved = sans();
    moved.add("203.0.113.9");
    assert!(kubelet.set_sans(&moved).unwrap());
    assert_ne!(kubelet.shown(), renewed[0]);
    keeping.abort();
}

#[tokio::test]
async fn the_serving_certificate_and_the_kubeconfig_renew_on_disk_before_a_third_of_their_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, kubeconfig) = (dir.path().join("pki"), dir.path().join("admin.kubeconfig"));
    let pki = Pki::open(&keys, &sans()).unwrap();
    pki.write_admin_kubeconfig(&kubeconfig, "https://127.0.0.1:6443").unwrap();
    let read = || ["pki/apiserver.crt", "admin.kubeconfig"].map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap());
    let first = read();
    let day = jiff::SignedDuration::from_hours(24);
    let now = Timestamp::now();
    pki.inner.renewals.pass(now + day * 243);
    assert_eq!(read(), first, "two thirds of a year are not over");
    pki.inner.renewals.pass(now + day * 244);
    let second = read();
    assert!(first[0] != second[0] && first[1] != second[1]);
    let listed = pki.list();
    let names: Vec<_> = listed.iter().map(|one| (&*one.name, &*one.subject, one.renewed.is_some())).collect();
    let expected = [
        ("ca", "CN=knarr-ca", false),
        ("front-proxy-ca", "CN=knarr-front-proxy-ca", false),
        ("apiserver", "CN=kube-apiserver", true),
        ("admin.kubeconfig", "O=system:masters, CN=kubernetes-admin", true),
    ];
    assert_eq!(names, expected);
    assert!(listed[2].sans.contains(&"192.0.2.7".to_owned()) && listed[2].expires > now + day * 600);
    let told = |all: Vec<Listed>| all.into_iter().map(|one| (one.name, one.issued, one.renewed)).collect::<Vec<_>>();
    assert_eq!(told(survey(dir.path()).unwrap()), told(listed), "those on disk are told without a server too");
}

#[tokio::test]
async fn a_new_token_key_signs_the_old_one_verifies_and_both_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let old = pki.list_token_keys()[0].id.clone();
    let new = pki.rotate_token_key(Turnover::AtOnce).unwrap().id;
    assert_ne!(old, new);
    let told = |pki: &Pki| pki.list_token_keys().into_iter().map(|key| (key.id, key.use_of)).collect::<Vec<_>>();
    let both = vec![(new.clone(), KeyUse::Signs), (old.clone(), KeyUse::VerifiesOnly)];
    assert_eq!(told(&pki), both);
    let again = open(dir.path());
    assert_eq!(told(&again), both);
    assert_eq!(again.list_token_keys(), pki.list_token_keys(), "when they were made is kept");
    let early = again.forget_token_keys(false).unwrap_err().to_string();
    assert!(early.contains("knarr tokens forget --force"), "{early}");
    assert_eq!(told(&open(dir.path())), both, "nothing was forgotten");
    assert_eq!(again.forget_token_keys(true).unwrap(), [old]);
    assert_eq!(told(&open(dir.path())), [(new, KeyUse::Signs)]);
    // A file of before, with nothing but a key.
    let file = dir.path().join("pki/sa.key");
    std::fs::write(&file, authority::new_key().unwrap().serialize_pem()).unwrap();
    assert_eq!(open(dir.path()).list_token_keys()[0].made, None);
    std::fs::write(&file, "nothing").unwrap();
    assert!(Pki::open(&dir.path().join("pki"), &sans()).err().unwrap().to_string().contains("it holds no key"));
    let error = (0..100).find_map(|_| pki.rotate_token_key(Turnover::AtOnce).err()).expect("keys are not without end");
    assert!(error.to_string().contains("knarr tokens forget"), "{error}");
}

#[test]
fn a_new_token_key_is_published_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let (start, minute) = (Timestamp::now(), jiff::SignedDuration::from_mins(1));
    let keys = TokenKeys::open(dir.path(), start).unwrap();
    let old = keys.signing(start).id().to_owned();
    let new = keys.rotate(Turnover::Published, start).unwrap();
    let KeyUse::SignsFrom(from) = new.use_of else { panic!("{new:?}") };
    assert!(from > start + minute * 60, "a set that was read just before is good for an hour: {from}");
    assert_eq!(keys.list(start).into_iter().map(|key| key.id).collect::<Vec<_>>(), [new.id.clone(), old.clone()], "it is published");
    let again = TokenKeys::open(dir.path(), start).unwrap();
    for keys in [&keys, &again] {
        assert_eq!((keys.signing(start).id(), keys.signing(from - minute).id()), (&*old, &*old));
        assert_eq!(keys.signing(from).id(), new.id);
    }
    for refused in [keys.forget(start, true).map(|_| ()), keys.rotate(Turnover::Published, start + minute).map(|_| ())] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("`knarr tokens rotate --now`"), "the key before it still signs, and nobody shall believe else: {error}");
    }
    assert!(keys.forget(from, false).is_err(), "pods have no tokens of it");
    assert_eq!(again.signing(start - minute * 60 * 24).id(), old, "with a clock that was set back, too");
    let at_once = again.rotate(Turnover::AtOnce, start + minute).unwrap().id;
    let uses = again.list(from).into_iter().map(|key| (key.id, key.use_of)).collect::<Vec<_>>();
    assert_eq!(uses, [(at_once.clone(), KeyUse::Signs), (old, KeyUse::VerifiesOnly)], "the one that waited has signed nothing");
    let back = TokenKeys::open(dir.path(), start).unwrap();
    assert_eq!(back.signing(start - minute).id(), at_once, "the old key signs no more, whatever the clock says");
    back.forget(start - minute, true).unwrap();
    assert_eq!(back.list(start).len(), 1);
}

#[test]
fn token_keys_go_when_no_token_of_theirs_can_live() {
    let dir = tempfile::tempdir().unwrap();
    let (start, day) = (Timestamp::now(), jiff::SignedDuration::from_hours(24));
    let keys = TokenKeys::open(dir.path(), start).unwrap();
    let ids = |keys: &TokenKeys| keys.list(start).into_iter().map(|key| key.id).collect::<Vec<_>>();
    keys.rotate(Turnover::AtOnce, start + day).unwrap();
    keys.rotate(Turnover::AtOnce, start + day * 2).unwrap();
    let [third, second, first] = &ids(&keys)[..] else { panic!("{:?}", ids(&keys)) };
    assert!(keys.forget(start + day * 3 - day / 24, false).is_err(), "pods may have no tokens of the new key");
    let fourth = keys.rotate(Turnover::AtOnce, start + day * 366 - day / 24).unwrap().id;
    assert_eq!(ids(&keys), [&*fourth, third, second, first].map(str::to_owned), "a token of the first key may live for an hour");
    let fifth = keys.rotate(Turnover::AtOnce, start + day * 366).unwrap().id;
    assert_eq!(ids(&keys), [&*fifth, &fourth, third, second].map(str::to_owned));
    assert_eq!(ids(&TokenKeys::open(dir.path(), start).unwrap()), ids(&keys), "so it is on disk");
    keys.forget(start + day * 368, false).unwrap();
    assert_eq!(ids(&keys), [fifth]);
    assert!(keys.forget(start + day * 366, false).unwrap().is_empty(), "where there is nothing to forget, nothing is refused");
}

#[test]
fn a_renewal_that_fails_stops_no_other_and_what_was_not_written_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    pki.write_admin_kubeconfig(&dir.path().join("admin.kubeconfig"), "https://127.0.0.1:6443").unwrap();
    let keys = dir.path().join("pki");
    std::fs::rename(&keys, dir.path().join("away")).unwrap();
    let renewed = pki.renew(None);
    assert_eq!(renewed.done, ["admin.kubeconfig"]);
    let failed: Vec<_> = renewed.failed.iter().map(|(name, error)| (name.as_str(), matches!(error, PkiError::Unkept { .. }))).collect();
    assert_eq!(failed, [("apiserver", true)]);
    std::fs::rename(dir.path().join("away"), &keys).unwrap();
    let written = || CertificateDer::from_pem_slice(&std::fs::read(keys.join("apiserver.crt")).unwrap()).unwrap();
    assert_ne!(written(), pki.serving().shown());
    pki.inner.renewals.pass(Timestamp::now());
    assert_eq!(written(), pki.serving().shown());
    assert!(pki.serving().renew_at() > Timestamp::now(), "nothing is left to do");
}

#[test]
fn the_kubeconfig_is_left_to_those_who_deleted_it_or_put_their_own_into_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.kubeconfig");
    let (pki, url) = (open(dir.path()), "https://127.0.0.1:6443");
    pki.write_admin_kubeconfig(&path, url).unwrap();
    let first = std::fs::read_to_string(&path).unwrap();
    let due = Timestamp::now() + jiff::SignedDuration::from_hours(24) * 300;
    std::fs::remove_file(&path).unwrap();
    pki.inner.renewals.pass(due);
    assert!(!path.exists(), "it was brought back");
    let left = |pki: &Pki| pki.list().into_iter().find(|one| one.name == "admin.kubeconfig").and_then(|one| one.left);
    assert!(left(&pki).is_some_and(|reason| reason.contains("it was deleted")));
    assert!(pki.renew(Some("admin.kubeconfig")).failed[0].1.to_string().contains("it was deleted"));

    for shared in
        [format!("{first}- name: mine\n  user: {{}}\n"), first.replacen("clusters:\n", "clusters:\n- name: other\n  cluster: {}\n", 1)]
    {
        std::fs::write(&path, &shared).unwrap();
        pki.inner.renewals.pass(due);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), shared);
        assert!(pki.renew(Some("admin.kubeconfig")).failed[0].1.to_string().contains("it holds other clusters or users"));
        let next = open(dir.path());
        next.write_admin_kubeconfig(&path, "https://127.0.0.1:7443").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), shared, "nor at a start");
        let listed = next.list().into_iter().find(|one| one.name == "admin.kubeconfig").unwrap();
        assert!(listed.left.is_some() && listed.subject.contains("kubernetes-admin"), "{listed:?}");
        assert!(
            next.inner.renewals.pass(Timestamp::now()) > std::time::Duration::from_secs(60),
            "what is left is not tried again and again"
        );
    }
    std::fs::write(&path, &first).unwrap();
    pki.inner.renewals.pass(due);
    assert_ne!(std::fs::read_to_string(&path).unwrap(), first, "what is all ours is renewed");
    assert_eq!(left(&pki), None);
}

#[test]
fn an_authority_that_has_ended_issues_nothing_and_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let ended = authority::life_of_pem(pki.ca_pem()).unwrap().until;
    let shown = pki.serving().shown();
    for _ in 0..3 {
        pki.inner.renewals.pass(ended);
    }
    assert_eq!(pki.serving().shown(), shown);
    assert_eq!(pki.inner.renewals.told().len(), 1);
    let (pem, _) = request("ann", &[], &[]);
    for error in [
        pki.inner.ca.issue("ann", None, Usage::Client, &Sans::default(), 1, ended).err(),
        pki.inner.ca.sign_request(pem.as_bytes(), &CLIENT, None, ended).err(),
        Pki::open_at(&dir.path().join("pki"), &sans(), ended).err(),
    ] {
        let error = error.expect("refused").to_string();
        assert!(error.contains("makes a new authority") && error.contains("ca.crt"), "{error}");
    }
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("admin.kubeconfig");
    let before = open(dir.path());
    let identity = before.issue_client("alice", None).unwrap();
    before.write_admin_kubeconfig(&kubeconfig, "https://127.0.0.1:6443").unwrap();
    let admin = std::fs::read_to_string(&kubeconfig).unwrap();
    let serving = handshake(&before, client(&before, None), "localhost").await.unwrap().server_certificate;

    let after = open(dir.path());
    assert_eq!(before.cluster_uid(), after.cluster_uid());
    assert_eq!(before.ca_pem(), after.ca_pem());
    let signing = |pki: &Pki| pki.token_keys().signing(Timestamp::now()).id().to_owned();
    assert_eq!(signing(&before), signing(&after));
    let seen = handshake(&after, client(&before, Some(&identity)), "localhost").await.unwrap();
    assert_eq!(seen.server_certificate, serving);
    after.write_admin_kubeconfig(&kubeconfig, "https://127.0.0.1:6443").unwrap();
    assert_eq!(std::fs::read_to_string(&kubeconfig).unwrap(), admin);
    after.write_admin_kubeconfig(&kubeconfig, "https://127.0.0.1:7443").unwrap();
    assert!(std::fs::read_to_string(&kubeconfig).unwrap().contains("server: https://127.0.0.1:7443\n"));
}

#[test]
fn a_crash_while_keys_are_written_is_mended_or_told() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    open(dir.path());

    // The authority's key was written, its certificate not yet: the certificate is made from the key.
    std::fs::remove_file(pki.join("ca.crt")).unwrap();
    open(dir.path());

    // A serving key without its certificate, and one of another pair: issued again.
    std::fs::remove_file(pki.join("apiserver.crt")).unwrap();
    open(dir.path());
    std::fs::write(pki.join("apiserver.key"), authority::new_key().unwrap().serialize_pem()).unwrap();
    open(dir.path());

    // A lost key cannot be mended, and must not silently become a new cluster.
    std::fs::remove_file(pki.join("ca.key")).unwrap();
    let error = Pki::open(&pki, &sans()).err().unwrap();
    assert!(matches!(error, PkiError::Half { .. }), "{error}");
}

#[test]
fn keys_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let identity = open(dir.path()).issue_client("alice", None).unwrap();
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}

/// A request for a key that the caller keeps: PEM of both.
fn request(cn: &str, orgs: &[&str], names: &[&str]) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for org in orgs {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, *org);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, cn);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

const CLIENT: [&str; 2] = ["digital signature", "client auth"];

#[tokio::test]
async fn a_request_becomes_a_certificate_that_the_server_takes() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let (pem, key_pem) = request("ann", &["devs"], &["ann.test", "192.0.2.1"]);
    let certificate_pem = pki.sign_request(pem.as_bytes(), &CLIENT, Some(3600)).unwrap();
    let identity = Identity { certificate_pem, key_pem, not_after: Timestamp::MAX };
    let seen = handshake(&pki, client(&pki, Some(&identity)), "localhost").await.unwrap().client_certificate.unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&seen).unwrap();
    assert_eq!(certificate.subject().to_string(), "O=devs, CN=ann");
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.flags.count_ones() == 1);
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth && !extended.any);
    assert!(!certificate.is_ca());
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["DNSName(ann.test)", "IPAddress(c0:00:02:01)"]);
    let validity = certificate.validity();
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3600 + 300, "as long as asked, and five minutes back");

    // As a server it is refused: a client certificate serves nothing.
    assert!(pki.sign_request(pem.as_bytes(), &["cert sign"], None).unwrap_err().to_string().contains("sign a certificate request"));
}

#[test]
fn a_certificate_lives_a_year_at_most_and_never_longer_than_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let (pem, _) = request("ann", &[], &[]);
    let days = |seconds: Option<i64>, now: Timestamp| {
        let certificate = pki.inner.ca.sign_request(pem.as_bytes(), &CLIENT, seconds, now).unwrap();
        let life = authority::life_of_pem(&certificate).unwrap();
        life.until.duration_since(life.from).as_hours() as f64 / 24.0
    };
    let now = Timestamp::now();
    assert_eq!(days(None, now), 365.0);
    assert_eq!(days(Some(1 << 40), now), 365.0);
    assert_eq!(days(Some(86_400), now), 1.0);
    let last_day = authority::life_of_pem(pki.ca_pem()).unwrap().until - jiff::SignedDuration::from_hours(24);
    assert!(days(None, last_day) < 1.1);
}

#[test]
fn a_request_that_is_not_signed_by_its_own_key_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let pki = open(dir.path());
    let (pem, _) = request("ann", &["devs"], &[]);
    let der = request_from_pem(pem.as_bytes()).unwrap();
    // The outer sequence has two bytes of length at most; what is signed follows.
    let signed = parse_request(&der).unwrap().certification_request_info.raw.len();
    for at in 4..signed {
        let mut changed = der.clone();
        changed[at] ^= 1;
        assert!(parse_request(&changed).is_err(), "byte {at}");
    }
    let (one, _) = request("one", &["devs"], &[]);
    assert!(pki.sign_request(one.replace("REQUEST", "REQUESTS").as_bytes(), &CLIENT, None).is_err());
    assert!(pki.sign_request(b"", &CLIENT, None).is_err());
}
