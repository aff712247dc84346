//! The real API server, and the controllers when they are wanted.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use knarr_apiserver::{ApiServer, Config, User, auth::GROUP_MASTERS, authn::SecretTokens};
use knarr_client::Cluster;
use knarr_store::{Embedded, Options, Store};
use kube::Client;

/// The machine that runs this may be loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    /// The administrator's.
    pub(crate) client: Client,
    pub(crate) store: Arc<dyn Store>,
    server: ApiServer,
    controllers: Option<tokio::task::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

struct Tokens(SecretTokens);

impl knarr_controllers::SecretTokens for Tokens {
    fn sign(&self, order: &knarr_controllers::TokenOrder<'_>) -> Result<String, String> {
        self.0.sign(order.namespace, order.account, order.account_uid, order.secret).map_err(|error| error.to_string())
    }

    fn knows(&self, order: &knarr_controllers::TokenOrder<'_>, token: &str) -> bool {
        self.0.knows(order.namespace, order.account, order.account_uid, order.secret, token)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(controllers) = &self.controllers {
            controllers.abort();
        }
    }
}

impl World {
    /// Without controllers as yet.
    pub(crate) async fn still() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() }).expect("a store"));
        let config = Config::new(dir.path().to_owned(), (Ipv4Addr::LOCALHOST, 0).into());
        let server = ApiServer::start(config, store.clone()).await.expect("a server");
        let client = Client::new(server.service_for(User::authenticated("admin", [GROUP_MASTERS])), "default");
        Self { client, store, server, controllers: None, _dir: dir }
    }

    pub(crate) fn start_controllers(&mut self) {
        let managers = User::authenticated("system:kube-controller-manager", Vec::<String>::new());
        let managers = Cluster::new(Client::new(self.server.service_for(managers), "default"));
        let token_signer = Some(knarr_controllers::TokenSigner(Arc::new(Tokens(self.server.secret_tokens()))));
        let config = knarr_controllers::Config { root_ca: self.server.pki().ca_pem().to_owned(), token_signer, ..Default::default() };
        self.controllers = Some(tokio::spawn(async move { drop(knarr_controllers::run(managers, config).await) }));
    }

    pub(crate) fn server(&self) -> &ApiServer {
        &self.server
    }

    pub(crate) async fn start() -> Self {
        let mut world = Self::still().await;
        world.start_controllers();
        world
    }
}
