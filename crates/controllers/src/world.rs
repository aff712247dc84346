//! The metadata of all objects of all kinds: who owns what, and what is in a namespace.
//!
//! The garbage collector and the namespace controller must know of objects of any kind, and only their metadata. One watch for each kind
//! that can be listed, watched and deleted keeps them; Events are left out, which own nothing and are owned by nothing, and are many.
//! The definitions of custom kinds and the APIServices of extension servers are among them: when one changes, the kinds are learnt anew.
//! The kinds of a server that does not answer are not learnt, and those that are known of it are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::{Backoff, Cluster, ObjectKey};
use kube::api::DynamicObject;
use kube::core::discovery::v2::{APIGroupDiscovery, APIGroupDiscoveryList};
use kube::core::{GroupVersionKind, PartialObjectMeta, Version};
use kube::discovery::{ApiResource, verbs};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

/// For the first list of every kind; upstream's garbage collector waits as long (garbagecollector.go, Sync).
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// One kind of the cluster, in the one version that is used to speak of it.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) api: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) collection_deletable: bool,
    /// Its objects are in the [`World`].
    pub(crate) watched: bool,
    /// They are all there.
    pub(crate) listed: AtomicBool,
}

impl Resource {
    /// `pods`, `deployments.apps`
    pub(crate) fn qualified(&self) -> String {
        if self.api.group.is_empty() { self.api.plural.clone() } else { format!("{}.{}", self.api.plural, self.api.group) }
    }

    fn defines_kinds(&self) -> bool {
        matches!(
            (&*self.api.group, &*self.api.kind),
            ("apiextensions.k8s.io", "CustomResourceDefinition") | ("apiregistration.k8s.io", "APIService")
        )
    }

    pub(crate) fn in_namespace(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced { Api::namespaced_with(client.clone(), namespace, &self.api) } else { Api::all_with(client.clone(), &self.api) }
    }
}

/// One object, as far as this is about it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) resource: Arc<Resource>,
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) deleting: bool,
}

impl Item {
    fn new(resource: &Arc<Resource>, meta: ObjectMeta) -> Item {
        Item {
            resource: Arc::clone(resource),
            key: ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()),
            uid: meta.uid.unwrap_or_default(),
            resource_version: meta.resource_version.unwrap_or_default(),
            owners: meta.owner_references.unwrap_or_default(),
            finalizers: meta.finalizers.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    pub(crate) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|other| other == finalizer)
    }

    pub(crate) fn api(&self, client: &Client) -> Api<DynamicObject> {
        self.resource.in_namespace(client, &self.key.namespace)
    }
}

/// `pod default/web-1`
impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.resource.api.kind.to_lowercase(), self.key)
    }
}

pub(crate) enum Told {
    Applied { old: Option<Arc<Item>>, new: Arc<Item> },
    Deleted(Arc<Item>),
}

#[derive(Default)]
struct State {
    items: HashMap<String, Arc<Item>>,
    /// Uids of the objects that name an owner's uid.
    dependents: HashMap<String, HashSet<String>>,
    by_namespace: HashMap<String, HashSet<String>>,
}

type Subscriber = Box<dyn Fn(&Told) + Send + Sync>;

pub(crate) struct World {
    client: Client,
    resources: RwLock<Vec<Arc<Resource>>>,
    /// The versions, `metrics.k8s.io/v1`, whose server does not answer.
    silent: RwLock<Vec<String>>,
    /// A definition of a custom kind, or an APIService, changed.
    redefined: Notify,
    state: RwLock<State>,
    /// Held while a change is made and told, so that changes are told in order.
    subscribers: Mutex<Vec<Subscriber>>,
    /// Watches that have not yet listed.
    listing: watch::Sender<usize>,
}

