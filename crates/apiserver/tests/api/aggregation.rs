//! An extension server that the test plays, behind an APIService: real TLS, and it believes the front proxy only.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_apiserver::{
    User,
    pki::{Pki, Sans},
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    custom::{DEFINITIONS, define},
    kit::{Client, Cluster, text},
    transport::connect,
};

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const ROOT: &str = "/apis/sample.example.com/v1";
const FLUNDERS: &str = "/apis/sample.example.com/v1/namespaces/default/flunders";

struct Extension {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Method and path, and the headers, of all requests but those about the server itself.
    seen: Mutex<Vec<(String, HeaderMap)>>,
    ill: AtomicBool,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Extension {
    /// Its certificate is of the cluster's authority, for the Service `ext` in `default`.
    async fn start(pki: &Pki) -> Self {
        let mut sans = Sans::default();
        sans.add("ext.default.svc");
        let identity = pki.issue_serving("ext", None, &sans).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pki.front_proxy_ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let served = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let (_, leaf) = x509_parser::parse_x509_certificate(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
                    assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str().unwrap(), "front-proxy-client");
                    let service = service_fn(move |request| answer(state.clone(), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), service).with_upgrades().await.ok();
                });
            }
        });
        Self { address, state, task }
    }

    /// The requests since the last call.
    fn seen(&self) -> Vec<(String, HeaderMap)> {
        std::mem::take(&mut self.state.seen.lock().unwrap())
    }
}

fn document(value: Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let accept = request.headers().get(header::ACCEPT).map_or("", |accept| accept.to_str().unwrap()).to_owned();
    if state.ill.load(Ordering::Relaxed) {
        return Ok(status(StatusCode::INTERNAL_SERVER_ERROR));
    }
    let flunder = json!({"type": "object", "properties": {"spec": {"$ref": "#/definitions/FlunderSpec"}}});
    Ok(match path.as_str() {
        "/apis" if accept.contains("APIGroupDiscoveryList") => status(StatusCode::NOT_ACCEPTABLE),
        ROOT => document(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "sample.example.com/v1", "resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "shortNames": ["fl"], "verbs": ["get", "list", "create"]},
            {"name": "flunders/exec", "singularName": "", "namespaced": true, "kind": "ExecOptions", "verbs": ["create"]},
        ]})),
        "/openapi/v2" => document(json!({
            "swagger": "2.0", "info": {"title": "ext", "version": "1"},
            "paths": {FLUNDERS: {"get": {"responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/Flunder"}}}}}, "/api/v1": {}},
            "definitions": {"Flunder": flunder, "FlunderSpec": {"type": "object"}, "Other": {}}})),
        "/openapi/v3" => {
            document(json!({"paths": {"apis/sample.example.com/v1": {"serverRelativeURL": format!("/openapi/v3{ROOT}?hash=ABC")}}}))
        }
        "/openapi/v3/apis/sample.example.com/v1" => document(json!({"openapi": "3.0.0", "theirs": true})),
        _ => {
            let seen = (format!("{} {}", request.method(), request.uri()), request.headers().clone());
            state.seen.lock().unwrap().push(seen);
            match path.rsplit_once('/').unwrap().1 {
                "redirect" => {
                    let mut response = status(StatusCode::FOUND);
                    response.headers_mut().insert(header::LOCATION, header::HeaderValue::from_static("https://127.0.0.1:1/steal"));
                    response
                }
                "exec" if request.headers().contains_key(header::UPGRADE) => {
                    let upgraded = hyper::upgrade::on(&mut request);
                    tokio::spawn(async move {
                        let mut stream = TokioIo::new(upgraded.await.unwrap());
                        let mut four = [0; 4];
                        stream.read_exact(&mut four).await.unwrap();
                        stream.write_all(b"pong").await.unwrap();
                    });
                    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
                    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
                    response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("SPDY/3.1"));
                    response
                }
                "refuse" => status(StatusCode::BAD_REQUEST),
                _ => document(json!({"kind": "FlunderList", "apiVersion": "sample.example.com/v1", "metadata": {}, "items": []})),
            }
        }
    })
}

/// The Service `ext`, and where it leads. Written past validation: no one else may have an endpoint on loopback.
async fn service(cluster: &Cluster, address: SocketAddr) {
    let service = json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"name": "https", "port": 443}]}});
    cluster.admin().post("/api/v1/namespaces/default/services", &service).await.expect(201);
    slice(cluster, address, true).await;
}

async fn slice(cluster: &Cluster, address: SocketAddr, ready: bool) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "ext", "namespace": "default", "labels": {"kubernetes.io/service-name": "ext"}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": ready}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]});
    cluster.write("discovery.k8s.io/endpointslices", slice).await;
}

