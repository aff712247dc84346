//! A cluster of one API server, and words for what tests say to it.

use std::{io::Write as _, net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, request};
use http_body_util::{BodyExt, Full};
use knarr_api::Object;
use knarr_apiserver::{Access, ApiServer, Body, Config, Service, StartError, User, auth::GROUP_MASTERS};
use knarr_store::{Collection, Embedded, Expect, Key, Options, Store, Write};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) store: Arc<Embedded>,
    pub(crate) dir: TempDir,
}

impl Cluster {
    /// Listens on loopback, on any free port.
    pub(crate) async fn start() -> Self {
        Self::start_with(Access::default()).await
    }

    pub(crate) async fn start_with(access: Access) -> Self {
        Self::try_start(access).await.expect("a server")
    }

    pub(crate) async fn try_start(access: Access) -> Result<Self, StartError> {
        let dir = tempfile::tempdir().expect("a directory for the data");
        let config = Config { access, ..config(&dir) };
        Self::of(dir, config, Options::default()).await
    }

    /// On data that may be there already.
    pub(crate) async fn start_in(dir: TempDir, options: Options) -> Self {
        Self::start_as(dir, options, |_| {}).await
    }

    /// The same with a configuration that `change` made of the usual one.
    pub(crate) async fn start_as(dir: TempDir, options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&dir);
        change(&mut config);
        Self::of(dir, config, options).await.expect("a server")
    }

    /// The same on no data, if it starts.
    pub(crate) async fn try_start_as(dir: TempDir, change: impl FnOnce(&mut Config)) -> Result<Self, StartError> {
        let mut config = config(&dir);
        change(&mut config);
        Self::of(dir, config, Options::default()).await
    }

    async fn of(dir: TempDir, config: Config, options: Options) -> Result<Self, StartError> {
        let options = Options { reserve_bytes: 0, ..options };
        let store = Arc::new(Embedded::open(&dir.path().join("store"), options).expect("a store"));
        let server = ApiServer::start(config, store.clone() as Arc<dyn Store>).await?;
        Ok(Self { server, store, dir })
    }

    /// Ends it and keeps the data.
    pub(crate) async fn stop(self) -> TempDir {
        self.server.shutdown().await;
        self.store.close();
        self.dir
    }

    /// Writes an object past admission and validation: an endpoint on loopback, for example, where only tests have theirs.
    pub(crate) async fn write(&self, collection: &str, object: Value) {
        let object = Object::from_value(object).expect("an object");
        let key = Key::new(&Collection::new(collection), object.namespace(), object.name());
        let encoded = object.encode();
        let write = Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta: None, expect: Expect::Any, lazy: false };
        self.store.commit(vec![write]).await.expect("a write");
    }

    pub(crate) fn admin(&self) -> Client {
        self.as_user(admin_user())
    }

    pub(crate) fn as_user(&self, user: User) -> Client {
        Client::new(self.server.service_for(user))
    }

    /// `kube`'s client over TLS, with the admin's certificate.
    pub(crate) async fn kube(&self) -> kube::Client {
        let path = self.dir.path().join("admin.kubeconfig");
        let url = format!("https://{}", self.server.addresses()[0]);
        self.server.pki().write_admin_kubeconfig(&path, &url).expect("a kubeconfig");
        let kubeconfig = kube::config::Kubeconfig::read_from(&path).expect("a kubeconfig that kube reads");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a configuration");
        kube::Client::try_from(config).expect("a client")
    }
}

pub(crate) fn config(dir: &TempDir) -> Config {
    Config::new(dir.path().to_owned(), (Ipv4Addr::LOCALHOST, 0).into())
}

pub(crate) fn admin_user() -> User {
    User::authenticated("kubernetes-admin", [GROUP_MASTERS])
}

