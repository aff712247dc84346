//! The node's loop: a worker for each pod of the node, woken by the watch and by the runtime.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Change, Informer};
use knarr_runtime::RuntimeEvent;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::node::{Node, STARTS_MAX};
use crate::pod::worker::{Desired, Worker, label};
use crate::register::{self, Machine};
use crate::sources::Sources;
use crate::{Config, Parts, StartError, volume};

/// The pods of the node and their workers, by uid. Shared with the node's API.
#[derive(Default)]
pub(crate) struct Pods {
    workers: Mutex<BTreeMap<String, Arc<Worker>>>,
    /// Objects that changed and were not looked at yet; as many as there are pods, however often they change.
    changed: Mutex<BTreeMap<String, Desired>>,
    wake: Notify,
}

impl Pods {
    fn tell(&self, pod: &Arc<Pod>, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        self.changed.lock().insert(uid, Desired { pod: pod.clone(), gone });
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<String, Desired> {
        std::mem::take(&mut *self.changed.lock())
    }

    /// The pod of this name that is in the API; else one that is ending.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Worker>> {
        let workers = self.workers.lock();
        let mut found: Vec<_> = (workers.values())
            .filter(|it| {
                let meta = &it.desired().pod.metadata;
                meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
            })
            .cloned()
            .collect();
        found.sort_by_key(|it| it.desired().gone);
        found.into_iter().next()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Worker>> {
        self.workers.lock().values().cloned().collect()
    }
}

pub(crate) async fn run(parts: Parts, config: Config) -> Result<(), StartError> {
    let machine = Machine::read(&config);
    let Parts { cluster, runtime, network } = parts;
    let listener = listen(&config).await?;
    let port = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?.port();
    let informer: Informer<Pod> = cluster.informer_with(&format!("spec.nodeName={}", config.node_name));
    let services: Informer<Service> = cluster.informer();
    let node = Arc::new(Node {
        recorder: cluster.recorder("kubelet", &config.node_name),
        config_maps: Sources::<ConfigMap>::new(cluster.clone()),
        secrets: Sources::<Secret>::new(cluster.clone()),
        services: services.clone(),
        allocatable: machine.capacity.clone(),
        memory_bytes: machine.memory_bytes,
        starts: Semaphore::new(STARTS_MAX),
        config,
        cluster,
        runtime,
        network,
    });
    let pods = Arc::new(Pods::default());
    // The status needs nothing of the pods: the node is Ready while they are still being listed.
    let present = async {
        register::register(&node.cluster, &node.config).await?;
        tokio::join!(register::keep_status(&node, &machine, port), register::keep_lease(&node), crate::image_gc::keep(node.clone()));
        Ok::<(), StartError>(())
    };
    let rest = futures::future::join(crate::api::serve(node.clone(), pods.clone(), listener), async {
        // Containers see the variables of Services, so pods wait for them.
        tokio::join!(informer.ready(), services.ready());
        tokio::join!(work(&node, &pods, &informer), crate::evict::watch(&node, &pods));
    });
    tokio::select! {
        ended = present => ended,
        _ = rest => Ok(()),
    }
}

/// The configured port, or any if it is taken: several clusters may share the machine.
async fn listen(config: &Config) -> Result<TcpListener, StartError> {
    match TcpListener::bind(config.listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let mut any = config.listen;
            any.set_port(0);
            TcpListener::bind(any).await
        }
        result => result,
    }
    .map_err(|source| StartError::Listen { address: config.listen, source })
}

