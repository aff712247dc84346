//! The server: its parts put together, its sockets, and its service for components of the same process.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Buf;
use http::{Request, Response, request::Parts};
use http_body_util::BodyExt;
use knarr_api::{Kinds, Status};
use knarr_store::{CommitError, HistoryError, Store};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, ConfigurationError, User, admission,
    aggregation::Aggregator,
    allocate,
    audit::{Audit, AuditError},
    authn::{self, Certificate, NoIdentity, Peer},
    authz::{self, Attributes},
    body::{Body, BodyError},
    bootstrap,
    callout::Callout,
    components::Components,
    connect::Dialer,
    custom::{Conversions, Follower, Published, Registry},
    encryption::Encryption,
    expire,
    fairness::Fairness,
    listen,
    listen::AnyClient,
    metrics::Metrics,
    pipeline::{self, Caller},
    pki::{Pki, PkiError, Sans},
    quota,
    reviews::Reviews,
    usage::Usage,
};

/// Application protocols, in order of preference (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("open the cluster's keys")]
    Pki(#[source] PkiError),
    #[error("listen on {address}; is another server running there? Choose another with --listen")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the service range {0} is too small")]
    ServiceRange(ipnet::IpNet),
    #[error("set up who is let in, and who may do what")]
    Access(#[source] ConfigurationError),
    #[error("set up admission")]
    Admission(#[source] ConfigurationError),
    #[error("set up audit")]
    Audit(#[source] AuditError),
    #[error("read the definitions of custom resources")]
    Definitions(#[source] HistoryError),
    #[error("write the objects that a cluster starts with")]
    Bootstrap(#[source] bootstrap::BootstrapError),
    #[error("write the IPAddresses of the cluster's Services")]
    Addresses(#[source] CommitError),
}

/// What every request needs.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authn: Arc<authn::Authn>,
    pub(crate) authorizer: Arc<authz::Authorizer>,
    pub(crate) admission: admission::Chain,
    pub(crate) allocator: allocate::Allocator,
    pub(crate) reviews: Reviews,
    pub(crate) fairness: Arc<Fairness>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) metrics: Metrics,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) callout: Callout,
    pub(crate) conversions: Arc<Conversions>,
    pub(crate) quota_turns: quota::Turns,
    pub(crate) usage: Usage,
    pub(crate) components: Components,
    pub(crate) encryption: Option<Arc<Encryption>>,
    pub(crate) stop: CancellationToken,
    advertise: SocketAddr,
}

impl Core {
    /// Who the caller is.
    pub(crate) async fn caller(&self, caller: &Caller, parts: &Parts) -> Result<authn::Caller, Status> {
        match caller {
            Caller::Component(user) => Ok(user.clone().into()),
            Caller::Remote(certificate) => self.authn.authenticate(parts, certificate).await,
        }
    }

    /// As whom the caller acts, where he asks for that and may, and what constrains him.
    pub(crate) async fn impersonated(
        &self,
        caller: &Caller,
        request: &Attributes<'_>,
        parts: &Parts,
    ) -> Result<Option<(Arc<User>, Option<&'static str>)>, Status> {
        if matches!(caller, Caller::Component(_)) {
            return Ok(None);
        }
        match authn::Impersonation::from_headers(&parts.headers)? {
            Some(wanted) => {
                let (user, constraint) = Box::pin(wanted.authorize(request, &self.authorizer)).await?;
                Ok(Some((Arc::new(user), constraint)))
            }
            None => Ok(None),
        }
    }

    /// The kinds that are served now.
    pub(crate) fn published(&self) -> Arc<Published> {
        self.registry.now()
    }

    /// Where clients inside the cluster reach the server.
    pub(crate) fn address(&self) -> String {
        self.advertise.to_string()
    }
}

/// A running API server. Dropping it stops it abruptly; [`ApiServer::shutdown`] lets requests end.
pub struct ApiServer {
    core: Arc<Core>,
    pki: Pki,
    /// What the serving certificate is good for, wherever the machine is.
    sans: Sans,
    addresses: Vec<SocketAddr>,
    tasks: TaskTracker,
    /// Lets `sending` end.
    requests_done: CancellationToken,
    /// Audit events on their way to the webhook.
    sending: JoinHandle<()>,
}

impl ApiServer {
    /// Opens the keys, writes what is missing of the objects that a cluster starts with, and serves on every address of `config.listen`.
    ///
    /// The sockets are bound before anything is written, so that a second server on the same port fails without a trace.
    pub async fn start(config: Config, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let bound = listen::bind(*address).await.map_err(|source| StartError::Listen { address: *address, source })?;
            listeners.push(bound);
        }
        let addresses =
            listeners.iter().zip(&config.listen).map(|(listener, asked)| listener.local_addr().unwrap_or(*asked)).collect::<Vec<_>>();
        let sans = sans(&config)?;
        let addresses_now = config.addresses.iter().copied().chain([config.advertise]);
        let pki = Pki::open(&config.data_dir.join("pki"), &with_addresses(&sans, addresses_now)).map_err(StartError::Pki)?;
        let clients = pki.client_verifier().map_err(StartError::Pki)?;
        let proxies = pki.proxy_verifier(config.access.proxy.authority.as_deref()).map_err(StartError::Pki)?;
        // Whoever shows a foreign certificate is told so with a 401, not with a broken handshake, and may have a token that is good.
        let mut tls = pki.server_config_with(Arc::new(AnyClient(clients.clone()))).map_err(StartError::Pki)?;
        tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let tls = Arc::new(tls);
        let advertise = SocketAddr::new(config.advertise, addresses.first().map_or(443, SocketAddr::port));
        let settings = bootstrap::Settings::new(&config, advertise, &pki);
        // Before, so that what bootstrap makes takes no address that a Service of an earlier build has; and behind, for what it made.
        allocate::mend(&*store).await.map_err(StartError::Addresses)?;
        bootstrap::run(&*store, &settings).await.map_err(StartError::Bootstrap)?;
        allocate::mend(&*store).await.map_err(StartError::Addresses)?;
        let (authorizer, follow_roles) = authz::Authorizer::open(store.clone());
        let registry = Arc::new(Registry::new(Kinds::builtin()));
        let follow_definitions = Follower::open(store.clone(), registry.clone()).map_err(StartError::Definitions)?.run();
        let dialer = Arc::new(Dialer::new(&pki, config.advertise).map_err(StartError::Pki)?);
        let callout = Callout::new(store.clone(), dialer.clone());
        let front_proxy = pki.front_proxy_client().map_err(StartError::Pki)?;
        let aggregator = Aggregator::new(store.clone(), registry.clone(), callout.clone(), front_proxy);
        let access = &config.access;
        let authn = authn::Authn::new(&pki, &config.issuers, store.clone()).with_proxy(access.proxy.clone());
        let (authn, follow_issuers) = authn
            .with_others(callout.clone(), access.authentication.as_deref(), access.token_webhook.as_ref())
            .map_err(StartError::Access)?;
        let authn = Arc::new(authn);
        let conversions = Arc::new(Conversions::new(callout.clone()));
        let (fairness, follow_flows) = Fairness::open(store.clone()).await;
        let stop = CancellationToken::new();
        // The last requests are recorded too: events are sent until every other task is done.
        let requests_done = CancellationToken::new();
        let (audit, send_events) = Audit::open(&config.audit, &callout, requests_done.clone()).map_err(StartError::Audit)?;
        let follow_authorizers = match &access.authorization {
            Some(file) => Some(authorizer.configure(file, callout.clone()).map_err(StartError::Access)?),
            None => None,
        };
        let configuration = config.admission.as_deref().map(admission::Configuration::read).transpose().map_err(StartError::Admission)?;
        let admission = admission::Chain::new(
            store.clone(),
            authorizer.clone(),
            registry.clone(),
            callout.clone(),
            conversions.clone(),
            configuration.unwrap_or_default(),
        );
        let core = Arc::new(Core {
            audit,
            registry: registry.clone(),
            reviews: Reviews::new(authn.clone(), authorizer.clone(), store.clone()),
            authn,
            admission,
            authorizer,
            allocator: allocate::Allocator::open(store.clone(), config.service_cidr, config.node_port_range.clone()),
            fairness,
            metrics: Metrics::default(),
            dialer,
            callout,
            conversions,
            quota_turns: quota::Turns::default(),
            usage: Usage::default(),
            components: Components::default(),
            encryption: config.encryption.clone(),
            stop,
            store: store.clone(),
            advertise,
        });
        let tasks = TaskTracker::new();
        let remote = Remote { core: core.clone(), clients, proxies };
        for listener in listeners {
            tasks.spawn(listen::run(listener, tls.clone(), remote.clone(), core.stop.clone()));
        }
        let sending = tokio::spawn(send_events);
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(follow_flows));
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(follow_roles));
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(follow_issuers));
        if let Some(follow) = follow_authorizers {
            tasks.spawn(core.stop.clone().run_until_cancelled_owned(follow));
        }
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(follow_definitions));
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(aggregator.run()));
        tasks.spawn(core.stop.clone().run_until_cancelled_owned(expire::run(store)));
        core.allocator.check_own_range();
        tasks.spawn(core.stop.clone().run_until_cancelled_owned({
            let core = core.clone();
            async move { core.allocator.keep().await }
        }));
        tasks.spawn(core.stop.clone().run_until_cancelled_owned({
            let pki = pki.clone();
            async move { pki.keep().await }
        }));
        tasks.close();
        Ok(Self { core, pki, sans, addresses, tasks, requests_done, sending })
    }

    /// Requests by `user` as function calls: no sockets, no TLS, streaming bodies.
    pub fn service_for(&self, user: User) -> Service {
        Service { core: self.core.clone(), user: Arc::new(user) }
    }

    /// Where the server listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Signs the tokens of Secrets.
    pub fn secret_tokens(&self) -> authn::SecretTokens {
        self.core.authn.secret_tokens()
    }

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Makes the serving certificate good for these addresses of the machine too, in the place of those before, from the next handshake on; whether it had to be issued anew.
    pub fn set_addresses(&self, addresses: &BTreeSet<IpAddr>) -> Result<bool, PkiError> {
        // What was advertised at the start is until the next one.
        let all = addresses.iter().copied().chain([self.core.advertise.ip()]);
        self.pki.serving().set_sans(&with_addresses(&self.sans, all))
    }

    /// Takes no more connections, ends watches, lets requests end for a few seconds, and closes what is left.
    pub async fn shutdown(mut self) {
        self.core.stop.cancel();
        self.tasks.wait().await;
        self.requests_done.cancel();
        let audit = self.core.audit.clone();
        let (sent, written) = tokio::join!(&mut self.sending, tokio::task::spawn_blocking(move || audit.close()));
        if let Err(error) = sent.and(written) {
            tracing::error!(%error, "the last audit events");
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.core.stop.cancel();
        self.requests_done.cancel();
    }
}