/// Requests by one user, as function calls.
#[derive(Clone)]
pub(crate) struct Client {
    service: Service,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    /// The body of a success with `code`.
    #[track_caller]
    pub(crate) fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Reason and message of a failure with `code`.
    #[track_caller]
    pub(crate) fn refused(&self, code: u16) -> (String, String) {
        let status = self.expect(code);
        assert_eq!((&status["kind"], &status["status"], &status["code"]), (&json!("Status"), &json!("Failure"), &json!(code)), "{status}");
        (status["reason"].as_str().unwrap_or_default().to_owned(), status["message"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text header"))
    }
}

impl Client {
    pub(crate) fn new(service: Service) -> Self {
        Self { service }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> http::Response<Body> {
        self.service.clone().oneshot(request).await.expect("the service never fails")
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Full::new(body.into())).expect("a request")).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        Answer { code: parts.status, headers: parts.headers, bytes }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask("GET", path, &[("accept", accept)], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], "").await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: impl ToString) -> Answer {
        let media = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}+json"),
        };
        self.ask("PATCH", path, &[("content-type", &media)], body.to_string()).await
    }

    /// Creates a ConfigMap in `default`.
    pub(crate) async fn config_map(&self, name: &str, labels: Value) -> Value {
        let body = json!({"metadata": {"name": name, "labels": labels}, "data": {"key": "value"}});
        self.post(CONFIG_MAPS, &body).await.expect(201)
    }

    /// An open watch.
    pub(crate) async fn watch(&self, path: &str) -> Stream {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Stream {
        self.watch_from(Request::get(path).header("accept", accept)).await
    }

    /// A watch of a client that reads gzip.
    pub(crate) async fn watch_packed(&self, path: &str) -> Stream {
        self.watch_from(Request::get(path).header("accept-encoding", "gzip")).await
    }

    async fn watch_from(&self, request: request::Builder) -> Stream {
        let request = request.body(Full::default()).expect("a request");
        let path = request.uri().clone();
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{path}");
        let header = |name| text_header(response.headers(), name);
        let (content_type, encoding) = (header("content-type"), header("content-encoding"));
        let packed = (encoding == "gzip").then(|| flate2::write::GzDecoder::new(Vec::new()));
        Stream { content_type, packed, received: 0, body: response.into_body(), line: Vec::new() }
    }
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";

/// Events as they come.
pub(crate) struct Stream {
    pub(crate) content_type: String,
    pub(crate) packed: Option<flate2::write::GzDecoder<Vec<u8>>>,
    /// Bytes so far, as they were sent.
    pub(crate) received: usize,
    body: Body,
    line: Vec<u8>,
}

impl Stream {
    /// The next event, or none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            self.receive().await?;
        }
    }

    /// More of the stream, or none at its end.
    async fn receive(&mut self) -> Option<()> {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(60), self.body.frame()).await.expect("an event in time")?;
        let data = frame.expect("an unbroken stream").into_data().expect("data");
        self.received += data.len();
        match &mut self.packed {
            Some(packed) => {
                packed.write_all(&data).and_then(|()| packed.flush()).expect("gzip");
                self.line.append(packed.get_mut());
            }
            None => self.line.extend_from_slice(&data),
        }
        Some(())
    }

    /// The next event of a protobuf watch: its type, and the object in its envelope.
    pub(crate) async fn next_frame(&mut self) -> (String, Vec<u8>) {
        loop {
            if let Some((length, rest)) = self.line.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let event = k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent::decode(&rest[..length]).expect("a WatchEvent");
                    self.line.drain(..4 + length);
                    return (event.r#type().to_owned(), event.object.expect("an object").raw().to_vec());
                }
            }
            self.receive().await.expect("the stream goes on");
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn word(&mut self) -> String {
        match self.next().await {
            Some(event) => format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"])).trim_end().to_owned(),
            None => "end".to_owned(),
        }
    }
}

fn text_header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map_or("", |value| value.to_str().expect("a text header")).to_owned()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The names of a list's items.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().map(|item| text(&item["metadata"]["name"])).collect()
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": false}})
}

/// Waits until it holds; another look is a request, which takes its time.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let held = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), held).await.expect("it comes true in time");
}