fn api_service(ca_pem: &str) -> Value {
    json!({"metadata": {"name": "v1.sample.example.com"}, "spec": {
        "group": "sample.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
        "service": {"namespace": "default", "name": "ext"}, "caBundle": base64::engine::general_purpose::STANDARD.encode(ca_pem)}})
}

/// Waits until the condition has that status and reason; its message.
async fn available(admin: &Client, status: &str, reason: &str) -> String {
    let mut watch = admin.watch(&format!("{API_SERVICES}?watch=true&fieldSelector=metadata.name=v1.sample.example.com")).await;
    let waited = async {
        loop {
            let event = watch.next().await.expect("the watch goes on");
            let condition = &event["object"]["status"]["conditions"][0];
            if (text(&condition["status"]), text(&condition["reason"])) == (status, reason) {
                return text(&condition["message"]).to_owned();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.unwrap_or_else(|_| panic!("never {status} for {reason}"))
}

/// A cluster with an extension server that works.
async fn extended() -> (Cluster, Client, Extension) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let extension = Extension::start(cluster.server.pki()).await;
    service(&cluster, extension.address).await;
    admin.post(API_SERVICES, &api_service(cluster.server.pki().ca_pem())).await.expect(201);
    assert_eq!(available(&admin, "True", "Passed").await, "all checks passed");
    // Published before it was written.
    (cluster, admin, extension)
}

#[tokio::test]
async fn requests_are_passed_on_under_the_callers_name_and_no_other() {
    let (cluster, _, extension) = extended().await;
    let extra = [("example.com/team".to_owned(), vec!["a".to_owned()])].into();
    let anne = User { uid: "u-1".into(), extra, ..User::authenticated("anne", ["system:masters", "devs"]) };
    let anne = cluster.as_user(anne);
    let forged = [
        ("x-remote-user", "root"),
        ("X-Remote-Group", "system:masters2"),
        ("x-remote-extra-scopes", "all"),
        ("authorization", "Bearer secret"),
        ("cookie", "a=b"),
        ("accept", "application/json;as=Table;g=meta.k8s.io;v=v1"),
        ("content-type", "application/json"),
    ];
    let answer = anne.ask("POST", &format!("{FLUNDERS}?dryRun=All&x=a%2Fb"), &forged, "{\"a\":1}").await;
    assert_eq!(answer.expect(200)["kind"], "FlunderList");
    let seen = extension.seen();
    let [(line, headers)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(line, &format!("POST {FLUNDERS}?dryRun=All&x=a%2Fb"));
    let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("x-remote-user"), all("x-remote-uid")), (vec!["anne"], vec!["u-1"]));
    assert_eq!(all("x-remote-group"), ["system:masters", "devs", "system:authenticated"]);
    assert_eq!(all("x-remote-extra-example.com%2Fteam"), ["a"]);
    assert_eq!((all("x-remote-extra-scopes"), all("authorization"), all("cookie")), (vec![], vec![], vec![]));
    assert_eq!((all("host"), all("accept")), (vec!["ext.default.svc:443"], vec!["application/json;as=Table;g=meta.k8s.io;v=v1"]));
    // Subresources may go on, as those of no kind here do; tricks may not.
    anne.get(&format!("{FLUNDERS}/x/port/22/tcp")).await.expect(200);
    assert_eq!(extension.seen()[0].0, format!("GET {FLUNDERS}/x/port/22/tcp"));
    for trick in ["../x", "x/port/../../y", "%2e%2e/x", "x%2Fy"] {
        anne.get(&format!("{FLUNDERS}/{trick}")).await.refused(400);
    }
    assert_eq!(extension.seen().len(), 0);
}

#[tokio::test]
async fn who_may_not_is_refused_before_the_extension_server_hears_of_it() {
    let (cluster, _, extension) = extended().await;
    let bob = cluster.as_user(User::authenticated("bob", Vec::<String>::new()));
    let (_, message) = bob.get(FLUNDERS).await.refused(403);
    assert!(message.contains("cannot list resource \"flunders\" in API group \"sample.example.com\""), "{message}");
    assert_eq!(extension.seen().len(), 0);
}

#[tokio::test]
async fn discovery_shows_both_servers_and_says_what_is_stale() {
    let (cluster, admin, extension) = extended().await;
    let group = async |name: &str| {
        let list = admin.get_as("/apis", AGGREGATED).await.expect(200);
        let items = list["items"].as_array().unwrap().clone();
        let at = items.iter().position(|item| item["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        (at, items[at].clone())
    };
    let (at, sample) = group("sample.example.com").await;
    let version = &sample["versions"][0];
    assert_eq!((text(&version["version"]), text(&version["freshness"])), ("v1", "Current"));
    let flunders = json!({
        "resource": "flunders", "responseKind": {"group": "sample.example.com", "version": "v1", "kind": "Flunder"}, "scope": "Namespaced",
        "singularResource": "flunder", "verbs": ["get", "list", "create"], "shortNames": ["fl"],
        "subresources": [{"subresource": "exec", "responseKind": {"group": "sample.example.com", "version": "v1", "kind": "ExecOptions"}, "verbs": ["create"]}]});
    assert_eq!(version["resources"], json!([flunders]));
    // Its priority of 2000 is below those of what is built in.
    assert!(group("apiregistration.k8s.io").await.0 == 0 && group("apps").await.0 == 1 && at > group("scheduling.k8s.io").await.0);
    let groups = admin.get("/apis").await.expect(200);
    let listed = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "sample.example.com").unwrap();
    assert_eq!(listed["preferredVersion"], json!({"groupVersion": "sample.example.com/v1", "version": "v1"}));
    assert_eq!(admin.get("/apis/sample.example.com").await.expect(200)["kind"], "APIGroup");
    assert_eq!(admin.get(ROOT).await.expect(200)["resources"][0]["name"], "flunders");
    assert!(admin.get("/").await.expect(200)["paths"].as_array().unwrap().contains(&json!(ROOT)));
    extension.state.ill.store(true, Ordering::Relaxed);
    slice(&cluster, extension.address, true).await;
    let message = available(&admin, "False", "FailedDiscoveryCheck").await;
    assert!(message.contains("bad status from /apis/sample.example.com/v1: 500"), "{message}");
    let version = group("sample.example.com").await.1["versions"][0].clone();
    assert_eq!((text(&version["freshness"]), &version["resources"]), ("Stale", &json!([flunders])));
    let (reason, message) = admin.get(FLUNDERS).await.refused(503);
    assert_eq!((reason.as_str(), message.as_str()), ("ServiceUnavailable", "service unavailable"));
    // It is asked again without anything happening.
    extension.state.ill.store(false, Ordering::Relaxed);
    available(&admin, "True", "Passed").await;
    admin.get(FLUNDERS).await.expect(200);
    admin.delete(&format!("{API_SERVICES}/v1.sample.example.com")).await.expect(200);
    let gone = async {
        while admin.get(ROOT).await.code != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("gone with its APIService");
}

#[tokio::test]
async fn openapi_documents_of_both_servers_are_one() {
    let (_cluster, admin, _extension) = extended().await;
    let v2 = admin.get_as("/openapi/v2", "application/json").await.expect(200);
    assert!(v2["paths"].get(FLUNDERS).is_some() && v2["paths"].get("/api/v1/namespaces/{namespace}/pods").is_some());
    assert_eq!(v2["definitions"]["Flunder"]["properties"]["spec"]["$ref"], "#/definitions/FlunderSpec");
    assert!(v2["definitions"].get("FlunderSpec").is_some() && v2["definitions"].get("Other").is_none());
    let gnostic = admin.get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").await;
    assert!(gnostic.bytes.windows(11).any(|window| window == b"FlunderSpec"));
    let index = admin.get("/openapi/v3").await.expect(200);
    let url = text(&index["paths"]["apis/sample.example.com/v1"]["serverRelativeURL"]);
    assert_eq!(url, "/openapi/v3/apis/sample.example.com/v1?hash=ABC");
    assert_eq!(admin.get(url).await.expect(200)["theirs"], true);
}

/// CVE-2022-3172: the client would follow, with his credentials.
#[tokio::test]
async fn redirects_of_extension_servers_end_here() {
    let (_cluster, admin, _extension) = extended().await;
    let answer = admin.get(&format!("{FLUNDERS}/x/redirect")).await;
    assert_eq!(answer.header("location"), "");
    let (_, message) = answer.refused(502);
    assert!(message.ends_with("the backend attempted to redirect this request, which is not permitted"), "{message}");
}

fn upgrade(subresource: &str) -> String {
    format!("POST {FLUNDERS}/x/{subresource} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn streams_go_through() {
    let (cluster, _admin, extension) = extended().await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let mut client = connect(&cluster, Some(&identity), b"http/1.1").await;
    client.write_all(upgrade("exec").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    client.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
    assert_eq!(extension.seen()[0].1["x-remote-user"], "anne");
}

/// CVE-2018-1002105 of aggregated servers: after a refused upgrade the connection carried what the client liked, as the front proxy.
#[tokio::test]
async fn after_a_refused_upgrade_nothing_more_reaches_the_extension_server() {
    let (cluster, _admin, extension) = extended().await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let mut client = connect(&cluster, Some(&identity), b"http/1.1").await;
    client.write_all(upgrade("refuse").as_bytes()).await.unwrap();
    client.write_all(format!("GET {FLUNDERS}/y HTTP/1.1\r\nhost: x\r\nx-remote-user: root\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.to_lowercase().contains("connection: close"), "{answer}");
    let lines: Vec<_> = extension.seen().into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [format!("POST {FLUNDERS}/x/refuse")]);
}

#[tokio::test]
async fn the_condition_says_what_is_missing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let extension = Extension::start(cluster.server.pki()).await;
    let other = tempfile::tempdir().unwrap();
    let foreign = Pki::open(other.path(), &Sans::default()).unwrap();
    admin.post(API_SERVICES, &api_service(foreign.ca_pem())).await.expect(201);
    assert_eq!(available(&admin, "False", "ServiceNotFound").await, "service/ext in \"default\" is not present");
    admin.get(FLUNDERS).await.refused(503);
    let ports = |port: u16| json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"name": "https", "port": port}]}});
    admin.post("/api/v1/namespaces/default/services", &ports(8443)).await.expect(201);
    assert_eq!(available(&admin, "False", "ServicePortError").await, "service/ext in \"default\" is not listening on port 443");
    admin.patch("/api/v1/namespaces/default/services/ext", "merge-patch", ports(443)).await.expect(200);
    assert_eq!(available(&admin, "False", "EndpointsNotFound").await, "cannot find endpointslices for service/ext in \"default\"");
    slice(&cluster, extension.address, false).await;
    let message = available(&admin, "False", "MissingEndpoints").await;
    assert_eq!(message, "endpointslices for service/ext in \"default\" have no addresses with port name \"https\"");
    slice(&cluster, extension.address, true).await;
    let message = available(&admin, "False", "FailedDiscoveryCheck").await;
    assert!(message.contains("certificate"), "{message}");
    let path = format!("{API_SERVICES}/v1.sample.example.com");
    admin.patch(&path, "merge-patch", json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}})).await.expect(200);
    available(&admin, "True", "Passed").await;
    admin.get(FLUNDERS).await.expect(200);
    let table = admin.get_as(&path, "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    assert_eq!((&table["rows"][0]["cells"][1], &table["rows"][0]["cells"][2]), (&json!("default/ext"), &json!("True")));
}

