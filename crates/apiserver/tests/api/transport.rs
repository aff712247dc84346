//! TLS, certificates, protocols and slow or odd clients; and the `kube` crate over all of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::ConfigMap;
use knarr_apiserver::pki::{Identity, Pki, Sans};
use kube::{
    Api,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::kit::Cluster;

pub(crate) type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// A TLS connection, with a client certificate if one is given.
pub(crate) async fn connect(cluster: &Cluster, identity: Option<&Identity>, protocol: &[u8]) -> Tls {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.server.pki().ca_der().clone()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(cluster.server.addresses()[0]).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

pub(crate) async fn get(stream: Tls, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

/// Code and document of the answer to a POST.
pub(crate) async fn post(stream: Tls, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(path).header("host", "localhost").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::<Bytes>::from(body.to_string())).unwrap()).await.unwrap();
    (response.status().as_u16(), json(response).await)
}

async fn json(response: Response<Incoming>) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

const WHO: &str = "/apis/authentication.k8s.io/v1";

#[tokio::test]
async fn a_certificate_of_the_cluster_is_an_identity() {
    let cluster = Cluster::start().await;
    let admin = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let response = get(connect(&cluster, Some(&admin), b"http/1.1").await, "/api/v1/namespaces/default", &[]).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("audit-id"));
}

#[tokio::test]
async fn a_foreign_certificate_and_a_bad_token_are_unauthorized() {
    let cluster = Cluster::start().await;
    let other = tempfile::tempdir().unwrap();
    let foreign = Pki::open(other.path(), &Sans::default()).unwrap().issue_client("mallory", Some("system:masters")).unwrap();
    let response = get(connect(&cluster, Some(&foreign), b"http/1.1").await, WHO, &[]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(json(response).await["reason"], "Unauthorized");
    let response = get(connect(&cluster, None, b"http/1.1").await, WHO, &[("authorization", "Bearer nonsense")]).await;
    assert_eq!(response.status(), 401);
    let response = get(connect(&cluster, None, b"http/1.1").await, "/healthz", &[]).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn impersonation_needs_the_right_to_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "system:authenticated")];
    let response = get(connect(&cluster, Some(&admin), b"http/1.1").await, "/api/v1/namespaces/default/secrets", &headers).await;
    assert_eq!(response.status(), 403);
    assert!(json(response).await["message"].as_str().unwrap().contains("User \"bob\""));
    let nobody = cluster.server.pki().issue_client("carl", None).unwrap();
    let response = get(connect(&cluster, Some(&nobody), b"http/1.1").await, WHO, &headers).await;
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn http2_is_spoken() {
    let cluster = Cluster::start().await;
    let admin = cluster.server.pki().issue_client("anne", Some("system:masters")).unwrap();
    let stream = connect(&cluster, Some(&admin), b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let requests =
        (0..20).map(|_| sender.send_request(Request::get("https://localhost/api/v1/namespaces").body(Full::<Bytes>::default()).unwrap()));
    for response in futures::future::join_all(requests.collect::<Vec<_>>()).await {
        assert_eq!(response.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn an_id_for_the_audit_is_kept_or_made() {
    let cluster = Cluster::start().await;
    let id = "7b6ec8f4-5b1c-4f0c-9d43-3a1f5f4a8e11";
    let response = get(connect(&cluster, None, b"http/1.1").await, "/version", &[("audit-id", id)]).await;
    assert_eq!(response.headers()["audit-id"], id);
    let response = get(connect(&cluster, None, b"http/1.1").await, "/version", &[("audit-id", "x\"y")]).await;
    assert_eq!(response.headers()["audit-id"].len(), 36);
}

#[tokio::test]
async fn plain_http_and_noise_are_dropped() {
    let cluster = Cluster::start().await;
    let mut stream = TcpStream::connect(cluster.server.addresses()[0]).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Reset or closed, after at most a TLS alert.
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("an end in time");
    assert!(read.is_err() || rest.len() < 64, "{rest:?}");
}

#[tokio::test]
async fn stopping_lets_requests_end_and_takes_no_more() {
    let cluster = Cluster::start().await;
    let address = cluster.server.addresses()[0];
    let stream = connect(&cluster, None, b"http/1.1").await;
    assert_eq!(get(stream, "/readyz", &[]).await.status(), 200);
    tokio::time::timeout(Duration::from_secs(5), cluster.server.shutdown()).await.expect("an end in time");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn kube_creates_watches_patches_lists_and_deletes() {
    use futures::{StreamExt, TryStreamExt};
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.kube().await);
    let watch = maps.watch(&WatchParams::default().timeout(5), "0").await.unwrap();
    let object = ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() }, ..ConfigMap::default() };
    let made = maps.create(&PostParams::default(), &object).await.unwrap();
    let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}});
    let patched = maps.patch("a", &PatchParams::apply("test"), &Patch::Apply(&patch)).await.unwrap();
    assert_eq!((made.metadata.uid, patched.data.unwrap()["k"].as_str()), (patched.metadata.uid, "v"));
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        1 + usize::from(maps.get_opt("kube-root-ca.crt").await.unwrap().is_some())
    );
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let names = watch.try_filter_map(async |event| {
        Ok(match event {
            WatchEvent::Added(object) if object.metadata.name.as_deref() == Some("a") => Some("added"),
            WatchEvent::Modified(_) => Some("modified"),
            WatchEvent::Deleted(_) => Some("deleted"),
            _ => None,
        })
    });
    let seen: Vec<_> = names.take(3).try_collect().await.unwrap();
    assert_eq!(seen, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn kube_reads_logs_of_errors_as_statuses() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.kube().await);
    match maps.get("none").await {
        Err(kube::Error::Api(status)) => assert_eq!((status.code, status.reason.as_str()), (404, "NotFound")),
        other => panic!("{other:?}"),
    }
}
