//! An extension API server, kept small: it holds its objects in memory and believes the front proxy. kubectl sees its kind like any other, and the
//! garbage collector and the end of a namespace treat it so.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{Kubectl, holds, rows};
use crate::harness::Knarr;

const GROUP_VERSION: &str = "sample.example.com/v1";

#[derive(Default)]
struct Flunders {
    revision: u64,
    /// By namespace and name.
    objects: BTreeMap<(String, String), Value>,
    /// Who asked, as the front proxy says.
    callers: Vec<String>,
}

struct Extension {
    flunders: Mutex<Flunders>,
    events: broadcast::Sender<Value>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn document(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn not_found(name: &str) -> Response<Body> {
    document(
        404,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("flunders.sample.example.com \"{name}\" not found")}),
    )
}

/// The object, or what the client wants of it.
fn shown(object: &Value, metadata_only: bool) -> Value {
    match metadata_only {
        true => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]}),
        false => object.clone(),
    }
}

impl Extension {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let segments: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        self.flunders.lock().unwrap().callers.push(header("x-remote-user"));
        let metadata_only = header("accept").contains("as=PartialObjectMetadata");
        let (namespace, name) = match segments[..] {
            ["apis", "sample.example.com", "v1"] => {
                return Ok(document(
                    200,
                    &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [{
                    "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "shortNames": ["fl"],
                    "verbs": ["create", "delete", "deletecollection", "get", "list", "watch"]}]}),
                ));
            }
            ["apis", "sample.example.com", "v1", "flunders"] => (None, None),
            ["apis", "sample.example.com", "v1", "namespaces", namespace, "flunders"] => (Some(namespace.to_owned()), None),
            ["apis", "sample.example.com", "v1", "namespaces", namespace, "flunders", name] => {
                (Some(namespace.to_owned()), Some(name.to_owned()))
            }
            _ => return Ok(not_found(parts.uri.path())),
        };
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(match (parts.method, name) {
            (Method::POST, None) => self.create(namespace.unwrap_or_default(), serde_json::from_slice(&body).unwrap()),
            (Method::GET, None) if query.contains("watch=true") => self.watch(metadata_only),
            (Method::GET, None) => self.list(namespace.as_deref(), metadata_only),
            (Method::GET, Some(name)) => match self.flunders.lock().unwrap().objects.get(&(namespace.unwrap_or_default(), name.clone())) {
                Some(object) => document(200, &shown(object, metadata_only)),
                None => not_found(&name),
            },
            (Method::DELETE, name) => self.delete(&namespace.unwrap_or_default(), name.as_deref()),
            (method, _) => document(405, &json!({"kind": "Status", "code": 405, "message": method.as_str()})),
        })
    }

    fn create(&self, namespace: String, mut object: Value) -> Response<Body> {
        let mut flunders = self.flunders.lock().unwrap();
        flunders.revision += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["namespace"] = namespace.as_str().into();
        object["metadata"]["uid"] = format!("00000000-0000-4000-8000-{:012}", flunders.revision).into();
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        object["metadata"]["resourceVersion"] = flunders.revision.to_string().into();
        flunders.objects.insert((namespace, name), object.clone());
        let _ = self.events.send(json!({"type": "ADDED", "object": object}));
        document(201, &object)
    }

    fn list(&self, namespace: Option<&str>, metadata_only: bool) -> Response<Body> {
        let flunders = self.flunders.lock().unwrap();
        let items = flunders.objects.iter().filter(|((of, _), _)| namespace.is_none_or(|namespace| namespace == of));
        let items: Vec<Value> = items.map(|(_, object)| shown(object, metadata_only)).collect();
        let (kind, version) = if metadata_only { ("PartialObjectMetadataList", "meta.k8s.io/v1") } else { ("FlunderList", GROUP_VERSION) };
        document(
            200,
            &json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": flunders.revision.to_string()}, "items": items}),
        )
    }

    /// What comes from now on: lists are complete, and nothing here is so fast that something fits between.
    fn watch(&self, metadata_only: bool) -> Response<Body> {
        let events = self.events.subscribe();
        let lines = futures::stream::unfold(events, move |mut events| async move {
            let event = events.recv().await.ok()?;
            let line = json!({"type": event["type"], "object": shown(&event["object"], metadata_only)}).to_string() + "\n";
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), events))
        });
        let mut response = Response::new(StreamBody::new(lines.boxed()).boxed_unsync());
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json;stream=watch"));
        response
    }

    fn delete(&self, namespace: &str, name: Option<&str>) -> Response<Body> {
        let mut flunders = self.flunders.lock().unwrap();
        let of = |key: &(String, String)| key.0 == namespace && name.is_none_or(|name| name == key.1);
        let keys: Vec<_> = flunders.objects.keys().filter(|key| of(key)).cloned().collect();
        if let (Some(name), true) = (name, keys.is_empty()) {
            return not_found(name);
        }
        for key in keys {
            flunders.revision += 1;
            let mut object = flunders.objects.remove(&key).unwrap();
            object["metadata"]["resourceVersion"] = flunders.revision.to_string().into();
            let _ = self.events.send(json!({"type": "DELETED", "object": object}));
        }
        document(200, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    /// Serves until the process ends, with a certificate of its own for the Service `ext` in `default`; only clients of the front proxy are let in.
    fn start(knarr: &Knarr, address: &str) -> io::Result<(Arc<Extension>, SocketAddr, String)> {
        let certificate = rcgen::generate_simple_self_signed(["ext.default.svc".to_owned()]).unwrap();
        let config: Value = serde_json::from_str(&knarr.must_kubectl(&[
            "get",
            "configmap",
            "extension-apiserver-authentication",
            "-n",
            "kube-system",
            "-o",
            "json",
        ]))?;
        let authority = config["data"]["requestheader-client-ca-file"].as_str().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        use rustls_pki_types::pem::PemObject as _;
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(certificate.signing_key.serialize_pem().as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
        let listener = std::net::TcpListener::bind((address, 0))?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        let extension = Arc::new(Extension { flunders: Mutex::default(), events: broadcast::Sender::new(100) });
        let served = extension.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
                loop {
                    let Ok((tcp, _)) = listener.accept().await else { return };
                    let (acceptor, extension) = (acceptor.clone(), served.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(tcp).await else { return };
                        let service = hyper::service::service_fn(move |request| extension.clone().answer(request));
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                    });
                }
            });
        });
        Ok((extension, bound, certificate.cert.pem()))
    }
}