/// What the serving certificate must be good for, wherever the machine is.
fn sans(config: &Config) -> Result<Sans, StartError> {
    let service = bootstrap::service_address(config.service_cidr, 1).ok_or(StartError::ServiceRange(config.service_cidr))?;
    let mut sans = Sans::api_server(&config.cluster_domain, service, "");
    config.listen.iter().for_each(|address| sans.add_address(address.ip()));
    config.extra_sans.iter().for_each(|san| sans.add(san));
    Ok(sans)
}

fn with_addresses(sans: &Sans, addresses: impl Iterator<Item = IpAddr>) -> Sans {
    let mut sans = sans.clone();
    addresses.for_each(|address| sans.add_address(address));
    sans
}

/// Requests from the sockets.
#[derive(Clone)]
struct Remote {
    core: Arc<Core>,
    clients: Arc<dyn ClientCertVerifier>,
    proxies: Arc<dyn ClientCertVerifier>,
}

impl Remote {
    fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<Certificate, NoIdentity> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Ok(Certificate::None) };
        let now = UnixTime::now();
        if self.proxies.verify_client_cert(leaf, intermediates, now).is_ok()
            && let Some(proxy) = Peer::of(leaf)?.and_then(|peer| self.core.authn.proxy_peer(peer))
        {
            return Ok(Certificate::Of(proxy));
        }
        self.clients.verify_client_cert(leaf, intermediates, now).map_err(|_| NoIdentity)?;
        Ok(Peer::of(leaf)?.map_or(Certificate::None, Certificate::Of))
    }
}

impl listen::Serve for Remote {
    type Peer = Caller;

    fn peer(&self, chain: &[CertificateDer<'_>]) -> Caller {
        Caller::Remote(self.identify(chain).unwrap_or(Certificate::Refused))
    }

    async fn serve(&self, request: Request<hyper::body::Incoming>, caller: Caller) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.map_err(BodyError::from).boxed_unsync();
        pipeline::serve(self.core.clone(), caller, parts, body).await
    }
}

/// The server as a function, for one user. Any client that takes a `tower::Service` can be built on it.
#[derive(Clone)]
pub struct Service {
    core: Arc<Core>,
    user: Arc<User>,
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body + Send + 'static,
    B::Data: Buf,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        let body = body.map_frame(move |frame| frame.map_data(bytes)).map_err(Into::into).boxed_unsync();
        let (core, caller) = (self.core.clone(), Caller::Component(self.user.clone()));
        Box::pin(async move { Ok(pipeline::serve(core, caller, parts, body).await) })
    }
}
