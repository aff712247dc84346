//! ConfigMaps and Secrets that pods of this node use, each followed by its own name.
//!
//! A node may read only what its pods refer to, by name; so there is one watch for each object in use, shared by its users, and
//! it ends with the last of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use knarr_client::Cluster;
use kube::runtime::{WatchStreamExt as _, utils::Backoff, watcher::watch_object};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// How long a pod waits for the first answer about an object before it shows that it waits.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(20);

/// Pauses after a failed watch. The first are short: the API server may learn a moment after us that our pod uses the object, and
/// refuses until then.
struct Patience(Duration);

const PATIENCE_FIRST: Duration = Duration::from_millis(10);
const PATIENCE_MAX: Duration = Duration::from_secs(30);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(PATIENCE_MAX);
        Some(pause)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = PATIENCE_FIRST;
    }
}

/// By namespace and name; gone with the last who follows.
type Followed<K> = HashMap<(String, String), Weak<Source<K>>>;

/// The objects of one kind that are followed.
pub(crate) struct Sources<K> {
    cluster: Cluster,
    followed: Mutex<Followed<K>>,
}

/// One object, as it is now.
pub(crate) struct Source<K> {
    /// `None`: not answered yet; `Some(None)`: there is no such object.
    state: watch::Receiver<Option<Option<Arc<K>>>>,
    /// Why there is no answer yet.
    trouble: Arc<Mutex<String>>,
    users: Arc<Mutex<Vec<Weak<Notify>>>>,
    task: AbortHandle,
}

impl<K> Drop for Source<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The API server does not answer for an object.
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch {kind} {namespace}/{name}: {trouble}")]
pub(crate) struct Unanswered {
    kind: String,
    namespace: String,
    name: String,
    trouble: String,
}

impl<K> Sources<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + Debug
        + PartialEq
        + Send
        + Sync
        + 'static,
{
    pub(crate) fn new(cluster: Cluster) -> Sources<K> {
        Sources { cluster, followed: Mutex::default() }
    }

    /// Follows an object and notifies `user` of its changes for as long as the returned value lives.
    pub(crate) fn follow(&self, namespace: &str, name: &str, user: &Arc<Notify>) -> Arc<Source<K>> {
        let mut followed = self.followed.lock();
        followed.retain(|_, it| it.strong_count() > 0);
        let key = (namespace.to_owned(), name.to_owned());
        let source = followed.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let source = Arc::new(self.start(namespace, name));
            followed.insert(key, Arc::downgrade(&source));
            source
        });
        let mut users = source.users.lock();
        users.retain(|it| it.strong_count() > 0);
        if !users.iter().any(|it| it.as_ptr() == Arc::as_ptr(user)) {
            users.push(Arc::downgrade(user));
        }
        drop(users);
        source
    }

    fn start(&self, namespace: &str, name: &str) -> Source<K> {
        let (send, state) = watch::channel(None);
        let trouble = Arc::new(Mutex::new("no answer yet".to_owned()));
        let users: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let api = self.cluster.api::<K>(namespace);
        let name = name.to_owned();
        let task = tokio::spawn({
            let (trouble, users) = (trouble.clone(), users.clone());
            async move {
                let mut objects = std::pin::pin!(watch_object(api, &name).backoff(Patience(PATIENCE_FIRST)));
                while let Some(object) = objects.next().await {
                    match object {
                        Ok(object) => {
                            send.send_replace(Some(object.map(Arc::new)));
                            for user in users.lock().iter().filter_map(Weak::upgrade) {
                                user.notify_one();
                            }
                        }
                        // It goes on by itself, after a pause.
                        Err(error) => *trouble.lock() = error.to_string(),
                    }
                }
            }
        });
        Source { state, trouble, users, task: task.abort_handle() }
    }
}

impl<K: kube::Resource<DynamicType = ()>> Source<K> {
    /// The object as it is; waits for the first answer.
    pub(crate) async fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, Unanswered> {
        let mut state = self.state.clone();
        let answered = tokio::time::timeout(FIRST_ANSWER_MAX, state.wait_for(Option::is_some)).await;
        match answered {
            Ok(Ok(object)) => Ok(object.clone().flatten()),
            _ => Err(Unanswered {
                kind: K::kind(&()).to_lowercase(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                trouble: self.trouble.lock().clone(),
            }),
        }
    }
}

impl<K: kube::Resource<DynamicType = ()>> Source<K> {
    /// Tells one state of the object from another; `None` while nothing is known.
    pub(crate) fn version(&self) -> Option<String> {
        let state = self.state.borrow();
        let object = state.as_ref()?.as_ref();
        Some(object.and_then(|it| it.meta().resource_version.clone()).unwrap_or_default())
    }
}
