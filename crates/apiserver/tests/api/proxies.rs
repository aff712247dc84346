//! The proxies to pods and services, with a backend that the test plays.

use std::{convert::Infallible, io::Write, net::SocketAddr, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_apiserver::{User, pki::Sans};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use crate::kit::{Client, Cluster, PODS, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// Pages with links, a redirect, and for everything else what was asked for.
async fn answer(request: Request<Incoming>) -> Result<Response<http_body_util::Full<bytes::Bytes>>, Infallible> {
    const PAGE: &str = r#"<a href="/rewriteme">test</a>"#;
    let html = Response::builder().header("content-type", "text/html; charset=utf-8");
    let built = match request.uri().path() {
        "/page" => html.header("content-length", PAGE.len()).body(PAGE.into()),
        "/packed" => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(PAGE.as_bytes()).unwrap();
            html.header("content-encoding", "gzip").body(packed.finish().unwrap().into())
        }
        "/moved" => Response::builder().status(302).header("location", "/there?x").body(Default::default()),
        _ => {
            let forwarded = request.headers().get("x-forwarded-uri").map_or("", |value| value.to_str().unwrap());
            Response::builder().body(format!("{} {} {forwarded}", request.method(), request.uri()).into())
        }
    };
    Ok(built.unwrap())
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await.ok();
}

/// A backend in plain HTTP, and one over TLS with a certificate that does not name it.
async fn backends(cluster: &Cluster) -> (SocketAddr, SocketAddr) {
    let identity = cluster.server.pki().issue_serving("whoever", None, &Sans::default()).unwrap();
    let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = tls.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream));
            }
        }
    });
    addresses
}

/// A pod with this specification, at the address of the backends.
async fn pod_there(admin: &Client, name: &str, host_network: bool) {
    let mut made = pod(name);
    made["spec"]["hostNetwork"] = host_network.into();
    admin.post(PODS, &made).await.expect(201);
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    admin.patch(&format!("{PODS}/{name}/status"), "merge-patch", status).await.expect(200);
}

async fn text(client: &Client, method: &str, path: &str) -> String {
    let answer = client.ask(method, path, &[], "").await;
    assert_eq!(answer.code, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.bytes));
    String::from_utf8(answer.bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_method_goes_through_a_proxy() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plain, _) = backends(&cluster).await;
    pod_there(&admin, "p", false).await;
    let path = format!("{PODS}/p:{}/proxy/some/path", plain.port());
    for method in ["DELETE", "OPTIONS", "PATCH", "POST", "PUT", "GET"] {
        assert_eq!(text(&admin, method, &format!("{path}?q=1")).await, format!("{method} /some/path?q=1 {path}"));
    }
    let nobody = cluster.as_user(User::authenticated("nobody", Vec::<String>::new()));
    nobody.ask("OPTIONS", &path, &[], "").await.refused(403);
    // Only there.
    admin.ask("OPTIONS", &format!("{PODS}/p"), &[], "").await.refused(405);
    admin.ask("OPTIONS", &format!("{PODS}/p/log"), &[], "").await.refused(405);
    admin.ask("TRACE", &path, &[], "").await.refused(405);
}

#[tokio::test]
async fn the_root_of_a_proxy_ends_in_a_slash() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plain, _) = backends(&cluster).await;
    pod_there(&admin, "p", false).await;
    let root = format!("{PODS}/p:{}/proxy", plain.port());
    for (method, query) in [("GET", "?x=y"), ("HEAD", "?x=y"), ("GET", "")] {
        let answer = admin.ask(method, &format!("{root}{query}"), &[], "").await;
        assert_eq!((answer.code.as_u16(), answer.header("location")), (301, &*format!("{root}/{query}")), "{method}");
    }
    assert_eq!(text(&admin, "GET", &format!("{root}/?x=y")).await, format!("GET /?x=y {root}/"));
    assert_eq!(text(&admin, "POST", &root).await, format!("POST / {root}/"));
    // What is not there is not redirected to.
    admin.get(&format!("{PODS}/none/proxy")).await.refused(404);
}

#[tokio::test]
async fn links_and_redirects_lead_through_the_proxy() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plain, _) = backends(&cluster).await;
    pod_there(&admin, "p", false).await;
    let root = format!("{PODS}/p:{}/proxy", plain.port());
    let page = format!(r#"<a href="{root}/rewriteme">test</a>"#);
    assert_eq!(text(&admin, "GET", &format!("{root}/page")).await, page);
    assert_eq!(text(&admin, "GET", &format!("{root}/packed")).await, page);
    let moved = admin.get(&format!("{root}/moved")).await;
    assert_eq!((moved.code.as_u16(), moved.header("location")), (302, &*format!("{root}/there?x")));
}

#[tokio::test]
async fn pods_and_services_are_spoken_to_over_tls_whoever_vouches_for_them() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plain, tls) = backends(&cluster).await;
    pod_there(&admin, "p", false).await;
    let ports = json!([{"name": "web", "port": 80}, {"name": "safe", "port": 443}]);
    admin.post(SERVICES, &json!({"metadata": {"name": "s"}, "spec": {"ports": ports}})).await.expect(201);
    // No client may write this one: the address is the host's own.
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [{"name": "web", "port": plain.port()}, {"name": "safe", "port": tls.port()}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    cluster.write("discovery.k8s.io/endpointslices", slice).await;
    for path in [
        format!("{PODS}/https:p:{}/proxy/x", tls.port()),
        format!("{SERVICES}/https:s:safe/proxy/x"),
        format!("{SERVICES}/https:s:443/proxy/x"),
        format!("{PODS}/http:p:{}/proxy/x", plain.port()),
        format!("{SERVICES}/s:web/proxy/x"),
    ] {
        assert_eq!(text(&admin, "GET", &path).await, format!("GET /x {path}"));
    }
    admin.get(&format!("{SERVICES}/ftp:s:web/proxy/x")).await.refused(400);
}

#[tokio::test]
async fn a_pod_on_its_nodes_network_is_proxied_to() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (plain, _) = backends(&cluster).await;
    pod_there(&admin, "p", true).await;
    let path = format!("{PODS}/p:{}/proxy/x", plain.port());
    assert_eq!(text(&admin, "GET", &path).await, format!("GET /x {path}"));
    // Though not at the host's other addresses.
    let status = json!({"status": {"podIP": "127.0.0.2", "podIPs": [{"ip": "127.0.0.2"}]}});
    admin.patch(&format!("{PODS}/p/status"), "merge-patch", status).await.expect(200);
    let (_, message) = admin.get(&path).await.refused(400);
    assert!(message.contains("is not an address that the API server connects to"), "{message}");
}
