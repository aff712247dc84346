//! Streams to kubelets, with a kubelet that the test plays.

use std::{net::SocketAddr, sync::Arc};

use hyper_util::rt::TokioIo;
use knarr_apiserver::pki::Sans;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    kit::{Client, Cluster, PODS, pod},
    transport::connect,
};

type Stream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

/// Accepts one connection, with a serving certificate for `name`, and answers `reply` to its request. Gives the head of the request and the stream.
struct Kubelet {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl Kubelet {
    async fn new(cluster: &Cluster, name: &str) -> Self {
        let mut sans = Sans::default();
        sans.add("127.0.0.1");
        let identity = cluster.server.pki().issue_serving(&format!("system:node:{name}"), Some("system:nodes"), &sans).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(cluster.server.pki().client_verifier().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), acceptor: Arc::new(config).into() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    async fn answer(&self, reply: &str) -> (String, Stream) {
        let (tcp, _) = self.listener.accept().await.unwrap();
        let mut stream = self.acceptor.accept(tcp).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(reply.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        (String::from_utf8(head).unwrap(), stream)
    }
}

/// A node whose kubelet is at `address`, and a pod on it.
pub(crate) async fn node_and_pod(admin: &Client, address: SocketAddr) {
    admin.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}})).await.expect(201);
    set_address(admin, &address.ip().to_string(), address.port()).await;
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n".into();
    admin.post(PODS, &bound).await.expect(201);
}

async fn set_address(admin: &Client, ip: &str, port: u16) {
    let status: Value =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": ip}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    admin.patch("/api/v1/nodes/n/status", "merge-patch", status).await.expect(200);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\nhello\n";

#[tokio::test]
async fn logs_come_from_the_pods_kubelet() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "n").await;
    node_and_pod(&admin, kubelet.address()).await;
    let path = format!("{PODS}/p/log?tailLines=5&follow=true");
    let (answer, (head, stream)) = tokio::join!(admin.get(&path), kubelet.answer(OK));
    assert_eq!((answer.code.as_u16(), &answer.bytes[..]), (200, &b"hello\n"[..]));
    assert!(head.starts_with("GET /containerLogs/default/p/c?follow=true&tailLines=5 HTTP/1.1\r\n"), "{head}");
    assert!(stream.get_ref().1.peer_certificates().is_some(), "the API server shows who it is");
    admin.get(&format!("{PODS}/p/log?container=x")).await.refused(400);
    admin.get(&format!("{PODS}/p/log?tailLines=-1")).await.refused(422);
}

#[tokio::test]
async fn a_kubelet_that_is_not_the_nodes_gets_nothing() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "other").await;
    node_and_pod(&admin, kubelet.address()).await;
    let (answer, _) = tokio::join!(admin.get("/api/v1/namespaces/default/pods/p/log"), async {
        kubelet.acceptor.accept(kubelet.listener.accept().await.unwrap().0).await
    });
    let (_, message) = answer.refused(502);
    assert!(message.contains("is not node n"), "{message}");
    // The API server itself, whose certificate is of the cluster too.
    set_address(&admin, "127.0.0.1", cluster.server.addresses()[0].port()).await;
    assert!(admin.get(&format!("{PODS}/p/log")).await.refused(502).1.contains("is not node n"));
}

/// CVE-2020-8562 and CVE-2022-3294.
#[tokio::test]
async fn the_hosts_other_addresses_are_not_dialled() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    node_and_pod(&admin, "10.9.9.9:10250".parse().unwrap()).await;
    for address in ["127.0.0.2", "169.254.169.254", "::1", "0.0.0.0"] {
        set_address(&admin, address, 10250).await;
        let (_, message) = admin.get(&format!("{PODS}/p/log")).await.refused(400);
        assert!(message.contains("is not an address that the API server connects to"), "{address}: {message}");
    }
}

