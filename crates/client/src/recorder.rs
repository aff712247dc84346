//! Writes Events.
//!
//! The same thing said again about the same object adds to the count of one Event instead of making another. Recording never waits and never
//! fails its caller: Events are a help to people, and are dropped (and the drop logged) when they come faster than they can be written.

use std::{collections::HashMap, collections::VecDeque};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written. Upstream's broadcaster queues 1,000 (client-go tools/record, maxQueuedEvents).
const QUEUED_MAX: usize = 1_000;

/// Events remembered for counting. Upstream's correlator remembers 4,096 (client-go tools/record, maxLruCacheEntries).
const REMEMBERED_MAX: usize = 1_024;

/// Longest message, in bytes; the API refuses more (events.k8s.io validation, NoteLengthLimit).
const MESSAGE_BYTES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Records Events of one component. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Record {
    uid: String,
    field_path: String,
    kind: EventType,
    reason: String,
    message: String,
    object: Reference,
}

/// The parts of an ObjectReference, which itself cannot be a map's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reference {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    resource_version: String,
}

impl Recorder {
    pub(crate) fn start(client: Client, component: &str, host: &str) -> Self {
        let (queue, records) = mpsc::channel(QUEUED_MAX);
        let source = EventSource { component: Some(component.to_owned()), host: Some(host.to_owned()).filter(|host| !host.is_empty()) };
        tokio::spawn(write_all(client, source, records));
        Self { queue }
    }

    /// Records that `reason` (one CamelCase word) happened to `object`; `message` is for people.
    pub fn record<K: Resource<DynamicType = ()>>(&self, object: &K, kind: EventType, reason: &str, message: &str) {
        self.record_ref(&object.object_ref(&()), kind, reason, message);
    }

    /// As [`record`](Self::record), for a part of an object: `field_path` is `spec.containers{web}`.
    pub fn record_ref(&self, object: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let record = Record {
            uid: text(&object.uid),
            field_path: text(&object.field_path),
            kind,
            reason: reason.to_owned(),
            message: truncated(message),
            object: Reference {
                api_version: text(&object.api_version),
                kind: text(&object.kind),
                namespace: text(&object.namespace),
                name: text(&object.name),
                resource_version: String::new(),
            },
        };
        if self.queue.try_send(record).is_err() {
            tracing::warn!(reason, object = ?object.name, "too many events at once; this one is not recorded");
        }
    }
}

fn truncated(message: &str) -> String {
    let end = (0..=MESSAGE_BYTES_MAX.min(message.len())).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    message[..end].to_owned()
}

/// Where an Event that may be said again is.
struct Written {
    namespace: String,
    name: String,
    count: i32,
}

async fn write_all(client: Client, source: EventSource, mut records: mpsc::Receiver<Record>) {
    let mut written: HashMap<Record, Written> = HashMap::new();
    let mut order: VecDeque<Record> = VecDeque::new();
    while let Some(record) = records.recv().await {
        let counted = match written.get_mut(&record) {
            Some(event) => count(&client, event).await,
            None => Ok(false),
        };
        let result = match counted {
            Ok(true) => continue,
            // Never written, or expired since.
            Ok(false) => create(&client, &source, &record).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(event) => {
                if written.insert(record.clone(), event).is_none() {
                    order.push_back(record);
                }
                if order.len() > REMEMBERED_MAX
                    && let Some(oldest) = order.pop_front()
                {
                    written.remove(&oldest);
                }
            }
            // A namespace that is being deleted takes no new Events; that is no fault.
            Err(error) => tracing::debug!(reason = record.reason, object = record.object.name, %error, "record an event"),
        }
    }
}

/// Adds one to an Event's count; `false` when it is gone.
async fn count(client: &Client, event: &mut Written) -> Result<bool, kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), &event.namespace);
    let patch = json!({ "count": event.count + 1, "lastTimestamp": Time(Timestamp::now()) });
    match api.patch(&event.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => {
            event.count += 1;
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn create(client: &Client, source: &EventSource, record: &Record) -> Result<Written, kube::Error> {
    let now = Timestamp::now();
    // Events about cluster-scoped objects live in `default`, as upstream's do.
    let namespace = if record.object.namespace.is_empty() { "default" } else { &record.object.namespace };
    let name = format!("{}.{:x}", record.object.name, now.as_nanosecond());
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let event = Event {
        metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: some(&record.object.api_version),
            kind: some(&record.object.kind),
            namespace: some(&record.object.namespace),
            name: some(&record.object.name),
            uid: some(&record.uid),
            field_path: some(&record.field_path),
            resource_version: some(&record.object.resource_version),
        },
        type_: Some(record.kind.as_str().to_owned()),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &event).await?;
    Ok(Written { namespace: namespace.to_owned(), name, count: 1 })
}
