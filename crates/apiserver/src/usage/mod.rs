//! metrics.k8s.io: what nodes and pods use now, asked of the kubelets when someone wants to know it.
//!
//! Use of the processor is the difference of a counter between two looks ([`look`]). Nothing is measured while nobody asks: whoever asks first
//! waits for a second look, whoever asks later is told of the time since the last question. A server that an APIService names for this group
//! takes all of this over, as metrics-server does.

mod look;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use http::{Response, StatusCode};
use jiff::Timestamp;
use knarr_api::{
    Object, Status, Verb, duration,
    select::{FieldSelector, LabelSelector},
    status, time,
};
use knarr_store::{Collection, Entry, Key, Snapshot};
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
/// Kubelets that are asked at the same time for one answer.
const ASKED_AT_ONCE: usize = 32;
/// For so long an answer is given again, and a kubelet that gave none is not asked again, whoever asks: autoscalers and people ask at the same time, and each look reads a file of every
/// container.
const FRESH: Duration = Duration::from_secs(5);
/// A kubelet that does not answer within this is left out, as metrics-server leaves it out.
const KUBELET_TIME_MAX: Duration = Duration::from_secs(5);

/// The last looks at each node.
#[derive(Default)]
pub(crate) struct Usage {
    nodes: parking_lot::Mutex<HashMap<String, Arc<Mutex<Node>>>>,
}

/// What is known of one node. Its lock is held while its kubelet is asked: all who want to know the same wait for one answer.
#[derive(Default)]
struct Node {
    last: Option<Arc<Look>>,
    window: Option<Window>,
    failed: Option<Instant>,
}

/// From one look to the next.
#[derive(Clone)]
struct Window {
    first: Arc<Look>,
    last: Arc<Look>,
}

impl Usage {
    /// What the nodes `names` used between the last two looks, where they answer.
    async fn windows(&self, core: &Core, names: Vec<String>) -> Vec<(String, Window)> {
        let collection = Collection::new("core/nodes");
        let snapshot = core.store.snapshot();
        let is_there = |name: &str| snapshot.get(&Key::new(&collection, "", name)).is_some();
        let asked: Vec<(String, Arc<Mutex<Node>>)> = {
            let mut nodes = self.nodes.lock();
            nodes.retain(|name, _| is_there(name));
            let known = names.into_iter().filter(|name| is_there(name));
            known.map(|name| (name.clone(), nodes.entry(name).or_default().clone())).collect()
        };
        drop(snapshot);
        let windows = asked.into_iter().map(|(name, node)| async move {
            let window = node.lock().await.look(core, &name).await?;
            Some((name, window))
        });
        stream::iter(windows).buffer_unordered(ASKED_AT_ONCE).filter_map(|window| async { window }).collect().await
    }
}

impl Node {
    /// The window up to now, or to a moment ago. Whoever goes away while it is made leaves the look that was had.
    async fn look(&mut self, core: &Core, name: &str) -> Option<Window> {
        if let Some(window) = self.window.clone().filter(|window| window.last.at.elapsed() <= FRESH) {
            return Some(window);
        }
        if self.failed.is_some_and(|failed| failed.elapsed() <= FRESH) {
            return None;
        }
        let first = match self.last.clone().filter(|look| look.at.elapsed() <= WINDOW_MAX) {
            Some(first) => first,
            None => self.ask(core, name).await?,
        };
        tokio::time::sleep(WINDOW_MIN.saturating_sub(first.at.elapsed())).await;
        let window = Window { first, last: self.ask(core, name).await? };
        self.window = Some(window.clone());
        Some(window)
    }

    async fn ask(&mut self, core: &Core, name: &str) -> Option<Arc<Look>> {
        let asked = tokio::time::timeout(KUBELET_TIME_MAX, connect::ask_kubelet(core, name, "/metrics/resource")).await;
        let answer = asked.unwrap_or_else(|_| Err(format!("no answer within {KUBELET_TIME_MAX:?}")));
        match answer {
            Ok(text) => {
                let look = Arc::new(Look::parse(&String::from_utf8_lossy(&text), Instant::now(), Timestamp::now()));
                (self.last, self.failed) = (Some(look.clone()), None);
                Some(look)
            }
            Err(error) => {
                tracing::info!(node = name, error, "what the node uses is not known");
                self.failed = Some(Instant::now());
                None
            }
        }
    }
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
    let mut items = items.into_iter().filter_map(Object::from_value);
    if verb == Verb::List {
        return render::objects_list(call, &json!({}), items.collect());
    }
    render::one(call, StatusCode::OK, Shown::Made(items.next().ok_or_else(|| call.not_found(&call.path.name))?))
}

/// The objects that the path is about.
fn found(call: &Call, snapshot: &Snapshot, collection: &str) -> Result<Vec<Named>, Status> {
    let collection = Collection::new(collection);
    let read =
        |entry: &Entry| serde_json::from_slice(&entry.value).map_err(|error| status::internal(format!("stored {}: {error}", entry.key)));
    if !call.path.name.is_empty() {
        let entry = snapshot.get(&Key::new(&collection, call.namespace(), &call.path.name));
        return Ok(vec![read(entry.ok_or_else(|| call.not_found(&call.path.name))?)?]);
    }
    let prefix = if call.namespace().is_empty() { String::new() } else { format!("{}/", call.namespace()) };
    snapshot.range(&collection, &prefix, None).map(|entry| read(entry)).collect()
}

async fn nodes(call: &Call, named: &[Named]) -> Vec<Value> {
    let names = named.iter().map(|node| node.metadata.name.clone()).collect();
    let windows: HashMap<String, Window> = call.core.usage.windows(&call.core, names).await.into_iter().collect();
    let measured = named.iter().filter_map(|node| {
        let window = windows.get(&node.metadata.name)?;
        let mut item = item(call, node, window);
        item["usage"] = usage(window.last.node.since(&window.first.node)?);
        Some(item)
    });
    measured.collect()
}

async fn pods(call: &Call, named: &[Named]) -> Vec<Value> {
    let on: BTreeSet<&String> = named.iter().map(|pod| &pod.spec.node_name).filter(|node| !node.is_empty()).collect();
    let names = on.into_iter().cloned().collect();
    let windows: HashMap<String, Window> = call.core.usage.windows(&call.core, names).await.into_iter().collect();
    named.iter().filter_map(|pod| pod_item(call, pod, windows.get(&pod.spec.node_name)?)).collect()
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
    let length = Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    json!({
        "kind": call.kind.kind, "apiVersion": call.kind.api_version(), "metadata": metadata,
        "timestamp": time::format(window.last.time), "window": duration::text_of(length)})
}

fn usage(used: Used) -> Value {
    json!({"cpu": format!("{}n", used.nanocores), "memory": format!("{}Ki", used.memory_bytes >> 10)})
}