async fn work(node: &Arc<Node>, pods: &Arc<Pods>, informer: &Informer<Pod>) {
    let mut events = node.runtime.events();
    let told = pods.clone();
    informer.subscribe(move |change| match change {
        Change::Applied { old, new } => {
            if let Some(old) = old
                && old.metadata.uid != new.metadata.uid
            {
                told.tell(old, true);
            }
            told.tell(new, false);
        }
        Change::Deleted(pod) => told.tell(pod, true),
    });
    let known: HashSet<String> = informer.list().iter().filter_map(|it| it.metadata.uid.clone()).collect();
    let mut tasks = JoinSet::new();
    for orphan in orphans(node, &known) {
        let uid = orphan.metadata.uid.clone().unwrap_or_default();
        tracing::info!(pod = orphan.metadata.name, uid, "end a pod that is no longer in the API");
        begin(node, pods, &mut tasks, uid, Desired { pod: Arc::new(orphan), gone: true });
    }
    sweep(node, &known).await;
    loop {
        for (uid, desired) in pods.take() {
            let worker = pods.workers.lock().get(&uid).cloned();
            match worker {
                Some(worker) => worker.desire(desired),
                // Nothing of it is here, and nothing shall be.
                None if desired.gone => {}
                None => begin(node, pods, &mut tasks, uid, desired),
            }
        }
        tokio::select! {
            () = pods.wake.notified() => {}
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                Ok(uid) => {
                    pods.workers.lock().remove(&uid);
                }
                Err(error) => tracing::error!(%error, "a pod worker ended badly"),
            },
            event = events.next() => match event {
                Some(RuntimeEvent::Exited { sandbox, .. } | RuntimeEvent::SandboxDied { sandbox }) => {
                    let uid = sandbox.rsplit_once('-').map_or(sandbox.as_str(), |(uid, _)| uid);
                    if let Some(worker) = pods.workers.lock().get(uid) {
                        worker.wake.notify_one();
                    }
                }
                Some(RuntimeEvent::Missed) => {
                    for worker in pods.all() {
                        worker.wake.notify_one();
                    }
                }
                // The runtime is closing, and this future will be dropped.
                None => std::future::pending().await,
            },
        }
    }
}

fn begin(node: &Arc<Node>, pods: &Arc<Pods>, tasks: &mut JoinSet<String>, uid: String, desired: Desired) {
    let worker = Worker::new(node.clone(), desired);
    pods.workers.lock().insert(uid.clone(), worker.clone());
    tasks.spawn(async move {
        // A worker that panics is taken up again: everything it needs is in the runtime and in the API.
        loop {
            match std::panic::AssertUnwindSafe(worker.clone().run()).catch_unwind().await {
                Ok(uid) => return uid,
                Err(_) => {
                    tracing::error!(pod = uid, "the pod's worker panicked; it begins anew");
                    tokio::time::sleep(WORKER_PAUSE).await;
                }
            }
        }
    });
}

/// Pause before a worker that panicked begins anew.
const WORKER_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// Pods that the runtime holds and the API does not, as objects with just enough to end them.
fn orphans(node: &Node, known: &HashSet<String>) -> Vec<Pod> {
    let mut found: HashMap<String, Pod> = HashMap::new();
    for sandbox in node.runtime.list_sandboxes() {
        let of = |name: &str| sandbox.labels.get(name).cloned();
        let Some(uid) = of(label::UID).filter(|uid| !known.contains(uid)) else {
            continue;
        };
        found.entry(uid.clone()).or_insert_with(|| Pod {
            metadata: ObjectMeta {
                name: of(label::POD),
                namespace: of(label::NAMESPACE),
                uid: Some(uid),
                deletion_grace_period_seconds: of(label::GRACE).and_then(|it| it.parse().ok()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec::default()),
            status: None,
        });
    }
    found.into_values().collect()
}

/// Removes what pods left that neither the API nor the runtime knows: files, logs, addresses.
async fn sweep(node: &Arc<Node>, known: &HashSet<String>) {
    let sandboxes = node.runtime.list_sandboxes();
    let live: HashSet<String> = sandboxes.iter().map(|it| it.id.clone()).collect();
    if let Err(error) = node.network.retain(&live).await {
        tracing::warn!(error = crate::image::chain(&error), "release the addresses of pods that are gone");
    }
    let mut kept: HashSet<String> = known.clone();
    kept.extend(sandboxes.iter().filter_map(|it| it.labels.get(label::UID).cloned()));
    let data_dir = node.config.data_dir.clone();
    let swept = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(data_dir.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !kept.contains(&uid)
                && let Err(error) = volume::tear_down(&volume::PodDir::new(&data_dir, &uid))
            {
                tracing::warn!(uid, error = crate::image::chain(&error), "remove the files of a pod that is gone");
            }
        }
        for entry in std::fs::read_dir(data_dir.join("logs/pods")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit('_').next().unwrap_or_default();
            if !kept.contains(uid)
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(name, %error, "remove the logs of a pod that is gone");
            }
        }
    });
    if let Err(error) = swept.await {
        tracing::warn!(%error, "sweep");
    }
}
