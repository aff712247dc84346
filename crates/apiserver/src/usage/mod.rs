//! metrics.k8s.io: what nodes and pods use now, asked of the kubelets when someone wants to know it.
//!
//! Use of the processor is the difference of a counter between two looks ([`look`]). Nothing is measured while nobody asks: whoever asks first
//! waits for a second look, whoever asks later is told of the time since the last question. A server that an APIService names for this group
//! takes all of this over, as metrics-server does.

mod look;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use http::{Response, StatusCode};
use jiff::Timestamp;
use knarr_api::{
    Status, Verb,
    select::{FieldSelector, LabelSelector},
    status, time,
};
use knarr_store::{Collection, Entry, Snapshot};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    body::Body,
    call::Call,
    connect,
    render::{self, Shown},
    request::options::ListOptions,
    server::Core,
};
use look::{Look, Used};

/// Between the two looks of the first question. Shorter, and a container's few milliseconds are mostly chance.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// A look that is older is the beginning of no window: who asks now wants to know what is now.
const WINDOW_MAX: Duration = Duration::from_secs(60);
/// For so long an answer is given again, whoever asks: autoscalers and people ask at the same time, and each look reads a file of every
/// container.
const FRESH: Duration = Duration::from_secs(5);
/// A kubelet that does not answer within this is left out, as metrics-server leaves it out.
const KUBELET_TIME_MAX: Duration = Duration::from_secs(5);

/// The last looks at each node.
#[derive(Default)]
pub(crate) struct Usage {
    nodes: Mutex<HashMap<String, Window>>,
}

/// From one look to the next.
struct Window {
    first: Look,
    last: Look,
}

impl Usage {
    /// Looks at the nodes `names`, where the last answer is not fresh, and gives what `read` makes of each window.
    async fn measure<T>(&self, core: &Core, names: &[String], read: impl Fn(&str, &Window) -> T) -> Vec<T> {
        let mut nodes = self.nodes.lock().await;
        let known = core.store.snapshot();
        nodes.retain(|name, _| known.get(&knarr_store::Key::new(&Collection::new("core/nodes"), "", name)).is_some());
        drop(known);
        let wanted: Vec<&String> =
            names.iter().filter(|name| nodes.get(*name).is_none_or(|window| window.last.at.elapsed() > FRESH)).collect();
        let mut waiting = Vec::new();
        for (name, look) in look_at(core, &wanted).await {
            match nodes.remove(name) {
                Some(window) if window.last.at.elapsed() <= WINDOW_MAX => {
                    nodes.insert(name.clone(), Window { first: window.last, last: look });
                }
                _ => waiting.push((name, look)),
            }
        }
        if !waiting.is_empty() {
            tokio::time::sleep(WINDOW_MIN).await;
            let names: Vec<&String> = waiting.iter().map(|(name, _)| *name).collect();
            let mut firsts: HashMap<&String, Look> = waiting.into_iter().collect();
            for (name, last) in look_at(core, &names).await {
                if let Some(first) = firsts.remove(name) {
                    nodes.insert(name.clone(), Window { first, last });
                }
            }
        }
        let fresh = |name: &&String| nodes.get(*name).filter(|window| window.last.at.elapsed() <= WINDOW_MAX);
        names.iter().filter_map(|name| fresh(&name).map(|window| read(name, window))).collect()
    }
}

/// A look at each of the nodes that answers.
async fn look_at<'a>(core: &Core, names: &[&'a String]) -> Vec<(&'a String, Look)> {
    let looks = names.iter().map(|name| async move {
        let asked = connect::ask_kubelet(core, name, "/metrics/resource");
        let answer = match tokio::time::timeout(KUBELET_TIME_MAX, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::info!(node = *name, %error, "what the node uses is not known");
                return None;
            }
            Err(_) => {
                tracing::info!(node = *name, "the kubelet does not tell within {KUBELET_TIME_MAX:?} what its node uses");
                return None;
            }
        };
        Some((*name, Look::parse(&String::from_utf8_lossy(&answer), Instant::now(), Timestamp::now())))
    });
    join_all(looks).await.into_iter().flatten().collect()
}

/// What an object that is measured is called.
#[derive(Deserialize)]
struct Named {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
}

