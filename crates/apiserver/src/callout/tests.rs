//! Calls to a real TLS server on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use hyper::service::service_fn;
use knarr_api::Object;
use knarr_store::{Collection, Embedded, Expect, Key, Options, Store, Write};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::pki::{Identity, Pki, Sans};

struct World {
    dir: TempDir,
    pki: Pki,
    store: Arc<Embedded>,
    callout: Callout,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &Sans::default()).unwrap();
        let store = Arc::new(Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() }).unwrap());
        let dialer = Arc::new(Dialer::new(&pki, Ipv4Addr::LOCALHOST.into()).unwrap());
        let callout = Callout::new(store.clone(), dialer);
        Self { dir, pki, store, callout }
    }

    /// A server with a certificate of the cluster's authority for `name`.
    async fn server(&self, name: &str) -> Server {
        let mut sans = Sans::default();
        sans.add(name);
        Server::start(&self.pki.issue_serving("webhook", None, &sans).unwrap(), self.pki.client_verifier().unwrap()).await
    }

    fn bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.pki.ca_pem())
    }

    async fn store(&self, collection: &str, object: Value) {
        let object = Object::from_value(object).unwrap();
        let key = Key::new(&Collection::new(collection), object.namespace(), object.name());
        let encoded = object.encode();
        let write = Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect: Expect::Any, lazy: false };
        self.store.commit(vec![write]).await.unwrap();
    }

    async fn call(&self, target: &Target, query: &str) -> Result<String, String> {
        self.call_within(target, query, Duration::from_secs(60)).await
    }

    async fn call_within(&self, target: &Target, query: &str, time_max: Duration) -> Result<String, String> {
        let answer = self.callout.post(target, query, Bytes::from_static(b"{\"a\":1}"), time_max).await;
        answer.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|error| error.to_string())
    }
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Clients may show a certificate that `known` knows.
    async fn start(identity: &Identity, known: Arc<dyn ClientCertVerifier>) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(known)
            .with_single_cert(chain, key)
            .unwrap();
        let (acceptor, connections) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(AtomicUsize::new(0)));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, counted) = (listener.local_addr().unwrap(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http = hyper::server::conn::http1::Builder::new();
                    let peer = stream.get_ref().1.peer_certificates().map_or(String::new(), |chain| common_name(&chain[0]));
                    drop(http.serve_connection(TokioIo::new(stream), service_fn(move |request| answer(request, peer.clone()))).await);
                });
            }
        });
        Self { address, connections, task }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
    name.to_owned()
}

async fn answer(request: Request<Incoming>, peer: String) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let text = |name: header::HeaderName| request.headers().get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    let (uri, host, authorization) = (request.uri().to_string(), text(header::HOST), text(header::AUTHORIZATION));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let whole = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let said = match path.as_str() {
        "/who" => Bytes::from(peer),
        "/hang" => std::future::pending().await,
        "/huge" => Bytes::from(vec![b' '; ANSWER_BYTES_MAX + 1]),
        _ => Bytes::from(format!("{method} {uri} {host} {authorization} {}", String::from_utf8_lossy(&whole))),
    };
    let mut response = Response::new(Full::new(said));
    match path.as_str() {
        "/redirect" => {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(header::LOCATION, header::HeaderValue::from_static("/elsewhere"));
        }
        "/failing" => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        "/closing" => drop(response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"))),
        _ => {}
    }
    Ok(response)
}

