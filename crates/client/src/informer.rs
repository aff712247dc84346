//! The newest state of one kind, kept by a watch.
//!
//! An informer lists, then watches, and lists again when the watch cannot go on; `kube`'s watcher does that. Here its result is kept as
//! a persistent map, so that whoever plans reads one consistent [`Snapshot`] for free, and changes are told to subscribers in order.

use std::{fmt::Debug, sync::Arc};

use futures::StreamExt as _;
use imbl::OrdMap;
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::AbortHandle};

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// All objects of a kind at one moment.
pub type Snapshot<K> = OrdMap<ObjectKey, Arc<K>>;

/// One difference between two states of a kind.
#[derive(Debug)]
pub enum Change<K> {
    /// Created when there is no `old`.
    Applied {
        old: Option<Arc<K>>,
        new: Arc<K>,
    },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted(object) => object,
        }
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    objects: RwLock<Snapshot<K>>,
    /// Held while a change is applied and told, so that subscribers see every change once, and in order.
    subscribers: Mutex<Vec<Subscriber<K>>>,
    ready: watch::Sender<bool>,
}

/// A shared view of one kind. The watch behind it ends with its last clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    _task: Arc<Task>,
}

/// Ends the task with the informer.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _task: self._task.clone() }
    }
}

impl<K> Informer<K>
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    pub(crate) fn start(api: Api<K>, field_selector: &str) -> Self {
        let shared = Arc::new(Shared { objects: RwLock::default(), subscribers: Mutex::default(), ready: watch::Sender::new(false) });
        let mut config = watcher::Config::default();
        if !field_selector.is_empty() {
            config = config.fields(field_selector);
        }
        let task = tokio::spawn(follow(api, config, shared.clone()));
        Self { shared, _task: Arc::new(Task(task.abort_handle())) }
    }
}

impl<K: kube::Resource<DynamicType = ()>> Informer<K> {
    /// Returns once the first list is complete.
    pub async fn ready(&self) {
        let mut ready = self.shared.ready.subscribe();
        // The sender lives as long as `self`.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.objects.read().get(&ObjectKey::new(namespace, name)).cloned()
    }

    pub fn snapshot(&self) -> Snapshot<K> {
        self.shared.objects.read().clone()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().values().cloned().collect()
    }

    /// Tells `subscriber` of every object there is, and from then on of every change. It must not block: it maps the change to keys and queues them.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut subscribers = self.shared.subscribers.lock();
        for object in self.snapshot().values() {
            subscriber(&Change::Applied { old: None, new: object.clone() });
        }
        subscribers.push(Box::new(subscriber));
    }
}

async fn follow<K>(api: Api<K>, config: watcher::Config, shared: Arc<Shared<K>>)
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = Snapshot::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = Snapshot::new(),
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectKey::of(&object), Arc::new(slim(object)));
            }
            Ok(Event::InitDone) => {
                shared.replace(std::mem::take(&mut listed));
                shared.ready.send_replace(true);
            }
            Ok(Event::Apply(object)) => shared.apply(slim(object)),
            Ok(Event::Delete(object)) => shared.delete(slim(object)),
            // The watcher goes on by itself, after a pause.
            Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch"),
        }
    }
}

/// Without the record of who owns which field: nothing that plans reads it, a write without it leaves it as it is, and of a pod it is the larger half.
fn slim<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

impl<K: kube::Resource<DynamicType = ()>> Shared<K> {
    fn apply(&self, object: K) {
        let subscribers = self.subscribers.lock();
        let new = Arc::new(object);
        let old = self.objects.write().insert(ObjectKey::of(&*new), new.clone());
        tell(&subscribers, &Change::Applied { old, new });
    }

    fn delete(&self, object: K) {
        let subscribers = self.subscribers.lock();
        self.objects.write().remove(&ObjectKey::of(&object));
        tell(&subscribers, &Change::Deleted(Arc::new(object)));
    }

    /// Takes a fresh list for the state, and tells of the differences only.
    fn replace(&self, listed: Snapshot<K>) {
        let subscribers = self.subscribers.lock();
        let before = std::mem::replace(&mut *self.objects.write(), listed.clone());
        for (key, old) in &before {
            if !listed.contains_key(key) {
                tell(&subscribers, &Change::Deleted(old.clone()));
            }
        }
        for (key, new) in &listed {
            let old = before.get(key).cloned();
            let same = old
                .as_ref()
                .is_some_and(|old| old.meta().uid == new.meta().uid && old.meta().resource_version == new.meta().resource_version);
            if !same {
                tell(&subscribers, &Change::Applied { old, new: new.clone() });
            }
        }
    }
}

fn tell<K>(subscribers: &[Subscriber<K>], change: &Change<K>) {
    for subscriber in subscribers {
        subscriber(change);
    }
}
