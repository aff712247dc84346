//! `knarr up`: a server and a node in one process.
//!
//! The order is that of need: the place, the store, the API server, then everyone who uses it. What is slow on a first start (keys, bootstrap
//! objects) happens once. Stopping is dropping: the pods are their keepers' and go on.

mod addresses;
mod admin;
mod parts;
mod preflight;

use std::{convert::Infallible, io::IsTerminal as _, net::SocketAddr, sync::Arc, time::Instant};

use futures::{FutureExt as _, TryFutureExt as _};
use k8s_openapi::api::core::v1::Node;
use knarr_apiserver::{ApiServer, User, auth::GROUP_MASTERS, encryption::Encryption};
use knarr_client::Cluster;
use knarr_network::{dns, services};
use knarr_store::Embedded;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    cli::UpOptions,
    config::Config,
    demo, memory,
    place::Held,
    report::{Failure, chain},
};
pub(crate) use parts::{net_config, node_ip, open_runtime};

/// Threads that run everything but blocking file work. More would only add memory: no task computes for long.
const WORKERS_MAX: usize = 4;

pub(crate) fn run(options: UpOptions) -> Result<(), Failure> {
    let began = Instant::now();
    memory::bound_heaps();
    let config = Config::from_options(options)?;
    start_log(&config.log)?;
    preflight::machine()?;
    let held = Held::take(&config.data_dir)?;
    preflight::ports(&config)?;
    config.save(&held)?;
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(serve(&config, &held, began));
    // Whatever blocks in a file system must not hold up the end.
    runtime.shutdown_background();
    result
}

fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| Failure::Usage(format!("log {filter:?}: {error}")))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).compact().init();
    Ok(())
}