/// GET of one, or of those that selectors name.
pub(crate) async fn serve(call: &Call, verb: Verb) -> Result<Response<Body>, Status> {
    let options = ListOptions::parse(&call.query, false)?;
    let labels = LabelSelector::parse(&options.label_selector)
        .map_err(|error| status::bad_request(format!("unable to parse requirement: {error}")))?;
    let fields = FieldSelector::parse(&options.field_selector, &call.kind)?;
    let snapshot = call.core.store.snapshot();
    let of_pods = call.kind.namespaced();
    let mut named = found(call, &snapshot, if of_pods { "core/pods" } else { "core/nodes" })?;
    drop(snapshot);
    if verb == Verb::List {
        named.retain(|object| {
            let Metadata { name, namespace, labels: have } = &object.metadata;
            labels.matches(|key| have.get(key).map(String::as_str))
                && fields.matches(|path| match path {
                    "metadata.name" => Some(name),
                    "metadata.namespace" => Some(namespace),
                    _ => None,
                })
        });
    }
    let items = if of_pods { pods(call, &named).await } else { nodes(call, &named).await };
    if verb == Verb::List {
        let value = json!({
            "kind": call.kind.list_kind, "apiVersion": call.kind.api_version(), "metadata": {}, "items": items});
        return Ok(render::value_body(StatusCode::OK, call.answer, &value));
    }
    let one = items.into_iter().next().and_then(knarr_api::Object::from_value);
    render::one(call, StatusCode::OK, Shown::Made(one.ok_or_else(|| call.not_found(&call.path.name))?))
}

/// The objects that the path is about.
fn found(call: &Call, snapshot: &Snapshot, collection: &str) -> Result<Vec<Named>, Status> {
    let collection = Collection::new(collection);
    let read =
        |entry: &Entry| serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {}: {error}", entry.key)));
    if !call.path.name.is_empty() {
        let entry = snapshot.get(&knarr_store::Key::new(&collection, call.namespace(), &call.path.name));
        return Ok(vec![read(entry.ok_or_else(|| call.not_found(&call.path.name))?)?]);
    }
    let prefix = if call.namespace().is_empty() { String::new() } else { format!("{}/", call.namespace()) };
    snapshot.range(&collection, &prefix, None).map(|entry| read(entry)).collect()
}

async fn nodes(call: &Call, named: &[Named]) -> Vec<Value> {
    let names: Vec<String> = named.iter().map(|node| node.metadata.name.clone()).collect();
    let measured = call.core.usage.measure(&call.core, &names, |name, window| {
        let used = window.last.node.since(&window.first.node)?;
        let node = named.iter().find(|node| node.metadata.name == name)?;
        let mut item = item(call, node, window);
        item["usage"] = usage(used);
        Some(item)
    });
    measured.await.into_iter().flatten().collect()
}

async fn pods(call: &Call, named: &[Named]) -> Vec<Value> {
    let mut by_node: HashMap<&str, Vec<&Named>> = HashMap::new();
    for pod in named.iter().filter(|pod| !pod.spec.node_name.is_empty()) {
        by_node.entry(&pod.spec.node_name).or_default().push(pod);
    }
    let names: Vec<String> = by_node.keys().map(|&name| name.to_owned()).collect();
    let measured = call.core.usage.measure(&call.core, &names, |name, window| {
        let pods = by_node.get(name).into_iter().flatten();
        pods.filter_map(|pod| pod_item(call, pod, window)).collect::<Vec<_>>()
    });
    let mut items: Vec<Value> = measured.await.into_iter().flatten().collect();
    let name = |item: &Value| ["namespace", "name"].map(|part| item["metadata"][part].as_str().unwrap_or_default().to_owned());
    items.sort_by_cached_key(name);
    items
}

/// None where a container began after the first look, or ended: half a pod would be taken for a whole one.
fn pod_item(call: &Call, pod: &Named, window: &Window) -> Option<Value> {
    let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    let (first, last) = (window.first.pods.get(&key)?, window.last.pods.get(&key)?);
    let container = |(name, last): (&String, &look::Counters)| {
        let used = last.since(first.get(name)?)?;
        Some(json!({"name": name, "usage": usage(used)}))
    };
    let containers: Vec<Value> = last.iter().map(container).collect::<Option<_>>()?;
    let mut item = item(call, pod, window);
    item["containers"] = containers.into();
    Some(item)
}

/// What nodes and pods have in common.
fn item(call: &Call, named: &Named, window: &Window) -> Value {
    let Metadata { name, namespace, labels } = &named.metadata;
    let mut metadata = json!({"name": name, "creationTimestamp": time::format(Timestamp::now())});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.as_str().into();
    }
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    let length = window.last.at.duration_since(window.first.at);
    json!({
        "kind": call.kind.kind, "apiVersion": call.kind.api_version(), "metadata": metadata,
        "timestamp": time::format(window.last.time), "window": format!("{:.3}s", length.as_secs_f64())})
}

fn usage(used: Used) -> Value {
    json!({"cpu": format!("{}n", used.nanocores), "memory": format!("{}Ki", used.memory_bytes >> 10)})
}