#[tokio::test]
async fn a_url_is_called_again_on_the_same_connection() {
    let world = World::new();
    let server = world.server("127.0.0.1").await;
    let target = Target::from_client_config(&json!({"url": server.url("/admit"), "caBundle": world.bundle()})).unwrap();
    for _ in 0..3 {
        let expected = format!("POST /admit?timeout=10s {}  {{\"a\":1}}", server.address);
        assert_eq!(world.call(&target, "timeout=10s").await, Ok(expected));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let closing = Target::from_client_config(&json!({"url": server.url("/closing"), "caBundle": world.bundle()})).unwrap();
    for _ in 0..2 {
        world.call(&closing, "").await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 3, "a connection that the server closes is not kept");
}

#[tokio::test]
async fn a_service_is_called_at_a_ready_endpoint_under_its_own_name() {
    let world = World::new();
    let server = world.server("hook.ns.svc").await;
    let config = json!({"service": {"namespace": "ns", "name": "hook", "port": 8443, "path": "admit"}, "caBundle": world.bundle()});
    let target = Target::from_client_config(&config).unwrap();
    let missing = "Post \"https://hook.ns.svc:8443/admit\": service \"hook\" not found";
    assert_eq!(world.call(&target, "").await, Err(missing.to_owned()));
    let service =
        json!({"metadata": {"namespace": "ns", "name": "hook"}, "spec": {"ports": [{"name": "https", "port": 8443, "targetPort": 1}]}});
    world.store("core/services", service).await;
    let nobody = "Post \"https://hook.ns.svc:8443/admit\": no endpoints available for service \"hook\"";
    assert_eq!(world.call(&target, "").await, Err(nobody.to_owned()));
    let slice = |ready: bool| {
        json!({
            "metadata": {"namespace": "ns", "name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
            "ports": [{"name": "https", "port": server.address.port()}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}]})
    };
    world.store("discovery.k8s.io/endpointslices", slice(false)).await;
    assert_eq!(world.call(&target, "").await, Err(nobody.to_owned()));
    world.store("discovery.k8s.io/endpointslices", slice(true)).await;
    assert_eq!(world.call(&target, "").await, Ok("POST /admit hook.ns.svc:8443  {\"a\":1}".to_owned()));
    let wrong = Target::from_client_config(&json!({"service": {"namespace": "ns", "name": "hook"}, "caBundle": world.bundle()})).unwrap();
    let port = "Post \"https://hook.ns.svc:443/\": no service port \"443\" found for service \"hook\"";
    assert_eq!(world.call(&wrong, "").await, Err(port.to_owned()));
}

#[tokio::test]
async fn a_service_does_not_lead_to_the_servers_own_machine() {
    let world = World::new();
    let service = json!({"metadata": {"namespace": "ns", "name": "hook"}, "spec": {"ports": [{"port": 443}]}});
    world.store("core/services", service).await;
    let slice = json!({
        "metadata": {"namespace": "ns", "name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "ports": [{"port": 80}], "endpoints": [{"addresses": ["169.254.169.254"]}]});
    world.store("discovery.k8s.io/endpointslices", slice).await;
    let target = Target::from_client_config(&json!({"service": {"namespace": "ns", "name": "hook"}, "caBundle": world.bundle()})).unwrap();
    let refused = "Post \"https://hook.ns.svc:443/\": 169.254.169.254 is not an address that the API server connects to";
    assert_eq!(world.call(&target, "").await, Err(refused.to_owned()));
    let elsewhere =
        json!({"metadata": {"namespace": "ns", "name": "hook"}, "spec": {"type": "ExternalName", "externalName": "169.254.169.254"}});
    world.store("core/services", elsewhere).await;
    assert_eq!(world.call(&target, "").await, Err(refused.to_owned()), "under a name of another service neither");
}

#[tokio::test]
async fn failures_say_which_endpoint_and_why_and_nothing_of_the_body() {
    let world = World::new();
    let server = world.server("127.0.0.1").await;
    let target = |path: &str| Target::from_client_config(&json!({"url": server.url(path), "caBundle": world.bundle()})).unwrap();
    let failing = |path: &str, why: &str| Err(format!("Post \"{}\": {why}", server.url(path)));
    let redirect = "the server responded with the status code 302 but did not return more details";
    assert_eq!(world.call(&target("/redirect"), "").await, failing("/redirect", redirect));
    let internal = "an error on the server (status code 500) has prevented the request from succeeding";
    assert_eq!(world.call(&target("/failing"), "").await, failing("/failing", internal));
    let huge = format!("the answer is larger than {ANSWER_BYTES_MAX} bytes");
    assert_eq!(world.call(&target("/huge"), "").await, failing("/huge", &huge));
    let soon = Duration::from_millis(50);
    assert_eq!(world.call_within(&target("/hang"), "", soon).await, failing("/hang", "context deadline exceeded"));
    let address = server.address;
    let unknown = Target::from_client_config(&json!({"url": server.url("/")})).unwrap();
    let said = world.call(&unknown, "").await.unwrap_err();
    assert_eq!(said, format!("Post \"https://{address}/\": TLS with {address}: invalid peer certificate: UnknownIssuer"));
    let other = world.server("other.example").await;
    let target = Target::from_client_config(&json!({"url": other.url("/"), "caBundle": world.bundle()})).unwrap();
    let said = world.call(&target, "").await.unwrap_err();
    assert!(said.contains("certificate not valid for name \"127.0.0.1\""), "{said}");
    drop(server);
    let closed = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let target = Target::from_client_config(&json!({"url": format!("https://{closed}/"), "caBundle": world.bundle()})).unwrap();
    let said = world.call(&target, "").await.unwrap_err();
    assert_eq!(said, format!("Post \"https://{closed}/\": connect to {closed}: Connection refused (os error 111)"));
}

/// A certificate that is its own authority, as many webhooks have; not valid before 2020 or after `year`.
fn self_signed(name: &str, year: i32) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), not_after: jiff::Timestamp::MAX }
}

#[tokio::test]
async fn a_certificate_that_is_itself_in_the_bundle_is_trusted_for_its_names_and_time() {
    let world = World::new();
    for (name, year, expected) in [("127.0.0.1", 2200, ""), ("127.0.0.1", 2021, "Expired"), ("other.example", 2200, "NotValidForName")] {
        let identity = self_signed(name, year);
        let server = Server::start(&identity, world.pki.client_verifier().unwrap()).await;
        let bundle = base64::engine::general_purpose::STANDARD.encode(&identity.certificate_pem);
        let target = Target::from_client_config(&json!({"url": server.url("/"), "caBundle": bundle})).unwrap();
        match world.call(&target, "").await {
            Ok(_) => assert_eq!(expected, "", "{name} {year}"),
            Err(said) => assert!(!expected.is_empty() && said.contains("invalid peer certificate"), "{name} {year}: {said}"),
        }
    }
}

#[test]
fn unusable_configurations_are_refused() {
    let check = |config: Value, expected: &str| {
        assert_eq!(Target::from_client_config(&config).err().map(|error| error.to_string()).as_deref(), Some(expected));
    };
    check(json!({}), "clientConfig: must define a url or a service");
    check(json!({"url": "http://a/"}), "clientConfig.url: http://a/: only https is called");
    check(json!({"url": "https://a/", "caBundle": "bm9uZQ=="}), "caBundle: holds no certificate (PEM is expected)");
}

#[tokio::test]
async fn a_kubeconfig_file_names_server_authority_and_token() {
    let world = World::new();
    let server = world.server("hook.example").await;
    let dir = world.dir.path();
    std::fs::write(dir.join("ca.pem"), world.pki.ca_pem()).unwrap();
    std::fs::write(dir.join("token"), "secret\n").unwrap();
    let write = |name: &str, user: &str| {
        let path = dir.join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: hook\n  cluster:\n    server: {}\n    certificate-authority: ca.pem\n    \
             tls-server-name: hook.example\nusers:\n- name: us\n  user: {user}\ncontexts:\n- name: it\n  context: {{cluster: hook, user: us}}\n\
             current-context: it\n",
            server.url("/authn")
        );
        std::fs::write(&path, text).unwrap();
        Target::from_kubeconfig(&path)
    };
    for (user, authorization) in [
        ("{}", ""),
        ("{token: given}", "Bearer given"),
        ("{tokenFile: token}", "Bearer secret"),
        ("{username: me, password: pw}", "Basic bWU6cHc="),
    ] {
        let target = write("config", user).unwrap();
        let expected = format!("POST /authn {} {authorization} {{\"a\":1}}", server.address);
        assert_eq!(world.call(&target, "").await, Ok(expected));
    }
    let exec = write("exec", "{exec: {command: x}}").err().unwrap().to_string();
    assert!(exec.ends_with("exec: is not supported; use a client certificate, token, tokenFile or username and password"), "{exec}");
    let gone = Target::from_kubeconfig(&dir.join("gone")).err().unwrap().to_string();
    assert_eq!(gone, format!("read {}", dir.join("gone").display()));
}