impl World {
    /// Learns what kinds there are. The watches are run by [`follow`](Self::follow).
    pub(crate) async fn discover(cluster: &Cluster) -> Arc<World> {
        let client = cluster.client();
        let Learnt { resources, silent } = kinds(&client).await;
        let listing = watch::Sender::new(resources.iter().filter(|resource| resource.watched).count());
        let (state, subscribers) = (RwLock::default(), Mutex::default());
        let (resources, silent) = (RwLock::new(resources), RwLock::new(silent));
        Arc::new(World { client, resources, silent, redefined: Notify::new(), state, subscribers, listing })
    }

    /// Watches every kind, also those that come, until the future is dropped.
    pub(crate) async fn follow(self: Arc<World>) {
        let mut watches = JoinSet::new();
        let mut watched: Vec<(Arc<Resource>, AbortHandle)> = Vec::new();
        loop {
            for resource in self.resources().iter().filter(|resource| resource.watched) {
                if !watched.iter().any(|(other, _)| Arc::ptr_eq(other, resource)) {
                    watched.push((resource.clone(), watches.spawn(Arc::clone(&self).follow_one(resource.clone()))));
                }
            }
            self.redefined.notified().await;
            let (stay, gone) = self.relearn(kinds(&self.client).await);
            watched.retain(|(resource, task)| {
                let stays = stay.iter().any(|other| Arc::ptr_eq(other, resource));
                if !stays {
                    task.abort();
                    self.is_listed(resource);
                }
                stays
            });
            gone.iter().for_each(|resource| self.forget(resource));
        }
    }

    /// Takes the kinds that there are now for the present ones; returns those of the old that stay, and those that are gone.
    fn relearn(&self, Learnt { resources: mut learnt, silent }: Learnt) -> (Vec<Arc<Resource>>, Vec<Arc<Resource>>) {
        let mut resources = self.resources.write();
        let stays = |old: &Arc<Resource>| silent.contains(&old.api.api_version) || learnt.iter().any(|new| new.api == old.api);
        let (stay, gone): (Vec<_>, Vec<_>) = resources.drain(..).partition(stays);
        *self.silent.write() = silent;
        learnt.retain(|new| !stay.iter().any(|old| old.api == new.api));
        let to_list = learnt.iter().filter(|resource| resource.watched).count();
        self.listing.send_modify(|left| *left += to_list);
        resources.extend(stay.iter().cloned().chain(learnt));
        (stay, gone)
    }

    /// The objects of a kind that is no more went with it.
    fn forget(&self, resource: &Arc<Resource>) {
        let of_it = |item: &&Arc<Item>| Arc::ptr_eq(&item.resource, resource);
        let uids: Vec<String> = self.state.read().items.values().filter(of_it).map(|item| item.uid.clone()).collect();
        uids.iter().for_each(|uid| self.delete(uid));
    }

