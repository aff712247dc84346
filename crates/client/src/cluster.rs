//! One identity's way into a cluster.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::{Informer, Recorder};

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("read the kubeconfig {path}")]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("make a client from the kubeconfig {path}")]
    Client {
        path: PathBuf,
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client under one identity, with the informers that its users share. Clones share everything.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    /// `Informer<K>` by the type of `K` and the field selector.
    informers: Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>,
}

impl Cluster {
    pub fn new(client: Client) -> Self {
        Self { inner: Arc::new(Inner { client, informers: Mutex::default() }) }
    }

    /// The cluster that the current context of the kubeconfig at `path` names.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, ConnectError> {
        let kubeconfig =
            Kubeconfig::read_from(path).map_err(|source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) })?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) })?;
        let client = Client::try_from(config).map_err(|source| ConnectError::Client { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self::new(client))
    }

    pub fn client(&self) -> Client {
        self.inner.client.clone()
    }

    /// A namespaced kind in one namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client(), namespace)
    }

    /// A cluster-scoped kind, or a namespaced one in all namespaces.
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client())
    }

    /// The informer of a kind, started when it is first asked for.
    pub fn informer<K>(&self) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        self.informer_with("")
    }

    /// The informer of those objects of a kind that a field selector names: `spec.nodeName=node-1`.
    pub fn informer_with<K>(&self, field_selector: &str) -> Informer<K>
    where
        K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
    {
        let mut informers = self.inner.informers.lock();
        let informer = informers
            .entry((TypeId::of::<K>(), field_selector.to_owned()))
            .or_insert_with(|| Box::new(Informer::<K>::start(self.all(), field_selector)));
        informer.downcast_ref::<Informer<K>>().expect("the map's key holds the type").clone()
    }

    /// A writer of Events that come from `component` (`kubelet`) on `host` (a node's name, or empty).
    pub fn recorder(&self, component: &str, host: &str) -> Recorder {
        Recorder::start(self.client(), component, host)
    }
}