async fn serve(config: &Config, held: &Held, began: Instant) -> Result<(), Failure> {
    // Before anything is made: a signal in the middle of the start is a stop like any other.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!("cluster {} in {}", held.id, held.data_dir.display());
    let (encryption, store) = tokio::select! {
        opened = open_store(config, held) => opened?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let node_ip = node_ip(config);
    let api = ApiServer::start(parts::api_config(config, held, node_ip, &encryption)?, store.clone()).await?;
    let result = tokio::select! {
        result = run_all(config, held, &api, store.clone(), encryption, began) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // Requests end and what is to be recorded of them is written, unless somebody is in a hurry.
    tokio::select! {
        () = api.shutdown() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Joins a thread that may wait for the disk.
    tokio::task::spawn_blocking(move || store.close()).await?;
    if result.is_ok() {
        println!("stopped; the pods go on, `knarr up` adopts them, `knarr down` ends them");
    }
    result
}

/// Key services may be asked for the keys of what is stored, which blocks.
async fn open_store(config: &Config, held: &Held) -> Result<(Arc<Encryption>, Arc<Embedded>), Failure> {
    let (data_dir, file) = (held.data_dir.clone(), config.encryption_provider_config.clone());
    let open = move || {
        let encryption = Encryption::open(&data_dir, file.as_deref())?;
        let store = Embedded::open(&data_dir.join("store"), encryption.store_options())?;
        Ok((Arc::new(encryption), Arc::new(store)))
    };
    tokio::task::spawn_blocking(open).await?
}

/// Runs until a part ends, which none should.
async fn run_all(
    config: &Config,
    held: &Held,
    api: &ApiServer,
    store: Arc<Embedded>,
    encryption: Arc<Encryption>,
    began: Instant,
) -> Result<(), Failure> {
    let node_ip = node_ip(config);
    let url = local_url(api.addresses());
    let kubeconfig = held.data_dir.join("admin.kubeconfig");
    api.pki().write_admin_kubeconfig(&kubeconfig, &url)?;
    println!("API server at {url} after {} ms", began.elapsed().as_millis());

    let cluster = |user: User| Cluster::new(kube::Client::new(api.service_for(user), "default"));
    let component = |name: &str| cluster(User::authenticated(name, Vec::<String>::new()));
    let managers = component("system:kube-controller-manager");
    let mut running = JoinSet::new();
    running.spawn({
        let (encryption, store) = (encryption.clone(), store.clone());
        async move { part("encryption", encryption.keep(store).map(Ok::<_, Infallible>)).await }
    });
    running.spawn(part("controllers", knarr_controllers::run(managers.clone(), parts::controllers_config(config, api))));
    let scheduler = knarr_scheduler::run(component("system:kube-scheduler"), knarr_scheduler::Config::default());
    running.spawn(part("scheduler", scheduler.map(Ok::<_, Infallible>)));

    let node = cluster(User::node(&config.node_name));
    let certificate = parts::kubelet_certificate(config, node_ip, api)?;
    let kubelet = parts::kubelet_config(config, held, node_ip, api, &certificate);
    let register = knarr_kubelet::register(&node, &kubelet).map_err(Failure::from);
    let (network, runtime, _) = tokio::try_join!(parts::open_network(config, held, node_ip), open_runtime(config, held), register)?;
    let services = component("knarr:network");
    running.spawn(part("services", services::run(services.clone(), network.clone(), config.node_name.clone())));
    running.spawn(part("dns", dns::run(services, parts::dns_config(config), parts::dns_place(held)?)));
    let node = knarr_kubelet::Parts { cluster: node, runtime: runtime.clone(), network };
    running.spawn(part("kubelet", knarr_kubelet::run(node, kubelet)));
    let orders = admin::Parts { runtime: runtime.clone(), encryption, store, pki: api.pki().clone() };
    running.spawn(part("admin socket", admin::serve(held.run_dir().join("admin.sock"), orders)));
    let admin = config.demo.then(|| cluster(User::authenticated("kubernetes-admin", [GROUP_MASTERS])));

    let ready = async {
        wait_ready(&managers, &config.node_name).await;
        println!("ready in {} ms; kubeconfig {}", began.elapsed().as_millis(), kubeconfig.display());
        // Walks the heaps. If the thread panics, memory is all that it costs.
        drop(tokio::task::spawn_blocking(memory::give_back));
        if let Some(admin) = admin {
            match demo::start(&admin, &runtime, node_ip).await {
                Ok(url) => println!("{}", demo::hint(&url)),
                // The cluster is none the worse for it.
                Err(failure) => eprintln!("knarr: the demonstration could not be started: {failure}"),
            }
        }
        // Nothing follows but the parts' own end.
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = running.join_next() => ended,
        ended = part("addresses", addresses::follow(config, node_ip, api, &certificate)) => Some(Ok(ended)),
        () = ready => None,
    };
    match ended {
        Some(Ok(failure)) => Err(failure),
        Some(Err(panic)) => Err(Failure::Failed(panic.to_string().into())),
        None => Ok(()),
    }
}

/// Runs one part to its end, which is a failure whatever it says.
async fn part<E: std::error::Error>(name: &'static str, run: impl Future<Output = Result<(), E>>) -> Failure {
    match run.await {
        Ok(()) => Failure::Failed(format!("{name} ended by itself").into()),
        Err(error) => Failure::Failed(format!("{name}: {}", chain(&error)).into()),
    }
}

/// Waits for the Node's Ready condition.
async fn wait_ready(cluster: &Cluster, name: &str) {
    let nodes = cluster.informer::<Node>();
    let (ready, mut is_ready) = tokio::sync::watch::channel(false);
    let name = name.to_owned();
    nodes.subscribe(move |change| {
        let node = change.object();
        if node.metadata.name.as_deref() == Some(&name) && has_ready_condition(node) {
            ready.send_replace(true);
        }
    });
    // The informer holds the sender.
    let _ = is_ready.wait_for(|ready| *ready).await;
}

fn has_ready_condition(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Where a client on this machine reaches the API server.
fn local_url(addresses: &[SocketAddr]) -> String {
    let any = |address: &&SocketAddr| address.ip().is_unspecified() || address.ip().is_loopback();
    match addresses.iter().find(any).or(addresses.first()) {
        Some(address) if address.ip().is_unspecified() => format!("https://127.0.0.1:{}", address.port()),
        Some(address) => format!("https://{address}"),
        None => "https://127.0.0.1:6443".to_owned(),
    }
}