    async fn follow_one(self: Arc<World>, resource: Arc<Resource>) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &resource.api);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let item = |object: PartialObjectMeta<DynamicObject>| Item::new(&resource, object.metadata);
        let mut known: HashSet<String> = HashSet::new();
        let mut listed: HashSet<String> = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    let item = item(object);
                    listed.insert(item.uid.clone());
                    self.apply(item);
                }
                Ok(Event::InitDone) => {
                    let gone: Vec<String> = known.difference(&listed).cloned().collect();
                    gone.iter().for_each(|uid| self.delete(uid));
                    known = std::mem::take(&mut listed);
                    self.is_listed(&resource);
                }
                Ok(Event::Apply(object)) => {
                    let item = item(object);
                    known.insert(item.uid.clone());
                    self.apply(item);
                }
                Ok(Event::Delete(object)) => {
                    let item = item(object);
                    known.remove(&item.uid);
                    self.delete(&item.uid);
                }
                // The watcher goes on by itself, after a pause.
                Err(error) => tracing::debug!(resource = resource.qualified(), %error, "watch"),
            }
        }
    }

    /// Nobody need wait for the kind any more.
    fn is_listed(&self, resource: &Resource) {
        if !resource.listed.swap(true, Ordering::Relaxed) {
            self.listing.send_modify(|left| *left -= 1);
        }
    }

    /// Returns once every kind has been listed, or those that can be: one whose server or converter is away must not hold up the others.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as `self`.
        let mut listing = self.listing.subscribe();
        if tokio::time::timeout(READY_TIME_MAX, listing.wait_for(|left| *left == 0)).await.is_err() {
            tracing::warn!(kinds = ?self.unlisted(), "these kinds cannot be listed; controllers begin without them");
        }
    }

    /// Those that are to be listed, and are not yet.
    pub(crate) fn unlisted(&self) -> Vec<String> {
        let resources = self.resources();
        let unlisted = resources.iter().filter(|resource| resource.watched && !resource.listed.load(Ordering::Relaxed));
        unlisted.map(|resource| resource.api.api_version.clone()).collect()
    }

    /// To be called before [`follow`](Self::follow): what was there before is not told again.
    pub(crate) fn subscribe(&self, subscriber: impl Fn(&Told) + Send + Sync + 'static) {
        self.subscribers.lock().push(Box::new(subscriber));
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.resources.read().clone()
    }

    /// Versions of whose objects it is not known what there are.
    pub(crate) fn silent(&self) -> Vec<String> {
        let mut silent = self.silent.read().clone();
        silent.extend(self.unlisted());
        silent.sort();
        silent.dedup();
        silent
    }

    pub(crate) fn get(&self, uid: &str) -> Option<Arc<Item>> {
        self.state.read().items.get(uid).cloned()
    }

    pub(crate) fn dependents(&self, uid: &str) -> Vec<Arc<Item>> {
        let state = self.state.read();
        state.dependents.get(uid).into_iter().flatten().filter_map(|uid| state.items.get(uid).cloned()).collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<Item>> {
        let state = self.state.read();
        state.by_namespace.get(namespace).into_iter().flatten().filter_map(|uid| state.items.get(uid).cloned()).collect()
    }

    /// The kind that an owner reference names.
    pub(crate) fn resource_of(&self, owner: &OwnerReference) -> Option<Arc<Resource>> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.read().iter().find(|resource| resource.api.group == group && resource.api.kind == owner.kind).cloned()
    }

    fn apply(&self, item: Item) {
        let subscribers = self.subscribers.lock();
        if item.resource.defines_kinds() {
            self.redefined.notify_one();
        }
        let new = Arc::new(item);
        let old = self.state.write().insert(&new);
        let told = Told::Applied { old, new };
        subscribers.iter().for_each(|subscriber| subscriber(&told));
    }

    fn delete(&self, uid: &str) {
        let subscribers = self.subscribers.lock();
        let Some(item) = self.state.write().remove(uid) else { return };
        if item.resource.defines_kinds() {
            self.redefined.notify_one();
        }
        let told = Told::Deleted(item);
        subscribers.iter().for_each(|subscriber| subscriber(&told));
    }
}