#[tokio::test]
async fn what_this_server_serves_has_its_api_services() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let label = async |name: &str| {
        let found = admin.get(&format!("{API_SERVICES}/{name}")).await;
        (found.code == 200).then(|| found.json()["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"].clone())
    };
    let wait = async |name: &str, expected: Option<Value>| {
        let settled = async {
            while label(name).await != expected {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), settled).await.unwrap_or_else(|_| panic!("{name} is never {expected:?}"));
    };
    wait("v2.autoscaling", Some(json!("onstart"))).await;
    let core = admin.get(&format!("{API_SERVICES}/v1.")).await.expect(200);
    assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
    let condition = &core["status"]["conditions"][0];
    assert_eq!((text(&condition["status"]), text(&condition["reason"])), ("True", "Local"));
    // One for each version that discovery lists, but for that of APIServices itself.
    let groups = admin.get("/apis").await.expect(200);
    let versions = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["versions"].as_array().unwrap());
    let mut expected: Vec<String> = versions
        .map(|version| text(&version["groupVersion"]).split_once('/').unwrap())
        .filter(|(group, _)| *group != "apiregistration.k8s.io")
        .map(|(group, version)| format!("{version}.{group}"))
        .chain(["v1.".to_owned()])
        .collect();
    expected.sort();
    let list = admin.get(API_SERVICES).await.expect(200);
    assert_eq!(crate::kit::names(&list), expected);
    // Those of definitions come and go with them, and come back; those of the start stay away.
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    define(&admin, &definition).await;
    wait("v1.example.com", Some(json!("true"))).await;
    admin.delete(&format!("{API_SERVICES}/v1.batch")).await.expect(200);
    admin.delete(&format!("{API_SERVICES}/v1.example.com")).await.expect(200);
    wait("v1.example.com", Some(json!("true"))).await;
    assert_eq!(label("v1.batch").await, None);
    admin.delete(&format!("{DEFINITIONS}/things.example.com")).await.expect(200);
    wait("v1.example.com", None).await;
}