/// CVE-2018-1002102 and CVE-2020-8559.
#[tokio::test]
async fn redirects_are_not_followed() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "n").await;
    node_and_pod(&admin, kubelet.address()).await;
    let reply = "HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (answer, _) = tokio::join!(admin.get("/api/v1/namespaces/default/pods/p/log"), kubelet.answer(reply));
    answer.refused(502);
}

const EXEC: &str = "GET /api/v1/namespaces/default/pods/p/exec?command=id&command=-u&stdin=true&stdout=true HTTP/1.1\r\nhost: x\r\n\
connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";

#[tokio::test]
async fn an_agreed_upgrade_is_a_tunnel() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "n").await;
    node_and_pod(&admin, kubelet.address()).await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let mut client = connect(&cluster, Some(&identity), b"http/1.1").await;
    client.write_all(EXEC.as_bytes()).await.unwrap();
    let reply = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n";
    let (head, mut stream) = kubelet.answer(reply).await;
    assert!(head.starts_with("GET /exec/default/p/c?input=1&output=1&error=1&command=id&command=-u HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    client.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    stream.write_all(b"pong").await.unwrap();
    stream.flush().await.unwrap();
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
}

#[tokio::test]
async fn after_a_refused_upgrade_nothing_more_reaches_the_kubelet() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "n").await;
    node_and_pod(&admin, kubelet.address()).await;
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let mut client = connect(&cluster, Some(&identity), b"http/1.1").await;
    client.write_all(EXEC.as_bytes()).await.unwrap();
    let reply = "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno";
    let (_, mut stream) = kubelet.answer(reply).await;
    // The second request that the flaw would have carried through under the API server's identity (CVE-2018-1002105).
    client.write_all(b"GET /exec/kube-system/other/c?command=id HTTP/1.1\r\nhost: x\r\n\r\n").await.ok();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.to_lowercase().contains("connection: close"), "{answer}");
    let mut leaked = Vec::new();
    stream.read_to_end(&mut leaked).await.ok();
    assert_eq!(leaked, b"");
}

#[tokio::test]
async fn a_websocket_exec_needs_the_right_to_create() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let role = json!({"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]});
    admin.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", &role).await.expect(201);
    let binding = json!({"metadata": {"name": "reader"}, "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}});
    admin.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &binding).await.expect(201);
    let bob = cluster.as_user(knarr_apiserver::User::authenticated("bob", Vec::<String>::new()));
    let path = format!("{PODS}/none/exec?command=id");
    // The role is followed by a watch; until it is seen the refusal names the verb get.
    let message = loop {
        let (_, message) = bob.get(&path).await.refused(403);
        if !message.contains("cannot get") {
            break message;
        }
        tokio::task::yield_now().await;
    };
    assert!(message.contains("cannot create resource \"pods/exec\""), "{message}");
}

#[tokio::test]
async fn pods_are_proxied_to_by_address_but_not_to_the_host() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = backend.local_addr().unwrap().port();
    admin.post(PODS, &pod("p")).await.expect(201);
    let status = |ip: &str| json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    admin.patch(&format!("{PODS}/p/status"), "merge-patch", status("127.0.0.3")).await.expect(200);
    admin.get(&format!("{PODS}/p:{port}/proxy/x")).await.refused(400);
    admin.patch(&format!("{PODS}/p/status"), "merge-patch", status("127.0.0.1")).await.expect(200);
    let path = format!("{PODS}/p:{port}/proxy/a%2Fb/c?d=e");
    let serve = async {
        let (stream, _) = backend.accept().await.unwrap();
        let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
            assert!(!request.headers().contains_key("authorization"));
            Ok::<_, std::convert::Infallible>(http::Response::new(request.uri().to_string()))
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
    };
    let headers = [("authorization", "Bearer secret")];
    let (answer, ()) = tokio::join!(admin.ask("GET", &path, &headers, ""), serve);
    assert_eq!((answer.code.as_u16(), &answer.bytes[..]), (200, &b"/a%2Fb/c?d=e"[..]));
}

#[tokio::test]
async fn who_is_proxied_to_is_told_where_the_request_came_from() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = backend.local_addr().unwrap().port();
    admin.post(PODS, &pod("p")).await.expect(201);
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    admin.patch(&format!("{PODS}/p/status"), "merge-patch", status).await.expect(200);
    let identity = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    for (told, expected) in [("", "127.0.0.1"), ("192.0.2.7", "192.0.2.7, 127.0.0.1")] {
        let serve = async {
            let (stream, _) = backend.accept().await.unwrap();
            let service = hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
                let all: Vec<_> =
                    request.headers().get_all("x-forwarded-for").iter().map(|value| value.to_str().unwrap().to_owned()).collect();
                Ok::<_, std::convert::Infallible>(http::Response::new(all.join("|")))
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        };
        let headers = [("x-forwarded-for", told), ("connection", "close")];
        let headers = if told.is_empty() { &headers[1..] } else { &headers[..] };
        let ask = async {
            let answer =
                crate::transport::get(connect(&cluster, Some(&identity), b"http/1.1").await, &format!("{PODS}/p:{port}/proxy/"), headers)
                    .await;
            http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes()
        };
        let (answer, ()) = tokio::join!(ask, serve);
        assert_eq!(answer, expected.as_bytes());
    }
}

