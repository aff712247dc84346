//! `knarr up --demo`: something to look at on a machine without a network.
//!
//! The image is made of this very program and the libraries that it was started with ([`image`]); what runs in it is a small web server
//! ([`web`]), three times, behind a Service on a port of the node. Everything is in one namespace, so that deleting that ends it.

mod image;
pub(crate) mod web;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use knarr_client::Cluster;
use knarr_runtime::Runtime;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream};

use crate::report::Failure;

const NAMESPACE: &str = "knarr-demo";
const NAME: &str = "demo";
/// `.local` is nobody's registry, and the pull policy asks none.
const IMAGE: &str = "knarr.local/demo:1";
const REPLICAS: u32 = 3;
const PORT: u16 = 8080;

/// Between two tries to reach the pods, and how long they may take: an image of a debug build is copied in the meantime.
const TRY_EVERY: Duration = Duration::from_millis(100);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);

/// Starts what is not there yet, and returns the URL that answers.
pub(crate) async fn start(cluster: &Cluster, runtime: &Runtime, node_ip: IpAddr) -> Result<String, Failure> {
    let images = runtime.images().clone();
    tokio::task::spawn_blocking(move || image::import(&images, IMAGE)).await??;
    for object in objects() {
        apply(cluster, &object).await?;
    }
    let service = cluster.api::<Service>(NAMESPACE).get(NAME).await?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let port = ports.first().and_then(|port| port.node_port).and_then(|port| u16::try_from(port).ok());
    let address = SocketAddr::new(node_ip, port.ok_or_else(|| Failure::Failed("the Service got no port on the node".into()))?);
    let answers = async {
        while !answers(address).await {
            tokio::time::sleep(TRY_EVERY).await;
        }
    };
    let seconds = ANSWER_TIME_MAX.as_secs();
    tokio::time::timeout(ANSWER_TIME_MAX, answers).await.map_err(|_| {
        Failure::Failed(format!("nothing answers at http://{address}/ after {seconds} s; `knarr get pods -n {NAMESPACE}` shows why").into())
    })?;
    Ok(format!("http://{address}/"))
}

/// What to do with it, in a line.
pub(crate) fn hint(url: &str) -> String {
    format!(
        "demonstration at {url} ({REPLICAS} pods; `knarr get pods -n {NAMESPACE}` shows them, `knarr delete namespace/{NAMESPACE}` ends it)"
    )
}

fn objects() -> Vec<Value> {
    let labels = json!({"app": NAME});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let container = json!({
        "name": "web", "image": IMAGE, "imagePullPolicy": "Never",
        "env": [field("POD_NAME", "metadata.name"), field("POD_IP", "status.podIP"), field("NODE_NAME", "spec.nodeName")],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": web::HEALTH, "port": "http"}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
    });
    let pod = json!({
        "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    });
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {
            "type": "NodePort", "selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}),
    ]
}

async fn apply(cluster: &Cluster, object: &Value) -> Result<(), Failure> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let kind = kube::core::GroupVersionKind::gvk(group, version, &types.kind);
    let resource = ApiResource::from_gvk(&kind);
    let api: kube::Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => kube::Api::namespaced_with(cluster.client(), namespace, &resource),
        None => kube::Api::all_with(cluster.client(), &resource),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    api.patch(&name, &PatchParams::apply("knarr-demo").force(), &Patch::Apply(&object)).await?;
    Ok(())
}

/// Whether a whole answer comes from there.
async fn answers(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"))
}