/// Puts a new file in the place of the old.
fn put(path: &std::path::Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_renewed_client_certificate_is_shown_with_the_next_call() {
    let world = World::new();
    let server = world.server("127.0.0.1").await;
    let dir = world.dir.path();
    let (chain, key) = (dir.join("client.pem"), dir.join("client.key"));
    std::fs::write(dir.join("ca.pem"), world.pki.ca_pem()).unwrap();
    let [first, second] = ["first", "second"].map(|name| world.pki.issue_client(name, None).unwrap());
    put(&chain, &first.certificate_pem);
    put(&key, &first.key_pem);
    let config = json!({
        "clusters": [{"name": "c", "cluster": {"server": server.url("/who"), "certificate-authority": "ca.pem"}}],
        "users": [{"name": "u", "user": {"client-certificate": "client.pem", "client-key": "client.key"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
    std::fs::write(dir.join("config"), config.to_string()).unwrap();
    let target = Target::from_kubeconfig(&dir.join("config")).unwrap();
    for _ in 0..2 {
        assert_eq!(world.call(&target, "").await.as_deref(), Ok("first"));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    // A certificate without its key is not used, nor does it end what is open.
    put(&chain, &second.certificate_pem);
    assert_eq!(world.call(&target, "").await.as_deref(), Ok("first"));
    std::fs::remove_file(&key).unwrap();
    assert_eq!(world.call(&target, "").await.as_deref(), Ok("first"));
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    put(&key, &second.key_pem);
    for _ in 0..2 {
        assert_eq!(world.call(&target, "").await.as_deref(), Ok("second"));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_file_that_does_not_answer_delays_only_those_who_need_it() {
    let world = World::new();
    let server = world.server("127.0.0.1").await;
    let dir = world.dir.path();
    let identity = world.pki.issue_client("us", None).unwrap();
    std::fs::write(dir.join("ca.pem"), world.pki.ca_pem()).unwrap();
    put(&dir.join("client.pem"), &identity.certificate_pem);
    put(&dir.join("client.key"), &identity.key_pem);
    let target = |path: &str, user: Value| {
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": server.url(path), "certificate-authority": "ca.pem"}}],
            "users": [{"name": "u", "user": user}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]});
        std::fs::write(dir.join("config"), config.to_string()).unwrap();
        Target::from_kubeconfig(&dir.join("config")).unwrap()
    };
    let by_certificate = target("/who", json!({"client-certificate": "client.pem", "client-key": "client.key"}));
    let by_token = target("/who", json!({"tokenFile": "token"}));
    let other = target("/who", json!({}));
    assert_eq!(world.call(&by_certificate, "").await.as_deref(), Ok("us"));
    // Nobody writes into these pipes: who opens one to read waits.
    let pipe = |name: &str| {
        let path = dir.join(name);
        let _ = std::fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        path
    };
    for (target, pipe, text) in
        [(&by_certificate, pipe("client.key"), identity.key_pem.clone()), (&by_token, pipe("token"), "t".to_owned())]
    {
        for _ in 0..2 {
            let said = world.call_within(target, "", Duration::from_millis(100)).await.unwrap_err();
            assert!(said.ends_with("context deadline exceeded"), "{said}");
        }
        world.call(&other, "").await.unwrap();
        // One reads, whom the others wait for.
        std::fs::write(&pipe, &text).unwrap();
        put(&pipe, &text);
        world.call(target, "").await.unwrap();
    }
    assert_eq!(world.call(&by_certificate, "").await.as_deref(), Ok("us"));
}