/// `/metrics/resource` after `milliseconds` of a processor that is a quarter busy, half of it by the pod.
fn measured(milliseconds: u64) -> String {
    let text = format!(
        "node_cpu_usage_seconds_total {} {milliseconds}\nnode_memory_working_set_bytes 2097152 {milliseconds}\n\
         container_cpu_usage_seconds_total{{container=\"c\",namespace=\"default\",pod=\"p\"}} {} {milliseconds}\n\
         container_memory_working_set_bytes{{container=\"c\",namespace=\"default\",pod=\"p\"}} 1048576 {milliseconds}\n",
        milliseconds as f64 / 4_000.0,
        milliseconds as f64 / 8_000.0,
    );
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

#[tokio::test]
async fn what_is_used_is_shown_as_a_table() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let kubelet = Kubelet::new(&cluster, "n").await;
    node_and_pod(&admin, kubelet.address()).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let path = "/apis/metrics.k8s.io/v1beta1";
    let nodes = format!("{path}/nodes");
    let (shown, _) = tokio::join!(admin.get_as(&nodes, table), async {
        (kubelet.answer(&measured(1_000)).await, kubelet.answer(&measured(3_000)).await)
    });
    let shown = shown.expect(200);
    assert_eq!(shown["kind"], "Table");
    let columns: Vec<(&str, &str)> = shown["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .map(|column| (column["name"].as_str().unwrap_or(""), column["format"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(columns, [("Name", "name"), ("cpu", "quantity"), ("memory", "quantity"), ("Window", "duration")]);
    let cells = |table: &Value| table["rows"][0]["cells"].as_array().expect("a row")[..3].to_vec();
    assert_eq!(cells(&shown), ["n", "250m", "2Mi"]);
    assert!(shown["rows"][0]["cells"][3].as_str().is_some_and(|window| window.ends_with('s')), "{shown}");
    assert_eq!(
        (&shown["rows"][0]["object"]["kind"], &shown["rows"][0]["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("n"))
    );
    // For a moment the answer is given again, to one and to another.
    let pods = admin.get_as(&format!("{path}/namespaces/default/pods"), table).await.expect(200);
    assert_eq!(cells(&pods), ["p", "125m", "1Mi"]);
    assert_eq!(cells(&admin.get_as(&format!("{path}/namespaces/default/pods/p"), table).await.expect(200)), ["p", "125m", "1Mi"]);
    assert_eq!(admin.get(&nodes).await.expect(200)["items"][0]["usage"]["memory"], "2048Ki");
    // A review has no table.
    let review = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"}).to_string();
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    admin.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &headers, review).await.refused(406);
}