#[test]
fn an_extension_server_is_like_any_other_group() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    let run = || {
        // An address that is not loopback: no endpoint may be there.
        let _other = knarr_testbed::netns::Netns::neighbour().expect("a second host");
        let mut knarr = Knarr::new();
        knarr.up();
        let (extension, address, certificate) = Extension::start(&knarr, knarr_testbed::netns::HERE).unwrap();
        check(&Kubectl { knarr: &knarr }, &extension, address, &certificate);
    };
    knarr_testbed::netns::run(run).expect("a network namespace can be made");
}

fn check(kubectl: &Kubectl<'_>, extension: &Extension, address: SocketAddr, certificate: &str) {
    let bundle = base64::engine::general_purpose::STANDARD.encode(certificate);
    kubectl.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: ext}}
spec: {{ports: [{{name: https, port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: ext, labels: {{kubernetes.io/service-name: ext}}}}
addressType: IPv4
endpoints: [{{addresses: ["{}"]}}]
ports: [{{name: https, port: {}}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1.sample.example.com}}
spec:
  {{group: sample.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 10, service: {{namespace: default, name: ext}}, caBundle: {bundle}}}
"#,
        address.ip(),
        address.port()
    ));
    kubectl.ok("wait apiservice/v1.sample.example.com --for=condition=Available --timeout=60s");
    let services = kubectl.ok("get apiservices");
    assert!(rows(&services).iter().any(|row| row[..3] == ["v1.sample.example.com", "default/ext", "True"]), "{services}");
    assert!(rows(&services).iter().any(|row| row[..3] == ["v1.apps", "Local", "True"]), "{services}");
    holds(&kubectl.ok("api-resources --api-group=sample.example.com"), &["flunders", "fl", "sample.example.com/v1", "true", "Flunder"]);
    kubectl.ok("create namespace doomed");
    kubectl.ok("create configmap owner -n doomed");
    let uid = kubectl.ok("get configmap owner -n doomed -o jsonpath={.metadata.uid}");
    let flunder = |name: &str, more: &str| {
        format!("apiVersion: sample.example.com/v1\nkind: Flunder\nmetadata: {{name: {name}, namespace: doomed{more}}}\nspec: {{x: 1}}\n")
    };
    let owner = format!(", ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}]");
    for (name, more) in [("free", ""), ("owned", owner.as_str())] {
        let made = kubectl.fed("create --validate=false -f -", flunder(name, more).as_bytes());
        assert_eq!(made, format!("flunder.sample.example.com/{name} created\n"));
    }
    assert_eq!(kubectl.ok("get fl -n doomed -o name"), "flunder.sample.example.com/free\nflunder.sample.example.com/owned\n");
    assert_eq!(kubectl.ok("get flunder free -n doomed -o jsonpath={.spec.x}"), "1");
    holds(
        &kubectl.fails(1, "get flunder none -n doomed"),
        &["Error from server (NotFound): flunders.sample.example.com \"none\" not found"],
    );
    assert!(extension.flunders.lock().unwrap().callers.contains(&"kubernetes-admin".to_owned()));
    // What a flunder belongs to takes it along.
    kubectl.ok("delete configmap owner -n doomed");
    kubectl
        .knarr
        .eventually("the owned flunder is collected", |_| kubectl.ok("get fl -n doomed -o name") == "flunder.sample.example.com/free\n");
    kubectl.ok("delete namespace doomed --timeout=60s");
    assert!(extension.flunders.lock().unwrap().objects.is_empty(), "all went with their namespace");
}