impl State {
    fn insert(&mut self, item: &Arc<Item>) -> Option<Arc<Item>> {
        let old = self.remove(&item.uid);
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        if item.resource.namespaced {
            self.by_namespace.entry(item.key.namespace.clone()).or_default().insert(item.uid.clone());
        }
        self.items.insert(item.uid.clone(), Arc::clone(item));
        old
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<Item>> {
        let item = self.items.remove(uid)?;
        for owner in &item.owners {
            take(&mut self.dependents, &owner.uid, uid);
        }
        take(&mut self.by_namespace, &item.key.namespace, uid);
        Some(item)
    }
}

fn take(index: &mut HashMap<String, HashSet<String>>, term: &str, uid: &str) {
    if let Some(uids) = index.get_mut(term) {
        uids.remove(uid);
        if uids.is_empty() {
            index.remove(term);
        }
    }
}

/// What the cluster tells of its kinds.
#[derive(Debug, Default)]
struct Learnt {
    resources: Vec<Arc<Resource>>,
    silent: Vec<String>,
}

/// The kinds that the cluster has, asked for until it tells.
async fn kinds(client: &Client) -> Learnt {
    let backoff = Backoff::default();
    for failures in 0.. {
        match futures::try_join!(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated()) {
            Ok((core, groups)) => return learn([core, groups]),
            Err(error) => {
                let pause = backoff.delay(failures);
                tracing::warn!(?pause, %error, "cannot learn what kinds the cluster has");
                tokio::time::sleep(pause).await;
            }
        }
    }
    unreachable!("the loop above ends only by its return")
}

/// Every kind once, in its most stable version of those whose server answers.
fn learn(lists: [APIGroupDiscoveryList; 2]) -> Learnt {
    let mut learnt = Learnt::default();
    for group in lists.into_iter().flat_map(|list| list.items) {
        learn_group(group, &mut learnt);
    }
    learnt
}

fn learn_group(group: APIGroupDiscovery, learnt: &mut Learnt) {
    let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
    let mut versions: Vec<_> = group.versions.into_iter().map(|version| (version.version.clone().unwrap_or_default(), version)).collect();
    versions.sort_by_cached_key(|(version, _)| std::cmp::Reverse(Version::parse(version).priority()));
    let first = learnt.resources.len();
    for (version, discovery) in versions {
        if discovery.freshness.as_deref() == Some("Stale") {
            learnt.silent.push(if name.is_empty() { version } else { format!("{name}/{version}") });
            continue;
        }
        for resource in discovery.resources {
            let can = |verb: &str| resource.verbs.iter().any(|other| other == verb);
            let (plural, kind) =
                (resource.resource.clone().unwrap_or_default(), resource.response_kind.as_ref().and_then(|kind| kind.kind.clone()));
            let kind = kind.unwrap_or_default();
            let known = learnt.resources[first..].iter().any(|known| known.api.plural == plural);
            if known || !can(verbs::LIST) || !can(verbs::DELETE) {
                continue;
            }
            let is_event = kind == "Event" && matches!(&*name, "" | "events.k8s.io");
            learnt.resources.push(Arc::new(Resource {
                namespaced: resource.scope.as_deref() == Some("Namespaced"),
                collection_deletable: can(verbs::DELETE_COLLECTION),
                watched: can(verbs::WATCH) && !is_event,
                listed: AtomicBool::new(false),
                api: ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&name, &version, &kind), &plural),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_come_in_their_most_stable_version_and_silent_servers_are_named() {
        let all = ["list", "delete", "watch", "deletecollection"];
        let resource = |plural: &str, kind: &str, verbs: &[&str]| json!({"resource": plural, "responseKind": {"group": "g", "version": "v1", "kind": kind}, "scope": "Namespaced", "verbs": verbs});
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "freshness": "Current", "resources": [
            resource("pods", "Pod", &all), resource("bindings", "Binding", &["create"]), resource("events", "Event", &all)]}]}]});
        let groups = json!({"items": [
            {"metadata": {"name": "g"}, "versions": [
                {"version": "v1beta1", "freshness": "Current", "resources": [resource("things", "Thing", &all), resource("others", "Other", &["list", "delete"])]},
                {"version": "v1", "freshness": "Current", "resources": [resource("things", "Thing", &all)]}]},
            {"metadata": {"name": "far"}, "versions": [{"version": "v1", "freshness": "Stale", "resources": [resource("x", "X", &all)]}]},
        ]});
        let learnt = learn([core, groups].map(|list| serde_json::from_value(list).unwrap()));
        let of = |resource: &Arc<Resource>| {
            let marks = [(resource.watched, " watched"), (resource.collection_deletable, " collection")];
            let marks: String = marks.into_iter().filter(|(on, _)| *on).map(|(_, mark)| mark).collect();
            format!("{} {}{marks}", resource.api.api_version, resource.api.plural)
        };
        let lines: Vec<String> = learnt.resources.iter().map(of).collect();
        let expected = ["v1 pods watched collection", "v1 events collection", "g/v1 things watched collection", "g/v1beta1 others"];
        assert_eq!((lines, learnt.silent), (expected.map(str::to_owned).to_vec(), vec!["far/v1".to_owned()]));
    }
}
